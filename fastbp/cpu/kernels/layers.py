"""The layer table as kernels read it: a row of `fastbp.cpu.records` fields for each layer."""

from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.spans import section
from fastbp.cpu.records import N_FIELDS


@kernel
def layer_of(layers, index):
    """One layer's fields, from the layer table."""
    return section(layers, index * N_FIELDS, N_FIELDS)


@kernel
def last_layer_of(layers):
    """The output layer's fields."""
    return section(layers, layers.size - N_FIELDS, N_FIELDS)


@kernel
def n_layers_of(layers):
    """The number of layers in a layer table."""
    return layers.size // N_FIELDS
