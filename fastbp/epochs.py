"""Who has the rows of a training, and gives them to its engine: an epoch in pieces.

A piece is a `fastbp.data.Data`, an order of some of its rows, and their steps: what
`Engine.train_epoch` takes. Rows in memory are one piece, all of them; those of a source
(`fastbp.sources`) come in as many as they need buffers. Neither the loops of training nor the
engines know which it is.
"""

import _thread
from dataclasses import dataclass, field
from math import isfinite
from numbers import Integral
from typing import NamedTuple

import numpy as np

from fastbp.late import imported
from fastbp.schedules import WEIGHT, StepPlanner, Steps


class Stopping(NamedTuple):
    """When training by the loss is not to go on: see `fastbp.progress.Progress.end_epoch`."""

    best_loss: float
    no_improvement_count: int
    tol: float
    n_iter_no_change: float


@dataclass
class Epochs:
    """Several epochs of a training, as an engine takes them that trains them in one call.

    Parameters
    ----------
    steps : Steps
        Its table has the rows of all epochs, or those of one that all are like.
    n_epochs : int
        The most that are to be trained: none follows one whose loss is not finite, or after which
        training is not to go on.
    n_tables : int
        The epochs that are in the table.
    n_rows : int
        So many of the order's rows are used in each.
    random_state : numpy.random.RandomState or None
        Shuffles the rows before each; None keeps their order.
    stopping : Stopping

    Attributes
    ----------
    losses : list of float
        Of the epochs that have been trained, even if an exception has come after them.
    """

    steps: Steps
    n_epochs: int
    n_tables: int
    n_rows: int
    random_state: np.random.RandomState | None
    stopping: Stopping
    losses: list = field(init=False, default_factory=list)


class InMemory:
    """The rows of a training whose `data` holds all of them."""

    def seed(self, random_state):
        """Take note of the state of the random generator before its first draw."""

    def everything(self, data):
        """All rows to learn from, as `Split.train`."""
        return np.arange(data.n_samples)

    def hold_out(self, data, fraction, random_state, labels):
        """Draw rows for early stopping: see `fastbp.training.hold_out`."""
        from fastbp.training import hold_out

        return hold_out(data.n_samples, fraction, random_state, labels)

    def bring(self, judge, data):
        """Let a judge of held-out rows have them at hand."""
        return judge

    def make_engine(self, fit, n_threads):
        """The engine that is to train on them, with at most `n_threads` (None for all) on a CPU."""
        return fit.make_engine(n_threads)

    def plan(self, training, n_rows, batch_size):
        """Who plans the steps of `n_rows` an epoch, in batches of `batch_size`."""
        settings = training.settings
        return StepPlanner(
            training.optimizer, n_rows, batch_size, training.data.sample_weight, settings.alpha,
            settings.max_iter,
        )  # fmt: skip

    def begin(self, training):
        """Begin the first epoch, or go on; return how many rows there are to learn from."""
        if training.order is None:
            training.order = training.split.train.copy()
        return len(training.order)

    def pieces(self, training, planner, n_rows):
        """Yield the pieces of the next epoch; rows beyond the first `n_rows` are left out."""
        settings, weight = training.settings, training.data.sample_weight
        if settings.shuffle:
            from fastbp.cpu.shuffling import shuffle  # may import numba, at the first fit

            # As in scikit-learn, from the last order on.
            shuffle(training.random_state, training.order, settings.max_iter)
        rows = training.order[:n_rows]
        if settings.drop_last and weight is not None:
            check_weight(weight[rows], training.progress.n_iter + 1)
        yield training.data, rows, planner.next_epoch(rows)

    def epochs_ahead(self, training, planner, n_rows, most):
        """Several epochs that the engine can train at once, at most so many; None without.

        Without `shuffle`, or if nobody else may draw from the random state meanwhile: the engine
        holds its lock.
        """
        engine, settings, progress = training.engine, training.settings, training.progress
        if not hasattr(engine, "train_epochs"):
            return None
        source = training.random_state if settings.shuffle else None
        best, tol, patience = progress.best_loss, settings.tol, settings.n_iter_no_change
        if not all(map(_is_float64, (best, tol, patience))) or _is_shared(source):
            return None
        most = min(most, engine.epochs_at_once(training.data, n_rows, planner.batch_size))
        steps, n_epochs, n_tables = planner.next_epochs(most) if most > 1 else (None, 0, 0)
        if n_epochs < 2:
            return None
        stopping = Stopping(best, progress.no_improvement_count, tol, patience)
        return Epochs(steps, n_epochs, n_tables, n_rows, source, stopping)

    @staticmethod
    def loss_and_gradient(engine, data):
        """The loss of all rows and its gradient: see `fastbp.engine.Engine`."""
        return engine.loss_and_gradient(data)

    # ---- checkpoints --------------------------------------------------------------------------

    def fingerprint(self, data):
        """What tells these rows from others, as a dict of str to str: all of their numbers."""
        return imported("fastbp.fingerprints").of_rows(data)

    def state(self, training):
        """What of a training's state the rows have, as arrays by name and what JSON can say."""
        return {"order": training.order}, {}

    def restore(self, training, arrays, numbers):
        """Take the state back, out of the arrays; ValueError or LookupError if it is damaged.

        Parameters
        ----------
        training : Training
            With the split of the fit that has written the state.
        arrays, numbers : dict
        """
        order, train = arrays.pop("order"), training.split.train
        if order.dtype != train.dtype or not np.array_equal(np.sort(order), np.sort(train)):
            raise ValueError("order does not have each of the rows to learn from once")
        training.order = order

    # -------------------------------------------------------------------------------------------

    def seconds_waited(self):
        """For how long rows have been waited for since the last call; None if they are there."""
        return None

    def close(self):
        """Give back what is held for the training."""


def _is_float64(number):
    """Whether arithmetic with a number is that of float64."""
    return isinstance(number, float) or (isinstance(number, Integral) and abs(number) < 2**53)


def _is_shared(random_state):
    """Whether other threads may want to draw from a random state, which is NumPy's own then.

    They would wait for it, and for ever in a process that is forked meanwhile.
    """
    return random_state is np.random.mtrand._rand and _thread._count() > 0


def check_weight(weight, epoch):
    """See that an epoch has a row with weight, where `drop_last` has left some out."""
    if not weight.any():
        raise ValueError(
            f"No row of epoch {epoch} has a weight: sample_weight is zero in all but "
            "a few, and drop_last=True has left these out. Leave out the rows without weight, or "
            "use drop_last=False."
        )


def train_pieces(training, pieces):
    """Train on the pieces of an epoch; return its loss, the mean of theirs by weight.

    Updates that are made are counted even if an exception ends the epoch.
    """
    made = []
    for data, order, steps in pieces:
        try:
            loss = training.engine.train_epoch(data, order, steps)
        finally:  # even after Ctrl-C
            training.optimizer.step += steps.made
        made.append((loss, steps.table))
        if not isfinite(loss) and steps.table[:, WEIGHT].any():
            return loss
    if len(made) == 1:
        return loss
    losses, weights = zip(*((each, table[:, WEIGHT].sum()) for each, table in made), strict=True)
    there = np.array(weights) > 0  # a piece without weight has no loss
    return float(np.average(np.array(losses)[there], weights=np.array(weights)[there]))
