"""Predictions straight from the flat parameters, and evaluations that keep their arrays."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from fastbp import MLPClassifier
from fastbp.cpu import predicting
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.network import Network


@pytest.mark.parametrize("way", ["one by one", "by panels"])
@pytest.mark.parametrize("density", [0.1, 0.5, None])
@pytest.mark.parametrize("sizes", [(40, 20, 3), (30, 1), (9, 131, 33, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_flat_parameters_give_the_bits_of_packed_ones(monkeypatch, dtype, sizes, density, way):
    random = np.random.RandomState(0)
    network = Network(sizes, ("relu",) * (len(sizes) - 2), "identity", "squared_error")
    parameters = random.normal(size=network.n_parameters).astype(dtype)
    X = random.normal(size=(45, sizes[0]))
    if density is not None:
        X = sp.random(45, sizes[0], density, "csr", random_state=random)
    monkeypatch.setattr(Engine, "_are_few", lambda *arguments: way == "one by one")
    flat, packed = Engine(network, dtype, 1), Engine(network, dtype, 1)
    flat.load_parameters(parameters)
    packed.load_parameters(parameters)
    assert_array_equal(packed.store_parameters(), parameters)  # from the panels
    found = flat.predict(Data(X))
    assert flat._flat is not None  # not packed
    monkeypatch.setattr(Engine, "_are_few", lambda *arguments: False)
    assert_array_equal(found, packed.predict(Data(X)))


def test_large_batches_are_split_by_panels(monkeypatch):
    monkeypatch.setattr(predicting, "PREDICT_ROWS", 8)
    monkeypatch.setattr(predicting, "FLAT_BATCHES", 1)
    monkeypatch.setattr(predicting, "FEW_BYTES", 0)
    network = Network((40, 20, 3), ("relu",), "identity", "squared_error")
    parameters = np.random.RandomState(0).normal(size=network.n_parameters)
    X = sp.random(100, 40, 0.1, "csr", random_state=0)
    engine, other = Engine(network, np.float64, 1), Engine(network, np.float64, 1)
    for each in engine, other:
        each.load_parameters(parameters)
    assert_array_equal(engine.predict(Data(X)), other.predict(Data(X.toarray())))
    assert engine._flat is not None
    assert other._flat is None


@pytest.fixture
def fitted():
    X = sp.random(60, 30, 0.1, "csr", random_state=0)
    return MLPClassifier((20,), max_iter=2, random_state=0).fit(X, np.arange(60) % 2), X


def test_changed_weights_are_used_at_once(fitted):
    model, X = fitted
    before = model.predict_proba(X)
    model.coefs_[0][:] *= -3
    changed = model.predict_proba(X)
    assert not np.allclose(before, changed)
    assert_array_equal(changed, model.predict_proba(X.toarray()))
    model.coefs_ = [0 * weights for weights in model.coefs_]
    assert len(np.unique(model.predict_proba(X)[:, 0])) == 1


def test_threads_predict_at_once_and_pickles_do_not_grow(fitted):
    model, X = fitted
    size, expected = len(pickle.dumps(model)), model.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.predict_proba, [X] * 32):
            assert_array_equal(found, expected)
    assert len(pickle.dumps(model)) == size


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize(
    ("name", "at", "value"), [("indices", -1, 30), ("indices", 0, -1), ("indptr", 2, 10**6)]
)
def test_indices_out_of_bounds_are_refused(fitted, kind, name, at, value):
    """In the last place of a row, or the first, columns are still in order."""
    model, X = fitted
    X = kind(X)
    getattr(X, name)[at] = value
    with pytest.raises(ValueError, match="not a valid CSR matrix"):
        model.predict(X)


def test_unsorted_columns_and_duplicates_have_the_dense_bits(fitted):
    model, _ = fitted
    X = sp.csr_matrix((np.array([1.0, 2, 3]), np.array([7, 2, 7]), np.array([0, 3])), (1, 30))
    assert_array_equal(model.predict_proba(X), model.predict_proba(X.toarray()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(fitted, value):
    model, X = fitted
    X.data[5] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.predict(X)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_evaluations_in_a_row_are_those_of_new_engines(dtype, is_sparse):
    random = np.random.RandomState(0)
    network = Network((12, 20, 3), ("tanh",), "identity", "squared_error")
    X = sp.random(300, 12, 0.1, "csr", random_state=random)
    data = Data(X if is_sparse else X.toarray(), random.normal(size=(300, 3)))
    with Engine(network, dtype, 1) as engine:
        for _ in range(3):
            parameters = random.normal(size=network.n_parameters)
            engine.load_parameters(parameters)
            found, buffers = engine.loss_and_gradient(data), engine._buffers
            new = Engine(network, dtype, 1)
            new.load_parameters(parameters)
            expected = new.loss_and_gradient(data)
            assert found[0] == expected[0]
            assert_array_equal(found[1], expected[1])
            again = engine.loss_and_gradient(data)
            assert_array_equal(again[1], found[1])
            assert engine._buffers is buffers
