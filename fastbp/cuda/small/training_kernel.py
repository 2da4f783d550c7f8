"""The kernel that trains small networks: a block for each, from its first epoch to its last.

`fastbp.cuda.small.block_products` has what the threads of a block compute together, and
`fastbp.cuda.small.placement` how a network lies in shared memory. Every phase ends at a barrier:
forward by layer, outputs, δ by layer, then all updates at once, which the old weights have to wait
for anyway. Rows of the next chunk are copied meanwhile, and those of the one after it looked up.
"""

from numba import float32, float64, int32, int64

from fastbp.cuda.formulas import device_function
from fastbp.cuda.small.block_decisions import (
    add_up,
    count_update,
    end_epoch,
    keep_numbers,
    prepare_step,
    row_loss_and_delta,
    weigh_batch,
)
from fastbp.cuda.small.block_products import (
    at,
    backward,
    first_address,
    forward,
    gradients,
    layer_of,
    quotient,
    wait_for_copies,
)
from fastbp.cuda.small.block_rows import (
    following,
    gather,
    move_state,
    row_at,
    rows_from,
    starts_batch,
)
from fastbp.cuda.small.placement import (
    BATCH_WEIGHT,
    CHUNK,
    ENDS,
    EPOCHS,
    FLOATS,
    HALF_ALPHA,
    INDICES,
    INPUT_SIZE,
    LAYER_WIDTH,
    LAYERS,
    MEMORY_WORDS,
    MOST_LAYERS,
    N_LAYERS,
    N_SCALARS,
    N_SHARED,
    SCALARS,
    TABLE_WIDTH,
    TARGET_WIDTH,
    TARGETS,
)
from fastbp.cuda.toolkit import cuda


@device_function
def copy_table(ints, tables, table, rank, size):
    """Bring what the table says of the network to shared memory."""
    j = rank
    while j < N_SHARED:
        ints[at(j)] = tables[at(table + j)]
        j += size
    j = rank
    while j < LAYER_WIDTH * MOST_LAYERS:
        ints[at(N_SHARED + j)] = tables[at(table + LAYERS + j)]
        j += size


@device_function
def clear(memory, ints, rank, size):
    """Make all numbers and the rows' indices zero."""
    j = ints[FLOATS] + rank
    while j < ints[MEMORY_WORDS]:
        memory[at(j)] = float32(0)
        j += size
    j = rank
    while j < 2 * ints[CHUNK]:
        ints[at(ints[INDICES] + j)] = 0
        j += size


@device_function
def write_ones(memory, ints, rank, size):
    """Write the ones that biases are multiplied by; those of X in both buffers."""
    chunk = ints[CHUNK]
    for index in range(ints[N_LAYERS]):
        layer = layer_of(ints, index)
        j = rank
        while j < (2 * chunk if index == 0 else chunk):
            start = layer.inputs + (j // chunk * ints[INPUT_SIZE] if index == 0 else 0)
            memory[at(start + j % chunk * layer.input_stride + layer.fan_in)] = float32(1)
            j += size


@device_function
def set_up(memory, ints, doubles, tables, table, reals, state, states, rank, size):
    """Bring all of a network to shared memory, but for its rows."""
    copy_table(ints, tables, table, rank, size)
    cuda.syncthreads()
    clear(memory, ints, rank, size)
    cuda.syncthreads()
    move_state(memory, ints, tables, table, state, True, rank, size)
    write_ones(memory, ints, rank, size)
    if rank == size - 1:
        keep_numbers(memory, ints, doubles, tables, table, reals, states)


@device_function
def look_up_first_rows(ints, tables, table, orders, rank):
    """Look up the rows of the first two chunks."""
    epoch, position = following(ints, 0, 0)
    if rank < rows_from(ints, 0):
        ints[at(ints[INDICES] + rank)] = row_at(tables, table, orders, ints, 0, rank)
    if epoch < ints[EPOCHS] and rank < rows_from(ints, position):
        ints[at(ints[INDICES] + ints[CHUNK] + rank)] = row_at(
            tables, table, orders, ints, epoch, position + rank
        )


@device_function
def look_up(ints, tables, table, orders, epoch, position, rank):
    """The row of X that this thread notes for the chunk after the one at a position, or 0."""
    epoch, position = following(ints, epoch, position)
    if epoch < ints[EPOCHS] and rank < rows_from(ints, position):
        return int32(row_at(tables, table, orders, ints, epoch, position + rank))
    return int32(0)


@device_function
def forward_all(memory, base, ints, start, rows, rank, size):
    """Pass a chunk's rows, from `start` on, through all layers."""
    n_layers = ints[N_LAYERS]
    for index in range(n_layers):
        layer = layer_of(ints, index)
        out, out_stride = layer.deltas, layer.delta_stride  # logits, where their δ will be
        if index < n_layers - 1:
            following_layer = layer_of(ints, index + 1)
            out, out_stride = following_layer.inputs, following_layer.input_stride
        source = start if index == 0 else layer.inputs
        forward(
            memory, base, layer, source, out, out_stride, index < n_layers - 1, rows, rank, size
        )
        cuda.syncthreads()


@device_function
def backward_all(memory, base, ints, rows, rank, size):
    """Take δ back to the first layer's outputs."""
    for index in range(ints[N_LAYERS] - 1, 0, -1):
        layer, below = layer_of(ints, index), layer_of(ints, index - 1)
        backward(memory, base, layer, below, rows, rank, size)
        cuda.syncthreads()


@device_function
def update_all(memory, base, ints, start, is_first, is_last, rows, rank, size):
    """Add up all layers' gradients, and update; returns the squares of this thread's weights."""
    squares = 0.0
    first = rank  # tasks of all layers go round the threads, one layer's after another's
    for index in range(ints[N_LAYERS]):
        layer = layer_of(ints, index)
        source = start if index == 0 else layer.inputs
        squares += float64(
            gradients(
                memory,
                base,
                ints,
                layer,
                source,
                ints[FLOATS],
                is_first,
                is_last,
                rows,
                first,
                size,
            )
        )
        n_tasks = (layer.fan_in + 4) // 4 * ((layer.fan_out + 3) // 4)
        first -= n_tasks - quotient(n_tasks, size) * size
        if first < 0:
            first += size
    return squares


# ---- the kernel -----------------------------------------------------------------------------


def train_networks(tables, reals, factors, inputs, targets, orders, state, curves, states):
    """Train a network a block for some epochs, or until it stops.

    Parameters
    ----------
    tables : array of int64, TABLE_WIDTH of them a block
        What it works on, and where its arrays begin in the others.
    reals : array of float64, N_REALS of them a network
    factors : array of float64
        Adam's step sizes at learning rate 1, update by update.
    inputs, targets : arrays of float32
        Rows of X, scaled; rows of targets, the sample weight last.
    orders : array of int32
    state : array of float32
        Parameters and moments, read at the start and written at the end.
    curves : array of float64
        Gets the loss of every epoch; before, the learning rate that "invscaling" sets after it.
    states : array of float64, N_STATES of them a network
        How far training has come, likewise.
    """
    memory = cuda.shared.array(0, float32)
    ints = cuda.shared.array(0, int32)
    doubles = cuda.shared.array(0, float64)
    rank, size = int32(cuda.threadIdx.x), int32(cuda.blockDim.x)
    table = int64(cuda.blockIdx.x) * TABLE_WIDTH  # where its row begins
    base = first_address(memory)
    set_up(memory, ints, doubles, tables, table, reals, state, states, rank, size)
    chunk, scalars, width = ints[CHUNK], ints[SCALARS], ints[TARGET_WIDTH]
    output, inputs_start = layer_of(ints, ints[N_LAYERS] - 1), layer_of(ints, 0).inputs
    # The rows of two chunks are known ahead, those of one are on their way.
    look_up_first_rows(ints, tables, table, orders, rank)
    cuda.syncthreads()
    gather(memory, base, ints, tables, table, inputs, targets, 0, 0, rank, size)
    wait_for_copies()
    cuda.syncthreads()

    epoch, position, buffer = 0, 0, 0
    loss, ends = 0.0, False  # this thread's part of the epoch's loss
    while epoch < ints[EPOCHS] and not ends:
        rows, is_first = rows_from(ints, position), starts_batch(ints, position)
        next_epoch, next_position = following(ints, epoch, position)
        is_last = next_epoch > epoch or starts_batch(ints, next_position)
        if next_epoch < ints[EPOCHS]:
            gather(
                memory, base, ints, tables, table, inputs, targets, 1 - buffer, next_position, rank,
                size,
            )  # fmt: skip
        upcoming = look_up(ints, tables, table, orders, next_epoch, next_position, rank)
        target_start = ints[TARGETS] + buffer * chunk * width
        if rank == size - 1:  # needed at the updates only, after other barriers
            weigh_batch(memory, ints, doubles, target_start, rows, is_first)
            prepare_step(memory, ints, doubles, factors, tables, table)

        start = inputs_start + buffer * ints[INPUT_SIZE]
        forward_all(memory, base, ints, start, rows, rank, size)
        if rank < rows:
            loss += row_loss_and_delta(
                memory, ints, doubles, output.deltas + rank * output.delta_stride, output.fan_out,
                target_start + rank * width,
            )  # fmt: skip
        cuda.syncthreads()
        backward_all(memory, base, ints, rows, rank, size)
        happens = doubles[at(scalars + BATCH_WEIGHT)] != 0.0
        if happens or not is_last:
            squares = update_all(memory, base, ints, start, is_first, is_last, rows, rank, size)
            loss += doubles[at(scalars + HALF_ALPHA)] * squares
        if rank == size - 1 and is_last and happens:
            count_update(ints, doubles)
        if rank < chunk:
            ints[at(ints[INDICES] + buffer * chunk + rank)] = upcoming
        wait_for_copies()
        cuda.syncthreads()

        if next_epoch > epoch:
            total = add_up(doubles, scalars + N_SCALARS, loss, rank, size)
            if rank == 0:
                end_epoch(ints, doubles, reals, states, curves, tables, table, epoch, total)
            cuda.syncthreads()
            loss, ends = 0.0, doubles[at(scalars + ENDS)] != 0.0
        epoch, position, buffer = next_epoch, next_position, 1 - buffer

    move_state(memory, ints, tables, table, state, False, rank, size)


SIGNATURE = (
    int64[::1], float64[::1], float64[::1], float32[::1], float32[::1], int32[::1], float32[::1],
    float64[::1], float64[::1],
)  # fmt: skip
