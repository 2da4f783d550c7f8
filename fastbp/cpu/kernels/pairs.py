"""Numbers just computed are kept as pairs of bfloat16, too, for the products to come.

It is done tile by tile, while these are in the L1 cache. Without `pairs` nothing is to be done.
"""

from fastbp.cpu.kernels.bfloat16 import (
    pair_neighbours,
    pair_rows,
    pair_rows_by_columns,
    transpose_pairs,
)
from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.layers import layer_of, n_layers_of, weight_panel, weights_of
from fastbp.cpu.kernels.operands import panel_start, panel_to_multiply
from fastbp.cpu.kernels.shares import round_to_tile, share, tile_at
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import section
from fastbp.cpu.kernels.vectors import vector_size
from fastbp.cpu.records import (
    BIAS_ROW,
    GROUP_ROWS,
    INPUT_WIDTH,
    LANES,
    N_PANELS,
    SQUARE,
    WIDTH,
)


@kernel
def pair_columns(by_columns, at, numbers, start, width):
    """Pair neighbouring rows of a tile whose rows are `width` numbers long."""
    for row in range(0, TILE_ROWS, 2):
        for column in range(0, width, vector_size(numbers)):
            place = row * width + column
            pair_rows(by_columns, at + row // 2 * width + column, numbers, start + place, width)


@kernel
def pair_columns_for_amx(by_columns, numbers, start, width, row):
    """Pair neighbouring rows of a tile, which is from `row` on, so that AMX has them on the left.

    In every group of rows the pairs of a column are neighbours.
    """
    within = row % GROUP_ROWS
    at = (start - within * width) // 2 + within // 2
    for column in range(0, width, vector_size(numbers)):
        pair_rows_by_columns(
            by_columns, at + column * SQUARE, SQUARE, numbers, start + column, width
        )


@kernel
def pair_tile_rows(by_rows, numbers, start, width):
    """Pair the neighbours of a tile's rows."""
    for column in range(0, TILE_ROWS * width, vector_size(numbers)):
        pair_neighbours(by_rows, (start + column) // 2, numbers, start + column)


@kernel
def pair_tile(by_rows, by_columns, numbers, start, width):
    """Pair the neighbours of a tile's rows, and those of its columns."""
    pair_tile_rows(by_rows, numbers, start, width)
    pair_columns(by_columns, start // 2, numbers, start, width)


@kernel
def pair_left_tile(amx, by_rows, by_columns, numbers, start, width, row):
    """Likewise, of a tile from `row` on that is a left operand both by rows and by columns."""
    if amx is None:
        pair_tile(by_rows, by_columns, numbers, start, width)
    else:
        pair_tile_rows(by_rows, numbers, start, width)
        pair_columns_for_amx(by_columns, numbers, start, width, row)


@kernel
def clear_surplus(workspace, pairs, n_rows):
    """Let the rows of a batch's last tile that an earlier batch has left there be 0.

    One may be in a pair with the batch's last row: what is infinite there, times a δ of 0, is NaN.
    """
    if pairs is not None:
        stride = workspace.input_stride
        surplus = round_to_tile(n_rows) - n_rows
        rows = section(workspace.inputs, n_rows * stride, surplus * stride)
        for j in range(rows.size):
            rows[j] = 0


@kernel
def pair_inputs(workspace, pairs, tile):
    """Pair the gathered rows of a tile."""
    if pairs is not None:
        stride, row = workspace.input_stride, tile * TILE_ROWS
        pair_left_tile(
            workspace.amx, pairs.inputs_by_rows, pairs.inputs_by_columns, workspace.inputs,
            row * stride, stride, row,
        )  # fmt: skip


@kernel
def pair_outputs(memory, amx, pairs, start, width, row):
    """Pair the outputs of the tile that starts there, its rows from `row` on."""
    if pairs is not None:
        pair_left_tile(
            amx, pairs.outputs_by_rows, pairs.outputs_by_columns, memory.activations, start, width,
            row,
        )  # fmt: skip


@phase
def pair_all_outputs(memory, amx, pairs, index, tiles):
    """Pair the outputs of all tiles of a layer."""
    layer = layer_of(memory.layers, index)
    for item in range(tiles.first, tiles.last):
        panel, row = tile_at(tiles, item)
        start = panel_start(memory, layer, panel) + row * layer[WIDTH]
        pair_outputs(memory, amx, pairs, start, layer[WIDTH], row)


@kernel
def pair_deltas(memory, pairs, start, width, n_rows):
    """Pair the deltas of the tile that starts there; those past its first rows become 0.

    The last pair of a column may reach past the batch.
    """
    if pairs is not None:
        if n_rows < TILE_ROWS:
            surplus = section(memory.deltas, start + n_rows * width, (TILE_ROWS - n_rows) * width)
            for j in range(surplus.size):
                surplus[j] = 0
        pair_tile(pairs.deltas_by_rows, pairs.deltas_by_columns, memory.deltas, start, width)


@phase
def pair_all_deltas(memory, pairs, index, tiles, n_rows):
    """Pair the deltas of all tiles of a layer, for a batch of `n_rows` rows."""
    layer = layer_of(memory.layers, index)
    for item in range(tiles.first, tiles.last):
        panel, row = tile_at(tiles, item)
        start = panel_start(memory, layer, panel) + row * layer[WIDTH]
        pair_deltas(memory, pairs, start, layer[WIDTH], n_rows - row)


@kernel
def pair_weights(memory, pairs, index, panel, row):
    """Pair the weights of a tile of layer `index`, its inputs from `row` on."""
    if pairs is not None:
        layer = layer_of(memory.layers, index)
        width, offset = layer[WIDTH], row * layer[WIDTH]
        pair_columns(
            pairs.weights, panel_to_multiply(layer, panel, pairs) + offset // 2,
            weights_of(memory, index), weight_panel(layer, panel) + offset, width,
        )  # fmt: skip


@phase
def pair_all_weights(memory, pairs, first_layer, rank, size):
    """Pair a thread's share of the weights of all layers from the first one on."""
    for index in range(first_layer, n_layers_of(memory.layers)):
        layer = layer_of(memory.layers, index)
        blocks = layer[BIAS_ROW] // TILE_ROWS
        first, last = share(layer[N_PANELS] * blocks, rank, size)
        for item in range(first, last):
            panel = item // blocks
            pair_weights(memory, pairs, index, panel, (item - panel * blocks) * TILE_ROWS)


@phase
def transpose_panel_of_pairs(memory, transposed, index, panel):
    """Transpose the weights of layer `index` of one panel of its inputs, as pairs of units."""
    layer = layer_of(memory.layers, index)
    lanes, width, input_width = layer[LANES], layer[WIDTH], layer[INPUT_WIDTH]
    weights = weights_of(memory, index)
    for output_panel in range(layer[N_PANELS]):
        source = weight_panel(layer, output_panel) + panel * input_width * width
        # A row of one vector ends in pairs that belong to the next, and that are not read.
        for column in range(0, width, 2 * lanes):
            out = (output_panel * width + column) // 2 * input_width
            for row in range(0, input_width, lanes):
                transpose_pairs(
                    transposed, out + row, input_width, weights, source + row * width + column,
                    width,
                )  # fmt: skip
