"""Where a network's layers lie in the device's arrays. Imports no CUDA."""

from typing import NamedTuple

import numpy as np

from fastbp.activations import code_of


class Layer(NamedTuple):
    """A layer's sizes, and where its numbers start in the device's arrays.

    Kernels take it whole; the one that updates all layers takes a table with a row for each.

    Parameters
    ----------
    n_inputs, n_outputs : int
    inputs, outputs : int
        Among the values of all layers; the inputs of the first layer differ from step to step.
    input_deltas, deltas : int
        δ of its inputs, -1 in the first layer, and of its outputs.
    weights : int
        Among the parameters; the biases follow.
    input_activation, activation : int
        Codes. That of the output layer is applied with the loss, not after the product.
    first_tile, tiles_across : int
        Of its gradient, in the grid of the kernel that updates all layers.
    number : int
        Of its outputs, for dropout; that of the inputs is 0.
    input_threshold, threshold, seed : int
        What is left out of its inputs and of its outputs: see `fastbp.dropout`.
    """

    n_inputs: int
    n_outputs: int
    inputs: int
    outputs: int
    input_deltas: int
    deltas: int
    weights: int
    input_activation: int
    activation: int
    first_tile: int = 0
    tiles_across: int = 0
    number: int = 0
    input_threshold: int = 0
    threshold: int = 0
    seed: int = 0


def lay_out(network, capacity, n_gathered, dropout=None):
    """Lay out a network's values, δ and parameters.

    Parameters
    ----------
    network : Network
    capacity : int
        Most rows of a pass.
    n_gathered : int
        Rows of X that are gathered at once.
    dropout : Dropout or None, default=None

    Returns
    -------
    layers : list of Layer
    n_values, n_deltas : int
    """
    sizes = network.layer_sizes
    values = np.cumsum([0, n_gathered * sizes[0], *(capacity * n for n in sizes[1:])]).tolist()
    deltas = np.cumsum([0, *(capacity * n for n in sizes[1:])]).tolist()
    codes = [code_of(name) for name in network.activations]
    thresholds, seed = (0,) * (len(sizes) - 1), 0
    if dropout is not None:
        thresholds, seed = dropout.thresholds, dropout.seed
    thresholds = *thresholds, 0  # of the outputs
    layers = [
        Layer(
            fan_in, fan_out, values[index], values[index + 1],
            deltas[index - 1] if index else -1, deltas[index], int(network.starts[index]),
            codes[index - 1] if index else 0, codes[index], 0, 0, index + 1,
            *thresholds[index : index + 2], seed,
        )
        for index, (fan_in, fan_out) in enumerate(network.shapes)
    ]  # fmt: skip
    return layers, values[-1], deltas[-1]
