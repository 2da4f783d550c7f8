"""The kernel that runs an epoch on one cluster of blocks: see `cluster_layout` for who has what.

Barriers of a step, beside those within a block: one of the cluster for every layer but the first,
when it goes forward, and one for every layer between the first and the last, when δ go back. A
batch is copied from global memory while the one before it is worked on.
"""

from functools import cache

from numba import float32, float64, int32, int64, types, uint32

from fastbp.cuda import ptx
from fastbp.cuda.cluster_layout import (
    ACTIVATION,
    ALPHA,
    BATCH_SIZE,
    BETA_1,
    BETA_2,
    BIAS,
    BIAS_SIZE,
    DELTAS,
    EPS,
    EPSILON,
    ERRORS,
    EXPONENTIALS,
    FLAT_BIAS,
    FLAT_WEIGHTS,
    HAS_WEIGHTS,
    INPUT_SCALE,
    INPUT_SHARE,
    IS_CLASS,
    LOSS,
    LOSS_SCALE,
    LOSSES,
    MOMENTUM,
    N_ADDRESSES,
    N_INPUTS,
    N_LAYERS,
    N_OUTPUTS,
    N_STEPS,
    N_TARGETS,
    ORDER,
    ORDERS,
    PARAMETERS,
    ROW_CHUNKS,
    ROW_STRIDE,
    SAMPLE_WEIGHTS,
    SCRATCH,
    SHARE,
    STEP_TABLE,
    SUMS,
    SUMS_SIZE,
    TABLES,
    TARGET_ROWS,
    TARGETS,
    TILE_SIZE,
    TILE_STRIDE,
    TILES,
    USED,
    VALUES,
    WEIGHT_ROWS,
    WEIGHT_STRIDE,
    WEIGHTS,
    WEIGHTS_SIZE,
    X_ROWS,
)  # fmt: skip
from fastbp.cuda.cluster_memory import get, load, load_double, shared_place, store, word
from fastbp.cuda.cluster_products import make_forward, make_gradient
from fastbp.cuda.data import DECAY, RATE, ROWS, TABLE_WIDTH, WEIGHT
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

NOWHERE = 1 << 30  # a unit behind all others


@device_function
def number(parameters, field):
    """A hyper-parameter."""
    return ptx.ld_global_f64(parameters + 8 * (N_ADDRESSES + field))


@device_function
def address(parameters, field):
    """Where an array starts in global memory; or the number of steps."""
    return ptx.ld_global_s64(parameters + 8 * field)


@device_function
def is_last(table, index):
    """Whether a layer is the output layer."""
    return index == table[N_LAYERS] - 1


@device_function
def units_of(table, index, rank):
    """How many of a layer's units a block computes: its share, or all outputs."""
    share = get(table, index, SHARE)
    if is_last(table, index):
        return share
    return max(int32(0), min(share, int32(get(table, index, N_OUTPUTS) - rank * share)))


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
    thread, n_threads, n_outputs = cuda.threadIdx.x, cuda.blockDim.x, get(table, index, N_OUTPUTS)
    count = units_of(table, index, rank)
    first = 0 if is_last(table, index) else rank * get(table, index, SHARE)
    weights, bias = (
        flat + 4 * get(table, index, FLAT_WEIGHTS),
        flat + 4 * get(table, index, FLAT_BIAS),
    )
    place = get(table, index, WEIGHTS) + copy * get(table, index, WEIGHTS_SIZE)
    if index == 0:
        for feature in range(thread, get(table, 0, N_INPUTS), n_threads):
            source = weights + 4 * (int64(feature) * n_outputs + first)
            for unit in range(count):
                move(
                    source + 4 * unit, place + unit * get(table, 0, WEIGHT_STRIDE) + feature, stores
                )
    else:
        before = 4 * rank * get(table, index, INPUT_SHARE) * n_outputs
        for i in range(thread, units_of(table, index - 1, rank) * n_outputs, n_threads):
            move(weights + before + 4 * i, place + i, stores)
    if not (stores and is_last(table, index) and rank > 0):  # all blocks have the same
        place = get(table, index, BIAS) + copy * get(table, index, BIAS_SIZE)
        for i in range(thread, count, n_threads):
            move(bias + 4 * (first + i), place + i, stores)


@device_function
def copy_order(table, parameters, step, turn, n_rows, n_threads):
    """Start the copies of a step's order and numbers; `turn` is the step modulo 3."""
    batch_size, thread = table[BATCH_SIZE], cuda.threadIdx.x
    source = address(parameters, ORDER) + 4 * int64(step) * batch_size
    place = shared_place(table[ORDERS] + (step & 1) * n_rows)
    for lap in range(laps(batch_size, n_threads)):
        row = thread + lap * n_threads
        if row < batch_size:
            ptx.cp_async_4(place + 4 * row, source + 4 * row)
    if thread < 2:
        source = address(parameters, STEP_TABLE) + 8 * TABLE_WIDTH * int64(step)
        place = shared_place(table[TABLES] + 2 * TABLE_WIDTH * turn)
        ptx.cp_async_16(place + 16 * thread, source + 16 * thread)


@device_function
def copy_batch(table, parameters, step, turn, n_steps, n_rows, n_threads):
    """Start the copies of a step's rows, and of the order of the step after it.

    Where a batch is short its first row stands for the others; their δ will be zero.
    """
    thread = cuda.threadIdx.x
    slot, chunks, n_targets = step & 1, table[ROW_CHUNKS], table[N_TARGETS]
    used, order = int32(step_number(table, turn, ROWS)), table[ORDERS] + slot * n_rows
    source, stride = address(parameters, X_ROWS), table[TILE_STRIDE]
    tile = shared_place(table[TILES] + slot * table[TILE_SIZE])
    for lap in range(laps(n_rows, n_threads >> 5)):
        row = (thread >> 5) + lap * (n_threads >> 5)
        if row < n_rows:
            start = source + 16 * chunks * int64(word(order + (row if row < used else 0)))
            place = tile + 4 * row * stride
            for i in range(laps(chunks, 32)):
                chunk = (thread & 31) + 32 * i
                if chunk < chunks:
                    ptx.cp_async_16(place + 16 * chunk, start + 16 * chunk)
    targets, weights = address(parameters, TARGET_ROWS), address(parameters, WEIGHT_ROWS)
    for lap in range(laps(n_rows, n_threads)):
        row = thread + lap * n_threads
        if row < used:
            index, position = int64(word(order + row)), slot * n_rows + row
            place = shared_place(table[TARGETS] + position * n_targets)
            for i in range(n_targets):
                ptx.cp_async_4(place + 4 * i, targets + 4 * (index * n_targets + i))
            if table[HAS_WEIGHTS]:
                place = shared_place(table[SAMPLE_WEIGHTS] + 2 * position)
                ptx.cp_async_8(place, weights + 8 * index)
    if step + 1 < n_steps:
        copy_order(table, parameters, step + 1, turn + 1 if turn < 2 else 0, n_rows, n_threads)
    ptx.cp_async_commit()


@device_function
def step_number(table, turn, column):
    """A number of a step, from the epoch's table."""
    return load_double(table[TABLES] + 2 * (turn * TABLE_WIDTH + column))


# In what follows a thread works on one row of the batch, and on every `n_lanes`-th unit from its
# `first` on; threads that are too many begin behind all units.


@device_function
def laps(size, n_lanes):
    """How often so many lanes go round: constants, so that loops are unrolled."""
    return (size + n_lanes - 1) // n_lanes


def make_first_values(shape):
    """Add up the first layer's logits of all warps, and activate them."""
    half, n_units = shape.warps // 2, 8 * shape.unit_tiles

    @device_function
    def first_values(table, row, first, n_lanes, rank, scale):
        stride, code, count = table[ROW_STRIDE], get(table, 0, ACTIVATION), units_of(table, 0, rank)
        for lap in range(laps(get(table, 0, SHARE), n_lanes)):
            unit = first + lap * n_lanes
            if unit < count:
                total, place = float32(0), table[SCRATCH] + unit * stride + row
                for _ in range(half):
                    total += load(place)
                    place += n_units * stride
                total = scale * total + load(get(table, 0, BIAS) + unit)
                store(get(table, 0, VALUES) + unit * stride + row, activate(code, total))
        cuda.syncthreads()

    return first_values


@device_function
def own_products(table, row, first, n_lanes, index, slot):
    """A later layer's sums over the block's own units, for the other blocks to add up."""
    stride, n_outputs, n_inputs = (
        table[ROW_STRIDE],
        get(table, index, N_OUTPUTS),
        get(table, index, INPUT_SHARE),  # zeros behind the block's own
    )
    inputs, weights = get(table, index - 1, VALUES) + row, get(table, index, WEIGHTS)
    sums = get(table, index, SUMS) + slot * get(table, index, SUMS_SIZE) + row
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
    stride, code, last = table[ROW_STRIDE], get(table, index, ACTIVATION), is_last(table, index)
    sums = get(table, index, SUMS) + slot * get(table, index, SUMS_SIZE) + row
    count = units_of(table, index, rank)
    if not last:
        sums += rank * get(table, index, SHARE) * stride
    place = row + (table[ERRORS] if last else get(table, index, VALUES))
    for lap in range(laps(get(table, index, SHARE), n_lanes)):
        unit = first + lap * n_lanes
        if unit < count:
            total = sum_of_blocks(sums + unit * stride, n_blocks) + load(
                get(table, index, BIAS) + unit
            )
            store(place + unit * stride, total if code == SOFTMAX else activate(code, total))
    cuda.syncthreads()


@device_function
def exponentials_of_logits(table, row, first, n_lanes):
    """The numerators of softmax, shifted by each row's largest logit so that nothing overflows."""
    stride, n_outputs = table[ROW_STRIDE], get(table, table[N_LAYERS] - 1, N_OUTPUTS)
    logits, numerators = table[ERRORS] + row, table[EXPONENTIALS] + row
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
    stride, last, position = table[ROW_STRIDE], table[N_LAYERS] - 1, slot * n_rows + row
    n_outputs, code, loss = get(table, last, N_OUTPUTS), get(table, last, ACTIVATION), table[LOSS]
    eps, losses, factor = float32(number(parameters, EPS)), float64(0), float64(0)
    errors, numerators, total = table[ERRORS] + row, table[EXPONENTIALS] + row, float32(1)
    is_used = row < int32(step_number(table, turn, ROWS))
    if is_used:
        factor = float64(1)
        if table[HAS_WEIGHTS]:
            factor = load_double(table[SAMPLE_WEIGHTS] + 2 * position)
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
                    unit, table[TARGETS] + position * table[N_TARGETS], table[IS_CLASS]
                )
                if owns_row:
                    losses += float64(output_loss(loss, code, target, output, eps))
                delta = output_delta(loss, code, target, output) * share
            store(place, delta)
    cuda.syncthreads()
    return losses * factor * number(parameters, LOSS_SCALE)


@device_function
def deltas(table, row, first, n_lanes, index, rank, n_places):
    """δ of the block's own units of the layer before one; zeros behind them, up to `n_places`."""
    stride, n_outputs, errors = table[ROW_STRIDE], get(table, index, N_OUTPUTS), table[ERRORS] + row
    code, count = get(table, index - 1, ACTIVATION), units_of(table, index - 1, rank)
    for lap in range(laps(n_places, n_lanes)):
        unit = first + lap * n_lanes
        if unit < n_places:
            place, delta = unit * stride + row, float32(0)
            if unit < count:
                weights = get(table, index, WEIGHTS) + unit * n_outputs
                for k in range(n_outputs):
                    delta += load(errors + k * stride) * load(weights + k)
                delta = activate_backward(code, delta, load(get(table, index - 1, VALUES) + place))
            store(get(table, index - 1, DELTAS) + place, delta)
    cuda.syncthreads()


@device_function
def gather_deltas(table, row, first, n_lanes, index, n_blocks):
    """All units' δ of a hidden layer, from the blocks that have computed them."""
    stride, share = table[ROW_STRIDE], get(table, index, SHARE)
    own, place = shared_place(get(table, index, DELTAS) + row), table[ERRORS] + row
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
    def update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon):
        weight, velocity, second = load(place), load(place + size), float32(0)
        if rule == ADAM:
            second = load(place + 2 * size)
        weight, velocity, second = update(
            rule, weight, slope, velocity, second, rate, momentum, beta_1, beta_2, epsilon
        )
        store(place, weight)
        store(place + size, velocity)
        if rule == ADAM:
            store(place + 2 * size, second)

    @device_function
    def update_weights(table, index, rank, n_rows, decay, rate, momentum, beta_1, beta_2, epsilon):
        stride, n_outputs, squares = table[ROW_STRIDE], get(table, index, N_OUTPUTS), float32(0)
        n_weights = units_of(table, index - 1, rank) * n_outputs
        for i in range(n_threads - 1 - cuda.threadIdx.x, n_weights, n_threads):
            unit = int32(uint32(i) // uint32(n_outputs))
            inputs = get(table, index - 1, VALUES) + unit * stride
            errors = table[ERRORS] + (i - unit * n_outputs) * stride
            place = get(table, index, WEIGHTS) + i
            weight = load(place)
            squares += weight * weight
            slope = sum_over_rows(inputs, errors, n_rows) + decay * weight
            size = get(table, index, WEIGHTS_SIZE)
            update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon)
        return squares

    @device_function
    def update_biases(table, index, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon):
        errors = table[ERRORS] if is_last(table, index) else get(table, index, DELTAS)
        for i in range(n_threads - 1 - cuda.threadIdx.x, units_of(table, index, rank), n_threads):
            place = errors + i * table[ROW_STRIDE]
            slope, size = sum_over_rows(place, place, n_rows), get(table, index, BIAS_SIZE)
            place = get(table, index, BIAS) + i
            update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon)

    return update_weights, update_biases


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
        clear(table[USED])
        n_layers, n_steps = table[N_LAYERS], address(parameters, N_STEPS)
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, PARAMETERS + copy)
                move_layer(table, flat, copy, index, rank, False)
        momentum = float32(number(parameters, MOMENTUM))
        beta_1, beta_2 = float32(number(parameters, BETA_1)), float32(number(parameters, BETA_2))
        epsilon, scale = (
            float32(number(parameters, EPSILON)),
            float32(number(parameters, INPUT_SCALE)),
        )
        loss, turn = float64(0), int32(0)
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
            slot = step & 1
            forward(table, slot)
            first_values(table, row, first, n_lanes, rank, scale)
            for index in range(1, n_layers):
                own_products(table, row, first, n_lanes, index, slot)
                ptx.cluster_arrive()
                ptx.cluster_wait()
                later_values(table, row, first, n_lanes, index, rank, slot, n_blocks)
            if get(table, n_layers - 1, ACTIVATION) == SOFTMAX:
                exponentials_of_logits(table, row, first, n_lanes)
            loss += output_errors(
                table, parameters, row, first, n_lanes, slot, now, n_rows, owns_row
            )
            rate, decay = (
                float32(step_number(table, now, RATE)),
                float32(step_number(table, now, DECAY)),
            )
            squares = float32(0)
            for index in range(n_layers - 1, 0, -1):
                n_places = int32(n_units) if index == 1 else get(table, index - 1, SHARE)
                deltas(table, row, first, n_lanes, index, rank, n_places)
                squares += update_weights(
                    table, index, rank, n_rows, decay, rate, momentum, beta_1, beta_2, epsilon
                )
                update_biases(table, index, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon)
                if index > 1:
                    ptx.cluster_arrive()
                    ptx.cluster_wait()
                    gather_deltas(table, row, first, n_lanes, index - 1, n_blocks)
            update_biases(table, 0, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon)
            squares += gradient(
                table,
                slot,
                units_of(table, 0, rank),
                scale,
                decay,
                rate,
                momentum,
                beta_1,
                beta_2,
                epsilon,
            )
            loss += 0.5 * number(parameters, ALPHA) * float64(squares)
        cuda.syncthreads()
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, PARAMETERS + copy)
                move_layer(table, flat, copy, index, rank, True)
        place = rank * n_threads + thread
        ptx.st_global_f64(address(parameters, LOSSES) + 8 * place, loss)
        ptx.cluster_arrive()  # nobody leaves while others may read its memory
        ptx.cluster_wait()

    return train_on_cluster


SIGNATURE = (types.int64,)
