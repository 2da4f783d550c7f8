"""The wide program in the emulator: its small blocks, some networks to train, and the oracle."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
from emulated_device import EmulatedDevice
from naive import NaiveEngine

from fastbp.cuda.data import DeviceData, Epoch
from fastbp.cuda.task import Task
from fastbp.cuda.wide import (
    batch_kernels,
    layer_products,
    matrices,
    output_kernels,
    wide_program,
)
from fastbp.cuda.wide.operands import Tile
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

SMALL = Tile(2, 4, 2, 2, stages=2)


def round_to(precision, numbers):
    """Numbers as a product reads them, and their bits as they are stored."""
    bits = np.asarray(numbers, np.float32).view(np.uint32)
    if precision == "tf32":
        rounded = ((bits + 0x1000) & 0xFFFFE000).view(np.float32)
        return rounded, rounded
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32), halves


@contextmanager
def small_blocks(monkeypatch):
    """Programs that run in the emulator, with small tiles and blocks: it is slow."""
    n_threads = 64
    monkeypatch.setattr(layer_products, "TILES", {SMALL: 1.0})
    for module in (matrices, layer_products, output_kernels, wide_program):
        monkeypatch.setattr(module, "PADDING_ROWS", SMALL.rows)
    monkeypatch.setattr(batch_kernels, "THREADS", n_threads)
    monkeypatch.setattr(batch_kernels, "_block_sum", batch_kernels.make_block_sum(n_threads))

    def compiled(function):
        return SimpleNamespace(
            __name__=function.__name__, py_func=function, compile=lambda signature: None
        )

    for module in (matrices, wide_program):
        monkeypatch.setattr(module, "compiled", compiled)
    yield


def run_epoch(network, precision, optimizer, data, batch_size, alpha=0.01):
    """An epoch by the program and by the oracle: mean losses, parameters, moments, updates."""
    optimizer.reset(network.n_parameters, np.float32)
    parameters = network.initialise(np.random.RandomState(0), np.float32, default_activation="relu")
    device = EmulatedDevice()
    task = Task(network, np.dtype(np.float32), precision, batch_size, optimizer.rule)
    program = wide_program.WideProgram(device, task)
    program.load_parameters(parameters)
    program.load_moments(optimizer.moments)
    np.testing.assert_array_equal(program.store_parameters(), parameters)
    order = np.random.default_rng(1).permutation(data.n_samples)
    weight = data.sample_weight
    steps = StepPlanner(optimizer, len(order), batch_size, weight, alpha, 1).next_epoch(order)
    rows, table = device.upload(order.astype(np.int32)), device.upload(steps.table)
    epoch = Epoch(rows, table, steps.table, alpha)
    result = program.train(DeviceData.upload(device, data, np.float32), epoch)
    oracle = NaiveEngine(network, np.float64)
    oracle.load_parameters(parameters)
    oracle.load_moments(optimizer.moments)
    with np.errstate(all="ignore"):
        loss = oracle.train_epoch(data, order, steps)
    optimizer.step += steps.made
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
    "decoupled decay": (
        Network((7, 9, 3), ("relu",), "softmax", "log_loss"),
        dict(solver="adamw", learning_rate_init=0.01, weight_decay=2.0), False, None,
    ),
    "no hidden layer": (
        Network((7, 2), (), "exp", "poisson"), dict(momentum=0.5), False, None
    ),
    "averaged": (
        Network((7, 9, 35), ("tanh",), "tanh", "squared_error", average_outputs=True),
        dict(solver="adam", learning_rate_init=0.01), False, None,
    ),
}  # fmt: skip
# Largest errors of the loss and, in shares of the largest number, of what has been learnt.
BOUNDS = {"bfloat16": (4e-3, 4e-2), "tf32": (2e-4, 5e-3)}


def check_epoch(name, precision):
    """Train an epoch as the oracle does."""
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
    data = Data(X, targets, weight, 0.5)
    result, program, loss, oracle = run_epoch(network, precision, optimizer, data, BATCH_SIZE)
    assert result.updates == optimizer.step == 2
    loss_bound, bound = BOUNDS[precision]
    np.testing.assert_allclose(result.loss / result.weight, loss, rtol=loss_bound)
    moved = oracle.parameters - network.initialise(
        np.random.RandomState(0), np.float32, default_activation="relu"
    )
    tolerance = bound * np.abs(moved).max()
    np.testing.assert_allclose(program.store_parameters(), oracle.parameters, atol=tolerance)
    for moment, expected in zip(program.store_moments(), oracle.moments, strict=True):
        tolerance = bound * np.abs(expected).max()
        np.testing.assert_allclose(moment, expected, atol=tolerance)
    check_padding(program.matrices)


def check_padding(matrices):
    """What the products read is zero next to the matrices: they sum over some of it."""
    sizes, item = matrices.sizes, matrices.item_size
    for some, widths in (
        (matrices.values, sizes[:-1]), (matrices.deltas, sizes[1:]), (matrices.rounded, sizes[1:]),
    ):  # fmt: skip
        for matrix, n in zip(some, widths, strict=True):
            assert not matrix.array.reshape(-1, matrix.pitch)[:, n * item :].any()
    for matrix, m in zip(matrices.rounded, sizes, strict=False):
        assert not matrix.array.reshape(-1, matrix.pitch)[m:].any()


def check_skipped_batches():
    """Batches without weight, and those after a loss that is not finite, change nothing."""
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
