"""Products over small networks in shared memory, by the threads of a block.

A thread computes 4 × 4 numbers of a product at once, 16 multiply-adds for every two vectors that
it loads: neighbours in a warp share rows or columns, which a load then broadcasts.
`fastbp.cuda.small.placement` says where all lies.
"""

from numba import float32, int32, int64, uint32, uint64

from fastbp.cuda import ptx
from fastbp.cuda.formulas import (
    activate,
    activate_backward,
    device_function,
    has_second_moment,
    make_update,
)
from fastbp.cuda.small.placement import (
    INVERSE,
    LAYER_WIDTH,
    N_SHARED,
    PARAMETERS,
    RULE,
    STEP,
    BlockLayer,
)
from fastbp.cuda.toolkit import cuda, is_simulated
from fastbp.schedules import PENALTY, SHRINKAGE

# ---- access ---------------------------------------------------------------------------------

if is_simulated():

    def at(index):
        return int(index)

    far = at

    def first_address(memory):
        return 0

    @device_function
    def load4(memory, base, index):
        return memory[index], memory[index + 1], memory[index + 2], memory[index + 3]

    @device_function
    def store4(memory, base, index, v0, v1, v2, v3):
        memory[index], memory[index + 1] = v0, v1
        memory[index + 2], memory[index + 3] = v2, v3

    @device_function
    def copy(memory, base, index, array, source):
        memory[index] = array[source]

    @device_function
    def wait_for_copies():
        pass

else:
    at, far = uint32, uint64  # unsigned indices are not looked at for being negative

    @device_function
    def first_address(memory):
        return ptx.shared_address(memory, 0)

    @device_function
    def load4(memory, base, index):
        """Four numbers of shared memory, from a multiple of four on."""
        return ptx.ld_shared_v4_f32(uint32(base + uint32(4) * uint32(index)))

    @device_function
    def store4(memory, base, index, v0, v1, v2, v3):
        ptx.st_shared_v4_f32(uint32(base + uint32(4) * uint32(index)), v0, v1, v2, v3)

    @device_function
    def copy(memory, base, index, array, source):
        """Copy a number from global to shared memory in the background."""
        ptx.cp_async_4(
            uint32(base + uint32(4) * uint32(index)), ptx.global_address(array, int64(source))
        )

    @device_function
    def wait_for_copies():
        ptx.cp_async_commit()
        ptx.cp_async_wait_0()


@device_function
def n_vectors_of(ints):
    """Vectors of the parameters' size: the parameters and their moments."""
    return 3 if has_second_moment(ints[RULE]) else 2


@device_function
def quotient(number, divisor):
    """number // divisor where none is negative: a GPU divides by 64 bits in a hundred steps."""
    return int32(uint32(number) // uint32(divisor))


@device_function
def layer_of(ints, index):
    """A layer's sizes and places, from the copy of the table in shared memory."""
    start = N_SHARED + index * LAYER_WIDTH
    return BlockLayer(
        ints[at(start)], ints[at(start + 1)], ints[at(start + 2)], ints[at(start + 3)],
        ints[at(start + 4)], ints[at(start + 5)], ints[at(start + 6)], ints[at(start + 7)],
        ints[at(start + 8)],
    )  # fmt: skip


# ---- products -------------------------------------------------------------------------------


@device_function
def finish_units(memory, base, index, column, n_units, is_hidden, code, z0, z1, z2, z3):
    """Activate and store four units of a row; a one follows the last one of a hidden layer."""
    one, zero = float32(1), float32(0)
    after = one if is_hidden else zero
    if is_hidden:
        z0, z1 = activate(code, z0), activate(code, z1)
        z2, z3 = activate(code, z2), activate(code, z3)
    v1 = z1 if column + 1 < n_units else (after if column + 1 == n_units else zero)
    v2 = z2 if column + 2 < n_units else (after if column + 2 == n_units else zero)
    v3 = z3 if column + 3 < n_units else (after if column + 3 == n_units else zero)
    store4(memory, base, index, z0, v1, v2, v3)


@device_function
def forward(memory, base, layer, inputs, out, out_stride, is_hidden, rows, rank, size):
    """Inputs times weights, activated if hidden: 4 rows × 4 units a thread, or 1 × 4 of few."""
    input_stride, weights, weight_stride = layer.input_stride, layer.weights, layer.weight_stride
    n_units, length, code = layer.fan_out, layer.fan_in + 1, layer.activation
    groups = (n_units + 3) // 4
    tasks = (rows + 3) // 4 * groups
    p = cuda.local.array(16, float32)
    z = cuda.local.array(16, float32)
    if tasks < size:  # the last of the four rows would leave most threads idle
        task = rank
        while task < rows * groups:
            row = quotient(task, groups)
            column = (task - row * groups) * 4
            z[0], z[1], z[2], z[3] = float32(0), float32(0), float32(0), float32(0)
            for k in range(0, length, 4):
                p[0], p[1], p[2], p[3] = load4(memory, base, inputs + row * input_stride + k)
                for j in range(4):
                    q0, q1, q2, q3 = load4(memory, base, weights + (k + j) * weight_stride + column)
                    z[0] += p[j] * q0
                    z[1] += p[j] * q1
                    z[2] += p[j] * q2
                    z[3] += p[j] * q3
            finish_units(
                memory, base, out + row * out_stride + column, column, n_units, is_hidden, code,
                z[0], z[1], z[2], z[3],
            )  # fmt: skip
            task += size
        return
    task = rank
    while task < tasks:
        row = quotient(task, groups)
        row, column = row * 4, (task - row * groups) * 4
        for i in range(16):
            z[i] = float32(0)
        for k in range(0, length, 4):
            for i in range(4):
                p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3] = load4(
                    memory, base, inputs + (row + i) * input_stride + k
                )
            for j in range(4):
                q0, q1, q2, q3 = load4(memory, base, weights + (k + j) * weight_stride + column)
                for i in range(4):
                    z[4 * i] += p[4 * i + j] * q0
                    z[4 * i + 1] += p[4 * i + j] * q1
                    z[4 * i + 2] += p[4 * i + j] * q2
                    z[4 * i + 3] += p[4 * i + j] * q3
        for i in range(4):
            finish_units(
                memory, base, out + (row + i) * out_stride + column, column, n_units, is_hidden,
                code, z[4 * i], z[4 * i + 1], z[4 * i + 2], z[4 * i + 3],
            )  # fmt: skip
        task += size


@device_function
def backward(memory, base, layer, below, rows, rank, size):
    """δ of the layer below from δ of this one, times f′: 4 rows × 4 units a thread.

    A thread's units lie `groups` apart, so that neighbours read neighbouring rows of the weights.
    """
    weights, weight_stride, input_stride = layer.weights, layer.weight_stride, layer.input_stride
    n_units, length, code = layer.fan_in, layer.fan_out, below.activation
    groups = (n_units + 3) // 4
    p = cuda.local.array(16, float32)
    z = cuda.local.array(16, float32)
    task = rank
    while task < (rows + 3) // 4 * groups:
        row = quotient(task, groups)
        row, unit = row * 4, task - row * groups
        for i in range(16):
            z[i] = float32(0)
        for k in range(0, length, 4):
            for i in range(4):
                p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3] = load4(
                    memory, base, layer.deltas + (row + i) * layer.delta_stride + k
                )
            for j in range(4):
                q0, q1, q2, q3 = load4(
                    memory, base, weights + (unit + j * groups) * weight_stride + k
                )
                for i in range(4):
                    z[4 * i + j] += p[4 * i] * q0
                    z[4 * i + j] += p[4 * i + 1] * q1
                    z[4 * i + j] += p[4 * i + 2] * q2
                    z[4 * i + j] += p[4 * i + 3] * q3
        for j in range(4):
            column = unit + j * groups
            if column < n_units:
                for i in range(4):
                    h = memory[at(layer.inputs + (row + i) * input_stride + column)]
                    delta = activate_backward(code, z[4 * i + j], h)
                    memory[at(below.deltas + (row + i) * below.delta_stride + column)] = delta
        task += size


@device_function
def _number(memory, start, column):
    """A number of the next update."""
    return memory[at(start + column)]


_update = make_update(_number)


@device_function
def update_four(memory, base, step, index, stride, rule, is_bias, n_units, g):
    """Update four weights of a row by their summed gradients `g`; return their squares' sum.

    `step` is where the numbers of the update begin. Padding stays zero.
    """
    inverse, numbers = memory[at(step + INVERSE)], step + STEP
    penalty, shrinkage = memory[at(numbers + PENALTY)], memory[at(numbers + SHRINKAGE)]
    has_second = has_second_moment(rule)
    w = cuda.local.array(4, float32)
    m = cuda.local.array(4, float32)
    v = cuda.local.array(4, float32)
    w[0], w[1], w[2], w[3] = load4(memory, base, index)
    m[0], m[1], m[2], m[3] = load4(memory, base, index + stride)
    if has_second:
        v[0], v[1], v[2], v[3] = load4(memory, base, index + 2 * stride)
    if is_bias:
        penalty = shrinkage = float32(0)
    squares = float32(0)
    for j in range(4):
        squares += w[j] * w[j]
        if j < n_units:
            w[j], m[j], v[j] = _update(
                rule, w[j], g[j] * inverse + penalty * w[j], m[j], v[j], memory, numbers, shrinkage
            )
    store4(memory, base, index, w[0], w[1], w[2], w[3])
    store4(memory, base, index + stride, m[0], m[1], m[2], m[3])
    if has_second:
        store4(memory, base, index + 2 * stride, v[0], v[1], v[2], v[3])
    return float32(0) if is_bias else squares


@device_function
def gradients(memory, base, ints, layer, inputs, step, is_first, is_last, rows, first, size):
    """Inputs times δ over the chunk's rows, and the update: 4 × 4 weights a thread.

    `first` is this thread's first task. Returns the squares of the weights that it updated.
    """
    n_rows, n_units = layer.fan_in + 1, layer.fan_out
    rule, stride = ints[RULE], ints[PARAMETERS]
    waiting = n_vectors_of(ints) * stride  # what the chunks before have summed up
    groups = (n_units + 3) // 4
    z = cuda.local.array(16, float32)
    p = cuda.local.array(4, float32)
    g = cuda.local.array(4, float32)
    squares = float32(0)
    task = first
    while task < (n_rows + 3) // 4 * groups:
        row = quotient(task, groups)
        row, column = row * 4, (task - row * groups) * 4
        for i in range(16):
            z[i] = float32(0)
        for sample in range(rows):
            p[0], p[1], p[2], p[3] = load4(memory, base, inputs + sample * layer.input_stride + row)
            g[0], g[1], g[2], g[3] = load4(
                memory, base, layer.deltas + sample * layer.delta_stride + column
            )
            for i in range(4):
                for j in range(4):
                    z[4 * i + j] += p[i] * g[j]
        for i in range(4):
            if row + i < n_rows:
                index = layer.weights + (row + i) * layer.weight_stride + column
                for j in range(4):
                    g[j] = z[j]
                if not is_first:
                    p[0], p[1], p[2], p[3] = load4(memory, base, index + waiting)
                    for j in range(4):
                        g[j] += p[j]
                if is_last:
                    squares += update_four(
                        memory, base, step, index, stride, rule, row + i == n_rows - 1,
                        n_units - column, g,
                    )  # fmt: skip
                else:
                    store4(memory, base, index + waiting, g[0], g[1], g[2], g[3])
            # With all rules in it this loop is not unrolled, and no index into registers varies.
            for j in range(12):
                z[j] = z[j + 4]
        task += size
    return squares
