"""How good a running fit is on rows that it does not learn from: loss and scores of an epoch.

These are rows held out of X for early stopping, or those that the user gives as `X_val`. The
engine computes their outputs once an epoch; losses and default scores are plain NumPy, so that no
other library's threads are woken.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from types import SimpleNamespace

import numpy as np
from scipy.special import expit
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import InvalidParameterError

from fastbp.data import Data
from fastbp.loss_values import row_losses
from fastbp.scoring import call_scorer, read_scoring
from fastbp.validation import check_sample_weight, check_training_data, kind_of_targets

PENDING_ROWS = 4096  # whose loss is computed at once


@dataclass(frozen=True)
class OwnRows:
    """Validation rows as a user gives them to `fit`, or, from `check` on, checked.

    Parameters
    ----------
    X, y, sample_weight : object
    raw : object, default=None
        X as it was given.
    """

    X: object
    y: object
    sample_weight: object
    raw: object = None

    @classmethod
    def of(cls, X_val, y_val, sample_weight_val):
        """The rows, or None if none are given; raise if some of them are missing."""
        given = {"X_val": X_val, "y_val": y_val}
        missing = [name for name, value in given.items() if value is None]
        if not missing:
            return cls(X_val, y_val, sample_weight_val)
        if len(missing) == 1:
            (there,) = given.keys() - missing
            raise ValueError(
                f"{there} is provided, but {missing[0]} was not provided. Give both, or neither."
            )
        if sample_weight_val is not None:
            raise ValueError(
                "sample_weight_val is provided, but X_val and y_val were not provided."
            )
        return None

    def check(self, estimator, n_features, feature_names):
        """Check the rows as X, y and sample_weight are checked, and that X has the same columns."""
        model = SimpleNamespace(n_features=n_features, feature_names=feature_names)
        with naming_validation():
            kind = kind_of_targets(estimator)
            X, y, _ = check_training_data(estimator, self.X, self.y, model=model, **kind)
            return OwnRows(X, y, check_sample_weight(self.sample_weight, X), self.X)

    def supervise(self, fit):
        """Targets and weights with the labels, or the units, of the y of a fit."""
        estimator, dtype = fit.estimator, fit.dtype
        known = SimpleNamespace(labels=fit.labels)
        with naming_validation():
            targets, _, found = estimator._encode(self.y, dtype, known, True, None)
            supervision = estimator._supervise(
                targets, fit.labels, self.sample_weight, dtype, fit.units
            )
            if supervision.n_outputs != fit.network.layer_sizes[-1]:
                expected = fit.y.shape[1] if fit.y.ndim > 1 else 1
                raise ValueError(f"y has {found} columns, but the y of training has {expected}.")
        return supervision


class naming_validation:  # noqa: N801, used like a function
    """A context in which messages about X, y and sample_weight say that they are of validation."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind in (ValueError, TypeError, InvalidParameterError):
            raise kind(f"In X_val, y_val and sample_weight_val: {error}") from error


@dataclass(frozen=True)
class Judgement:
    """An epoch's verdict.

    Parameters
    ----------
    score : float
        More is better; NaN where outputs were not finite.
    loss : float
        Mean by sample weight, without penalty.
    metrics : dict of str to float
        All scores by name, if `scoring` names several; otherwise empty.
    """

    score: float
    loss: float
    metrics: dict


@dataclass(frozen=True)
class Judge:
    """The held-out rows, and what is computed of them after each epoch.

    Parameters
    ----------
    targets, sample_weight : ndarray or None
        Of these rows, as in `fastbp.data.Data`.
    rows : ndarray or None
        Their places in the data of the fit; None if they are the user's own.
    own : Data or None
        The user's own rows.
    decides : bool
        Whether the score decides when to stop, and which weights are kept.
    default_score : callable
        From outputs, `targets` and `sample_weight` to a float.
    scorers : dict
        As from `fastbp.scoring.read_scoring`.
    raw : object
        X as it was given, of which `rows` are held out, or the user's own.
    labels : ndarray
        The y of these rows, for scorers.
    pending : list of (int, ndarray)
        Outputs of epochs whose loss nobody has asked for yet, and its place in the curve.
    """

    targets: np.ndarray
    sample_weight: np.ndarray | None
    rows: np.ndarray | None
    own: Data | None
    decides: bool
    default_score: Callable
    scorers: dict
    raw: object
    labels: object
    pending: list = field(default_factory=list)

    @cached_property
    def scored_rows(self):
        """X of these rows, as scorers are given it."""
        return self.raw if self.rows is None else _safe_indexing(self.raw, self.rows)

    @property
    def names(self):
        """Of the scores, if there are several."""
        return list(self.scorers) if len(self.scorers) > 1 else []

    def failed(self):
        """The judgement where training has failed."""
        return Judgement(nan, nan, dict.fromkeys(self.names, nan))

    def judge(self, training, n_iter):
        """Compute the loss and the scores with the present weights, those after `n_iter` epochs."""
        network = training.engine.network
        data = training.data if self.own is None else self.own
        # Logits tell apart what as probabilities is 1, and one pass makes both.
        has_logits = network.output_activation == "logistic" and any(self.scorers.values())
        outputs = training.predict(data, self.rows, "identity" if has_logits else None)
        if not np.isfinite(outputs).all():
            return self.failed()
        logits, outputs = (outputs, expit(outputs)) if has_logits else (None, outputs)
        if not self.scorers:
            loss = self._loss_or_later(training, outputs, n_iter)
            with np.errstate(over="ignore", invalid="ignore"):  # a regression about to diverge
                score = self.default_score(
                    outputs, targets=self.targets, sample_weight=self.sample_weight
                )
            return Judgement(float(score), loss, {})
        (loss,) = self._losses(network, [outputs])
        known = {None: outputs, "identity": logits} if has_logits else {None: outputs}
        estimator = training.present_estimator() if any(self.scorers.values()) else None
        if estimator is not None:
            estimator.n_iter_ = n_iter
            _remember(estimator, self.scored_rows, known)
        scores = {
            name: -loss
            if scorer is None
            else call_scorer(
                name, scorer, estimator, self.scored_rows, self.labels, self.sample_weight
            )
            for name, scorer in self.scorers.items()
        }
        return Judgement(next(iter(scores.values())), loss, scores if self.names else {})

    def _losses(self, network, outputs):
        """The loss of each of several epochs, at the price of few calls of NumPy's functions."""
        n_epochs, n_rows = len(outputs), len(outputs[0])
        repeats = (n_epochs, *[1] * (self.targets.ndim - 1))
        losses = row_losses(network, np.tile(self.targets, repeats), np.concatenate(outputs))
        with np.errstate(over="ignore", invalid="ignore"):
            losses = losses.reshape(n_epochs, n_rows)
            return np.average(losses, axis=1, weights=self.sample_weight).tolist()

    def _loss_or_later(self, training, outputs, n_iter):
        """The loss, or NaN in its place where it can wait: short epochs take no longer than it."""
        network, curve = training.engine.network, training.progress.validation_loss_curve
        if training.watchers or n_iter == 0:
            return self._losses(network, [outputs])[0]
        self.pending.append((len(curve), outputs))
        if len(self.pending) * len(outputs) < PENDING_ROWS:
            return nan
        *_, loss = self.settle(network, curve)
        return loss

    def settle(self, network, curve):
        """Write the losses that have waited into the curve, as far as it goes; return them."""
        if not self.pending:
            return []
        places, outputs = zip(*self.pending, strict=True)
        self.pending.clear()
        losses = self._losses(network, outputs)
        for place, loss in zip(places, losses, strict=True):
            if place < len(curve):
                curve[place] = loss
        return losses


def _remember(estimator, X, known):
    """Let an estimator of one epoch give outputs that are known, if it is asked for those of X."""
    compute = estimator._outputs

    def outputs(model, rows, activation=None):
        if rows is X and activation in known:
            return known[activation].copy()  # probabilities are written into them
        return compute(model, rows, activation)

    estimator._outputs = outputs


def make_judge(fit, own, rows, data):
    """The judge of a fit.

    Parameters
    ----------
    fit : fastbp.fitting.Fit
    own : OwnRows or None
        Checked.
    rows : ndarray or None
        Held out of the data of the fit; None with rows of the user's own.
    data : Data

    Returns
    -------
    judge : Judge or None
        None if there is nothing to judge by.
    """
    estimator = fit.estimator
    if own is None and rows is None:
        return None
    if own is None:
        weight, own_data, raw = data.sample_weight, None, fit.raw
        targets, labels = data.targets[rows], fit.y[rows]
        weight = None if weight is None else weight[rows]
    else:
        supervision = own.supervise(fit)
        # Classes have no weights here, as in scikit-learn's `HistGradientBoostingClassifier`.
        weight = supervision.sample_weight if fit.labels is None else own.sample_weight
        targets, raw, labels = supervision.targets, own.raw, own.y
        own_data = Data(own.X, targets, weight, data.input_scale)
    scorers = read_scoring(estimator.scoring)
    if not scorers and fit.labels is None and len(targets) < 2:
        raise ValueError(
            "X_val must have at least two rows, as R² is not defined of one; got 1 row. "
            "scoring='loss' takes a single row."
        )
    return Judge(
        targets, weight, rows, own_data,
        decides=bool(estimator.early_stopping) and estimator.solver != "lbfgs",
        default_score=_default_score(estimator, fit.labels, fit.units),
        scorers=scorers, raw=raw, labels=labels,
    )  # fmt: skip


def _default_score(estimator, labels, units):
    def score(outputs, targets, sample_weight):
        if units is not None:
            outputs = units.clip(outputs, learned=True)
        return estimator._score_outputs(outputs, labels, targets, sample_weight)

    return score
