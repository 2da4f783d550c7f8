"""The kernel that trains small networks: a block for each, from its first epoch to its last.

`fastbp.cuda.small.products` has what the threads of a block compute together, and how a network
lies in shared memory. Every phase ends at a barrier: forward by layer, outputs, δ by layer, then
all updates at once, which the old weights have to wait for anyway. Rows of the next chunk are
copied meanwhile, and those of the one after it looked up.
"""

import numpy as np
from numba import float32, float64, int32, int64

from fastbp.cuda.formulas import SOFTMAX, activate, exponential, output_delta, output_loss
from fastbp.cuda.program import Listed
from fastbp.cuda.small.layout import (
    ADAPTIVE,
    ALPHA,
    BAD_EPOCHS,
    BATCH_WEIGHT,
    BEST_LOSS,
    BETA_1,
    BETA_2,
    CHUNK,
    CLIP,
    CURVE,
    DECAY,
    ENDS,
    EPOCH_WEIGHT,
    EPOCHS,
    EPOCHS_DONE,
    EPS,
    EPSILON,
    FACTORS,
    FAN_IN,
    FAN_OUT,
    FLOATS,
    HALF_ALPHA,
    INDICES,
    INPUT_SIZE,
    INVERSE,
    INVSCALING,
    IS_CLASS,
    IS_WEIGHTED,
    LAYER_WIDTH,
    LAYERS,
    LDA,
    LDD,
    LOSS,
    LOSS_SCALE,
    MADE,
    MEMORY_WORDS,
    MOMENTUM,
    MOST_LAYERS,
    N_FACTORS,
    N_LAYERS,
    N_REALS,
    N_SCALARS,
    N_SHARED,
    N_STATES,
    OUTPUT,
    PATIENCE,
    PRESENT_RATE,
    RATE,
    ROW_OF_STATE,
    ROW_SCALE,
    RULE,
    SCALARS,
    SCHEDULE,
    STEP_BETA_1,
    STEP_BETA_2,
    STEP_EPSILON,
    STEP_MOMENTUM,
    STEP_RATE,
    STOPPED,
    TABLE_WIDTH,
    TARGET_WIDTH,
    TARGETS,
    TOL,
    UPDATES,
    A,
    D,
)
from fastbp.cuda.small.products import (
    at,
    backward,
    first_address,
    forward,
    gradients,
    quotient,
    wait_for_copies,
)
from fastbp.cuda.small.rows import (
    following,
    gather,
    move_state,
    row_at,
    rows_from,
    starts_batch,
)
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda
from fastbp.optimizers import SMALLEST_ADAPTIVE_RATE

REGISTERS = 160  # sm_90 takes 128 of them


# ---- outputs --------------------------------------------------------------------------------


@cuda.jit(device=True)
def softmax(memory, start, n_units):
    """Softmax of one row in place, shifted by its largest logit."""
    largest = memory[at(start)]
    for unit in range(1, n_units):
        logit = memory[at(start + unit)]
        largest = logit if logit > largest else largest
    total = float32(0)
    for unit in range(n_units):
        value = exponential(memory[at(start + unit)] - largest)
        memory[at(start + unit)] = value
        total += value
    for unit in range(n_units):
        memory[at(start + unit)] /= total


@cuda.jit(device=True)
def output_row(memory, ints, doubles, start, n_units, target_start):
    """Turn one row's logits into δ, its sample weight in it; return its weighted loss."""
    loss, code, eps = ints[LOSS], ints[OUTPUT], memory[at(ints[FLOATS] + CLIP)]
    one, zero = float32(1), float32(0)
    weight = one
    if ints[IS_WEIGHTED]:
        weight = memory[at(target_start + ints[TARGET_WIDTH] - 1)]
    label = -1
    if ints[IS_CLASS]:
        label = int32(memory[at(target_start)])
    if code == SOFTMAX:
        softmax(memory, start, n_units)
    total = 0.0
    for unit in range(n_units):
        if ints[IS_CLASS]:
            target = one if unit == label else zero
        else:
            target = memory[at(target_start + unit)]
        output = memory[at(start + unit)]
        if code != SOFTMAX:
            output = activate(code, output)
        total += float64(output_loss(loss, code, target, output, eps))
        memory[at(start + unit)] = output_delta(loss, code, target, output) * weight
    if weight == zero:  # whatever its loss
        return 0.0
    return total * doubles[at(ints[SCALARS] + ROW_SCALE)] * float64(weight)


@cuda.jit(device=True)
def add_up(doubles, start, value, rank, size):
    """Sum over the threads, always in the same order; all get it."""
    doubles[at(start + rank)] = value
    cuda.syncthreads()
    half = size // 2
    while half > 0:
        if rank < half:
            doubles[at(start + rank)] += doubles[at(start + rank + half)]
        cuda.syncthreads()
        half //= 2
    total = doubles[at(start)]
    cuda.syncthreads()
    return total


@cuda.jit(device=True)
def keep_numbers(memory, ints, doubles, tables, table, reals, states):
    """Bring the network's real numbers to shared memory; one thread does this."""
    real = tables[at(table + ROW_OF_STATE)] * N_REALS
    status = tables[at(table + ROW_OF_STATE)] * N_STATES
    scalars, step = ints[SCALARS], ints[FLOATS]
    memory[at(step + STEP_MOMENTUM)] = float32(reals[at(real + MOMENTUM)])
    memory[at(step + STEP_BETA_1)] = float32(reals[at(real + BETA_1)])
    memory[at(step + STEP_BETA_2)] = float32(reals[at(real + BETA_2)])
    memory[at(step + STEP_EPSILON)] = float32(reals[at(real + EPSILON)])
    memory[at(step + CLIP)] = float32(reals[at(real + EPS)])
    doubles[at(scalars + HALF_ALPHA)] = 0.5 * reals[at(real + ALPHA)]
    doubles[at(scalars + ROW_SCALE)] = reals[at(real + LOSS_SCALE)]
    doubles[at(scalars + EPOCH_WEIGHT)] = 0.0
    doubles[at(scalars + MADE)] = states[at(status + UPDATES)]
    doubles[at(scalars + PRESENT_RATE)] = states[at(status + RATE)]


@cuda.jit(device=True)
def weigh_batch(memory, ints, doubles, target_start, rows, is_first):
    """Sum the batch's sample weights, up to this chunk."""
    width, place = ints[TARGET_WIDTH], ints[SCALARS] + BATCH_WEIGHT
    weight = float64(rows)
    if ints[IS_WEIGHTED]:
        weight = 0.0
        for sample in range(rows):
            weight += float64(memory[at(target_start + sample * width + width - 1)])
    doubles[at(place)] = weight if is_first else doubles[at(place)] + weight


@cuda.jit(device=True)
def prepare_step(memory, ints, doubles, factors, tables, table):
    """The numbers of the next update, from the batch's weight and the updates made."""
    scalars, step = ints[SCALARS], ints[FLOATS]
    weight, rate = doubles[at(scalars + BATCH_WEIGHT)], doubles[at(scalars + PRESENT_RATE)]
    if ints[RULE] == ADAM:
        made, last = int64(doubles[at(scalars + MADE)]), tables[at(table + N_FACTORS)] - 1
        rate *= factors[at(tables[at(table + FACTORS)] + (made if made < last else last))]
    inverse = 1.0 / weight if weight != 0.0 else 0.0
    memory[at(step + INVERSE)] = float32(inverse)
    memory[at(step + DECAY)] = float32(2.0 * doubles[at(scalars + HALF_ALPHA)] * inverse)
    memory[at(step + STEP_RATE)] = float32(rate)


@cuda.jit(device=True)
def end_epoch(ints, doubles, reals, states, curves, tables, table, epoch, total):
    """Note the epoch's loss and decide whether it was the last; one thread does this.

    So do, on the host, `Progress.end_epoch`, `Optimizer.end_epoch` and `has_converged`, which go
    over the same losses afterwards.
    """
    real = tables[at(table + ROW_OF_STATE)] * N_REALS
    status = tables[at(table + ROW_OF_STATE)] * N_STATES
    scalars = ints[SCALARS]
    loss = np.nan
    if doubles[at(scalars + EPOCH_WEIGHT)] > 0.0:
        loss = total / doubles[at(scalars + EPOCH_WEIGHT)]
    coming = curves[at(tables[at(table + CURVE)] + epoch)]  # the rate from now on
    curves[at(tables[at(table + CURVE)] + epoch)] = loss
    rate, bad_epochs, ends = states[at(status + RATE)], states[at(status + BAD_EPOCHS)] + 1.0, 0.0
    if loss <= states[at(status + BEST_LOSS)] - reals[at(real + TOL)]:
        bad_epochs = 0.0
    if loss < states[at(status + BEST_LOSS)]:
        states[at(status + BEST_LOSS)] = loss
    if ints[SCHEDULE] == INVSCALING:
        rate = coming
    if loss - loss != 0.0:  # NaN or infinite
        ends = 1.0
    elif bad_epochs > reals[at(real + PATIENCE)]:
        if ints[SCHEDULE] == ADAPTIVE and rate > SMALLEST_ADAPTIVE_RATE:
            rate /= 5.0
            bad_epochs = 0.0
        else:
            ends = 1.0
    states[at(status + RATE)], states[at(status + BAD_EPOCHS)] = rate, bad_epochs
    states[at(status + STOPPED)] = ends
    states[at(status + UPDATES)] = doubles[at(scalars + MADE)]
    states[at(status + EPOCHS_DONE)] += 1.0
    doubles[at(scalars + PRESENT_RATE)], doubles[at(scalars + ENDS)] = rate, ends
    doubles[at(scalars + EPOCH_WEIGHT)] = 0.0


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
    j = rank
    while j < N_SHARED:
        ints[at(j)] = tables[at(table + j)]
        j += size
    j = rank
    while j < LAYER_WIDTH * MOST_LAYERS:
        ints[at(N_SHARED + j)] = tables[at(table + LAYERS + j)]
        j += size
    cuda.syncthreads()
    chunk, n_layers = ints[CHUNK], ints[N_LAYERS]
    j = ints[FLOATS] + rank
    while j < ints[MEMORY_WORDS]:
        memory[at(j)] = float32(0)
        j += size
    j = rank
    while j < 2 * chunk:
        ints[at(ints[INDICES] + j)] = 0
        j += size
    cuda.syncthreads()
    move_state(memory, ints, tables, table, state, True, rank, size)
    for index in range(n_layers):  # the ones before the biases; those of X in both buffers
        layer = N_SHARED + index * LAYER_WIDTH
        j = rank
        while j < (2 * chunk if index == 0 else chunk):
            start = ints[at(layer + A)] + (j // chunk * ints[INPUT_SIZE] if index == 0 else 0)
            memory[at(start + j % chunk * ints[at(layer + LDA)] + ints[at(layer + FAN_IN)])] = (
                float32(1)
            )
            j += size

    output = N_SHARED + (n_layers - 1) * LAYER_WIDTH
    scalars, width = ints[SCALARS], ints[TARGET_WIDTH]
    if rank == size - 1:
        keep_numbers(memory, ints, doubles, tables, table, reals, states)

    # The rows of two chunks are known ahead, those of one are on their way.
    epoch, position, buffer = 0, 0, 0
    next_epoch, next_position = following(ints, epoch, position)
    if rank < rows_from(ints, 0):
        ints[at(ints[INDICES] + rank)] = row_at(tables, table, orders, ints, 0, rank)
    if next_epoch < ints[EPOCHS] and rank < rows_from(ints, next_position):
        ints[at(ints[INDICES] + chunk + rank)] = row_at(
            tables, table, orders, ints, next_epoch, next_position + rank
        )
    cuda.syncthreads()
    gather(memory, base, ints, tables, table, inputs, targets, 0, 0, rank, size)
    wait_for_copies()
    cuda.syncthreads()

    loss, ends = 0.0, False  # this thread's part of the epoch's loss
    while epoch < ints[EPOCHS] and not ends:
        rows, is_first = rows_from(ints, position), starts_batch(ints, position)
        next_epoch, next_position = following(ints, epoch, position)
        is_last = next_epoch > epoch or starts_batch(ints, next_position)
        if next_epoch < ints[EPOCHS]:
            gather(
                memory,
                base,
                ints,
                tables,
                table,
                inputs,
                targets,
                1 - buffer,
                next_position,
                rank,
                size,
            )
        upcoming = int32(0)
        later_epoch, later_position = following(ints, next_epoch, next_position)
        if later_epoch < ints[EPOCHS] and rank < rows_from(ints, later_position):
            upcoming = row_at(tables, table, orders, ints, later_epoch, later_position + rank)
        target_start = ints[TARGETS] + buffer * chunk * width
        if rank == size - 1:  # needed at the updates only, behind other barriers
            weigh_batch(memory, ints, doubles, target_start, rows, is_first)
            prepare_step(memory, ints, doubles, factors, tables, table)

        start = ints[at(N_SHARED + A)] + buffer * ints[INPUT_SIZE]
        for index in range(n_layers):
            layer = N_SHARED + index * LAYER_WIDTH
            out, ld_out = (
                ints[at(layer + D)],
                ints[at(layer + LDD)],
            )  # logits, where their δ will be
            if index < n_layers - 1:
                out, ld_out = ints[at(layer + LAYER_WIDTH + A)], ints[at(layer + LAYER_WIDTH + LDA)]
            source = start if index == 0 else ints[at(layer + A)]
            forward(
                memory, base, ints, layer, source, out, ld_out, index < n_layers - 1, rows, rank,
                size,
            )  # fmt: skip
            cuda.syncthreads()
        if rank < rows:
            logits = ints[at(output + D)] + rank * ints[at(output + LDD)]
            loss += output_row(
                memory, ints, doubles, logits, ints[at(output + FAN_OUT)],
                target_start + rank * width,
            )  # fmt: skip
        cuda.syncthreads()
        for index in range(n_layers - 1, 0, -1):
            layer = N_SHARED + index * LAYER_WIDTH
            backward(memory, base, ints, layer, layer - LAYER_WIDTH, rows, rank, size)
            cuda.syncthreads()

        happens = doubles[at(scalars + BATCH_WEIGHT)] != 0.0
        if happens or not is_last:
            first = rank  # tasks of all layers go round the threads, one layer's after another's
            for index in range(n_layers):
                layer = N_SHARED + index * LAYER_WIDTH
                source = start if index == 0 else ints[at(layer + A)]
                squares = gradients(
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
                loss += doubles[at(scalars + HALF_ALPHA)] * float64(squares)
                n_tasks = (
                    (ints[at(layer + FAN_IN)] + 4) // 4 * ((ints[at(layer + FAN_OUT)] + 3) // 4)
                )
                first -= n_tasks - quotient(n_tasks, size) * size
                if first < 0:
                    first += size
        if rank == size - 1 and is_last and happens:
            doubles[at(scalars + MADE)] += 1.0
            doubles[at(scalars + EPOCH_WEIGHT)] += doubles[at(scalars + BATCH_WEIGHT)]
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
KERNELS = {"train_networks": Listed(train_networks, SIGNATURE, REGISTERS)}
