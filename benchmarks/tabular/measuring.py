"""The run: every contender on the same rows, by turns; each result is kept as it comes."""

import gc
import json
import os
import sys
import time
import warnings
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

import fastbp
from benchmarks.tabular.contenders import installed_versions, made_up_rows
from benchmarks.tabular.sets import split_rows
from fastbp.bench.results import cpu_model

KINDS = ("binary", "multiclass", "regression")


class ResultsFile:
    """A file that results are appended to, a JSON line each, and that a later run goes on with.

    The first line tells versions, machine and number of threads: results of others do not come
    into the same file. A line that was cut off is dropped.

    Parameters
    ----------
    path : Path
    header : dict
        Of `make_header`.
    """

    def __init__(self, path, header):
        self.path = Path(path)
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.header, self.records = header, []
            self.path.write_text(json.dumps(header) + "\n")
            return
        self.header, *self.records = map(json.loads, whole.splitlines())
        differing = [key for key in header if key != "date"
                     and header[key] != self.header.get(key)]  # fmt: skip
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.path} holds results of other {key} ({self.header.get(key)}; now "
                f"{header[key]}): name another file with --results"
            )
        if len(whole) < len(content):
            self.path.write_bytes(whole)

    def append(self, record):
        """Keep a result."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)

    def has(self, table, split, model):
        """Whether there is a result; one that failed is none."""
        key = table, split, model
        return any(_key(record) == key for record in self.records if "failed" not in record)


def _key(record):
    return record["table"], record["split"], record["model"]


def make_header(n_threads):
    """What all results of a file have in common."""
    return {
        "date": datetime.now().isoformat(" ", "seconds"),
        "threads": n_threads,
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "versions": {"fastbp": fastbp.__version__} | installed_versions(),
    }


@contextmanager
def limited_threads(n_threads):
    """Let every library loaded so far use so many threads; PyTorch has a limit of its own."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with threadpool_limits(limits=n_threads):
        if torch:
            torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def kind_of(task, y):
    """Of these kinds, each may need code of its own in a library."""
    if task == "regression":
        return "regression"
    return "binary" if np.max(y) == 1 else "multiclass"


def warm_up(contender, kind, n_threads):
    """Fit and predict once unmeasured, so that no result pays for imports and compilation."""
    task = "regression" if kind == "regression" else "classification"
    X, y = made_up_rows(task, 2 if kind == "binary" else 3)
    estimator = contender.estimator(task, X, 0, n_threads)
    with limited_threads(n_threads):
        estimator.fit(X, y).predict(X)


def measure(contender, task, rows, random_state, n_threads):
    """Fit and test.

    Parameters
    ----------
    contender : Contender
    task : {"classification", "regression"}
    rows : Rows
    random_state, n_threads : int

    Returns
    -------
    result : dict
        Errors, and seconds of the fit and of the predictions of all test rows: of all threads
        together (CPU) and by the clock.
    """
    estimator = contender.estimator(task, rows.X_train, random_state, n_threads)
    gc.collect()
    with limited_threads(n_threads):
        wall, cpu = time.perf_counter(), time.process_time()
        estimator.fit(rows.X_train, rows.y_train)
        fit_wall, fit_cpu = time.perf_counter() - wall, time.process_time() - cpu
        cpu = time.process_time()
        predicted = np.ravel(estimator.predict(rows.X_test))
        predict_cpu = time.process_time() - cpu
    result = score(task, estimator, predicted, rows)
    return result | {
        "n_train": len(rows.y_train),
        "n_test": len(rows.y_test),
        "fit_cpu_seconds": fit_cpu,
        "fit_wall_seconds": fit_wall,
        "predict_cpu_seconds": predict_cpu,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def score(task, estimator, predicted, rows):
    """1 - accuracy and the log loss, or the root mean squared error over y's deviation."""
    y = rows.y_test
    if task == "regression":
        error = np.sqrt(np.mean((predicted - y) ** 2)) / np.std(y)
        return {"error": check_finite(error)}
    wrong = predicted != y
    probabilities = np.asarray(estimator.predict_proba(rows.X_test), float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32's sums are not quite 1
    loss = log_loss(y, probabilities, labels=np.arange(probabilities.shape[1]))
    return {
        "error": float(np.mean(wrong)),
        "n_wrong": int(np.sum(wrong)),
        "log_loss": check_finite(loss),
    }


def check_finite(value):
    """The value as a float, which JSON can say."""
    if not np.isfinite(value):
        raise ValueError("the predictions are not finite")
    return float(value)


def run(file, tables, splits, contenders, folder, report=print):
    """Measure what the file has not yet, split by split.

    Parameters
    ----------
    file : ResultsFile
    tables : list of Table
    splits : iterable of int
    contenders : list of Contender
    folder : Path
        Of the downloaded wheels.
    report : callable
        Is told each result in a line of text.
    """
    n_threads, warm = file.header["threads"], set()
    for split in splits:
        # The order alternates, so that a drift of the machine's speed favours nobody.
        ordered = contenders if split % 2 == 0 else contenders[::-1]
        for table in tables:
            open_ones = [each for each in ordered if not file.has(table.name, split, each.name)]
            if not open_ones:
                continue
            try:
                X, y = table.load(folder)
                rows = split_rows(X, y, table.task, split)
            except Exception as error:  # a network that fails must not end the run
                report(f"{table.name}: left out ({type(error).__name__}: {error})")
                continue
            for contender in open_ones:
                record = _one(
                    contender, table, split, rows, kind_of(table.task, y), warm, n_threads
                )
                file.append(record)
                report(_line(record))


def _one(contender, table, split, rows, kind, warm, n_threads):
    """A contender's record on a split of a table; its failure is a record, too."""
    record = {"table": table.name, "task": table.task, "split": split, "model": contender.name}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (contender.name, kind) not in warm:
                warm_up(contender, kind, n_threads)
                warm.add((contender.name, kind))
            return record | measure(contender, table.task, rows, split, n_threads)
    except Exception as error:  # whatever a library raises, the others go on
        return record | {"failed": f"{type(error).__name__}: {error}"}


def _line(record):
    head = f"{record['table']:14s} {record['split']}  {record['model']:22s}"
    if "failed" in record:
        return f"{head} failed: {record['failed']}"
    return f"{head} {record['error']:.4f} {record['fit_cpu_seconds']:8.3f} s CPU"
