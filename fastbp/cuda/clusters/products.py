"""The first layer's products on tensor cores, for the cluster's kernel.

A float32 is the sum of three bfloat16 of eight bits each, exactly, and a byte of X is one bfloat16.
So products of their terms, added up in float32, are those of float32. With two terms a number has
16 bits (tf32 has 11), with one it is a bfloat16.

Which feature a fragment's place stands for is free, as long as both factors agree. It is chosen so
that a lane reads four neighbouring features of a row at once, and so that lanes do not wait for
each other at a bank (`cluster_layout.without_conflicts`). g = lane // 4, t = lane % 4 as in `ptx`.
"""

from numba import float32, uint32

from fastbp.cuda import ptx
from fastbp.cuda.clusters import layout as at
from fastbp.cuda.clusters.memory import get, load, shared_place, store
from fastbp.cuda.formulas import device_function, update
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda

# Selectors of `ptx.byte_float`, for the bytes of a word, the lowest first.
FIRST_BYTE, SECOND_BYTE, THIRD_BYTE, FOURTH_BYTE = range(0x7650, 0x7654)


@device_function
def four_bytes(address):
    """Four neighbouring bytes as numbers."""
    word = ptx.ld_shared_u32(address)
    return (
        ptx.byte_float(word, uint32(FIRST_BYTE)),
        ptx.byte_float(word, uint32(SECOND_BYTE)),
        ptx.byte_float(word, uint32(THIRD_BYTE)),
        ptx.byte_float(word, uint32(FOURTH_BYTE)),
    )


@device_function
def four_floats(address):
    """Four neighbouring float32."""
    return ptx.ld_shared_v4_f32(address)


def input_reader(shape):
    """How X is read: (function, its terms, bytes of a number)."""
    if shape.input_size == 1:
        return four_bytes, 1, 1
    return four_floats, shape.terms, 4


def make_pack(terms, n_terms):
    """How the leading bits of two numbers become a register: function of (low, high, term).

    The last of three terms has eight bits left: cut off or rounded, it is the same. So has a byte's
    only one.
    """
    last = n_terms - 1 if terms < 3 else -1

    @device_function
    def pack(low, high, term):
        return ptx.pack_bf16(low, high) if term == last else ptx.truncate_bf16(low, high)

    return pack


@device_function
def reduce_four(a, b, c, d):
    """What is left of four numbers after a term."""
    return (
        ptx.bf16_remainder(a),
        ptx.bf16_remainder(b),
        ptx.bf16_remainder(c),
        ptx.bf16_remainder(d),
    )


def make_forward(shape):
    """A block's part of the first layer's logits from the rows in one of the two tiles.

    Warps share out the features, 16 at a time. Behind the function's last barrier, `SCRATCH` holds
    the sums of warps w and w + warps / 2 at [w][unit][row].
    """
    _, warps, row_tiles, unit_tiles, terms, *_ = shape
    half, n_units = shape.warps // 2, 8 * shape.unit_tiles
    read, input_terms, item = input_reader(shape)
    pack, pack_input = make_pack(terms, terms), make_pack(terms, input_terms)

    @device_function
    def forward(table, slot):
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        g, t = lane >> 2, lane & 3
        stride, row_bytes = get(table, 0, at.WEIGHT_STRIDE), 4 * table[at.TILE_STRIDE]
        weights = shared_place(get(table, 0, at.WEIGHTS) + g * stride + 4 * t)
        tile = shared_place(table[at.TILES] + slot * table[at.TILE_SIZE])
        inputs = tile + g * row_bytes + 4 * t * item
        sums = cuda.local.array((row_tiles, unit_tiles, 4), float32)
        right = cuda.local.array((unit_tiles, terms, 2), uint32)
        for m in range(row_tiles):
            for n in range(unit_tiles):
                for i in range(4):
                    sums[m, n, i] = float32(0)
        for step in range(warp, table[at.N_FEATURES] >> 4, warps):
            for n in range(unit_tiles):
                a, b, c, d = ptx.ld_shared_v4_f32(weights + 4 * (8 * n * stride + 16 * step))
                for j in range(terms):
                    right[n, j, 0], right[n, j, 1] = pack(a, b, j), pack(c, d, j)
                    a, b, c, d = reduce_four(a, b, c, d)
            for m in range(row_tiles):
                place = inputs + 16 * m * row_bytes + 16 * step * item
                a, b, c, d = read(place)
                e, f, p, q = read(place + 8 * row_bytes)
                for i in range(input_terms):
                    a0, a1 = pack_input(a, b, i), pack_input(e, f, i)
                    a2, a3 = pack_input(c, d, i), pack_input(p, q, i)
                    a, b, c, d = reduce_four(a, b, c, d)
                    e, f, p, q = reduce_four(e, f, p, q)
                    for n in range(unit_tiles):
                        for j in range(terms - i):  # the others are below a float32's last bit
                            sums[m, n, 0], sums[m, n, 1], sums[m, n, 2], sums[m, n, 3] = (
                                ptx.mma_bf16(
                                    a0, a1, a2, a3, right[n, j, 0], right[n, j, 1],
                                    sums[m, n, 0], sums[m, n, 1], sums[m, n, 2], sums[m, n, 3],
                                )
                            )  # fmt: skip

        # Half the warps leave their sums to the other half: that needs half the room.
        row_stride = table[at.ROW_STRIDE]
        start = table[at.SCRATCH] + ((warp % half) * n_units + 2 * t) * row_stride + g
        for turn in range(2):
            if (warp >= half) == (turn == 0):
                for m in range(row_tiles):
                    for n in range(unit_tiles):
                        for i in range(4):
                            unit, row = 8 * n + (i & 1), 16 * m + 8 * (i >> 1)
                            place = start + unit * row_stride + row
                            if turn == 1:
                                sums[m, n, i] += load(place)
                            store(place, sums[m, n, i])
            cuda.syncthreads()

    return forward


def make_gradient(shape):
    """The first layer's gradient from the rows in a tile and `DELTAS`, and the update.

    Warps share out the features, 32 at a time. Returns the sum of the squares of the weights that
    this thread has updated, as they were before.
    """
    _, warps, row_tiles, unit_tiles, terms, *_ = shape
    read, input_terms, item = input_reader(shape)
    pack, pack_input = make_pack(terms, terms), make_pack(terms, input_terms)
    update_four = make_update(shape.rule)

    @device_function
    def gradient(table, slot, count, scale, decay, numbers):
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        g, t = lane >> 2, lane & 3
        n_features, row_bytes = table[at.N_FEATURES], 4 * table[at.TILE_STRIDE]
        inputs = shared_place(table[at.TILES] + slot * table[at.TILE_SIZE]) + 2 * t * row_bytes
        right = cuda.local.array((row_tiles, unit_tiles, terms, 2), uint32)
        for m in range(row_tiles):
            for n in range(unit_tiles):
                place = get(table, 0, at.DELTAS) + (8 * n + g) * table[at.ROW_STRIDE]
                place += 16 * m + 2 * t
                a, b, c, d = load(place), load(place + 1), load(place + 8), load(place + 9)
                for j in range(terms):
                    right[m, n, j, 0], right[m, n, j, 1] = pack(a, b, j), pack(c, d, j)
                    a, b, c, d = reduce_four(a, b, c, d)
        sums = cuda.local.array((2, unit_tiles, 4), float32)
        x = cuda.local.array((4, 4), float32)  # rows 2t, 2t + 1, 2t + 8, 2t + 9; features
        squares = float32(0)
        for group in range(warp, (n_features + 31) >> 5, warps):
            feature = 32 * group + 4 * g
            for pair in range(2):
                for n in range(unit_tiles):
                    for i in range(4):
                        sums[pair, n, i] = float32(0)
            for m in range(row_tiles):
                for k in range(4):
                    for i in range(4):
                        x[k, i] = float32(0)
                if feature < n_features:
                    for k in range(4):
                        row = 16 * m + (k & 1) + 8 * (k >> 1)
                        x[k, 0], x[k, 1], x[k, 2], x[k, 3] = read(
                            inputs + row * row_bytes + feature * item
                        )
                for pair in range(2):
                    low, high = 2 * pair, 2 * pair + 1  # the features of rows g and g + 8 of A
                    for i in range(input_terms):
                        a0 = pack_input(x[0, low], x[1, low], i)
                        a1 = pack_input(x[0, high], x[1, high], i)
                        a2 = pack_input(x[2, low], x[3, low], i)
                        a3 = pack_input(x[2, high], x[3, high], i)
                        for k in range(4):
                            x[k, low] = ptx.bf16_remainder(x[k, low])
                            x[k, high] = ptx.bf16_remainder(x[k, high])
                        for n in range(unit_tiles):
                            for j in range(terms - i):
                                (
                                    sums[pair, n, 0], sums[pair, n, 1],
                                    sums[pair, n, 2], sums[pair, n, 3],
                                ) = ptx.mma_bf16(
                                    a0, a1, a2, a3, right[m, n, j, 0], right[m, n, j, 1],
                                    sums[pair, n, 0], sums[pair, n, 1],
                                    sums[pair, n, 2], sums[pair, n, 3],
                                )  # fmt: skip
            if feature < n_features:
                for n in range(unit_tiles):
                    for i in range(2):
                        unit = 8 * n + 2 * t + i
                        if unit < count:
                            squares += update_four(
                                table, unit, feature,
                                sums[0, n, i], sums[0, n, i + 2], sums[1, n, i], sums[1, n, i + 2],
                                scale, decay, numbers,
                            )  # fmt: skip
        return squares

    return gradient


def make_update(rule):
    """The update of one unit's weights of four features, as far as there are so many."""

    @device_function
    def update_four(table, unit, feature, g0, g1, g2, g3, scale, decay, numbers):
        address = shared_place(
            get(table, 0, at.WEIGHTS) + unit * get(table, 0, at.WEIGHT_STRIDE) + feature
        )
        size = 4 * get(table, 0, at.WEIGHTS_SIZE)
        slope, w = cuda.local.array(4, float32), cuda.local.array(4, float32)
        first, second = cuda.local.array(4, float32), cuda.local.array(4, float32)
        slope[0], slope[1], slope[2], slope[3] = g0, g1, g2, g3
        w[0], w[1], w[2], w[3] = ptx.ld_shared_v4_f32(address)
        first[0], first[1], first[2], first[3] = ptx.ld_shared_v4_f32(address + size)
        if rule == ADAM:
            second[0], second[1], second[2], second[3] = ptx.ld_shared_v4_f32(address + 2 * size)
        squares = float32(0)
        for i in range(4):
            if rule != ADAM:
                second[i] = float32(0)
            if feature + i < get(table, 0, at.N_INPUTS):
                squares += w[i] * w[i]
                w[i], first[i], second[i] = update(
                    rule, w[i], scale * slope[i] + decay * w[i], first[i], second[i], *numbers
                )
        ptx.st_shared_v4_f32(address, w[0], w[1], w[2], w[3])
        ptx.st_shared_v4_f32(address + size, first[0], first[1], first[2], first[3])
        if rule == ADAM:
            ptx.st_shared_v4_f32(address + 2 * size, second[0], second[1], second[2], second[3])
        return squares

    return update_four
