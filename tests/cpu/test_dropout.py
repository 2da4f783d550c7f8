"""Dropout, bounded gradients and averages of the weights, against the oracle in plain NumPy."""

import numpy as np
import pytest
from naive import NaiveEngine, dropout_factors
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix

from fastbp.activations import HIDDEN_ACTIVATIONS
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.dropout import Dropout, random_words
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

N_ROWS, N_FEATURES, BATCH_SIZE = 47, 19, 13
EXTRAS = {
    "dropout": dict(dropout=(0.0, 0.5, 0.25)),
    "one layer": dict(dropout=(0.0, 0.0, 0.4)),
    "inputs": dict(dropout=(0.3, 0.0, 0.0)),
    "clipping": dict(max_grad_norm=0.05),
    "no clipping": dict(max_grad_norm=1e9),
    "average": dict(ema_decay=0.8),
    "all": dict(dropout=(0.2, 0.1, 0.6), max_grad_norm=0.05, ema_decay=0.9),
}
SOLVERS = {
    "sgd": dict(solver="sgd", learning_rate_init=0.05),
    "adamw": dict(solver="adamw", learning_rate_init=0.01, weight_decay=0.1),
}


def make_data(dtype=np.float64, is_sparse=False, weighted=True):
    random = np.random.default_rng(3)
    X = random.normal(size=(N_ROWS, N_FEATURES)) * (random.random((N_ROWS, N_FEATURES)) < 0.3)
    weight = random.integers(0, 3, N_ROWS) / 2 if weighted else None
    X = X.astype(dtype)
    return Data(csr_matrix(X) if is_sparse else X, random.integers(0, 3, N_ROWS), weight)


def train(engine, data, solver, extra, n_epochs=3):
    """Losses, parameters and moments after some epochs."""
    extra = dict(extra)
    rates = extra.pop("dropout", None)
    optimizer = Optimizer(**SOLVERS[solver], **extra)
    optimizer.reset(engine.network.n_parameters, engine.dtype)
    if rates is not None:
        optimizer.dropout = Dropout.of(rates, seed=2**62 + 12345)
    start = engine.network.initialise(
        np.random.RandomState(2), engine.dtype, default_activation="relu"
    )
    engine.load_parameters(start)
    engine.load_moments(optimizer.moments)
    planner = StepPlanner(optimizer, N_ROWS, BATCH_SIZE, data.sample_weight, 0.1, n_epochs)
    random, losses = np.random.default_rng(4), []
    for _ in range(n_epochs):
        order = random.permutation(N_ROWS)
        steps = planner.next_epoch(order)
        losses.append(engine.train_epoch(data, order, steps))
        optimizer.step += steps.made
    return losses, engine.store_parameters(), *engine.store_moments()


def network_of(activations=("tanh", "gelu")):
    return Network((N_FEATURES, 37, 18, 3), activations, "softmax", "log_loss")


def test_random_words_are_those_of_the_generator_s_authors():
    """Known answers of Random123, by Salmon and others, for philox4x32-10."""
    answers = [
        ((0, 0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((*[2**32 - 1] * 4, 2**64 - 1), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0x299F31D0A4093822),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, words in answers:
        assert random_words(*map(np.uint64, counter)) == words


def test_a_share_of_the_units_is_left_out_and_the_mean_remains():
    dropout = Dropout.of((0.1, 0.5), seed=7)
    factors = [dropout_factors(dropout, layer, 3, (1_000, 400)) for layer in (0, 1)]
    for rate, found in zip((0.1, 0.5), factors, strict=True):
        assert abs((found == 0).mean() - rate) < 0.003
        assert abs(found.mean() - 1) < 0.006
        # Neither rows nor units repeat each other.
        left_out = found == 0
        for one, other in ((left_out[:-1], left_out[1:]), (left_out[:, :-1], left_out[:, 1:])):
            assert abs((one & other).mean() - rate**2) < 0.003


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_training_follows_the_oracle(extra, solver, dtype):
    tolerance = dict(rtol=1e-9, atol=1e-11) if dtype == np.float64 else dict(rtol=2e-3, atol=2e-5)
    data = make_data()
    ours, oracle = (
        train(make(network_of(), dtype), data, solver, EXTRAS[extra])
        for make in (Engine, NaiveEngine)
    )
    for found, expected in zip(ours, oracle, strict=True):
        assert_allclose(found, expected, **tolerance)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_dropped_units_pass_errors_of_every_activation(activation):
    ours, oracle = (
        train(make(network_of((activation,) * 2), np.float64), make_data(), "sgd", EXTRAS["all"])
        for make in (Engine, NaiveEngine)
    )
    for found, expected in zip(ours, oracle, strict=True):
        assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("extra", EXTRAS)
def test_sparse_rows_train_like_dense_ones(extra):
    dense, sparse = (
        train(
            Engine(network_of(), np.float64), make_data(is_sparse=is_sparse), "sgd", EXTRAS[extra]
        )
        for is_sparse in (False, True)
    )
    for found, expected in zip(sparse, dense, strict=True):
        assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(is_sparse, monkeypatch):
    monkeypatch.setattr("fastbp.cpu.work.Work.useful_threads", lambda *arguments: 3)
    results = [
        train(Engine(network_of(), np.float32, n_threads), make_data(is_sparse=is_sparse), "adamw",
              EXTRAS["all"])
        for n_threads in (1, 3)
    ]  # fmt: skip
    for found, expected in zip(*results, strict=True):
        assert_array_equal(found, expected)


def test_a_rare_infinite_gradient_is_noticed():
    """A norm of NaN is not taken for one within its bound."""
    data = make_data()
    data.X[5, 3] = np.nan
    losses, *_ = train(Engine(network_of(), np.float64), data, "sgd", EXTRAS["clipping"], 2)
    assert not np.isfinite(losses).all()
