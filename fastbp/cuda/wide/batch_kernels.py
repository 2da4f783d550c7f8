"""Wide nets' kernels before and after the layers: batches in low precision, sums, copies, rounding.

All kernels of a step read what they need to know of it from one device array of float64, the
state; its last kernel moves that on to the next step, so that one graph serves them all. Addresses
and pitches (from one row of a matrix to the next) are in bytes.
"""

from functools import cache

from numba import float32, float64, int64

from fastbp import schedules
from fastbp.cuda import ptx
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda

# Elements of the state: of the present step, of the epoch, the result; and from STEP on the step's
# row of the step table.
(
    IS_ACTIVE, START,
    CURSOR, N_STEPS, BATCH_SIZE, ALPHA, INPUT_SCALE,
    LOSS_SUM, WEIGHT_SUM, UPDATES,
    STEP,
) = range(11)  # fmt: skip
STATE_SIZE = STEP + schedules.TABLE_WIDTH
ROWS, WEIGHT = STEP + schedules.ROWS, STEP + schedules.WEIGHT

THREADS = 256  # of a block


@device_function
def of_state(state, element):
    """An element of the state."""
    return ptx.ld_global_f64(state + 8 * element)


@device_function
def real_of_state(state, element):
    """An element of the state as float32."""
    return float32(ptx.ld_global_f64(state + 8 * element))


@device_function
def rows_of_step(state):
    """Rows of the step's batch; zero where the step is not to be made."""
    active, rows = of_state(state, IS_ACTIVE), of_state(state, ROWS)
    return int64(rows) if active != 0.0 else int64(0)


@device_function
def sum_apart(address, distance, count):
    """Sum `count` float32 that lie `distance` bytes apart, in order.

    Eight are on their way at a time: one after the other, each would take the memory's latency.
    """
    values = cuda.local.array(8, float32)
    total = float32(0)
    for first in range(0, count, 8):
        for i in range(8):
            values[i] = float32(0)
            if first + i < count:
                values[i] = ptx.ld_global_f32(address + (first + i) * distance)
        for i in range(8):
            total += values[i]
    return total


@cache
def make_store(precision):
    """Device functions that store numbers, rounded to bfloat16 or tf32.

    Returns
    -------
    store : (row, column, v0, v1, v2, v3), four neighbours; column is a multiple of four
    load : (row, column) -> their four values as float32
    store_one : (row, column, value)
    """
    if precision == "bfloat16":

        @device_function
        def store(row, column, v0, v1, v2, v3):
            ptx.st_global_v2_u32(row + column * 2, ptx.pack_bf16(v0, v1), ptx.pack_bf16(v2, v3))

        @device_function
        def load(row, column):
            low, high = ptx.ld_global_v2_u32(row + column * 2)
            return (
                ptx.low_bf16(low),
                ptx.high_bf16(low),
                ptx.low_bf16(high),
                ptx.high_bf16(high),
            )

        @device_function
        def store_one(row, column, value):
            ptx.st_global_u16(row + column * 2, ptx.pack_bf16(value, float32(0)))

    else:

        @device_function
        def store(row, column, v0, v1, v2, v3):
            ptx.st_global_v4_u32(
                row + column * 4,
                ptx.round_tf32(v0),
                ptx.round_tf32(v1),
                ptx.round_tf32(v2),
                ptx.round_tf32(v3),
            )

        @device_function
        def store_one(row, column, value):
            ptx.st_global_u32(row + column * 4, ptx.round_tf32(value))

        @device_function
        def load(row, column):
            return ptx.ld_global_v4_f32(row + column * 4)

    return store, load, store_one


@cache
def make_block_sum(threads):
    """The device function that sums one float64 of every thread of a block, in a fixed order.

    All threads get the sum. Two calls need a `syncthreads` between them.
    """

    @device_function
    def block_sum(value):
        values = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        values[thread] = value
        half = threads // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                values[thread] += values[thread + half]
            half //= 2
        cuda.syncthreads()
        return values[0]

    return block_sum


@cache
def make_gather(precision):
    """The kernel that brings a batch of dense rows together, scaled and rounded.

    Grid: (rows up to a whole tile, groups of 4 · THREADS columns). Rows after the batch's are made
    zero.
    """
    store, _, _ = make_store(precision)

    def gather(state, X, order, batch, pitch):
        column, row = (cuda.blockIdx.y * THREADS + cuda.threadIdx.x) * 4, int64(cuda.blockIdx.x)
        rows, start = rows_of_step(state), int64(of_state(state, START))
        scale, zero = real_of_state(state, INPUT_SCALE), float32(0)
        if rows == 0 or column >= X.shape[1]:
            return
        target = batch + row * pitch
        if row >= rows:
            store(target, column, zero, zero, zero, zero)
            return
        index, n = order[start + row], X.shape[1]
        store(
            target,
            column,
            float32(X[index, column]) * scale,
            float32(X[index, column + 1]) * scale if column + 1 < n else zero,
            float32(X[index, column + 2]) * scale if column + 2 < n else zero,
            float32(X[index, column + 3]) * scale if column + 3 < n else zero,
        )

    return gather


@cache
def make_gather_sparse(precision):
    """The kernel that brings a batch of CSR rows together, dense, scaled and rounded.

    Grid: rows up to a whole tile. Entries that stand twice are added by the thread that meets
    the first of them.
    """
    store, _, store_one = make_store(precision)

    def gather_sparse(state, values, columns, starts, order, batch, pitch, n_columns):
        thread, row = cuda.threadIdx.x, int64(cuda.blockIdx.x)
        if of_state(state, IS_ACTIVE) == 0.0:
            return
        target = batch + row * pitch
        zero = float32(0)
        for column in range(4 * thread, n_columns, 4 * THREADS):
            store(target, column, zero, zero, zero, zero)
        if row >= rows_of_step(state):
            return
        cuda.syncthreads()
        scale = real_of_state(state, INPUT_SCALE)
        index = order[int64(of_state(state, START)) + row]
        start, stop = starts[index], starts[index + 1]
        for entry in range(start + thread, stop, THREADS):
            column, value = columns[entry], float32(values[entry]) * scale
            is_first = True
            for other in range(start, stop):
                if columns[other] == column and other != entry:
                    is_first = is_first and other > entry
                    value += float32(values[other]) * scale
            if is_first:
                store_one(target, column, value)

    return gather_sparse


@cache
def make_round(precision):
    """The kernel that rounds a weight matrix: float32 rows to padded rows.

    Grid: (rows, groups of 4 · THREADS columns). The float32 columns are padded to a multiple of 4.
    """
    store, _, _ = make_store(precision)

    def round_weights(weights, pitch, rounded, rounded_pitch, n_columns):
        column, row = (cuda.blockIdx.y * THREADS + cuda.threadIdx.x) * 4, int64(cuda.blockIdx.x)
        if column < n_columns:
            v0, v1, v2, v3 = ptx.ld_global_v4_f32(weights + row * pitch + column * 4)
            store(rounded + row * rounded_pitch, column, v0, v1, v2, v3)

    return round_weights


def copy_matrix(source, source_pitch, target, target_pitch, n_columns):
    """Copy a float32 matrix to rows that lie differently. Grid: rows."""
    row = int64(cuda.blockIdx.x)
    for column in range(cuda.threadIdx.x, n_columns, THREADS):
        value = ptx.ld_global_u32(source + row * source_pitch + column * 4)
        ptx.st_global_u32(target + row * target_pitch + column * 4, value)


def sum_columns(state, layer):
    """Sum groups of rows of the last layer's δ, which lie in its outputs' place, as float32.

    Grid: (groups of THREADS columns, groups of `rows_a_sum` rows).
    """
    column, group = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, int64(cuda.blockIdx.y)
    first = group * layer.rows_a_sum
    last = min(rows_of_step(state), first + layer.rows_a_sum)
    if column < layer.n_outputs:
        address = layer.outputs + first * layer.outputs_pitch + column * 4
        total = sum_apart(address, layer.outputs_pitch, last - first)
        ptx.st_global_f32(layer.sums + group * layer.sums_pitch + column * 4, total)


_block_sum = make_block_sum(THREADS)


def finish_step(state, table, losses, loss_scale, penalties, n_penalties):
    """Add a step to the result and set the state up for the next one. Grid: one block.

    `losses` are wᵢ lossᵢ of every row, which count `loss_scale` times; `penalties` are parts of
    ‖W‖². Both are float64.
    """
    thread = cuda.threadIdx.x
    active, alpha = of_state(state, IS_ACTIVE) != 0.0, of_state(state, ALPHA)
    n_rows = rows_of_step(state)
    total = float64(0)
    for row in range(thread, n_rows, THREADS):
        total += loss_scale * ptx.ld_global_f64(losses + 8 * row)
    if alpha != 0.0:
        for part in range(thread, n_penalties, THREADS):
            total += 0.5 * alpha * ptx.ld_global_f64(penalties + 8 * part)
    total = _block_sum(total)
    if thread > 0:
        return
    if active:
        ptx.st_global_f64(state + 8 * LOSS_SUM, of_state(state, LOSS_SUM) + total)
        weight = of_state(state, WEIGHT_SUM) + of_state(state, WEIGHT)
        ptx.st_global_f64(state + 8 * WEIGHT_SUM, weight)
        ptx.st_global_f64(state + 8 * UPDATES, of_state(state, UPDATES) + 1.0)
    total = of_state(state, LOSS_SUM)  # once not finite, it never is again
    goes_on = total - total == 0.0
    cursor = of_state(state, CURSOR) + 1.0
    ptx.st_global_f64(state + 8 * CURSOR, cursor)
    ptx.st_global_f64(state + 8 * IS_ACTIVE, 0.0)
    if goes_on and cursor < of_state(state, N_STEPS):
        row = table + int64(cursor) * (8 * schedules.TABLE_WIDTH)
        for column in range(schedules.TABLE_WIDTH):
            ptx.st_global_f64(state + 8 * (STEP + column), ptx.ld_global_f64(row + 8 * column))
        ptx.st_global_f64(state + 8 * START, cursor * of_state(state, BATCH_SIZE))
        if of_state(state, WEIGHT) != 0.0:
            ptx.st_global_f64(state + 8 * IS_ACTIVE, 1.0)
