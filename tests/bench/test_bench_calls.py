"""The benchmark's short calls: what is timed, that it is proved, and how it is told."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from fastbp.bench import calls, contenders, program, race, report, results
from fastbp.bench.cases import IN_BFLOAT16, SUBNORMAL, Case, make_heats
from fastbp.bench.draws import SUBNORMAL_NUMBER, draw
from fastbp.bench.race import Entry, compare_losses

TINY_BFLOAT16 = Case((20, 30, 5), "tanh", "sgd", 16, 70, 0.05, cpu_precision="bfloat16")


class Script:
    """Stands for `Turns`."""

    def __init__(self):
        self.losses = []

    def begin(self):
        pass

    def end(self, loss):
        self.losses.append(float(loss))


def losses_of(name, case):
    script = Script()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        contenders.CONTENDERS[name].load()(case, draw(case, 4), script, 1, "cpu")
    return script.losses


# ---- bfloat16 and subnormal numbers ---------------------------------------------------------


@pytest.mark.parametrize("name", ["PyTorch", "JAX"])
def test_peers_multiply_in_bfloat16(name):
    if contenders.CONTENDERS[name].missing():
        pytest.skip(f"{name} is not installed")
    expected, found = losses_of("NumPy", TINY_BFLOAT16), losses_of(name, TINY_BFLOAT16)
    exact = losses_of(name, replace(TINY_BFLOAT16, cpu_precision=""))
    np.testing.assert_allclose(exact, expected, rtol=1e-5)
    assert np.abs(np.divide(found, expected) - 1).max() > 1e-5, "its digits are those of float32"
    assert race.loss_difference(found, expected) < race.CPU_TOLERANCES["bfloat16"]


def test_a_case_in_bfloat16_may_be_further_off():
    def entries():
        return [Entry("NumPy", "", 1.0, [1.0], [1.0]), Entry("JAX", "", 1.0, [1.0], [1.025])]

    for case, is_marked in (
        (TINY_BFLOAT16, False),
        (replace(TINY_BFLOAT16, cpu_precision=""), True),
    ):
        found = entries()
        compare_losses(found, case)
        assert bool(found[1].remark) == is_marked


def test_the_run_has_these_races():
    heats = make_heats(2)
    assert [heat.case for heat in heats if heat.series == "bfloat16"] == list(IN_BFLOAT16)
    assert "bfloat16" in IN_BFLOAT16[0].name
    few, many = (heat.case for heat in heats if heat.series == "subnormal")
    assert few.name + ", subnormal features" == many.name == SUBNORMAL.name
    tiny = replace(SUBNORMAL, n_rows=20)
    X = draw(tiny, 1).X
    assert (X[:, ::3] == np.float32(SUBNORMAL_NUMBER)).all()
    assert (np.abs(X[:, 1::3]) > np.finfo(np.float32).tiny).all()


# ---- short calls ----------------------------------------------------------------------------


def test_calls_have_names_of_their_own():
    names = [call.name for call in calls.CALLS]
    assert len(set(names)) == len(names)
    assert 0 < len(calls.chosen(quick=True)) < len(calls.chosen(quick=False)) == len(names)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", [call.name for call in calls.CALLS])
def test_both_sides_compute_the_same(name, monkeypatch):
    monkeypatch.setattr(calls, "N_FEATURES", 2**10)
    monkeypatch.setattr(calls, "TURN_SECONDS", 0.0)
    (call,) = (call for call in calls.CALLS if call.name == name)
    timed = calls.measure(call, 1)
    assert timed.remark == ""
    assert min(timed.ours, timed.theirs) > 0


def side(numbers, units=1):
    return calls.Side(lambda: units, lambda: np.array(numbers))


def test_a_time_without_proof_does_not_count(monkeypatch):
    monkeypatch.setattr(calls, "TURN_SECONDS", 0.0)
    timed = calls.measure(calls.Call("x", lambda: (side([0.5, 0.9]), side([0.5, 0.8]))), 1)
    assert np.isnan([timed.ours, timed.theirs]).all()
    assert timed.remark == "they compute different numbers: off by 0.1"
    timed = calls.measure(calls.Call("x", lambda: 1 / 0), 1)
    assert timed.remark == "failed: ZeroDivisionError: division by zero"


def test_a_time_is_of_a_unit(monkeypatch):
    now = iter(np.arange(1000.0))
    monkeypatch.setattr(calls.time, "perf_counter", lambda: next(now))
    assert calls._turn(side([0.0], units=5), 2) == 0.1


def test_the_report_and_the_record(tmp_path):
    run = results.Results.begin(1, quick=True)
    run.calls = [
        calls.Timed("slow", "call", 4e-3, 1e-3),
        calls.Timed("fast", "iteration", 1e-3, 2e-3),
        calls.Timed("wrong", "call", remark="they compute different numbers: off by 1"),
    ]
    text = report.document(run)
    assert "- slow: scikit-learn takes 0.25 of fastbp's time" in text
    assert "- fast" not in text
    row = next(line for line in text.splitlines() if line.startswith("| fast"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:5] == [
        "iteration", "1,000", "2,000", "2.00",
    ]  # fmt: skip
    run.write(tmp_path / "bench.json")
    loaded = results.Results.read(tmp_path / "bench.json")
    assert report.document(loaded) == text


def test_the_calls_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(calls, "CALLS", calls.CALLS[:1])
    monkeypatch.setattr(program, "Worker", InThisProcess)
    run = results.Results.begin(1, quick=True)
    with warnings.catch_warnings():
        program.short_calls(program.Options(quick=True), run, tmp_path)
    assert [call.name for call in run.calls] == ["predict, one row"]
    assert run.calls[0].remark == ""


class InThisProcess:
    """Stands for a `Worker`: serves one call."""

    def __init__(self, work, quick):
        self.sent = []
        self.recv = iter(["go"]).__next__
        self._serve = lambda: work(self, quick)

    def send(self, message):
        self.sent.append(message)

    def go(self):
        self._serve()
        return self.sent.pop(0)

    def close(self):
        pass
