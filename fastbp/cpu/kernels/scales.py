"""Factors of the first dense layer's inputs, which its weights contain while a batch is computed.

Their gradients are sums over the gradients of weights, so that nothing goes over the samples.
"""

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.layers import first_dense_of, layer_of, weight_panel
from fastbp.cpu.kernels.pairs import pair_weights
from fastbp.cpu.kernels.shares import share, smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.tiles import (
    COMPUTED,
    EXTRAS,
    Block,
    group_step,
    update_by_kept,
    use_gradient,
)
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.records import BIAS_ROW, LANES, N_INPUTS, N_PANELS, TILE_VECTORS, WIDTH
from fastbp.parameter_groups import N_FACTORS

FROM_LAST = 2  # the group of scales, counted from the end of all


@kernel
def sum_over_panels(memory, layer, first, gradient):
    """The gradients of neighbouring scales from the sums of every panel; 0 beyond the last."""
    sums, stride = memory.scaling.sums, layer[BIAS_ROW]
    for i in range(gradient.size):
        total = type(gradient[0])(0)
        if first + i < layer[N_INPUTS]:
            for panel in range(layer[N_PANELS]):
                total += sums[panel * stride + first + i]
        gradient[i] = total


@kernel
def scale_weights(memory, layer, first, count):
    """Multiply the weights of some inputs by their scales, for the batches to come."""
    width, scaling = layer[WIDTH], memory.scaling
    for panel in range(layer[N_PANELS]):
        for row in range(first, first + count):
            start = weight_panel(layer, panel) + row * width
            weights = section(memory.weights, start, width)
            scaled = section(scaling.weights, start, width)
            scale = memory.weights[scaling.start + row]
            for j in range(whole_size(weights)):
                scaled[j] = weights[j] * scale
        for row in range(first, first + count, TILE_ROWS):
            pair_weights(memory, memory.pairs, first_dense_of(memory), panel, row)


@phase
def update_scales(memory, workspace, call, step, factor, rank):
    """Update a thread's share of the scales, or keep their gradients: see `update_layer`.

    Where they are updated the layer's weights follow, which have been updated by all threads.
    """
    scaling, layer = memory.scaling, layer_of(memory.layers, first_dense_of(memory))
    group = call.factors.size // N_FACTORS - FROM_LAST
    own, size = group_step(workspace, call.factors, step, group, ZERO), TILE_VECTORS * layer[LANES]
    first, last = share(scaling.n_chunks, rank, call.size)
    for chunk in range(first, last):
        start = chunk * size
        block = Block(scaling.start + start, size, start, EXTRAS)
        gradient = section(workspace.tile, ZERO, size)
        if factor != COMPUTED:  # NaN, too
            update_by_kept(memory, gradient, block, factor, call.rule, own)
        else:
            sum_over_panels(memory, layer, start, gradient)
            number = scaling.first_block + chunk
            use_gradient(memory, gradient, block, number, call.rule, own)
        if factor != COMPUTED or memory.gradient.size == 0:
            scale_weights(memory, layer, start, smaller(size, layer[N_INPUTS] - start))
