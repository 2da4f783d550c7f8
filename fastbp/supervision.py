"""What y, the weights of rows and the parameters together ask a network to learn."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from fastbp.labels import Labels, sorted_classes
from fastbp.losses import coefficient_of
from fastbp.targets import Targets


@dataclass(frozen=True)
class Supervision:
    """What a network is to learn.

    Parameters
    ----------
    targets : ndarray
        As `fastbp.data.Data` takes them.
    sample_weight : ndarray of shape (n_samples,), or None
    n_outputs : int
    loss_coefficients : tuple of float
    label_smoothing : float, default=0.0
    units : Targets or None, default=None
        What a regressor keeps of its targets, where anything matters.
    """

    targets: np.ndarray
    sample_weight: np.ndarray | None
    n_outputs: int
    loss_coefficients: tuple[float, ...]
    label_smoothing: float = 0.0
    units: Targets | None = None


def loss_coefficients(estimator, n_outputs, deviations=None):
    """The coefficient of an estimator's loss for each output; () where it has none.

    Parameters
    ----------
    estimator : estimator
    n_outputs : int
    deviations : sequence of float or None, default=None
        Standard deviations of the targets that the network learns; None where all are 1.
    """
    coefficient = coefficient_of(estimator.loss)
    if coefficient is None:
        return ()
    given = getattr(estimator, coefficient.parameter)
    numbers = [given] * n_outputs if isinstance(given, Real) else given
    if coefficient.is_relative and deviations is not None:
        numbers = [number * each for number, each in zip(numbers, deviations, strict=True)]
    return tuple(map(float, numbers))


# ---- labels -------------------------------------------------------------------------------------


def labels_of(y, known, incremental, classes):
    """The labels of a classifier: those it knows, those of y, or those that a user lists.

    Parameters
    ----------
    y : array
    known : Labels or None
        Those of the model that training continues from.
    incremental : bool
        Whether y may have only some of them, as in `partial_fit`.
    classes : array-like or None
        Of `partial_fit`.

    Raises
    ------
    ValueError
        If they are not the same as before, or not given at first.
    """
    if not incremental:
        found = Labels.of(y)
        if known is None:
            return found
        if not np.array_equal(found.classes, np.sort(known.classes)):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {known.classes}, `y` has {found.classes}"
            )
        return known
    if classes is None:
        if known is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return known
    classes = sorted_classes(classes)
    if known is None:
        return Labels.of(y, classes)
    if not np.array_equal(np.sort(known.classes), classes):
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
            f"{known.classes!r}"
        )
    return known


# ---- weights of classes -------------------------------------------------------------------------


def weigh_classes(class_weight, labels, targets, sample_weight):
    """Multiply the weights of rows by those of their classes, as scikit-learn's linear models do.

    Parameters
    ----------
    class_weight : dict, "balanced" or list
        A list has an entry for each label; a row's weight is the product over its labels.
    labels : Labels
    targets : ndarray
        As `labels` encodes them.
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    weight : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If classes are not among the labels, weights are negative or not finite, or the kind of
        `class_weight` does not go with the labels.
    """
    weight = np.ones(len(targets)) if sample_weight is None else sample_weight.copy()
    if labels.kind != "multilabel":
        if isinstance(class_weight, list):
            raise ValueError(
                f"class_weight={class_weight!r} is a list, which is for label indicators. Use a "
                "dict of the classes' weights, or 'balanced'."
            )
        indices = targets.ravel().astype(np.int64)
        weights = _weights_of(class_weight, labels.classes, indices, sample_weight)
        weight *= weights[indices]
    else:
        for entry, indicators in zip(_entries(class_weight, labels), targets.T, strict=True):
            indices = indicators.astype(np.int64)
            weight *= _weights_of(entry, np.arange(2), indices, sample_weight)[indices]
    if not np.isfinite(weight).all() or weight.min() < 0:
        raise ValueError(
            f"class_weight={class_weight!r} makes weights that are negative or not finite. They "
            "must be numbers from 0."
        )
    if not weight.any():
        raise ValueError(
            f"class_weight={class_weight!r} and sample_weight leave no row a weight above 0."
        )
    return weight


def _entries(class_weight, labels):
    """One dict, or "balanced", for each label."""
    n_labels = labels.n_outputs
    if isinstance(class_weight, str):
        return [class_weight] * n_labels
    if not isinstance(class_weight, list) or len(class_weight) != n_labels:
        raise ValueError(
            f"class_weight must be a list of {n_labels} dicts, one with the weights of 0 and 1 for "
            f"each label, or 'balanced', as y has label indicators; got {class_weight!r}."
        )
    return class_weight


def _weights_of(class_weight, classes, indices, sample_weight):
    """The weight of every class of one output."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(indices, sample_weight, len(classes)).astype(np.float64)
        present = counts > 0
        # A class that no weight is in has no row that matters.
        return np.where(present, counts.sum(), 0) / (present.sum() * np.where(present, counts, 1))
    if not isinstance(class_weight, dict):
        raise ValueError(
            f"class_weight must hold a dict, or 'balanced', for each label, got {class_weight!r}."
        )
    names, weights = classes.tolist(), np.ones(len(classes))
    for index, name in enumerate(names):
        try:
            weights[index] = class_weight.get(name, 1)
        except (TypeError, ValueError):
            raise ValueError(
                f"class_weight must hold numbers, got {class_weight[name]!r} for class {name!r}."
            ) from None
    unknown = [key for key in class_weight if key not in names]
    without = [name for name in names if name not in class_weight]
    if unknown and without:  # as in scikit-learn: a name may be misspelt
        raise ValueError(
            f"The classes, {without}, are not in class_weight, which has {unknown} instead: "
            f"class_weight={class_weight!r}."
        )
    return weights
