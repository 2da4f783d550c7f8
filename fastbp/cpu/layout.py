"""The memory layout of a network: aligned panels of vector width, described by a layer table.

Weights, activations and deltas are cut into panels of `WIDTH` neighbouring units, each panel
contiguous: a weight panel holds all inputs' rows, then the bias row and, if there are slopes, their
row; an activation panel holds all rows of a batch. Threads that own different panels thus never
share a cache line, and a tile of either is one contiguous block. Padding is always zero in weights,
moments and deltas.

A layer that embeds features comes before the dense ones. Its units are the numbers of the embedded
features, feature by feature, and then all features. Parameters that belong to no panel, the scales
of inputs and the embedding, come after all panels.
"""

from functools import cached_property

import numpy as np

from fastbp.activations import code_of
from fastbp.cpu.code import TILE_ROWS, lanes
from fastbp.cpu.packing import address_of, place_of
from fastbp.cpu.records import (
    BIAS_ROW,
    CACHE_LINE,
    EMBEDDING_BIASES,
    EMBEDDING_SIZE,
    EMBEDDING_WEIGHTS,
    FIRST_BLOCK,
    N_FIELDS,
    N_PANELS,
    PANEL_ROWS,
    PHASES,
    SLOPES_ROW,
    TILE_VECTORS,
    WEIGHTS,
    WIDTH,
)
from fastbp.parameter_groups import group_of

MOST_PLACES = 20_000  # parameters that are packed by their places: pieces take longer to find
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
    n_pairs : int
        Pairs of neighbouring weights, for products in bfloat16.
    n_units : int
        Padded units of all layers.
    n_blocks : int
        Blocks of all weight panels, and of the scales and the embedding.
    panel : int
        Numbers of two vectors.
    first_dense : {0, 1}
        Whether the table's first row is of a layer that embeds features.
    scales_start, n_scale_chunks, first_scale_block : int
        Where the scales are, two vectors in a chunk, and the first chunk's index among all blocks.
    input_stride : int
        Numbers from one row of gathered inputs to the next.
    transposed_size : int
        Room for one transposed weight panel.
    """

    def __init__(self, network, dtype):
        network.check()  # the last wall before kernels, which trust its sizes
        self.lanes = lanes(dtype)
        self.network = network
        self.dtype = np.dtype(dtype)
        self.real = self.dtype.name
        self.panel = TILE_VECTORS * self.lanes
        self.first_dense = 1 if network.n_embedded else 0
        self.table = np.zeros((self.first_dense + len(network.shapes), N_FIELDS), np.int64)
        self.n_weights = self.n_pairs = self.n_units = self.n_blocks = self.transposed_size = 0
        self.tile_size = TILE_ROWS * self.panel
        input_width = self._add_embedding_units() if network.n_embedded else TILE_ROWS
        for layer in range(len(network.shapes)):
            input_width = self._add_dense(layer, input_width)
        self.scales_start = self.first_scale_block = self.n_scale_chunks = 0
        if network.has_scales:
            self.scales_start, self.first_scale_block = self.n_weights, self.n_blocks
            self.n_scale_chunks = -(-network.n_inputs // self.panel)
            self.n_weights += self.n_scale_chunks * self.panel
            self.n_blocks += self.n_scale_chunks
        if network.n_embedded:
            self.table[0, [WEIGHTS, FIRST_BLOCK]] = self.n_weights, self.n_blocks
            self.n_weights += round_up(network.n_embedded * EMBEDDING_SIZE, self.panel)
            self.n_blocks += network.n_embedded
        self.table_place = place_of(self.table)
        self.widest = round_up(max(network.layer_sizes), self.lanes)
        self.input_stride = self._input_stride(network.layer_sizes[0])

    def _width_of(self, n_outputs):
        return self.panel if n_outputs > self.lanes else self.lanes

    def _add_embedding_units(self):
        """The first row of the table, apart from where its parameters are; return the width."""
        network = self.network
        width = self._width_of(network.n_inputs)
        n_panels = -(-network.n_inputs // width)
        self.table[0] = (
            network.layer_sizes[0], network.n_inputs, TILE_ROWS, width, n_panels, 0, 0, 0,
            network.n_embedded, 0, code_of("identity"), self.lanes, 0, 0, 0, 0,
        )  # fmt: skip
        self.n_units += n_panels * width
        return width

    def _add_dense(self, layer, input_width):
        """A dense layer's row of the table; return the width of its panels."""
        network, row = self.network, self.first_dense + layer
        n_inputs, n_outputs = network.shapes[layer]
        width = self._width_of(n_outputs)
        n_panels = -(-n_outputs // width)
        bias_row = round_up(n_inputs, max(input_width, TILE_ROWS))
        is_hidden = layer < len(network.hidden_activations)
        activation = network.hidden_activations[layer] if is_hidden else "identity"
        has_slopes = is_hidden and network.has_slopes
        blocks = -(-n_inputs // TILE_ROWS) + 1 + has_slopes
        panel_rows = bias_row + 1 + has_slopes
        self.table[row] = (
            n_inputs, n_outputs, input_width, width, n_panels, bias_row, self.n_weights,
            self.n_units, blocks, self.n_blocks, code_of(activation), self.lanes,
            bias_row + 1 if has_slopes else 0, panel_rows, group_of(network, layer, "weights"),
            self.n_pairs,
        )  # fmt: skip
        if row:
            self.transposed_size = max(self.transposed_size, n_panels * width * input_width)
        self.n_weights += round_up(n_panels * panel_rows * width, self.panel)
        self.n_pairs += n_panels * bias_row * width // 2
        self.n_units += n_panels * width
        self.n_blocks += n_panels * blocks
        return width

    @cached_property
    def one_panel_table(self):
        """The table where the weights of every panel are copied to the same place before use."""
        table = self.table.copy()
        table[:, [WEIGHTS, PANEL_ROWS]] = 0
        return table.ravel()

    def one_panel_size(self, first_layer):
        """Room for the largest panel of weights from a layer on."""
        sizes = self.table[first_layer:, PANEL_ROWS] * self.table[first_layer:, WIDTH]
        return int(sizes.max(initial=0))

    def _input_stride(self, n_features):
        """Whole cache lines; one more where the rows of a tile would fall into the same L1 set."""
        line = CACHE_LINE // self.dtype.itemsize
        stride = round_up(n_features, line)
        return stride + line if stride * self.dtype.itemsize % 1024 == 0 else stride

    def _panels(self, padded, layer):
        """A dense layer's weights in a padded vector, as (panel, row, unit)."""
        fields = self.table[self.first_dense + layer]
        shape = fields[N_PANELS], fields[PANEL_ROWS], fields[WIDTH]
        return padded[fields[WEIGHTS] :][: np.prod(shape)].reshape(shape)

    def pieces(self, padded, flat):
        """Yield pairs of views: pieces of the padded vector, and the same numbers of the flat one.

        For each array all whole panels are one piece and a last, partial one is another, so that
        packing copies without a temporary.
        """
        network, extras = self.network, self.network.extras(flat)
        slopes = [*extras.get("slopes", ()), *[None] * len(network.shapes)]
        for layer, (weights, bias) in enumerate(zip(*network.views(flat), strict=True)):
            fields = self.table[self.first_dense + layer]
            rows = [(weights, 0), (bias[np.newaxis], fields[BIAS_ROW])]
            if fields[SLOPES_ROW]:
                rows.append((slopes[layer][np.newaxis], fields[SLOPES_ROW]))
            panels, width = self._panels(padded, layer), fields[WIDTH]
            for matrix, first in rows:
                part = panels[:, first : first + len(matrix)]
                whole = matrix.shape[1] // width
                split = matrix[:, : whole * width].reshape(len(matrix), whole, width)
                yield part[:whole].transpose(1, 0, 2), split
                if whole < len(panels):
                    rest = matrix[:, whole * width :]
                    yield part[whole, :, : rest.shape[1]], rest
        for scales in extras.get("scales", ()):
            yield padded[self.scales_start : self.scales_start + len(scales)], scales
        if network.n_embedded:
            start = self.table[0, WEIGHTS]
            own = padded[start : start + network.n_embedded * EMBEDDING_SIZE]
            own = own.reshape(network.n_embedded, EMBEDDING_SIZE)
            frequencies, phases, weights, biases = extras["embedding"]
            yield own[:, :PHASES], frequencies
            yield own[:, PHASES:EMBEDDING_WEIGHTS], phases
            by_number = own[:, EMBEDDING_WEIGHTS:EMBEDDING_BIASES]
            by_number = by_number.reshape(len(own), weights.shape[2], weights.shape[1])
            yield by_number, weights.transpose(0, 2, 1)
            yield own[:, EMBEDDING_BIASES:][:, : biases.shape[1]], biases

    def room_for_scaled(self):
        """Zeros for the first dense layer's weights times scales, in its panels."""
        panels, rows, width = (
            self.table[self.first_dense, field] for field in (N_PANELS, PANEL_ROWS, WIDTH)
        )
        return aligned_zeros(panels * rows * width, self.dtype)

    def scale(self, padded, scaled):
        """Multiply the first dense layer's weights by the scales of its inputs."""
        panels = self._panels(padded, 0)
        scales = padded[self.scales_start : self.scales_start + self.network.n_inputs]
        rows = scaled.reshape(panels.shape)[:, : len(scales)]
        np.multiply(panels[:, : len(scales)], scales[:, np.newaxis], out=rows)

    @cached_property
    def _places(self):
        """Where each number of a flat vector is in a padded one; None of large networks."""
        n_parameters = self.network.n_parameters
        if n_parameters > MOST_PLACES:
            return None
        padded = np.zeros(self.n_weights, np.int64)
        for inside, outside in self.pieces(padded, np.arange(1, n_parameters + 1)):
            inside[...] = outside
        places = np.flatnonzero(padded)
        found = np.empty(n_parameters, np.int64)
        found[padded[places] - 1] = places
        return found

    @cached_property
    def _found_pieces(self):
        """The arguments by which NumPy makes both views of each of the pieces."""
        padded, flat = np.empty(self.n_weights, "b"), np.empty(self.network.n_parameters, "b")
        starts, found = (address_of(padded), address_of(flat)), []
        for views in self.pieces(padded, flat):
            if views[0].size:
                found.append(
                    [
                        (
                            view.shape,
                            self.dtype,
                            (address_of(view) - start) * self.dtype.itemsize,
                            tuple(stride * self.dtype.itemsize for stride in view.strides),
                        )
                        for view, start in zip(views, starts, strict=True)
                    ]
                )
        return found

    def _both_views(self, padded, flat):
        for inside, outside in self._found_pieces:
            shape, dtype, start, strides = inside
            view = np.ndarray(shape, dtype, padded, start, strides)
            shape, dtype, start, strides = outside
            yield view, np.ndarray(shape, dtype, flat, start, strides)

    def pack(self, flat, padded):
        """Copy a flat vector (W₀ b₀ W₁ b₁ …) into a padded one."""
        if self._places is not None:
            padded[self._places] = flat
            return
        for inside, outside in self._both_views(padded, np.ascontiguousarray(flat, self.dtype)):
            inside[...] = outside

    def unpack(self, padded):
        """Copy a padded vector into a new flat one."""
        if self._places is not None:
            return padded[self._places]
        flat = np.empty(self.network.n_parameters, self.dtype)
        for inside, outside in self._both_views(padded, flat):
            outside[...] = inside
        return flat
