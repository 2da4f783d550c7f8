"""Vector IR: the register tiles and weighted sums that make up all matrix products."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.bfloat16 import multiply_add_pairs
from fastbp.cpu.kernels.simd import TILE_BYTES, TILE_ROWS, Vectors, fetch_tile, keep_rolled
from fastbp.cpu.kernels.spans import address_of
from fastbp.cpu.records import TILE_VECTORS

_INT64 = ir.IntType(64)


def _phi(builder, start, block):
    phi = builder.phi(start.type)
    phi.add_incoming(start, block)
    return phi


class _Product:
    """Steps of the inner product of operands whose elements are numbers or pairs of bfloat16."""

    def __init__(self, builder, sum_type, operand_type):
        self.builder = builder
        self.sums, self.operands = Vectors(builder, sum_type), Vectors(builder, operand_type)
        self._has_pairs = operand_type.dtype == types.int32
        # Rows of a panel have half as many elements where these are pairs.
        self.tile_bytes = TILE_BYTES // 2 if self._has_pairs else TILE_BYTES

    def _multiply_add(self, left, right, accumulator):
        if self._has_pairs:
            return multiply_add_pairs(self.sums, left, right, accumulator)
        return self.sums.multiply_add(left, right, accumulator)

    def step(self, left, right, row_stride, accumulators):
        """Add every row's broadcast times the right operand's vectors."""
        builder, operands = self.builder, self.operands
        keep_rolled(builder)
        n_vectors = len(accumulators[0])
        columns = [operands.load(right, offset) for offset in operands.offsets(n_vectors)]
        updated = []
        for row, sums in enumerate(accumulators):
            value = operands.broadcast(left, builder.mul(_INT64(row), row_stride))
            updated.append(
                [self._multiply_add(value, c, s) for c, s in zip(columns, sums, strict=True)]
            )
        return updated


def _tile_loops(product, left, right, strides, depth, sums):
    """Accumulate over `depth`, one panel of the left operand after the other.

    `strides` are the left operand's row, depth and panel strides, the panel's length, the number of
    steps that are left when no more panels are fetched ahead, and the right operand's stride.
    Returns the accumulators after the loops.
    """
    builder = product.builder
    row_stride, depth_stride, panel_stride, panel_length, last_fetch, right_stride = strides
    n_rows, n_vectors = len(sums), len(sums[0])
    flat = [value for row in sums for value in row]

    def rows_of(values):
        return [values[i * n_vectors : (i + 1) * n_vectors] for i in range(n_rows)]

    entry = builder.block
    panel_block = builder.append_basic_block("panel")
    step_block = builder.append_basic_block("step")
    next_block = builder.append_basic_block("next_panel")
    done_block = builder.append_basic_block("done")
    builder.branch(panel_block)

    builder.position_at_end(panel_block)
    panel_left, panel_right = _phi(builder, left, entry), _phi(builder, right, entry)
    remaining = _phi(builder, depth, entry)
    panel_sums = [_phi(builder, value, entry) for value in flat]
    is_short = builder.icmp_signed("<", remaining, panel_length)
    steps = builder.select(is_short, remaining, panel_length)
    with builder.if_then(builder.icmp_signed(">", remaining, last_fetch)):
        following = builder.gep(panel_left, [builder.mul(panel_stride, _INT64(2))])
        fetch_tile(builder, following, product.tile_bytes)
    before_steps = builder.block
    builder.branch(step_block)

    builder.position_at_end(step_block)
    step = _phi(builder, _INT64(0), before_steps)
    step_left = _phi(builder, panel_left, before_steps)
    step_right = _phi(builder, panel_right, before_steps)
    step_sums = [_phi(builder, value, before_steps) for value in panel_sums]
    updated = product.step(step_left, step_right, row_stride, rows_of(step_sums))
    updated = [value for row in updated for value in row]
    next_step = builder.add(step, _INT64(1))
    next_right = builder.gep(step_right, [right_stride])
    step.add_incoming(next_step, step_block)
    step_left.add_incoming(builder.gep(step_left, [depth_stride]), step_block)
    step_right.add_incoming(next_right, step_block)
    for phi, value in zip(step_sums, updated, strict=True):
        phi.add_incoming(value, step_block)
    builder.cbranch(builder.icmp_signed("<", next_step, steps), step_block, next_block)

    builder.position_at_end(next_block)
    left_over = builder.sub(remaining, steps)
    panel_left.add_incoming(builder.gep(panel_left, [panel_stride]), next_block)
    panel_right.add_incoming(next_right, next_block)
    remaining.add_incoming(left_over, next_block)
    for phi, value in zip(panel_sums, updated, strict=True):
        phi.add_incoming(value, next_block)
    builder.cbranch(builder.icmp_signed(">", left_over, _INT64(0)), panel_block, done_block)
    builder.position_at_end(done_block)
    return rows_of(updated)


def _listed_loop(product, left, right, strides, steps, n_steps, sums):
    """Accumulate over the steps of a list.

    `strides` are the left operand's row and depth strides and the right operand's stride. Returns
    the accumulators after the loop.
    """
    builder = product.builder
    row_stride, depth_stride, right_stride = strides
    totals = [[cgutils.alloca_once_value(builder, value) for value in row] for row in sums]
    with cgutils.for_range(builder, n_steps) as loop:
        step = builder.sext(builder.load(builder.gep(steps, [loop.index])), _INT64)
        step_left = builder.gep(left, [builder.mul(step, depth_stride)])
        step_right = builder.gep(right, [builder.mul(step, right_stride)])
        before = [[builder.load(total) for total in row] for row in totals]
        after = product.step(step_left, step_right, row_stride, before)
        for row, values in zip(totals, after, strict=True):
            for total, value in zip(row, values, strict=True):
                builder.store(value, total)
    return [[builder.load(total) for total in row] for row in totals]


def _pointer(context, builder, signature, arguments, at):
    """Pointer to a number of a span: argument `at` is the span, the next one the index."""
    return address_of(context, builder, signature.args[at], *arguments[at : at + 2])


def _write_tile(vectors, out, width, sums):
    """Store the accumulators of a tile whose rows are `width` numbers apart."""
    builder = vectors.builder
    for row, values in enumerate(sums):
        row_start = builder.mul(_INT64(row), width)
        for value, offset in zip(values, vectors.offsets(len(values)), strict=True):
            vectors.store(value, out, builder.add(row_start, offset))


def left_parts(context, builder, left_type, left):
    """Pointer to the first number of a left operand, and its other fields by name."""
    fields = dict(zip(left_type.fields, cgutils.unpack_tuple(builder, left), strict=True))
    span_type = left_type[left_type.fields.index("array")]
    pointer = address_of(context, builder, span_type, fields["array"], fields["start"])
    return pointer, fields


def _make_tile(n_rows, n_vectors):
    """Build the intrinsic for a tile of `n_rows` rows and `n_vectors` vectors of columns."""

    @intrinsic
    def tile(typing_context, out, out_start, width, left, right, right_start, bias, bias_start,
             depth):  # fmt: skip
        index = types.intp
        signature = types.void(out, index, index, left, right, index, bias, index, index)

        def codegen(context, builder, signature, arguments):
            product, width = _Product(builder, signature.args[0], signature.args[4]), arguments[2]
            vectors = product.sums
            out, right, bias = (
                _pointer(context, builder, signature, arguments, at) for at in (0, 4, 6)
            )
            left, fields = left_parts(context, builder, signature.args[3], arguments[3])
            names = "row_stride", "depth_stride", "panel_stride", "panel_length", "last_fetch"
            strides = (*(fields[name] for name in names), width)
            sums = [[vectors.load(bias, o) for o in vectors.offsets(n_vectors)]] * n_rows
            sums = _tile_loops(product, left, right, strides, arguments[8], sums)
            _write_tile(vectors, out, width, sums)
            return context.get_dummy_value()

        return signature, codegen

    return tile


# out[i, j] = bias[j] + Σₖ left[i, k] · right[k, j] for one or two vectors of columns; the rows of
# `out` and `right` are `width` apart. The left operand, a `fastbp.cpu.kernels.products.Left`, is
# stored in panels of `panel_length` steps: k is at
# (k // panel_length) · panel_stride + (k % panel_length) · depth_stride. `depth` must be positive.
# Both operands are of numbers like `out`, or of pairs of bfloat16, and then a step takes two k.
# While more than `last_fetch` steps remain, the tile's rows of the next panel but one are
# prefetched, whose place no hardware prefetcher can predict.
narrow_tile = _make_tile(TILE_ROWS, 1)
wide_tile = _make_tile(TILE_ROWS, TILE_VECTORS)
narrow_row = _make_tile(1, 1)
wide_row = _make_tile(1, TILE_VECTORS)


def _make_listed_tile(n_vectors):
    """Build the intrinsic for a tile that makes only the steps of a list."""

    @intrinsic
    def tile(typing_context, out, out_start, width, left, right, right_start, bias, bias_start,
             steps, first_step, n_steps):  # fmt: skip
        index = types.intp
        signature = types.void(
            out, index, index, left, right, index, bias, index, steps, index, index
        )

        def codegen(context, builder, signature, arguments):
            product, width = _Product(builder, signature.args[0], signature.args[4]), arguments[2]
            vectors = product.sums
            out, right, bias, steps = (
                _pointer(context, builder, signature, arguments, at) for at in (0, 4, 6, 8)
            )
            left, fields = left_parts(context, builder, signature.args[3], arguments[3])
            strides = fields["row_stride"], fields["depth_stride"], width
            sums = [[vectors.load(bias, o) for o in vectors.offsets(n_vectors)]] * TILE_ROWS
            sums = _listed_loop(product, left, right, strides, steps, arguments[10], sums)
            _write_tile(vectors, out, width, sums)
            return context.get_dummy_value()

        return signature, codegen

    return tile


# The same as `narrow_tile` and `wide_tile`, but k runs over the int32 numbers in `steps`.
narrow_listed_tile = _make_listed_tile(1)
wide_listed_tile = _make_listed_tile(TILE_VECTORS)


def _make_sum(n_vectors):
    """Build the intrinsic for a weighted sum of rows, over `n_vectors` vectors of columns."""

    @intrinsic
    def weighted_sum(typing_context, out, out_start, values, indices, first, last, right,
                     right_start, right_stride, bias, bias_start):  # fmt: skip
        real, index = out, types.intp
        signature = types.void(
            real, index, values, indices, index, index, right, index, index, bias, index
        )

        def codegen(context, builder, signature, arguments):
            def pointer(at, offset):
                return address_of(context, builder, signature.args[at], arguments[at], offset)

            vectors = Vectors(builder, signature.args[0])
            out, bias = pointer(0, arguments[1]), pointer(9, arguments[10])
            values, indices = pointer(2, _INT64(0)), pointer(3, _INT64(0))
            right, (first, last, stride) = pointer(6, arguments[7]), (*arguments[4:6], arguments[8])
            offsets = vectors.offsets(n_vectors)
            sums = [
                cgutils.alloca_once_value(builder, vectors.load(bias, offset)) for offset in offsets
            ]
            with cgutils.for_range_slice(builder, first, last, _INT64(1)) as (entry, _):
                value = vectors.broadcast(values, entry)
                row = builder.mul(builder.load(builder.gep(indices, [entry])), stride)
                for total, offset in zip(sums, offsets, strict=True):
                    column = vectors.load(right, builder.add(row, offset))
                    updated = vectors.multiply_add(value, column, builder.load(total))
                    builder.store(updated, total)
            for total, offset in zip(sums, offsets, strict=True):
                vectors.store(builder.load(total), out, offset)
            return context.get_dummy_value()

        return signature, codegen

    return weighted_sum


# out[j] = bias[j] + Σₖ values[k] · right[indices[k], j] for one or two vectors of columns, k from
# `first` to `last` in the same order as in the tiles, so that sums have the same bits.
narrow_sum = _make_sum(1)
wide_sum = _make_sum(TILE_VECTORS)
