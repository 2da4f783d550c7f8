"""L-BFGS-B calls BLAS for tiny matrices: its threads cost far more than they computed."""

import os
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fastbp import MLPClassifier
from fastbp.blas import one_blas_thread

X = np.random.default_rng(0).standard_normal((40, 3))
y = (X[:, 0] > 0).astype(int)


def blas_threads():
    """Of all loaded libraries; a single one, as they are of one kind here."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def test_lbfgs_holds_blas_to_one_thread():
    seen = []
    model = MLPClassifier(
        (4,), solver="lbfgs", max_iter=3, callback=lambda _: seen.append(blas_threads())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    assert seen == [{1}] * 3
    assert blas_threads() == {2}


def test_it_is_taken_back_after_an_error():
    def fail(_):
        raise RuntimeError("no")

    model = MLPClassifier((4,), solver="lbfgs", callback=fail)
    with pytest.raises(RuntimeError, match="no"):
        model.fit(X, y)
    assert blas_threads() == {2}


def test_fits_that_overlap_take_it_back_once():
    """Each for itself, the second would have found one thread and left that behind."""
    begun, first_is_over = threading.Event(), threading.Event()

    def second():
        with one_blas_thread():
            begun.set()
            first_is_over.wait(60)

    thread = threading.Thread(target=second)
    with one_blas_thread():
        thread.start()
        assert begun.wait(60)
        assert blas_threads() == {1}
    first_is_over.set()
    thread.join(60)
    assert blas_threads() == {2}
    with one_blas_thread():
        assert blas_threads() == {1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_a_fit_leaves_the_child_free_to_set_it():
    with one_blas_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
        if child == 0:
            try:
                threadpool_limits(2, user_api="blas")
                with one_blas_thread():
                    os._exit(0 if blas_threads() == {1} else 2)
            finally:
                os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
