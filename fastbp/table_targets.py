"""The column that is to be predicted: which task it is, its values, and rows held out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastbp.late import imported
from fastbp.table_columns import and_others, as_numbers, as_text, first_wrong

CLASSIFICATION, REGRESSION = TASKS = "classification", "regression"
MOST_CLASSES = 10  # of whole numbers: one number more, and it is a regression


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
        None decides: regression is of numbers, unless they are at most 10 different whole ones.

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
        values = _numbers(table, name, column).iloc[rows].to_numpy(dtype=np.float64)
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
    if are_whole and n <= MOST_CLASSES:
        return CLASSIFICATION, f"as its values are {n} different whole numbers"
    return REGRESSION, f"as it has {n:,} different {'whole ' if are_whole else ''}numbers"


def _numbers(table, name, column):
    converted = as_numbers(column, table.reading.decimal)
    row, n_wrong = first_wrong(column, converted)
    if n_wrong:
        raise ValueError(
            f"{table.place(row, name)}: {str(column.iloc[row])!r} is no number"
            f"{and_others(n_wrong)}, which a regression needs; --task classification takes classes"
        )
    return converted


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


def as_labels(table, name, classes):
    """A target of an evaluation, as labels of the type that the model has.

    Parameters
    ----------
    table : Table
        In which the column has been read as text if the classes are.
    name : str
    classes : ndarray

    Returns
    -------
    labels : Series
        Missing where the table has none. Labels that the model does not know are among them.
    """
    column = table.frame[name]
    if classes.dtype.kind in "USO":
        return as_text(column)
    if classes.dtype.kind == "b":
        return as_text(column).str.lower().map({"true": True, "false": False})
    return _numbers(table, name, column)


def as_targets(table, name):
    """A target of an evaluation, as numbers; missing where the table has none."""
    return _numbers(table, name, table.frame[name])


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
        Positions in `target.values`. Every class is among the first.

    Raises
    ------
    ValueError
        If there are too few rows.
    """
    n_rows = len(target.values)
    positions, stratify, alone = np.arange(n_rows), None, np.array([], int)
    if target.task == CLASSIFICATION:
        _, numbers, counts = np.unique(target.values, return_inverse=True, return_counts=True)
        is_alone = counts[numbers] < 2
        alone, positions = positions[is_alone], positions[~is_alone]
        stratify = numbers[positions]
        n_classes = int((counts >= 2).sum())
    n_held_out = round(share * len(positions))
    least = n_classes if stratify is not None else 2
    if n_held_out < least or len(positions) - n_held_out < least:
        raise ValueError(
            f"{n_rows} rows are too few to hold out {n_held_out} of them: "
            + (
                f"each of {n_classes} classes needs a row on both sides"
                if stratify is not None
                else "two are needed on both sides"
            )
            + "; change --holdout"
        )
    train, held_out = imported("sklearn.model_selection").train_test_split(
        positions, test_size=n_held_out, random_state=seed, stratify=stratify
    )
    return np.sort(np.concatenate([train, alone])), np.sort(held_out)
