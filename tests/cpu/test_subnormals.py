"""Subnormal numbers count as zero in kernels, and the caller's mode is as it was afterwards."""

import ctypes
import ctypes.util
import platform
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array
from test_shipped import HAS, run

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
IS_X86_OF_GLIBC = platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"
TINY = 1e-39  # subnormal in float32
ENLARGING = 1e38  # by which it is a number like others
FLAGS = 0x3F  # of MXCSR: what has happened so far, which any addition may set
FLUSHES = 0x8040  # FTZ and DAZ


def make(**parameters):
    parameters = dict(hidden_layer_sizes=(7,), max_iter=3, random_state=0, n_threads=1) | parameters
    return fastbp.MLPClassifier(precision="float32", **parameters)


def make_rows(value, seed=0):
    """Rows of which some columns are all one value."""
    X = np.random.default_rng(seed).normal(size=(600, 12)).astype(np.float32)
    X[:, ::3] = value
    return X, np.arange(len(X)) % 3


def everything(value, as_matrix, **parameters):
    """What a fit and predictions give, as numbers."""
    X, y = make_rows(value)
    model = make(**parameters).fit(as_matrix(X), y)
    found = [*model.coefs_, *model.intercepts_, model.loss_curve_]
    if model.solver != "lbfgs":
        found += model._optimizer.moments
    # Enlarged, the numbers would be as large as the others.
    vars(model)["_model"] = replace(model._model, input_scale=ENLARGING)
    X[:, 1::3] = X[:, 2::3] = 0
    few = model.predict_proba(as_matrix(X[:1]))
    return [*found, few, model.predict_proba(as_matrix(X))]


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "arm64", "aarch64"), reason="nothing flushes"
)
@pytest.mark.parametrize("as_matrix", [np.array, csr_array])
@pytest.mark.parametrize("parameters", [{"solver": "sgd"}, {"n_threads": 2}, {"solver": "lbfgs"}])
def test_they_count_as_zeros(as_matrix, parameters, monkeypatch):
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_START", 0)
    found, expected = (everything(value, as_matrix, **parameters) for value in (TINY, 0))
    for ours, zeros in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, zeros)


# ---- the caller's mode --------------------------------------------------------------------------


class Environment:
    """The floating-point environment of this thread, by C's functions for it."""

    def __init__(self):
        self._library = ctypes.CDLL(ctypes.util.find_library("m"))
        self._buffer = (ctypes.c_uint32 * 8)()  # the last is MXCSR

    def read(self):
        """The control word, without flags."""
        assert self._library.fegetenv(self._buffer) == 0
        return self._buffer[7] & ~FLAGS

    def write(self, word):
        self.read()
        self._buffer[7] = word
        assert self._library.fesetenv(self._buffer) == 0


def end_well(model, X, y):
    model.fit(X, y).predict(X)
    model.predict(X[:1])


def end_early(model, X, y):
    def interrupt(report):
        raise KeyboardInterrupt

    model.set_params(callback=interrupt).fit(X, y)


def fail(model, X, y):
    model.set_params(learning_rate_init=1e30, solver="sgd")
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(X, y)


def fail_in_a_callback(model, X, y):
    def callback(report):
        report.predict(X)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        model.set_params(callback=callback).fit(X, y)


@pytest.mark.skipif(not IS_X86_OF_GLIBC, reason="the place of the word in C's record is glibc's")
@pytest.mark.parametrize("end", [end_well, end_early, fail, fail_in_a_callback])
@pytest.mark.parametrize("changed", [0, 0x8000, FLUSHES])
@pytest.mark.filterwarnings("ignore:Training interrupted")
@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_the_callers_mode_is_as_before(end, changed):
    environment, (X, y) = Environment(), make_rows(1.0)
    before = environment.read()
    assert before & FLUSHES == 0
    try:
        environment.write(before | changed)
        end(make(), X, y)
        after = environment.read()
    finally:
        environment.write(before)
    assert after == before | changed


PROGRAM = f"""
import warnings
import numpy as np
from fastbp import MLPRegressor
from fastbp.cpu.code import CODE
warnings.simplefilter("ignore")
X = np.full((90, 5), {TINY}, "f4")
model = MLPRegressor("squared_error", (7,), max_iter=1, random_state=0, input_scale={ENLARGING})
model.fit(X, np.zeros(90))
same = model.predict(X) == model.predict(X * 0)
print(same.all(), model.predict(X[:1]) == model.predict(X[:1] * 0), CODE.is_compiled_here)
print(np.float32(1e-40) * np.float32(1) > 0)
"""


@pytest.mark.skipif(not HAS, reason="no kernels are shipped for this kind of machine")
def test_shipped_code_flushes_too(package):
    done = run(PROGRAM, package.parent)
    assert done.stdout.split() == ["True", "[", "True]", "False", "True"], done.stderr
