"""Dropout: factors of a batch's numbers, drawn by counters (`fastbp.dropout`) where they are used.

Nothing is kept from the forward pass but what the backward pass multiplies errors by: f′(z) times
the factor, in the layer's δ.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.elementary import compile_formula
from fastbp.cpu.kernels.formulas import activate_backward
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import panel_start
from fastbp.cpu.kernels.shares import smaller
from fastbp.cpu.kernels.simd import TILE_ROWS, Vectors, spread_number
from fastbp.cpu.kernels.spans import ZERO, address_of, section
from fastbp.cpu.kernels.vectors import vector_size
from fastbp.cpu.records import ACTIVATION, SLOPES_ROW, WIDTH
from fastbp.dropout import GROUP_ROWS, GROUP_UNITS, HALF, counter_of, number_of, random_words
from fastbp.schedules import DROPPING, UPDATE

INPUTS = ZERO  # where layers are counted: the outputs of layer i come after those before it


class Draw(NamedTuple):
    """What the masks of an update depend on, besides the fit's."""

    update: int  # its number
    share: float  # of the probabilities


_random_words, _counter_of, _number_of = map(compile_formula, (random_words, counter_of, number_of))


@kernel
def draw_of(step):
    """That of a row of the step table."""
    return Draw(np.int64(step[UPDATE]), step[DROPPING])


@kernel
def threshold_and_scale(masks, layer, draw, real):
    """Below which number of its own a unit is left out, and the factor of the others."""
    threshold = masks.thresholds[layer]
    if draw.share != 1.0:
        threshold = np.int64(threshold * draw.share)
    return np.uint64(threshold), real(HALF / (HALF - threshold))


@kernel
def drops(masks, layer):
    """Whether some of the inputs (0), or of the outputs of the layer before, are left out."""
    return masks.thresholds.size > 0 and masks.thresholds[layer] > 0


class _Lanes:
    """A uint64 in each lane of a vector, with the operators that the formula uses.

    Run with these in place of numbers, the formula writes its own vector code. LLVM left loops over
    its four results scalar.
    """

    __array_ufunc__ = None  # NumPy's constants leave the operation to this class

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _operate(self, operation, other):
        value = getattr(other, "value", None)
        if value is None:
            value = ir.Constant(self.value.type, [int(other)] * self.value.type.count)
        return _Lanes(self.builder, getattr(self.builder, operation)(self.value, value))

    def __add__(self, other):
        return self._operate("add", other)

    def __mul__(self, other):
        return self._operate("mul", other)

    def __and__(self, other):
        return self._operate("and_", other)

    def __xor__(self, other):
        return self._operate("xor", other)

    def __rshift__(self, other):
        return self._operate("lshr", other)

    __rmul__ = __mul__

    def both_halves(self):
        """The low half of a word, and after it, as the next number of 32 bits, the high half."""
        low, high = self & 0xFFFF, self >> 16
        shift = ir.Constant(self.value.type, [32] * self.value.type.count)
        return self.builder.or_(low.value, self.builder.shl(high.value, shift))


@intrinsic
def store_factors(
    typing_context, factors, start, stride, pair, second, third, fourth, seed, threshold, scale
):
    """Store a vector of factors from `start` on, for units from 2 `pair` on, and so for each row.

    `stride` is the distance of the rows of a group.
    """
    words = (types.uint64,) * 6
    signature = types.void(factors, types.intp, types.intp, *words, factors.dtype)

    def codegen(context, builder, signature, arguments):
        factors, start, stride, pair, *counter, seed, threshold, scale = arguments
        vectors = Vectors(builder, signature.args[0])
        count = vectors.count // GROUP_UNITS
        pointer = address_of(context, builder, signature.args[0], factors, start)
        steps = ir.Constant(ir.VectorType(pair.type, count), list(range(count)))
        lanes = [builder.add(spread_number(builder, pair, count), steps)]
        lanes += [spread_number(builder, word, count) for word in (*counter, seed)]
        halves = ir.VectorType(ir.IntType(32), vectors.count)
        threshold = vectors.spread(builder.trunc(threshold, halves.element))
        scales, zeros = vectors.spread(scale), ir.Constant(vectors.type, None)
        words = random_words(*(_Lanes(builder, value) for value in lanes))
        for row, word in enumerate(words):
            both = word.both_halves()
            stays = builder.icmp_unsigned(">=", builder.bitcast(both, halves), threshold)
            values = builder.select(stays, scales, zeros)
            vectors.store(values, pointer, builder.mul(stride, ir.Constant(stride.type, row)))
        return context.get_dummy_value()

    return signature, codegen


@phase
def draw_factors(factors, masks, layer, unit, row, draw):
    """Fill `factors` for neighbouring units from `unit` on, and the rows of a group.

    `row` and `unit` are multiples of a group's; a row's factors come after those of the row before.
    """
    threshold, scale = threshold_and_scale(masks, layer, draw, type(factors[0]))
    third, fourth = _counter_of(np.uint64(layer), np.uint64(draw.update))
    second, count = np.uint64(row // GROUP_ROWS), factors.size // GROUP_ROWS
    for j in range(0, count, vector_size(factors)):
        store_factors(
            factors, j, count, np.uint64((unit + j) // GROUP_UNITS), second, third, fourth,
            np.uint64(masks.seed), threshold, scale,
        )  # fmt: skip


@kernel
def multiply_by(values, factors):
    for j in range(values.size):
        values[j] *= factors[j]


@phase
def drop_outputs(memory, workspace, index, panel, row, values, kept, draw):
    """Leave out some outputs of the tile at a panel and a row, and keep f′(z) likewise.

    `values` are f(z); `kept` holds the f′(z) of activations that need z.
    """
    layer = layer_of(memory.layers, index)
    width = layer[WIDTH]
    for first in range(0, TILE_ROWS, GROUP_ROWS):
        factors = section(workspace.factors, first * width, GROUP_ROWS * width)
        draw_factors(factors, memory.masks, index + 1, panel * width, row + first, draw)
    factors = section(workspace.factors, ZERO, values.size)
    if layer[SLOPES_ROW] > 0:  # `kept` holds the derivative, whatever the activation
        multiply_by(kept, factors)
        start = panel_start(memory, layer, panel) + row * width
        multiply_by(section(memory.bends, start, values.size), factors)
    else:
        activate_backward(layer[ACTIVATION], kept, factors, values)
    multiply_by(values, factors)


@phase
def drop_inputs(workspace, masks, row, n_rows, n_inputs, draw):
    """Leave out some of the inputs of the gathered rows from `row` on, not more than a group."""
    stride, factors = workspace.input_stride, workspace.factors
    width = factors.size // TILE_ROWS
    factors = section(factors, ZERO, GROUP_ROWS * width)
    for unit in range(0, n_inputs, width):
        draw_factors(factors, masks, INPUTS, unit, row, draw)
        count = smaller(width, n_inputs - unit)
        for i in range(n_rows):
            values = section(workspace.inputs, (row + i) * stride + unit, count)
            multiply_by(values, section(factors, i * width, count))


@phase
def drop_entries(rows, masks, n_rows, draw):
    """Leave out some of the inputs of sparse rows: those that `drop_inputs` would."""
    threshold, scale = threshold_and_scale(masks, INPUTS, draw, type(rows.values[0]))
    seed, zero = np.uint64(masks.seed), type(scale)(0)
    third, fourth = _counter_of(np.uint64(INPUTS), np.uint64(draw.update))
    for row in range(n_rows):
        second = np.uint64(row // GROUP_ROWS)
        for k in range(rows.starts[row], rows.starts[row + 1]):
            unit = rows.indices[k]
            words = _random_words(np.uint64(unit // GROUP_UNITS), second, third, fourth, seed)
            rows.values[k] *= scale if _number_of(words, row, unit) >= threshold else zero
