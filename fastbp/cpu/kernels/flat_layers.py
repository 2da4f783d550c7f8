"""Layers of a prediction whose weights are read from the flat parameters.

To pack them first would take longer than the products of a few hundred rows, and sparse rows need
only the weights of their entries. Sums have the same bits either way.
"""

from fastbp.cpu.kernels.batches import forward
from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.flat_vectors import (
    MANY_VECTORS,
    copy_some,
    fetch_number,
    flat_pair,
    flat_rest,
    flat_sums,
    flat_vector,
)
from fastbp.cpu.kernels.formulas import activate
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import CACHED_NUMBERS, panel_start
from fastbp.cpu.kernels.shares import Tiles, round_to_tile, smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.vectors import load_vector, store_vector, vector_size
from fastbp.cpu.records import (
    ACTIVATION,
    BIAS_ROW,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    N_PANELS,
    TILE_VECTORS,
    WIDTH,
)

ROWS_AHEAD = 16  # of weights, that are prefetched while a panel is copied
FETCHED_VECTORS = 16  # longer rows of weights are left to the hardware's prefetchers


@phase
def copy_panel(weights, layer, panel, parameters, start):
    """Copy a panel of a layer's weights, which start at `start` of the flat vector, to the front.

    The next rows are prefetched: each is on another page, where no hardware prefetcher looks.
    """
    n_inputs, n_outputs, width = layer[N_INPUTS], layer[N_OUTPUTS], layer[WIDTH]
    lanes, first = vector_size(weights), start + panel * width
    count = smaller(width, n_outputs - panel * width)
    if count == width == TILE_VECTORS * lanes:
        for row in range(n_inputs):
            source, out = first + row * n_outputs, row * width
            ahead = first + smaller(row + ROWS_AHEAD, n_inputs) * n_outputs
            fetch_number(parameters, ahead)
            fetch_number(parameters, ahead + width - 1)
            store_vector(weights, out, load_vector(parameters, source))
            store_vector(weights, out + lanes, load_vector(parameters, source + lanes))
    else:
        for row in range(n_inputs):
            for column in range(0, width, lanes):
                source = first + row * n_outputs + column
                copy_some(weights, row * width + column, parameters, source, count - column)
    for column in range(0, width, lanes):
        out, source = layer[BIAS_ROW] * width + column, first + n_inputs * n_outputs + column
        copy_some(weights, out, parameters, source, count - column)


@kernel
def are_far(layer):
    """Whether to prefetch the weights of a sparse row's entries."""
    n_outputs = layer[N_OUTPUTS]
    is_large = layer[N_INPUTS] * n_outputs > CACHED_NUMBERS
    return is_large and n_outputs <= FETCHED_VECTORS * layer[LANES]


@kernel
def fetch_weights(parameters, start, n_outputs, lines, line):
    """Prefetch the weights that a line's entries are multiplied by."""
    step = vector_size(parameters)
    for k in range(lines.starts[line], lines.starts[line + 1]):
        first = start + lines.indices[k] * n_outputs
        for column in range(0, n_outputs, step):
            fetch_number(parameters, first + column)
        fetch_number(parameters, first + n_outputs - 1)


@kernel
def sum_line(out, start, panel_stride, width, lines, line, parameters, weights, n_outputs, bias):
    """Compute one row of a layer's outputs, entries · weights + bias; panels lie apart in `out`."""
    first, last, lanes = lines.starts[line], lines.starts[line + 1], vector_size(parameters)
    values, indices, column = lines.values, lines.indices, ZERO
    while column + MANY_VECTORS * lanes <= n_outputs:
        flat_sums(
            out, start + column // width * panel_stride, panel_stride, values, indices, first, last,
            parameters, weights + column, n_outputs, bias + column, lanes,
        )  # fmt: skip
        column += MANY_VECTORS * lanes
    while column + TILE_VECTORS * lanes <= n_outputs:
        flat_pair(
            out, start + column // width * panel_stride, panel_stride, values, indices, first, last,
            parameters, weights + column, n_outputs, bias + column, lanes,
        )  # fmt: skip
        column += TILE_VECTORS * lanes
    start += column // width * panel_stride  # of the last panel
    if column + lanes <= n_outputs:
        flat_vector(
            out, start, panel_stride, values, indices, first, last, parameters, weights + column,
            n_outputs, bias + column, lanes,
        )  # fmt: skip
        column += lanes
        start += lanes
    if column < n_outputs:
        flat_rest(
            out, start, panel_stride, values, indices, first, last, parameters, weights + column,
            n_outputs, bias + column, n_outputs - column,
        )  # fmt: skip


@phase
def forward_entries(memory, workspace, lines, parameters, n_rows):
    """Compute the first layer's outputs of sparse rows."""
    layer = layer_of(memory.layers, ZERO)
    n_outputs, width = layer[N_OUTPUTS], layer[WIDTH]
    bias, fetches = layer[N_INPUTS] * n_outputs, are_far(layer)
    first, stride = panel_start(memory, layer, ZERO), memory.capacity * width
    for row in range(n_rows):
        if fetches and row + 1 < n_rows:
            fetch_weights(parameters, ZERO, n_outputs, lines, row + 1)
        sum_line(
            memory.activations, first + row * width, stride, width, lines, row, parameters, ZERO,
            n_outputs, bias,
        )  # fmt: skip
    for panel in range(layer[N_PANELS]):
        for row in range(0, n_rows, TILE_ROWS):
            start = panel_start(memory, layer, panel) + row * width
            values = section(memory.activations, start, TILE_ROWS * width)
            activate(layer[ACTIVATION], values, workspace.tile)  # scratch


@kernel
def forward_flat(memory, workspace, entries, parameters, index, start, draw, n_rows):
    """Compute the outputs of one layer, whose weights start at `start` of the flat vector."""
    if entries is not None and index == 0 and workspace.inputs.size == 0:
        forward_entries(memory, workspace, entries.rows, parameters, n_rows)
        return
    layer, blocks = layer_of(memory.layers, index), round_to_tile(n_rows) // TILE_ROWS
    for panel in range(layer[N_PANELS]):
        copy_panel(memory.weights, layer, panel, parameters, start)
        tiles = Tiles(panel * blocks, (panel + 1) * blocks, blocks, ZERO)
        forward(memory, workspace, entries, index, draw, tiles)
