"""The memory layout of a network: aligned panels of vector width, described by a layer table.

Weights, activations and deltas are cut into panels of `WIDTH` neighbouring units, each panel
contiguous: a weight panel holds all inputs' rows and then the bias row, an activation panel all
rows of a batch. Threads that own different panels thus never share a cache line, and a tile of
either is one contiguous block. Padding is always zero in weights, moments and deltas.
"""

import numpy as np

from fastbp.activations import code_of
from fastbp.cpu.code import TILE_ROWS, lanes
from fastbp.cpu.packing import address_of, place_of
from fastbp.cpu.records import (
    BIAS_ROW,
    CACHE_LINE,
    N_FIELDS,
    N_INPUTS,
    N_PANELS,
    TILE_VECTORS,
    WEIGHTS,
    WIDTH,
)

ALIGNMENT = 128  # bytes; two cache lines, which the adjacent-line prefetcher fetches together


def round_up(number, multiple):
    """The smallest multiple of `multiple` that is at least `number`."""
    return -(-number // multiple) * multiple


def aligned_zeros(size, dtype):
    """An array of `size` zeros that starts on a cache line of its own."""
    n_bytes = int(size) * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    start = -address_of(memory) % ALIGNMENT
    return memory[start : start + n_bytes].view(dtype)


class Layout:
    """Offsets and sizes of a network's arrays for one dtype.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64

    Attributes
    ----------
    table : ndarray of shape (n_layers, N_FIELDS), dtype int64
    table_place : Place
        Where it lies, as long as the layout lives.
    real : str
        The dtype's name.
    lanes : int
        Numbers in a vector.
    widest : int
        Units of the largest layer, or features, in whole vectors.
    n_weights : int
        Length of the padded parameter vector.
    n_units : int
        Padded units of all layers.
    n_blocks : int
        Blocks of all weight panels.
    input_stride : int
        Numbers from one row of gathered inputs to the next.
    transposed_size : int
        Room for one transposed weight panel.
    """

    def __init__(self, network, dtype):
        network.check()  # the last wall before kernels, which trust its sizes
        self.lanes = vector = lanes(dtype)
        panel = TILE_VECTORS * vector
        self.network = network
        self.dtype = np.dtype(dtype)
        self.real = self.dtype.name
        self.table = np.zeros((len(network.shapes), N_FIELDS), np.int64)
        self.n_weights = self.n_units = self.n_blocks = self.transposed_size = 0
        self.tile_size = TILE_ROWS * panel
        input_width = TILE_ROWS
        for layer, (n_inputs, n_outputs) in enumerate(network.shapes):
            width = panel if n_outputs > vector else vector
            n_panels = -(-n_outputs // width)
            bias_row = round_up(n_inputs, max(input_width, TILE_ROWS))
            blocks = -(-n_inputs // TILE_ROWS) + 1
            is_hidden = layer < len(network.hidden_activations)
            activation = network.hidden_activations[layer] if is_hidden else "identity"
            self.table[layer] = (
                n_inputs, n_outputs, input_width, width, n_panels, bias_row, self.n_weights,
                self.n_units, blocks, self.n_blocks, code_of(activation), vector,
            )  # fmt: skip
            if layer:
                self.transposed_size = max(self.transposed_size, n_panels * width * input_width)
            self.n_weights += round_up(n_panels * (bias_row + 1) * width, panel)
            self.n_units += n_panels * width
            self.n_blocks += n_panels * blocks
            input_width = width
        self.table_place = place_of(self.table)
        self.widest = round_up(max(network.layer_sizes), vector)
        self.input_stride = self._input_stride(network.layer_sizes[0])

    def _input_stride(self, n_features):
        """Whole cache lines; one more where the rows of a tile would fall into the same L1 set."""
        line = CACHE_LINE // self.dtype.itemsize
        stride = round_up(n_features, line)
        return stride + line if stride * self.dtype.itemsize % 1024 == 0 else stride

    def _panels(self, padded, layer):
        """The layer's weights in a padded vector, as (panel, row, unit)."""
        fields = self.table[layer]
        shape = fields[N_PANELS], fields[BIAS_ROW] + 1, fields[WIDTH]
        return padded[fields[WEIGHTS] :][: np.prod(shape)].reshape(shape)

    def _pieces(self, padded, flat):
        """Yield pairs of views: pieces of the padded vector, and the same numbers of the flat one.

        For each array all whole panels are one piece and a last, partial one is another, so that
        packing copies without a temporary.
        """
        for layer, arrays in enumerate(zip(*self.network.views(flat), strict=True)):
            panels = self._panels(padded, layer)
            n_inputs, width = self.table[layer, N_INPUTS], self.table[layer, WIDTH]
            for array, rows in zip(arrays, (slice(n_inputs), slice(-1, None)), strict=True):
                matrix = array.reshape(-1, array.shape[-1])
                whole = matrix.shape[1] // width
                split = matrix[:, : whole * width].reshape(len(matrix), whole, width)
                yield panels[:whole, rows].transpose(1, 0, 2), split
                if whole < len(panels):
                    rest = matrix[:, whole * width :]
                    yield panels[whole, rows, : rest.shape[1]], rest

    def pack(self, flat, padded):
        """Copy a flat vector (W₀ b₀ W₁ b₁ …) into a padded one."""
        for inside, outside in self._pieces(padded, flat):
            inside[...] = outside

    def unpack(self, padded):
        """Copy a padded vector into a new flat one."""
        flat = np.empty(self.network.n_parameters, self.dtype)
        for inside, outside in self._pieces(padded, flat):
            outside[...] = inside
        return flat
