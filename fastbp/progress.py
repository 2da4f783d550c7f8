"""How far training has come: what a callback is told, and what later calls continue from."""

from dataclasses import dataclass, field
from math import inf, nan
from numbers import Integral, Real

import numpy as np


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
        Accuracy or R² on the held-out rows; None without early stopping.
    n_samples : int
        Rows trained on in the epoch.
    seconds : float
        Duration of the epoch, validation included.
    stopped : bool, default=False
        Whether training is to end after this epoch: see `stop`.
    """

    n_iter: int
    loss: float
    validation_score: float | None
    n_samples: int
    seconds: float
    stopped: bool = False

    def stop(self) -> None:
        """End training after this epoch, and keep what has been learned."""
        self.stopped = True


@dataclass
class Progress:
    """How far training has come. Warm starts and partial fits continue from the last one's.

    Parameters
    ----------
    loss_curve : list of float
        Every epoch's loss.
    validation_scores : list of float or None
        Every epoch's score; None where the loss decides when to stop.
    best_loss, best_validation_score : float or None
        The best value so far of what decides; None for the other.
    no_improvement_count : int
        Epochs since the last improvement by `tol`.
    n_samples_seen : int
        Rows trained on, counted again every epoch.
    n_iter : int
        Epochs of this call.
    loss : float
        The last epoch's loss.
    """

    loss_curve: list = field(default_factory=list)
    validation_scores: list | None = None
    best_loss: float | None = inf
    best_validation_score: float | None = None
    no_improvement_count: int = 0
    n_samples_seen: int = 0
    n_iter: int = 0
    loss: float = nan

    def end_epoch(self, loss, score, n_samples, tol):
        """Record an epoch; return whether it was the best so far."""
        self.n_iter += 1
        self.n_samples_seen += n_samples
        self.loss = loss = np.float64(loss)  # np.float64, as in scikit-learn
        self.loss_curve.append(loss)
        if self.validation_scores is None:
            improved, best = loss <= self.best_loss - tol, loss < self.best_loss
            self.best_loss = min(self.best_loss, loss)
        else:
            self.validation_scores.append(score)
            improved = score >= self.best_validation_score + tol
            best = score > self.best_validation_score
            if best:
                self.best_validation_score = score
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
    for name, default in (("t_", 0), ("_no_improvement_count", 0), ("n_iter_", 0)):
        count = attributes.get(name, default)
        if not isinstance(count, Integral) or count < 0:
            raise ValueError(f"{name} must be a whole number from 0, got {count!r}.")
    for name in ("loss_curve_", "validation_scores_"):
        values = attributes.get(name)
        if not (values is None or isinstance(values, list | np.ndarray)):
            raise ValueError(f"{name} must be a list of numbers, got {values!r}.")
    for name in ("best_loss_", "best_validation_score_", "loss_"):
        value = attributes.get(name)
        if value is not None and not isinstance(value, Real):
            raise ValueError(f"{name} must be a number, got {value!r}.")
