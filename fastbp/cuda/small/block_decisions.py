"""What a block of the training kernel works out between products, one row or one thread each.

Outputs and losses, the numbers of the next update, and whether an epoch was the last one.
"""

import numpy as np
from numba import float32, float64, int32, int64

from fastbp.cuda.formulas import (
    SOFTMAX,
    activate,
    device_function,
    exponential,
    output_delta,
    output_loss,
)
from fastbp.cuda.small.block_products import at
from fastbp.cuda.small.placement import (
    ALPHA,
    BAD_EPOCHS,
    BATCH_WEIGHT,
    BEST_LOSS,
    CLIP,
    CURVE,
    DECAY,
    ENDS,
    EPOCH_WEIGHT,
    EPOCHS_DONE,
    EPS,
    FACTOR_WIDTH,
    FACTORS,
    FLOATS,
    HALF_ALPHA,
    INVERSE,
    IS_CLASS,
    IS_WEIGHTED,
    LOSS,
    LOSS_SCALE,
    MADE,
    N_FACTORS,
    N_REALS,
    N_STATES,
    OUTPUT,
    PATIENCE,
    PRESENT_RATE,
    RATE,
    ROW_OF_STATE,
    ROW_SCALE,
    SCALARS,
    STEP,
    STOPPED,
    TARGET_WIDTH,
    TOL,
    UPDATES,
    WEIGHT_DECAY,
)
from fastbp.cuda.toolkit import cuda
from fastbp.schedules import COEFFICIENTS, PENALTY, SHRINKAGE
from fastbp.schedules import RATE as STEP_RATE


@device_function
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


@device_function
def row_loss_and_delta(memory, ints, doubles, start, n_units, target_start):
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
        total += float64(output_loss(loss, target, output, eps))
        memory[at(start + unit)] = output_delta(loss, code, target, output) * weight
    if weight == zero:  # whatever its loss
        return 0.0
    return total * doubles[at(ints[SCALARS] + ROW_SCALE)] * float64(weight)


@device_function
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


@device_function
def keep_numbers(memory, ints, doubles, tables, table, reals, states):
    """Bring the network's real numbers to shared memory; one thread does this."""
    real = tables[at(table + ROW_OF_STATE)] * N_REALS
    status = tables[at(table + ROW_OF_STATE)] * N_STATES
    scalars = ints[SCALARS]
    memory[at(ints[FLOATS] + CLIP)] = float32(reals[at(real + EPS)])
    doubles[at(scalars + DECAY)] = reals[at(real + WEIGHT_DECAY)]
    doubles[at(scalars + HALF_ALPHA)] = 0.5 * reals[at(real + ALPHA)]
    doubles[at(scalars + ROW_SCALE)] = reals[at(real + LOSS_SCALE)]
    doubles[at(scalars + EPOCH_WEIGHT)] = 0.0
    doubles[at(scalars + MADE)] = states[at(status + UPDATES)]
    doubles[at(scalars + PRESENT_RATE)] = states[at(status + RATE)]


@device_function
def weigh_batch(memory, ints, doubles, target_start, rows, is_first):
    """Sum the batch's sample weights, up to this chunk."""
    width, place = ints[TARGET_WIDTH], ints[SCALARS] + BATCH_WEIGHT
    weight = float64(rows)
    if ints[IS_WEIGHTED]:
        weight = 0.0
        for sample in range(rows):
            weight += float64(memory[at(target_start + sample * width + width - 1)])
    doubles[at(place)] = weight if is_first else doubles[at(place)] + weight


@device_function
def prepare_step(memory, ints, doubles, factors, tables, table):
    """The numbers of the next update, from the batch's weight and the updates made."""
    scalars, step = ints[SCALARS], ints[FLOATS] + STEP
    weight, rate = doubles[at(scalars + BATCH_WEIGHT)], doubles[at(scalars + PRESENT_RATE)]
    made, last = int64(doubles[at(scalars + MADE)]), tables[at(table + N_FACTORS)] - 1
    row = tables[at(table + FACTORS)] + (made if made < last else last) * FACTOR_WIDTH
    inverse = 1.0 / weight if weight != 0.0 else 0.0
    memory[at(ints[FLOATS] + INVERSE)] = float32(inverse)
    memory[at(step + PENALTY)] = float32(2.0 * doubles[at(scalars + HALF_ALPHA)] * inverse)
    memory[at(step + SHRINKAGE)] = float32(rate * doubles[at(scalars + DECAY)])
    memory[at(step + STEP_RATE)] = float32(rate * factors[at(row)])
    for i in range(FACTOR_WIDTH - 1):
        memory[at(step + COEFFICIENTS + i)] = float32(factors[at(row + 1 + i)])


@device_function
def count_update(ints, doubles):
    """Count an update and its batch's weight; one thread does this."""
    scalars = ints[SCALARS]
    doubles[at(scalars + MADE)] += 1.0
    doubles[at(scalars + EPOCH_WEIGHT)] += doubles[at(scalars + BATCH_WEIGHT)]


@device_function
def end_epoch(ints, doubles, reals, states, curves, tables, table, epoch, total):
    """Note the epoch's loss and decide whether it was the last; one thread does this.

    So do, on the host, `Progress.end_epoch` and `has_converged`, which go over the same losses
    afterwards.
    """
    real = tables[at(table + ROW_OF_STATE)] * N_REALS
    status = tables[at(table + ROW_OF_STATE)] * N_STATES
    scalars = ints[SCALARS]
    loss = np.nan
    if doubles[at(scalars + EPOCH_WEIGHT)] > 0.0:
        loss = total / doubles[at(scalars + EPOCH_WEIGHT)]
    rate = curves[at(tables[at(table + CURVE)] + epoch)]  # from now on
    curves[at(tables[at(table + CURVE)] + epoch)] = loss
    bad_epochs, ends = states[at(status + BAD_EPOCHS)] + 1.0, 0.0
    if loss <= states[at(status + BEST_LOSS)] - reals[at(real + TOL)]:
        bad_epochs = 0.0
    if loss < states[at(status + BEST_LOSS)]:
        states[at(status + BEST_LOSS)] = loss
    if loss - loss != 0.0 or bad_epochs > reals[at(real + PATIENCE)]:  # NaN and infinity, too
        ends = 1.0
    states[at(status + RATE)], states[at(status + BAD_EPOCHS)] = rate, bad_epochs
    states[at(status + STOPPED)] = ends
    states[at(status + UPDATES)] = doubles[at(scalars + MADE)]
    states[at(status + EPOCHS_DONE)] += 1.0
    doubles[at(scalars + PRESENT_RATE)], doubles[at(scalars + ENDS)] = rate, ends
    doubles[at(scalars + EPOCH_WEIGHT)] = 0.0
