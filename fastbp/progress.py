"""How far training has come: what a callback is told, and what later calls continue from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, nan
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from fastbp.curves import Curve

if TYPE_CHECKING:
    from fastbp.hints import Array, ArrayLikeOrSparse, FloatArray


@dataclass
class EpochReport:
    """What a callback gets after every epoch (after every iteration of lbfgs).

    Parameters
    ----------
    n_iter : int
        Epochs of this call so far, this one included.
    loss : float
        Training loss of the epoch.
    validation_score : float or None
        Score of the held-out rows, the first where `scoring` names several; None where there are no
        such rows.
    n_samples : int
        Rows trained on in the epoch.
    seconds : float
        Duration of the epoch, validation included.
    stopped : bool, default=False
        Whether training is to end after this epoch: see `stop`.
    validation_loss : float or None, default=None
        Loss of the held-out rows without the penalty; None where there are no such rows.
    learning_rate : float or None, default=None
        That of the epoch's last update; None with lbfgs.
    seconds_waiting : float or None, default=None
        For how long training has waited for rows of a source (`fastbp.sources`); None where they
        are in memory.
    """

    n_iter: int
    loss: float
    validation_score: float | None
    n_samples: int
    seconds: float
    stopped: bool = False
    validation_loss: float | None = None
    learning_rate: float | None = None
    seconds_waiting: float | None = None
    _present: Callable | None = field(default=None, repr=False, compare=False)

    def __getstate__(self):
        return {**vars(self), "_present": None}  # a copy has no weights

    def stop(self) -> None:
        """End training after this epoch, and keep what has been learned."""
        self.stopped = True

    def predict(self, X: ArrayLikeOrSparse) -> Array:
        """Predict with the weights of this epoch, as the estimator's `predict` would.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray
            Labels or numbers.

        Raises
        ------
        RuntimeError
            After the callback has returned, when training goes on with these weights.
        ValueError
            As the estimator's.
        """
        return self._estimator("predict").predict(X)

    def predict_proba(self, X: ArrayLikeOrSparse) -> FloatArray:
        """Predict probabilities with the weights of this epoch; for classifiers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)

        Raises
        ------
        AttributeError
            Of a regressor.
        RuntimeError
            After the callback has returned.
        """
        estimator = self._estimator("predict_proba")
        if not hasattr(estimator, "predict_proba"):
            raise AttributeError(
                f"A {type(estimator).__name__} has no predict_proba: use report.predict(X)."
            )
        return estimator.predict_proba(X)

    def _estimator(self, method):
        if self._present is None:
            raise RuntimeError(
                f"report.{method} works while the callback runs: later the weights of epoch "
                f"{self.n_iter} are no longer there."
            )
        return self._present()


@dataclass
class Progress:
    """How far training has come. Warm starts and partial fits continue from the last one's.

    Parameters
    ----------
    loss_curve : Curve
        Every epoch's loss.
    validation_scores, validation_loss_curve : list of float or None
        Every epoch's score and loss of the held-out rows; None where there are none.
    validation_metrics : dict of str to list of float, or None
        Every epoch's scores by name where there are several; otherwise None.
    best_loss, best_validation_score : float or None
        The best value so far of what decides; None for the other.
    best_iter : int
        The epoch of this call that has it; 0 if none was better than what the call started from.
    no_improvement_count : int
        Epochs since the last improvement by `tol`.
    n_samples_seen : int
        Rows trained on, counted again every epoch.
    n_iter : int
        Epochs of this call.
    loss : float
        The last epoch's loss.
    """

    loss_curve: Curve = field(default_factory=Curve)
    validation_scores: list | None = None
    validation_loss_curve: list | None = None
    validation_metrics: dict | None = None
    best_loss: float | None = inf
    best_validation_score: float | None = None
    best_iter: int = 0
    no_improvement_count: int = 0
    n_samples_seen: int = 0
    n_iter: int = 0
    loss: float = nan

    @property
    def is_scored(self):
        """Whether the score decides, and not the loss."""
        return self.best_validation_score is not None

    def end_epoch(self, loss, judgement, n_samples, tol, ties="first"):
        """Record an epoch, with its `Judgement` or None; return whether it was the best so far.

        Of epochs with equal scores the first or the last counts as the best, as `ties` says.
        """
        self.n_iter += 1
        self.n_samples_seen += n_samples
        self.loss = loss = np.float64(loss)  # np.float64, as in scikit-learn
        self.loss_curve = self.loss_curve.prolonged(loss)
        if judgement is not None:
            self.validation_scores.append(judgement.score)
            self.validation_loss_curve.append(judgement.loss)
            for name, score in judgement.metrics.items():
                self.validation_metrics[name].append(score)
        if not self.is_scored:
            improved, best = loss <= self.best_loss - tol, loss < self.best_loss
            self.best_loss = min(self.best_loss, loss)
        else:
            score = judgement.score
            improved = score >= self.best_validation_score + tol
            best = score > self.best_validation_score
            best |= ties == "last" and score == self.best_validation_score
            if best:
                self.best_validation_score = score
        if best:
            self.best_iter = self.n_iter
        self.no_improvement_count = 0 if improved else self.no_improvement_count + 1
        return best


def check_progress(attributes):
    """See that an estimator's attributes about its training are what a fit has left.

    Parameters
    ----------
    attributes : dict
        From names to values; missing ones are as at the start.

    Raises
    ------
    ValueError
        It names the attribute, which was assigned or comes from a damaged pickle.
    """
    for name in ("t_", "_no_improvement_count", "n_iter_", "best_iter_"):
        count = attributes.get(name, 0)
        if not isinstance(count, Integral) or count < 0:
            raise ValueError(f"{name} must be a whole number from 0, got {count!r}.")
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        values = attributes.get(name)
        if not (values is None or isinstance(values, Curve | list | np.ndarray)):
            raise ValueError(f"{name} must be a list of numbers, got {values!r}.")
    metrics = attributes.get("validation_metrics_")
    if not (metrics is None or isinstance(metrics, dict)) or not all(
        isinstance(name, str) and isinstance(values, list | np.ndarray)
        for name, values in (metrics or {}).items()
    ):
        raise ValueError(
            f"validation_metrics_ must be a dict of lists of numbers, got {metrics!r}."
        )
    for name in ("best_loss_", "best_validation_score_", "loss_"):
        value = attributes.get(name)
        if value is not None and not isinstance(value, Real):
            raise ValueError(f"{name} must be a number, got {value!r}.")


def short(number):
    """1234567 -> '1.23M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


LITTLE = 0.05  # of the time


def who_waits(waited, seconds):
    """Whether training waits for the rows of a source, or these are read in time, in words.

    Examples
    --------
    >>> who_waits(3.0, 10.0), who_waits(0.01, 10.0)
    ('waits for rows 30%', 'rows are there in time')
    """
    share = waited / seconds if seconds else 0.0
    return f"waits for rows {share:.0%}" if share > LITTLE else "rows are there in time"
