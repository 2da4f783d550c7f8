"""Rows of small networks' data: their orders, and their way into shared memory."""

from numba import int64

from fastbp.cuda.formulas import device_function
from fastbp.cuda.small.block_products import at, copy, far, layer_of, n_vectors_of, quotient
from fastbp.cuda.small.placement import (
    BATCH,
    CHUNK,
    EPOCHS_BEFORE,
    HALF_BITS,
    INDICES,
    INPUT_SIZE,
    INPUTS,
    IS_DRAWN,
    N_FLAT,
    N_LAYERS,
    N_ROWS,
    ORDER_STRIDE,
    ORDERS,
    PARAMETERS,
    SEED,
    SPAN,
    STATE,
    TARGET_WIDTH,
    TARGETS,
    TARGETS_AT,
)

WORD = 0xFFFFFFFF


def scramble(value):
    """Mix the bits of a word of 32 (Mueller's hash); below 2⁵⁹ on the way."""
    value = ((value ^ (value >> 16)) * 0x45D9F3B) & WORD
    value = ((value ^ (value >> 16)) * 0x45D9F3B) & WORD
    return value ^ (value >> 16)


def make_permute(scramble):
    def permute(position, n_rows, half_bits, seed, epoch):
        """Where a position goes in an epoch's random order of the numbers below `n_rows`.

        A Feistel network of four rounds permutes the numbers of 2 · `half_bits` bits, whatever its
        round function (Luby and Rackoff 1988); those past the end go round again
        ("cycle walking", Black and Rogaway 2002).
        """
        mask = (1 << half_bits) - 1
        key = scramble((seed ^ scramble(epoch + 1)) & WORD)
        while True:
            left, right = position >> half_bits, position & mask
            for turn in range(4):
                left, right = (
                    right,
                    left ^ (scramble((right + key + turn * 0x9E3779B9) & WORD) & mask),
                )
            position = (left << half_bits) | right
            if position < n_rows:
                return position

    return permute


permute = device_function(make_permute(device_function(scramble)))


@device_function
def row_at(tables, table, orders, ints, epoch, position):
    """The row of X at a position of an epoch of this launch."""
    if ints[IS_DRAWN]:
        position = permute(
            int64(position), int64(ints[N_ROWS]), int64(ints[HALF_BITS]), int64(ints[SEED]),
            int64(ints[EPOCHS_BEFORE] + epoch),
        )  # fmt: skip
    start = tables[at(table + ORDERS)] + epoch * tables[at(table + ORDER_STRIDE)]
    return orders[far(start + position)]


@device_function
def rows_from(ints, position):
    """Rows in the chunk from a position of an epoch on: to its end, its batch's or the epoch's."""
    batch = ints[BATCH]
    stop = min(quotient(position, batch) * batch + batch, ints[N_ROWS])
    return min(ints[CHUNK], stop - position)


@device_function
def starts_batch(ints, position):
    return quotient(position, ints[BATCH]) * ints[BATCH] == position


@device_function
def gather(memory, base, ints, tables, table, inputs, targets, buffer, position, rank, size):
    """Have a chunk's rows and targets copied to one of the two buffers, some threads a row."""
    first = layer_of(ints, 0)
    indices, rows = ints[INDICES] + buffer * ints[CHUNK], rows_from(ints, position)
    span, width, n_inputs = ints[SPAN], ints[TARGET_WIDTH], first.fan_in
    start = first.inputs + buffer * ints[INPUT_SIZE]
    target_start = ints[TARGETS] + buffer * ints[CHUNK] * width
    lane = rank - quotient(rank, span) * span
    sample = quotient(rank, span)
    while sample < rows:
        row = int64(ints[at(indices + sample)])
        source = tables[at(table + INPUTS)] + row * n_inputs
        out = start + sample * first.input_stride
        column = lane
        while column < n_inputs:
            copy(memory, base, out + column, inputs, source + column)
            column += span
        source = tables[at(table + TARGETS_AT)] + row * width
        out = target_start + sample * width
        column = lane
        while column < width:
            copy(memory, base, out + column, targets, source + column)
            column += span
        sample += size // span


@device_function
def move_state(memory, ints, tables, table, state, to_device, rank, size):
    """Bring parameters and moments between their flat vectors and shared memory."""
    n_parameters, start = ints[PARAMETERS], tables[at(table + STATE)]
    n_vectors = n_vectors_of(ints)
    for index in range(ints[N_LAYERS]):
        layer = layer_of(ints, index)
        n_units = layer.fan_out
        count = (layer.fan_in + 1) * n_units  # the bias follows the weights there too
        element = rank
        while element < count:
            row = quotient(element, n_units)
            place = layer.weights + row * layer.weight_stride + element - row * n_units
            for vector in range(n_vectors):
                flat = start + vector * tables[at(table + N_FLAT)] + element
                here = at(place + vector * n_parameters)
                if to_device:
                    memory[here] = state[far(flat)]
                else:
                    state[far(flat)] = memory[here]
            element += size
        start += count


@device_function
def following(ints, epoch, position):
    """The chunk after one: its epoch and its first position."""
    position += rows_from(ints, position)
    if position == ints[N_ROWS]:
        return epoch + 1, 0
    return epoch, position
