"""What a step of the cluster's kernel does beside the first layer's products, phase by phase.

A thread works on one row of the batch, and on every `n_lanes`-th unit from its `first` on; threads
that are too many begin behind all units. Most phases end with a barrier of the block.
"""

from numba import float32, float64, int32, uint32

from fastbp.cuda import ptx
from fastbp.cuda.clusters import layout as at
from fastbp.cuda.clusters.memory import (
    get,
    is_last,
    laps,
    load,
    load_double,
    number,
    shared_place,
    step_number,
    store,
    units_of,
    word,
)
from fastbp.cuda.data import ROWS, WEIGHT
from fastbp.cuda.formulas import (
    SOFTMAX,
    activate,
    activate_backward,
    device_function,
    exponential,
    output_delta,
    output_loss,
    update,
)
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda


def make_first_values(shape):
    """Add up the first layer's logits of all warps, and activate them."""
    half, n_units = shape.warps // 2, 8 * shape.unit_tiles

    @device_function
    def first_values(table, row, first, n_lanes, rank, scale):
        stride, code, count = (
            table[at.ROW_STRIDE],
            get(table, 0, at.ACTIVATION),
            units_of(table, 0, rank),
        )
        for lap in range(laps(get(table, 0, at.SHARE), n_lanes)):
            unit = first + lap * n_lanes
            if unit < count:
                total, place = float32(0), table[at.SCRATCH] + unit * stride + row
                for _ in range(half):
                    total += load(place)
                    place += n_units * stride
                total = scale * total + load(get(table, 0, at.BIAS) + unit)
                store(get(table, 0, at.VALUES) + unit * stride + row, activate(code, total))
        cuda.syncthreads()

    return first_values


@device_function
def own_products(table, row, first, n_lanes, index, slot):
    """A later layer's sums over the block's own units, for the other blocks to add up.

    `slot` is which of two places they have: the last step but one that was not skipped had it.
    """
    stride, n_outputs, n_inputs = (
        table[at.ROW_STRIDE],
        get(table, index, at.N_OUTPUTS),
        get(table, index, at.INPUT_SHARE),  # zeros behind the block's own
    )
    inputs, weights = get(table, index - 1, at.VALUES) + row, get(table, index, at.WEIGHTS)
    sums = get(table, index, at.SUMS) + slot * get(table, index, at.SUMS_SIZE) + row
    for lap in range(laps(n_outputs, n_lanes)):
        unit = first + lap * n_lanes
        if unit < n_outputs:
            total = float32(0)
            for k in range(n_inputs):
                total += load(inputs + k * stride) * load(weights + k * n_outputs + unit)
            store(sums + unit * stride, total)


@device_function
def sum_of_blocks(place, n_blocks):
    """The sum of the numbers that all blocks have at one place, in the order of their ranks."""
    own, total = shared_place(place), float32(0)
    for rank in range(n_blocks):
        total += ptx.ld_cluster_f32(ptx.map_shared(own, uint32(rank)))
    return total


@device_function
def later_values(table, row, first, n_lanes, index, rank, slot, n_blocks):
    """A later layer's values: of the block's own units, or of all outputs; softmax's logits."""
    stride, code = table[at.ROW_STRIDE], get(table, index, at.ACTIVATION)
    last = is_last(table, index)
    sums = get(table, index, at.SUMS) + slot * get(table, index, at.SUMS_SIZE) + row
    count = units_of(table, index, rank)
    if not last:
        sums += rank * get(table, index, at.SHARE) * stride
    place = row + (table[at.ERRORS] if last else get(table, index, at.VALUES))
    for lap in range(laps(get(table, index, at.SHARE), n_lanes)):
        unit = first + lap * n_lanes
        if unit < count:
            total = sum_of_blocks(sums + unit * stride, n_blocks) + load(
                get(table, index, at.BIAS) + unit
            )
            store(place + unit * stride, total if code == SOFTMAX else activate(code, total))
    cuda.syncthreads()


@device_function
def exponentials_of_logits(table, row, first, n_lanes):
    """The numerators of softmax, shifted by each row's largest logit so that nothing overflows."""
    stride, n_outputs = table[at.ROW_STRIDE], get(table, table[at.N_LAYERS] - 1, at.N_OUTPUTS)
    logits, numerators = table[at.ERRORS] + row, table[at.EXPONENTIALS] + row
    largest = load(logits)
    for unit in range(1, n_outputs):
        logit = load(logits + unit * stride)
        largest = logit if logit > largest else largest
    for lap in range(laps(n_outputs, n_lanes)):
        unit = first + lap * n_lanes
        if unit < n_outputs:
            store(numerators + unit * stride, exponential(load(logits + unit * stride) - largest))
    cuda.syncthreads()


@device_function
def target_of(unit, place, is_class):
    """What an output should have been."""
    if is_class:
        return float32(1) if word(place) == unit else float32(0)
    return load(place + unit)


@device_function
def output_errors(table, parameters, row, first, n_lanes, slot, turn, n_rows, owns_row):
    """δ in front of the output activation, by all blocks alike. Returns the losses of own rows."""
    stride, last, position = table[at.ROW_STRIDE], table[at.N_LAYERS] - 1, slot * n_rows + row
    n_outputs, code = get(table, last, at.N_OUTPUTS), get(table, last, at.ACTIVATION)
    loss = table[at.LOSS]
    eps, losses, factor = float32(number(parameters, at.EPS)), float64(0), float64(0)
    errors, numerators, total = table[at.ERRORS] + row, table[at.EXPONENTIALS] + row, float32(1)
    is_used = row < int32(step_number(table, turn, ROWS))
    if is_used:
        factor = float64(1)
        if table[at.HAS_WEIGHTS]:
            factor = load_double(table[at.SAMPLE_WEIGHTS] + 2 * position)
    if code == SOFTMAX:
        total = float32(0)
        for unit in range(n_outputs):
            total += load(numerators + unit * stride)
    share = float32(factor / step_number(table, turn, WEIGHT))
    for lap in range(laps(n_outputs, n_lanes)):
        unit = first + lap * n_lanes
        if unit < n_outputs:
            place, delta = errors + unit * stride, float32(0)
            if is_used:
                output = (
                    load(numerators + unit * stride) / total if code == SOFTMAX else load(place)
                )
                target = target_of(
                    unit, table[at.TARGETS] + position * table[at.N_TARGETS], table[at.IS_CLASS]
                )
                if owns_row:
                    losses += float64(output_loss(loss, code, target, output, eps))
                delta = output_delta(loss, code, target, output) * share
            store(place, delta)
    cuda.syncthreads()
    return losses * factor * number(parameters, at.LOSS_SCALE)


@device_function
def deltas(table, row, first, n_lanes, index, rank, n_places):
    """δ of the block's own units of the layer before one; zeros behind them, up to `n_places`."""
    stride, n_outputs = table[at.ROW_STRIDE], get(table, index, at.N_OUTPUTS)
    errors = table[at.ERRORS] + row
    code, count = get(table, index - 1, at.ACTIVATION), units_of(table, index - 1, rank)
    for lap in range(laps(n_places, n_lanes)):
        unit = first + lap * n_lanes
        if unit < n_places:
            place, delta = unit * stride + row, float32(0)
            if unit < count:
                weights = get(table, index, at.WEIGHTS) + unit * n_outputs
                for k in range(n_outputs):
                    delta += load(errors + k * stride) * load(weights + k)
                delta = activate_backward(
                    code, delta, load(get(table, index - 1, at.VALUES) + place)
                )
            store(get(table, index - 1, at.DELTAS) + place, delta)
    cuda.syncthreads()


@device_function
def gather_deltas(table, row, first, n_lanes, index, n_blocks):
    """All units' δ of a hidden layer, from the blocks that have computed them."""
    stride, share = table[at.ROW_STRIDE], get(table, index, at.SHARE)
    own, place = shared_place(get(table, index, at.DELTAS) + row), table[at.ERRORS] + row
    for rank in range(n_blocks):
        theirs = ptx.map_shared(own, uint32(rank))
        for unit in range(first, units_of(table, index, rank), n_lanes):
            value = ptx.ld_cluster_f32(theirs + 4 * unit * stride)
            store(place + (rank * share + unit) * stride, value)
    cuda.syncthreads()


@device_function
def sum_over_rows(left, right, n_rows):
    """Σ left right over the rows from two places on; Σ right where the places are the same."""
    s0 = s1 = s2 = s3 = float32(0)
    a, b = shared_place(left), shared_place(right)
    for _ in range(n_rows >> 2):
        b0, b1, b2, b3 = ptx.ld_shared_v4_f32(b)
        if a != b:
            a0, a1, a2, a3 = ptx.ld_shared_v4_f32(a)
            b0, b1, b2, b3 = a0 * b0, a1 * b1, a2 * b2, a3 * b3
        s0, s1, s2, s3 = s0 + b0, s1 + b1, s2 + b2, s3 + b3
        a, b = a + 16, b + 16
    return (s0 + s1) + (s2 + s3)


def make_small_updates(rule, n_threads):
    """Updates of a later layer's weights and of biases.

    By the threads with the largest numbers: the others have more to do at the first layer.
    """

    @device_function
    def update_one(place, size, slope, numbers):
        weight, velocity, second = load(place), load(place + size), float32(0)
        if rule == ADAM:
            second = load(place + 2 * size)
        weight, velocity, second = update(rule, weight, slope, velocity, second, *numbers)
        store(place, weight)
        store(place + size, velocity)
        if rule == ADAM:
            store(place + 2 * size, second)

    @device_function
    def update_weights(table, index, rank, n_rows, decay, numbers):
        stride, n_outputs, squares = (
            table[at.ROW_STRIDE],
            get(table, index, at.N_OUTPUTS),
            float32(0),
        )
        n_weights = units_of(table, index - 1, rank) * n_outputs
        for i in range(n_threads - 1 - cuda.threadIdx.x, n_weights, n_threads):
            unit = int32(uint32(i) // uint32(n_outputs))
            inputs = get(table, index - 1, at.VALUES) + unit * stride
            errors = table[at.ERRORS] + (i - unit * n_outputs) * stride
            place = get(table, index, at.WEIGHTS) + i
            weight = load(place)
            squares += weight * weight
            slope = sum_over_rows(inputs, errors, n_rows) + decay * weight
            size = get(table, index, at.WEIGHTS_SIZE)
            update_one(place, size, slope, numbers)
        return squares

    @device_function
    def update_biases(table, index, rank, n_rows, numbers):
        errors = table[at.ERRORS] if is_last(table, index) else get(table, index, at.DELTAS)
        for i in range(n_threads - 1 - cuda.threadIdx.x, units_of(table, index, rank), n_threads):
            place = errors + i * table[at.ROW_STRIDE]
            slope, size = sum_over_rows(place, place, n_rows), get(table, index, at.BIAS_SIZE)
            place = get(table, index, at.BIAS) + i
            update_one(place, size, slope, numbers)

    return update_weights, update_biases
