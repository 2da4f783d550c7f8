"""Steps left out where dense rows are zero: the right ones, and the same bits as with them."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from fastbp.cpu import rows as rows_module
from fastbp.cpu import work
from fastbp.cpu.code import TILE_ROWS
from fastbp.cpu.engine import Engine
from fastbp.cpu.kernels.zeros import column_tile, find_steps, first_step
from fastbp.cpu.rows import Rows
from fastbp.cpu.sparse_rows import density_of
from fastbp.cpu.zero_steps import make_steps, pays_to_skip_zeros
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner
from tests.cpu.callable import Callable


def find_all_steps(steps, inputs, stride, rows):
    for tile in range((rows + TILE_ROWS - 1) // TILE_ROWS):
        find_steps(steps, inputs, stride, tile, rows, None)


def rows_with_zeros(n_rows, n_features, dtype, seed=0):
    """Rows like small images: a common empty margin, and zeros that come in runs."""
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((n_rows, n_features))
    X[:, : n_features // 3] = 0
    for row in X:
        start = generator.integers(n_features)
        row[start : start + n_features // 2] = 0
    if np.dtype(dtype).kind == "u":
        X = np.clip(100 * abs(X), 0, 255)
    return X.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_rows", [1, 3 * TILE_ROWS - 1, 4 * TILE_ROWS])
@pytest.mark.parametrize("n_features", [5 * TILE_ROWS, 3 * TILE_ROWS + 3])
def test_steps(dtype, n_rows, n_features):
    """Those of a tile are the numbers at which not all of its rows, or columns, are zero."""
    stride = n_features + 2 * TILE_ROWS
    inputs = np.zeros((4 * TILE_ROWS, stride), dtype)
    inputs[:n_rows, :n_features] = rows_with_zeros(n_rows, n_features, dtype)
    inputs[n_rows:] = 1  # an earlier batch's
    steps = make_steps(len(inputs), n_features)
    find = Callable(find_all_steps, dtype)
    for _ in range(2):  # nothing is left of an earlier batch
        find(steps, inputs.ravel(), stride, n_rows)

    def found(tile):
        first = first_step.py_func(steps, tile)
        return steps.numbers[first : first + steps.counts[tile]].tolist()

    for tile in range(n_rows // TILE_ROWS):
        rows = inputs[tile * TILE_ROWS :][:TILE_ROWS, :n_features]
        assert found(tile) == np.flatnonzero(rows.any(axis=0)).tolist()
    for column in range(0, n_features, TILE_ROWS):
        columns = inputs[:n_rows, column : column + TILE_ROWS]
        assert (
            found(column_tile.py_func(steps, column))
            == np.flatnonzero(columns.any(axis=1)).tolist()
        )


def almost_dense():
    """Sparse rows that are made dense by batches. Their steps were not looked for at first."""
    X = csr_array(rows_with_zeros(300, 85, "float32"))
    assert density_of(X) == 1
    return X


def trained(monkeypatch, skips, X, hidden, solver, dtype, n_threads, batch_size=44):
    """Weights after two epochs, and predictions."""
    monkeypatch.setattr(rows_module, "pays_to_skip_zeros", lambda *arguments, **_: skips)
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(work, "WORK_PER_START", 1)
    generator = np.random.RandomState(1)
    network = Network((X.shape[1], *hidden, 3), ("tanh",) * len(hidden), "softmax", "log_loss")
    data = Data(X, generator.randint(0, 3, X.shape[0]), input_scale=0.01)
    optimizer = Optimizer(solver, 0.01)
    optimizer.reset(network.n_parameters, np.dtype(dtype))
    with Engine(network, dtype, n_threads) as engine:
        engine.load_parameters(
            network.initialise(generator, np.dtype(dtype), default_activation="relu")
        )
        engine.load_moments(optimizer.moments)
        planner = StepPlanner(optimizer, X.shape[0], batch_size, None, 0.1, 2)
        for _ in range(2):
            order = generator.permutation(X.shape[0])
            steps = planner.next_epoch(order)
            engine.train_epoch(data, order, steps)
            optimizer.step += steps.made
        outputs = engine.predict(data)
        parameters = engine.store_parameters()
    return parameters, outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("X_dtype", "hidden", "solver"),
    [
        ("uint8", (100, 9), "sgd"),
        ("float32", (37,), "adam"),
        ("float64", (130,), "sgd"),
        ("sparse", (100,), "sgd"),
    ],
)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_have_the_same_bits(monkeypatch, dtype, X_dtype, hidden, solver, n_threads):
    """Wide, narrow and partly filled panels, short tiles and a short last batch."""
    X = rows_with_zeros(300, 85, X_dtype) if X_dtype != "sparse" else almost_dense()
    skipping = trained(monkeypatch, True, X, hidden, solver, dtype, n_threads)
    plain = trained(monkeypatch, False, X, hidden, solver, dtype, 1)
    for left, right in zip(skipping, plain, strict=True):
        assert np.array_equal(left, right)
        assert np.isfinite(left).all()


def test_not_a_number_is_not_zero():
    X = np.zeros((320, 64), np.float32)
    X[7::16, 5] = np.nan
    network = Network((64, 64, 2), ("relu",), "softmax", "log_loss")
    assert pays_to_skip_zeros(X, np.arange(len(X)), 64, 1)
    with Engine(network, "float32", 1) as engine:
        engine.load_parameters(
            network.initialise(
                np.random.RandomState(0), np.dtype("float32"), default_activation="relu"
            )
        )
        outputs = engine.predict(Data(X))
    assert np.array_equal(np.isnan(outputs).any(axis=1), np.isnan(X).any(axis=1))
    assert not engine.inputs_were_finite


def test_when_it_pays_to_skip_zeros():
    """Only where enough of the products would be left out."""
    order, half = np.arange(400), np.ones((400, 64))
    half[:, ::2] = 0
    assert pays_to_skip_zeros(half, order, 64, 2)
    assert not pays_to_skip_zeros(half, order, 8, 2)  # too few units gain from it
    assert not pays_to_skip_zeros(half, order[:20], 64, 2)  # too few rows to judge by
    assert not pays_to_skip_zeros(half[:, :16], order, 64, 2)
    assert not pays_to_skip_zeros(np.ones((400, 64)), order, 64, 2)
    apart = np.zeros((400, 64))
    apart[np.arange(400), np.arange(400) % 64] = 1  # every tile of 8 rows has 8 columns
    assert pays_to_skip_zeros(apart, order, 64, 2)
    assert not pays_to_skip_zeros(half, np.zeros(0, int), 64, 2)


def test_predictions_look_for_rows_only():
    """Steps of columns, which only gradients take, were found for predictions, too."""
    X = rows_with_zeros(160, 64, "float32")
    network = Network((64, 64, 2), ("relu",), "softmax", "log_loss")
    engine = Engine(network, "float32", 1)
    for learns, n_tiles in (False, 32 // TILE_ROWS), (True, (32 + 64) // TILE_ROWS):
        (workspace,) = engine._workspaces(Rows(X), np.arange(160), 32, 1, learns)
        assert workspace.record.steps.counts.size == n_tiles
