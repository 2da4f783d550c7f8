"""Products by AMX: four register tiles at once, which the steps of a layer then use one by one.

A group is as many rows of a panel as two squares have. A thread that owns only some of its tiles
computes it, too, and takes these: every row is summed in the same way, whatever the group's others.
What remains of the operands after whole squares is copied, with zeros to fill one more.
"""

from fastbp.cpu.kernels.amx import (
    add_four,
    add_high,
    add_square,
    add_wide,
    begin_squares,
    copy_first,
    end_squares,
)
from fastbp.cpu.kernels.compilation import Exported, kernel, phase
from fastbp.cpu.kernels.gradients import add_block, is_long
from fastbp.cpu.kernels.layers import layer_of, weight_panel
from fastbp.cpu.kernels.operands import (
    NEVER,
    deltas_by_rows,
    deltas_to_sum,
    inputs_by_columns,
    outputs_by_columns,
    panel_start,
    panel_to_multiply,
    rows_of_inputs,
    rows_of_panels,
    steps_of,
    transposed_weights,
    weights_to_multiply,
)
from fastbp.cpu.kernels.products import Left
from fastbp.cpu.kernels.shares import round_to_tile, smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ONE, ZERO, section
from fastbp.cpu.kernels.vectors import load_vector, store_vector, vector_size
from fastbp.cpu.records import (
    BIAS_ROW,
    BLOCK_ROWS,
    GROUP_ROWS,
    INPUT_WIDTH,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    SQUARE,
    WIDTH,
)


@kernel
def first_of_group(row):
    """The first row, or column of inputs, of the group that it is in."""
    return row // GROUP_ROWS * GROUP_ROWS


@kernel
def is_wide(layer, panel):
    """Whether a panel has units beyond the first vector."""
    return layer[N_OUTPUTS] - panel * layer[WIDTH] > layer[LANES]


@kernel
def copy_rows(out, start, numbers, row, width, wide):
    """Copy a tile of a group, from `row` on; padding is not written."""
    used = width if wide else vector_size(numbers)
    for i in range(TILE_ROWS):
        for column in range(0, used, vector_size(numbers)):
            values = load_vector(numbers, (row + i) * width + column)
            store_vector(out, start + i * width + column, values)


@kernel
def begin_sums(sums, width, wide, n_rows, bias, bias_start):
    """Let the first rows of a group's sums be the bias."""
    used = width if wide else vector_size(sums)
    for column in range(0, used, vector_size(sums)):
        values = load_vector(bias, bias_start + column)
        for row in range(round_to_tile(n_rows)):
            store_vector(sums, row * width + column, values)


@kernel
def copy_rest(amx, width, wide, n_rows, left, right, right_start, depth):
    """Copy what remains of both operands after whole squares, and zeros, to fill one more."""
    whole = depth // SQUARE * SQUARE
    panel = whole // left.panel_length
    start = left.start + panel * left.panel_stride + whole - panel * left.panel_length
    for row in range(GROUP_ROWS if n_rows > SQUARE else SQUARE):
        place = start + row * left.row_stride
        copy_first(amx.left, row * SQUARE, left.array, place, depth - whole)
    used = width if wide else SQUARE
    for step in range(SQUARE):
        count = SQUARE if step < depth - whole else 0
        for column in range(0, used, SQUARE):
            place = right_start + (whole + step) * width + column
            copy_first(amx.right, step * width + column, right, place, count)


@phase
def multiply_group(amx, width, wide, n_rows, left, right, right_start, depth, bias, bias_start):
    """Compute a group's sums, left · right + bias, for its first `n_rows` rows at least.

    Of the left operand all rows of the squares must exist, but only those of the `n_rows` count.
    """
    sums = amx.sums
    begin_sums(sums, width, wide, n_rows, bias, bias_start)
    if depth % SQUARE > 0:
        copy_rest(amx, width, wide, n_rows, left, right, right_start, depth)
    if n_rows > SQUARE and wide:
        add_four(sums, width, left, right, right_start, depth, amx)
    elif n_rows > SQUARE:
        add_high(sums, width, left, right, right_start, depth, amx)
    elif wide:
        add_wide(sums, width, left, right, right_start, depth, amx)
    else:
        add_square(sums, width, left, right, right_start, depth, amx)


@kernel
def forward_by_amx(memory, amx, workspace, index, panel, row, end, begins):
    """Compute one tile's z; its group's with it, if the tile begins the group or a thread's share.

    `end` is one past the last row that the thread computes.
    """
    layer, group = layer_of(memory.layers, index), first_of_group(row)
    width, wide = layer[WIDTH], is_wide(layer, panel)
    if begins or row == group:
        right = weights_to_multiply(memory, index)
        left = rows_of_inputs(memory, workspace, index, group)
        multiply_group(
            amx, width, wide, smaller(GROUP_ROWS, end - group), left, right,
            panel_to_multiply(layer, panel, memory.pairs), steps_of(right, layer[N_INPUTS]),
            memory.weights, weight_panel(layer, panel) + layer[BIAS_ROW] * width,
        )  # fmt: skip
    out = panel_start(memory, layer, panel) + row * width
    copy_rows(memory.activations, out, amx.sums, row - group, width, wide)


@kernel
def multiply_deltas_by_amx(memory, amx, workspace, index, panel, row, end, begins):
    """Compute a tile of δ Wᵀ, in `workspace.tile`, likewise."""
    layer, below = layer_of(memory.layers, index), layer_of(memory.layers, index - 1)
    group, width, wide = first_of_group(row), below[WIDTH], is_wide(below, panel)
    if begins or row == group:
        left = rows_of_panels(memory, deltas_by_rows(memory), layer, group)
        right = transposed_weights(workspace)
        multiply_group(
            amx, width, wide, smaller(GROUP_ROWS, end - group), left, right, ZERO,
            steps_of(right, layer[N_OUTPUTS]), workspace.zeros, ZERO,
        )  # fmt: skip
    copy_rows(workspace.tile, ZERO, amx.sums, row - group, width, wide)


@kernel
def columns_for_amx(memory, workspace, index, column, row, depth):
    """Left operand: the inputs of layer `index` from `column` on, summed over rows from `row`.

    `row` begins a group, in which the pairs of rows of each unit are neighbours.
    """
    layer = layer_of(memory.layers, index)
    if index == 0:
        array, width = inputs_by_columns(workspace), workspace.input_stride
        start, unit = ZERO, column
    else:
        array, width = outputs_by_columns(memory), layer[INPUT_WIDTH]
        panel = column // width
        start = panel_start(memory, layer_of(memory.layers, index - 1), panel) // 2
        unit = column - panel * width
    start += row // 2 * width + unit * SQUARE
    return Left(array, start, SQUARE, ONE, SQUARE * width, SQUARE, NEVER)


@kernel
def sum_group(memory, workspace, amx, index, panel, group, row, rows):
    """Compute a group of a weight gradient over some rows, from the first one of a group on."""
    layer = layer_of(memory.layers, index)
    right, start = deltas_to_sum(memory, layer, panel, row)
    multiply_group(
        amx, layer[WIDTH], is_wide(layer, panel),
        smaller(GROUP_ROWS, layer[N_INPUTS] - group),
        columns_for_amx(memory, workspace, index, group, row, rows), right, start,
        steps_of(right, rows), workspace.zeros, ZERO,
    )  # fmt: skip


@phase
def sum_long_group(memory, workspace, amx, index, panel, group, depth):
    """Compute it over a long batch, block by block."""
    totals = section(workspace.totals, ZERO, amx.sums.size)
    for row in range(0, depth, BLOCK_ROWS):
        rows = smaller(BLOCK_ROWS, depth - row)
        sum_group(memory, workspace, amx, index, panel, group, row, rows)
        add_block(totals, amx.sums, row == 0, row + rows == depth)


@kernel
def gradient_by_amx(memory, workspace, amx, index, panel, column, depth, begins):
    """Compute the weight gradient of one tile, in `workspace.tile`; its group's as in `forward`."""
    layer, group = layer_of(memory.layers, index), first_of_group(column)
    if begins or column == group:
        if is_long(workspace, depth):
            sum_long_group(memory, workspace, amx, index, panel, group, depth)
        else:
            sum_group(memory, workspace, amx, index, panel, group, ZERO, depth)
    copy_rows(workspace.tile, ZERO, amx.sums, column - group, layer[WIDTH], is_wide(layer, panel))


@Exported
def multiply_by_amx(product):
    """Compute the sums of one group: what tells whether AMX does what is expected of it."""
    begin_squares(product)
    left = Left(product.left, ZERO, product.depth, ONE, ZERO, product.depth, NEVER)
    width = product.bias.size
    multiply_group(
        product.scratch, width, product.is_wide > 0, product.n_rows, left, product.right, ZERO,
        product.depth, product.bias, ZERO,
    )  # fmt: skip
    end_squares(product)
