"""The kernel that runs an epoch on one cluster of blocks: see `cluster_layout` for who has what.

Barriers of a step, beside those within a block: one of the cluster for every layer but the first,
when it goes forward, and one for every layer between the first and the last, when δ go back. A batch
is copied from global memory while the one before it is worked on.
"""

from functools import cache

from numba import float32, float64, int32, int64, types, uint32

from fastbp.cuda import ptx
from fastbp.cuda.cluster_layout import (
    ACTIVATION, ALPHA, BATCH_SIZE, BETA_1, BETA_2, BIAS, BIAS_SIZE, DELTAS, EPS, EPSILON, ERRORS,
    EXPONENTIALS, FLAT_BIAS, FLAT_WEIGHTS, HAS_WEIGHTS, HEAD_SIZE, INPUT_SCALE, INPUT_SHARE, IS_CLASS,
    LAYER_SIZE, LOSS, LOSS_SCALE, LOSSES, MOMENTUM, N_ADDRESSES, N_FEATURES, N_INPUTS, N_LAYERS,
    N_NUMBERS, N_OUTPUTS, N_STEPS, N_TARGETS, ORDER, ORDERS, PARAMETERS, ROW_CHUNKS, ROW_STRIDE,
    SAMPLE_WEIGHTS, SCRATCH, SHARE, STEP_TABLE, SUMS, SUMS_SIZE, TABLES, TARGET_ROWS, TARGETS,
    TILE_SIZE, TILE_STRIDE, TILES, USED, VALUES, WEIGHT_ROWS, WEIGHT_STRIDE, WEIGHTS, WEIGHTS_SIZE,
    X_ROWS, Shape,
)  # fmt: skip
from fastbp.cuda.cluster_products import device, make_forward, make_gradient
from fastbp.cuda.data import DECAY, RATE, ROWS, TABLE_WIDTH, WEIGHT
from fastbp.cuda.formulas import (
    SOFTMAX,
    activate,
    activate_backward,
    exponential,
    output_delta,
    output_loss,
    update,
)
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda

TABLE = N_ADDRESSES + N_NUMBERS  # where the table starts in global memory, in 8-byte numbers


@device
def get(index, field):
    """A field of a layer's record."""
    return cuda.shared.array(0, int32)[HEAD_SIZE + index * LAYER_SIZE + field]


@device
def number(parameters, field):
    """A hyper-parameter."""
    return ptx.ld_global_f64(parameters + 8 * (N_ADDRESSES + field))


@device
def address(parameters, field):
    """Where an array starts in global memory."""
    return ptx.ld_global_s64(parameters + 8 * field)


@device
def share_of(index, rank):
    """How many of a hidden layer's units a block has."""
    share = get(index, SHARE)
    count = get(index, N_OUTPUTS) - rank * share
    return max(0, min(share, count))


@device
def prepare(parameters):
    """Clear the shared memory, since what pads it must be zero, and bring the table."""
    words = cuda.shared.array(0, int32)
    thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    for i in range(thread, ptx.ld_global_s64(parameters + 8 * (TABLE + USED)), n_threads):
        words[i] = 0
    cuda.syncthreads()
    n_words = HEAD_SIZE + ptx.ld_global_s64(parameters + 8 * (TABLE + N_LAYERS)) * LAYER_SIZE
    for i in range(thread, n_words, n_threads):
        words[i] = int32(ptx.ld_global_s64(parameters + 8 * (TABLE + i)))
    cuda.syncthreads()


@device
def move(flat, place, stores):
    """One parameter from global memory to shared memory, or back."""
    values = cuda.shared.array(0, float32)
    if stores:
        ptx.st_global_f32(flat, values[place])
    else:
        values[place] = ptx.ld_global_f32(flat)


@device
def move_layer(flat, copy, index, rank, stores):
    """Bring a block's share of a layer's parameters, or of one of their moments, in or out."""
    thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    n_outputs = get(index, N_OUTPUTS)
    is_output = index == cuda.shared.array(0, int32)[N_LAYERS] - 1
    first = 0 if is_output else rank * get(index, SHARE)
    count = n_outputs if is_output else share_of(index, rank)
    weights, bias = flat + 4 * get(index, FLAT_WEIGHTS), flat + 4 * get(index, FLAT_BIAS)
    place = get(index, WEIGHTS) + copy * get(index, WEIGHTS_SIZE)
    if index == 0:
        stride = get(0, WEIGHT_STRIDE)
        for i in range(thread, get(0, N_INPUTS) * count, n_threads):
            feature, unit = i // count, i % count
            move(weights + 4 * (feature * n_outputs + first + unit),
                 place + unit * stride + feature, stores)  # fmt: skip
    else:
        before = 4 * rank * get(index, INPUT_SHARE) * n_outputs
        for i in range(thread, share_of(index - 1, rank) * n_outputs, n_threads):
            move(weights + before + 4 * i, place + i, stores)
    if not (stores and is_output and rank > 0):  # all blocks have the same
        place = get(index, BIAS) + copy * get(index, BIAS_SIZE)
        for i in range(thread, count, n_threads):
            move(bias + 4 * (first + i), place + i, stores)


@device
def copy_order(parameters, step):
    """Start the copies of a step's order and numbers."""
    words = cuda.shared.array(0, int32)
    base, thread = ptx.shared_address(words, 0), cuda.threadIdx.x
    slot, batch_size = step % 3, words[BATCH_SIZE]
    n_rows = words[TILE_SIZE] // words[TILE_STRIDE]
    source = address(parameters, ORDER) + 4 * int64(step) * batch_size
    for row in range(thread, batch_size, cuda.blockDim.x):
        ptx.cp_async_4(base + 4 * (words[ORDERS] + slot * n_rows + row), source + 4 * row)
    if thread < 2:
        source = address(parameters, STEP_TABLE) + 8 * TABLE_WIDTH * int64(step)
        place = words[TABLES] + 2 * TABLE_WIDTH * slot + 4 * thread
        ptx.cp_async_16(base + 4 * place, source + 16 * thread)


@device
def copy_batch(parameters, step):
    """Start the copies of a step's rows, and of the order of the step after it.

    Where a batch is short its first row stands for the others; their δ will be zero.
    """
    words = cuda.shared.array(0, int32)
    base, thread, n_threads = ptx.shared_address(words, 0), cuda.threadIdx.x, cuda.blockDim.x
    slot, chunks, n_targets = step & 1, words[ROW_CHUNKS], words[N_TARGETS]
    n_rows = words[TILE_SIZE] // words[TILE_STRIDE]
    used, order = int32(step_number(step, ROWS)), words[ORDERS] + step % 3 * n_rows
    source = address(parameters, X_ROWS)
    for row in range(thread >> 5, n_rows, n_threads >> 5):
        start = source + 16 * chunks * int64(words[order + (row if row < used else 0)])
        place = words[TILES] + slot * words[TILE_SIZE] + row * words[TILE_STRIDE]
        for chunk in range(thread & 31, chunks, 32):
            ptx.cp_async_16(base + 4 * (place + 4 * chunk), start + 16 * chunk)
    targets, weights = address(parameters, TARGET_ROWS), address(parameters, WEIGHT_ROWS)
    for row in range(thread, used, n_threads):
        index = int64(words[order + row])
        place = words[TARGETS] + (slot * n_rows + row) * n_targets
        for i in range(n_targets):
            ptx.cp_async_4(base + 4 * (place + i), targets + 4 * (index * n_targets + i))
        if words[HAS_WEIGHTS]:
            place = words[SAMPLE_WEIGHTS] + 2 * (slot * n_rows + row)
            ptx.cp_async_8(base + 4 * place, weights + 8 * index)
    if step + 1 < words[N_STEPS]:
        copy_order(parameters, step + 1)
    ptx.cp_async_commit()


@device
def step_number(step, column):
    """A number of a step, from the epoch's table."""
    words, doubles = cuda.shared.array(0, int32), cuda.shared.array(0, float64)
    return doubles[words[TABLES] // 2 + step % 3 * TABLE_WIDTH + column]


def make_first_values(shape):
    """Add up the first layer's logits of all warps, and activate them."""
    half, n_units, n_rows = shape.warps // 2, 8 * shape.unit_tiles, 16 * shape.row_tiles

    @device
    def first_values(rank, scale):
        words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
        stride, code = words[ROW_STRIDE], get(0, ACTIVATION)
        for i in range(cuda.threadIdx.x, share_of(0, rank) * n_rows, cuda.blockDim.x):
            unit, row = i // n_rows, i % n_rows
            total = float32(0)
            for warp in range(half):
                total += values[words[SCRATCH] + (warp * n_units + unit) * stride + row]
            total = scale * total + values[get(0, BIAS) + unit]
            values[get(0, VALUES) + unit * stride + row] = activate(code, total)
        cuda.syncthreads()

    return first_values


@device
def own_products(index, rank, slot):
    """A later layer's sums over the block's own units, for the other blocks to add up."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    stride, n_outputs = words[ROW_STRIDE], get(index, N_OUTPUTS)
    n_rows, n_inputs = words[TILE_SIZE] // words[TILE_STRIDE], share_of(index - 1, rank)
    inputs, weights = get(index - 1, VALUES), get(index, WEIGHTS)
    sums = get(index, SUMS) + slot * get(index, SUMS_SIZE)
    for i in range(cuda.threadIdx.x, n_outputs * n_rows, cuda.blockDim.x):
        unit, row = i // n_rows, i % n_rows
        total = float32(0)
        for k in range(n_inputs):
            total += values[inputs + k * stride + row] * values[weights + k * n_outputs + unit]
        values[sums + unit * stride + row] = total


@device
def sum_of_blocks(place):
    """The sum of the numbers that all blocks have at one place, in the order of their ranks."""
    words = cuda.shared.array(0, int32)
    own, total = ptx.shared_address(words, place), float32(0)
    for rank in range(cuda.gridDim.x):
        total += ptx.ld_cluster_f32(ptx.map_shared(own, uint32(rank)))
    return total


@device
def later_values(index, rank, slot):
    """A later layer's values: of the block's own units, or the logits of all outputs."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    stride, n_rows = words[ROW_STRIDE], words[TILE_SIZE] // words[TILE_STRIDE]
    is_output = index == words[N_LAYERS] - 1
    first = 0 if is_output else rank * get(index, SHARE)
    count = get(index, N_OUTPUTS) if is_output else share_of(index, rank)
    sums = get(index, SUMS) + slot * get(index, SUMS_SIZE) + first * stride
    place, code = words[ERRORS] if is_output else get(index, VALUES), get(index, ACTIVATION)
    for i in range(cuda.threadIdx.x, count * n_rows, cuda.blockDim.x):
        unit, row = i // n_rows, i % n_rows
        total = sum_of_blocks(sums + unit * stride + row) + values[get(index, BIAS) + unit]
        if not (is_output and code == SOFTMAX):
            total = activate(code, total)
        values[place + unit * stride + row] = total
    cuda.syncthreads()


@device
def exponentials_of_logits():
    """The numerators of softmax, shifted by each row's largest logit so that nothing overflows."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    stride, n_rows = words[ROW_STRIDE], words[TILE_SIZE] // words[TILE_STRIDE]
    n_outputs = get(words[N_LAYERS] - 1, N_OUTPUTS)
    for i in range(cuda.threadIdx.x, n_outputs * n_rows, cuda.blockDim.x):
        logits = words[ERRORS] + i % n_rows
        largest = values[logits]
        for unit in range(1, n_outputs):
            logit = values[logits + unit * stride]
            largest = logit if logit > largest else largest
        place = i // n_rows * stride
        values[words[EXPONENTIALS] + i % n_rows + place] = exponential(
            values[logits + place] - largest
        )
    cuda.syncthreads()


@device
def target_of(slot, row, unit):
    """What an output should have been."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    n_rows, n_targets = words[TILE_SIZE] // words[TILE_STRIDE], words[N_TARGETS]
    place = words[TARGETS] + (slot * n_rows + row) * n_targets
    return values[place + unit]


@device
def output_errors(parameters, step, rank, is_class):
    """δ in front of the output activation, by all blocks alike; returns losses, each row's once."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    doubles = cuda.shared.array(0, float64)
    stride, n_rows = words[ROW_STRIDE], words[TILE_SIZE] // words[TILE_STRIDE]
    slot, last, used = step & 1, words[N_LAYERS] - 1, int32(step_number(step, ROWS))
    n_outputs, code, loss = get(last, N_OUTPUTS), get(last, ACTIVATION), words[LOSS]
    eps, scale = float32(number(parameters, EPS)), number(parameters, LOSS_SCALE)
    losses = float64(0)
    for i in range(cuda.threadIdx.x, n_outputs * n_rows, cuda.blockDim.x):
        unit, row = i // n_rows, i % n_rows
        place = words[ERRORS] + unit * stride + row
        delta = float32(0)
        if row < used:
            output = values[place]
            if code == SOFTMAX:
                numerators, total = words[EXPONENTIALS] + row, float32(0)
                for k in range(n_outputs):
                    total += values[numerators + k * stride]
                output = values[numerators + unit * stride] / total
            if is_class:
                target = float32(1 if words[words[TARGETS] + slot * n_rows + row] == unit else 0)
            else:
                target = target_of(slot, row, unit)
            weight = float64(1)
            if words[HAS_WEIGHTS]:
                weight = doubles[words[SAMPLE_WEIGHTS] // 2 + slot * n_rows + row]
            if row % cuda.gridDim.x == rank:
                losses += float64(output_loss(loss, code, target, output, eps)) * weight * scale
            delta = output_delta(loss, code, target, output)
            delta *= float32(weight / step_number(step, WEIGHT))
        values[place] = delta
    cuda.syncthreads()
    return losses


def make_deltas(shape):
    """δ of the block's own units of the layer before one; zeros for what pads the first layer."""
    n_units, n_rows = 8 * shape.unit_tiles, 16 * shape.row_tiles

    @device
    def deltas(index, rank):
        words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
        stride, n_outputs, errors = words[ROW_STRIDE], get(index, N_OUTPUTS), words[ERRORS]
        code, count = get(index - 1, ACTIVATION), share_of(index - 1, rank)
        n_places = n_units if index == 1 else count
        for i in range(cuda.threadIdx.x, n_places * n_rows, cuda.blockDim.x):
            unit, row = i // n_rows, i % n_rows
            place, delta = unit * stride + row, float32(0)
            if unit < count:
                weights = get(index, WEIGHTS) + unit * n_outputs
                for k in range(n_outputs):
                    delta += values[errors + k * stride + row] * values[weights + k]
                delta = activate_backward(code, delta, values[get(index - 1, VALUES) + place])
            values[get(index - 1, DELTAS) + place] = delta
        cuda.syncthreads()

    return deltas


@device
def gather_deltas(index):
    """All units' δ of a hidden layer, from the blocks that have computed them."""
    words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
    stride, n_rows = words[ROW_STRIDE], words[TILE_SIZE] // words[TILE_STRIDE]
    share, deltas = get(index, SHARE), get(index, DELTAS)
    for i in range(cuda.threadIdx.x, get(index, N_OUTPUTS) * n_rows, cuda.blockDim.x):
        unit, row = i // n_rows, i % n_rows
        own = ptx.shared_address(words, deltas + unit % share * stride + row)
        values[words[ERRORS] + unit * stride + row] = ptx.ld_cluster_f32(
            ptx.map_shared(own, uint32(unit // share))
        )
    cuda.syncthreads()


@device
def sum_over_rows(left, right):
    """Σ left right over the rows from two places on; Σ right where the places are the same."""
    words = cuda.shared.array(0, int32)
    base, n_rows = ptx.shared_address(words, 0), words[TILE_SIZE] // words[TILE_STRIDE]
    s0, s1, s2, s3 = float32(0), float32(0), float32(0), float32(0)
    for row in range(0, n_rows, 4):
        a0, a1, a2, a3 = ptx.ld_shared_v4_f32(base + 4 * (right + row))
        if left != right:
            b0, b1, b2, b3 = ptx.ld_shared_v4_f32(base + 4 * (left + row))
            a0, a1, a2, a3 = a0 * b0, a1 * b1, a2 * b2, a3 * b3
        s0, s1, s2, s3 = s0 + a0, s1 + a1, s2 + a2, s3 + a3
    return (s0 + s1) + (s2 + s3)


def make_small_update(rule):
    """Updates of a later layer's weights and of biases, by the threads with the largest numbers:
    the others have more to do at the first layer."""

    @device
    def update_one(place, size, slope, rate, momentum, beta_1, beta_2, epsilon):
        values = cuda.shared.array(0, float32)
        second = values[place + 2 * size] if rule == ADAM else float32(0)
        values[place], values[place + size], second = update(
            rule, values[place], slope, values[place + size], second,
            rate, momentum, beta_1, beta_2, epsilon,
        )  # fmt: skip
        if rule == ADAM:
            values[place + 2 * size] = second

    @device
    def update_weights(index, rank, decay, rate, momentum, beta_1, beta_2, epsilon):
        words, values = cuda.shared.array(0, int32), cuda.shared.array(0, float32)
        stride, n_outputs, squares = words[ROW_STRIDE], get(index, N_OUTPUTS), float32(0)
        n_weights, n_threads = share_of(index - 1, rank) * n_outputs, cuda.blockDim.x
        for i in range(n_threads - 1 - cuda.threadIdx.x, n_weights, n_threads):
            unit, output = i // n_outputs, i % n_outputs
            slope = sum_over_rows(
                get(index - 1, VALUES) + unit * stride, words[ERRORS] + output * stride
            )
            place = get(index, WEIGHTS) + i
            weight = values[place]
            squares += weight * weight
            update_one(place, get(index, WEIGHTS_SIZE), slope + decay * weight,
                       rate, momentum, beta_1, beta_2, epsilon)  # fmt: skip
        return squares

    @device
    def update_biases(index, rank, rate, momentum, beta_1, beta_2, epsilon):
        words = cuda.shared.array(0, int32)
        is_output = index == words[N_LAYERS] - 1
        count = get(index, N_OUTPUTS) if is_output else share_of(index, rank)
        deltas, stride = words[ERRORS] if is_output else get(index, DELTAS), words[ROW_STRIDE]
        n_threads = cuda.blockDim.x
        for i in range(n_threads - 1 - cuda.threadIdx.x, count, n_threads):
            place = deltas + i * stride
            update_one(get(index, BIAS) + i, get(index, BIAS_SIZE), sum_over_rows(place, place),
                       rate, momentum, beta_1, beta_2, epsilon)  # fmt: skip

    return update_weights, update_biases


@cache
def make_kernel(shape):
    """The kernel for a shape: function of the address of addresses, numbers and the table.

    Parameters
    ----------
    shape : Shape

    Returns
    -------
    kernel : function
        To be compiled for `SIGNATURE` and launched as one cluster of `shape.cluster` blocks of
        32 `shape.warps` threads.
    """
    forward, gradient, deltas = make_forward(shape), make_gradient(shape), make_deltas(shape)
    first_values = make_first_values(shape)
    update_weights, update_biases = make_small_update(shape.rule)
    copies = 3 if shape.rule == ADAM else 2

    def train_on_cluster(parameters):
        words = cuda.shared.array(0, int32)
        rank = int32(ptx.cluster_rank())
        prepare(parameters)
        n_layers, n_steps = words[N_LAYERS], words[N_STEPS]
        for index in range(n_layers):
            for copy in range(copies):
                move_layer(address(parameters, PARAMETERS + copy), copy, index, rank, False)
        momentum, epsilon = float32(number(parameters, MOMENTUM)), float32(number(parameters, EPSILON))
        beta_1, beta_2 = float32(number(parameters, BETA_1)), float32(number(parameters, BETA_2))
        scale, half_alpha = float32(number(parameters, INPUT_SCALE)), 0.5 * number(parameters, ALPHA)
        is_softmax = get(n_layers - 1, ACTIVATION) == SOFTMAX
        is_class = words[IS_CLASS] == 1
        loss = float64(0)
        copy_order(parameters, 0)
        ptx.cp_async_commit()
        ptx.cp_async_wait_0()
        cuda.syncthreads()
        copy_batch(parameters, 0)
        for step in range(n_steps):
            ptx.cp_async_wait_0()
            cuda.syncthreads()
            if step + 1 < n_steps:
                copy_batch(parameters, step + 1)
            if step_number(step, WEIGHT) == 0:
                continue
            slot = step & 1
            forward(slot)
            first_values(rank, scale)
            for index in range(1, n_layers):
                own_products(index, rank, slot)
                ptx.cluster_arrive()
                ptx.cluster_wait()
                later_values(index, rank, slot)
            if is_softmax:
                exponentials_of_logits()
            loss += output_errors(parameters, step, rank, is_class)
            rate, decay = float32(step_number(step, RATE)), float32(step_number(step, DECAY))
            squares = float32(0)
            for index in range(n_layers - 1, 0, -1):
                deltas(index, rank)
                squares += update_weights(
                    index, rank, decay, rate, momentum, beta_1, beta_2, epsilon
                )
                update_biases(index, rank, rate, momentum, beta_1, beta_2, epsilon)
                if index > 1:
                    ptx.cluster_arrive()
                    ptx.cluster_wait()
                    gather_deltas(index - 1)
            update_biases(0, rank, rate, momentum, beta_1, beta_2, epsilon)
            squares += gradient(
                slot, share_of(0, rank), scale, decay, rate, momentum, beta_1, beta_2, epsilon
            )
            loss += half_alpha * float64(squares)
        cuda.syncthreads()
        for index in range(n_layers):
            for copy in range(copies):
                move_layer(address(parameters, PARAMETERS + copy), copy, index, rank, True)
        place = rank * cuda.blockDim.x + cuda.threadIdx.x
        ptx.st_global_f64(address(parameters, LOSSES) + 8 * place, loss)
        ptx.cluster_arrive()  # nobody leaves while others may read its memory
        ptx.cluster_wait()

    return train_on_cluster


SIGNATURE = (types.int64,)
