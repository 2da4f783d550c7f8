"""What an import of fastbp costs a process, and when the rest is imported."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parents[2]

# What `from fastbp import MLPClassifier` must not import, and who imports it instead.
# scikit-learn's modules cost every process some milliseconds each, and numba a quarter of a second.
LATER = {
    "numba": "the first fit, where no machine code is at hand",
    "llvmlite": "numba",
    "matplotlib": "plots",
    "sklearn.datasets": "load_digits, and a download of MNIST",
    "sklearn.metrics": "score, and early stopping of regressors",
    "sklearn.model_selection": "early stopping",
    "sklearn.neural_network": "to_sklearn and from_sklearn",
    "sklearn.preprocessing": "to_sklearn",
    "skl2onnx": "fastbp.onnx",
    "urllib.request": "a download of MNIST",
    "fastbp.bench": "fastbp bench",
    "fastbp.check": "fastbp check",
    "fastbp.checkpoints": "fits with a checkpoint",
    "fastbp.cli": "the command line",
    "fastbp.cpu": "the first fit",
    "fastbp.cuda.toolkit": "fits on a GPU",
    "fastbp.datasets": "who names it",
    "fastbp.fingerprints": "fits with a checkpoint, and sources",
    "fastbp.hidden_features": "who names HiddenFeatures",
    "fastbp.hints": "type checkers only",
    "fastbp.inspect": "who names it",
    "fastbp.lbfgs": "fits with solver='lbfgs'",
    "fastbp.loading": "load",
    "fastbp.many": "fit_many",
    "fastbp.model_selection": "who names it",
    "fastbp.onnx": "who names it",
    "fastbp.plotting": "who names it",
    "fastbp.sources": "who names it",
}
PUBLIC = [
    *fastbp.__all__, "datasets", "inspect", "model_selection", "network", "onnx", "plotting",
    "sources", "training",
]  # fmt: skip


def after(program, result):
    """The value of an expression in a fresh process, after a program."""
    lines = f"{program}\nimport json, sys\nprint(json.dumps({result}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", lines],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.smoke
def test_what_an_import_does_not_bring():
    """It brought scikit-learn's metrics, model selection and MLP, and took longer than these."""
    found = after("from fastbp import MLPClassifier", "[*sys.modules]")
    assert "fastbp.fitting" in found
    too_early = {name: who for name, who in LATER.items() if name in found}
    assert not too_early, "these are to be imported later, by"


def test_the_package_alone_imports_next_to_nothing():
    """The command line begins with it, and has data read while the rest is imported."""
    found = after("import fastbp; fastbp.__version__; dir(fastbp)", "[*sys.modules]")
    assert not {"numpy", "sklearn", "fastbp.base"} & {*found}


# ---- public names ---------------------------------------------------------------------------


def test_public_names_are_told_of_before_they_are_imported():
    assert {*PUBLIC} <= {*after("import fastbp", "dir(fastbp)")}


def test_public_names_are_found_in_every_way():
    expected = [getattr(fastbp, name).__class__.__name__ for name in PUBLIC]
    kinds = f"[getattr(fastbp, name).__class__.__name__ for name in {PUBLIC!r}]"
    assert after("import fastbp", kinds) == expected
    star = after("names = {}; exec('from fastbp import *', names)", "[*names]")
    assert sorted({*star} - {"__builtins__"}) == sorted(fastbp.__all__)


def test_an_unknown_name_is_an_error_as_of_any_module():
    with pytest.raises(AttributeError, match="module 'fastbp' has no attribute 'MLP'"):
        _ = fastbp.MLP
    with pytest.raises(ImportError, match="cannot import name 'MLP'"):
        exec("from fastbp import MLP")


# ---- in the midst of a call -----------------------------------------------------------------


class Recorder:
    """A finder that notes the modules that are imported where Ctrl-C would cut it short."""

    def __init__(self):
        self.names = []
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path, target=None):
        if threading.current_thread().name != "fastbp-preparation":
            self.names.append(name)


def imports_of(estimator, parameters, method):
    """The modules that a first call imports in the calling thread, and those in another."""
    import numpy as np

    model = getattr(fastbp, estimator)(
        hidden_layer_sizes=3, max_iter=2, n_threads=1, random_state=0, **parameters
    )
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = (X[:, 0] > 0).astype(float)
    if method != "fit":
        model.fit(X, y)
    recorder, before = Recorder(), {*sys.modules}
    if method in ("fit", "score"):
        getattr(model, method)(X, y)
    else:
        type(model).from_sklearn(model.to_sklearn())
    return recorder.names, sorted({*sys.modules} - before)


@pytest.mark.parametrize(
    ("estimator", "parameters", "method", "late"),
    [
        ("MLPClassifier", {}, "fit", "fastbp.cpu.engine"),
        ("MLPClassifier", {"solver": "lbfgs"}, "fit", "fastbp.lbfgs"),
        ("MLPClassifier", {"early_stopping": True}, "fit", "sklearn.model_selection"),
        ("MLPRegressor", {"early_stopping": True}, "fit", "sklearn.metrics"),
        ("MLPRegressor", {"checkpoint": "state"}, "fit", "fastbp.checkpoints"),
        ("MLPClassifier", {}, "score", "sklearn.metrics"),
        ("MLPRegressor", {}, "score", "sklearn.metrics"),
        ("MLPRegressor", {}, "convert", "sklearn.neural_network"),
    ],
)
def test_a_late_import_is_completed_whatever_comes(estimator, parameters, method, late, tmp_path):
    """Ctrl-C in a first fit must not leave modules half imported."""
    if "checkpoint" in parameters:
        parameters = {"checkpoint": str(tmp_path / "state")}
    call = f"test_imports.imports_of({estimator!r}, {parameters!r}, {method!r})"
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_imports"
    in_the_open, imported = after(program, call)
    assert late in imported
    assert in_the_open == []


# ---- the command line -----------------------------------------------------------------------


def test_the_command_line_shows_its_help_without_scikit_learn():
    """It took a second, as `fastbp --help`, or for a misspelt option."""
    found = after("import fastbp.cli; fastbp.cli.make_parser()", "[*sys.modules]")
    assert "sklearn" not in found


def test_a_program_of_our_own_does_not_wait_for_scipys_statistics():
    """They took half of the time until the first image was read."""
    program = (
        "import contextlib, io, sys\nfrom fastbp.late import postpone\npostpone('scipy.stats')\n"
    )
    program += (
        "from fastbp import MLPClassifier\nMLPClassifier((3,), max_iter=1).fit([[0], [1]], [0, 1])"
    )
    loaded = "sorted(name for name in sys.modules if name.startswith('scipy.stats.'))"
    assert after(program, loaded) == []
    # And who does use them has them, in whatever way.
    uses = "import scipy, scipy.stats as s\nfrom scipy.stats import norm"
    same = "[s.norm is norm, scipy.stats.norm is norm, sys.modules['scipy.stats'].norm is norm]"
    assert after(f"{program}\n{uses}", same) == [True] * 3
    assert after(f"{program}\nfrom scipy.stats.qmc import Sobol", "Sobol(1).random(1).size") == 1
    assert after(f"import scipy.stats\n{program}", f"{loaded} != []")
