"""The records' formulas compiled for the CPU, and the switches among them, over spans of numbers.

A switch is taken once a tile; what it runs are loops that turn into vector instructions.
"""

from fastbp import activations, losses, optimizers
from fastbp.cpu.compilation import kernel
from fastbp.cpu.elementary import compile_formula
from fastbp.schedules import COEFFICIENTS, RATE
from fastbp.switches import make_switch


def _loop(over, body):
    return f"for j in range({over}.size):\n    {body}"


def _compiled(record, *names):
    """Some formulas of a record, by their names there."""
    return {name: compile_formula(getattr(record, name)) for name in names}


def _elementwise(is_wanted):
    """(code, record) of the activations that compute something, number by number."""
    return [
        (code, record)
        for code, record in enumerate(activations.ACTIVATIONS.values())
        if is_wanted(record) and record.forward is not None and not record.is_identity
    ]


SOFTMAX = activations.code_of("softmax")
_HIDDEN = _elementwise(lambda record: record.is_hidden)
_OUTPUT = _elementwise(lambda record: record.is_output)

# ---- activations ------------------------------------------------------------------------------

_FORWARD = _loop("values", "values[j] = {forward}(values[j])")
# Both at once, as they have the costly parts in common.
_FORWARD_KEEPING = """\
one = type(values[0])(1)
for j in range(values.size):
    z = values[j]
    kept[j] = {backward}(one, z)
    values[j] = {forward}(z)"""


def _forward_branch(code, record):
    if record.needs == "pre_activation":
        return code, _FORWARD_KEEPING, _compiled(record, "forward", "backward")
    return code, _FORWARD, _compiled(record, "forward")


# Numbers of a hidden layer in place; where the way back needs z, f′(z) goes to `kept`.
activate_keeping = kernel(
    make_switch(
        "activate_keeping",
        "activation, values, kept",
        [_forward_branch(*each) for each in _HIDDEN],
    )
)
# Numbers of a hidden layer, and of the output layer, in place; for softmax nothing happens.
activate_hidden, activate_outputs = (
    kernel(
        make_switch(
            "activate",
            "activation, values",
            [(code, _FORWARD, _compiled(record, "forward")) for code, record in records],
        )
    )
    for records in (_HIDDEN, _OUTPUT)
)


def _backward_branch(code, record):
    if record.needs == "pre_activation":
        return code, _loop("deltas", "deltas[j] = products[j] * deltas[j]"), {}
    line = "deltas[j] = {backward}(products[j], values[j])"
    return code, _loop("deltas", line), _compiled(record, "backward")


# δ of a hidden layer from δ Wᵀ in `products`: times f′, from f's values, or as `deltas` kept it.
hidden_deltas = kernel(
    make_switch(
        "hidden_deltas",
        "activation, deltas, products, values",
        [_backward_branch(*each) for each in _HIDDEN],
        otherwise=_loop("deltas", "deltas[j] = products[j]"),
    )
)

# ---- losses -----------------------------------------------------------------------------------

# Every output's share of its row's loss.
compute_losses = kernel(
    make_switch(
        "compute_losses",
        "loss, losses, targets, outputs, eps",
        [
            (
                code,
                _loop("outputs", "losses[j] = {share}(targets[j], outputs[j], eps)"),
                _compiled(record, "share"),
            )
            for code, record in enumerate(losses.LOSSES)
        ],
    )
)
# In place of the targets ∂L/∂output, or where the loss joins the activation δ.
compute_errors = kernel(
    make_switch(
        "compute_errors",
        "loss, targets, outputs",
        [
            (
                code,
                _loop("outputs", "targets[j] = {error}(targets[j], outputs[j])"),
                _compiled(record, "error"),
            )
            for code, record in enumerate(losses.LOSSES)
        ],
    )
)
# δ of the output layer from ∂L/∂output, in place; for softmax nothing happens.
output_deltas = kernel(
    make_switch(
        "output_deltas",
        "activation, deltas, outputs",
        [
            (
                code,
                _loop("deltas", "deltas[j] = {backward}(deltas[j], outputs[j])"),
                _compiled(record, "backward"),
            )
            for code, record in _OUTPUT
        ],
    )
)
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


# Move weights by their gradient and a row of the step table.
update_weights = kernel(
    make_switch(
        "update_weights",
        "rule, weights, gradient, first_moment, second_moment, step, penalty, shrinkage",
        [_update_branch(*each) for each in enumerate(optimizers.RULES.values())],
    )
)
