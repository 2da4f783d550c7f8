"""Kernels shipped as machine code: the right ones or none, and the same bits as numba's."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fastbp.cpu import levels

ROOT = Path(__file__).parents[2]
HAS = levels.levels_of_machine()
pytestmark = pytest.mark.skipif(not HAS, reason="no kernels are shipped for this kind of machine")
VARIABLES = "FASTBP_KERNELS", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT"


def run(program, folder, **environment):
    """Run a program in a fresh process with the package from a folder or an archive."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "PYTHONPATH": str(folder), **environment},
        capture_output=True, text=True, cwd=Path(sys.prefix),
    )  # fmt: skip


FIT = """
import sys, warnings
import numpy as np
from fastbp import MLPClassifier
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(90, 5))
model = MLPClassifier((7,), max_iter=3, random_state=0).fit(X, np.arange(90) % 3)
model.predict(X), model.predict(X[:1])
from fastbp.cpu.code import CODE
print(model.loss_, "numba" in sys.modules, CODE.description)
"""
WITHOUT_NUMBA = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
"""


def fitted(folder, program=FIT, **environment):
    """The loss of a fit, whether numba was imported, and which code ran."""
    done = run(program, folder, **environment)
    assert done.returncode == 0, done.stderr
    loss, has_numba, description = done.stdout.strip().split(" ", 2)
    return float(loss), has_numba == "True", description


# ---- where it runs ------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_fit_does_not_import_numba(package):
    _, has_numba, description = fitted(package.parent)
    assert description == f"shipped with fastbp, for {HAS[0]}"
    assert not has_numba
    assert fitted(package.parent, WITHOUT_NUMBA + FIT)[2] == description


def as_zip(package, folder):
    path = folder / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for each in package.rglob("*"):
            if "__pycache__" not in each.parts:
                archive.write(each, each.relative_to(package.parent))
    return path


def as_bytecode(package, folder):
    shutil.copytree(package, folder / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", str(folder)], check=True)
    for path in folder.rglob("*.py"):
        path.unlink()
    return folder


@pytest.mark.parametrize("made", [as_zip, as_bytecode])
def test_without_files_of_source(package, tmp_path, made):
    """There is nothing to compare with, and no file that the system could load."""
    expected = fitted(package.parent)
    assert fitted(made(package, tmp_path), NUMBA_DISABLE_JIT="1") == expected


def test_disabled_jit_and_no_library(package):
    """The kernels ran as Python, which they are not."""
    loss, has_numba, description = fitted(
        package.parent, NUMBA_DISABLE_JIT="1", FASTBP_KERNELS="compiled"
    )
    assert has_numba
    assert "compiled here" in description
    assert loss == pytest.approx(fitted(package.parent)[0])


def test_an_edited_source_makes_a_library_stale(package, tmp_path):
    """In a checkout that was installed for editing, code of before the edit would run."""
    shutil.copytree(package, tmp_path / "fastbp")
    program = "from fastbp.cpu.code import CODE; print(CODE.description)"
    assert "shipped" in run(program, tmp_path).stdout
    for name in ("cpu/kernels/tiles.py", "losses.py"):
        path = tmp_path / "fastbp" / name
        before = path.read_bytes()
        path.write_bytes(before + b"# edited\n")
        told = run(program, tmp_path).stdout
        assert "compiled here" in told
        assert "is of other sources" in told
        path.write_bytes(before)
    assert "shipped" in run(program, tmp_path).stdout


@pytest.mark.parametrize("environment", [{}, {"NUMBA_CPU_NAME": "haswell"}])
def test_with_neither_one_sentence_says_what_to_install(tmp_path, environment):
    shutil.copytree(
        ROOT / "fastbp", tmp_path / "fastbp",
        ignore=shutil.ignore_patterns("__pycache__", "libraries"),
    )  # fmt: skip
    done = run(WITHOUT_NUMBA + FIT, tmp_path, **environment)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fastbp.cpu.code.NoKernelsError")
    assert "pip install numba" in last


# ---- the same numbers ---------------------------------------------------------------------------

CHECKSUMS = """
import json, warnings, zlib
import numpy as np
from scipy.sparse import csr_array
from fastbp import MLPClassifier, MLPRegressor
from fastbp.cpu.code import VECTOR_BITS
warnings.simplefilter("ignore")
draw = np.random.default_rng(0)
X = draw.standard_normal((300, 37))
zeros = np.where(draw.random((600, 64)) < 0.8, 0, draw.random((600, 64)))
sparse = csr_array(np.where(draw.random((300, 200)) < 0.05, draw.standard_normal((300, 200)), 0))
images = (draw.random((300, 50)) * 255).astype(np.uint8)
three, two, weight = np.arange(300) % 3, np.arange(300) % 2, draw.random(300)
found = {"bits": VECTOR_BITS}

def fit(name, model, X, y, **more):
    model.set_params(max_iter=4, random_state=0, batch_size=50, n_threads=2).fit(X, y, **more)
    predict = getattr(model, "predict_proba", model.predict)
    arrays = [*model.coefs_, *model.intercepts_, predict(X), predict(X[:3])]
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    found[name] = [total, repr(model.loss_)]

for precision in ("float32", "float64"):
    def classifier(*hidden, **parameters):
        return MLPClassifier(hidden, precision=precision, **parameters)

    for activation in ("relu", "tanh", "logistic", "gelu"):
        fit(f"{precision} {activation}", classifier(20, 11, activation=activation), X, three)
    for rule in ({"solver": "sgd"}, {"solver": "sgd", "nesterovs_momentum": False},
                 {"solver": "adamw"}, {"solver": "lbfgs"}, {"alpha": 0.0}):
        fit(f"{precision} {rule}", classifier(20, **rule), X, two)
    for loss, y in ("squared_error", X[:, :2]), ("poisson", two):
        fit(f"{precision} {loss}", MLPRegressor(loss, (20,), precision=precision), X, y)
    fit(f"{precision} weights", classifier(20), X, three, sample_weight=weight)
    fit(f"{precision} sparse", classifier(20), sparse, three)
    fit(f"{precision} zeros", classifier(64), zeros, np.arange(600) % 3)
    fit(f"{precision} bytes", classifier(20), images, three)
    fit(f"{precision} early", classifier(20, early_stopping=True), X, three)
print(json.dumps(found))
"""


def test_shipped_code_and_numbas_for_the_same_level_have_the_same_bits(package):
    """They are made from the same sources, by the same passes."""
    level = levels.LEVELS[HAS[0]]
    done = run(CHECKSUMS, package.parent)
    assert done.returncode == 0, done.stderr
    of_shipped = json.loads(done.stdout)
    done = run(
        CHECKSUMS, package.parent,
        NUMBA_CPU_NAME=level.cpu, NUMBA_CPU_FEATURES=level.llvm_features,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == of_shipped
    assert of_shipped["bits"] == level.vector_bits
    assert len(of_shipped) == 33


THREADS = """
import threading, warnings
import numpy as np
from fastbp import MLPClassifier
warnings.simplefilter("ignore")
X, start, found = np.random.default_rng(0).normal(size=(90, 5)), threading.Barrier(8), []
def fit():
    start.wait()
    found.append(MLPClassifier((7,), max_iter=3, random_state=0).fit(X, np.arange(90) % 3).loss_)
threads = [threading.Thread(target=fit) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(found)) == 1 and len(found) == 8
print(found[0], False, "all the same")
"""


def test_the_first_fits_of_eight_threads_at_once(package):
    assert fitted(package.parent, THREADS)[0] == fitted(package.parent)[0]


COMMAND = """
import contextlib, io, sys
from fastbp import cli
errors = io.StringIO()
with contextlib.redirect_stderr(errors):
    status = cli.main({arguments!r})
print(status, False, errors.getvalue().strip())
"""


def test_commands_that_need_numba_say_so_in_a_line(package):
    """`fastbp bench` ended with a traceback."""
    program = WITHOUT_NUMBA + COMMAND.format(arguments=["bench", "--quick"])
    status, _, error = fitted(package.parent, program)
    assert status == 2
    assert "benchmark needs numba" in error
    assert error.endswith("pip install numba")
    assert "\n" not in error
    program = WITHOUT_NUMBA + COMMAND.format(arguments=["mnist", "--epochs", "1"])
    status, _, error = fitted(package.parent, program, FASTBP_KERNELS="compiled")
    assert status == 2
    assert "pip install numba" in error
