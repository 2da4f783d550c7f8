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
    HEAD_SIZE,
    INPUT_SCALE,
    INPUT_SHARE,
    IS_CLASS,
    LAYER_SIZE,
    LOSS,
    LOSS_SCALE,
    LOSSES,
    MOMENTUM,
    N_ADDRESSES,
    N_INPUTS,
    N_LAYERS,
    N_NUMBERS,
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
TABLE = N_ADDRESSES + N_NUMBERS  # where the table starts in global memory, in 8-byte numbers


@device_function
def number(parameters, field):
    """A hyper-parameter."""
    return ptx.ld_global_f64(parameters + 8 * (N_ADDRESSES + field))


@device_function
def address(parameters, field):
    """Where an array starts in global memory."""
    return ptx.ld_global_s64(parameters + 8 * field)


@device_function
def is_last(index):
    """Whether a layer is the output layer."""
    return index == word(N_LAYERS) - 1


@device_function
def units_of(index, rank):
    """How many of a layer's units a block computes: its share, or all outputs."""
    share = get(index, SHARE)
    if is_last(index):
        return share
    return max(int32(0), min(share, int32(get(index, N_OUTPUTS) - rank * share)))


@device_function
def prepare(parameters):
    """Clear the shared memory, since what pads it must be zero, and bring the table."""
    words = cuda.shared.array(0, int32)
    thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    for i in range(thread, ptx.ld_global_s64(parameters + 8 * (TABLE + USED)), n_threads):
        words[uint32(i)] = 0
    cuda.syncthreads()
    n_words = HEAD_SIZE + ptx.ld_global_s64(parameters + 8 * (TABLE + N_LAYERS)) * LAYER_SIZE
    for i in range(thread, n_words, n_threads):
        words[uint32(i)] = int32(ptx.ld_global_s64(parameters + 8 * (TABLE + i)))
    cuda.syncthreads()


@device_function
def move(flat, place, stores):
    """Bring one parameter from global memory to shared memory, or back."""
    if stores:
        ptx.st_global_f32(flat, load(place))
    else:
        store(place, ptx.ld_global_f32(flat))


@device_function
def move_layer(flat, copy, index, rank, stores):
    """Bring a block's share of a layer's parameters, or of one of their moments, in or out."""
    thread, n_threads, n_outputs = cuda.threadIdx.x, cuda.blockDim.x, get(index, N_OUTPUTS)
    count = units_of(index, rank)
    first = 0 if is_last(index) else rank * get(index, SHARE)
    weights, bias = flat + 4 * get(index, FLAT_WEIGHTS), flat + 4 * get(index, FLAT_BIAS)
    place = get(index, WEIGHTS) + copy * get(index, WEIGHTS_SIZE)
    if index == 0:
        for feature in range(thread, get(0, N_INPUTS), n_threads):
            source = weights + 4 * (int64(feature) * n_outputs + first)
            for unit in range(count):
                move(source + 4 * unit, place + unit * get(0, WEIGHT_STRIDE) + feature, stores)
    else:
        before = 4 * rank * get(index, INPUT_SHARE) * n_outputs
        for i in range(thread, units_of(index - 1, rank) * n_outputs, n_threads):
            move(weights + before + 4 * i, place + i, stores)
    if not (stores and is_last(index) and rank > 0):  # all blocks have the same
        place = get(index, BIAS) + copy * get(index, BIAS_SIZE)
        for i in range(thread, count, n_threads):
            move(bias + 4 * (first + i), place + i, stores)


@device_function
def copy_order(parameters, step, turn, n_rows, n_threads):
    """Start the copies of a step's order and numbers; `turn` is the step modulo 3."""
    batch_size, thread = word(BATCH_SIZE), cuda.threadIdx.x
    source = address(parameters, ORDER) + 4 * int64(step) * batch_size
    place = shared_place(word(ORDERS) + (step & 1) * n_rows)
    for row in range(thread, batch_size, n_threads):
        ptx.cp_async_4(place + 4 * row, source + 4 * row)
    if thread < 2:
        source = address(parameters, STEP_TABLE) + 8 * TABLE_WIDTH * int64(step)
        place = shared_place(word(TABLES) + 2 * TABLE_WIDTH * turn)
        ptx.cp_async_16(place + 16 * thread, source + 16 * thread)


@device_function
def copy_batch(parameters, step, turn, n_rows, n_threads):
    """Start the copies of a step's rows, and of the order of the step after it.

    Where a batch is short its first row stands for the others; their δ will be zero.
    """
    thread = cuda.threadIdx.x
    slot, chunks, n_targets = step & 1, word(ROW_CHUNKS), word(N_TARGETS)
    used, order = int32(step_number(turn, ROWS)), word(ORDERS) + slot * n_rows
    source, stride = address(parameters, X_ROWS), word(TILE_STRIDE)
    tile = shared_place(word(TILES) + slot * word(TILE_SIZE))
    for row in range(thread >> 5, n_rows, n_threads >> 5):
        start = source + 16 * chunks * int64(word(order + (row if row < used else 0)))
        place = tile + 4 * row * stride
        for chunk in range(thread & 31, chunks, 32):
            ptx.cp_async_16(place + 16 * chunk, start + 16 * chunk)
    targets, weights = address(parameters, TARGET_ROWS), address(parameters, WEIGHT_ROWS)
    for row in range(thread, used, n_threads):
        index, position = int64(word(order + row)), slot * n_rows + row
        place = shared_place(word(TARGETS) + position * n_targets)
        for i in range(n_targets):
            ptx.cp_async_4(place + 4 * i, targets + 4 * (index * n_targets + i))
        if word(HAS_WEIGHTS):
            ptx.cp_async_8(shared_place(word(SAMPLE_WEIGHTS) + 2 * position), weights + 8 * index)
    if step + 1 < word(N_STEPS):
        copy_order(parameters, step + 1, turn + 1 if turn < 2 else 0, n_rows, n_threads)
    ptx.cp_async_commit()


@device_function
def step_number(turn, column):
    """A number of a step, from the epoch's table."""
    return load_double(word(TABLES) + 2 * (turn * TABLE_WIDTH + column))


# In what follows a thread works on one row of the batch, and on every `n_lanes`-th unit from its
# `first` on; threads that are too many begin behind all units.


def make_first_values(shape):
    """Add up the first layer's logits of all warps, and activate them."""
    half, n_units = shape.warps // 2, 8 * shape.unit_tiles

    @device_function
    def first_values(row, first, n_lanes, rank, scale):
        stride, code = word(ROW_STRIDE), get(0, ACTIVATION)
        for unit in range(first, units_of(0, rank), n_lanes):
            total, place = float32(0), word(SCRATCH) + unit * stride + row
            for _ in range(half):
                total += load(place)
                place += n_units * stride
            total = scale * total + load(get(0, BIAS) + unit)
            store(get(0, VALUES) + unit * stride + row, activate(code, total))
        cuda.syncthreads()

    return first_values


@device_function
def own_products(row, first, n_lanes, index, rank, slot):
    """A later layer's sums over the block's own units, for the other blocks to add up."""
    stride, n_outputs, n_inputs = word(ROW_STRIDE), get(index, N_OUTPUTS), units_of(index - 1, rank)
    inputs, weights = get(index - 1, VALUES) + row, get(index, WEIGHTS)
    sums = get(index, SUMS) + slot * get(index, SUMS_SIZE) + row
    for unit in range(first, n_outputs, n_lanes):
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
def later_values(row, first, n_lanes, index, rank, slot, n_blocks):
    """A later layer's values: of the block's own units, or of all outputs; softmax's logits."""
    stride, code, last = word(ROW_STRIDE), get(index, ACTIVATION), is_last(index)
    sums = get(index, SUMS) + slot * get(index, SUMS_SIZE) + row
    if not last:
        sums += rank * get(index, SHARE) * stride
    place = row + (word(ERRORS) if last else get(index, VALUES))
    for unit in range(first, units_of(index, rank), n_lanes):
        total = sum_of_blocks(sums + unit * stride, n_blocks) + load(get(index, BIAS) + unit)
        store(place + unit * stride, total if code == SOFTMAX else activate(code, total))
    cuda.syncthreads()


@device_function
def exponentials_of_logits(row, first, n_lanes):
    """The numerators of softmax, shifted by each row's largest logit so that nothing overflows."""
    stride, n_outputs = word(ROW_STRIDE), get(word(N_LAYERS) - 1, N_OUTPUTS)
    logits, numerators = word(ERRORS) + row, word(EXPONENTIALS) + row
    largest = load(logits)
    for unit in range(1, n_outputs):
        logit = load(logits + unit * stride)
        largest = logit if logit > largest else largest
    for unit in range(first, n_outputs, n_lanes):
        store(numerators + unit * stride, exponential(load(logits + unit * stride) - largest))
    cuda.syncthreads()


@device_function
def target_of(unit, place, is_class):
    """What an output should have been."""
    if is_class:
        return float32(1) if word(place) == unit else float32(0)
    return load(place + unit)


@device_function
def output_errors(parameters, row, first, n_lanes, slot, turn, n_rows, owns_row):
    """δ in front of the output activation, by all blocks alike. Returns the losses of own rows."""
    stride, last, position = word(ROW_STRIDE), word(N_LAYERS) - 1, slot * n_rows + row
    n_outputs, code, loss = get(last, N_OUTPUTS), get(last, ACTIVATION), word(LOSS)
    eps, losses, factor = float32(number(parameters, EPS)), float64(0), float64(0)
    errors, numerators, total = word(ERRORS) + row, word(EXPONENTIALS) + row, float32(1)
    is_used = row < int32(step_number(turn, ROWS))
    if is_used:
        factor = float64(1)
        if word(HAS_WEIGHTS):
            factor = load_double(word(SAMPLE_WEIGHTS) + 2 * position)
    if code == SOFTMAX:
        total = float32(0)
        for unit in range(n_outputs):
            total += load(numerators + unit * stride)
    share = float32(factor / step_number(turn, WEIGHT))
    for unit in range(first, n_outputs, n_lanes):
        place, delta = errors + unit * stride, float32(0)
        if is_used:
            output = load(numerators + unit * stride) / total if code == SOFTMAX else load(place)
            target = target_of(unit, word(TARGETS) + position * word(N_TARGETS), word(IS_CLASS))
            if owns_row:
                losses += float64(output_loss(loss, code, target, output, eps))
            delta = output_delta(loss, code, target, output) * share
        store(place, delta)
    cuda.syncthreads()
    return losses * factor * number(parameters, LOSS_SCALE)


@device_function
def deltas(row, first, n_lanes, index, rank, n_places):
    """δ of the block's own units of the layer before one; zeros behind them, up to `n_places`."""
    stride, n_outputs, errors = word(ROW_STRIDE), get(index, N_OUTPUTS), word(ERRORS) + row
    code, count = get(index - 1, ACTIVATION), units_of(index - 1, rank)
    for unit in range(first, n_places, n_lanes):
        place, delta = unit * stride + row, float32(0)
        if unit < count:
            weights = get(index, WEIGHTS) + unit * n_outputs
            for k in range(n_outputs):
                delta += load(errors + k * stride) * load(weights + k)
            delta = activate_backward(code, delta, load(get(index - 1, VALUES) + place))
        store(get(index - 1, DELTAS) + place, delta)
    cuda.syncthreads()


@device_function
def gather_deltas(row, first, n_lanes, index, n_blocks):
    """All units' δ of a hidden layer, from the blocks that have computed them."""
    stride, share = word(ROW_STRIDE), get(index, SHARE)
    own, place = shared_place(get(index, DELTAS) + row), word(ERRORS) + row
    for rank in range(n_blocks):
        theirs = ptx.map_shared(own, uint32(rank))
        for unit in range(first, units_of(index, rank), n_lanes):
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
    def update_weights(index, rank, n_rows, decay, rate, momentum, beta_1, beta_2, epsilon):
        stride, n_outputs, squares = word(ROW_STRIDE), get(index, N_OUTPUTS), float32(0)
        n_weights = units_of(index - 1, rank) * n_outputs
        for i in range(n_threads - 1 - cuda.threadIdx.x, n_weights, n_threads):
            unit = int32(uint32(i) // uint32(n_outputs))
            inputs = get(index - 1, VALUES) + unit * stride
            errors = word(ERRORS) + (i - unit * n_outputs) * stride
            place = get(index, WEIGHTS) + i
            weight = load(place)
            squares += weight * weight
            slope = sum_over_rows(inputs, errors, n_rows) + decay * weight
            size = get(index, WEIGHTS_SIZE)
            update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon)
        return squares

    @device_function
    def update_biases(index, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon):
        errors = word(ERRORS) if is_last(index) else get(index, DELTAS)
        for i in range(n_threads - 1 - cuda.threadIdx.x, units_of(index, rank), n_threads):
            place = errors + i * word(ROW_STRIDE)
            slope, size = sum_over_rows(place, place, n_rows), get(index, BIAS_SIZE)
            place = get(index, BIAS) + i
            update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon)

    return update_weights, update_biases


@cache
def make_kernel(shape):
    """The kernel for a shape: function of the address of addresses, numbers and the table.

    Longer than a function should be, since all that it holds in registers is used to the end.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    kernel : function
        To be compiled for `SIGNATURE` and launched as one cluster of `shape.cluster` blocks of
        32 `shape.warps` threads.
    """
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
        prepare(parameters)
        n_layers, n_steps = word(N_LAYERS), word(N_STEPS)
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, PARAMETERS + copy)
                move_layer(flat, copy, index, rank, False)
        momentum = float32(number(parameters, MOMENTUM))
        beta_1, beta_2 = float32(number(parameters, BETA_1)), float32(number(parameters, BETA_2))
        epsilon, scale = (
            float32(number(parameters, EPSILON)),
            float32(number(parameters, INPUT_SCALE)),
        )
        loss, turn = float64(0), int32(0)
        copy_order(parameters, 0, 0, n_rows, n_threads)
        ptx.cp_async_commit()
        ptx.cp_async_wait_0()
        cuda.syncthreads()
        copy_batch(parameters, 0, 0, n_rows, n_threads)
        for step in range(n_steps):
            ptx.cp_async_wait_0()
            cuda.syncthreads()
            now = turn
            turn = int32(turn + 1) if turn < 2 else int32(0)
            if step + 1 < n_steps:
                copy_batch(parameters, step + 1, turn, n_rows, n_threads)
            if step_number(now, WEIGHT) == 0:
                continue
            slot = step & 1
            forward(slot)
            first_values(row, first, n_lanes, rank, scale)
            for index in range(1, n_layers):
                own_products(row, first, n_lanes, index, rank, slot)
                ptx.cluster_arrive()
                ptx.cluster_wait()
                later_values(row, first, n_lanes, index, rank, slot, n_blocks)
            if get(n_layers - 1, ACTIVATION) == SOFTMAX:
                exponentials_of_logits(row, first, n_lanes)
            loss += output_errors(parameters, row, first, n_lanes, slot, now, n_rows, owns_row)
            rate, decay = float32(step_number(now, RATE)), float32(step_number(now, DECAY))
            squares = float32(0)
            for index in range(n_layers - 1, 0, -1):
                n_places = int32(n_units) if index == 1 else units_of(index - 1, rank)
                deltas(row, first, n_lanes, index, rank, n_places)
                squares += update_weights(
                    index, rank, n_rows, decay, rate, momentum, beta_1, beta_2, epsilon
                )
                update_biases(index, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon)
                if index > 1:
                    ptx.cluster_arrive()
                    ptx.cluster_wait()
                    gather_deltas(row, first, n_lanes, index - 1, n_blocks)
            update_biases(0, rank, n_rows, rate, momentum, beta_1, beta_2, epsilon)
            squares += gradient(
                slot, units_of(0, rank), scale, decay, rate, momentum, beta_1, beta_2, epsilon
            )
            loss += 0.5 * number(parameters, ALPHA) * float64(squares)
        cuda.syncthreads()
        for index in range(n_layers):
            for copy in range(n_copies):
                flat = address(parameters, PARAMETERS + copy)
                move_layer(flat, copy, index, rank, True)
        place = rank * n_threads + thread
        ptx.st_global_f64(address(parameters, LOSSES) + 8 * place, loss)
        ptx.cluster_arrive()  # nobody leaves while others may read its memory
        ptx.cluster_wait()

    return train_on_cluster


SIGNATURE = (types.int64,)
