"""How many epochs fit into a time: measured by a short training that is thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from fastbp.judging import OwnRows
from fastbp.warned import warn

MEASURED_BATCHES = 8  # of an epoch of the trial, at most
TRIAL_SHARE = 0.05  # of the limit, which the trainings that count take at least
LONGEST_TRIAL = 0.2  # of the limit, after which no other begins
MARGIN = 0.9  # of the time that is left, which the epochs are planned to take


@dataclass(frozen=True)
class Rows:
    """The checked and encoded rows of a fit.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_encoded), dtype float32
    y : ndarray
        As it was given, in an array.
    sample_weight : ndarray of shape (n_rows,) or None
    own : OwnRows or None
        Validation rows of the user's, encoded likewise.
    """

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None
    own: OwnRows | None


class Clock:
    """The time that a fit may take.

    Parameters
    ----------
    limit : float or None
        In seconds from now; None without a limit.
    """

    def __init__(self, limit):
        self.limit, self.began = limit, time.perf_counter()

    @property
    def passed(self):
        """Seconds since the beginning."""
        return time.perf_counter() - self.began


def epochs_within(clock, members, train, rows, n_train):
    """The number of epochs that fit into the time that is left, at most the members' `max_iter`.

    Copies of the members are trained with some of the rows, for one epoch, in which kernels are
    loaded and memory is touched, then for ever more epochs until that takes long enough to be
    measured.

    Parameters
    ----------
    clock : Clock
    members : list of estimators
        Unfitted.
    train : callable
        From members and rows, which it fits.
    rows : Rows
    n_train : int
        How many of the rows each member learns from; the others are held out.

    Returns
    -------
    max_iter : int
    """
    longest = members[0].max_iter
    trial, share = _part_of(rows, members[0], n_train)
    epochs, seconds = 1, _seconds_of(members, train, trial, 1)
    while True:
        is_last = epochs >= longest or clock.passed >= LONGEST_TRIAL * clock.limit
        if is_last or (epochs > 1 and seconds >= TRIAL_SHARE * clock.limit):
            break
        epochs = min(2 * epochs, longest)
        seconds = _seconds_of(members, train, trial, epochs)
    left = MARGIN * (clock.limit - clock.passed)
    possible = int(left * share / seconds * epochs) if left > 0 else 0
    if possible < 1:
        warn(
            f"time_limit={clock.limit} is too short for these rows: preparing took "
            f"{clock.passed:.2g} s and an epoch takes about {seconds / epochs / share:.2g} s. One "
            "epoch is trained. Raise time_limit, or fit fewer rows."
        )
    return max(1, min(longest, possible))


def _seconds_of(members, train, rows, max_iter):
    """The time that a training of copies of the members takes."""
    copies = [clone(member).set_params(max_iter=max_iter, verbose=False) for member in members]
    began = time.perf_counter()
    train(copies, rows)
    seconds = time.perf_counter() - began
    if any(each.n_iter_ < max_iter for each in copies):
        raise KeyboardInterrupt  # which had ended a training that nobody wants
    return seconds


def _part_of(rows, member, n_train):
    """Some rows to try with their part of the validation rows, and which share of all they are."""
    n_rows, own = len(rows.X), rows.own
    share = min(1.0, MEASURED_BATCHES * member.batch_size / n_train)
    if share == 1:
        return rows, share
    order = np.random.RandomState(0).permutation(n_rows)
    order = order[np.argsort(~_is_first(rows.y)[order], kind="stable")]  # each class occurs
    if own is not None:
        kept = slice(max(2, round(share * len(own.X))))
        own = OwnRows(own.X[kept], _safe_indexing(own.y, kept), None)
    elif member.early_stopping:
        like = _take(rows, order[: max(2, round(share * (n_rows - n_train)))])
        own = OwnRows(like.X, like.y, like.sample_weight)
    return replace(_take(rows, order[: round(share * n_train)]), own=own), share


def _take(rows, chosen):
    """Some of the rows, none of which may be without weight."""
    weight = None if rows.sample_weight is None else np.maximum(rows.sample_weight[chosen], 1e-9)
    return replace(rows, X=rows.X[chosen], y=rows.y[chosen], sample_weight=weight)


def _is_first(y):
    """Whether a row is the first of its class; of numbers that does no harm."""
    is_first = np.zeros(y.shape[0], bool)
    if y.ndim == 1:
        is_first[np.unique(y, return_index=True)[1]] = True
    return is_first
