"""Fits and predictions side by side: in threads, in forked processes, under joblib."""

import multiprocessing
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TASKS, small, weights
from joblib import Parallel, cpu_count, delayed, parallel_config
from processes import call_alone
from threadpoolctl import threadpool_limits

from fastbp.cpu import engine, predicting, work
from fastbp.threads import available_threads

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::DeprecationWarning"
)
N_THREADS = 8
JOBS = [
    (task, {"solver": solver, "precision": precision, "early_stopping": solver == "sgd"})
    for task, solver, precision in zip(
        [*TASKS, "multiclass", "single"],
        ["adam", "sgd", "adam", "lbfgs"] * 2,
        ["float64", "float64", "float32"] * 3,
        strict=False,
    )
]
FLOAT64_JOBS = [(task, given) for task, given in JOBS if given["precision"] == "float64"]


@pytest.fixture(params=[1, 3])
def team_size(request, monkeypatch):
    """Let every fit and prediction, however small, use a team of that size."""
    monkeypatch.setattr(engine, "available_threads", lambda: 64)
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(predicting, "PREDICT_ROWS", 16)
    monkeypatch.setattr(predicting, "FEW_BYTES", 0)
    return request.param


def at_once(*calls):
    """Call functions in threads of their own, all at once; their results in order."""
    start = threading.Barrier(len(calls))

    def call(function):
        start.wait()
        return function()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def outcome(task, parameters):
    """What a fit, a partial fit and a prediction come to."""
    model, X, y = small(task, hidden_layer_sizes=(9, 5), max_iter=8, **parameters)
    model.fit(X, y)
    if model.solver != "lbfgs":
        model.set_params(early_stopping=False).partial_fit(X, y)
    return np.concatenate(
        [weights(model), model.loss_curve_, np.ravel(model._outputs(model._model, X))]
    )


def test_fits_in_threads_give_the_bits_of_lone_fits(team_size):
    jobs = [(task, {**given, "n_threads": team_size}) for task, given in JOBS]
    assert len(jobs) == N_THREADS
    alone = [outcome(*job) for job in jobs]
    for _ in range(2):
        together = at_once(*(lambda job=job: outcome(*job) for job in jobs))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", ["multiclass", "multi-output"])
def test_one_model_predicts_in_many_threads(task, team_size):
    model, X, y = small(task, hidden_layer_sizes=(9, 5), n_threads=team_size)
    model.fit(X, y)
    predict = getattr(model, "predict_log_proba", model.predict)
    parts = [X[start:] for start in range(N_THREADS)]
    expected = [predict(part) for part in parts]

    def repeat(part):
        return [predict(part) for _ in range(20)]

    for found, alone in zip(
        at_once(*(lambda part=part: repeat(part) for part in parts)), expected, strict=True
    ):
        for one in found:
            np.testing.assert_array_equal(one, alone)


def fit_in_threads_at_once():
    """The first fits of a process, all at once: each wants the kernels compiled."""
    warnings.simplefilter("ignore")
    results = at_once(*(lambda job=job: outcome(*job) for job in FLOAT64_JOBS))
    return [result.tolist() for result in results]


def test_first_fits_of_a_process_in_threads(tmp_path):
    found = call_alone(fit_in_threads_at_once, FASTBP_CACHE_DIR=str(tmp_path))
    for job, result in zip(FLOAT64_JOBS, found, strict=True):
        np.testing.assert_array_equal(result, outcome(*job))


# ---- forked processes ---------------------------------------------------------------------------


def serve_before_and_after_a_fork():
    """Like a web server: fit, fork workers that all predict and fit, and predict meanwhile."""
    work.WORK_PER_THREAD, predicting.PREDICT_ROWS, predicting.FEW_BYTES = 1, 16, 0
    model, X, y = small("multiclass", n_threads=3)
    expected = model.fit(X, y).predict_proba(X)
    fitted = weights(model)
    context = multiprocessing.get_context("fork")
    results, ready = context.SimpleQueue(), context.Barrier(4)

    def serve():
        ready.wait()
        same = all((model.predict_proba(X) == expected).all() for _ in range(50))
        other, _, _ = small("multiclass", n_threads=3)
        results.put(bool(same and (weights(other.fit(X, y)) == fitted).all()))

    workers = [context.Process(target=serve, daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    ready.wait()
    same = [bool((model.predict_proba(X) == expected).all()) for _ in range(50)]
    answers = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    codes = [worker.exitcode for worker in workers]
    return all(same), answers, codes, bool((weights(model.fit(X, y)) == fitted).all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers():
    """numba's threading layers abort in a child of a parent that has used them."""
    assert call_alone(serve_before_and_after_a_fork) == [True, [True] * 3, [0] * 3, True]


# ---- joblib, threadpoolctl, affinity ------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib_gives_the_bits_of_lone_fits(backend):
    jobs = JOBS[:4]
    with parallel_config(backend=backend, n_jobs=2):
        together = Parallel()(delayed(outcome)(*job) for job in jobs)
    for job, result in zip(jobs, together, strict=True):
        np.testing.assert_array_equal(result, outcome(*job))


def test_loky_workers_share_the_cores():
    """Two processes with a team of all cores each would wait for each other at every barrier."""
    n_jobs = max(2, cpu_count())
    ask = delayed(available_threads)
    found = Parallel(n_jobs=n_jobs, backend="loky")(ask() for _ in range(n_jobs))
    assert found == [max(1, cpu_count() // n_jobs)] * n_jobs
    with parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
        assert Parallel()(ask() for _ in range(2)) == [1, 1]


def test_limits_of_threadpoolctl():
    with threadpool_limits(1):
        assert available_threads() == 1
    assert available_threads() == min(cpu_count(), int(os.environ.get("OMP_NUM_THREADS", 999)))


def threads_on_one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model, X, y = small("multiclass")
    return available_threads(), model.fit(X, y).n_iter_


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity():
    assert call_alone(threads_on_one_core) == [1, 5]


def count_threads():
    return available_threads()


def test_omp_num_threads():
    assert call_alone(count_threads, OMP_NUM_THREADS="1") == 1
