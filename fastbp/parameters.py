"""The estimators' parameters: their valid values, and how they are interpreted.

`MLPClassifier` and `MLPRegressor` share all of them except `loss` and `out_activation`.
"""

import functools
import os
from inspect import signature
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import (
    Hidden,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)

from fastbp.activations import ACTIVATIONS, ALIASES, HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastbp.devices import DEVICES
from fastbp.initialisation import INITIALISATIONS
from fastbp.losses import LOSSES
from fastbp.network import LARGEST_LAYER
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.parameter_groups import NAMES as GROUPS
from fastbp.parameter_groups import PARAMETRIZATIONS
from fastbp.precisions import LOW_PRECISIONS
from fastbp.schedules import PLANS, SCHEDULES

# Output activations of a regressor: all that act on each unit by itself.
OUTPUT_CHOICES = {
    "auto",
    *(name for name in OUTPUT_ACTIVATIONS if ACTIVATIONS[name].forward is not None),
    *(alias for alias, name in ALIASES.items() if name in OUTPUT_ACTIVATIONS),
}

CONSTRAINTS = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    # "softmax" passes here to get a better message from `hidden_activations`.
    "activation": [
        StrOptions({*HIDDEN_ACTIVATIONS, *ALIASES}),
        Hidden(StrOptions({"softmax"})),
        tuple,
        list,
    ],
    "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({*SCHEDULES}), callable],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose", StrOptions({"progress"})],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "weight_decay_schedule": [StrOptions({*PLANS}), callable],
    "warmup": [Interval(Real, 0, 1, closed="left")],
    "drop_last": ["boolean"],
    "precision": [StrOptions({"auto", "float32", "float64", *LOW_PRECISIONS})],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "input_dropout": [Interval(Real, 0, 1, closed="left")],
    "dropout_schedule": [StrOptions({*PLANS}), callable],
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "ema_decay": [Interval(Real, 0, 1, closed="left"), None],
    "learning_rate_factors": [dict, None],
    "parametrization": [StrOptions({*PARAMETRIZATIONS})],
    "initialization": [StrOptions({*INITIALISATIONS})],
    "scaling_layer": ["boolean"],
    "parametric_activation": ["boolean"],
    "numerical_embedding": [StrOptions({"pbld"}), None],
    "embedded_features": [Interval(Integral, 1, None, closed="left"), None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "input_scale": [Interval(Real, 0, None, closed="neither")],
    "device": [StrOptions({*DEVICES})],
    "callback": [callable, None],
    "scoring": [str, callable, list, tuple, dict, None],
    "ties": [StrOptions({"first", "last"})],
    "checkpoint": [str, os.PathLike, None],
    "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
}


PLAIN_TYPES = {int, float, str, bool, type(None)}
_MOST_PASSED = 1000  # values of a parameter


@functools.cache
def _compiled_constraints(estimator_class):
    """The constraints of a class as scikit-learn's objects, which take long to make.

    In the order of names, in which scikit-learn checks them.
    """
    return [
        (name, [make_constraint(each) for each in constraints], set())
        for name, constraints in sorted(estimator_class._parameter_constraints.items())
    ]


def check(estimator, names=None):
    """Check an estimator's parameters, in a tenth of the time of scikit-learn's own method.

    Values that have passed are remembered, but only of types that keep no memory alive.

    Parameters
    ----------
    estimator : estimator
    names : collection of str or None, default=None
        None for all parameters.

    Raises
    ------
    InvalidParameterError
        A ValueError, as from scikit-learn's `_validate_params`.
    """
    attributes = vars(estimator)
    for name, constraints, passed in _compiled_constraints(type(estimator)):
        if names is not None and name not in names:
            continue
        value = attributes[name] if name in attributes else getattr(estimator, name)
        key = type(value), value
        if key[0] in PLAIN_TYPES and key in passed:
            continue
        if not any(constraint.is_satisfied_by(value) for constraint in constraints):
            validate_parameter_constraints(
                {name: type(estimator)._parameter_constraints[name]}, {name: value},
                caller_name=type(estimator).__name__,
            )  # fmt: skip
        if key[0] in PLAIN_TYPES and len(passed) < _MOST_PASSED:
            passed.add(key)


def is_thread_count(n_threads):
    """Whether `n_threads` needs no further check, which takes longer than predicting a row."""
    return n_threads is None or (type(n_threads) is int and n_threads > 0)


def hidden_sizes(hidden_layer_sizes):
    """Read `hidden_layer_sizes`: one number, or one for each hidden layer.

    Returns
    -------
    sizes : tuple of int

    Raises
    ------
    ValueError
        Where an entry is not a whole number from 1 to `LARGEST_LAYER`.
    """
    sizes = np.atleast_1d(np.asarray(hidden_layer_sizes, dtype=object))
    if sizes.ndim != 1 or not all(
        isinstance(size, Integral) and 0 < size <= LARGEST_LAYER for size in sizes
    ):
        raise ValueError(
            "hidden_layer_sizes must be > 0, whole numbers up to 2**31 - 1, one for each hidden "
            f"layer; got {hidden_layer_sizes!r}. () makes a network without hidden layers."
        )
    return tuple(int(size) for size in sizes)


def hidden_activations(activation, n_hidden):
    """Read `activation`: one name for all hidden layers, or one for each.

    Returns
    -------
    names : tuple of str
        Elements of `fastbp.activations.HIDDEN_ACTIVATIONS`, one for each hidden layer.

    Raises
    ------
    InvalidParameterError
        A ValueError: a name that is not known, "softmax", or not as many names as hidden layers.
    """
    names = (activation,) * n_hidden if isinstance(activation, str) else tuple(activation)
    if activation == "softmax" or "softmax" in names:
        raise InvalidParameterError(
            f"activation={activation!r}: softmax belongs to the output layer, which gets it by "
            "itself in multiclass classification. Choose the hidden layers' activation among "
            f"{sorted(HIDDEN_ACTIVATIONS)}."
        )
    known = sorted([*HIDDEN_ACTIVATIONS, *ALIASES])  # a list, because names may be unhashable
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidParameterError(
            f"activation={activation!r}: {unknown[0]!r} is not known. Choose among {known}."
        )
    if len(names) != n_hidden:
        raise InvalidParameterError(
            f"activation={activation!r} has {len(names)} names, but hidden_layer_sizes makes "
            f"{n_hidden} hidden layer(s). Give one name for each, or a single string for all."
        )
    return tuple(ALIASES.get(name, name) for name in names)


def dropout_rates(input_dropout, dropout, n_hidden):
    """Read `input_dropout`, and `dropout`: one number for all hidden layers, or one for each.

    Returns
    -------
    rates : tuple of float
        Of the inputs, then of each hidden layer's outputs.

    Raises
    ------
    InvalidParameterError
        A ValueError: what is not a number from 0 to 1, or not as many as hidden layers.
    """
    is_one = isinstance(dropout, Real)
    rates = [dropout] * n_hidden if is_one else np.asarray(dropout, dtype=object).tolist()
    if not isinstance(rates, list) or not all(
        isinstance(rate, Real) and 0 <= rate < 1 for rate in rates
    ):
        raise InvalidParameterError(
            f"dropout must be a number from 0 to 1 exclusive, or one for each hidden layer; got "
            f"{dropout!r}."
        )
    if len(rates) != n_hidden:
        raise InvalidParameterError(
            f"dropout={dropout!r} has {len(rates)} numbers, but hidden_layer_sizes makes "
            f"{n_hidden} hidden layer(s). Give one for each, or a single number for all."
        )
    return (float(input_dropout), *map(float, rates))


def refuse(estimator, names, why):
    """Raise where a parameter has another value than its default, which is neutral."""
    defaults = signature(type(estimator)).parameters
    for name in names:
        value, neutral = getattr(estimator, name), defaults[name].default
        if np.any(value) if neutral == 0.0 else value != neutral:
            raise InvalidParameterError(f"{name}={value!r} {why} {name}={neutral!r}.")


_BY_MINI_BATCHES = (
    "dropout", "input_dropout", "max_grad_norm", "ema_decay", "learning_rate_factors",
    "parametrization",
)  # fmt: skip


def refuse_for_lbfgs(estimator):
    """Raise where a parameter asks for something that only updates by mini-batches have."""
    why = (
        "is for training by mini-batches, which solver='lbfgs' does not do. Use another solver, or"
    )
    refuse(estimator, _BY_MINI_BATCHES, why)


def learning_rate_factors(given):
    """Read `learning_rate_factors`.

    Returns
    -------
    factors : dict of str to float

    Raises
    ------
    InvalidParameterError
        A ValueError: an unknown name, or what is no positive number.
    """
    for name, factor in (given or {}).items():
        if name not in GROUPS:
            raise InvalidParameterError(
                f"learning_rate_factors={given!r}: {name!r} is not known. Choose among {GROUPS}."
            )
        if not isinstance(factor, Real) or not 0 < factor < np.inf:
            raise InvalidParameterError(
                f"learning_rate_factors={given!r}: the factor of {name!r} must be a positive "
                f"number, got {factor!r}."
            )
    return {name: float(factor) for name, factor in (given or {}).items()}


def n_embedded(estimator, n_features):
    """The number of features that are embedded, the first ones; 0 without an embedding."""
    chosen = estimator.embedded_features
    if estimator.numerical_embedding is None:
        return 0
    if chosen is not None and chosen > n_features:
        raise InvalidParameterError(
            f"embedded_features={chosen} must be at most {n_features}, the number of features of X."
        )
    return n_features if chosen is None else int(chosen)


def default_activation(activation):
    """The hidden activation that decides the initial weights' bound without hidden layers."""
    name = activation if isinstance(activation, str) else ""
    return ALIASES.get(name, name if name in HIDDEN_ACTIVATIONS else "relu")


def output_activation(out_activation, loss):
    """Read a regressor's `out_activation`, whose "auto" depends on the loss.

    Returns
    -------
    name : str
        One of `fastbp.activations.OUTPUT_ACTIVATIONS`.

    Raises
    ------
    InvalidParameterError
        A ValueError: a choice that does not go with the loss.
    """
    record = next(each for each in LOSSES if each.name == loss)
    default = record.outputs[0] if record.outputs else "identity"
    name = default if out_activation == "auto" else ALIASES.get(out_activation, out_activation)
    if not record.goes_with(name):
        raise InvalidParameterError(
            f"out_activation={out_activation!r} does not go with loss={loss!r}. Use "
            f"out_activation='auto' or {default!r}, or loss='squared_error'."
        )
    return name
