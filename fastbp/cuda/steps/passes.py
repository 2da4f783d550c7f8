"""A batch through all layers and back in one kernel of clusters; `pass_layout` has who has what.

It leaves what the update's kernel wants: every hidden layer's values, and all δ. One function
computes all products, forward and back: Σ inputs[term, row] weights[unit, term], where for the way
back terms and units have changed places. Between two products lies one barrier of the cluster.
"""

from functools import cache

import numpy as np
from numba import float32, float64, int32, int64, types, uint32

from fastbp.cuda import ptx
from fastbp.cuda.clusters.launch import ClusterKernel, compile_cluster
from fastbp.cuda.clusters.memory import load, load_double, shared_place, store, word
from fastbp.cuda.data import ROWS, TABLE_WIDTH, WEIGHT
from fastbp.cuda.device import address_of
from fastbp.cuda.formulas import activate, activate_backward, device_function
from fastbp.cuda.program import Listed
from fastbp.cuda.steps import pass_layout as at
from fastbp.cuda.steps.outputs import activate_row, judge_row
from fastbp.cuda.toolkit import cuda

# Addresses of the table and its words; of the steps' table, parameters, gathered inputs, hidden
# layers' values, δ, gathered targets and rows' weights, and losses; the step.
SIGNATURE = (types.int64,) * 11
EPS = np.float32(np.finfo(np.float32).eps)


@device_function
def get(q, field):
    """A field of a product's record."""
    return word(at.HEAD_SIZE + q * at.RECORD_SIZE + field)


@device_function
def own_units(q, rank):
    """How many units of a product a block computes."""
    share = get(q, at.SHARE)
    return max(int32(0), min(share, int32(get(q, at.N_UNITS) - rank * share)))


@device_function
def n_chunks_of(q):
    """How many times CHUNK terms a product has."""
    return (get(q, at.N_TERMS) + at.CHUNK - 1) // at.CHUNK


@device_function
def input_place(q, term, row, n_rows):
    """Where a product has one of its inputs."""
    chunk, rest = term // at.CHUNK, term % at.CHUNK
    return get(q, at.INPUTS) + chunk * (at.CHUNK * (n_rows + 1)) + rest * n_rows + row


@device_function
def copy_table(words, n_words, n_threads):
    """Bring the table to shared memory, where it stays."""
    for i in range(cuda.threadIdx.x, n_words, n_threads):
        ptx.cp_async_4(shared_place(int32(i)), words + 4 * i)
    ptx.cp_async_commit()
    ptx.cp_async_wait_0()
    cuda.syncthreads()


@device_function
def copy_weights(q, parameters, rank, n_threads):
    """Start the copies of a block's weights and biases for a product, as [unit][term].

    Lanes go along the side on which weights are neighbours in global memory, but forward only
    eight of them, so that those of one warp write to 32 different banks; back, four weights go at
    once where they are aligned.
    """
    thread = int32(cuda.threadIdx.x)
    count, n_terms, stride = own_units(q, rank), get(q, at.N_TERMS), get(q, at.WEIGHT_STRIDE)
    term_step, unit_step = get(q, at.TERM_STEP), get(q, at.UNIT_STEP)
    first, bias, end = rank * get(q, at.SHARE), get(q, at.FLAT_BIAS), at.CHUNK * n_chunks_of(q)
    unit, unit_lanes = thread >> int32(5), n_threads >> int32(5)
    copied = get(q, at.COPIED)
    first_term, term_lanes = copied * (thread & int32(31)), copied * int32(32)
    if unit_step == 1:
        unit, unit_lanes = thread & int32(7), int32(8)
        first_term, term_lanes = thread >> int32(3), n_threads >> int32(3)
    place = get(q, at.WEIGHTS) + unit * stride
    source = parameters + 4 * (
        int64(get(q, at.FLAT_WEIGHTS))
        + int64(first + unit) * unit_step
        + int64(first_term) * term_step
    )
    while unit < count:  # a `range` with such a step would divide for its length
        term, address, target = first_term, source, shared_place(place + first_term)
        while term < n_terms:
            if copied == at.CHUNK:
                ptx.cp_async_16(target, address)
            else:
                ptx.cp_async_4(target, address)
            term += term_lanes
            address += 4 * int64(term_lanes * term_step)
            target = uint32(target + 4 * term_lanes)
        if n_terms + first_term < end:
            store(place + n_terms + first_term, float32(0))
        unit += unit_lanes
        place += unit_lanes * stride
        source += 4 * int64(unit_lanes * unit_step)
    if bias >= 0:
        place = get(q, at.BIAS)
        for i in range(thread, count, n_threads):
            ptx.cp_async_4(shared_place(place + i), parameters + 4 * int64(bias + first + i))
    ptx.cp_async_commit()


@device_function
def clear_behind(q, n_rows, n_threads):
    """Clear the inputs of a product behind its last term, as far as they are read."""
    n_terms = get(q, at.N_TERMS)
    n_numbers = (at.CHUNK * n_chunks_of(q) - n_terms) * n_rows
    for i in range(cuda.threadIdx.x, n_numbers, n_threads):
        store(input_place(q, n_terms + i // n_rows, i % n_rows, n_rows), float32(0))


@device_function
def copy_rows(inputs, targets, first, used, n_rows, n_threads):
    """Start the copies of the rows' inputs, as [feature][row], and of their targets.

    `first` counts the gathered rows. Rows behind the last are zeros.
    """
    thread = int32(cuda.threadIdx.x)
    n_inputs, n_outputs = word(at.N_INPUTS), word(at.N_OUTPUTS)
    inputs += 4 * first * int64(n_inputs)
    for i in range(thread, n_rows * n_inputs, n_threads):
        row = int32(uint32(i) // uint32(n_inputs))
        target = input_place(0, i - row * n_inputs, row, n_rows)
        if row < used:
            ptx.cp_async_4(shared_place(target), inputs + 4 * int64(i))
        else:
            store(target, float32(0))
    targets, place = targets + 4 * first * int64(n_outputs), word(at.TARGETS)
    for i in range(thread, used * n_outputs, n_threads):
        ptx.cp_async_4(shared_place(place + i), targets + 4 * int64(i))
    clear_behind(0, n_rows, n_threads)


def make_multiply(shape):
    """Build the function of a product's sums of each group of threads, left in `SUMS`.

    A thread has eight rows and some units, and every so many terms; eight lanes share the rows.
    """
    units, n_rows = shape.units, shape.rows
    row_octets = shape.rows // at.OCTET

    @device_function
    def multiply(q, rank):
        octet, lane = int32(cuda.threadIdx.x >> 3), int32(cuda.threadIdx.x & 7)
        count, n_groups = own_units(q, rank), get(q, at.GROUPS)
        places = get(q, at.UNIT_TILES) * int32(row_octets)
        group = int32(uint32(octet) // uint32(places))
        rest = octet - group * places
        row = int32(at.OCTET) * (rest % int32(row_octets))
        first = rest // int32(row_octets) * int32(at.OCTET * units) + lane
        if group < n_groups and count > 0:
            stride, chunk, n_chunks = get(q, at.WEIGHT_STRIDE), group, int32(n_chunks_of(q))
            inputs = shared_place(get(q, at.INPUTS) + row)
            weights = cuda.local.array(units, uint32)
            sums = cuda.local.array((units, 8), float32)
            w, x = cuda.local.array((units, 4), float32), cuda.local.array(8, float32)
            for m in range(units):
                unit = min(first + int32(8 * m), count - 1)
                weights[m] = shared_place(get(q, at.WEIGHTS) + unit * stride)
                for r in range(8):
                    sums[m, r] = float32(0)
            while chunk < n_chunks:
                for m in range(units):
                    w[m, 0], w[m, 1], w[m, 2], w[m, 3] = ptx.ld_shared_v4_f32(
                        uint32(weights[m] + 16 * chunk)
                    )
                for i in range(4):
                    place = uint32(inputs + 16 * (n_rows + 1) * chunk + 4 * n_rows * i)
                    x[0], x[1], x[2], x[3] = ptx.ld_shared_v4_f32(place)
                    x[4], x[5], x[6], x[7] = ptx.ld_shared_v4_f32(uint32(place + 16))
                    for m in range(units):
                        for r in range(8):
                            sums[m, r] += w[m, i] * x[r]
                chunk += n_groups
            start = word(at.SUMS) + group * get(q, at.SHARE) * int32(n_rows) + row
            for m in range(units):
                unit = first + int32(8 * m)
                if unit < count:
                    place = shared_place(start + unit * int32(n_rows))
                    ptx.st_shared_v4_f32(place, sums[m, 0], sums[m, 1], sums[m, 2], sums[m, 3])
                    ptx.st_shared_v4_f32(
                        uint32(place + 16), sums[m, 4], sums[m, 5], sums[m, 6], sums[m, 7]
                    )

    return multiply


def make_finish(shape):
    """Build the function that makes values, logits or δ of the sums, for all blocks."""
    n_rows, n_blocks, n_threads = shape.rows, shape.cluster, 32 * shape.warps

    @device_function
    def finish(q, rank, first, used, values, deltas):
        count, n_groups, size = own_units(q, rank), get(q, at.GROUPS), get(q, at.SHARE) * n_rows
        code, own, out = get(q, at.UNIT_ACTIVATION), get(q, at.OWN_VALUES), get(q, at.OUT)
        pushed, n_outputs = get(q, at.PUSHED), word(at.N_OUTPUTS)
        n_units, first_unit = get(q, at.N_UNITS), rank * get(q, at.SHARE)
        is_forward, sums, bias = q < word(at.N_LAYERS), word(at.SUMS), get(q, at.BIAS)
        target = values if is_forward else deltas
        for e in range(int32(cuda.threadIdx.x), count * int32(n_rows), int32(n_threads)):
            unit, row = int32(e // n_rows), int32(e % n_rows)
            total, place = float32(0), sums + e
            for _ in range(n_groups):
                total += load(place)
                place += size
            if is_forward:
                total += load(bias + unit)
                if out >= 0:
                    total = activate(code, total)
                    store(own + e, total)
            else:
                total = activate_backward(code, total, load(own + e))
            if out >= 0 and row < used:
                index = int64(out) + int64(first + row) * n_units + first_unit + unit
                ptx.st_global_f32(target + 4 * index, total)
            if pushed >= 0:
                place = pushed + row * n_outputs + first_unit + unit
                if out >= 0:
                    place = input_place(q + 1, first_unit + unit, row, int32(n_rows))
                mine = shared_place(place)
                for other in range(n_blocks):
                    ptx.st_cluster_f32(ptx.map_shared(mine, uint32(other)), total)

    return finish


def make_judge(shape):
    """Build the function that turns logits into losses and δ, which are a product's inputs.

    All blocks of a cluster do the same; the first one tells the outside.
    """
    n_rows, n_threads = shape.rows, 32 * shape.warps

    @device_function
    def judge(rank, first, used, row_weight, weight, deltas, loss_address):
        row, numbers = int32(cuda.threadIdx.x), cuda.shared.array(0, float32)
        n_outputs, errors = word(at.N_OUTPUTS), word(at.ERRORS)
        losses, outputs = cuda.shared.array(0, float64), word(at.OUTPUTS)
        place = word(at.ROW_LOSSES) >> 1
        if row < n_rows:
            losses[uint32(place + row)] = 0.0
            if row < used:
                start = row * n_outputs
                activate_row(word(at.ACTIVATION), numbers, outputs + start, n_outputs)
                losses[uint32(place + row)] = row_weight * load_double(at.LOSS_SCALE) * judge_row(
                    word(at.ACTIVATION), word(at.LOSS), EPS, numbers, outputs + start,
                    numbers, word(at.TARGETS) + start, n_outputs, float32(row_weight / weight),
                    numbers, errors + start,
                )  # fmt: skip
        cuda.syncthreads()
        q = word(at.N_LAYERS)
        for e in range(int32(cuda.threadIdx.x), n_outputs * int32(n_rows), int32(n_threads)):
            unit, row, delta = int32(e // n_rows), int32(e % n_rows), float32(0)
            if row < used:
                delta = load(errors + row * n_outputs + unit)
                if rank == 0:
                    index = int64(word(at.OUT_ERRORS)) + int64(first + row) * n_outputs + unit
                    ptx.st_global_f32(deltas + 4 * index, delta)
            store(input_place(q, unit, row, int32(n_rows)), delta)
        clear_behind(q, int32(n_rows), int32(n_threads))
        if rank == 0 and cuda.threadIdx.x == 0:
            total = 0.0
            for i in range(n_rows):
                total += losses[uint32(place + i)]
            ptx.st_global_f64(loss_address, total)
        cuda.syncthreads()

    return judge


@cache
def make_pass(layout):
    """The kernel of a shape.

    Parameters
    ----------
    layout : PassLayout
        Of which only `shape` matters.

    Returns
    -------
    kernel : function
        To be compiled for `SIGNATURE` and launched as `n_clusters` clusters.
    """
    shape = layout.shape
    multiply, finish, judge = make_multiply(shape), make_finish(shape), make_judge(shape)
    n_rows, n_blocks, n_threads = shape.rows, shape.cluster, 32 * shape.warps

    def pass_rows(
        words, n_words, table, parameters, inputs, values, deltas, targets, row_weights, losses,
        step,
    ):  # fmt: skip
        thread, rank = int32(cuda.threadIdx.x), int32(ptx.cluster_rank())
        cluster = int32(cuda.blockIdx.x // n_blocks)
        first, n_clusters = cluster * int32(n_rows), cuda.gridDim.x // n_blocks
        table += 8 * TABLE_WIDTH * step
        weight = ptx.ld_global_f64(table + 8 * WEIGHT)
        used = int32(ptx.ld_global_f64(table + 8 * ROWS)) - first
        loss_address = losses + 8 * int64(step * n_clusters + cluster)
        if weight == 0:
            return
        if used <= 0:
            if rank == 0 and thread == 0:
                ptx.st_global_f64(loss_address, float64(0))
            return
        ptx.cluster_arrive()  # who has started may be written to
        copy_table(words, n_words, int32(n_threads))
        n_layers, n_products = word(at.N_LAYERS), word(at.N_PRODUCTS)
        used = min(used, int32(n_rows))
        gathered = step * int64(word(at.BATCH_SIZE)) + first
        row_weight = float64(0)
        if thread < used:
            row_weight = ptx.ld_global_f64(row_weights + 8 * int64(gathered + thread))
        copy_rows(inputs, targets, gathered, used, int32(n_rows), int32(n_threads))
        copy_weights(0, parameters, rank, int32(n_threads))
        copy_weights(1, parameters, rank, int32(n_threads))
        ptx.cp_async_wait_1()
        cuda.syncthreads()
        for q in range(n_products):
            multiply(q, rank)
            cuda.syncthreads()
            if q == 0:
                ptx.cluster_wait()
            if q + 1 < n_products and q + 1 != n_layers:
                clear_behind(q + 1, int32(n_rows), int32(n_threads))
            finish(q, rank, first, used, values, deltas)
            if q + 1 < n_products:
                ptx.cp_async_wait_0()
                ptx.cluster_arrive()
                if q + 2 < n_products:
                    copy_weights(q + 2, parameters, rank, int32(n_threads))
                ptx.cluster_wait()
            if q + 1 == n_layers:
                judge(rank, first, used, row_weight, weight, deltas, loss_address)

    return pass_rows


class BatchPass:
    """A layout's kernel on a device.

    Parameters
    ----------
    device : Device
    layout : PassLayout
    """

    def __init__(self, device, layout):
        code, name = compile_cluster(device, make_pass, layout, SIGNATURE)
        self._kernel = ClusterKernel(
            device, code, name, layout.shape.cluster, 32 * layout.shape.warps, layout.n_bytes,
            layout.n_clusters,
        )  # fmt: skip
        self._words, self._n_words = device.upload(layout.words), len(layout.words)

    def __call__(self, *arguments):
        """Launch it; arguments are the kernel's, behind the table and its words."""
        self._kernel(address_of(self._words), self._n_words, *arguments)


def _list_kernels():
    listed = {}
    for rows, units in at.TILES.items():
        layout = at.PassLayout(None, 0, at.PassShape(at.CLUSTER, at.WARPS, rows, units))
        listed[f"pass_rows {rows}"] = Listed(make_pass(layout), SIGNATURE, 128, (9, 0))
    return listed


KERNELS = _list_kernels()
