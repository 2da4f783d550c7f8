"""Sums over the rows of very large batches, in float32."""

import numpy as np
import pytest
from naive import NaiveEngine
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

import fastbp.cpu.rows as rows_module
from fastbp.cpu.engine import Engine
from fastbp.cpu.evaluation import GRADIENT_ROWS
from fastbp.cpu.layout import Layout
from fastbp.cpu.records import BLOCK_ROWS
from fastbp.cpu.workspace import GROUP_BATCHES, TrainingBuffers, make_workspace
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

MANY = 2**18 + 77


def as_kind(monkeypatch, kind, X):
    """X as rows that are dense, that are dense with their zeros skipped, or that are sparse."""
    monkeypatch.setattr(rows_module, "pays_to_skip_zeros", lambda *_: kind == "listed")
    monkeypatch.setattr(rows_module, "density_of", lambda _: 0.1)
    return csr_array(X) if kind == "sparse" else X


def step_of(network, data, parameters, batch_size, dtype="float32", n_threads=1):
    """What an epoch of gradient descent with a learning rate of 1 takes from the parameters."""
    optimizer = Optimizer("sgd", 1.0, momentum=0)
    optimizer.reset(network.n_parameters, np.dtype(dtype))
    order = np.arange(data.n_samples)
    planner = StepPlanner(optimizer, data.n_samples, batch_size, None, 0.0, 1)
    with Engine(network, dtype, n_threads) as engine:
        engine.load_parameters(parameters)
        engine.load_moments(optimizer.moments)
        engine.train_epoch(data, order, planner.next_epoch(order))
        return parameters - engine.store_parameters()


@pytest.mark.parametrize("target", [3.0, 0.7])
@pytest.mark.parametrize("kind", ["dense", "listed", "sparse", "lbfgs"])
def test_gradients_of_many_rows_keep_their_digits(monkeypatch, kind, target):
    """They were summed one after the other: 0.2 % was lost at these rows, 4 % at four million."""
    network = Network((1, 1), (), "identity", "squared_error")
    X = as_kind(monkeypatch, kind, np.ones((MANY, 1), np.float32))
    data, parameters = Data(X, np.full((MANY, 1), target)), np.zeros(2, np.float32)
    if kind == "lbfgs":
        with Engine(network, "float32", 1) as engine:
            engine.load_parameters(parameters)
            _, gradient = engine.loss_and_gradient(data)
    else:
        gradient = step_of(network, data, parameters, MANY)
    assert_allclose(gradient, -target, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS, 2999])
@pytest.mark.parametrize("sizes", [(45, 37, 3), (8, 129, 16, 1)])
def test_long_batches_have_the_same_bits_however_they_are_made(monkeypatch, sizes, batch_size):
    """By any number of threads, and with zeros skipped; those of sparse rows are near."""
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_START", 1)
    generator = np.random.default_rng(1)
    output, loss = ("softmax", "log_loss") if sizes[-1] > 1 else ("logistic", "log_loss")
    network = Network(sizes, ("tanh",) * (len(sizes) - 2), output, loss)
    X = generator.normal(size=(2999, sizes[0])) * (generator.random((2999, sizes[0])) < 0.1)
    X[:1000, :8] = X[2000:, -3:] = 0  # whole blocks of a tile without a step
    X[:, 4] = 1  # a column with more than a block of entries
    y = generator.integers(0, max(2, sizes[-1]), 2999)
    parameters = network.initialise(
        np.random.RandomState(0), np.dtype("float32"), default_activation="tanh"
    )
    steps = {}
    for kind in ("dense", "listed", "sparse"):
        data = Data(as_kind(monkeypatch, kind, X), y if sizes[-1] > 1 else y[:, None])
        for n_threads in (1, 3):
            step = step_of(network, data, parameters, batch_size, n_threads=n_threads)
            steps[kind, n_threads] = step
            expected = steps["sparse" if kind == "sparse" else "dense", 1]
            np.testing.assert_array_equal(step, expected)
    tolerance = dict(rtol=1e-4, atol=1e-6)
    assert_allclose(steps["sparse", 1], steps["dense", 1], **tolerance)
    exact = step_of(network, data, parameters.astype(np.float64), batch_size, "float64")
    assert_allclose(steps["dense", 1], exact, **tolerance)


def test_only_long_batches_in_float32_have_totals():
    """What they do not serve keeps its bits: float64, and float32 in usual batches."""
    network = Network((5, 9, 2), ("relu",), "softmax", "log_loss")

    def has_totals(dtype, rows, learns=True):
        return make_workspace(Layout(network, dtype), rows, learns=learns).totals.size > 0

    assert not has_totals("float32", BLOCK_ROWS)
    assert has_totals("float32", BLOCK_ROWS + 1)
    assert not has_totals("float32", BLOCK_ROWS + 1, learns=False)
    assert not has_totals("float64", 10**4)


@pytest.mark.parametrize("batches_per_call", [1, 7, GROUP_BATCHES, 10**6])
@pytest.mark.parametrize("n_groups", [0.5, 1, 2.3])
def test_sums_of_batches_do_not_depend_on_calls(monkeypatch, batches_per_call, n_groups):
    """A group of batches is summed in float32 in as many calls of the kernel as it takes."""
    network = Network((3, 4, 1), ("tanh",), "identity", "squared_error")
    generator = np.random.default_rng(2)
    n_rows = int(n_groups * GROUP_BATCHES * GRADIENT_ROWS)
    data = Data(generator.normal(size=(n_rows, 3)), generator.normal(size=(n_rows, 1)))
    parameters = generator.normal(size=network.n_parameters).astype(np.float32)
    make, found = TrainingBuffers.__new__, []

    def make_with(cls, *arguments):
        return make(cls, *arguments)._replace(batches_per_call=batches_per_call)

    for is_changed in (False, True):
        if is_changed:
            monkeypatch.setattr(
                "fastbp.cpu.engine.TrainingBuffers",
                lambda *arguments: make_with(TrainingBuffers, *arguments),
            )
        with Engine(network, "float32", 1) as engine:
            engine.load_parameters(parameters)
            found.append(engine.loss_and_gradient(data))
    assert_allclose(found[0][0], found[1][0], rtol=1e-15)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    oracle = NaiveEngine(network, "float64")
    oracle.load_parameters(parameters)
    assert_allclose(found[0][1], oracle.loss_and_gradient(data)[1], rtol=1e-4, atol=1e-6)
