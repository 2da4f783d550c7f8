"""One tile of each product of a layer with dense inputs: by AMX, or by register tiles.

`amx` is a thread's scratch for AMX, or None.
"""

from fastbp.cpu.kernels.amx_products import (
    forward_by_amx,
    gradient_by_amx,
    multiply_deltas_by_amx,
)
from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.gradients import tile_gradient
from fastbp.cpu.kernels.layers import layer_of, weight_panel
from fastbp.cpu.kernels.operands import (
    deltas_by_rows,
    panel_start,
    panel_to_multiply,
    rows_of_inputs,
    rows_of_panels,
    steps_of,
    transposed_weights,
    weights_to_multiply,
)
from fastbp.cpu.kernels.products import clear_padding, multiply, multiply_listed
from fastbp.cpu.kernels.shares import end_of_rows
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO
from fastbp.cpu.kernels.zeros import first_step
from fastbp.cpu.records import BIAS_ROW, N_INPUTS, N_OUTPUTS, WIDTH


@kernel
def forward_tile(memory, workspace, amx, index, panel, row, tiles, item):
    """Compute a tile of a layer's z."""
    if amx is not None:
        begins = row == tiles.row or item == tiles.first
        forward_by_amx(memory, amx, workspace, index, panel, row, end_of_rows(tiles), begins)
        return
    layer, right = layer_of(memory.layers, index), weights_to_multiply(memory, index)
    out = panel_start(memory, layer, panel) + row * layer[WIDTH]
    bias = weight_panel(layer, panel) + layer[BIAS_ROW] * layer[WIDTH]
    weights = panel_to_multiply(layer, panel, memory.pairs)
    left = rows_of_inputs(memory, workspace, index, row)
    if index == 0 and workspace.steps.counts.size > 0:
        tile = row // TILE_ROWS
        multiply_listed(
            memory.activations, out, layer, panel, left, right, weights, workspace.steps.numbers,
            first_step(workspace.steps, tile), workspace.steps.counts[tile], memory.weights, bias,
        )  # fmt: skip
    else:
        multiply(
            memory.activations, out, layer, panel, left, right, weights,
            steps_of(right, layer[N_INPUTS]), memory.weights, bias,
        )  # fmt: skip


@kernel
def multiply_deltas(memory, workspace, amx, index, panel, row, tiles, item):
    """Compute a tile of δ Wᵀ, in `workspace.tile`, by a panel that has been transposed."""
    layer, below = layer_of(memory.layers, index), layer_of(memory.layers, index - 1)
    if amx is not None:
        begins = row == tiles.row or item == tiles.first
        multiply_deltas_by_amx(
            memory, amx, workspace, index, panel, row, end_of_rows(tiles), begins
        )
    else:
        left = rows_of_panels(memory, deltas_by_rows(memory), layer, row)
        right = transposed_weights(workspace)
        multiply(
            workspace.tile, ZERO, below, panel, left, right, ZERO,
            steps_of(right, layer[N_OUTPUTS]), workspace.zeros, ZERO,
        )  # fmt: skip
    clear_padding(workspace.tile, below, panel)


@kernel
def compute_tile_gradient(memory, workspace, amx, entries, index, panel, column, depth, begins):
    """Compute the gradient of a tile's weights, in `workspace.tile`; of sparse inputs, too."""
    if amx is not None and entries is None:
        gradient_by_amx(memory, workspace, amx, index, panel, column, depth, begins)
        clear_padding(workspace.tile, layer_of(memory.layers, index), panel)
    else:
        tile_gradient(memory, workspace, entries, index, panel, column, depth)
