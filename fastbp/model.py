"""What a fitted estimator has learned: one record, exchanged whole at the end of a fit."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fastbp.labels import Labels
from fastbp.network import Network
from fastbp.targets import Targets

if TYPE_CHECKING:
    from fastbp.hints import Array, FloatArray


_AS_THEY_ARE = Targets()


class _Memory:
    """What a model remembers of its checks, which is no part of its state."""

    __slots__ = "_known", "_vector"


@dataclass(frozen=True)
class Model(_Memory):
    """All that a prediction needs.

    An estimator keeps one as `_model`, and its fitted attributes are views of it. A prediction
    takes the record once, so that a refit in another thread, or in a callback, can never mix two
    models.

    Parameters
    ----------
    network : Network
    coefs : list of ndarray of shape (fan_in, fan_out)
        Users may change or replace the arrays, so that their shapes are checked at every use.
    intercepts : list of ndarray of shape (fan_out,)
    labels : Labels or None, default=None
        None of a regressor.
    feature_names : ndarray of str of shape (n_features,), or None, default=None
    input_scale : float, default=1.0
        By which X was multiplied in training.
    targets : Targets or None, default=None
        What a regressor keeps of its targets; None where nothing matters, and of a classifier.
    extras : tuple of ndarray, default=()
        The network's extra arrays: slopes and embedding.
    scales : ndarray of shape (n_inputs,), or None, default=None
        Factors of the inputs that training has found, for information: the weights contain them.

    Examples
    --------
    >>> network = Network((2, 1), (), "identity", "squared_error")
    >>> model = Model(network, [np.ones((2, 1))], [np.zeros(1)])
    >>> model.n_features, model.parameter_dtype(), model.flat(np.float32)
    (2, dtype('float64'), array([1., 1., 0.], dtype=float32))
    """

    network: Network
    coefs: list
    intercepts: list
    labels: Labels | None = None
    feature_names: np.ndarray | None = None
    input_scale: float = 1.0
    targets: Targets | None = None
    extras: tuple = ()
    scales: np.ndarray | None = None

    @classmethod
    def of(cls, network, parameters, **others):
        """The model with these parameters of a network, whose scales become part of the weights."""
        scales = network.extras(parameters).get("scales", [None])[0]
        network, parameters = network.folded(), network.fold(parameters)
        extras = network.extras(parameters).values()
        return cls(
            network, *network.views(parameters), **others,
            extras=tuple(array for arrays in extras for array in arrays), scales=scales,
        )  # fmt: skip

    def predictions_of(self, outputs):
        """What a regressor predicts, from the network's outputs."""
        return (self.targets or _AS_THEY_ARE).predictions_of(outputs)

    @property
    def n_features(self):
        """Columns of X."""
        return self.network.layer_sizes[0]

    def parameter_dtype(self):
        """The dtype that the model computes in: float32 if all of its parameters are."""
        vector = self._known_vector()
        if vector is not None:
            return vector.dtype
        arrays = _as_arrays("coefs_", self.coefs) + _as_arrays("intercepts_", self.intercepts)
        single = all(array.dtype == np.float32 for array in arrays)
        return np.dtype(np.float32 if single else np.float64)

    def flat(self, dtype, copy=True):
        """The parameters as one vector in the network's order, a copy unless none is needed.

        Raises
        ------
        ValueError
            If the arrays are not numbers, or their shapes are not the network's.
        """
        vector, network = None if copy else self._known_vector(), self.network
        if vector is not None and vector.dtype == dtype:
            return vector
        coefs, intercepts = _as_arrays("coefs_", self.coefs), self.intercepts
        intercepts, extras = _as_arrays("intercepts_", intercepts), self.extras
        if extras or network.extra_shapes:
            extras = _as_arrays("the slopes and the embedding", extras)
        for name, arrays, shapes in (
            ("coefs_", coefs, network.shapes),
            ("intercepts_", intercepts, [shape[1:] for shape in network.shapes]),
            ("the slopes and the embedding", extras, [shape for _, shape in network.extra_shapes]),
        ):
            found = [array.shape for array in arrays]
            if found != shapes:
                raise ValueError(f"{name} must be arrays of the shapes {shapes}, got {found}.")
        if copy:
            return network.flatten(coefs, intercepts, dtype, extras)
        vector = network.as_flat(coefs, intercepts, dtype, extras)
        if coefs and vector is coefs[0].base:
            self._remember(vector)
        return vector

    def _remember(self, vector):
        """Keep the vector whose views all arrays are; to find that takes half of a prediction."""
        arrays = *self.coefs, *self.intercepts, *self.extras
        forms = [(array.shape, array.strides, array.dtype) for array in arrays]
        known = self.network, arrays, forms, vector, vector.shape
        object.__setattr__(self, "_vector", known)

    def _known_vector(self):
        """The vector whose views all arrays were at the last look, if they still are, or None.

        Users may exchange arrays in the lists, and change an array's shape, strides or dtype in
        place; its memory stays.
        """
        known = getattr(self, "_vector", None)
        if known is None or known[0] is not self.network or known[3].shape != known[4]:
            return None
        _, before, forms, vector, _ = known
        try:
            arrays = *self.coefs, *self.intercepts, *self.extras
        except TypeError:  # none of these are lists any more
            return None
        if len(arrays) != len(before):
            return None
        for array, same, form in zip(arrays, before, forms, strict=True):
            if array is not same or (array.shape, array.strides, array.dtype) != form:
                return None
        return vector

    def checked(self):
        """Return this model; check it at its first use, and again where it has other fields.

        Only identities are compared, which takes a hundredth of a prediction's time.
        """
        known = getattr(self, "_known", None)
        if (
            known is None
            or known[0] is not self.network
            or known[1] is not self.labels
            or known[2] is not self.feature_names
            or known[3] is not self.input_scale
            or known[4] is not self.targets
        ):
            self.check()
            known = (
                self.network, self.labels, self.feature_names, self.input_scale, self.targets
            )  # fmt: skip
            object.__setattr__(self, "_known", known)
        return self

    def extras_of(self, kind):
        """The extra arrays of a kind, or None if the network has none of them."""
        kinds = [name for name, _ in self.network.extra_shapes]
        found = [array for name, array in zip(kinds, self.extras, strict=True) if name == kind]
        return found or None

    def __getstate__(self):
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def check(self):
        """See that all fields belong to one model, as after a fit.

        Raises
        ------
        ValueError
            It says which field does not fit, as in a damaged pickle.
        """
        if not isinstance(self.network, Network):
            raise ValueError(f"network must be a Network, got {self.network!r}.")
        self.network.check()
        if self.network.has_scales:
            raise ValueError("network must not have scales apart from its weights.")
        self.flat(self.parameter_dtype(), copy=False)
        if self.scales is not None and np.shape(self.scales) != (self.network.n_inputs,):
            raise ValueError(
                f"feature_scales_ must be a vector of {self.network.n_inputs} numbers, got an "
                f"array of shape {np.shape(self.scales)}."
            )
        if self.labels is not None:
            if not isinstance(self.labels, Labels):
                raise ValueError(f"labels must be a Labels, got {self.labels!r}.")
            self.labels.check(self.network)
        if self.feature_names is not None:
            check_feature_names(self.feature_names, self.n_features)
        scale = self.input_scale
        if not isinstance(scale, float) or not 0 < scale < np.inf:
            raise ValueError(f"input_scale must be a positive number, got {scale!r}.")
        if self.targets is not None:
            if not isinstance(self.targets, Targets) or self.labels is not None:
                raise ValueError(f"targets must be a regressor's Targets, got {self.targets!r}.")
            self.targets.check(self.network)


def check_feature_names(names, n_features):
    """See that there is a name for each column, as an array of strings."""
    is_array = isinstance(names, np.ndarray) and names.dtype == object
    if not is_array or not all(isinstance(name, str) for name in names.flat):
        raise ValueError(f"feature_names_in_ must be an object array of strings, got {names!r}.")
    if names.shape != (n_features,):
        raise ValueError(
            f"feature_names_in_ must be the names of {n_features} features, got an array of "
            f"shape {names.shape}."
        )


def _as_arrays(name, given):
    """Return `coefs_` or `intercepts_`, which users may have changed, as arrays of numbers."""
    try:
        arrays = [np.asarray(array) for array in given]
    except (TypeError, ValueError):  # no list, or rows of different lengths
        arrays = None
    if arrays is None or any(array.dtype.kind not in "biuf" for array in arrays):
        raise ValueError(f"{name} must be a list of arrays of numbers, got {given!r}.")
    return arrays


def model_of(estimator):
    """The model of an estimator, checked, to be taken once for all that a call needs.

    Returns
    -------
    model : Model or None
        None before the first fit.

    Raises
    ------
    ValueError
        If something has put there what is no model, or fields that do not fit together.
    """
    model = vars(estimator).get("_model")
    if model is None:
        return None
    if type(model) is not Model:
        raise ValueError(f"The model of this {type(estimator).__name__} is damaged: {model!r:.100}")
    return model.checked()


# ---- fitted attributes ----------------------------------------------------------------------


class View:
    """A fitted attribute of an estimator, read from its model.

    What is assigned before the first fit is kept under the attribute's own name: weights to start
    from.

    Parameters
    ----------
    read : callable
        From the model to the value; None means that the model has no such attribute.
    change : callable or None, default=None
        From a model and an assigned value to the fields of the model that change.
    """

    names: ClassVar = set()  # of all views

    def __init__(self, read, change=None):
        self._read, self._change = read, change

    def __set_name__(self, owner, name):
        self._name = name
        self.names.add(name)

    def __get__(self, estimator, owner=None):
        if estimator is None:
            return self
        attributes = vars(estimator)
        model = attributes.get("_model")
        try:
            value = attributes.get(self._name) if model is None else self._read(model)
        except (AttributeError, IndexError, TypeError):  # a damaged record
            value = None
        if value is None:
            raise AttributeError(
                f"{type(estimator).__name__!r} object has no attribute {self._name!r}"
                + (" before it is fitted" if model is None else "")
            )
        return value

    def __set__(self, estimator, value):
        model = vars(estimator).get("_model")
        if model is None:
            vars(estimator)[self._name] = value
            return
        if self._change is None:
            raise AttributeError(
                f"{self._name} is read from the weights of the fitted model and cannot be "
                f"assigned, got {value!r}."
            )
        vars(estimator)["_model"] = replace(model, **self._change(model, value))


def _keep_n_features(model, value):
    if value != model.n_features:
        raise ValueError(
            f"n_features_in_ must be {model.n_features}, as the first layer has that many inputs; "
            f"got {value!r}."
        )
    return {}


def _change_feature_names(model, value):
    names = np.asarray(value, dtype=object)
    check_feature_names(names, model.n_features)
    return {"feature_names": names}


def _change_classes(model, value):
    labels = replace(model.labels, classes=np.array(value))
    labels.check(model.network)
    return {"labels": labels}


class FittedViews:
    """The fitted attributes that every estimator reads from its model."""

    if TYPE_CHECKING:
        coefs_: list[FloatArray]
        intercepts_: list[FloatArray]
        n_features_in_: int
        feature_names_in_: Array
        n_layers_: int
        n_outputs_: int
        out_activation_: str
        feature_scales_: FloatArray
        activation_slopes_: list[FloatArray]
        embedding_: list[FloatArray]
    else:
        coefs_ = View(lambda model: model.coefs, lambda model, value: {"coefs": value})
        intercepts_ = View(
            lambda model: model.intercepts, lambda model, value: {"intercepts": value}
        )
        n_features_in_ = View(lambda model: model.n_features, _keep_n_features)
        feature_names_in_ = View(lambda model: model.feature_names, _change_feature_names)
        n_layers_ = View(lambda model: len(model.network.layer_sizes))
        n_outputs_ = View(lambda model: model.network.layer_sizes[-1])
        out_activation_ = View(lambda model: model.network.output_activation)
        feature_scales_ = View(lambda model: model.scales)
        activation_slopes_ = View(lambda model: model.extras_of("slopes"))
        embedding_ = View(lambda model: model.extras_of("embedding"))

    def __sklearn_is_fitted__(self):
        return vars(self).get("_model") is not None


class LabelViews:
    """Those of a classifier besides."""

    if TYPE_CHECKING:
        classes_: Array
    else:
        classes_ = View(lambda model: model.labels.classes, _change_classes)
