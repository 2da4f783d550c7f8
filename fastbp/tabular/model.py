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

    def clipped(self, predictions):
        """Bring a member's predictions, of one output or several, into the range of the targets."""
        low, high = self.bounds if predictions.ndim > 1 else self.bounds[:, 0]
        return np.clip(predictions, low, high)


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
