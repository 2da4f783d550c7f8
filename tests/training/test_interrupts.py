"""Ctrl-C: a real signal in the midst of a long epoch, on any number of threads."""

import contextlib
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
from conftest import small, weights
from processes import call_alone
from scipy.sparse import csr_array

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_ROWS = 1_000_000  # an epoch of minutes


def long_data(kind):
    """Rows that take no memory of their own."""
    row = np.arange(784, dtype=np.uint8) % 7
    if kind == "dense":
        return np.broadcast_to(row, (N_ROWS, 784))
    columns = np.tile(np.array([3, 400], np.int32), N_ROWS)
    starts = 2 * np.arange(N_ROWS + 1, dtype=np.int32)
    return csr_array((np.ones(2 * N_ROWS, np.uint8), columns, starts), shape=(N_ROWS, 784))


@contextlib.contextmanager
def interrupt_during_call(number):
    """Send SIGINT while the kernels are called for the given time; give the list of calls."""
    from fastbp.cpu import engine, predicting

    calls, run_team = [], engine.run_team

    def run_and_interrupt(*arguments):
        calls.append(1)
        if len(calls) == number:
            # Another thread, so that the signal comes when the kernel has the core.
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        run_team(*arguments)

    engine.run_team = predicting.run_team = run_and_interrupt
    try:
        yield calls
    finally:
        engine.run_team = predicting.run_team = run_team


def interrupt_fit(solver, n_threads, kind, early_stopping):
    """Fit; tell what is left when Ctrl-C has come in the first epoch."""
    X, y = long_data(kind), np.arange(N_ROWS, dtype=np.int8) % 3
    model = fastbp.MLPClassifier(
        (1024, 1024), solver=solver, n_threads=n_threads, random_state=0, precision="float32",
        batch_size=300, early_stopping=early_stopping, warm_start=True,
    )  # fmt: skip
    with interrupt_during_call(3) as calls, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    loaded = pickle.loads(pickle.dumps(model))
    return {
        "calls": len(calls),
        "warnings": [(w.category.__name__, str(w.message), w.filename) for w in caught],
        "n_iter": model.n_iter_,
        "rows": model.t_,
        "updates": 0 if solver == "lbfgs" else model._optimizer.step,
        "same": bool((loaded.predict_proba(X[:9]) == model.predict_proba(X[:9])).all()),
        "goes on": model.set_params(max_iter=1).fit(X[:900], y[:900]).n_iter_,
    }


def interrupt_prediction():
    """Predict; count the calls of kernels when Ctrl-C has come. It ran to its end in one."""
    X = long_data("dense")
    model, _, _ = small("single", hidden_layer_sizes=(1024, 1024), n_threads=3, max_iter=1)
    model.fit(X[:300], np.arange(300.0))
    with interrupt_during_call(2) as calls:
        try:
            model.predict(X)
        except KeyboardInterrupt:
            return len(calls)


LONG_EPOCHS = [
    ("adam", 1, "dense", False),
    ("adam", 3, "dense", False),
    ("sgd", 3, "sparse", True),
    ("lbfgs", 1, "dense", False),
]


def interrupt_several_times():
    """In one process, as each would import and load everything anew."""
    return [interrupt_fit(*case) for case in LONG_EPOCHS], interrupt_prediction()


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_long_epochs_and_a_long_prediction():
    fits, calls_of_prediction = call_alone(interrupt_several_times)
    for (solver, *_), left in zip(LONG_EPOCHS, fits, strict=True):
        assert left["calls"] <= 4  # not one more than that in which the signal came
        assert left["warnings"] == [["UserWarning", "Training interrupted by user.", __file__]]
        assert (left["n_iter"], left["rows"]) == (0, 0)
        assert left["updates"] < N_ROWS / 300 / 10
        assert (left["updates"] > 0) == (solver != "lbfgs")
        assert left["same"]
        assert left["goes on"] == 1
    assert calls_of_prediction in (2, 3)


@contextlib.contextmanager
def interrupt_during_update(number):
    """Send SIGINT in the given call, as soon as the output layer's weights are new ones."""
    from fastbp.cpu import engine

    calls, run_team, broken_batch, kept = [], engine.run_team, engine.BrokenBatch, []

    def interrupt():
        weights, before = kept[-1]._arrays[0], kept[-1]._copies[0]
        while np.array_equal(weights, before):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def run_and_interrupt(*arguments):
        calls.append(1)
        if len(calls) == number:
            threading.Thread(target=interrupt).start()
        run_team(*arguments)

    engine.run_team = run_and_interrupt
    engine.BrokenBatch = lambda *arguments: kept.append(broken_batch(*arguments)) or kept[-1]
    try:
        yield
    finally:
        engine.run_team, engine.BrokenBatch = run_team, broken_batch


def interrupt_batches():
    """Fits of one batch each, left in the midst of the second; and what they were before."""
    rng, found = np.random.default_rng(0), []
    X, y = rng.random((12_000, 784), np.float32), np.arange(12_000) % 3
    for solver, n_threads in (("sgd", 1), ("adam", 2)):
        model = fastbp.MLPClassifier(
            (512, 512), solver=solver, n_threads=n_threads, random_state=0, batch_size=len(X),
        )  # fmt: skip
        left = []
        for n_epochs in (1, 3):
            model.set_params(max_iter=n_epochs)
            # There is a second call in the second fit only.
            with interrupt_during_update(2), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, y)
            optimizer = model._optimizer
            left.append([weights(model), *optimizer.moments, [optimizer.step, model.n_iter_]])
        found.append([bool(np.array_equal(one, other)) for one, other in zip(*left, strict=True)])
    return found


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_a_batch_that_takes_long_is_broken_off_and_taken_back():
    """The whole of a fit's rows in one batch were minutes in which nobody heard Ctrl-C."""
    assert call_alone(interrupt_batches) == [[True] * 3, [True] * 4]


def interrupt_compilation():
    """Ctrl-C at some steps of the first compilation, again and again; then fit."""
    from numba.core import compiler_machinery

    passes, run_pass = [], compiler_machinery.PassManager._runPass

    def run_and_interrupt(*arguments):
        passes.append(1)
        if len(passes) in (3, 100, 350):
            os.kill(os.getpid(), signal.SIGINT)
        return run_pass(*arguments)

    compiler_machinery.PassManager._runPass = run_and_interrupt
    model, X, y = small("multiclass")
    interrupts = 0
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model.fit(X, y)
            except KeyboardInterrupt:
                interrupts += 1  # outside of training: the model is as it was
                continue
        interrupts += sum("interrupted by user" in str(w.message) for w in caught)
        assert np.isfinite(weights(model)).all()
    return interrupts, weights(model.fit(X, y)).tolist()


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_the_first_compilation(tmp_path):
    """Half-compiled kernels leave nothing that would be in the way."""
    interrupts, found = call_alone(interrupt_compilation, FASTBP_CACHE_DIR=str(tmp_path))
    assert interrupts == 3
    model, X, y = small("multiclass")
    np.testing.assert_array_equal(found, weights(model.fit(X, y)))


@pytest.mark.parametrize("batch_size", [1, 7, 90])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_calls_of_any_length_give_the_same_bits(monkeypatch, solver, batch_size):
    from fastbp.cpu import engine, predicting, work

    model, X, y = small("multiclass", solver=solver, batch_size=batch_size)
    expected = weights(model.fit(X, y)), model.predict_proba(X), model.loss_curve_
    calls = []
    monkeypatch.setattr(work, "WORK_PER_CALL", 1)
    monkeypatch.setattr(predicting, "PREDICT_ROWS", 7)
    monkeypatch.setattr(predicting, "FEW_BYTES", 0)
    for module in (engine, predicting):
        monkeypatch.setattr(
            module, "run_team", lambda *a, run=engine.run_team: calls.append(1) or run(*a)
        )
    found = weights(model.fit(X, y)), model.predict_proba(X), model.loss_curve_
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(calls) > 5
