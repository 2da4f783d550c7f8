"""The formulas of `fastbp.functions` and `fastbp.optimizers` as device functions.

Nothing is restated: each is compiled from its single definition. Codes are positions in that
module's tables, as in the CPU's kernels.
"""

from types import FunctionType

import numpy as np

from fastbp import functions, optimizers
from fastbp.cuda.task import ADAM, NESTEROV
from fastbp.cuda.toolkit import cuda, is_simulated

_HIDDEN = list(functions.HIDDEN_ACTIVATIONS)
IDENTITY, LOGISTIC, TANH, RELU = map(_HIDDEN.index, ("identity", "logistic", "tanh", "relu"))
SOFTMAX, EXPONENTIAL = map(functions.OUTPUT_ACTIVATIONS.index, ("softmax", "exp"))
LOG_LOSS, SQUARED_ERROR, POISSON = map(
    functions.LOSSES.index, ("log_loss", "squared_error", "poisson")
)
_NUMPY = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh}


def device_function(function):
    """Compile a function for kernels to call; it becomes a part of them."""
    options = {} if is_simulated() else {"forceinline": True}
    return cuda.jit(device=True, **options)(function)


def compile_formula(function, **callees):
    """Compile a scalar formula as a device function.

    `callees` are the compiled versions of the formulas that it calls. In the simulator NumPy's
    functions stand for `math`'s: they keep float32, and overflow to infinity as a GPU does.
    """
    names = {**function.__globals__, **(_NUMPY if is_simulated() else {}), **callees}
    return device_function(FunctionType(function.__code__, names, function.__name__))


_logistic, _logistic_backward = map(compile_formula, functions.HIDDEN_ACTIVATIONS["logistic"])
_tanh, _tanh_backward = map(compile_formula, functions.HIDDEN_ACTIVATIONS["tanh"])
_relu, _relu_backward = map(compile_formula, functions.HIDDEN_ACTIVATIONS["relu"])
exponential = compile_formula(functions.exponential)
_exponential_backward = compile_formula(functions.exponential_backward)
_clip_probability = compile_formula(functions.clip_probability)
_cross_entropy = compile_formula(functions.cross_entropy, clip_probability=_clip_probability)
_binary_cross_entropy = compile_formula(
    functions.binary_cross_entropy,
    clip_probability=_clip_probability,
    cross_entropy=_cross_entropy,
)
_half_squared_error = compile_formula(functions.half_squared_error)
_half_poisson_deviance = compile_formula(functions.half_poisson_deviance)
output_error = compile_formula(functions.output_error)
sgd = compile_formula(optimizers.sgd)
nesterov = compile_formula(optimizers.nesterov)
adam = compile_formula(optimizers.adam)


@device_function
def activate(code, z):
    """f(z) of every activation but softmax, which takes a whole row."""
    if code == RELU:
        return _relu(z)
    if code == LOGISTIC:
        return _logistic(z)
    if code == TANH:
        return _tanh(z)
    if code == EXPONENTIAL:
        return exponential(z)
    return z


@device_function
def activate_backward(code, delta, h):
    """δ f′(z) from h = f(z)."""
    if code == RELU:
        return _relu_backward(delta, h)
    if code == LOGISTIC:
        return _logistic_backward(delta, h)
    if code == TANH:
        return _tanh_backward(delta, h)
    if code == EXPONENTIAL:
        return _exponential_backward(delta, h)
    return delta


@device_function
def output_loss(loss, activation, target, output, eps):
    """One output's share of its row's loss."""
    if loss == SQUARED_ERROR:
        return _half_squared_error(target, output)
    if loss == POISSON:
        return _half_poisson_deviance(target, output)
    if activation == LOGISTIC:
        return _binary_cross_entropy(target, output, eps)
    return _cross_entropy(target, output, eps)


@device_function
def output_delta(loss, activation, target, output):
    """δ of one output in front of its activation, its row's weight not yet in it."""
    error = output_error(target, output)
    if loss == SQUARED_ERROR:
        return activate_backward(activation, error, output)
    return error


@device_function
def update(rule, weight, gradient, first, second, rate, momentum, beta_1, beta_2, epsilon):
    """The new parameter and its moments, by the rule of a code; all of one dtype."""
    if rule == ADAM:
        return adam(weight, gradient, first, second, rate, beta_1, beta_2, epsilon)
    if rule == NESTEROV:
        weight, first = nesterov(weight, gradient, first, rate, momentum)
    else:
        weight, first = sgd(weight, gradient, first, rate, momentum)
    return weight, first, second
