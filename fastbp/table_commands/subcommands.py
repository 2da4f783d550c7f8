"""The commands for tables: train a model, predict with it, evaluate it."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np

# Every command imports this file: pandas, scikit-learn and the estimators are imported by its own.
from fastbp import cli_options as read
from fastbp.late import imported

DEFAULT_MODEL = "model.fastbp"


# fmt: off
def add_to(add):
    """Add the commands to a parser.

    Parameters
    ----------
    add : callable
        From a command's name, function and description to its parser.
    """
    parser = add("train", train, "train a model on a table, and show how good it is")
    option = parser.add_argument
    option("data", help="CSV or Parquet file, also gzipped; - is standard input")
    option("--target", required=True, metavar="NAME", help="the column to predict")
    option("--model", type=Path, default=Path(DEFAULT_MODEL), metavar="FILE",
           help=f"file for the model (default: {DEFAULT_MODEL})")
    option("--time", type=read.positive_number, metavar="SECONDS",
           help="time for training: so many epochs are trained as fit into it, at most --epochs")
    option("--epochs", type=read.positive_integer, default=256,
           help="times that all rows are trained on (default: 256)")
    option("--preset", choices=["small", "full"], default="small",
           help="small: fast (default); full: a little more accurate, in twice the time")
    option("--task", choices=["classification", "regression"],
           help="default: regression where the target has numbers, but for a few whole ones")
    option("--holdout", type=read.fraction, default=0.2, metavar="SHARE",
           help="share of the rows that the model is judged by (default: 0.2)")
    option("--final", action="store_true",
           help="after that train again on all rows; this model is saved")
    option("--drop", type=read.names, action="extend", default=[], metavar="NAMES",
           help="columns to leave out, such as a,b")
    option("--categorical", type=read.names, action="extend", default=[], metavar="NAMES",
           help="columns of numbers that are categories, such as postcodes")
    option("--selection", choices=["error", "log_loss"],
           help="of a classifier, what decides which epoch is kept; log_loss gives better "
           "probabilities (default: error)")
    option("--n-ensemble", type=read.positive_integer, default=1, metavar="N",
           help="networks whose predictions are averaged (default: 1)")
    option("--plot", type=Path, metavar="FILE", help="file for a picture, such as plot.png")
    option("--threads", type=read.positive_integer, help="default: the cores that are available")
    option("--device", choices=["cpu", "cuda", "auto"], default="cpu", help="default: cpu")
    option("--seed", type=read.seed, default=0, help="default: 0")
    _add_reading(option)

    parser = add("predict", predict, "add a model's predictions to a table")
    parser.add_argument("model", help="file that 'fastbp train' has made")
    option = parser.add_argument
    option("data", help="CSV or Parquet file, also gzipped; - is standard input")
    option("-o", "--output", type=Path, metavar="FILE",
           help="file to write: Parquet, gzipped CSV or CSV by its name (default: CSV to standard "
           "output)")
    _add_device(option)
    _add_reading(option)

    parser = add("evaluate", evaluate, "score a model on a table that has the target")
    parser.add_argument("model", help="file that 'fastbp train' has made")
    option = parser.add_argument
    option("data", help="CSV or Parquet file, also gzipped; - is standard input")
    option("--target", metavar="NAME", help="default: as in training")
    _add_device(option)
    _add_reading(option)


def _add_device(option):
    option("--threads", type=read.positive_integer, help="default: the cores that are available")
    option("--device", choices=["cpu", "cuda", "auto"], default="cpu", help="default: cpu")


def _add_reading(option):
    option("--delimiter", type=read.delimiter, metavar="CHARACTER",
           help="of CSV: a character or 'tab' (default: found out)")
    option("--decimal", choices=[".", ","], default=".", metavar="CHARACTER",
           help="decimal point of CSV: . (default) or ,")
    option("--encoding", type=read.encoding, help="of CSV (default: UTF-8)")
    option("--missing", action="append", default=[], metavar="TEXT",
           help="text that stands for a missing value in CSV, such as '?'; may be repeated")
# fmt: on


# ---- train --------------------------------------------------------------------------------------


def train(options, stopwatch):
    """Train, judge by held-out rows, save, and show what was found."""
    from fastbp.table_commands import models, report, targets

    _check_output("--model", options.model, options.data)
    if options.plot is not None:
        _check_output("--plot", options.plot, options.data, options.model)
        report.check_plot(options.plot)
    X, target = _read_training_table(options)
    rows, held_out = targets.hold_out(target, options.holdout, options.seed)
    y, y_held_out = target.values[rows], target.values[held_out]
    X_held_out = X.iloc[held_out].reset_index(drop=True)
    print(f"Training on {len(rows):,} rows; {len(held_out):,} are held out", flush=True)
    model = _fit(options, target.task, X.iloc[rows].reset_index(drop=True), y)
    if not options.final:
        models.save(model, options.model, target.name)

    predicted, probabilities = report.predictions(model, X_held_out)
    classes = getattr(model, "classes_", None)
    shown = report.table_of_scores(
        f"{len(held_out):,} held-out rows",
        report.scores(y_held_out, predicted, probabilities, classes),
        report.trivial_scores(y, y_held_out, classes),
    )
    print("", *shown, "", sep="\n", flush=True)
    worth = report.importances(model, X_held_out, y_held_out, options.seed)
    lines = ["What columns are worth is not estimated: they are so many that it would take minutes"]
    print(*(lines if worth is None else worth.lines()), "", sep="\n", flush=True)
    if options.plot is not None:
        title = f"{options.data}: {target.name}"
        report.draw(options.plot, title, model, y_held_out, predicted, worth)
        print(f"Picture in {options.plot}")
    if options.final:
        print(f"Training again, on all {len(target.values):,} rows", flush=True)
        model = _fit(options, target.task, X, target.values)
        models.save(model, options.model, target.name)
        print(f"Model in {options.model}, trained on all rows; the scores are of the one before")
    else:
        print(f"Model in {options.model}; it has not seen the held-out rows (--final: all rows)")


def _read_training_table(options):
    """The columns to learn from, of rows with a target, and the target."""
    from fastbp.table_commands import columns, targets

    categorical = [name for name in options.categorical if name != options.target]
    if options.target in options.drop:
        raise ValueError(f"--drop names the target {options.target!r}")
    table, notes = columns.read_for_training(
        options.data, _reading(options), categorical, options.drop
    )
    columns.check_names(table, [options.target])
    target = targets.read_target(table, options.target, options.task)
    X = table.frame.drop(columns=options.target)
    if not X.shape[1]:
        raise ValueError(f"{table.path} has no column to learn from besides {options.target!r}")
    print(f"{table.path}: {len(X):,} rows, {X.shape[1]} columns to learn from")
    for _, note in notes:
        print(f"Note: {note}")
    n_missing = len(X) - len(target.rows)
    if n_missing:
        first = np.flatnonzero(table.frame[options.target].isna().to_numpy())[0]
        print(
            f"{n_missing:,} rows without {target.name!r} are left out, first {table.place(first)}"
        )
    print(f"{target.name}: {target.task}, {target.reason}", flush=True)
    if options.selection is not None and target.task != "classification":
        raise ValueError("--selection is of a classifier, but this is a regression")
    return X.iloc[target.rows].reset_index(drop=True), target


def _fit(options, task, X, y):
    """Fit an estimator, with a line of progress."""
    import fastbp

    if options.device == "cpu":  # kernels are loaded, or compiled, in no training's time
        from fastbp.cpu import code

        code.warm_up(["float32"], everything=False)
    parameters = {
        "preset": options.preset,
        "max_iter": options.epochs,
        "n_ensemble": options.n_ensemble,
        "time_limit": options.time,
        "random_state": options.seed,
        "n_threads": options.threads,
        "device": options.device,
        "verbose": "progress",
    }
    if task == "classification":
        model = fastbp.TabularMLPClassifier(**parameters, selection=options.selection or "error")
    else:
        model = fastbp.TabularMLPRegressor(**parameters)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"Note: {message}", flush=True)
        warnings.simplefilter("ignore", imported("sklearn.exceptions").ConvergenceWarning)
        warnings.filterwarnings("error", "Training interrupted")
        try:
            model.fit(X, y)
        except UserWarning as interrupted:
            raise KeyboardInterrupt from interrupted
    seconds, kept = time.perf_counter() - began, f"epoch {model.best_iter_}"
    if options.n_ensemble > 1:
        kept = "epochs " + ", ".join(str(each.best_iter_) for each in model.estimators_)
    print(f"{model.n_iter_} epochs in {seconds:.1f} s; kept are the weights of {kept}", flush=True)
    return model.set_params(verbose=False)


# ---- predict ------------------------------------------------------------------------------------


def predict(options, stopwatch):
    """Write a table with predictions."""
    from fastbp.table_commands import columns, files, models, report

    if options.output is not None:
        _check_output("-o", options.output, options.data, options.model)
        files.check_name(options.output)
    model, _ = models.load(options.model)
    model.set_params(n_threads=options.threads, device=options.device)
    kinds = models.kinds_of(model)
    table = columns.read_for_model(options.data, kinds, _reading(options))
    predicted, probabilities = report.predictions(model, table.frame[[*kinds]])
    added = {}
    _add_columns(added, table, "prediction", predicted, range(1, 1 + predicted.size))
    if probabilities is not None:
        _add_columns(added, table, "probability", probabilities, model.classes_)
    files.write_table(options.output, table, added)
    if options.output is not None:
        names = columns.listed(added)
        print(f"{options.output}: {len(table.frame):,} rows with {names}")


def _add_columns(added, table, name, values, parts):
    """Add values as one column or, of two dimensions, as one for each part, under new names."""
    pandas = imported("pandas")
    columns = {name: values}
    if values.ndim == 2:
        columns = {f"{name}_{part}": column for part, column in zip(parts, values.T, strict=False)}
    for wanted, column in columns.items():
        new, number = wanted, 1
        while new in table.frame.columns or new in added:
            number += 1
            new = f"{wanted}_{number}"
        added[new] = pandas.Series(column)


# ---- evaluate -----------------------------------------------------------------------------------


def evaluate(options, stopwatch):
    """Score a model on a table."""
    from fastbp.table_commands import columns, models, report, targets

    model, target = models.load(options.model)
    model.set_params(n_threads=options.threads, device=options.device)
    target = options.target or target
    if target is None:
        raise ValueError(f"{options.model} does not say what its target is called: give --target")
    kinds, classes = models.kinds_of(model), getattr(model, "classes_", None)
    texts = [target] if classes is not None and classes.dtype.kind not in "iuf" else []
    table = columns.read_for_model(options.data, kinds, _reading(options), texts)
    columns.check_names(table, [target])
    if classes is None:
        y = targets.read_numbers(table, target)
    else:
        y = targets.read_labels(table, target, classes)
    rows = np.flatnonzero(y.notna().to_numpy())
    if not len(rows):
        raise ValueError(f"{table.path}: no row has a value in the column {target!r}")
    if len(rows) < len(y):
        print(f"{len(y) - len(rows):,} rows without {target!r} are left out")
    X = table.frame[[*kinds]].iloc[rows].reset_index(drop=True)
    predicted, probabilities = report.predictions(model, X)
    if predicted.ndim > 1:
        raise ValueError(f"{options.model} predicts several columns, which only Python can score")
    y = y.to_numpy()[rows]
    known = np.ones(len(y), bool)
    if classes is not None:
        y = y.astype(classes.dtype) if classes.dtype.kind in "iuf" else y.astype(str)
        known = np.isin(y, classes)
    if not known.all():
        first = np.flatnonzero(~known)[0]
        print(
            f"{(~known).sum():,} rows have a {target} that the model does not know, first "
            f"{table.place(rows[first])}: {str(y[first])!r}. They count as wrong in the accuracy, "
            "and not in the other scores"
        )
    if not known.any():
        raise ValueError(
            f"{table.path} has no {target} that the model knows: it was trained on "
            f"{', '.join(map(repr, classes[:5].tolist()))}{' …' if len(classes) > 5 else ''}"
        )
    y, predicted = y[known], predicted[known]
    probabilities = None if probabilities is None else probabilities[known]
    found = report.scores(y, predicted, probabilities, classes)
    beside = report.trivial_scores(y, y, classes)
    for each in (found, beside) if classes is not None else ():
        each["accuracy"] *= known.mean()
    print(*report.table_of_scores(f"{len(rows):,} rows", found, beside), sep="\n")


# ---- what the commands share --------------------------------------------------------------------


def _reading(options):
    from fastbp.table_commands.files import Reading

    return Reading(options.delimiter, options.decimal, options.encoding, tuple(options.missing))


def _check_output(option, path, *others):
    """Check before the work begins that a file can be written, and is none of the others."""
    from fastbp.table_commands.files import STANDARD

    if path.is_dir() or not path.name:
        raise ValueError(f"{option} {path} is a folder, where a file is to be written")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: the folder {path.parent} does not exist")
    for other in others:
        if str(other) != STANDARD and path.resolve() == Path(other).resolve():
            raise ValueError(f"{option} {path} would overwrite {other}: choose another name")
