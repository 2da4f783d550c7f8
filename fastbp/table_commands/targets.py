"""The column that is to be predicted: which task it is, its values, and rows held out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastbp.late import imported
from fastbp.table_commands.columns import and_others, as_numbers, as_text, first_wrong

CLASSIFICATION, REGRESSION = TASKS = "classification", "regression"
MOST_CLASSES = 10  # of whole numbers, each in two rows on average: otherwise it is a regression


@dataclass(frozen=True)
class Target:
    """Values to predict.

    Attributes
    ----------
    name : str
    task : {"classification", "regression"}
    values : ndarray
        Labels or numbers of the rows that have one.
    rows : ndarray of int
        Which rows of the table these are.
    reason : str
        Why it is this task.
    """

    name: str
    task: str
    values: np.ndarray
    rows: np.ndarray
    reason: str


def read_target(table, name, task=None):
    """Read a target and decide what task it is.

    Parameters
    ----------
    table : Table
    name : str
        Of a column that is there.
    task : {"classification", "regression"} or None
        None decides: regression is of numbers, unless they are at most 10 different whole ones,
        each in two rows on average.

    Returns
    -------
    target : Target

    Raises
    ------
    ValueError
        If no row has a value, all have the same, or some are no numbers in a regression, with the
        line of the first.
    """
    column = table.frame[name]
    rows = np.flatnonzero(column.notna().to_numpy())
    if not len(rows):
        raise ValueError(f"{table.path}: no row has a value in the column {name!r}")
    known = column.iloc[rows]
    is_number = known.dtype.kind in "iuf"
    decided, reason = _decide(known, is_number)
    if task is None:
        task = decided
    else:
        reason = "as --task says"
    if task == REGRESSION:
        why = "as a regression needs; --task classification takes classes"
        values = _numbers(table, name, column, why).to_numpy(dtype=np.float64)[rows]
    elif is_number:
        values = _whole_numbers(table, name, known)
    else:
        values = as_text(known).to_numpy(dtype=object).astype(str)
    if len(np.unique(values)) < 2:
        raise ValueError(
            f"{table.path}: all rows have the same value {known.iloc[0]!s} in the column {name!r}, "
            "so that there is nothing to learn"
        )
    return Target(name, task, values, rows, reason)


def _decide(known, is_number):
    """The task, and why."""
    if not is_number:
        return CLASSIFICATION, "as its values are no numbers"
    values = known.unique()
    n, are_whole = len(values), bool((values == np.floor(values)).all())
    if not are_whole:
        return REGRESSION, f"as it has {n:,} different numbers"
    are_classes = n <= min(MOST_CLASSES, len(known) / 2)
    task, other = TASKS if are_classes else reversed(TASKS)
    return task, f"as it has {n:,} different whole numbers (--task {other} changes that)"


def _whole_numbers(table, name, known):
    """Numbers as labels, without a decimal point that only stands for missing values elsewhere."""
    values = known.to_numpy()
    broken = np.flatnonzero(values != np.floor(values))
    if len(broken):
        raise ValueError(
            f"{table.place(known.index[broken[0]], name)}: {values[broken[0]]} is no class but a "
            "number with a fraction; --task regression takes numbers"
        )
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def read_labels(table, name, classes):
    """A target to evaluate with, as labels of the type that a model has.

    Parameters
    ----------
    table : Table
        In which the column has been read as text if the classes are.
    name : str
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    labels : Series
        Missing where the table has none. There may be labels that the model does not know.

    Raises
    ------
    ValueError
        If the classes are numbers and a value is none, with its line.
    """
    column = table.frame[name]
    if classes.dtype.kind in "iuf":
        return _numbers(table, name, column, "as the model's classes are")
    texts = as_text(column)
    known = set(map(str, classes))
    if known <= {"True", "False"}:  # pandas reads other spellings, too
        return texts.map(lambda text: text.capitalize(), na_action="ignore")
    return texts


def read_numbers(table, name):
    """A target to evaluate with, as numbers; missing where the table has none.

    Parameters
    ----------
    table : Table
    name : str

    Returns
    -------
    numbers : Series of float64

    Raises
    ------
    ValueError
        If a value is none, with its line.
    """
    return _numbers(table, name, table.frame[name], "as the model's targets are")


def _numbers(table, name, column, why):
    converted = as_numbers(column, table.reading.decimal)
    row, n_wrong = first_wrong(column, converted)
    if n_wrong:
        raise ValueError(
            f"{table.place(row, name)}: {str(column.iloc[row])!r} is no number"
            f"{and_others(n_wrong)}, {why}"
        )
    return converted


# ---- rows held out ------------------------------------------------------------------------------


def hold_out(target, share, seed):
    """Split rows into those to train on and those to judge by, in classification in proportion.

    Parameters
    ----------
    target : Target
    share : float
        Of the rows that are held out.
    seed : int

    Returns
    -------
    train, held_out : ndarray of int
        Positions in `target.values`, ascending. Every class is among the first.

    Raises
    ------
    ValueError
        If there are too few rows.
    """
    n_rows = len(target.values)
    n_held_out = round(share * n_rows)
    must_train, stratify = np.array([], int), None
    if target.task == CLASSIFICATION:
        _, numbers, counts = np.unique(target.values, return_inverse=True, return_counts=True)
        n_classes = len(counts)
        if counts.min() >= 2 and n_classes <= min(n_held_out, n_rows - n_held_out):
            stratify = numbers
        else:  # of rare classes, a row each is kept for training
            order = np.random.RandomState(seed).permutation(n_rows)
            must_train = order[np.unique(numbers[order], return_index=True)[1]]
    free = np.setdiff1d(np.arange(n_rows), must_train)
    if not 2 <= n_held_out < len(free):
        classes = f" and {len(must_train):,} classes" if len(must_train) else ""
        another = ", and each class needs another" if len(must_train) else ""
        raise ValueError(
            f"--holdout {share:g} of {n_rows:,} rows{classes} in {target.name!r} leaves too few to "
            f"train on or to judge by: at least two rows are held out{another}"
        )
    train, held_out = imported("sklearn.model_selection").train_test_split(
        free, test_size=n_held_out, random_state=seed, stratify=stratify
    )
    return np.sort(np.concatenate([train, must_train])), np.sort(held_out)
