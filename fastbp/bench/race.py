"""Races: contenders in processes of their own take turns at one epoch each."""

import hashlib
import os
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastbp.bench.cases import FIT_EPOCHS
from fastbp.bench.contenders import CONTENDERS, serve
from fastbp.bench.draws import draw
from fastbp.bench.workers import Worker, WorkerError

# Seconds before a turn. OpenBLAS's threads go on spinning for about 0.1 s after a product and would
# take a core from the next contender.
PAUSE = 0.15
_BLOCK = bytes(2**20)
# A contender whose training loss, the last or the mean over all epochs, is further than this from
# the reference's trains something else. The last alone proves little where training stands still.
# The reference is the first of these that finished: the plain loops come first.
LOSS_TOLERANCE = 0.02
TOLERANCES = {"bfloat16": 0.05}
CPU_TOLERANCES = {"bfloat16": 0.03}
REFERENCES = ("NumPy", "scikit-learn", "PyTorch", "JAX", "fastbp")


@contextmanager
def environment(**variables):
    """Set variables for this process and all that it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def limited_to(n_threads):
    """Keep this process and all that it starts to its first cores, by every means there is."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with environment(**dict.fromkeys(names, str(n_threads))):
        if cores:
            os.sched_setaffinity(0, sorted(cores)[:n_threads])
        try:
            yield
        finally:
            if cores:
                os.sched_setaffinity(0, cores)


@contextmanager
def prepared(case, n_epochs, n_threads, mnist=None):
    """Draw a case's arrays into a file; the context is a function that starts a `Worker` on it.

    The workers have the cores that this process is `limited_to`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fastbp-bench-") as folder,
        ExitStack() as stack,
    ):
        path = Path(folder) / "draws.npz"
        draw(case, n_epochs, mnist).save(path)

        def start(contender):
            worker = Worker(serve, contender, case, path, n_threads)
            stack.callback(worker.close)
            return worker

        yield start


@dataclass
class Entry:
    """One contender's results.

    Parameters
    ----------
    contender : str
    remark : str
        Why there is no comparison; empty where there is one.
    first_epoch : float or None
        Seconds of the first epoch, compilation included, imports not.
    seconds : list of float
        The timed epochs, by turn.
    losses : list of float
        Training loss at the end of every turn, the first epoch included.
    """

    contender: str
    remark: str = ""
    first_epoch: float | None = None
    seconds: list = field(default_factory=list)
    losses: list = field(default_factory=list)

    @property
    def median(self):
        """Median of the timed epochs in seconds; NaN where there are none."""
        return float(np.median(self.seconds)) if self.seconds else float("nan")

    @property
    def quartiles(self):
        """First and third quartile in seconds."""
        return tuple(np.percentile(self.seconds, (25, 75))) if self.seconds else (np.nan, np.nan)

    @property
    def compile_seconds(self):
        """What the first epoch took longer than the others: compilation and warm-up."""
        return max(0.0, self.first_epoch - self.median) if self.seconds else float("nan")


@dataclass(frozen=True)
class Pace:
    """When a race ends: after some seconds of rounds, and within a least and a most of them."""

    seconds: float
    least: int = 3
    most: int = 15


def race(heat, contenders, pace, cache, mnist=None):
    """Time contenders on a case.

    They import at the same time. Then each trains an epoch to warm up, and then one in every round,
    or several short ones, beginning with another contender each time, with a pause before in which
    all cores are kept busy.

    Parameters
    ----------
    heat : Heat
    contenders : sequence of str
        Keys of `CONTENDERS`.
    pace : Pace
    cache : str
        Folder of fastbp's kernels; where it is empty they are compiled.
    mnist : path-like or None, default=None
        Folder of MNIST's files.

    Returns
    -------
    entries : list of Entry
        In the order of `contenders`.
    """
    entries = [Entry(name, CONTENDERS[name].missing()) for name in contenders]
    n_epochs = max(FIT_EPOCHS, 1 + pace.most * heat.case.epochs_a_turn)
    # Several processes share a GPU.
    with (
        environment(FASTBP_CACHE_DIR=str(cache), XLA_PYTHON_CLIENT_PREALLOCATE="false"),
        prepared(heat.case, n_epochs, heat.n_threads, mnist) as start,
    ):
        workers = {e.contender: start(e.contender) for e in entries if not e.remark}
        present = [entry for entry in entries if not entry.remark]
        for entry in present:
            attempt(entry, workers[entry.contender].answer)  # its imports are done
        for entry in present:
            attempt(entry, workers[entry.contender].go)  # and now its trials
            entry.first_epoch = take_turn(entry, workers[entry.contender], heat.n_threads)
        started = time.perf_counter()
        for round_ in range(pace.most):
            if round_ >= pace.least and time.perf_counter() - started > pace.seconds:
                break
            first = round_ % len(present) if present else 0
            for entry in present[first:] + present[:first]:
                seconds = take_turn(entry, workers[entry.contender], heat.n_threads)
                if seconds is not None:
                    entry.seconds.append(seconds)
    compare_losses(entries, heat.case)
    return entries


def attempt(entry, ask):
    """Ask a worker unless it has failed; note a failure and return None for it."""
    if entry.remark:
        return None
    try:
        return ask()
    except WorkerError as error:
        entry.remark = f"failed: {error}"
        return None


def keep_busy(n_threads, seconds):
    """Occupy this many cores, next to whoever else still does.

    Cores that were idle are slow for the next tenth of a second: after 0.3 s of sleep one thread
    took 18.5 ms for an epoch of 30-64-64-3, after as long kept busy 15.3.
    """
    until = time.perf_counter() + seconds

    def occupy():
        while time.perf_counter() < until:
            hashlib.sha256(_BLOCK)  # without the GIL

    threads = [threading.Thread(target=occupy) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def take_turn(entry, worker, n_threads):
    """Let a contender take a turn; note its loss, return seconds an epoch, None if it failed."""
    if entry.remark:
        return None
    keep_busy(n_threads, PAUSE)
    answer = attempt(entry, worker.go)
    if answer is None:
        return None
    seconds, loss = answer
    entry.losses.append(loss)
    return seconds


def compare_losses(entries, case):
    """Mark contenders that did not train what the reference trained, fastbp no less than others.

    A case has a precision for its contenders on a GPU, and one for those on the CPU.
    """
    finished = {entry.contender: entry for entry in entries if not entry.remark}
    reference = next((finished[name] for name in REFERENCES if name in finished), None)
    for entry in finished.values():
        if CONTENDERS[entry.contender].device == "cuda":
            tolerance = TOLERANCES.get(case.precision, LOSS_TOLERANCE)
        else:
            tolerance = CPU_TOLERANCES.get(case.cpu_precision, LOSS_TOLERANCE)
        if not np.isfinite(entry.losses).all():
            entry.remark = "computes something else: a loss is not finite"
        elif reference is None:
            entry.remark = "nothing to compare its loss with"
        elif np.isfinite(reference.losses).all():
            difference = loss_difference(entry.losses, reference.losses)
            if difference > tolerance:
                entry.remark = f"computes something else: loss off by {difference:.1%}"


def loss_difference(losses, expected):
    """The larger relative difference of two loss curves: between their means, or their ends."""
    return max(
        abs(ours / theirs - 1)
        for ours, theirs in ((np.mean(losses), np.mean(expected)), (losses[-1], expected[-1]))
    )
