"""Fitted models in files that are safe to load from anybody: numbers and text, and no code."""

import os
import warnings
from dataclasses import fields
from inspect import signature

import numpy as np

from fastbp import container
from fastbp import parameters as params
from fastbp.generators import take_apart
from fastbp.optimizers import Optimizer
from fastbp.plain import encode, encode_labels

FORMAT, VERSION = "fastbp", 1  # raise it where older programs would misread a file
FIELDS = {
    "format", "version", "fastbp_version", "estimator", "parameters", "network", "input_scale",
    "labels", "feature_names", "training", "optimizer",
}  # fmt: skip
# They belong to a program and its machine: a file must neither run nor overwrite anything.
LEFT_OUT = ("callback", "checkpoint")
_MOST_THREADS = 1024
# Fitted attributes apart from the model. Their names in the file have no underscores at the ends.
TRAINING = (
    "n_iter_", "t_", "_no_improvement_count", "loss_", "best_loss_", "best_validation_score_",
)  # fmt: skip
CURVES = "loss_curve_", "validation_scores_"
NETWORK = "output_activation", "loss", "average_outputs"
OPTIMIZER = [each.name for each in fields(Optimizer) if each.name not in ("moments", "schedule")]
_OTHERS = {"_model", "_optimizer", "_holdout_state", *TRAINING, *CURVES}


class LostFunction:
    """Stands for a `learning_rate` function in a loaded model, since a file holds no code.

    The model predicts. Training raises a ValueError that says which function is missing.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name):
        self.name = name

    def __call__(self, progress):
        """Say what is missing."""
        raise ValueError(
            f"learning_rate was the function {self.name!r} when this model was saved, and a file "
            "holds no functions. Before training goes on, set it again: "
            "model.set_params(learning_rate=...)."
        )

    def __repr__(self):
        return f"LostFunction({self.name!r})"

    def __eq__(self, other):
        return isinstance(other, LostFunction) and self.name == other.name

    def __hash__(self):
        return hash(self.name)


class SavingMixin:
    """Adds `save` to the estimators."""

    def save(self, path, *, optimizer=True):
        """Save the fitted model to a file that is safe to load from anybody.

        `fastbp.load` reads it: the model there predicts the same bits. The file holds numbers and
        text, and no code: parameters and labels as JSON, weights as safetensors, which other
        programs read, too. An existing file is replaced in one step.

        Parameters
        ----------
        path : str or path-like
            Customarily with the suffix .fastbp.
        optimizer : bool, default=True
            Whether to keep the optimizer's state, so that `partial_fit` continues to the bit as it
            would here. It is as large as the weights with 'sgd', twice as large with 'adam' and
            'adamw'. Without it `partial_fit` starts with a new optimizer.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is of a subclass, whose code would be missing.
        ValueError
            If a parameter or label is of a type that cannot be saved.
        OSError
            If the file cannot be written. It is then as before.

        Warns
        -----
        UserWarning
            If something stays behind: a callback, attributes of the user's own, metadata requests,
            or a function `learning_rate`, without which the loaded model predicts but does not
            train. `checkpoint` stays behind silently: a path belongs to a machine.

        Examples
        --------
        >>> import fastbp, pathlib, tempfile
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = fastbp.MLPClassifier((10,), solver="lbfgs", random_state=0).fit(X, y)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "iris.fastbp")
        >>> model.save(path)
        >>> loaded = fastbp.load(path)
        >>> bool((loaded.predict_proba(X) == model.predict_proba(X)).all())
        True
        """
        model = self._fitted()
        name = type(self).__name__
        if type(self) is not classes().get(name):
            raise TypeError(
                f"save is for {' and '.join(classes())} themselves; {name} has code of its own, "
                "which a file cannot hold. Use pickle or joblib."
            )
        check_parameters(self)
        left_behind = _left_behind(self)
        arrays, description = _describe(self, model, optimizer)
        container.write(path, arrays, description)
        if left_behind:
            warnings.warn(
                f"{os.fsdecode(path)} does not hold {', '.join(left_behind)}.", stacklevel=2
            )


def classes():
    """The classes that can be saved, by name."""
    from fastbp.classifier import MLPClassifier
    from fastbp.regressor import MLPRegressor

    return {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def check_parameters(estimator):
    """Check parameters as a fit would, before they are saved and after they are loaded."""
    estimator._validate_params()
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    params.hidden_activations(estimator.activation, len(sizes))
    if estimator.n_threads is not None and estimator.n_threads > _MOST_THREADS:
        raise ValueError(
            f"n_threads must be at most {_MOST_THREADS} in a file, got {estimator.n_threads}."
        )


# ---- save -------------------------------------------------------------------------------------


def _left_behind(estimator):
    """What a file does not hold, in words."""
    found = []
    if estimator.callback is not None:
        found.append(f"callback={estimator.callback!r}")
    if callable(estimator.learning_rate) and not isinstance(estimator.learning_rate, LostFunction):
        found.append(
            f"the function learning_rate={estimator.learning_rate!r}, which must be set again "
            "before the loaded model can be trained"
        )
    known = _OTHERS | {*signature(type(estimator)).parameters}
    own = [name for name in vars(estimator) if name not in known]
    return [*found, *(f"the attribute {name}" for name in own)]


def _describe(estimator, model, with_optimizer):
    """Take an estimator apart into arrays and what JSON can say."""
    from fastbp import __version__

    network, attributes = model.network, vars(estimator)
    coefs, intercepts = network.views(model.flat(model.parameter_dtype(), copy=False))
    arrays = {}
    for layer, (weights, bias) in enumerate(zip(coefs, intercepts, strict=True)):
        arrays[f"coefs.{layer}"], arrays[f"intercepts.{layer}"] = weights, bias
    training = {
        name.strip("_"): encode(attributes[name]) for name in TRAINING if name in attributes
    }
    for name in CURVES:
        if attributes.get(name) is not None:
            arrays[name.strip("_")] = np.asarray(attributes[name], np.float64)
    if attributes.get("_holdout_state") is not None:
        arrays["holdout"], training["holdout"] = take_apart(attributes["_holdout_state"])
    state = attributes.get("_optimizer") if with_optimizer else None
    if state is not None:
        arrays |= {f"moments.{i}": moment for i, moment in enumerate(state.moments)}
    names = model.feature_names
    return arrays, {
        "format": FORMAT,
        "version": VERSION,
        "fastbp_version": __version__,
        "estimator": type(estimator).__name__,
        "parameters": _describe_parameters(estimator, arrays),
        "network": {
            "layer_sizes": [int(size) for size in network.layer_sizes],
            "hidden_activations": list(network.hidden_activations),
            **{name: getattr(network, name) for name in NETWORK},
        },
        "input_scale": encode(model.input_scale),
        "labels": encode_labels(model.labels),
        "feature_names": None if names is None else [str(name) for name in names],
        "training": training,
        "optimizer": None if state is None else _describe_optimizer(state),
    }


def _describe_parameters(estimator, arrays):
    described = {}
    for name in signature(type(estimator)).parameters:
        value = getattr(estimator, name)
        if name in LEFT_OUT:
            continue
        if isinstance(value, np.random.RandomState):
            arrays[name], numbers = take_apart(value)
            described[name] = {"generator": numbers}
        elif callable(value):
            described[name] = _describe_function(value)
        else:
            try:
                described[name] = encode(value)
            except ValueError as error:
                raise ValueError(f"{name} cannot be saved: {error}") from error
    return described


def _describe_optimizer(optimizer):
    schedule = optimizer.schedule
    described = {name: encode(getattr(optimizer, name)) for name in OPTIMIZER}
    described["schedule"] = _describe_function(schedule) if callable(schedule) else schedule
    return described


def _describe_function(function):
    if isinstance(function, LostFunction):
        return {"function": function.name}
    return {"function": str(getattr(function, "__qualname__", type(function).__name__))}
