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
    update,
)
from fastbp.cuda.small.placement import (
    ACTIVATION,
    FAN_IN,
    FAN_OUT,
    LDA,
    LDD,
    LDW,
    PARAMETERS,
    RULE,
    A,
    D,
    W,
)
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda, is_simulated

# ---- access ---------------------------------------------------------------------------------

if is_simulated():

    def at(index):
        return int(index)

    far = at

    def first_address(memory):
        return 0

    @cuda.jit(device=True)
    def load4(memory, base, index):
        return memory[index], memory[index + 1], memory[index + 2], memory[index + 3]

    @cuda.jit(device=True)
    def store4(memory, base, index, v0, v1, v2, v3):
        memory[index], memory[index + 1] = v0, v1
        memory[index + 2], memory[index + 3] = v2, v3

    @cuda.jit(device=True)
    def copy(memory, base, index, array, source):
        memory[index] = array[source]

    @cuda.jit(device=True)
    def wait_for_copies():
        pass

else:
    at, far = uint32, uint64  # unsigned indices are not looked at for being negative

    @cuda.jit(device=True)
    def first_address(memory):
        return ptx.shared_address(memory, 0)

    @cuda.jit(device=True)
    def load4(memory, base, index):
        """Four numbers of shared memory, from a multiple of four on."""
        return ptx.ld_shared_v4_f32(uint32(base + uint32(4) * uint32(index)))

    @cuda.jit(device=True)
    def store4(memory, base, index, v0, v1, v2, v3):
        ptx.st_shared_v4_f32(uint32(base + uint32(4) * uint32(index)), v0, v1, v2, v3)

    @cuda.jit(device=True)
    def copy(memory, base, index, array, source):
        """Copy a number from global to shared memory in the background."""
        ptx.cp_async_4(
            uint32(base + uint32(4) * uint32(index)), ptx.global_address(array, int64(source))
        )

    @cuda.jit(device=True)
    def wait_for_copies():
        ptx.cp_async_commit()
        ptx.cp_async_wait_0()


@cuda.jit(device=True)
def n_vectors_of(ints):
    """Vectors of the parameters' size: the parameters and their moments."""
    return 3 if ints[RULE] == ADAM else 2


@cuda.jit(device=True)
def quotient(number, divisor):
    """number // divisor where none is negative: a GPU divides by 64 bits in a hundred steps."""
    return int32(uint32(number) // uint32(divisor))


# ---- products -------------------------------------------------------------------------------


@cuda.jit(device=True)
def finish_units(memory, base, index, column, n_units, is_hidden, code, z0, z1, z2, z3):
    """Activate and store four units of a row; behind the last one of a hidden layer is a one."""
    one, zero = float32(1), float32(0)
    behind = one if is_hidden else zero
    if is_hidden:
        z0, z1 = activate(code, z0), activate(code, z1)
        z2, z3 = activate(code, z2), activate(code, z3)
    v1 = z1 if column + 1 < n_units else (behind if column + 1 == n_units else zero)
    v2 = z2 if column + 2 < n_units else (behind if column + 2 == n_units else zero)
    v3 = z3 if column + 3 < n_units else (behind if column + 3 == n_units else zero)
    store4(memory, base, index, z0, v1, v2, v3)


@cuda.jit(device=True)
def forward(memory, base, ints, layer, inputs, out, ld_out, is_hidden, rows, rank, size):
    """Inputs times weights, activated if hidden: 4 rows × 4 units a thread, or 1 × 4 of few."""
    lda, w, ldw = ints[at(layer + LDA)], ints[at(layer + W)], ints[at(layer + LDW)]
    n_units, length, code = (
        ints[at(layer + FAN_OUT)],
        ints[at(layer + FAN_IN)] + 1,
        ints[at(layer + ACTIVATION)],
    )
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
                p[0], p[1], p[2], p[3] = load4(memory, base, inputs + row * lda + k)
                for j in range(4):
                    q0, q1, q2, q3 = load4(memory, base, w + (k + j) * ldw + column)
                    z[0] += p[j] * q0
                    z[1] += p[j] * q1
                    z[2] += p[j] * q2
                    z[3] += p[j] * q3
            finish_units(
                memory, base, out + row * ld_out + column, column, n_units, is_hidden, code,
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
                    memory, base, inputs + (row + i) * lda + k
                )
            for j in range(4):
                q0, q1, q2, q3 = load4(memory, base, w + (k + j) * ldw + column)
                for i in range(4):
                    z[4 * i] += p[4 * i + j] * q0
                    z[4 * i + 1] += p[4 * i + j] * q1
                    z[4 * i + 2] += p[4 * i + j] * q2
                    z[4 * i + 3] += p[4 * i + j] * q3
        for i in range(4):
            finish_units(
                memory, base, out + (row + i) * ld_out + column, column, n_units, is_hidden, code,
                z[4 * i], z[4 * i + 1], z[4 * i + 2], z[4 * i + 3],
            )  # fmt: skip
        task += size


@cuda.jit(device=True)
def backward(memory, base, ints, layer, below, rows, rank, size):
    """δ behind the layer below from δ behind this one, times f′: 4 rows × 4 units a thread.

    A thread's units lie `groups` apart, so that neighbours read neighbouring rows of the weights.
    """
    lda, w, ldw, d, ldd = (
        ints[at(layer + LDA)],
        ints[at(layer + W)],
        ints[at(layer + LDW)],
        ints[at(layer + D)],
        ints[at(layer + LDD)],
    )
    n_units, length, inputs = (
        ints[at(layer + FAN_IN)],
        ints[at(layer + FAN_OUT)],
        ints[at(layer + A)],
    )
    out, ld_out, code = ints[at(below + D)], ints[at(below + LDD)], ints[at(below + ACTIVATION)]
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
                    memory, base, d + (row + i) * ldd + k
                )
            for j in range(4):
                q0, q1, q2, q3 = load4(memory, base, w + (unit + j * groups) * ldw + k)
                for i in range(4):
                    z[4 * i + j] += p[4 * i] * q0
                    z[4 * i + j] += p[4 * i + 1] * q1
                    z[4 * i + j] += p[4 * i + 2] * q2
                    z[4 * i + j] += p[4 * i + 3] * q3
        for j in range(4):
            column = unit + j * groups
            if column < n_units:
                for i in range(4):
                    h = memory[at(inputs + (row + i) * lda + column)]
                    delta = activate_backward(code, z[4 * i + j], h)
                    memory[at(out + (row + i) * ld_out + column)] = delta
        task += size


@cuda.jit(device=True)
def update_four(memory, base, step, index, stride, rule, is_bias, n_units, g0, g1, g2, g3):
    """Update four weights of a row by their summed gradients; return their squares' sum.

    `step` is where the numbers of the update begin. Padding stays zero.
    """
    inverse, decay, rate, momentum = load4(memory, base, step)
    beta_1, beta_2, epsilon, _ = load4(memory, base, step + 4)
    w0, w1, w2, w3 = load4(memory, base, index)
    a0, a1, a2, a3 = load4(memory, base, index + stride)
    b0 = b1 = b2 = b3 = float32(0)
    if rule == ADAM:
        b0, b1, b2, b3 = load4(memory, base, index + 2 * stride)
    if is_bias:
        decay = float32(0)
    squares = w0 * w0 + w1 * w1 + w2 * w2 + w3 * w3
    w0, a0, b0 = update(
        rule, w0, g0 * inverse + decay * w0, a0, b0, rate, momentum, beta_1, beta_2, epsilon
    )
    zero = float32(0)
    if n_units > 1:
        w1, a1, b1 = update(
            rule, w1, g1 * inverse + decay * w1, a1, b1, rate, momentum, beta_1, beta_2, epsilon
        )
    if n_units > 2:
        w2, a2, b2 = update(
            rule, w2, g2 * inverse + decay * w2, a2, b2, rate, momentum, beta_1, beta_2, epsilon
        )
    if n_units > 3:
        w3, a3, b3 = update(
            rule, w3, g3 * inverse + decay * w3, a3, b3, rate, momentum, beta_1, beta_2, epsilon
        )
    store4(memory, base, index, w0, w1, w2, w3)
    store4(memory, base, index + stride, a0, a1, a2, a3)
    if rule == ADAM:
        store4(memory, base, index + 2 * stride, b0, b1, b2, b3)
    return zero if is_bias else squares


@cuda.jit(device=True)
def gradients(memory, base, ints, layer, inputs, step, is_first, is_last, rows, first, size):
    """Inputs times δ over the chunk's rows, and the update: 4 × 4 weights a thread.

    `first` is this thread's first task. Returns the squares of the weights that it updated.
    """
    lda, w, ldw, d, ldd = (
        ints[at(layer + LDA)],
        ints[at(layer + W)],
        ints[at(layer + LDW)],
        ints[at(layer + D)],
        ints[at(layer + LDD)],
    )
    n_rows, n_units = ints[at(layer + FAN_IN)] + 1, ints[at(layer + FAN_OUT)]
    rule, stride = ints[RULE], ints[PARAMETERS]
    waiting = n_vectors_of(ints) * stride  # what the chunks before have summed up
    groups = (n_units + 3) // 4
    z = cuda.local.array(16, float32)
    squares = float32(0)
    task = first
    while task < (n_rows + 3) // 4 * groups:
        row = quotient(task, groups)
        row, column = row * 4, (task - row * groups) * 4
        for i in range(16):
            z[i] = float32(0)
        for sample in range(rows):
            p0, p1, p2, p3 = load4(memory, base, inputs + sample * lda + row)
            q0, q1, q2, q3 = load4(memory, base, d + sample * ldd + column)
            z[0] += p0 * q0
            z[1] += p0 * q1
            z[2] += p0 * q2
            z[3] += p0 * q3
            z[4] += p1 * q0
            z[5] += p1 * q1
            z[6] += p1 * q2
            z[7] += p1 * q3
            z[8] += p2 * q0
            z[9] += p2 * q1
            z[10] += p2 * q2
            z[11] += p2 * q3
            z[12] += p3 * q0
            z[13] += p3 * q1
            z[14] += p3 * q2
            z[15] += p3 * q3
        for i in range(4):
            if row + i < n_rows:
                index = w + (row + i) * ldw + column
                g0, g1, g2, g3 = z[4 * i], z[4 * i + 1], z[4 * i + 2], z[4 * i + 3]
                if not is_first:
                    s0, s1, s2, s3 = load4(memory, base, index + waiting)
                    g0, g1, g2, g3 = g0 + s0, g1 + s1, g2 + s2, g3 + s3
                if is_last:
                    squares += update_four(
                        memory, base, step, index, stride, rule, row + i == n_rows - 1,
                        n_units - column, g0, g1, g2, g3,
                    )  # fmt: skip
                else:
                    store4(memory, base, index + waiting, g0, g1, g2, g3)
        task += size
    return squares
