"""The records' formulas compiled for the CPU, and the switches among them, over spans of numbers.

A switch is taken once per tile, and each branch is a loop that LLVM vectorises. All spans hold
whole vectors.
"""

from fastbp import activations, losses, optimizers
from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.elementary import compile_formula
from fastbp.cpu.kernels.spans import section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.schedules import COEFFICIENTS, RATE
from fastbp.switches import make_switch


def _loop(over, body):
    return f"for j in range(whole_size({over})):\n    {body}"


def _compiled(record, *names):
    """Compile the formulas of a record that have these names."""
    return {name: compile_formula(getattr(record, name)) for name in names}


def _switch(name, parameters, branches, **options):
    common = {"whole_size": whole_size, "section": section}
    return kernel(make_switch(name, parameters, branches, common=common, **options))


IDENTITY, SOFTMAX = map(activations.code_of, ("identity", "softmax"))
_ELEMENTWISE = [
    (code, record)
    for code, record in enumerate(activations.ACTIVATIONS.values())
    if record.forward is not None and not record.is_identity
]

# ---- activations ------------------------------------------------------------------------------

_FORWARD = _loop("values", "values[j] = {forward}(values[j])")
# Both in one loop, as they share the costly parts.
_FORWARD_KEEPING = """\
one = type(values[0])(1)
for j in range(whole_size(values)):
    z = values[j]
    kept[j] = {backward}(one, z)
    values[j] = {forward}(z)"""


def _forward_branch(code, record):
    if record.needs == "pre_activation":
        return code, _FORWARD_KEEPING, _compiled(record, "forward", "backward")
    return code, _FORWARD, _compiled(record, "forward")


def _backward_branch(code, record):
    if record.needs == "pre_activation":
        return code, _loop("deltas", "deltas[j] = errors[j] * deltas[j]"), {}
    line = "deltas[j] = {backward}(errors[j], values[j])"
    return code, _loop("deltas", line), _compiled(record, "backward")


# Replaces z by f(z), softmax excepted. Where the backward formula needs z, f′(z) goes to `kept`.
activate = _switch(
    "activate", "activation, values, kept", [_forward_branch(*each) for each in _ELEMENTWISE]
)
# δ = ∂L/∂z from the errors ∂L/∂f(z) and f(z), or from the f′(z) kept in `deltas`.
activate_backward = _switch(
    "activate_backward",
    "activation, deltas, errors, values",
    [_backward_branch(*each) for each in _ELEMENTWISE],
    otherwise=_loop("deltas", "deltas[j] = errors[j]"),
)

# ---- losses -----------------------------------------------------------------------------------


# A loss's coefficient is another one for each output, whose numbers lie together.
_WITH_COEFFICIENT = """\
count = outputs.size // coefficients.size
for unit in range(coefficients.size):
    coefficient, start = coefficients[unit], unit * count
    for sample in range(whole_size(section(outputs, start, count))):
        j = start + sample
        """


def _loss_branch(code, record, result, formula, arguments):
    compiled = _compiled(record, formula)
    if record.coefficient is None:
        return code, _loop("outputs", f"{result} = {{{formula}}}({arguments})"), compiled
    line = f"{result} = {{{formula}}}(targets[j], outputs[j], eps, coefficient)"
    return code, _WITH_COEFFICIENT + line, compiled


def _loss_switch(name, result, formula, arguments):
    branches = [
        _loss_branch(code, record, f"{result}[j]", formula, arguments)
        for code, record in enumerate(losses.LOSSES)
    ]
    return _switch(name, f"loss, {result}, targets, outputs, coefficients, eps", branches)


# Each output's share of its row's loss.
compute_losses = _loss_switch("compute_losses", "losses", "share", "targets[j], outputs[j], eps")
# ∂L/∂output or, where the loss joins the activation, δ.
compute_errors = _loss_switch("compute_errors", "errors", "error", "targets[j], outputs[j]")
cross_entropy = compile_formula(losses.CROSS_ENTROPY.share)

# ---- update rules -----------------------------------------------------------------------------

_MOMENTS = "first_moment", "second_moment"


def _update_branch(code, rule):
    moments = [f"{name}[j]" for name in _MOMENTS[: rule.n_moments]]
    coefficients = [f"coefficient_{i}" for i in range(len(rule.coefficients))]
    lines = [f"{name} = real(step[{COEFFICIENTS + i}])" for i, name in enumerate(coefficients)]
    results = ", ".join(["weights[j]", *moments])
    decays = ["shrinks"] if rule.decay == "decoupled" else []
    arguments = ["weights[j]", "gradient[j] + decay * weights[j]", *moments, "rate", *decays]
    update = f"{results} = {{update}}({', '.join([*arguments, *coefficients])})"
    lines += ["decay, shrinks = real(penalty), real(shrinkage)"]
    lines = ["real = type(gradient[0])", f"rate = real(step[{RATE}])", *lines]
    return code, "\n".join([*lines, _loop("gradient", update)]), _compiled(rule, "update")


# Updates weights by their gradient and a row of the step table.
update_weights = _switch(
    "update_weights",
    "rule, weights, gradient, first_moment, second_moment, step, penalty, shrinkage",
    [_update_branch(*each) for each in enumerate(optimizers.RULES.values())],
)
