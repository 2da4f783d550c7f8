"""Products by AMX, in registers that are emulated where the CPU has none, against NumPy."""

import numpy as np
import pytest
from amx import reason_to_skip
from naive import multiply_bfloat16, round_to_bfloat16

from fastbp.cpu.code import kernel_of
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import BFLOAT16_AMX, GROUP_ROWS, AmxProduct

pytestmark = pytest.mark.skipif(reason_to_skip() != "", reason=reason_to_skip() or "-")


def pairs_of(matrix):
    """The pairs of neighbours in each row of a matrix of float32."""
    halves = (round_to_bfloat16(matrix).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(halves).view(np.int32)


def product_of(left, right, bias, n_rows=GROUP_ROWS):
    """left · right + bias of a group, by the kernel."""
    depth, width = right.shape
    by_columns = np.ascontiguousarray(right.reshape(depth // 2, 2, width).transpose(0, 2, 1))
    product = AmxProduct(
        pairs_of(left).ravel(), pairs_of(by_columns.reshape(depth // 2, -1)).ravel(), bias,
        np.full(GROUP_ROWS * width, np.nan, np.float32), depth // 2, n_rows, int(width > 16),
    )  # fmt: skip
    record = Packed(product, BFLOAT16_AMX, False)
    kernel_of("multiply_by_amx", BFLOAT16_AMX)(record.address)
    return product.sums.reshape(GROUP_ROWS, width)


@pytest.mark.smoke
@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("n_pairs", [1, 7, 15, 16, 17, 31, 32, 50, 128])
def test_a_product_is_that_of_rounded_operands(n_pairs, width):
    draw = np.random.default_rng(n_pairs)
    left = draw.normal(size=(GROUP_ROWS, 2 * n_pairs)).astype(np.float32)
    right = draw.normal(size=(2 * n_pairs, width)).astype(np.float32)
    bias = draw.normal(size=width).astype(np.float32)
    found = product_of(left, right, bias)
    np.testing.assert_allclose(found, multiply_bfloat16(left, right) + bias, atol=1e-5 * n_pairs)


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("n_rows", [1, 8, 13, 16, 17, 24, 32])
def test_rows_are_those_of_the_whole_group(n_rows, width):
    """To the bit, however many are asked for: so a team's size cannot be seen."""
    draw = np.random.default_rng(n_rows)
    left = draw.normal(size=(GROUP_ROWS, 140)).astype(np.float32)
    right = draw.normal(size=(140, width)).astype(np.float32)
    bias = np.zeros(width, np.float32)
    expected = product_of(left, right, bias)
    left[-(-n_rows // 8) * 8 :] = np.nan  # what others are about to write
    found = product_of(left, right, bias, n_rows)
    np.testing.assert_array_equal(found[:n_rows], expected[:n_rows])
