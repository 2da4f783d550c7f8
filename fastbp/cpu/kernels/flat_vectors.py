"""Vector IR that reads weights where users keep them: rows of any length, none of them padded."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.simd import Vectors, fetch_line
from fastbp.cpu.kernels.spans import address_of
from fastbp.cpu.records import TILE_VECTORS

_INT64 = ir.IntType(64)
MANY_VECTORS = 4 * TILE_VECTORS  # sums that fit into the registers of every CPU, with an operand


def _first_lanes(vectors, count):
    """A mask of the first `count` lanes."""
    numbers = ir.Constant(ir.VectorType(_INT64, vectors.count), list(range(vectors.count)))
    return vectors.builder.icmp_signed("<", numbers, vectors.spread(count))


@intrinsic
def copy_some(typing_context, out, out_start, source, start, count):
    """Copy `count` numbers, at most a vector's, and fill the vector up with zeros."""
    signature = types.void(out, types.intp, source, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        vectors = Vectors(builder, signature.args[0])
        out = address_of(context, builder, signature.args[0], *arguments[:2])
        source = address_of(context, builder, signature.args[2], *arguments[2:4])
        mask = _first_lanes(vectors, arguments[4])
        vectors.store(vectors.load_some(source, vectors.type, mask), out, _INT64(0))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fetch_number(typing_context, span, index):
    """Prefetch the cache line of a number into the second-level cache."""

    def codegen(context, builder, signature, arguments):
        fetch_line(builder, address_of(context, builder, signature.args[0], *arguments), 2)
        return context.get_dummy_value()

    return types.void(span, types.intp), codegen


def _make_flat_sum(n_vectors, is_partial=False):
    """Build the intrinsic for a weighted sum of rows, over `n_vectors` vectors of columns."""

    @intrinsic
    def weighted_sum(typing_context, out, out_start, panel_stride, values, indices, first, last,
                     right, right_start, right_stride, bias_start, count):  # fmt: skip
        index = types.intp
        signature = types.void(
            out, index, index, values, indices, index, index, right, index, index, index, index
        )

        def codegen(context, builder, signature, arguments):
            def pointer(at, offset):
                return address_of(context, builder, signature.args[at], arguments[at], offset)

            vectors = Vectors(builder, signature.args[0])
            out, panel_stride = pointer(0, arguments[1]), arguments[2]
            values, indices = pointer(3, _INT64(0)), pointer(4, _INT64(0))
            first, last, stride = *arguments[5:7], arguments[9]
            right, bias = pointer(7, arguments[8]), pointer(7, arguments[10])
            mask = _first_lanes(vectors, arguments[11]) if is_partial else None

            def load(start, offset):
                if is_partial:
                    return vectors.load_some(builder.gep(start, [offset]), vectors.type, mask)
                return vectors.load(start, offset)

            offsets = vectors.offsets(n_vectors)
            sums = [cgutils.alloca_once_value(builder, load(bias, offset)) for offset in offsets]
            with cgutils.for_range_slice(builder, first, last, _INT64(1)) as (entry, _):
                value = vectors.broadcast(values, entry)
                row = builder.mul(builder.load(builder.gep(indices, [entry])), stride)
                for total, offset in zip(sums, offsets, strict=True):
                    column = load(right, builder.add(row, offset))
                    builder.store(vectors.multiply_add(value, column, builder.load(total)), total)
            for number, total in enumerate(sums):
                panel, place = divmod(number, TILE_VECTORS)
                offset = builder.mul(_INT64(panel), panel_stride)
                offset = builder.add(offset, _INT64(place * vectors.count))
                vectors.store(builder.load(total), out, offset)
            return context.get_dummy_value()

        return signature, codegen

    return weighted_sum


# out[j] = bias[j] + Σₖ values[k] · right[indices[k], j] for some vectors of columns, k from `first`
# to `last`, with the bits of the tiles' sums. The bias is in `right`, too; `panel_stride` is the
# distance of the panels of `out`, two vectors each. The last reads `count` columns, fewer than a
# vector's, and fills the vector up with zeros.
flat_sums = _make_flat_sum(MANY_VECTORS)
flat_pair = _make_flat_sum(TILE_VECTORS)
flat_vector = _make_flat_sum(1)
flat_rest = _make_flat_sum(1, is_partial=True)
