"""Models in files that are safe to load from anybody: `save` and `load`.

A file is a description in JSON and arrays, in the format of `fastbp.container`. Nothing in it can
be run: the class is one of two names, and every field is checked as if a stranger had written it.
"""

import os
import reprlib
import warnings
from dataclasses import asdict, fields
from inspect import signature
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import container, generators, values
from fastbp import parameters as params
from fastbp.labels import Labels
from fastbp.model import Model
from fastbp.network import Network
from fastbp.optimizers import RULES, STOCHASTIC_SOLVERS, Optimizer
from fastbp.progress import check_progress

# Raise the version with every change, a new parameter included. Files of older versions stay
# readable: what they lack gets its default.
FORMAT, VERSION = "fastbp model", 1
_KEYS = (
    "format", "version", "fastbp", "class", "parameters", "network", "labels", "feature_names",
    "input_scale", "progress", "optimizer", "holdout",
)  # fmt: skip
_CLASSES = "MLPClassifier", "MLPRegressor"
# Names in files -> attributes of estimators.
_COUNTS = {"n_iter": "n_iter_", "n_samples_seen": "t_"}
_COUNTS["no_improvement_count"] = "_no_improvement_count"
_LOSSES = {"loss": "loss_", "best_loss": "best_loss_"}
_SCORES = {"best_validation_score": "best_validation_score_"}
_CURVES = {"loss_curve": "loss_curve_", "validation_scores": "validation_scores_"}
_NUMBERS = _COUNTS | _LOSSES | _SCORES
_FITTED = {"_model", "_optimizer", "_holdout_state", *_NUMBERS.values(), *_CURVES.values()}
_OPTIMIZER_FIELDS = "solver", "learning_rate_init", "learning_rate", "step", "epochs"


class SavingMixin:
    """Adds `save` to the estimators."""

    def save(self, path, *, optimizer=True):
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
            here. Without it the file takes a third of the space ('adam', 'adamw') or half ('sgd'),
            and predictions are the same; `partial_fit` begins with a new optimizer.

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
        _check_parameters(self)
        model.check()
        check_progress(attributes)
        arrays = {}
        description = _describe(self, model, attributes, arrays, optimizer)
        behind = sorted(attributes.keys() - _FITTED - signature(type(self)).parameters.keys())
        if attributes["callback"] is not None:
            behind.insert(0, f"callback={attributes['callback']!r}")
        container.write(path, arrays, description)
        if behind:
            warnings.warn(f"Not saved with the model: {', '.join(behind)}.", stacklevel=2)


def load(path):
    """Load a model from a file that `save` has written, here or by anybody.

    Nothing in the file is run, everything in it is checked, and memory is bounded by its size. The
    model predicts and, unless the state of the optimizer was left out, trains as the one that was
    saved, to the bit.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    model : MLPClassifier or MLPRegressor

    Raises
    ------
    ValueError
        If the file is damaged, of a newer version or something else. It names the file and the
        field.
    OSError
        The system's.

    Warns
    -----
    UserWarning
        If the model was saved with a `checkpoint`: the loaded one has none, as a `fit` would write
        to a path that somebody else may have chosen. Set it if you know it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import fastbp
    >>> model = fastbp.MLPRegressor(solver="lbfgs", random_state=0).fit([[0.0], [1.0]], [1.0, 3.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.fastbp")
    ...     model.save(path)
    ...     fastbp.load(path).predict([[0.5]]) == model.predict([[0.5]])
    array([ True])
    """
    path = os.fspath(path)
    arrays, description = container.read(path)
    try:
        estimator, checkpoint = _restore(arrays, description)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fsdecode(path)} cannot be loaded: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{os.fsdecode(path)} cannot be loaded: nested too deep") from error
    if checkpoint is not None:
        warnings.warn(
            f"The loaded model has checkpoint=None, not {checkpoint!r} as when it was saved: fit "
            "would write there. Use set_params(checkpoint=...) if you want that.",
            stacklevel=2,
        )
    return estimator


# ---- write --------------------------------------------------------------------------------------


def _check_class(estimator):
    from fastbp import MLPClassifier, MLPRegressor

    if type(estimator) not in (MLPClassifier, MLPRegressor):
        raise TypeError(
            f"Only MLPClassifier and MLPRegressor can be saved: a {type(estimator).__name__} may "
            "hold more than the file has. Use pickle or joblib."
        )


def _describe(estimator, model, attributes, arrays, with_optimizer):
    """All but the arrays, which are added to `arrays`."""
    from fastbp import __version__

    coefs, intercepts = model.network.views(model.flat(model.parameter_dtype(), copy=False))
    for index, (weights, bias) in enumerate(zip(coefs, intercepts, strict=True)):
        arrays[f"coefs.{index}"], arrays[f"intercepts.{index}"] = weights, bias
    optimizer = attributes.get("_optimizer") if with_optimizer else None
    names, holdout = model.feature_names, attributes.get("_holdout_state")
    return {
        "format": FORMAT,
        "version": VERSION,
        "fastbp": __version__,
        "class": type(estimator).__name__,
        "parameters": _describe_parameters(estimator, arrays),
        "network": asdict(model.network),
        "labels": None if model.labels is None else _describe_labels(model.labels, arrays),
        "feature_names": None if names is None else [str(name) for name in names],
        "input_scale": model.input_scale,
        "progress": _describe_progress(attributes, arrays),
        "optimizer": _describe_optimizer(optimizer, model.network, arrays),
        "holdout": None if holdout is None else _describe_generator("holdout", holdout, arrays),
    }


def _describe_parameters(estimator, arrays):
    described = {}
    for name in _parameter_names(type(estimator)):
        value = getattr(estimator, name)
        if isinstance(value, np.random.RandomState):
            described[name] = {"generator": _describe_generator(name, value, arrays)}
            continue
        if callable(value):
            raise ValueError(
                f"{name}={value!r} cannot be saved: a file that is safe to load holds no function. "
                f"Use set_params({name}='constant') if the model is trained, or a pickle."
            )
        if name == "hidden_layer_sizes" and not isinstance(value, list | tuple | np.ndarray):
            value = value if isinstance(value, Integral) else params.hidden_sizes(value)
        try:
            described[name] = values.encode(_plain(value))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return described


def _plain(value):
    """A parameter in Python's own types."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _describe_labels(labels, arrays):
    classes = labels.classes
    if classes.dtype.kind in "biuf" and classes.dtype.itemsize <= 8:
        arrays["classes"], described = classes, {"dtype": classes.dtype.str}
    else:
        try:
            described = values.encode(classes)
        except ValueError as error:
            raise ValueError(f"classes_: {error}") from error
    return {"kind": labels.kind, "sparse": labels.sparse, "classes": described}


def _describe_progress(attributes, arrays):
    described = {}
    for name, attribute in _NUMBERS.items():
        if attribute in attributes:
            described[name] = values.encode(_plain(attributes[attribute]))
    for name, attribute in _CURVES.items():
        if attributes.get(attribute) is not None:
            try:
                arrays[name] = np.array(attributes[attribute], np.float64).reshape(-1)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{attribute} must be a list of numbers: {error}") from error
        elif attribute in attributes:
            described[name] = None
    return described


def _describe_optimizer(optimizer, network, arrays):
    if optimizer is None:
        return None
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"The state of the optimizer is damaged: {optimizer!r}.")
    optimizer.check(network.n_parameters)
    for index, moment in enumerate(optimizer.moments):
        arrays[f"moments.{index}"] = moment
    return {name: values.encode(_plain(getattr(optimizer, name))) for name in _OPTIMIZER_FIELDS}


def _describe_generator(name, generator, arrays):
    try:
        arrays[name], numbers = generators.take_apart(generator)
    except ValueError as error:
        raise ValueError(f"{name} cannot be saved: {error}") from error
    return numbers


# ---- read ---------------------------------------------------------------------------------------


def _restore(arrays, description):
    """An estimator from a file's content, and the checkpoint that it had."""
    import fastbp

    _check_format(description)
    _check_keys("The file", description, _KEYS)
    if not isinstance(description["fastbp"], str):
        raise ValueError(f"fastbp must be a version, got {description['fastbp']!r}.")
    if description["class"] not in list(_CLASSES):
        raise ValueError(
            f"class must be one of {_CLASSES}, got {reprlib.repr(description['class'])}."
        )
    estimator_class = getattr(fastbp, description["class"])
    parameters = _restore_parameters(estimator_class, description["parameters"], arrays)
    estimator = estimator_class(**parameters)
    _check_parameters(estimator)
    checkpoint, estimator.checkpoint = estimator.checkpoint, None
    model = _restore_model(estimator_class, description, arrays)
    attributes = {"_model": model, **_restore_progress(description["progress"], arrays)}
    check_progress(attributes)
    attributes["_optimizer"] = _restore_optimizer(
        description["optimizer"], model.network.n_parameters, arrays
    )
    attributes["_holdout_state"] = None
    if description["holdout"] is not None:
        keys = _take(arrays, "holdout")
        attributes["_holdout_state"] = generators.put_together(keys, description["holdout"])
    if arrays:
        raise ValueError(f"It has arrays that do not belong to it: {reprlib.repr([*arrays])}.")
    vars(estimator).update(attributes)
    return estimator, checkpoint


def _check_format(description):
    from fastbp import __version__

    found, version = description.get("format"), description.get("version")
    if found == "fastbp checkpoint":
        raise ValueError(
            "it is a checkpoint of an unfinished fit: use fit(..., resume=True) with "
            "checkpoint= this file."
        )
    if found != FORMAT:
        raise ValueError(
            f"it is no model of fastbp: format must be {FORMAT!r}, got {reprlib.repr(found)}."
        )
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(
            f"it was written by fastbp {reprlib.repr(description.get('fastbp'))} in version "
            f"{reprlib.repr(version)} of the format; fastbp {__version__} reads versions up to "
            f"{VERSION}. Update fastbp, or train anew."
        )


def _check_keys(name, found, expected):
    """See that a field is a dict with these keys."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be described by a dict, got {reprlib.repr(found)}.")
    missing, unknown = {*expected} - found.keys(), found.keys() - {*expected}
    if missing:
        raise ValueError(f"{name} has no {reprlib.repr(sorted(missing))}.")
    if unknown:
        raise ValueError(f"{name} has unknown fields: {reprlib.repr(sorted(unknown))}.")


def _take(arrays, name):
    """Take an array out of those that have not been used."""
    if name not in arrays:
        raise ValueError(f"The array {name!r} is missing.")
    return arrays.pop(name)


def _number(name, value, counts=False):
    """A number, or None where it is no count; infinite ones were encoded."""
    try:
        number = values.decode(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if counts and (type(number) is not int or not 0 <= number < 2**63):
        raise ValueError(f"{name} must be a whole number from 0, got {reprlib.repr(value)}.")
    if not counts and type(number) not in (int, float, type(None)):
        raise ValueError(f"{name} must be a number, got {reprlib.repr(value)}.")
    return number


def _parameter_names(estimator_class):
    """Those in files: all but the callback, which stays behind."""
    return [name for name in signature(estimator_class).parameters if name != "callback"]


def _check_parameters(estimator):
    """As a fit checks them."""
    estimator._validate_params()
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    params.hidden_activations(estimator.activation, len(sizes))


def _restore_parameters(estimator_class, described, arrays):
    names = _parameter_names(estimator_class)
    _check_keys("parameters", described, names)
    restored = {}
    for name in names:
        value = described[name]
        try:
            if isinstance(value, dict) and "generator" in value and name == "random_state":
                _check_keys("random_state", value, ["generator"])
                state = generators.put_together(_take(arrays, name), value["generator"])
                restored[name] = np.random.RandomState()
                restored[name].set_state(state)
            else:
                restored[name] = values.decode(value)
        except ValueError as error:
            raise ValueError(f"The parameter {name}: {error}") from error
    return restored


def _restore_model(estimator_class, description, arrays):
    network = _restore_network(description["network"])
    coefs, intercepts = [], []
    for index, shape in enumerate(network.shapes):
        for name, found, expected in (
            ("coefs", coefs, shape),
            ("intercepts", intercepts, shape[1:]),
        ):
            array = _take(arrays, f"{name}.{index}")
            dtype = array.dtype if not coefs else coefs[0].dtype
            if array.shape != expected or array.dtype != dtype or dtype not in ("f4", "f8"):
                raise ValueError(
                    f"{name}.{index} must be of shape {expected} and float32 or float64 as all "
                    f"weights, got {array.shape} and {array.dtype}."
                )
            found.append(array)
    # One vector, as after a fit.
    coefs, intercepts = network.views(network.flatten(coefs, intercepts, coefs[0].dtype))
    names = description["feature_names"]
    if names is not None:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"feature_names must be strings, got {reprlib.repr(names)}.")
        names = np.array(names, dtype=object)
    labels = _restore_labels(description["labels"], arrays)
    model = Model(network, coefs, intercepts, labels, names, description["input_scale"])
    model.check()
    if estimator_class._numeric_targets != (labels is None):
        raise ValueError(f"labels do not belong to the class {estimator_class.__name__}.")
    if estimator_class._average_outputs != network.average_outputs:
        raise ValueError(f"average_outputs does not belong to {estimator_class.__name__}.")
    trained = {"loss": network.loss}
    if labels is None:
        trained["out_activation"] = network.output_activation
    estimator_class(**trained)._validate_params()
    return model


def _restore_network(described):
    _check_keys("network", described, [each.name for each in fields(Network)])
    for name in ("layer_sizes", "hidden_activations"):
        if not isinstance(described[name], list) or any(
            isinstance(each, bool) for each in described[name]
        ):
            raise ValueError(f"{name} must be a list, got {reprlib.repr(described[name])}.")
    network = Network(
        **described
        | {name: tuple(described[name]) for name in ("layer_sizes", "hidden_activations")}
    )
    network.check()
    return network


def _restore_labels(described, arrays):
    if described is None:
        return None
    _check_keys("labels", described, [each.name for each in fields(Labels)])
    classes = described["classes"]
    if isinstance(classes, dict) and {*classes} == {"dtype"}:
        dtype, found = values.array_type(classes["dtype"]), _take(arrays, "classes")
        if found.dtype != dtype.newbyteorder("="):
            raise ValueError(f"classes must be of dtype {dtype}, got {found.dtype}.")
        classes = found.astype(dtype)
    else:
        try:
            classes = values.decode(classes)
        except ValueError as error:
            raise ValueError(f"classes: {error}") from error
    return Labels(described["kind"], classes, described["sparse"])


def _restore_progress(described, arrays):
    if not isinstance(described, dict):
        raise ValueError(f"progress must be described by a dict, got {reprlib.repr(described)}.")
    restored = {}
    for name, value in described.items():
        if name in _COUNTS:
            restored[_COUNTS[name]] = _number(name, value, counts=True)
        elif name in _LOSSES or name in _SCORES:
            number = _number(name, value)
            restored[_NUMBERS[name]] = number
            if name in _LOSSES and number is not None:
                restored[_NUMBERS[name]] = np.float64(number)  # as after a fit
        elif name in _CURVES and value is None:
            restored[_CURVES[name]] = None
        else:
            raise ValueError(f"progress has an unknown field: {reprlib.repr(name)}.")
    for name, attribute in _CURVES.items():
        if name in arrays and attribute not in restored:
            curve = arrays.pop(name)
            if curve.ndim != 1 or curve.dtype != np.float64:
                raise ValueError(f"{name} must be a float64 vector, got {curve.dtype} numbers.")
            restored[attribute] = list(curve) if attribute == "loss_curve_" else curve.tolist()
    return restored


def _restore_optimizer(described, n_parameters, arrays):
    if described is None:
        return None
    _check_keys("optimizer", described, _OPTIMIZER_FIELDS)
    solver = described["solver"]
    if solver not in list(STOCHASTIC_SOLVERS):
        raise ValueError(f"solver must be one of {STOCHASTIC_SOLVERS}, got {reprlib.repr(solver)}.")
    initial, rate = (_number(name, described[name]) for name in _OPTIMIZER_FIELDS[1:3])
    if initial is None or not initial > 0:
        raise ValueError(f"learning_rate_init must be a positive number, got {initial!r}.")
    optimizer = Optimizer(solver, initial)
    optimizer.learning_rate = rate
    for name in ("step", "epochs"):
        setattr(optimizer, name, _number(name, described[name], counts=True))
    count = RULES[solver].n_moments
    optimizer.moments = [_take(arrays, f"moments.{index}") for index in range(count)]
    optimizer.check(n_parameters)
    return optimizer
