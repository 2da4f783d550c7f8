"""The activations made of ONNX's operators.

onnxruntime computes many of ONNX's own activations in float32 alone: these use what both types
have.
"""

import numpy as np

from fastbp.activations import ACTIVATIONS


def softplus(node, z):
    """log(1 + exp(z)), without overflow."""
    rest = node("Exp", node("Neg", node("Abs", z)))
    return node("Add", node("Relu", z), node("Log", node("Add", rest, 1.0)))


def _exp_below_zero(node, z):
    """exp(z) − 1 for negative z, and 0 for others."""
    return node("Sub", node("Exp", node("Neg", node("Relu", node("Neg", z)))), 1.0)


def _selu(node, z):
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    below = node("Mul", _exp_below_zero(node, z), scale * alpha)
    return node("Add", node("Mul", node("Relu", z), scale), below)


def _gelu(node, z):
    """z Φ(z); the error function is computed in float32."""
    erf = node.in_float32("Erf", node("Mul", z, np.sqrt(0.5)))
    return node("Mul", node("Mul", z, 0.5), node("Add", erf, 1.0))


# Activation -> function of (node, z) that adds nodes to the graph and returns the last one's name.
FORMULAS = {
    "identity": lambda node, z: z,
    "logistic": lambda node, z: node("Sigmoid", z),
    "tanh": lambda node, z: node("Tanh", z),
    "relu": lambda node, z: node("Relu", z),
    "softmax": lambda node, z: node("Softmax", z, axis=1),
    "exp": lambda node, z: node("Exp", z),
    "gelu": _gelu,
    "leaky_relu": lambda node, z: node("Max", z, node("Mul", z, 0.01)),
    "elu": lambda node, z: node("Add", node("Relu", z), _exp_below_zero(node, z)),
    "selu": _selu,
    "softplus": softplus,
    "silu": lambda node, z: node("Mul", z, node("Sigmoid", z)),
    "mish": lambda node, z: node("Mul", z, node("Tanh", softplus(node, z))),
}


def apply_formula(node, name, z):
    """Add an activation's nodes, and return the last one's name.

    Raises
    ------
    ValueError
        If it has no formula.
    """
    if name not in FORMULAS:
        known = sorted(FORMULAS.keys() & ACTIVATIONS.keys())
        raise ValueError(
            f"activation={name!r} cannot be exported: fastbp.onnx has formulas of {known} only. "
            f"Give it one, fastbp.onnx.FORMULAS[{name!r}] = lambda node, z: ..., made of nodes as "
            'node("Tanh", z).'
        )
    return FORMULAS[name](node, z)
