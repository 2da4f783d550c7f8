"""The CUDA engine's verbs with the general program, in the simulator, against the oracle."""

import numpy as np
import pytest
import scipy.sparse as sp
from naive import NaiveEngine
from simulation import speed_up

import fastbp.engine
from fastbp.cuda.engine import Engine
from fastbp.cuda.generic import forward_pass, generic_program
from fastbp.data import Data
from fastbp.dropout import Dropout
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

speed_up()
N_ROWS, BATCH_SIZE = 13, 5  # a short last batch
# Network, optimizer, dtype, and whether rows have weights. Up to 16 outputs take the fused kernel.
CASES = {
    "softmax": (Network((6, 7, 3), ("relu",), "softmax", "log_loss"), {}, "float64", False),
    "deep adam": (
        Network((6, 7, 5, 3), ("tanh", "logistic"), "softmax", "log_loss"),
        dict(solver="adam", learning_rate_init=0.01), "float32", True,
    ),
    "no hidden layer": (
        Network((6, 3), (), "softmax", "log_loss"), dict(nesterovs_momentum=False), "float64", False
    ),
    "many labels": (
        Network((6, 7, 18), ("identity",), "logistic", "log_loss"), {}, "float64", True
    ),
    "no hidden layer, many outputs": (
        Network((6, 18), (), "tanh", "squared_error"), {}, "float64", False
    ),
    "regression": (
        Network((6, 7, 2), ("relu",), "identity", "squared_error", average_outputs=True),
        dict(solver="adam", learning_rate_init=0.01), "float64", True,
    ),
    "deep, many outputs": (
        Network((6, 5, 4, 17), ("logistic", "tanh"), "relu", "squared_error"), {}, "float32", False
    ),
    "poisson": (Network((6, 7, 2), ("tanh",), "exp", "poisson"), {}, "float32", False),
    "gelu, few outputs": (
        Network((6, 7, 5, 3), ("gelu", "gelu"), "softmax", "log_loss"),
        dict(solver="adamw", learning_rate_init=0.01, weight_decay=0.5), "float64", True,
    ),
    "gelu, many outputs": (
        Network((6, 7, 5, 18), ("gelu", "relu"), "logistic", "log_loss"), {}, "float32", False
    ),
    "dropout, few outputs": (
        Network((6, 7, 5, 3), ("tanh", "gelu"), "softmax", "log_loss"),
        dict(solver="adam", learning_rate_init=0.01, dropout=(0.2, 0.4, 0.3)), "float64", True,
    ),
    "dropout, many outputs, average": (
        Network((6, 7, 5, 18), ("relu", "relu"), "logistic", "log_loss"),
        dict(dropout=(0.0, 0.3, 0.5), ema_decay=0.8), "float64", False,
    ),
    "average": (
        Network((6, 7, 3), ("tanh",), "softmax", "log_loss"),
        dict(solver="adam", learning_rate_init=0.01, ema_decay=0.5), "float32", False,
    ),
    "focal": (
        Network((6, 7, 3), ("tanh",), "softmax", "focal", False, (2.0,) * 3, 0.1), {}, "float64",
        True,
    ),
    "focal, many labels": (
        Network((6, 7, 18), ("tanh",), "logistic", "focal", False, (0.5,) * 18, 0.25), {},
        "float64", False,
    ),
    "smoothed classes, many outputs": (
        Network((6, 7, 18), ("tanh",), "softmax", "log_loss", False, (), 0.1), {}, "float32", False
    ),
    "huber": (
        Network((6, 7, 2), ("tanh",), "identity", "huber", True, (0.2, 0.7)), {}, "float64", True
    ),
    "quantiles, many outputs": (
        Network((6, 18), (), "identity", "quantile", True, tuple((1 + i) / 20 for i in range(18))),
        {}, "float64", False,
    ),
    "log_cosh": (Network((6, 7, 2), ("tanh",), "identity", "log_cosh"), {}, "float32", False),
    "gamma": (Network((6, 7, 2), ("tanh",), "exp", "gamma"), {}, "float64", False),
    "one output": (Network((6, 4, 1), ("relu",), "logistic", "log_loss"), {}, "float32", True),
    "nadam, derivatives from outputs": (
        Network((6, 7, 5, 4, 3), ("leaky_relu", "elu", "selu"), "softmax", "log_loss"),
        dict(solver="nadam", learning_rate_init=0.01), "float64", True,
    ),
    "rmsprop, derivatives from z": (
        Network((6, 7, 5, 18), ("silu", "mish"), "softplus", "squared_error"),
        dict(solver="rmsprop", learning_rate_init=0.001, schedule="one_cycle"), "float32", False,
    ),
    "lion": (
        Network((6, 7, 2), ("mish",), "elu", "squared_error"),
        dict(solver="lion", learning_rate_init=0.01, weight_decay=0.5, warmup=0.3), "float64", True,
    ),
}  # fmt: skip
MISSING = "huber", "quantile", "log_cosh"  # with which some targets are
# float32 sums differ in their order.
TOLERANCE = {"float64": dict(rtol=1e-10, atol=1e-12), "float32": dict(rtol=1e-4, atol=1e-5)}


def make_data(network, dtype, weighted=False, X=None):
    """Rows for a network; with weights, the whole first batch has none."""
    random = np.random.default_rng(0)
    X = random.normal(size=(N_ROWS, network.layer_sizes[0])).astype(dtype) if X is None else X
    n_outputs = network.layer_sizes[-1]
    if network.output_activation == "softmax":
        targets = random.integers(0, n_outputs, N_ROWS)
    else:
        targets = random.integers(0, 2, (N_ROWS, n_outputs)).astype(dtype)
    if network.loss in MISSING:
        targets = (targets + random.normal(size=targets.shape)).astype(dtype)
        targets[random.random(targets.shape) < 0.3] = np.nan
        targets[5:7] = np.nan
    if network.loss == "gamma":
        targets += 1
    weight = None
    if weighted:
        weight = random.uniform(0.5, 2, N_ROWS)
        weight[:BATCH_SIZE] = 0
    return Data(X, targets, weight, 0.5)


def make_engines(network, dtype, **optimizer):
    """The engine under test and the oracle, alike, each with its optimizer."""
    start = network.initialise(np.random.RandomState(1), dtype, default_activation="relu")
    optimizer = dict(optimizer)
    rates, pairs = optimizer.pop("dropout", None), []
    for make in (Engine, NaiveEngine):
        engine = make(network, np.dtype(dtype))
        own = Optimizer(**dict(solver="sgd", learning_rate_init=0.1) | optimizer)
        own.reset(network.n_parameters, dtype)
        if rates is not None:
            own.dropout = Dropout.of(rates, seed=2**63 - 5)
        engine.load_parameters(start)
        engine.load_moments(own.moments)
        pairs.append((engine, own))
    return pairs


def train_epoch(engine, optimizer, data, order, batch_size, alpha):
    """One epoch's loss; the optimizer counts its updates."""
    weight = data.sample_weight
    steps = StepPlanner(optimizer, len(order), batch_size, weight, alpha, 9).next_epoch(order)
    loss = engine.train_epoch(data, order, steps)
    optimizer.step += steps.made
    return loss


def train(engine, optimizer, data, epochs=2, alpha=0.01):
    """Every epoch's loss; each goes through the rows in another order."""
    random = np.random.RandomState(2)
    return [
        train_epoch(engine, optimizer, data, random.permutation(N_ROWS), BATCH_SIZE, alpha)
        for _ in range(epochs)
    ]


@pytest.mark.parametrize(("network", "settings", "dtype", "weighted"), CASES.values(), ids=CASES)
def test_verbs(network, settings, dtype, weighted):
    data, tolerance = make_data(network, dtype, weighted), TOLERANCE[dtype]
    (ours, own), (oracle, its) = make_engines(network, dtype, **settings)
    assert isinstance(ours, fastbp.engine.Engine)
    np.testing.assert_allclose(train(ours, own, data), train(oracle, its, data), **tolerance)
    assert own.step == its.step
    np.testing.assert_allclose(ours.store_parameters(), oracle.store_parameters(), **tolerance)
    np.testing.assert_allclose(ours.store_moments(), oracle.store_moments(), **tolerance)
    rows = np.array([3, 0, 12])
    for arguments in (), (rows,), (rows, "identity"):
        np.testing.assert_allclose(
            ours.predict(data, *arguments), oracle.predict(data, *arguments), **tolerance
        )
    found, expected = ours.loss_and_gradient(data), oracle.loss_and_gradient(data)
    assert found[0] == pytest.approx(expected[0], rel=tolerance["rtol"])
    np.testing.assert_allclose(found[1], expected[1], **tolerance)


SMALL = Network((4, 3, 2), ("relu",), "softmax", "log_loss")
KINDS = {
    "bytes": np.arange(52, dtype=np.uint8).reshape(N_ROWS, 4),
    "booleans": np.arange(52).reshape(N_ROWS, 4) % 3 == 0,
    "int64": np.arange(-20, 32).reshape(N_ROWS, 4),
    "columns first": np.asfortranarray(np.linspace(-1, 1, 52).reshape(N_ROWS, 4)),
    "CSR": sp.random(N_ROWS, 4, 0.5, format="csr", random_state=0),
    "CSR with duplicates": sp.csr_array(
        (np.ones(26), np.tile([1, 1], N_ROWS), np.arange(0, 27, 2)), shape=(N_ROWS, 4)
    ),
}


@pytest.mark.parametrize("X", KINDS.values(), ids=KINDS)
def test_inputs_of_every_kind(X):
    data = make_data(SMALL, "float32", X=X)
    (ours, own), (oracle, its) = make_engines(SMALL, "float32")
    found, expected = train(ours, own, data, epochs=1), train(oracle, its, data, epochs=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fresh = Data(X, input_scale=0.5)  # not yet on the device
    np.testing.assert_allclose(ours.predict(fresh), oracle.predict(fresh), rtol=1e-4)
    assert ours.inputs_were_finite
    assert ours.outputs_were_finite


@pytest.mark.parametrize("window", [1, 2])
def test_windows_do_not_change_results(monkeypatch, window):
    def run():
        (ours, own), _ = make_engines(SMALL, "float32")
        return train(ours, own, data), ours.store_parameters()

    data = make_data(SMALL, "float32", weighted=True)
    expected = run()
    monkeypatch.setattr(generic_program, "WINDOW_STEPS", window)
    monkeypatch.setattr(generic_program, "GRAPH_WINDOWS", 1)
    found = run()
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_more_tiles_than_a_grid_has_down(monkeypatch):
    """A launch failed where more than 65,535 tiles of a batch were one above the other."""
    network, results = CASES["deep, many outputs"][0], []
    data = make_data(network, "float64")
    for most in (forward_pass.MOST_DOWN, 2):  # of three tiles
        monkeypatch.setattr(forward_pass, "MOST_DOWN", most)
        (ours, own), _ = make_engines(network, "float64")
        losses = [train_epoch(ours, own, data, np.arange(N_ROWS), 12, 0.1) for _ in range(2)]
        results.append((losses, ours.store_parameters().tolist()))
    assert results[0] == results[1]


def test_a_loss_that_is_not_finite_ends_the_epoch(monkeypatch):
    monkeypatch.setattr(generic_program, "WINDOW_STEPS", 1)
    X = np.ones((N_ROWS, 4))
    X[BATCH_SIZE] = np.nan  # in the second of three batches
    data = make_data(SMALL, "float64", X=X)
    (ours, own), _ = make_engines(SMALL, "float64")
    assert np.isnan(train_epoch(ours, own, data, np.arange(N_ROWS), BATCH_SIZE, 0.0))
    assert own.step == 2
    ours.predict(data)
    assert not ours.inputs_were_finite
    assert not ours.outputs_were_finite


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's, of NumPy
def test_outputs_that_overflow_are_noticed():
    data = make_data(SMALL, "float64", X=np.ones((N_ROWS, 4)))
    (ours, _), _ = make_engines(SMALL, "float64")
    ours.load_parameters(np.full(SMALL.n_parameters, np.finfo(float).max))
    ours.predict(data)
    assert ours.inputs_were_finite
    assert not ours.outputs_were_finite


def test_no_row_has_weight():
    data = make_data(SMALL, "float64")
    data = Data(data.X, data.targets, np.zeros(N_ROWS), 1.0)
    (ours, own), _ = make_engines(SMALL, "float64")
    before = ours.store_parameters()
    assert np.isnan(train_epoch(ours, own, data, np.arange(N_ROWS), BATCH_SIZE, 0.1))
    assert own.step == 0
    np.testing.assert_array_equal(ours.store_parameters(), before)


def test_another_batch_size_takes_the_state_over():
    data = make_data(SMALL, "float64")
    pairs = make_engines(SMALL, "float64", solver="adam", learning_rate_init=0.05)
    losses = [
        [train_epoch(engine, own, data, np.arange(N_ROWS), size, 0.0) for size in (5, 4, 13)]
        for engine, own in pairs
    ]
    np.testing.assert_allclose(*losses, rtol=1e-12)
