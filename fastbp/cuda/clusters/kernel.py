"""The kernel that runs an epoch on one cluster of blocks: see `cluster_layout` for who has what.

Barriers of a step, beside those within a block: one of the cluster for every layer but the first,
when it goes forward, and one for every layer between the first and the last, when δ go back. A
batch is copied from global memory while the one before it is worked on.
"""

from functools import cache

from numba import float32, float64, int32, types

from fastbp.cuda import ptx
from fastbp.cuda.clusters import layout as at
from fastbp.cuda.clusters.memory import (
    address,
    clear,
    copy_batch,
    copy_order,
    get,
    move_layer,
    number,
    step_number,
    units_of,
)
from fastbp.cuda.clusters.phases import (
    deltas,
    exponentials_of_logits,
    gather_deltas,
    later_values,
    make_first_values,
    make_small_updates,
    output_errors,
    own_products,
)
from fastbp.cuda.clusters.products import make_forward, make_gradient
from fastbp.cuda.data import DECAY, RATE, WEIGHT
from fastbp.cuda.formulas import SOFTMAX
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda

NOWHERE = 1 << 30  # a unit behind all others
SIGNATURE = (types.int64,)


@cache
def make_kernel(layout):
    """The kernel for a layout, whose numbers are constants in it: function of the address of
    addresses and hyper-parameters.

    Longer than a function should be, since all that it holds in registers is used to the end.

    Parameters
    ----------
    layout : ClusterLayout

    Returns
    -------
    kernel : function
        To be compiled for `SIGNATURE` and launched as one cluster, of the blocks and warps of
        `layout.shape`.
    """
    shape, table = layout.shape, layout.words
    n_threads, n_blocks = 32 * shape.warps, shape.cluster
    forward, gradient = make_forward(shape), make_gradient(shape)
    first_values = make_first_values(shape)
    update_weights, update_biases = make_small_updates(shape.rule, n_threads)
    n_copies = 3 if shape.rule == ADAM else 2  # of a parameter: itself, and its moments
    n_rows, n_units = 16 * shape.row_tiles, 8 * shape.unit_tiles
    lanes = n_threads // n_rows

    def train_on_cluster(parameters):
        rank, thread = int32(ptx.cluster_rank()), cuda.threadIdx.x
        row, first, n_lanes = int32(thread % n_rows), int32(thread // n_rows), int32(lanes)
        first = first if first < n_lanes else int32(NOWHERE)
        owns_row = row % n_blocks == rank
        clear(table[at.USED])
        n_layers, n_steps = table[at.N_LAYERS], address(parameters, at.N_STEPS)
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, at.PARAMETERS + copy)
                move_layer(table, flat, copy, index, rank, False)
        momentum = float32(number(parameters, at.MOMENTUM))
        beta_1 = float32(number(parameters, at.BETA_1))
        beta_2 = float32(number(parameters, at.BETA_2))
        epsilon = float32(number(parameters, at.EPSILON))
        scale = float32(number(parameters, at.INPUT_SCALE))
        loss, turn, worked = float64(0), int32(0), int32(0)
        copy_order(table, parameters, 0, 0, n_rows, n_threads)
        ptx.cp_async_commit()
        ptx.cp_async_wait_0()
        cuda.syncthreads()
        copy_batch(table, parameters, 0, 0, n_steps, n_rows, n_threads)
        for step in range(n_steps):
            ptx.cp_async_wait_0()
            cuda.syncthreads()
            now = turn
            turn = int32(turn + 1) if turn < 2 else int32(0)
            if step + 1 < n_steps:
                copy_batch(table, parameters, step + 1, turn, n_steps, n_rows, n_threads)
            if step_number(table, now, WEIGHT) == 0:
                continue
            # Sums alternate between two places by the steps that had a barrier.
            slot, worked = step & 1, worked ^ 1
            forward(table, slot)
            first_values(table, row, first, n_lanes, rank, scale)
            for index in range(1, n_layers):
                own_products(table, row, first, n_lanes, index, worked)
                ptx.cluster_arrive()
                ptx.cluster_wait()
                later_values(table, row, first, n_lanes, index, rank, worked, n_blocks)
            if get(table, n_layers - 1, at.ACTIVATION) == SOFTMAX:
                exponentials_of_logits(table, row, first, n_lanes)
            loss += output_errors(
                table, parameters, row, first, n_lanes, slot, now, n_rows, owns_row
            )
            rate, squares = float32(step_number(table, now, RATE)), float32(0)
            decay = float32(step_number(table, now, DECAY))
            numbers = rate, momentum, beta_1, beta_2, epsilon
            for index in range(n_layers - 1, 0, -1):
                n_places = int32(n_units) if index == 1 else get(table, index - 1, at.SHARE)
                deltas(table, row, first, n_lanes, index, rank, n_places)
                squares += update_weights(table, index, rank, n_rows, decay, numbers)
                update_biases(table, index, rank, n_rows, numbers)
                if index > 1:
                    ptx.cluster_arrive()
                    ptx.cluster_wait()
                    gather_deltas(table, row, first, n_lanes, index - 1, n_blocks)
            update_biases(table, 0, rank, n_rows, numbers)
            squares += gradient(table, slot, units_of(table, 0, rank), scale, decay, numbers)
            loss += 0.5 * number(parameters, at.ALPHA) * float64(squares)
        cuda.syncthreads()
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, at.PARAMETERS + copy)
                move_layer(table, flat, copy, index, rank, True)
        place = rank * n_threads + thread
        ptx.st_global_f64(address(parameters, at.LOSSES) + 8 * place, loss)
        ptx.cluster_arrive()  # nobody leaves while others may read its memory
        ptx.cluster_wait()

    return train_on_cluster
