"""Models from files that anybody may have written: `load`.

Every field is checked as if a stranger had written it, and nothing in a file is run.
"""

from __future__ import annotations

import os
import reprlib
import warnings
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from fastbp import container, generators, values
from fastbp.curves import Curve
from fastbp.dropout import Dropout
from fastbp.labels import Labels
from fastbp.late import imported
from fastbp.losses import is_averaged
from fastbp.model import Model
from fastbp.network import Network
from fastbp.optimizers import RULES, STOCHASTIC_SOLVERS, Optimizer
from fastbp.progress import check_progress
from fastbp.saving import (
    CLASSES,
    COUNTS,
    CURVES,
    FORMAT,
    KEYS,
    LOSSES,
    METRICS,
    NUMBERS,
    OF_TABLES,
    OPTIMIZER_FIELDS,
    OPTIONAL_FIELDS,
    REQUIRED,
    SCORES,
    VERSION,
    check_parameters,
    parameter_names,
)
from fastbp.targets import Targets

if TYPE_CHECKING:
    from fastbp.classifier import MLPClassifier
    from fastbp.hints import Path
    from fastbp.regressor import MLPRegressor
    from fastbp.tabular.classifier import TabularMLPClassifier
    from fastbp.tabular.regressor import TabularMLPRegressor


_LISTS = "layer_sizes", "hidden_activations", "loss_coefficients"  # in files, else tuples


def load(
    path: Path,
) -> MLPClassifier | MLPRegressor | TabularMLPClassifier | TabularMLPRegressor:
    """Load a model from a file that `save` has written, here or by anybody.

    Nothing in the file is run, everything in it is checked, and memory is bounded by its size. The
    model predicts and, unless the state of the optimizer was left out, trains as the one that was
    saved, to the bit. One for tables predicts so, with its preprocessing.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    model : MLPClassifier, MLPRegressor, TabularMLPClassifier or TabularMLPRegressor

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
        estimator, checkpoint = restore(arrays, description)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = container.shortened(error)
        raise ValueError(f"{os.fsdecode(path)} cannot be loaded: {why}") from error
    except RecursionError as error:
        raise ValueError(f"{os.fsdecode(path)} cannot be loaded: nested too deep") from error
    if checkpoint is not None:
        warnings.warn(
            f"The loaded model has checkpoint=None, not {reprlib.repr(checkpoint)} as when it was "
            "saved: fit would write there. Use set_params(checkpoint=...) if you want that.",
            stacklevel=2,
        )
    return estimator


def restore(arrays, description):
    """An estimator from a file's content, and the checkpoint that it had."""
    import fastbp

    _check_format(description)
    if description.get("class") in list(OF_TABLES):
        return imported("fastbp.tabular.files").restore(arrays, description), None
    description = {"targets": None} | description  # the first version had none
    check_keys("The file", description, KEYS)
    if not isinstance(description["fastbp"], str):
        raise ValueError(f"fastbp must be a version, got {description['fastbp']!r}.")
    if description["class"] not in list(CLASSES):
        raise ValueError(
            f"class must be one of {(*CLASSES, *OF_TABLES)}, got "
            f"{reprlib.repr(description['class'])}."
        )
    estimator_class = getattr(fastbp, description["class"])
    parameters = restore_parameters(estimator_class, description["parameters"], arrays)
    estimator = estimator_class(**parameters)
    check_parameters(estimator)
    checkpoint, estimator.checkpoint = estimator.checkpoint, None
    model = _restore_model(estimator_class, description, arrays)
    attributes = {"_model": model, **_restore_progress(description["progress"], arrays)}
    check_progress(attributes)
    attributes["_optimizer"] = _restore_optimizer(description["optimizer"], model.network, arrays)
    attributes["_holdout_state"] = None
    if description["holdout"] is not None:
        keys = take(arrays, "holdout")
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


def check_keys(name, found, expected, optional=()):
    """See that a field is a dict with these keys, of which some may be missing."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be described by a dict, got {reprlib.repr(found)}.")
    missing = {*expected} - found.keys() - {*optional}
    unknown = found.keys() - {*expected}
    if missing:
        raise ValueError(f"{name} has no {reprlib.repr(sorted(missing))}.")
    if unknown:
        raise ValueError(f"{name} has unknown fields: {reprlib.repr(sorted(unknown))}.")


def take(arrays, name):
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


def restore_parameters(estimator_class, described, arrays):
    names = parameter_names(estimator_class)
    # Older versions had fewer; defaults take their place.
    check_keys("parameters", described, names, optional=names)
    restored = {}
    for name, value in described.items():
        try:
            if isinstance(value, dict) and "generator" in value and name == "random_state":
                check_keys("random_state", value, ["generator"])
                state = generators.put_together(take(arrays, name), value["generator"])
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
            dtype = coefs[0].dtype if coefs else None
            found.append(_take_like(arrays, f"{name}.{index}", expected, dtype))
    dtype = coefs[0].dtype
    extras = [
        _take_like(arrays, f"extras.{index}", shape, dtype)
        for index, (_, shape) in enumerate(network.extra_shapes)
    ]
    scales = None
    if "scales" in arrays:
        scales = _take_like(arrays, "scales", (network.n_inputs,), dtype)
    parameters = network.flatten(coefs, intercepts, dtype, extras)  # one vector, as after a fit
    names = description["feature_names"]
    if names is not None:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"feature_names must be strings, got {reprlib.repr(names)}.")
        names = np.array(names, dtype=object)
    labels = _restore_labels(description["labels"], arrays)
    targets = _restore_targets(description["targets"])
    model = Model.of(
        network, parameters, labels=labels, feature_names=names,
        input_scale=description["input_scale"], targets=targets,
    )  # fmt: skip
    model = replace(model, scales=scales)
    model.check()
    if estimator_class._numeric_targets != (labels is None):
        raise ValueError(f"labels do not belong to the class {estimator_class.__name__}.")
    averages = estimator_class._average_outputs and is_averaged(network.loss)
    if averages != network.average_outputs:
        raise ValueError(f"average_outputs does not belong to {estimator_class.__name__}.")
    if labels is None and network.label_smoothing:
        raise ValueError(f"label_smoothing does not belong to {estimator_class.__name__}.")
    trained = {"loss": network.loss}
    if labels is None:
        trained["out_activation"] = network.output_activation
    estimator_class(**trained)._validate_params()
    return model


def _take_like(arrays, name, shape, dtype):
    """An array of this shape and, unless it is the first, this dtype."""
    array = take(arrays, name)
    dtype = array.dtype if dtype is None else dtype
    if array.shape != shape or array.dtype != dtype or dtype not in ("f4", "f8"):
        raise ValueError(
            f"{name} must be of shape {shape} and float32 or float64 as all weights, got "
            f"{array.shape} and {array.dtype}."
        )
    return array


# Fields of networks that older files do not have.
_NEWER = "loss_coefficients", "label_smoothing", "has_slopes", "has_scales", "n_embedded"


def _restore_network(described):
    names, newer = [each.name for each in fields(Network)], _NEWER
    check_keys("network", described, names, optional=newer)
    lists = {name: described[name] for name in names if name in described and name in _LISTS}
    for name, value in lists.items():
        if not isinstance(value, list) or any(isinstance(each, bool) for each in value):
            raise ValueError(f"{name} must be a list, got {reprlib.repr(value)}.")
    network = Network(**described | {name: tuple(value) for name, value in lists.items()})
    network.check()
    if network.has_scales:
        raise ValueError("has_scales must be false: weights contain the scales.")
    return network


def _restore_targets(described):
    if described is None:
        return None
    names = [each.name for each in fields(Targets)]
    check_keys("targets", described, names, optional=("lowest", "highest"))
    restored = dict(described)
    for name in ("means", "deviations", "quantiles", "lowest", "highest"):
        if isinstance(described.get(name), list):
            restored[name] = tuple(described[name])
    return Targets(**restored)


def _restore_labels(described, arrays):
    if described is None:
        return None
    check_keys("labels", described, [each.name for each in fields(Labels)])
    classes = described["classes"]
    if isinstance(classes, dict) and {*classes} == {"dtype"}:
        dtype, found = values.array_type(classes["dtype"]), take(arrays, "classes")
        native = dtype.newbyteorder("=")
        if found.dtype != (np.int64 if dtype.kind in "mM" else native):
            raise ValueError(f"classes must be of dtype {dtype}, got {found.dtype}.")
        classes = found.view(native).astype(dtype)
    else:
        try:
            classes = values.decode(classes)
        except ValueError as error:
            raise ValueError(f"classes: {error}") from error
    return Labels(described["kind"], classes, described["sparse"])


def _restore_progress(described, arrays):
    if not isinstance(described, dict):
        raise ValueError(f"progress must be described by a dict, got {reprlib.repr(described)}.")
    if REQUIRED - described.keys():
        raise ValueError(f"progress has no {sorted(REQUIRED - described.keys())}.")
    restored = {}
    for name, value in described.items():
        if name in COUNTS:
            restored[COUNTS[name]] = _number(name, value, counts=True)
        elif name in LOSSES or name in SCORES:
            number = _number(name, value)
            restored[NUMBERS[name]] = number
            if name in LOSSES and number is not None:
                restored[NUMBERS[name]] = np.float64(number)  # as after a fit
        elif name in CURVES and value is None:
            restored[CURVES[name]] = None
        elif name == METRICS:
            restored[f"{METRICS}_"] = _restore_metrics(value, arrays)
        else:
            raise ValueError(f"progress has an unknown field: {reprlib.repr(name)}.")
    for name, attribute in CURVES.items():
        if name in arrays and attribute not in restored:
            curve = arrays.pop(name)
            if curve.ndim != 1 or curve.dtype != np.float64:
                raise ValueError(f"{name} must be a float64 vector, got {curve.dtype} numbers.")
            restored[attribute] = Curve(curve) if name == "loss_curve" else curve.tolist()
    return restored


def _restore_metrics(names, arrays):
    """The curves of several scores, by name, or None."""
    if names is None:
        return None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or len(set(names)) < len(names):
        raise ValueError(f"{METRICS} must be different names, got {reprlib.repr(names)}.")
    metrics = {name: take(arrays, f"{METRICS}.{index}") for index, name in enumerate(names)}
    for name, curve in metrics.items():
        if curve.ndim != 1 or curve.dtype != np.float64:
            raise ValueError(
                f"{METRICS} must be float64 vectors, got {curve.dtype} numbers of "
                f"{reprlib.repr(name)}."
            )
    return {name: curve.tolist() for name, curve in metrics.items()}


def _restore_optimizer(described, network, arrays):
    if described is None:
        return None
    optional = [name for name in OPTIONAL_FIELDS if name in described]
    check_keys("optimizer", described, (*OPTIMIZER_FIELDS, *optional))
    solver = described["solver"]
    if solver not in list(STOCHASTIC_SOLVERS):
        raise ValueError(f"solver must be one of {STOCHASTIC_SOLVERS}, got {reprlib.repr(solver)}.")
    initial, rate = (_number(name, described[name]) for name in OPTIMIZER_FIELDS[1:3])
    if initial is None or not initial > 0:
        raise ValueError(f"learning_rate_init must be a positive number, got {initial!r}.")
    optimizer = Optimizer(solver, initial)
    optimizer.learning_rate = rate
    for name in ("step", "epochs"):
        setattr(optimizer, name, _number(name, described[name], counts=True))
    if "ema_decay" in described:
        optimizer.ema_decay = _number("ema_decay", described["ema_decay"])
    if "dropout" in described:
        numbers = described["dropout"]
        if not isinstance(numbers, list) or not numbers:
            raise ValueError(f"dropout must be a list of numbers, got {reprlib.repr(numbers)}.")
        optimizer.dropout = Dropout(numbers[0], tuple(numbers[1:]))
    count = RULES[solver].n_moments + (optimizer.ema_decay is not None)
    optimizer.moments = [take(arrays, f"moments.{index}") for index in range(count)]
    if "parameters_to_train" in arrays:
        optimizer.parameters = take(arrays, "parameters_to_train")
    optimizer.has_scales = described.get("has_scales", False) is True
    optimizer.check(network.unfolded(optimizer.has_scales).n_parameters)
    return optimizer
