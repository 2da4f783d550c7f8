"""Races: contenders in processes of their own take turns at one epoch each."""

import importlib.util
import multiprocessing
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.cases import draw
from benchmarks.peers import CONTENDERS, serve

# OpenBLAS's threads go on spinning for about 0.1 s after a product and would take a core from the
# next contender.
PAUSE = 0.25
# A contender whose last training loss is further than this from fastbp's trains something else.
LOSS_TOLERANCE = 0.02


class WorkerError(RuntimeError):
    """A contender's process failed; the message is its own."""


class Worker:
    """One contender's process, which trains one epoch at a time.

    Parameters
    ----------
    contender : str
        A key of `CONTENDERS`.
    case : Case
    path : Path
        Where the case's draws are.
    n_threads : int
    """

    def __init__(self, contender, case, path, n_threads):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, contender, case, path, n_threads), daemon=True
        )
        self.process.start()
        theirs.close()

    def epoch(self):
        """Train one epoch and return (seconds, loss)."""
        try:
            self.connection.send("go")
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise WorkerError(f"exit status {self.process.exitcode}") from error
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer

    def close(self):
        """End the process."""
        self.connection.close()
        self.process.join(timeout=5)
        self.process.kill()


@contextmanager
def prepared(case, n_epochs):
    """Draw a case's arrays into a file; the context is a function that starts a `Worker` on it."""
    with tempfile.TemporaryDirectory(prefix="fastbp-benchmark-") as folder, ExitStack() as stack:
        path = Path(folder) / "draws.npz"
        draw(case, n_epochs).save(path)

        def start(contender, n_threads):
            worker = Worker(contender, case, path, n_threads)
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
        The timed epochs.
    losses : list of float
        Training loss of every epoch, the first one included.
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


def race(case, n_rounds, n_threads):
    """Time every installed contender on a case.

    After an epoch to warm up, the contenders train one epoch each in every round, beginning with
    another one each time, with a pause before each.

    Returns
    -------
    entries : list of Entry
        In the order of `CONTENDERS`.
    """
    entries = [Entry(contender) for contender in CONTENDERS]
    with prepared(case, n_rounds + 1) as start:
        workers = []
        for entry in entries:
            if importlib.util.find_spec(CONTENDERS[entry.contender][1]) is None:
                entry.remark = "not installed"
                continue
            worker = start(entry.contender, n_threads)
            entry.first_epoch = take_turn(entry, worker)
            workers.append((entry, worker))
        for round_ in range(n_rounds):
            first = round_ % len(workers)
            for entry, worker in workers[first:] + workers[:first]:
                if not entry.remark and (seconds := take_turn(entry, worker)):
                    entry.seconds.append(seconds)
    compare_losses(entries)
    return entries


def take_turn(entry, worker):
    """Let a contender train one epoch; note its loss and return its seconds, or note a failure."""
    time.sleep(PAUSE)
    try:
        seconds, loss = worker.epoch()
    except WorkerError as error:
        entry.remark = f"failed: {error}"
        return None
    entry.losses.append(loss)
    return seconds


def compare_losses(entries):
    """Mark contenders that did not train what the first one, fastbp, trained."""
    reference, *peers = entries
    for entry in peers:
        if entry.remark or reference.remark:
            continue
        difference = abs(entry.losses[-1] - reference.losses[-1]) / abs(reference.losses[-1])
        if not difference <= LOSS_TOLERANCE:
            entry.remark = f"computes something else: loss off by {difference:.1%}"
