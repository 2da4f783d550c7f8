"""The layer table as kernels read it: a row of `fastbp.cpu.records` fields for each layer."""

from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.spans import section
from fastbp.cpu.records import N_FIELDS, PANEL_ROWS, WEIGHTS, WIDTH


@kernel
def layer_of(layers, index):
    """One layer's fields, from the layer table."""
    return section(layers, index * N_FIELDS, N_FIELDS)


@kernel
def weight_panel(layer, panel):
    """Where a panel of a dense layer's weights starts."""
    return layer[WEIGHTS] + panel * layer[PANEL_ROWS] * layer[WIDTH]


@kernel
def first_dense_of(memory):
    """The number of the first dense layer: one comes before it where features are embedded."""
    return 1 if memory.n_embedded > 0 else 0


@kernel
def weights_of(memory, index):
    """What dense layer `index` multiplies by: its weights, with the scales of inputs if any."""
    if memory.scaling.weights.size > 0 and index == first_dense_of(memory):
        return memory.scaling.weights
    return memory.weights


@kernel
def last_layer_of(layers):
    """The output layer's fields."""
    return section(layers, layers.size - N_FIELDS, N_FIELDS)


@kernel
def n_layers_of(layers):
    """The number of layers in a layer table."""
    return layers.size // N_FIELDS
