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

_NUMPYS = "exp", "expm1", "log", "log1p", "sqrt", "tanh"
# In the simulator NumPy's functions stand for `math`'s: they keep float32, and overflow to infinity
# as a GPU does.
_SIMULATED = {name: getattr(np, name) for name in _NUMPYS}
_SIMULATED["erfc"] = special.erfc
IDENTITY, SOFTMAX = map(activations.code_of, ("identity", "softmax"))


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


def _by_formula(name, parameters, records, line, formula, otherwise):
    """A switch that runs a line with one formula of each record in the place of {f}."""
    branches = [
        (code, line, {"f": compile_formula(getattr(record, formula))}) for code, record in records
    ]
    return _switch(name, parameters, branches, otherwise)


def _whether(name, parameter, records, holds):
    """A switch that says whether something holds for a record."""
    branches = [(code, "return True", {}) for code, record in records if holds(record)]
    return _switch(name, parameter, branches, "return False")


# ---- activations ------------------------------------------------------------------------------

_ELEMENTWISE = [
    (code, record)
    for code, record in enumerate(activations.ACTIVATIONS.values())
    if record.forward is not None
]
_FROM_Z = [pair for pair in _ELEMENTWISE if pair[1].needs == "pre_activation"]
exponential = compile_formula(activations.exponential)
# f(z) of every activation but softmax, which takes a whole row.
activate = _by_formula("activate", "code, z", _ELEMENTWISE, "return {f}(z)", "forward", "return z")
# Whether f′(z) is kept on the way forward, because it cannot be computed from f(z); and f′(z).
keeps_derivative = _whether("keeps_derivative", "code", _FROM_Z, bool)
derivative = _by_formula(
    "derivative", "code, z", _FROM_Z, "return {f}(type(z)(1), z)", "backward", "return z"
)
# δ from ∂L/∂f(z), and f(z).
_backward = _by_formula(
    "backward", "code, delta, h", [pair for pair in _ELEMENTWISE if pair not in _FROM_Z],
    "return {f}(delta, h)", "backward", "return delta",
)  # fmt: skip


@device_function
def activate_backward(code, delta, kept):
    """δ from ∂L/∂f(z), and f(z) or the f′(z) that was kept."""
    return delta * kept if keeps_derivative(code) else _backward(code, delta, kept)


# ---- losses -----------------------------------------------------------------------------------

_LOSSES = list(enumerate(losses.LOSSES))
# Those whose formulas need no coefficient, which the specialised programs know.
_PLAIN_LOSSES = [pair for pair in _LOSSES if pair[1].coefficient is None]


def _of_any_loss(name, formula, arguments):
    """A switch among the formulas of all losses, with and without a coefficient."""
    branches = [
        (
            code,
            "return {f}(target, output, eps, coefficient)"
            if record.coefficient
            else f"return {{f}}({arguments})",
            {"f": compile_formula(getattr(record, formula))},
        )
        for code, record in _LOSSES
    ]
    parameters = "loss, target, output, eps, coefficient"
    return _switch(name, parameters, branches, "return output")


# One output's share of its row's loss.
output_loss = _by_formula(
    "output_loss", "loss, target, output, eps", _PLAIN_LOSSES, "return {f}(target, output, eps)",
    "share", "return output",
)  # fmt: skip
_output_error = _by_formula(
    "output_error", "loss, target, output", _PLAIN_LOSSES, "return {f}(target, output)", "error",
    "return output",
)  # fmt: skip
_joins_activation = _whether(
    "joins_activation", "loss", _LOSSES, lambda loss: loss.joins_activation
)
# The same of every loss; `error` is ∂L/∂output or what the loss's record says.
any_output_loss = _of_any_loss("any_output_loss", "share", "target, output, eps")
any_output_error = _of_any_loss("any_output_error", "error", "target, output")


@device_function
def output_delta(loss, activation, target, output):
    """δ of one output, its row's weight not yet in it."""
    return delta_of_error(loss, activation, _output_error(loss, target, output), output)


@device_function
def delta_of_error(loss, activation, error, output):
    """δ of one output from the loss's `error`; not of a loss of softmax that is not joined."""
    if _joins_activation(loss):
        return error
    return activate_backward(activation, error, output)


@device_function
def couples_outputs(loss, activation):
    """Whether δ of an output depends on all of its row: δ = s − p Σs, s being the errors."""
    return activation == SOFTMAX and not _joins_activation(loss)


# ---- update rules -----------------------------------------------------------------------------

_MOMENTS = "first", "second"
_RULES = list(enumerate(optimizers.RULES.values()))
has_second_moment = _whether("has_second_moment", "rule", _RULES, lambda rule: rule.n_moments > 1)


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
        [_update_branch(*each) for each in _RULES],
        "return weight, first, second",
        number=number,
    )
