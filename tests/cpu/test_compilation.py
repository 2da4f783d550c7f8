"""How kernels are compiled, cached and run: other CPUs, stale and missing caches."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbp.cpu import code, libraries
from fastbp.cpu.kernels import elementary, kernel_cache, simd
from fastbp.cpu.kernels.compilation import kernel, phase
from tests.cpu.callable import Callable

ROOT = Path(__file__).parents[2]

TRAIN = """
import warnings
from fastbp import MLPRegressor
warnings.simplefilter("ignore")
print(MLPRegressor(max_iter=2, random_state=0).fit([[0.0], [1.0]], [0.0, 1.0]).n_iter_)
"""


def run_program(program=TRAIN, **environment):
    """Run a program in a fresh process; return the words that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def elementwise(function):
    """Compile a loop over one of the elementary functions."""

    def loop(values, out):
        for i in range(values.size):
            out[i] = function(values[i])

    return Callable(loop)


def evenly_chosen(dtype, smallest, largest, count=100_000):
    """So many positive numbers of a dtype between two, about as many of every magnitude."""
    bits = np.array([smallest, largest], dtype).view(f"i{np.dtype(dtype).itemsize}")
    return np.linspace(*bits, count, dtype=bits.dtype).view(dtype)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "ulps"), [("exp", 0.8), ("expm1", 2.1), ("tanh", 2.1), ("log", 1.6), ("log1p", 1.6)]
)
def test_elementary_functions_are_right_to_the_last_bits(name, ulps, dtype):
    x = np.concatenate([evenly_chosen(dtype, *ends) for ends in ((1e-30, 1e30), (0.01, 87))])
    if name == "log1p":
        x = np.concatenate([-x[x < 1], x])
    elif name != "log":
        x = np.concatenate([-x[x < 87], x[x < 87]])
    out = np.empty_like(x)
    elementwise(getattr(elementary, name))(x, out)
    exact = getattr(np, name)(x.astype(np.longdouble))
    error = np.abs((out - exact) / exact)[x != 1] / np.finfo(dtype).eps
    assert error.max() < ulps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_beyond_their_range(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1e4, -1e4, 0.0], dtype)
    out = np.empty_like(x)
    for name, expected in (
        ("exp", [math.nan, math.inf, 0, math.inf, 0, 1]),
        ("expm1", [math.nan, math.inf, -1, math.inf, -1, 0]),
        ("tanh", [math.nan, 1, -1, 1, -1, 0]),
        ("log1p", [math.nan, math.inf, math.nan, math.log1p(1e4), math.nan, 0]),
    ):
        elementwise(getattr(elementary, name))(x, out)
        np.testing.assert_array_equal(out, np.array(expected, dtype))
    x, out = np.array([-1, np.finfo(dtype).max], dtype), np.empty(2, dtype)
    elementwise(elementary.log1p)(x, out)
    np.testing.assert_array_equal(out, [-math.inf, np.log(x[1])])
    # Where eˣ is infinite to the kernels, although its digits would be finite.
    x = np.log(np.finfo(dtype).max) - np.linspace(0.2, -0.2, len(out), dtype=dtype)
    for name in ("exp", "expm1"):
        elementwise(getattr(elementary, name))(x, out)
        assert (out > np.finfo(dtype).max / 2).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transpose_square(dtype):
    @Callable
    def transpose(out, source):
        simd.transpose_square(out, 3, 40, source, 5, 50)

    n = simd.lanes(dtype)
    source = np.random.default_rng(0).random(5 + 50 * n).astype(dtype)
    out = np.zeros(3 + 40 * n, dtype)
    transpose(out, source)
    np.testing.assert_array_equal(out[3:].reshape(n, 40)[:, :n], source[5:].reshape(n, 50)[:, :n].T)


@pytest.mark.parametrize(
    ("name", "features", "bits", "tests"),
    [
        ("haswell", "+avx2,+fma", 256, "oracle or threads or padding or sparse or zeros"),
        ("ivybridge", "+avx", 256, "oracle or threads or padding"),  # no FMA
        ("nehalem", "+sse4.2", 128, "oracle or threads or padding or zeros"),  # no AVX
    ],
)
def test_other_cpus_follow_the_oracle_too(name, features, bits, tests):
    cpu = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    files = [f"tests/cpu/test_{name}.py" for name in ("engine", "bfloat16", "zeros")]
    program = f"""
import sys
import pytest
from fastbp.cpu.code import VECTOR_BITS
assert VECTOR_BITS == {bits}, VECTOR_BITS
sys.exit(pytest.main(["-q", "-k", {tests!r}, *{files}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **cpu}, capture_output=True, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_edit_of_any_compiled_source_changes_the_cache(monkeypatch, tmp_path):
    """numba's own key is the calling function's file: edits elsewhere left old code in use."""
    shutil.copytree(ROOT / "fastbp", tmp_path / "fastbp")
    monkeypatch.setattr(libraries, "_PACKAGE", tmp_path / "fastbp")
    digests = {kernel_cache.source_digest.__wrapped__()}
    names = libraries.source_names()
    for name in names:
        with open(tmp_path / "fastbp" / name, "a") as file:
            file.write("# edited")
        digests.add(kernel_cache.source_digest.__wrapped__())
    assert len(digests) == 1 + len(names)


def test_every_compiled_function_is_in_the_fingerprint():
    """A formula in a file that the fingerprint leaves out could go stale."""
    covered = {ROOT / "fastbp" / name for name in libraries.source_names()}
    program = """
import sys
from fastbp.cpu.kernels import exports
from numba.core.dispatcher import Dispatcher
for module in list(sys.modules.values()):
    for value in list(vars(module).values()) if module.__name__.startswith("fastbp") else ():
        if isinstance(value, Dispatcher):
            print(value.py_func.__code__.co_filename)
"""
    # Switches have no file: they are written from records and lines that are in the fingerprint.
    files = {Path(line) for line in run_program(program) if not line.startswith("<switch:")}
    assert files
    assert files <= covered


def test_a_second_process_needs_no_compiler():
    # To load a kernel, numba prepared itself to compile: a quarter of a second in every process.
    code.warm_up(everything=False)
    prepared = "print('numba.np.linalg' in sys.modules)\n"
    compiles = """
import numba, numpy as np
print(numba.njit(lambda x: np.linalg.norm(x) + x.sum())(np.ones(4)))
print(MLPRegressor(max_iter=1, random_state=0, precision="float32").fit([[1.0]], [1.0]).n_iter_)
from fastbp.cpu.kernels.exports import EXPORTS
stats = EXPORTS["train"].dispatcher.stats
print(*(sum(counts.values()) for counts in (stats.cache_hits, stats.cache_misses)))
"""
    told = run_program(f"import sys\n{TRAIN}{prepared}{compiles}{prepared}")
    assert told == ["2", "False", "6.0", "1", "2", "0", "True"]


def test_warmup_leaves_nothing_to_compile():
    program = """
import warnings
import numpy as np
from scipy.sparse import csr_array
from fastbp import MLPClassifier
from fastbp.cpu import code
from fastbp.cpu.kernels.exports import EXPORTS
warnings.simplefilter("ignore")
compiled = [EXPORTS[name].dispatcher for name in ("train", "predict", "predict_few")]
code.warm_up(("float32",), everything=False)
print(*(len(kernel.signatures) for kernel in compiled))
code.warm_up()
before = [len(kernel.signatures) for kernel in compiled]
X = np.eye(40)
for X in (X, X.astype("f4"), X.astype("u1"), csr_array(X), csr_array(X.astype("f4"))):
    for y in (np.arange(40) % 2, np.arange(40) % 3):
        model = MLPClassifier((3,), max_iter=1, early_stopping=True).fit(X, y, np.ones(40))
        model.predict(X)
        model.predict_proba(X[:1])
print(before == [len(kernel.signatures) for kernel in compiled], *before)
"""
    assert run_program(program) == ["1", "1", "0", "True", "4", "4", "4"]


def test_importing_costs_neither_numba_nor_matplotlib():
    program = "import fastbp, fastbp.inspect, fastbp.plotting, sys; print(*sys.modules)"
    assert not {"numba", "matplotlib"} & set(run_program(program))


def test_parts_are_linked_through_other_parts():
    """Parts hold no copy of what they call: a kernel must link all of them itself."""

    @kernel
    def innermost(x):
        return x * 3

    @kernel
    def middle(x):
        return innermost(x) + 1

    @Callable
    def outer(x):
        return middle(x) + innermost(x)

    assert outer(2) == 13


def test_parts_are_linked_where_the_first_to_call_them_is_dropped():
    """LLVM leaves out what nothing calls, and a part has only one turn.

    Here its first caller stands in a branch that is never taken: the second one's call then went
    to nowhere.
    """

    @phase
    def part(x):
        return x * 3

    @phase
    def needless(x):
        return part(x) + 1

    @phase
    def needed(x):
        return part(x) + 2

    @phase
    def seldom(x):
        return needless(x) if x is None else x

    @Callable
    def outer(x):
        return seldom(x) + needed(x)

    assert outer(5) == 22
