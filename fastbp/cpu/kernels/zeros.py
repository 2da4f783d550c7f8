"""Zeros in dense rows: tiles of the first layer skip the steps at which their left operand is zero.

Images have empty margins, and one-hot columns are nearly empty. A tile multiplies several rows at
once, or a gradient's several columns, and skips a step if all of these are zero there. What is
skipped would have added nothing: results are the same to the bit, unless weights are infinite, for
zero times those is NaN.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import address_of

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_ALL_ROWS = 2**TILE_ROWS - 1  # a bit for each row of a tile


@intrinsic
def find_occupied(typing_context, span, start, stride):
    """Find the rows and columns of a square of TILE_ROWS² numbers that are not all zero.

    Returns two sets of bits: that of the rows, shifted by TILE_ROWS, and that of the columns.
    """
    signature = types.int64(span, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        data = address_of(context, builder, signature.args[0], arguments[0], arguments[1])
        bits = ir.IntType(signature.args[0].dtype.bitwidth)
        vector, mask = ir.VectorType(bits, TILE_ROWS), ir.IntType(TILE_ROWS)
        zero = ir.Constant(vector, [0] * TILE_ROWS)

        def occupied(values):
            return builder.bitcast(builder.icmp_unsigned("!=", values, zero), mask)

        result, columns = _INT64(0), zero
        for row in range(TILE_ROWS):
            address = builder.gep(data, [builder.mul(_INT64(row), arguments[2])])
            values = builder.bitcast(address, vector.as_pointer())
            values = builder.load(values, align=bits.width // 8)
            columns = builder.or_(columns, values)
            flag = builder.icmp_unsigned("!=", occupied(values), mask(0))
            flag = builder.shl(builder.zext(flag, _INT64), _INT64(TILE_ROWS + row))
            result = builder.or_(result, flag)
        return builder.or_(result, builder.zext(occupied(columns), _INT64))

    return signature, codegen


def _positions(bits):
    """The positions of the set bits, padded with zeros to a list of TILE_ROWS numbers."""
    positions = [at for at in range(TILE_ROWS) if bits >> at & 1]
    return positions + [0] * (TILE_ROWS - len(positions))


@intrinsic
def append_positions(typing_context, numbers, end, base, bits):
    """Write the positions of a set's bits, plus `base`, past the end of a list of int32.

    `bits` are less than 2 ** TILE_ROWS, and TILE_ROWS numbers are written in any case. Returns the
    new end.
    """
    signature = types.intp(numbers, types.intp, types.intp, types.int64)

    def codegen(context, builder, signature, arguments):
        numbers, end, base, bits = arguments
        small, vector = (ir.VectorType(ir.IntType(n), TILE_ROWS) for n in (8, 32))
        table = [ir.Constant(small, _positions(bits)) for bits in range(2**TILE_ROWS)]
        table = ir.Constant(ir.ArrayType(small, len(table)), table)
        table = cgutils.global_constant(builder, "positions", table)
        positions = builder.load(builder.gep(table, [_INT64(0), bits]), align=TILE_ROWS)
        first = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(first, builder.trunc(base, _INT32), _INT32(0))
        same = ir.Constant(vector, [0] * TILE_ROWS)
        bases = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), same)
        target = address_of(context, builder, signature.args[0], numbers, end)
        target = builder.bitcast(target, vector.as_pointer())
        builder.store(builder.add(bases, builder.zext(positions, vector)), target, align=4)
        return builder.add(end, builder.ctpop(bits))

    return signature, codegen


@kernel
def column_tile(steps, column):
    """Index of the tile that starts at a column."""
    return (steps.n_rows + column) // TILE_ROWS


@kernel
def first_step(steps, tile):
    """Where the steps of a tile start in `steps.numbers`."""
    row_tiles = steps.n_rows // TILE_ROWS
    if tile < row_tiles:
        return tile * steps.n_columns
    return row_tiles * steps.n_columns + (tile - row_tiles) * steps.n_rows


@kernel
def bits_of_pairs(bits):
    """Which pairs of neighbours have a bit, from a set of at most 8."""
    bits = (bits | bits >> 1) & 0x55
    bits = (bits | bits >> 1) & 0x33
    return (bits | bits >> 2) & 0x0F


@phase
def find_steps(steps, inputs, stride, tile, rows, pairs):
    """Find the steps of one tile of a batch's rows, and what it adds to those of the columns.

    The tiles come in order, `rows` are the batch's; any later ones are an earlier batch's. With
    `pairs` a step is one of two columns, or rows.
    """
    row = tile * TILE_ROWS
    valid = _ALL_ROWS if rows - row >= TILE_ROWS else (1 << (rows - row)) - 1
    if tile == 0:
        for index in range(column_tile(steps, 0), steps.counts.size):
            steps.counts[index] = 0
    end = first_step(steps, tile)
    for column in range(0, steps.n_columns, TILE_ROWS):
        occupied = find_occupied(inputs, row * stride + column, stride)
        if occupied == 0:
            continue
        columns, occupied_rows = occupied & _ALL_ROWS, occupied >> TILE_ROWS & valid
        held = 1
        if pairs is not None:
            columns, occupied_rows, held = bits_of_pairs(columns), bits_of_pairs(occupied_rows), 2
        end = append_positions(steps.numbers, end, column // held, columns)
        index = column_tile(steps, column)
        if index < steps.counts.size:
            first = first_step(steps, index)
            stop = first + steps.counts[index]
            stop = append_positions(steps.numbers, stop, row // held, occupied_rows)
            steps.counts[index] = stop - first
    steps.counts[tile] = end - first_step(steps, tile)
