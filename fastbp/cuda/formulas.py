"""The records' formulas as device functions, and the switches among them.

Nothing is restated: each formula is compiled from its single definition, and the switches are
written from the records, as those of the CPU's kernels.
"""

from functools import cache

import numpy as np
from scipy import special

from fastbp import activations, losses, optimizers
from fastbp.cuda.toolkit import cuda, is_simulated
from fastbp.schedules import COEFFICIENTS, RATE
from fastbp.switches import bind, make_switch

# In the simulator NumPy's functions stand for `math`'s: they keep float32, and overflow to infinity
# as a GPU does.
_SIMULATED = {name: getattr(np, name) for name in ("exp", "log", "sqrt", "tanh")}
_SIMULATED["erfc"] = special.erfc
IDENTITY, SOFTMAX = map(activations.code_of, ("identity", "softmax"))
_ELEMENTWISE = [
    (code, record)
    for code, record in enumerate(activations.ACTIVATIONS.values())
    if record.forward is not None
]


def device_function(function):
    """Compile a function for kernels to call; it becomes a part of them."""
    options = {} if is_simulated() else {"forceinline": True}
    return cuda.jit(device=True, **options)(function)


@cache
def compile_formula(function):
    """Compile a scalar formula, and those it calls, as device functions."""
    return device_function(bind(function, _SIMULATED if is_simulated() else {}, compile_formula))


def _switch(name, parameters, branches, otherwise, **common):
    return device_function(make_switch(name, parameters, branches, otherwise, common))


def _needs_z(record):
    return record.needs == "pre_activation"


def _backward_branch(code, record):
    if _needs_z(record):
        return code, "return delta * kept", {}
    return code, "return {f}(delta, kept)", {"f": compile_formula(record.backward)}


# ---- activations ------------------------------------------------------------------------------

exponential = compile_formula(activations.exponential)
# f(z) of every activation but softmax, which takes a whole row.
activate = _switch(
    "activate",
    "code, z",
    [
        (code, "return {f}(z)", {"f": compile_formula(record.forward)})
        for code, record in _ELEMENTWISE
    ],
    "return z",
)
# Whether f′(z) is kept on the way forward, because it cannot be computed from f(z).
keeps_derivative = _switch(
    "keeps_derivative",
    "code",
    [(code, "return True", {}) for code, record in _ELEMENTWISE if _needs_z(record)],
    "return False",
)
# f′(z) where it is kept.
derivative = _switch(
    "derivative",
    "code, z",
    [
        (code, "return {f}(type(z)(1), z)", {"f": compile_formula(record.backward)})
        for code, record in _ELEMENTWISE
        if _needs_z(record)
    ],
    "return z",
)
# δ from ∂L/∂f(z), and f(z) or the f′(z) that was kept.
activate_backward = _switch(
    "activate_backward",
    "code, delta, kept",
    [_backward_branch(*each) for each in _ELEMENTWISE],
    "return delta",
)

# ---- losses -----------------------------------------------------------------------------------

# One output's share of its row's loss.
output_loss = _switch(
    "output_loss",
    "loss, target, output, eps",
    [
        (code, "return {f}(target, output, eps)", {"f": compile_formula(record.share)})
        for code, record in enumerate(losses.LOSSES)
    ],
    "return output",
)
_output_error = _switch(
    "output_error",
    "loss, target, output",
    [
        (code, "return {f}(target, output)", {"f": compile_formula(record.error)})
        for code, record in enumerate(losses.LOSSES)
    ],
    "return output",
)
_joins_activation = _switch(
    "joins_activation",
    "loss",
    [(code, "return True", {}) for code, r in enumerate(losses.LOSSES) if r.joins_activation],
    "return False",
)


@device_function
def output_delta(loss, activation, target, output):
    """δ of one output, its row's weight not yet in it."""
    error = _output_error(loss, target, output)
    if _joins_activation(loss):
        return error
    return activate_backward(activation, error, output)


# ---- update rules -----------------------------------------------------------------------------

_MOMENTS = "first", "second"
has_second_moment = _switch(
    "has_second_moment",
    "rule",
    [
        (code, "return True", {})
        for code, r in enumerate(optimizers.RULES.values())
        if r.n_moments > 1
    ],
    "return False",
)


def _update_branch(code, rule):
    moments = _MOMENTS[: rule.n_moments]
    decays = ["shrinkage"] if rule.decay == "decoupled" else []
    numbers = [f"number(numbers, start, {COEFFICIENTS + i})" for i in range(len(rule.coefficients))]
    rate = f"number(numbers, start, {RATE})"
    arguments = ", ".join(["weight", "gradient", *moments, rate, *decays, *numbers])
    lines = f"{', '.join(['weight', *moments])} = {{f}}({arguments})\nreturn weight, first, second"
    return code, lines, {"f": compile_formula(rule.update)}


def make_update(number):
    """Build the device function that updates one parameter by a rule's code.

    Parameters
    ----------
    number : device function
        (numbers, start, column) -> a number of the step's row of the step table, in the
        parameters' dtype.

    Returns
    -------
    update : device function
        (rule, weight, gradient, first, second, numbers, start, shrinkage) -> weight, first, second;
        all of one dtype. A rule with one moment leaves the second as it is.
    """
    return _switch(
        "update",
        "rule, weight, gradient, first, second, numbers, start, shrinkage",
        [_update_branch(*each) for each in enumerate(optimizers.RULES.values())],
        "return weight, first, second",
        number=number,
    )
