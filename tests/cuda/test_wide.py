"""Wide nets on tensor cores: the kernels' own code, lane by lane in the emulator, against NumPy."""

import numpy as np
import pytest
from emulated_device import EmulatedDevice
from emulated_wide import SMALL, check_epoch, check_skipped_batches, round_to, small_blocks

from fastbp.cuda import ptx
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide import layer_products, tensor_products
from fastbp.cuda.wide.operands import ITEM_SIZES, STEP_BYTES, Tile

LARGE = Tile(4, 8, 2, 4, stages=4)


def make_plain_product(precision, tile, a_runs_along, b_runs_along):
    """A kernel that multiplies and does nothing else."""
    sides = precision, tile, a_runs_along, b_runs_along
    multiply = tensor_products.make_multiply(*sides)
    spread = tensor_products.make_spread(*sides)
    shape = tile.m_fragments, tile.n_fragments, 4
    rows, columns, pitch, threads = tile.rows, tile.columns, tile.pitch, tile.threads

    def product(a, a_pitch, b, b_pitch, c, c_pitch, n_steps):
        sums = cuda.local.array(shape, np.float32)
        first_row, first_column = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns
        multiply(sums, a, a_pitch, first_row, b, b_pitch, first_column, n_steps)
        start = spread(sums)
        for i in range(cuda.threadIdx.x, rows * columns, threads):
            row, column = i // columns, i % columns
            value = ptx.ld_shared_u32(start + (row * pitch + column) * 4)
            ptx.st_global_u32(c + (first_row + row) * c_pitch + (first_column + column) * 4, value)

    return product


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize(
    ("tile", "kind", "n_steps"),
    [
        (SMALL, (True, False), 1),
        (SMALL, (True, False), 3),
        (SMALL, (True, True), 3),
        (SMALL, (False, False), 3),
        (LARGE, (False, False), 1),
    ],
)
def test_products(precision, tile, kind, n_steps):
    item_size = ITEM_SIZES[precision]
    k, random = n_steps * STEP_BYTES // item_size, np.random.default_rng(0)
    n_blocks = 2 if tile is SMALL else 1
    a, a_bits = round_to(precision, random.normal(size=(tile.rows * n_blocks, k)))
    b, b_bits = round_to(precision, random.normal(size=(k, tile.columns)))
    device = EmulatedDevice()
    a_array = device.upload(a_bits if kind[0] else a_bits.T)
    b_array = device.upload(b_bits.T if kind[1] else b_bits)
    c = device.zeros((len(a), tile.columns), np.float32)
    places = [
        number
        for array in (a_array, b_array, c)
        for number in (array.__cuda_array_interface__["data"][0], array.strides[0])
    ]
    kernel = make_plain_product(precision, tile, *kind)
    device.launch(
        kernel, (1, n_blocks), tile.threads, *places, n_steps, shared_memory=tile.shared_memory
    )
    np.testing.assert_allclose(c, a.astype(float) @ b, rtol=0, atol=2e-5)


@pytest.fixture
def emulated(monkeypatch):
    with small_blocks(monkeypatch):
        yield


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("deep", "bfloat16"),
        ("labels", "tf32"),
        ("many classes", "bfloat16"),
        ("no hidden layer", "tf32"),
        ("averaged", "tf32"),
    ],
)
def test_an_epoch_follows_the_oracle(name, precision, emulated):
    check_epoch(name, precision)


def test_batches_without_weight_and_after_a_loss_that_is_not_finite_change_nothing(emulated):
    check_skipped_batches()


@pytest.mark.parametrize(
    ("product", "shared_memory", "tile"),
    [
        ((4096, 2048), 232_448, (128, 256, 4)),
        ((2048, 2048), 166_912, (128, 256, 3)),  # an A100
        ((784, 2048), 232_448, (128, 128, 4)),  # half the blocks would leave most idle
        ((4096, 2048), 101_376, (128, 128, 3)),  # a GPU for games
        ((100, 300), 232_448, (64, 64, 4)),
    ],
)
def test_choice_of_tile(product, shared_memory, tile):
    chosen = layer_products.choose_tile(*product, 132, shared_memory)
    assert (chosen.rows, chosen.columns, chosen.stages) == tile
    assert chosen.shared_memory <= shared_memory
