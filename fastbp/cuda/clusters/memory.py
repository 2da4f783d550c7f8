"""A block's shared memory, all arrays in it one, and what goes between it and global memory.

Places count words of 4 bytes. A `table` is a layout's, whose numbers are constants of a kernel;
`parameters` is the address of the kernel's addresses and hyper-parameters.
"""

from numba import float64, int32, int64, uint32

from fastbp.cuda import ptx
from fastbp.cuda.clusters import layout as at
from fastbp.cuda.data import ROWS, TABLE_WIDTH
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda


@device_function
def shared_place(place):
    """The address of a word of shared memory."""
    return uint32(ptx.shared_address(cuda.shared.array(0, int32), 0) + 4 * place)


@device_function
def word(place):
    """An integer in shared memory."""
    return int32(ptx.ld_shared_u32(shared_place(place)))


@device_function
def load(place):
    """A float32 in shared memory."""
    return ptx.ld_shared_f32(shared_place(place))


@device_function
def store(place, value):
    """Write a float32 to shared memory."""
    ptx.st_shared_f32(shared_place(place), value)


@device_function
def load_double(place):
    """A float64 in shared memory; `place` counts words."""
    return cuda.shared.array(0, float64)[uint32(place) >> uint32(1)]


@device_function
def get(table, index, field):
    """A field of a layer's record."""
    return table[at.HEAD_SIZE + index * at.LAYER_SIZE + field]


@device_function
def laps(size, n_lanes):
    """How often so many lanes go round: constants, so that loops are unrolled."""
    return (size + n_lanes - 1) // n_lanes


@device_function
def number(parameters, field):
    """A hyper-parameter."""
    return ptx.ld_global_f64(parameters + 8 * (at.N_ADDRESSES + field))


@device_function
def address(parameters, field):
    """Where an array starts in global memory; or the number of steps."""
    return ptx.ld_global_s64(parameters + 8 * field)


@device_function
def is_last(table, index):
    """Whether a layer is the output layer."""
    return index == table[at.N_LAYERS] - 1


@device_function
def units_of(table, index, rank):
    """How many of a layer's units a block computes: its share, or all outputs."""
    share = get(table, index, at.SHARE)
    if is_last(table, index):
        return share
    return max(int32(0), min(share, int32(get(table, index, at.N_OUTPUTS) - rank * share)))


@device_function
def clear(n_words):
    """Clear the shared memory, since what pads it must be zero."""
    words = cuda.shared.array(0, int32)
    for i in range(cuda.threadIdx.x, n_words, cuda.blockDim.x):
        words[uint32(i)] = 0
    cuda.syncthreads()


@device_function
def move(flat, place, stores):
    """Bring one parameter from global memory to shared memory, or back."""
    if stores:
        ptx.st_global_f32(flat, load(place))
    else:
        store(place, ptx.ld_global_f32(flat))


@device_function
def move_layer(table, flat, copy, index, rank, stores):
    """Bring a block's share of a layer's parameters, or of one of their moments, in or out."""
    thread, n_threads, n_outputs = (
        cuda.threadIdx.x,
        cuda.blockDim.x,
        get(table, index, at.N_OUTPUTS),
    )
    count = units_of(table, index, rank)
    first = 0 if is_last(table, index) else rank * get(table, index, at.SHARE)
    weights, bias = (
        flat + 4 * get(table, index, at.FLAT_WEIGHTS),
        flat + 4 * get(table, index, at.FLAT_BIAS),
    )
    place = get(table, index, at.WEIGHTS) + copy * get(table, index, at.WEIGHTS_SIZE)
    if index == 0:
        for feature in range(thread, get(table, 0, at.N_INPUTS), n_threads):
            source = weights + 4 * (int64(feature) * n_outputs + first)
            for unit in range(count):
                move(
                    source + 4 * unit,
                    place + unit * get(table, 0, at.WEIGHT_STRIDE) + feature,
                    stores,
                )
    else:
        before = 4 * rank * get(table, index, at.INPUT_SHARE) * n_outputs
        for i in range(thread, units_of(table, index - 1, rank) * n_outputs, n_threads):
            move(weights + before + 4 * i, place + i, stores)
    if not (stores and is_last(table, index) and rank > 0):  # all blocks have the same
        place = get(table, index, at.BIAS) + copy * get(table, index, at.BIAS_SIZE)
        for i in range(thread, count, n_threads):
            move(bias + 4 * (first + i), place + i, stores)


@device_function
def copy_order(table, parameters, step, turn, n_rows, n_threads):
    """Start the copies of a step's order and numbers; `turn` is the step modulo 3."""
    batch_size, thread = table[at.BATCH_SIZE], cuda.threadIdx.x
    source = address(parameters, at.ORDER) + 4 * int64(step) * batch_size
    place = shared_place(table[at.ORDERS] + (step & 1) * n_rows)
    for lap in range(laps(batch_size, n_threads)):
        row = thread + lap * n_threads
        if row < batch_size:
            ptx.cp_async_4(place + 4 * row, source + 4 * row)
    if thread < 2:
        source = address(parameters, at.STEP_TABLE) + 8 * TABLE_WIDTH * int64(step)
        place = shared_place(table[at.TABLES] + 2 * TABLE_WIDTH * turn)
        ptx.cp_async_16(place + 16 * thread, source + 16 * thread)


@device_function
def copy_batch(table, parameters, step, turn, n_steps, n_rows, n_threads):
    """Start the copies of a step's rows, and of the order of the step after it.

    Where a batch is short its first row stands for the others; their δ will be zero.
    """
    thread = cuda.threadIdx.x
    slot, chunks, n_targets = step & 1, table[at.ROW_CHUNKS], table[at.N_TARGETS]
    used, order = int32(step_number(table, turn, ROWS)), table[at.ORDERS] + slot * n_rows
    source, stride = address(parameters, at.X_ROWS), table[at.TILE_STRIDE]
    tile = shared_place(table[at.TILES] + slot * table[at.TILE_SIZE])
    for lap in range(laps(n_rows, n_threads >> 5)):
        row = (thread >> 5) + lap * (n_threads >> 5)
        if row < n_rows:
            start = source + 16 * chunks * int64(word(order + (row if row < used else 0)))
            place = tile + 4 * row * stride
            for i in range(laps(chunks, 32)):
                chunk = (thread & 31) + 32 * i
                if chunk < chunks:
                    ptx.cp_async_16(place + 16 * chunk, start + 16 * chunk)
    targets, weights = address(parameters, at.TARGET_ROWS), address(parameters, at.WEIGHT_ROWS)
    for lap in range(laps(n_rows, n_threads)):
        row = thread + lap * n_threads
        if row < used:
            index, position = int64(word(order + row)), slot * n_rows + row
            place = shared_place(table[at.TARGETS] + position * n_targets)
            for i in range(n_targets):
                ptx.cp_async_4(place + 4 * i, targets + 4 * (index * n_targets + i))
            if table[at.HAS_WEIGHTS]:
                place = shared_place(table[at.SAMPLE_WEIGHTS] + 2 * position)
                ptx.cp_async_8(place, weights + 8 * index)
    if step + 1 < n_steps:
        copy_order(table, parameters, step + 1, turn + 1 if turn < 2 else 0, n_rows, n_threads)
    ptx.cp_async_commit()


@device_function
def step_number(table, turn, column):
    """A number of a step, from the epoch's table."""
    return load_double(table[at.TABLES] + 2 * (turn * TABLE_WIDTH + column))
