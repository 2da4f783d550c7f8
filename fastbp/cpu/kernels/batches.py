"""One batch of rows, dense or sparse: gathered, and passed through a layer."""

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.embeddings import forward_embedding
from fastbp.cpu.kernels.gather import gather_row
from fastbp.cpu.kernels.masks import INPUTS, drop_entries, drop_inputs, drops
from fastbp.cpu.kernels.pairs import clear_surplus, pair_all_outputs, pair_inputs
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import section
from fastbp.cpu.kernels.sparse import gather_entries, spread_entries
from fastbp.cpu.kernels.tiles import forward_layer
from fastbp.cpu.kernels.zeros import find_steps
from fastbp.dropout import GROUP_ROWS

# `source` describes dense rows, and `entries` sparse ones. The other is None, and numba drops the
# branches for it. Sparse rows that are almost dense are gathered into `workspace.inputs`, too.


@phase
def gather_batch(workspace, masks, draw, entries, source, order, n_inputs, scale):
    """Convert the rows of a batch into this thread's inputs, some of which may be dropped."""
    drops_inputs = drops(masks, INPUTS)
    if entries is not None:
        gather_entries(entries, order, scale)
        if drops_inputs:
            drop_entries(entries.rows, masks, order.size, draw)
        if workspace.inputs.size == 0:
            return
    skips_zeros, stride = workspace.steps.counts.size > 0, workspace.input_stride
    scale = type(workspace.inputs[0])(scale)
    for sample in range(order.size):
        row = section(workspace.inputs, sample * stride, n_inputs)
        if source is not None:
            gather_row(row, source, order[sample], scale)
        if entries is not None:
            spread_entries(row, entries.rows, sample)
        elif drops_inputs and (sample % GROUP_ROWS == GROUP_ROWS - 1 or sample == order.size - 1):
            first = sample // GROUP_ROWS * GROUP_ROWS
            drop_inputs(workspace, masks, first, sample + 1 - first, n_inputs, draw)
        # While the rows of a tile are in the L1 cache.
        if sample % TILE_ROWS == TILE_ROWS - 1 or sample == order.size - 1:
            tile, pairs = sample // TILE_ROWS, workspace.pairs
            if sample == order.size - 1:
                clear_surplus(workspace, pairs, order.size)
            if skips_zeros:
                find_steps(workspace.steps, workspace.inputs, stride, tile, order.size, pairs)
            pair_inputs(workspace, pairs, tile)


@kernel
def forward(memory, workspace, entries, index, draw, tiles):
    """Compute the outputs of one layer, of which dropout may leave out some."""
    if index == 0 and memory.n_embedded > 0:
        forward_embedding(memory, workspace, tiles)
        if memory.pairs is not None:
            pair_all_outputs(memory, workspace.amx, memory.pairs, index, tiles)
    elif entries is None or index > 0 or workspace.inputs.size > 0:
        forward_layer(memory, workspace, None, index, draw, tiles)
    else:
        forward_layer(memory, workspace, entries, index, draw, tiles)
