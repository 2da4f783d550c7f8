"""What a kernel reads lives as long as any thread that runs it, whatever its caller is raised."""

import gc
import weakref

import numpy as np
import pytest
from scipy.sparse import csr_array

from fastbp.cpu import engine as cpu
from fastbp.cpu import predicting, work
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner


class LateError(Exception):
    """Raised by the handler of a signal."""


@pytest.fixture
def members(monkeypatch):
    """The functions of ranks whose caller was interrupted as soon as they had begun."""
    kept = []

    def leave(size, member, *arguments):
        kept.append(member)
        raise LateError

    for module in (cpu, predicting):
        monkeypatch.setattr(module, "run_team", leave)
    monkeypatch.setattr(cpu, "available_threads", lambda: 64)
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(predicting, "PREDICT_ROWS", 8)
    monkeypatch.setattr(predicting, "FEW_BYTES", 0)  # rows one by one need no team
    return kept


def train(engine, data):
    optimizer = Optimizer("adam", 0.01)
    optimizer.reset(engine.network.n_parameters, engine.dtype)
    engine.load_moments(optimizer.moments)
    order = np.arange(40)
    engine.train_epoch(data, order, StepPlanner(optimizer, 40, 20, None, 0.0, 1).next_epoch(order))


@pytest.mark.parametrize("use", [train, lambda engine, data: engine.predict(data)])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_what_ranks_read_outlives_an_interrupted_caller(members, use, is_sparse):
    """X was freed while threads still read it: they had its address, and not X."""
    network = Network((5, 6, 2), ("relu",), "softmax", "log_loss")
    dense = np.random.default_rng(0).normal(size=(40, 5))
    X = csr_array(dense) if is_sparse else dense
    data, engine = Data(X, np.arange(40) % 2, np.ones(40)), cpu.Engine(network, "float64", 3)
    engine.load_parameters(np.ones(network.n_parameters))
    arrays = [X.data, X.indices, X.indptr] if is_sparse else [X]
    arrays += [data.targets, data.sample_weight, engine.weights]
    references = [weakref.ref(array) for array in arrays]
    with pytest.raises(LateError):
        use(engine, data)
    del dense, X, data, engine, arrays
    gc.collect()
    assert all(reference() is not None for reference in references)
    members.clear()
    gc.collect()
    assert all(reference() is None for reference in references)
