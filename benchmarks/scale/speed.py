"""Rows a second from a flat file and from Parquet beside those from memory, on one thread."""

import os
import time

import numpy as np

from fastbp import MLPClassifier, sources

N_COLUMNS, N_CLASSES = 100, 5
# The net, and the least share of the speed in memory.
NETS = (((256, 128), 0.9), ((64, 32), 0.8))
FIRST_EPOCH = 0.35
PART_ROWS = 100_000  # made and written at once


def make_files(folder, n_rows):
    """Rows of a task as a .npy file, as Parquet and in memory."""
    import pyarrow
    from pyarrow import parquet

    random = np.random.default_rng(0)
    centres = random.normal(size=(N_CLASSES, N_COLUMNS)).astype(np.float32)
    X, y = np.empty((n_rows, N_COLUMNS), np.float32), random.integers(0, N_CLASSES, n_rows)
    names = [f"x{column}" for column in range(N_COLUMNS)]
    writer = None
    for first in range(0, n_rows, PART_ROWS):
        part, labels = X[first : first + PART_ROWS], y[first : first + PART_ROWS]
        part[...] = 0.3 * centres[labels]
        part += random.standard_normal(part.shape, np.float32)
        table = pyarrow.table(dict(zip(names, part.T, strict=True)) | {"y": labels})
        writer = writer or parquet.ParquetWriter(folder / "rows.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    np.save(folder / "x.npy", X)
    os.sync()
    return X, y


def epoch_seconds(hidden_layer_sizes, epochs, X, y=None):
    """Seconds of each epoch of a fit in one thread, and the shares of them that it waited."""
    reports = []
    MLPClassifier(
        hidden_layer_sizes, max_iter=epochs, tol=0, n_iter_no_change=np.inf, random_state=0,
        n_threads=1, callback=reports.append,
    ).fit(X, y)  # fmt: skip
    return [report.seconds for report in reports], [
        (report.seconds_waiting or 0.0) / report.seconds for report in reports
    ]


def forget(path):
    """Let the system's cache forget a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(folder, options):
    """Yield what is measured, what must be, what is, and whether it is met."""
    X, y = make_files(folder, options.rows)
    epoch_seconds(NETS[0][0], 1, X[:1000], y[:1000])  # kernels
    for net, share in NETS:
        in_memory, flat, first, later, waits = [], [], [], [], []
        for _ in range(2):  # by turns, as the machine's speed drifts
            in_memory += epoch_seconds(net, options.epochs, X, y)[0]
            forget(folder / "x.npy")
            seconds, waited = epoch_seconds(
                net, options.epochs, sources.from_npy(folder / "x.npy", y)
            )
            flat += seconds
            waits += waited
            forget(folder / "rows.parquet")
            began = time.perf_counter()
            source = sources.from_parquet(folder / "rows.parquet", "y", cache=folder / "cache.npy")
            decoded = time.perf_counter() - began
            seconds, _ = epoch_seconds(net, options.epochs, source)
            first.append(decoded + seconds[0])
            later += seconds[1:]
            os.remove(folder / "cache.npy")
        best = min(in_memory)
        speed = f"{len(X) / best:,.0f} rows/s in memory"
        yield from (
            line(f"{net}, flat file, waiting {np.median(waits):.0%}; {speed}", share, best, flat),
            line(f"{net}, Parquet, first epoch", FIRST_EPOCH, best, first),
            line(f"{net}, Parquet, later epochs", share, best, later),
        )


def line(what, bound, in_memory, seconds):
    """A share of the speed in memory, as a line of the table."""
    share = in_memory / min(seconds)
    return what, f"≥ {bound}", f"{share:.2f}", share >= bound
