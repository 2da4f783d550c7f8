"""The benchmark of the CUDA engine, as far as it runs without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import __main__, accuracy, checks, program, races, sizes, tables, together
from benchmarks.gpu.record import Record
from benchmarks.gpu.trainers import BYTE_SCALE, draw_for_gpu, train_fastbp, train_jax, use_only
from benchmarks.gpu.workers import Deadline, Worker
from fastbp.bench.cases import Case
from fastbp.bench.race import Entry, WorkerError
from fastbp.cuda import choice, toolkit

ROOT = Path(__file__).parent.parent
TOY = Case((784, 9, 4), "logistic", "sgd", 16, 70, 0.05)
HERE = "test_gpu_benchmark"
needs = {
    package: pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )
    for package in ("torch", "jax")
}


# ---- time, failures and processes ------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_sections_that_fail_or_have_no_time_left_stop_nobody(capsys):
    clock, ran, saved, record = Clock(), [], [], Record()
    budget = Deadline(100, clock)

    def section(name, seconds, error=None):
        def run(deadline):
            ran.append((name, deadline.left))
            clock.now += seconds
            if error:
                raise error

        return run

    sections = {
        "first": section("first", 60, ValueError("bad\nluck")),
        "long": section("long", 1),
        "second": section("second", 35),
        "third": section("third", 1),
    }
    limits = {"first": (1, 80), "long": (41, 50), "second": (1, 99), "third": (10, 20)}
    program.run_sections(sections, record, budget, lambda: saved.append(1), limits)
    assert ran == [("first", 80), ("second", 40)]
    assert record.problems == ["first: ValueError: bad luck"]
    assert list(record.skipped) == ["long", "third"]
    assert "5 s were left, and it takes 10 s" in record.skipped["third"]
    assert len(saved) == 2
    assert set(record.seconds) == {"first", "second"}


def test_every_section_has_its_limits_and_they_are_ordered_by_importance():
    assert set(program.LIMITS) == {*program.SECTIONS, "preparation"}
    assert all(least < most for least, most in program.LIMITS.values())
    assert program.SECTIONS[:4] == ("correctness", "mnist", "accuracy", "wide")
    assert program.BUDGET < 8 * 60 - 30


def count_up(end, failing=False):
    """A worker's generator."""
    yield from range(1, end)
    if failing:
        raise ValueError("lost")


def test_a_worker_goes_step_by_step_and_says_why_it_failed():
    worker = Worker(f"{HERE}:count_up", end=3)
    assert [worker.go(Deadline(60)) for _ in range(3)] == [1, 2, None]
    worker.close()
    worker = Worker(f"{HERE}:count_up", end=2, failing=True)
    assert worker.go(Deadline(60)) == 1
    with pytest.raises(WorkerError, match="ValueError: lost"):
        worker.go(Deadline(60))
    worker = Worker(f"{HERE}:count_up", end=2)
    with pytest.raises(WorkerError, match="no answer"):
        worker.go(Deadline(0))


class ScriptedWorker:
    """Stands for `Worker`: answers from a script, whoever made it."""

    script = ()
    started = ()

    def __init__(self, target, checks):
        ScriptedWorker.started += (len(checks),)

    def go(self, deadline):
        answer = ScriptedWorker.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        pass


def test_checks_go_on_in_a_new_process_behind_a_crash_or_a_lost_device(monkeypatch):
    monkeypatch.setattr(checks, "Worker", ScriptedWorker)
    fine = {"problem": "", "difference": 1e-7}
    lost, wrong = {"problem": "DeviceError: lost"}, {"problem": "loss off by 1"}
    ScriptedWorker.script = [fine, WorkerError("exit status -11"), wrong, fine, lost, fine]
    ScriptedWorker.started = ()
    some = checks.make_checks()["general"][:6]
    rows = checks.check_group("general", some, Deadline(60))
    assert ScriptedWorker.started == (6, 4, 1)
    assert [row["problem"] for row in rows] == [
        "", "exit status -11", "loss off by 1", "", "DeviceError: lost", ""
    ]  # fmt: skip
    assert checks.check_group("general", some[:1], Deadline(0))[0]["problem"] == "no time was left"


def test_every_check_has_a_short_last_batch_and_groups_cover_what_was_promised():
    found = [check for group in checks.make_checks().values() for check in group]
    assert all(check.n_rows % check.batch_size for check in found)
    for values, name in (
        (checks.TASKS, "task"),
        (checks.SOLVERS, "solver"),
        (("identity", "logistic", "tanh", "relu"), "activation"),
        (("uint8", "float32", "float64", "csr"), "inputs"),
        (checks.BOUNDS, "precision"),
        ((True, False), "weighted"),
        (("general", "fit_many", "wide"), "program"),
    ):
        assert {getattr(check, name) for check in found} == set(values)


def test_an_entry_whose_losses_are_others_is_no_result():
    entries = [
        Entry("same", "", 1.0, [1.0], [0.5, 0.25]),
        Entry("other", "", 1.0, [1.0], [0.5, 0.26]),
        Entry("lost", "", 1.0, [1.0], [0.5, float("nan")]),
        Entry("incomparable", "", 1.0, [1.0], []),
    ]
    races.judge(entries, [0.5, 0.25, 0.1], "float32")
    remarks = [entry.remark for entry in entries]
    assert remarks[0] == remarks[3] == ""
    assert "loss off by 4.0%" in remarks[1]
    assert "not finite" in remarks[2]


# ---- what is written -------------------------------------------------------------------------


def canned_record():
    """A run in which one check and one peer failed; all numbers are made up."""
    record = Record.begin({"name": "Toy GPU 1", "capability": "9.0"})
    record.date = "2001-02-03 04:05:06"
    check = checks.make_checks()["general"][0]
    row = {"group": "general", "check": check.name, "bound": 1e-5, "difference": 2e-6,
           "rounding": 1e-6, "repeats": True, "seconds": 3.25, "problem": ""}  # fmt: skip
    record.checks = [row, row | {"repeats": False, "problem": "two fits differ"}]
    entry = {"contender": "fastbp general", "remark": "", "first_epoch": 2.0,
             "seconds": [0.4, 0.5, 0.6], "losses": [0.7, 0.6]}  # fmt: skip
    other = entry | {"contender": "PyTorch eager", "remark": "failed: out of luck"}
    race = {"section": "wide", "race": "toy", "precision": "tf32", "unit": "step", "n_steps": 100,
            "n_rows": 1_600, "entries": [entry, other]}  # fmt: skip
    record.races = [race, race | {"section": "fit_many", "unit": "10 networks"}]
    seeds = [{"seed": s, "reached": {"97": [0.5 + s, 2]}, "accuracy": 0.97} for s in (0, 1)]
    record.accuracy = [
        {"program": "general", "recipe": accuracy.RECIPE, "seeds": seeds, "problem": ""},
        {"program": "wide", "recipe": accuracy.RECIPE, "seeds": [], "problem": "no such"},
    ]
    record.probes = [{"probe": "launch", "microseconds": 1.5, "problem": ""}]
    record.sizes = [
        {
            "case": "a",
            "n_rows": 10,
            "program": "general",
            "cpu": [2.0],
            "gpu": [1.0],
            "problem": "",
        },
        {"case": "b", "n_rows": 10, "program": "general", "problem": "ValueError: no"},
    ]
    record.problems, record.skipped = ["a check: two fits differ"], {"sizes": "no time"}
    record.seconds = {"all": 12.0}
    return record


def test_the_record_comes_back_and_its_tables_hold_everything(tmp_path):
    record = canned_record()
    paths = record.write(tmp_path / "new")
    assert [path.name for path in paths] == ["toy-gpu-1-2001-02-03.json", "toy-gpu-1-2001-02-03.md"]
    assert Record.read(paths[0]) == record
    json.loads(paths[0].read_text(), parse_constant=lambda name: pytest.fail(name))
    text = paths[1].read_text()
    for expected in (
        "Toy GPU 1", "1 of 2 checks failed", "two fits differ", "2.0e-06", "5 ms", "500 ms",
        "out of luck", "1 s ± 500 ms", "2 of 2", "no such", "1.500", "ValueError: no", "2.00",
        "sizes was skipped: no time", "numba", "all 12 s",
    ):  # fmt: skip
        assert expected in text, expected
    unproven = next(line for line in text.splitlines() if "out of luck" in line)
    assert "ms" not in unproven


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (None, "")]
)
def test_times_are_given_in_their_unit(seconds, text):
    assert tables.seconds_for_people(seconds) == text


def test_without_a_gpu_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(toolkit, "problem", lambda: "there is none. Buy one.")
    assert __main__.main([]) == 2
    assert capsys.readouterr().err == "No GPU can be used: there is none. Buy one.\n"


# ---- the same training by everyone -----------------------------------------------------------


@pytest.fixture(params=["images", "logistic outputs"])
def drawn(request, tmp_path):
    case = TOY if request.param == "images" else replace(TOY, layer_sizes=(6, 9, 5, 2))
    path = tmp_path / "draws.npz"
    draws = draw_for_gpu(case, 4)
    assert draws.X.dtype == (np.uint8 if request.param == "images" else np.float32)
    draws.save(path)
    return case, path


def losses_of(turns):
    return [turn["loss"] for turn in turns]


def test_turns_are_one_epoch_and_then_several(drawn):
    case, path = drawn
    single = losses_of(train_fastbp(case, path, 1, "cpu"))
    assert len(single) == 4
    assert losses_of(train_fastbp(case, path, 2, "cpu")) == [single[0], single[2], single[3]]


@needs["torch"]
@pytest.mark.parametrize("form", ["eager", "graphs", "compile"])
def test_pytorch_trains_what_fastbp_trains(drawn, form, monkeypatch):
    import torch

    from benchmarks.gpu.torch_trainer import train_torch

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case, path = drawn
    found = losses_of(train_torch(case, path, 1, form, device="cpu"))
    np.testing.assert_allclose(found, losses_of(train_fastbp(case, path, 1, "cpu")), rtol=1e-5)


@needs["torch"]
@pytest.mark.parametrize("form", ["eager", "compile"])
def test_pytorch_in_bfloat16_keeps_single_parameters(drawn, form, monkeypatch):
    import torch

    from benchmarks.gpu.torch_trainer import train_torch

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case, path = drawn
    found = losses_of(train_torch(case, path, 1, form, "bfloat16", device="cpu"))
    expected = losses_of(train_fastbp(case, path, 1, "cpu"))
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found != expected


@needs["jax"]
def test_jax_trains_what_fastbp_trains(drawn):
    case, path = drawn
    found = losses_of(train_jax(case, path, 1, device="cpu"))
    np.testing.assert_allclose(found, losses_of(train_fastbp(case, path, 1, "cpu")), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("train", "options"),
    [
        pytest.param(together.train_one_by_one, {"form": "graphs"}, marks=needs["torch"]),
        pytest.param(together.train_vmap, {}, marks=needs["jax"]),
    ],
)
def test_the_first_of_many_networks_is_the_same_everywhere(train, options, tmp_path):
    path = tmp_path / "draws.npz"
    case = replace(together.MANY, n_rows=150)
    draw_for_gpu(case, 7).save(path)
    expected = losses_of(together.train_on_cpu(case, path, 2))
    found = losses_of(train(case, path, 2, n_networks=3, device="cpu", **options))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(set(expected)) == 1


def test_seeds_are_trained_until_accurate(monkeypatch):
    from fastbp import datasets

    random = np.random.default_rng(0)
    y = random.integers(0, 3, 600)
    X = random.integers(0, 100, (600, 784), np.uint8)
    X[np.arange(600)[:, None], 9 * y[:, None] + np.arange(9)] += 150
    data = type("Images", (), dict(X_train=X, y_train=y, X_test=X, y_test=y))
    monkeypatch.setattr(datasets, "load_mnist", lambda path: data)
    found = list(accuracy.train_seeds(None, "cpu", n_seeds=2))
    assert [row["seed"] for row in found] == [0, 0, 1]
    assert found[0]["accuracy"] == found[1]["accuracy"] >= 0.98
    for row in found:
        (first, n_first), (last, n_last) = row["reached"]["97"], row["reached"]["98"]
        assert 0 < first <= last
        assert 1 <= n_first <= n_last <= 8


def test_sizes_are_compared_and_a_failing_one_is_a_row():
    cases = [Case((5, 4, 4, 3), "relu", "sgd", 16, 60, 0.01)]
    good, bad = cases[0], replace(cases[0], activation="none")
    rows = list(sizes.compare_sizes([bad, good], device="cpu"))
    assert rows[0]["problem"]
    assert rows[1]["problem"] == ""
    assert len(rows[1]["cpu"]) == len(rows[1]["gpu"]) == sizes.N_ROUNDS
    assert all(case.n_rows >= case.batch_size for case in sizes.make_cases())


# ---- a whole run, on the CPU -----------------------------------------------------------------


def toy_race(section):
    """A race of fastbp, somebody who learns nothing, and somebody who is not there."""
    case = replace(TOY, layer_sizes=(6, 9, 5, 2))
    contenders = {
        "fastbp general": (races.TRAINERS, {"device": "cpu"}),
        "another": (f"{HERE}:train_something_else", {}),
        "nobody": (f"{HERE}:train_nobody", {}),
    }
    return races.Race(section, case, contenders, epochs=2, rounds=2)


def test_a_run_goes_on_whatever_fails_and_keeps_what_it_has(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(toolkit, "problem", lambda: None)  # this process believes in a GPU
    monkeypatch.setattr(program, "make_checks", dict)
    monkeypatch.setattr(races, "make_races", lambda: [toy_race("wide")])
    monkeypatch.setattr(together, "make_race", lambda: toy_race("fit_many"))
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    wanted = [f"--only={name}" for name in ("correctness", "wide", "probes")]
    assert __main__.main([*wanted, f"--output={tmp_path}"]) == 1
    (path,) = tmp_path.glob("*.json")
    record = Record.read(path)
    assert list(record.seconds) == ["correctness", "preparation", "wide", "probes", "all"]
    (row,) = record.races
    ours, other, nobody = row["entries"]
    assert ours["remark"] == ""
    assert len(ours["seconds"]) == 2
    assert len(ours["losses"]) == 3
    assert ours["losses"][-1] == row["reference_loss"]
    assert "loss off" in other["remark"]
    assert "AttributeError" in nobody["remark"]
    described, *problems, probes = record.problems
    assert "device='cuda' cannot be used" in described
    assert [problem.split(": ")[0] for problem in problems] == [
        f"{row['race']}, another", f"{row['race']}, nobody"
    ]  # fmt: skip
    assert "device='cuda' cannot be used" in probes
    assert "another: computes something else" in capsys.readouterr().out


def train_something_else(case, path, epochs):
    """A trainer that learns nothing."""
    while True:
        yield {"seconds": 1.0, "loss": 2.0}


def test_programs_of_the_races_exist(monkeypatch):
    monkeypatch.setattr(choice, "PROGRAMS", dict(choice.PROGRAMS))
    for race in races.make_races():
        for arguments in (arguments for _, arguments in race.contenders.values()):
            assert arguments.get("program", "wide") in choice.PROGRAMS
    use_only("wide")
    assert list(choice.PROGRAMS) == ["wide"]
    with pytest.raises(ValueError, match="no program 'magic', but wide"):
        use_only("magic")
    assert pytest.approx(1 / 255) == BYTE_SCALE


# ---- the checks, in numba's simulator --------------------------------------------------------

SIMULATED = """
import sys
sys.path[:0] = [{tests!r}, {cuda!r}]
import json
from dataclasses import replace
from simulation import speed_up
from benchmarks.gpu import checks
speed_up()
some = [
    replace(check, hidden=(4,), n_features=5, n_rows=25, batch_size=15, n_outputs=n_outputs)
    for check, n_outputs in zip(checks.make_checks()["general"][:3], (3, 2, 1))
]
some.append(replace(some[0], precision="float64"))
some.append(replace(some[0], precision="tf32"))
print(json.dumps(list(checks.run_checks(some, n_epochs=2))))
"""


def test_checks_pass_in_the_simulator_and_a_failing_one_says_why():
    code = SIMULATED.format(tests=str(ROOT / "tests"), cuda=str(ROOT / "tests" / "cuda"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *good, bad = json.loads(done.stdout)
    for row in good:
        assert row["problem"] == ""
        assert row["repeats"]
    assert good[-1]["difference"] <= 1e-10
    assert "precision='tf32'" in bad["problem"]
