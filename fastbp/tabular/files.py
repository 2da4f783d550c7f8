"""Estimators for tables in the files of `save` and `load`: parameters, preprocessing, networks.

As in `fastbp.saving`, nothing in a file can be run, and every field is checked as if a stranger
had written it.
"""

from __future__ import annotations

import reprlib
import warnings
from dataclasses import fields
from inspect import signature
from math import isfinite

import numpy as np

from fastbp import container, loading, saving, values
from fastbp import parameters as params
from fastbp.model import check_feature_names
from fastbp.tabular.encoder import TableEncoder, make_preprocessing
from fastbp.tabular.encodings import (
    CYCLES,
    BooleanEncoding,
    CategoricalEncoding,
    DatetimeEncoding,
    EmptyEncoding,
    NumericalEncoding,
    placed,
)
from fastbp.tabular.model import TabularModel

KEYS = "format", "version", "fastbp", "class", "parameters", "preprocessing", "members"
PREPROCESSING_KEYS = "categorical_features", "max_categories", "feature_names", "encodings"
KINDS = {
    encoding.kind: encoding
    for encoding in (
        NumericalEncoding, DatetimeEncoding, BooleanEncoding, CategoricalEncoding, EmptyEncoding,
    )
}  # fmt: skip


# ---- write --------------------------------------------------------------------------------------


def save(estimator, path):
    """Write a fitted estimator for tables to a file: see its method."""
    from fastbp import TabularMLPClassifier, TabularMLPRegressor

    if type(estimator) not in (TabularMLPClassifier, TabularMLPRegressor):
        raise TypeError(
            "Only TabularMLPClassifier and TabularMLPRegressor can be saved: a "
            f"{type(estimator).__name__} may hold more than the file has. Use pickle or joblib."
        )
    model, attributes, arrays = estimator._fitted(), dict(vars(estimator)), {}
    check_parameters(estimator)
    model.check()
    description = _describe(estimator, model, arrays)
    behind = sorted(attributes.keys() - {"_model"} - signature(type(estimator)).parameters.keys())
    if attributes["callback"] is not None:
        behind.insert(0, f"callback={attributes['callback']!r}")
    container.write(path, arrays, description)
    if behind:
        warnings.warn(f"Not saved with the model: {', '.join(behind)}.", stacklevel=3)


def check_parameters(estimator):
    """As a fit checks them."""
    estimator._validate_params()
    if estimator.hidden_layer_sizes is not None:
        params.hidden_sizes(estimator.hidden_layer_sizes)


def _describe(estimator, model, arrays):
    """All but the arrays, which are added to `arrays`."""
    from fastbp import __version__

    members = []
    for index, member in enumerate(model.members):
        of_member, fitted = {}, member._fitted()
        members.append(saving.describe(member, fitted, vars(member), of_member, False))
        arrays |= {f"members.{index}.{name}": array for name, array in of_member.items()}
    if model.bounds is not None:
        arrays["bounds"] = model.bounds
    return {
        "format": saving.FORMAT,
        "version": saving.VERSION,
        "fastbp": __version__,
        "class": type(estimator).__name__,
        "parameters": saving.describe_parameters(estimator, arrays),
        "preprocessing": _describe_preprocessing(model.preprocessing, arrays),
        "members": members,
    }


def _describe_preprocessing(preprocessing, arrays):
    encoder, scaler = (step for _, step in preprocessing.steps)
    arrays["medians"], arrays["factors"] = scaler.medians_, scaler.factors_
    names = getattr(encoder, "feature_names_in_", None)
    chosen = encoder.categorical_features
    if not (chosen is None or isinstance(chosen, str)):
        chosen = np.asarray(chosen).tolist()
    return {
        "categorical_features": chosen,
        "max_categories": int(encoder.max_categories),
        "feature_names": None if names is None else [str(name) for name in names],
        "encodings": [_describe_encoding(each) for each in encoder.encodings_],
    }


def _describe_encoding(encoding):
    described = {"kind": encoding.kind}
    for each in fields(encoding):
        described[each.name] = values.encode(saving.plain(getattr(encoding, each.name)))
    return described


# ---- read ---------------------------------------------------------------------------------------


def restore(arrays, description):
    """An estimator for tables from a file's content, of which the format is known to be right."""
    import fastbp

    loading.check_keys("The file", description, KEYS)
    estimator_class = getattr(fastbp, description["class"])
    parameters = loading.restore_parameters(estimator_class, description["parameters"], arrays)
    estimator = estimator_class(**parameters)
    check_parameters(estimator)
    preprocessing = _restore_preprocessing(description["preprocessing"], arrays)
    described = description["members"]
    if not isinstance(described, list):
        raise ValueError(f"members must be a list, got {reprlib.repr(described)}.")
    members = []
    for index, each in enumerate(described):
        prefix = f"members.{index}."
        of_member = {name: arrays[name] for name in arrays if name.startswith(prefix)}
        for name in of_member:
            del arrays[name]
        of_member = {name.removeprefix(prefix): array for name, array in of_member.items()}
        members.append(_restore_member(estimator_class, of_member, each))
    bounds = arrays.pop("bounds", None)
    if arrays:
        raise ValueError(f"It has arrays that do not belong to it: {reprlib.repr([*arrays])}.")
    model = TabularModel(preprocessing, tuple(members), bounds)
    model.check()
    vars(estimator)["_model"] = model
    return estimator


def _restore_member(estimator_class, arrays, described):
    if not isinstance(described, dict):
        raise ValueError(f"members must be described by dicts, got {reprlib.repr(described)}.")
    if described.get("class") != estimator_class._member_class.__name__:
        raise ValueError(
            f"A {estimator_class.__name__} has members of the class "
            f"{estimator_class._member_class.__name__}, got {reprlib.repr(described.get('class'))}."
        )
    member, checkpoint = loading.restore(arrays, described)
    if checkpoint is not None:
        raise ValueError("A member has a checkpoint, which those of tables never have.")
    return member


def _restore_preprocessing(described, arrays):
    loading.check_keys("preprocessing", described, PREPROCESSING_KEYS)
    listed, names = described["encodings"], described["feature_names"]
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"encodings must be a list, got {reprlib.repr(listed)}.")
    found = [_restore_encoding(each, position) for position, each in enumerate(listed)]
    encodings, n_encoded = placed(found)
    if encodings != found:
        raise ValueError("encodings have other places among the encoded columns than they must.")
    learned = {"encodings_": encodings, "_n_features_out": n_encoded}
    learned["n_numerical_"] = sum(encoding.n_numbers for encoding in encodings)
    learned["n_features_in_"] = len(encodings)
    if names is not None:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"feature_names must be strings, got {reprlib.repr(names)}.")
        names = np.array(names, dtype=object)
        check_feature_names(names, len(encodings))
        learned["feature_names_in_"] = names
    chosen = {name: described[name] for name in PREPROCESSING_KEYS[:2]}
    TableEncoder(**chosen)._validate_params()
    preprocessing = make_preprocessing(**chosen)
    encoder, scaler = (step for _, step in preprocessing.steps)
    vars(encoder).update(learned)
    for name, attribute in (("medians", "medians_"), ("factors", "factors_")):
        numbers = loading.take(arrays, name)
        if numbers.shape != (n_encoded,) or numbers.dtype != np.float64:
            raise ValueError(
                f"{name} must be {n_encoded} numbers of float64, got the shape {numbers.shape} "
                f"and {numbers.dtype}."
            )
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} must be finite.")
        setattr(scaler, attribute, numbers)
    scaler.n_features_in_ = n_encoded
    return preprocessing


def _is_finite(value):
    return type(value) is float and isfinite(value)


def _are(is_right):
    """Whether something is a tuple of such values."""
    return lambda value: isinstance(value, tuple) and all(map(is_right, value))


def _are_different(value):
    return _are(lambda each: isinstance(each, str))(value) and len({*value}) == len(value)


# Field of an encoding -> whether a value may be one.
FIELDS = {
    "position": lambda value: type(value) is int,
    "outputs": _are(lambda each: type(each) is int),
    "indicator": lambda value: value is None or type(value) is int,
    "median": _is_finite,
    "medians": _are(_is_finite),
    "has_missing": lambda value: isinstance(value, bool),
    "cycles": lambda value: _are_different(value) and {*value} <= {*CYCLES},
    "categories": _are_different,
    "two_valued": lambda value: isinstance(value, bool),
}


def _restore_encoding(described, position):
    kind = described.get("kind") if isinstance(described, dict) else None
    if kind not in list(KINDS):
        raise ValueError(f"An encoding must be of a kind in {[*KINDS]}, got {reprlib.repr(kind)}.")
    names = [each.name for each in fields(KINDS[kind])]
    loading.check_keys(f"The encoding of column {position}", described, ["kind", *names])
    found = {}
    for name in names:
        found[name] = values.decode(described[name])
        if not FIELDS[name](found[name]):
            raise ValueError(
                f"{name} of the encoding of column {position} cannot be "
                f"{reprlib.repr(found[name])}."
            )
    encoding = KINDS[kind](**found)
    if encoding.position != position:
        raise ValueError(f"The encoding of column {position} is of column {encoding.position}.")
    if len(found.get("medians", ())) not in (0, encoding.n_numbers):
        raise ValueError(f"The encoding of column {position} has too few or too many medians.")
    if found.get("two_valued") and len(encoding.categories) != 2:
        raise ValueError(f"The encoding of column {position} must have two categories.")
    return encoding
