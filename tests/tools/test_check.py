"""`fastbp check`: right engines pass, wrong ones are reported."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import versions

from fastbp import check, cli
from fastbp.bench.workers import WorkerError
from fastbp.cpu.engine import Engine

ROOT = Path(__file__).parents[2]
TINY = check.Check((4,), n_features=5, n_rows=25, batch_size=15)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("changes", [{}, {"weighted": True, "inputs": "csr"}, {"n_networks": 2}])
def test_the_cpus_engine_is_right(precision, changes):
    if precision == "float64" and changes.get("weighted"):
        versions.needs("sample weights of MLPs")
    found = check.run_check(replace(TINY, precision=precision, **changes), "cpu", 2)
    assert found["problem"] == ""
    assert found["repeats"]
    assert found["outputs"] <= 1e-5
    assert ("loss" in found) == (precision == "float32" or not changes.get("weighted"))


def wrong_loss(engine, right):
    return lambda *arguments: right(engine, *arguments) * 1.001


def wrong_losses(engine, right):
    def train_epochs(data, order, epochs):
        right(engine, data, order, epochs)
        epochs.losses = [loss * 1.001 for loss in epochs.losses]

    return train_epochs


def wrong_weights(engine, right):
    return lambda *arguments: right(engine, *arguments) + 0.01


def another_time(engine, right):
    generator = np.random.default_rng()
    return lambda *arguments: right(engine, *arguments) + 1e-7 * generator.random()


@pytest.mark.parametrize(
    ("verb", "wrong", "problem"),
    [
        ("train_epoch", wrong_loss, "loss off by 1.0e-03, more than 1e-10"),
        ("train_epochs", wrong_losses, "loss off by 1.0e-03, more than 1e-10"),
        ("store_parameters", wrong_weights, "outputs off by"),
        ("predict", wrong_weights, "outputs off by"),
        ("store_parameters", another_time, "fits differ"),
    ],
)
def test_a_wrong_engine_is_reported(verb, wrong, problem, monkeypatch):
    right = getattr(Engine, verb)
    monkeypatch.setattr(Engine, verb, lambda self, *args, **_: wrong(self, right)(*args))
    if verb == "train_epoch":
        monkeypatch.setattr(Engine, "epochs_at_once", lambda *arguments: 0)
    found = check.run_check(replace(TINY, precision="float64"), "cpu", 2)
    assert problem in found["problem"]


def test_losses_that_are_no_numbers_and_warnings_are_problems():
    found = {"loss": float("nan"), "outputs": 0.0, "repeats": True}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("the fast program is not trusted", stacklevel=1)
    assert list(check.problems_of(found, 1e-4, caught)) == [
        "loss off by nan, more than 0.0001", "warned: the fast program is not trusted"
    ]  # fmt: skip


class ScriptedWorker:
    """Stands for `Worker`: answers from a script, whoever made it."""

    script = ()
    started = ()

    def __init__(self, work, device, checks):
        ScriptedWorker.started += (len(checks),)

    def answer(self, patience):
        answer = ScriptedWorker.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        pass


def test_checks_go_on_in_a_new_process_after_a_crash_or_a_lost_device(monkeypatch):
    monkeypatch.setattr(check, "Worker", ScriptedWorker)
    fine = {"problem": "", "loss": 1e-7}
    lost, wrong = {"problem": "DeviceError: lost"}, {"problem": "loss off by 1"}
    ScriptedWorker.script = [fine, WorkerError("exit status -11"), wrong, fine, lost, fine]
    ScriptedWorker.started = ()
    rows = check.check_group("cuda", "float32", check.make_checks("cuda")["float32"][:6])
    assert ScriptedWorker.started == (6, 4, 1)
    assert [row["problem"] for row in rows] == [
        "", "exit status -11", "loss off by 1", "", "DeviceError: lost", ""
    ]  # fmt: skip


def test_every_check_has_a_short_last_batch_and_groups_cover_what_was_promised():
    groups = check.make_checks("cuda")
    found = [each for group in groups.values() for each in group]
    assert all(each.n_rows % each.batch_size for each in found)
    for values, name in (
        (check.TASKS, "task"),
        (check.SOLVERS, "solver"),
        (("identity", "logistic", "tanh", "relu", "gelu"), "activation"),
        (("uint8", "float32", "float64", "csr"), "inputs"),
        (check.BOUNDS, "precision"),
        ((True, False), "weighted"),
        ((1, 3), "n_networks"),
    ):
        assert {getattr(each, name) for each in found} == set(values)
    assert set(groups) - set(check.make_checks("cuda", (7, 5))) == {"tf32", "bfloat16"}
    assert set(check.make_checks("cpu")) == {"float32", "float64", "fit_many", "bfloat16"}


class MLPBefore17:
    """What scikit-learn's MLPs took before version 1.7."""

    def __init__(self, hidden_layer_sizes=(100,)):
        pass

    def fit(self, X, y):
        pass


def test_an_older_scikit_learn_is_no_oracle_for_what_it_lacks(monkeypatch):
    """All checks in float64 with sample weights, or of the Poisson loss, would have failed."""
    older = SimpleNamespace(MLPClassifier=MLPBefore17, MLPRegressor=MLPBefore17)
    monkeypatch.setattr(check, "neural_network", older)
    checks = [each for group in check.make_checks("cpu").values() for each in group]
    compared = [each for each in checks if each.precision == "float64"]
    assert len(compared) >= 9
    assert not any(each.weighted or each.task == "poisson" for each in compared)
    assert any(each.weighted for each in checks)
    assert any(each.task == "poisson" for each in checks)


@pytest.mark.parametrize("precision", ["float64", "tf32"])
def test_the_command_prints_a_table_and_its_status_tells(precision, monkeypatch, capsys):
    """The CPU has no tf32, which stands here for an engine that fails."""
    some = {"some": [replace(TINY, precision=precision), TINY]}
    monkeypatch.setattr(check, "make_checks", lambda *_: some)
    monkeypatch.setattr("fastbp.info.describe", lambda: {"fastbp": "1.2.3", "CPU": "toy"})
    assert cli.main(["check"]) == (precision == "tf32")
    printed, told = capsys.readouterr()
    assert "fastbp        1.2.3\n" in printed
    assert "CPU           toy\n" in printed
    verdict = "1 of 2 checks failed." if precision == "tf32" else "All checks passed."
    assert printed.endswith(f"{verdict}\n")
    assert printed.count("passed |") == 1 + (precision != "tf32")
    assert ("FAILED: InvalidParameterError" in printed) == (precision == "tf32")
    assert told.count("\n") == 2


SIMULATED = """
import sys
sys.path[:0] = [{tests!r}, {cuda!r}]
from dataclasses import replace
from simulation import speed_up
from fastbp import check
speed_up()
some = [
    replace(each, hidden=(4,), n_features=5, n_rows=25, batch_size=15, n_outputs=n_outputs)
    for each, n_outputs in zip(check.make_checks("cuda")["float32"][:3], (3, 2, 1))
]
some.append(replace(some[0], precision="float64"))
for each in some:
    found = check.run_check(each, "cuda", n_epochs=2)
    assert found["problem"] == "", found
    assert found["repeats"]
assert found["loss"] <= 1e-10
"""


def test_checks_pass_in_the_simulator():
    code = SIMULATED.format(tests=str(ROOT / "tests"), cuda=str(ROOT / "tests" / "cuda"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
