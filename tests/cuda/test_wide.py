"""Wide nets on tensor cores: the kernels' own code, lane by lane in the emulator, against NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from emulated_device import EmulatedDevice
from naive import NaiveEngine

from fastbp.cuda import ptx
from fastbp.cuda.data import DeviceData, Epoch, make_table
from fastbp.cuda.task import Task, rule_of
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide import batches as wide_batches
from fastbp.cuda.wide import outputs as wide_outputs
from fastbp.cuda.wide import products as tensor_products
from fastbp.cuda.wide import program as wide
from fastbp.cuda.wide.products import ITEM_SIZES, STEP_BYTES, Tile
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer

SMALL = Tile(2, 4, 2, 2, stages=2)
LARGE = Tile(4, 8, 2, 4, stages=4)


def round_to(precision, numbers):
    """Numbers as a product reads them, and their bits as they are stored."""
    bits = np.asarray(numbers, np.float32).view(np.uint32)
    if precision == "tf32":
        rounded = ((bits + 0x1000) & 0xFFFFE000).view(np.float32)
        return rounded, rounded
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32), halves


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
            value = ptx.ld_shared_f32(start + (row * pitch + column) * 4)
            ptx.st_global_f32(c + (first_row + row) * c_pitch + (first_column + column) * 4, value)

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
    """Programs that run in the emulator, with small tiles and blocks: it is slow."""
    n_threads = 64
    monkeypatch.setattr(wide, "TILES", {SMALL: 1.0})
    for module in (wide, wide_outputs):
        monkeypatch.setattr(module, "PADDING_ROWS", SMALL.rows)
    for module in (wide_batches, wide_outputs):
        monkeypatch.setattr(module, "THREADS", n_threads)
    monkeypatch.setattr(wide_outputs, "_WARPS", n_threads // 32)
    monkeypatch.setattr(wide_batches, "_block_sum", wide_batches.make_block_sum(n_threads))
    made_for_other_sizes = (
        wide_outputs._make_logits,
        wide_outputs.make_head,
        wide_outputs.make_head_update,
        wide_outputs.make_outputs,
    )
    for make in made_for_other_sizes:
        make.cache_clear()

    def compiled(function):
        return SimpleNamespace(
            __name__=function.__name__, py_func=function, compile=lambda signature: None
        )

    monkeypatch.setattr(wide, "compiled", compiled)
    yield
    for make in made_for_other_sizes:
        make.cache_clear()


def run_epoch(network, precision, optimizer, data, batch_size, alpha=0.01):
    """An epoch by the program and by the oracle: mean losses, parameters, moments, updates."""
    optimizer.reset(network.n_parameters, np.float32)
    parameters = network.initialise(np.random.RandomState(0), np.float32, default_activation="relu")
    rule = rule_of(optimizer)
    device = EmulatedDevice()
    task = Task(network, np.dtype(np.float32), precision, batch_size, rule)
    program = wide.WideProgram(device, task)
    program.load_parameters(parameters)
    program.load_moments(optimizer.moments)
    np.testing.assert_array_equal(program.store_parameters(), parameters)
    order = np.random.default_rng(1).permutation(data.n_samples)
    table = make_table(data, order, batch_size, optimizer, rule, alpha)
    epoch = Epoch(
        device.upload(order.astype(np.int32)), device.upload(table), table, alpha,
        optimizer.momentum, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon,
    )  # fmt: skip
    result = program.train(DeviceData.upload(device, data, np.float32), epoch)
    oracle = NaiveEngine(network, np.float64)
    oracle.load_parameters(parameters)
    oracle.load_optimizer(optimizer)
    with np.errstate(all="ignore"):
        loss = oracle.train_epoch(data, order, batch_size, optimizer, alpha)
    return result, program, loss, oracle


N_ROWS, BATCH_SIZE = 20, 12  # a short last batch
BYTES = np.random.default_rng(2).integers(0, 4, (N_ROWS, 7), dtype=np.uint8)
SPARSE = sp.csr_matrix(np.where(BYTES > 1, BYTES, 0).astype(float))
# Network, optimizer, whether rows have weights, X where it is not float32.
CASES = {
    "deep": (Network((7, 66, 9, 3), ("relu", "tanh"), "softmax", "log_loss"), {}, False, None),
    "labels": (
        Network((7, 9, 4), ("logistic",), "logistic", "log_loss"),
        dict(solver="adam", learning_rate_init=0.01), True, BYTES,
    ),
    "many classes": (
        Network((7, 9, 40), ("identity",), "softmax", "log_loss"),
        dict(nesterovs_momentum=False), True, SPARSE,
    ),
    "no hidden layer": (
        Network((7, 2), (), "exp", "poisson"), dict(momentum=0.5), False, None
    ),
    "averaged": (
        Network((7, 9, 35), ("tanh",), "tanh", "squared_error", average_outputs=True),
        dict(solver="adam", learning_rate_init=0.01), False, None,
    ),
}  # fmt: skip


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
    network, parameters, weighted, X = CASES[name]
    random = np.random.default_rng(3)
    X = random.normal(size=(N_ROWS, 7)).astype(np.float32) if X is None else X
    n_outputs = network.layer_sizes[-1]
    if network.output_activation == "softmax":
        targets = random.integers(0, n_outputs, N_ROWS)
    else:
        targets = random.integers(0, 2, (N_ROWS, n_outputs)).astype(float)
    weight = random.random(N_ROWS) * (random.random(N_ROWS) > 0.3) if weighted else None
    optimizer = Optimizer(**dict(solver="sgd", learning_rate_init=0.05) | parameters)
    result, program, loss, oracle = run_epoch(
        network, precision, optimizer, Data(X, targets, weight, 0.5), BATCH_SIZE
    )
    assert result.updates == optimizer.step == 2
    precise = precision == "tf32"
    np.testing.assert_allclose(result.loss / result.weight, loss, rtol=2e-4 if precise else 4e-3)
    moved = oracle.parameters - network.initialise(
        np.random.RandomState(0), np.float32, default_activation="relu"
    )
    tolerance = (5e-3 if precise else 4e-2) * np.abs(moved).max()
    np.testing.assert_allclose(program.store_parameters(), oracle.parameters, atol=tolerance)
    for moment, expected in zip(program.store_moments(), oracle.moments, strict=True):
        tolerance = (5e-3 if precise else 4e-2) * np.abs(expected).max()
        np.testing.assert_allclose(moment, expected, atol=tolerance)


def test_batches_without_weight_and_after_a_loss_that_is_not_finite_change_nothing(emulated):
    network = Network((7, 3), (), "identity", "squared_error")
    X, targets = BYTES[:8].astype(np.float32), np.ones((8, 3))
    order = np.random.default_rng(1).permutation(8)
    weight = np.ones(8)
    weight[order[:2]] = 0.0  # the first batch
    targets[order[4]] = 1e30  # the third, whose squares overflow
    optimizer = Optimizer("sgd", 0.05)
    result, *_ = run_epoch(network, "tf32", optimizer, Data(X, targets, weight), 2)
    assert not np.isfinite(result.loss)
    assert (result.updates, result.weight) == (2, 4.0)


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
    chosen = wide.choose_tile(*product, 132, shared_memory)
    assert (chosen.rows, chosen.columns, chosen.stages) == tile
    assert chosen.shared_memory <= shared_memory
