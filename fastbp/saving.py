"""Models in files that are safe to load from anybody: `save` and `load`.

A file is a description in JSON and arrays, in the format of `fastbp.container`. Nothing in it can
be run: the class is one of two names, and every field is checked as if a stranger had written it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import container, generators, values
from fastbp import parameters as params
from fastbp.optimizers import Optimizer
from fastbp.progress import check_progress

if TYPE_CHECKING:
    from fastbp.hints import Path

# Raise the version with every change, a new parameter included. Files of older versions stay
# readable: what they lack gets its default.
FORMAT, VERSION = "fastbp model", 2
KEYS = (
    "format", "version", "fastbp", "class", "parameters", "network", "labels", "feature_names",
    "input_scale", "progress", "optimizer", "holdout", "targets",
)  # fmt: skip
CLASSES = "MLPClassifier", "MLPRegressor"
OF_TABLES = "TabularMLPClassifier", "TabularMLPRegressor"  # see fastbp.tabular.files
# Names in files -> attributes of estimators.
COUNTS = {"n_iter": "n_iter_", "n_samples_seen": "t_"}
COUNTS |= {"no_improvement_count": "_no_improvement_count", "best_iter": "best_iter_"}
LOSSES = {"loss": "loss_", "best_loss": "best_loss_"}
SCORES = {"best_validation_score": "best_validation_score_"}
CURVES = {"loss_curve": "loss_curve_", "validation_scores": "validation_scores_"}
CURVES["validation_loss_curve"] = "validation_loss_curve_"
METRICS = "validation_metrics"  # a dict of curves
NUMBERS = COUNTS | LOSSES | SCORES
REQUIRED = {"n_iter", "n_samples_seen", "loss"}  # models of scikit-learn may lack the others
FITTED = {"_model", "_optimizer", "_holdout_state", *NUMBERS.values(), *CURVES.values()}
FITTED.add(f"{METRICS}_")
OPTIMIZER_FIELDS = "solver", "learning_rate_init", "learning_rate", "step", "epochs"
OPTIONAL_FIELDS = "ema_decay", "dropout", "has_scales"  # of the optimizer


class SavingMixin:
    """Adds `save` to the estimators."""

    def save(self, path: Path, *, optimizer: bool = True) -> None:
        """Save the fitted model to a file that `fastbp.load` reads.

        Other than a pickle, the file is safe to load from anybody: it holds numbers and text and
        nothing that could be run. It is written in one step: whatever happens, there is the old
        file or the new one. The format is safetensors.

        Parameters
        ----------
        path : str or path-like
            A file there is replaced.
        optimizer : bool, default=True
            Whether to keep the state of the optimizer, from which `partial_fit` goes on as it would
            here. Without it the file takes a third of the space ('adam', 'adamw', 'nadam') or half
            (the others), and predictions are the same; `partial_fit` begins with a new optimizer.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the model has not been fitted.
        TypeError
            If the model is of a subclass, which may hold more than a file has.
        ValueError
            If the model or its parameters are invalid, or if a label or a parameter is of a type
            that cannot be stored. A function as `learning_rate` is refused rather than left out, as
            the loaded model would train otherwise without a word: use
            `set_params(learning_rate="constant")` if the model has been trained, or a pickle.
        OSError
            The system's.

        Warns
        -----
        UserWarning
            If something stays behind: a `callback`, or attributes that are not the estimator's own.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import fastbp
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["low", "low", "high", "high"]
        >>> model = fastbp.MLPClassifier(solver="lbfgs", random_state=0).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.fastbp")
        ...     model.save(path)
        ...     loaded = fastbp.load(path)
        >>> loaded.predict([[0.5], [2.5]])
        array(['low', 'high'], dtype='<U4')
        """
        _check_class(self)
        model, attributes = self._fitted(), dict(vars(self))
        model = attributes.get("_model", model)  # of the same moment as the other attributes
        if not isinstance(optimizer, bool | np.bool_):
            raise InvalidParameterError(f"optimizer must be True or False, got {optimizer!r}.")
        check_parameters(self)
        model.check()
        check_progress(attributes)
        arrays = {}
        description = describe(self, model, attributes, arrays, optimizer)
        behind = sorted(attributes.keys() - FITTED - signature(type(self)).parameters.keys())
        if attributes["callback"] is not None:
            behind.insert(0, f"callback={attributes['callback']!r}")
        container.write(path, arrays, description)
        if behind:
            warnings.warn(f"Not saved with the model: {', '.join(behind)}.", stacklevel=2)


def parameter_names(estimator_class):
    """Those in files: all but the callback, which stays behind."""
    return [name for name in signature(estimator_class).parameters if name != "callback"]


def check_parameters(estimator):
    """As a fit checks them."""
    estimator._validate_params()
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    params.hidden_activations(estimator.activation, len(sizes))


def _check_class(estimator):
    from fastbp import MLPClassifier, MLPRegressor

    if type(estimator) not in (MLPClassifier, MLPRegressor):
        raise TypeError(
            f"Only MLPClassifier and MLPRegressor can be saved: a {type(estimator).__name__} may "
            "hold more than the file has. Use pickle or joblib."
        )


def describe(estimator, model, attributes, arrays, with_optimizer):
    """All but the arrays, which are added to `arrays`."""
    from fastbp import __version__

    parameters = model.flat(model.parameter_dtype(), copy=False)
    coefs, intercepts = model.network.views(parameters)
    extras = [each for found in model.network.extras(parameters).values() for each in found]
    arrays.update({f"extras.{index}": array for index, array in enumerate(extras)})
    if model.scales is not None:
        arrays["scales"] = np.asarray(model.scales, parameters.dtype)
    for index, (weights, bias) in enumerate(zip(coefs, intercepts, strict=True)):
        arrays[f"coefs.{index}"], arrays[f"intercepts.{index}"] = weights, bias
    optimizer = attributes.get("_optimizer") if with_optimizer else None
    names, holdout = model.feature_names, attributes.get("_holdout_state")
    return {
        "format": FORMAT,
        "version": VERSION,
        "fastbp": __version__,
        "class": type(estimator).__name__,
        "parameters": describe_parameters(estimator, arrays),
        "network": asdict(model.network),
        "labels": None if model.labels is None else _describe_labels(model.labels, arrays),
        "feature_names": None if names is None else [str(name) for name in names],
        "input_scale": model.input_scale,
        "targets": None if model.targets is None else asdict(model.targets),
        "progress": _describe_progress(attributes, arrays),
        "optimizer": _describe_optimizer(optimizer, model.network, arrays),
        "holdout": None if holdout is None else _describe_generator("holdout", holdout, arrays),
    }


def describe_parameters(estimator, arrays):
    described = {}
    for name in parameter_names(type(estimator)):
        value = getattr(estimator, name)
        if isinstance(value, np.random.RandomState):
            described[name] = {"generator": _describe_generator(name, value, arrays)}
            continue
        default = signature(type(estimator)).parameters[name].default
        if callable(value) or (name == "scoring" and any(map(callable, _entries(value)))):
            raise ValueError(
                f"{name}={value!r} cannot be saved: a file that is safe to load holds no function. "
                f"Use set_params({name}={default!r}) if the model is trained, or a pickle."
            )
        is_plain = value is None or isinstance(value, Integral | list | tuple | np.ndarray)
        if name == "hidden_layer_sizes" and not is_plain:
            value = params.hidden_sizes(value)
        try:
            described[name] = values.encode(plain(value))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return described


def _entries(scoring):
    """The scorers of the parameter `scoring`, if it holds several."""
    if isinstance(scoring, dict):
        return list(scoring.values())
    return scoring if isinstance(scoring, list | tuple) else []


def plain(value):
    """A parameter in Python's own types."""
    if isinstance(value, np.generic):
        value = value.item()
    if hasattr(value, "to_numpy"):  # of pandas and polars
        return value.to_numpy()
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _describe_labels(labels, arrays):
    classes = labels.classes
    kind = classes.dtype.kind
    if kind in "biufmM" and classes.dtype.itemsize <= 8:
        numbers = classes.astype(classes.dtype.newbyteorder("="))
        arrays["classes"] = numbers.view(np.int64) if kind in "mM" else numbers
        described = {"dtype": classes.dtype.str}
    else:
        try:
            described = values.encode(classes)
        except ValueError as error:
            raise ValueError(f"classes_: {error}") from error
    return {"kind": labels.kind, "sparse": labels.sparse, "classes": described}


def _describe_progress(attributes, arrays):
    described = {}
    for name, attribute in NUMBERS.items():
        if attribute in attributes:
            described[name] = values.encode(plain(attributes[attribute]))
        elif name in REQUIRED:
            raise ValueError(f"The model cannot be saved without its attribute {attribute}.")
    for name, attribute in CURVES.items():
        if attributes.get(attribute) is not None:
            try:
                arrays[name] = np.array(attributes[attribute], np.float64).reshape(-1)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{attribute} must be a list of numbers: {error}") from error
        elif attribute in attributes:
            described[name] = None
    metrics = attributes.get(f"{METRICS}_")
    if metrics is not None:
        described[METRICS] = [plain(name) for name in metrics]
        for index, (name, curve) in enumerate(metrics.items()):
            try:
                arrays[f"{METRICS}.{index}"] = np.array(curve, np.float64).reshape(-1)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{METRICS}_[{name!r}] must be a list of numbers: {error}"
                ) from error
    elif f"{METRICS}_" in attributes:
        described[METRICS] = None
    return described


def _describe_optimizer(optimizer, network, arrays):
    if optimizer is None:
        return None
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"The state of the optimizer is damaged: {optimizer!r}.")
    optimizer.check(network.unfolded(optimizer.has_scales).n_parameters)
    for index, moment in enumerate(optimizer.moments):
        arrays[f"moments.{index}"] = moment
    if optimizer.parameters is not None:
        arrays["parameters_to_train"] = optimizer.parameters
    described = {name: plain(getattr(optimizer, name)) for name in OPTIMIZER_FIELDS}
    if optimizer.ema_decay is not None:
        described["ema_decay"] = plain(optimizer.ema_decay)
    if optimizer.has_scales:
        described["has_scales"] = True
    described = {name: values.encode(value) for name, value in described.items()}
    if optimizer.dropout is not None:
        described["dropout"] = [optimizer.dropout.seed, *optimizer.dropout.thresholds]
    return described


def _describe_generator(name, generator, arrays):
    try:
        arrays[name], numbers = generators.take_apart(generator)
    except ValueError as error:
        raise ValueError(f"{name} cannot be saved: {error}") from error
    return numbers
