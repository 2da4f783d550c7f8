"""Saved models, loaded from files that anybody may have made."""

import os
import reprlib
from inspect import signature

import numpy as np

from fastbp import container
from fastbp.generators import put_together
from fastbp.losses import names_for
from fastbp.model import Model
from fastbp.network import Network
from fastbp.optimizers import RULES, STOCHASTIC_SOLVERS, Optimizer
from fastbp.plain import decode, decode_labels
from fastbp.progress import check_progress
from fastbp.saving import (
    CURVES,
    FIELDS,
    FORMAT,
    LEFT_OUT,
    NETWORK,
    OPTIMIZER,
    TRAINING,
    VERSION,
    LostFunction,
    check_parameters,
    classes,
)
from fastbp.schedules import SCHEDULES

_MOST_CHARACTERS = 800  # of an error, which may quote from the file


def load(path):
    """Load a model that `save` has written, or that anybody says it has.

    Nothing in a file is run, and everything is checked before it is used: a file that is damaged
    or made up raises an error. Memory stays within a few times the file's size.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    model : MLPClassifier or MLPRegressor
        Fitted. It predicts the bits of the saved one, and training goes on to the bit unless the
        optimizer was left out. `callback` and `checkpoint` are None.

    Raises
    ------
    ValueError
        If the file is no model, damaged, or of a newer version of fastbp. It says what is wrong.
    OSError
        As from `open`.

    Examples
    --------
    >>> import fastbp, numpy as np, pathlib, tempfile
    >>> X = np.linspace(-2, 2, 100)[:, None]
    >>> path = pathlib.Path(tempfile.mkdtemp(), "sine.fastbp")
    >>> model = fastbp.MLPRegressor(solver="lbfgs", random_state=0).fit(X, np.sin(X.ravel()))
    >>> model.save(path)
    >>> np.array_equal(fastbp.load(path).predict(X), model.predict(X))
    True
    """
    arrays, description = container.read(path)
    try:
        _check_format(description)
        return _build(arrays, description)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{os.fsdecode(path)}: {str(error)[:_MOST_CHARACTERS]}") from error


def _check_format(description):
    """See that this is a model, of a version that can be read here."""
    from fastbp import __version__

    found, version = description.get("format"), description.get("version")
    if found == "fastbp checkpoint":
        raise ValueError("this is the checkpoint of a fit: use fit(..., resume=True)")
    if found != FORMAT:
        raise ValueError("not a model that fastbp has saved")
    if type(version) is not int or version < 1:
        raise ValueError(f"damaged: version {reprlib.repr(version)}")
    if version > VERSION:
        writer = reprlib.repr(description.get("fastbp_version"))
        raise ValueError(
            f"saved by fastbp {writer} in version {version} of the format; fastbp {__version__} "
            f"reads versions up to {VERSION}. Update fastbp."
        )
    _check_names(description, FIELDS, FIELDS, "fields")
    if not isinstance(description["fastbp_version"], str):
        raise ValueError("damaged: fastbp_version is no string")
    if description["estimator"] not in list(classes()):
        raise ValueError(f"damaged: estimator {reprlib.repr(description['estimator'])}")


def _check_names(found, required, known, what):
    """See that a dict of the file has the names that it must have, and none that mean nothing."""
    if not isinstance(found, dict):
        raise ValueError(f"damaged: {what} are {reprlib.repr(found)}")
    unknown, missing = found.keys() - known, required - found.keys()
    if unknown:
        raise ValueError(
            f"has the {what} {reprlib.repr(sorted(unknown))}, which are not known here: it is "
            "damaged, or of a newer fastbp. Update fastbp."
        )
    if missing:
        raise ValueError(f"damaged: without the {what} {reprlib.repr(sorted(missing))}")


def _build(arrays, description):
    """Make the estimator, of checked parts only."""
    estimator = _build_estimator(arrays, description)
    model = _build_model(arrays, description, type(estimator))
    optimizer = _build_optimizer(arrays, description, model.network.n_parameters)
    training = _build_training(arrays, description)
    if arrays:
        raise ValueError(f"damaged: unknown arrays {reprlib.repr(sorted(arrays))}")
    vars(estimator).update(training, _model=model, _optimizer=optimizer)
    return estimator


def _build_estimator(arrays, description):
    estimator_class, described = classes()[description["estimator"]], description["parameters"]
    known = {*signature(estimator_class).parameters} - {*LEFT_OUT}
    _check_names(described, set(), known, "parameters")
    values = {name: _build_parameter(name, plain, arrays) for name, plain in described.items()}
    estimator = estimator_class(**values)
    check_parameters(estimator)
    return estimator


def _build_parameter(name, plain, arrays):
    if name == "random_state" and isinstance(plain, dict) and plain.keys() == {"generator"}:
        generator = np.random.RandomState()
        generator.set_state(put_together(_take(arrays, name), plain["generator"]))
        return generator
    if name == "learning_rate" and isinstance(plain, dict):
        return _build_function(plain)
    return decode(plain)


def _build_function(plain):
    if plain.keys() != {"function"} or not isinstance(plain["function"], str):
        raise ValueError(f"damaged: {reprlib.repr(plain)} is no function")
    return LostFunction(plain["function"])


def _build_model(arrays, description, estimator_class):
    network = _build_network(description["network"])
    is_numeric = estimator_class._numeric_targets
    tasks = names_for("regression" if is_numeric else "classification")
    if network.loss not in tasks or network.average_outputs != estimator_class._average_outputs:
        raise ValueError(f"damaged: {estimator_class.__name__} cannot have {network}")
    layers = range(len(network.shapes))
    coefs = [_take(arrays, f"coefs.{i}") for i in layers]
    intercepts = [_take(arrays, f"intercepts.{i}") for i in layers]
    dtypes = {array.dtype for array in coefs + intercepts}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"damaged: weights of the dtypes {sorted(map(str, dtypes))}")
    given = Model(network, coefs, intercepts)
    coefs, intercepts = network.views(given.flat(*dtypes))
    labels = decode_labels(description["labels"])
    if (labels is None) != is_numeric:
        raise ValueError(f"damaged: labels {labels} of a {estimator_class.__name__}")
    feature_names = description["feature_names"]
    if feature_names is not None:
        if not isinstance(feature_names, list):
            raise ValueError(f"damaged: feature_names {reprlib.repr(feature_names)}")
        as_array = np.empty(len(feature_names), object)
        as_array[:] = feature_names
        feature_names = as_array
    scale = decode(description["input_scale"])
    model = Model(network, coefs, intercepts, labels, feature_names, scale)
    model.check()
    return model


def _build_network(described):
    names = {"layer_sizes", "hidden_activations", *NETWORK}
    _check_names(described, names, names, "network's fields")
    sizes, activations = described["layer_sizes"], described["hidden_activations"]
    are_lists = isinstance(sizes, list) and isinstance(activations, list)
    if not are_lists or not all(type(size) is int for size in sizes):
        raise ValueError(f"damaged: a network of {reprlib.repr((sizes, activations))}")
    others = (described[name] for name in NETWORK)
    network = Network(tuple(sizes), tuple(activations), *others)
    network.check()
    return network


def _build_training(arrays, description):
    """The fitted attributes about training."""
    described, names = description["training"], {name.strip("_"): name for name in TRAINING}
    _check_names(described, set(), {*names, "holdout"}, "fields of training")
    found = {name: decode(described[plain]) for plain, name in names.items() if plain in described}
    for name in CURVES:
        if name.strip("_") in arrays:
            curve = _take(arrays, name.strip("_"))
            if curve.ndim != 1 or curve.dtype != np.float64:
                raise ValueError(f"damaged: {name} of shape {curve.shape} and {curve.dtype}")
            found[name] = list(curve) if name == "loss_curve_" else curve.tolist()
        elif name == "validation_scores_":
            found[name] = None
    check_progress(found)
    numbers = [value for value in found.values() if isinstance(value, int)]
    if not all(type(number) is int and number < 2**63 for number in numbers):
        raise ValueError(f"damaged: fields of training {found}")
    for name in ("loss_", "best_loss_"):
        if found.get(name) is not None:
            found[name] = np.float64(found[name])
    holdout = described.get("holdout")
    found["_holdout_state"] = holdout and put_together(_take(arrays, "holdout"), holdout)
    return found


def _build_optimizer(arrays, description, n_parameters):
    described = description["optimizer"]
    if described is None:
        return None
    names = {*OPTIMIZER, "schedule"}
    _check_names(described, names, names, "optimizer's fields")
    values = {name: decode(described[name]) for name in OPTIMIZER}
    schedule = described["schedule"]
    schedule = _build_function(schedule) if isinstance(schedule, dict) else schedule
    _, *numbers = values.values()
    are_numbers = all(type(number) in (bool, int, float) for number in numbers)
    if not are_numbers or not (callable(schedule) or schedule in list(SCHEDULES)):
        raise ValueError(f"damaged: the optimizer's fields are {reprlib.repr(described)}")
    state = {name: values.pop(name) for name in ("learning_rate", "step", "epochs")}
    optimizer = Optimizer(**values, schedule=schedule)
    vars(optimizer).update(state)
    if optimizer.solver in STOCHASTIC_SOLVERS:
        n_moments = RULES[optimizer.solver].n_moments
        optimizer.moments = [_take(arrays, f"moments.{i}") for i in range(n_moments)]
    optimizer.check(n_parameters)
    return optimizer


def _take(arrays, name):
    """Take an array out of those that are left."""
    if name not in arrays:
        raise ValueError(f"damaged: there is no array {name}")
    return arrays.pop(name)
