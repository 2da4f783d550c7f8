"""What a fitted estimator for tables has learned: one record, exchanged whole."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TabularModel:
    """All that a prediction needs.

    An estimator keeps one as `_model`, and its fitted attributes are views of it. A prediction
    takes the record once, so that a refit in another thread can never mix two models.

    Parameters
    ----------
    preprocessing : Pipeline
        Fitted; from a table to an array of float32.
    members : tuple of MLPClassifier or of MLPRegressor
        Fitted; their predictions are averaged.
    bounds : ndarray of shape (2, n_outputs), or None
        Smallest and largest target of each output, between which predictions are; None of a
        classifier.
    """

    preprocessing: object
    members: tuple
    bounds: np.ndarray | None = None

    def check(self):
        """See that all parts belong to one model, as after a fit.

        Raises
        ------
        ValueError
            It says what does not fit, as in a damaged file.
        """
        if not isinstance(self.members, tuple) or not self.members:
            raise ValueError(f"members must be a tuple of networks, got {self.members!r}.")
        models = [member._fitted() for member in self.members]
        first, n_encoded = models[0], self.preprocessing[-1].n_features_in_
        for index, model in enumerate(models):
            if model.n_features != n_encoded or model.feature_names is not None:
                raise ValueError(
                    f"Member {index} must have {n_encoded} features without names, as many as the "
                    f"table is encoded in; got {model.n_features}."
                )
            if not _are_alike(model, first):
                raise ValueError(f"Member {index} has other labels or outputs than the first.")
        bounds, is_classifier = self.bounds, first.labels is not None
        if is_classifier and bounds is not None:
            raise ValueError("A classifier has no bounds of its predictions.")
        if not is_classifier and not _are_bounds(bounds, first.network.layer_sizes[-1]):
            raise ValueError(
                f"bounds must be the smallest and largest targets of "
                f"{first.network.layer_sizes[-1]} output(s), got {bounds!r}."
            )

    def clipped(self, predictions):
        """Bring a member's predictions, of one output or several, into the range of the targets."""
        low, high = self.bounds if predictions.ndim > 1 else self.bounds[:, 0]
        return np.clip(predictions, low, high)


def _are_alike(one, other):
    """Whether two networks predict the same things."""
    if (one.labels is None) != (other.labels is None):
        return False
    if one.labels is None:
        return one.network.layer_sizes[-1] == other.network.layer_sizes[-1]
    same_kind = (one.labels.kind, one.labels.sparse) == (other.labels.kind, other.labels.sparse)
    return same_kind and np.array_equal(one.labels.classes, other.labels.classes)


def _are_bounds(bounds, n_outputs):
    is_array = isinstance(bounds, np.ndarray) and bounds.dtype == np.float64
    if not is_array or bounds.shape != (2, n_outputs):
        return False
    return bool(np.isfinite(bounds).all() and (bounds[0] <= bounds[1]).all())


class View:
    """A fitted attribute of an estimator for tables, read from its model.

    Parameters
    ----------
    read : callable
        From the model to the value; AttributeError means that the model has no such attribute.
    """

    def __init__(self, read):
        self._read = read

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, estimator, owner=None):
        if estimator is None:
            return self
        model = vars(estimator).get("_model")
        try:
            if model is not None:
                return self._read(model)
        except AttributeError:
            pass
        raise AttributeError(
            f"{type(estimator).__name__!r} object has no attribute {self._name!r}"
            + (" before it is fitted" if model is None else "")
        )

    def __set__(self, estimator, value):
        raise AttributeError(
            f"{self._name} is read from the fitted model and cannot be assigned, got {value!r}."
        )


def of_first(name):
    """A view of an attribute of the first member."""
    return View(lambda model: getattr(model.members[0], name))
