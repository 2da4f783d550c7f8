"""The benchmark: no time without its proof, no figure beyond what was measured."""

import json
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import figures
from fastbp import cli
from fastbp.bench import contenders, processes, program, race, report, results
from fastbp.bench.cases import SWEEPS, TABLE, VARIED, Case, Heat, batch_sweep, make_heats
from fastbp.bench.ceiling import Ceiling, measure_ceiling
from fastbp.bench.draws import Draws, draw
from fastbp.bench.race import Entry, Pace, compare_losses
from fastbp.cpu.kernels.kernel_cache import kernel_folder

SMALL = Case((5, 9, 6, 3), "tanh", "sgd", 16, 70, 0.05)
CEILING = Ceiling(2, 400e9, 200e9, 40e9, 2**25)
NAMES = contenders.contenders_on("cpu")
CACHE = Path(kernel_folder() or tempfile.mkdtemp()).parent  # where the other tests' kernels are


def canned_race(heat, factors, remarks=()):
    """A race in which contenders took these multiples of a millisecond, and half more at first."""
    remarks = dict(remarks)
    entries = [
        Entry(name, remarks.get(name, ""), 1.5e-3 * f, [1e-3 * f, 1.1e-3 * f, 0.9e-3 * f], [0.7])
        for name, f in zip(NAMES, factors, strict=False)
    ]
    return results.Race(heat, entries, CEILING)


def canned_results():
    """A whole run: fastbp is faster by half than the fastest peer, slower at one width."""
    run = results.Results.begin(2, quick=False)
    run.missing = {"torch.compile": "not installed (pip install torch)"}
    for heat in make_heats(2):
        lost = heat.series == "width" and heat.value == 64
        ours = 4.0 if lost else 2.0 / heat.n_threads
        run.races.append(canned_race(heat, [ours, 9.0, 7.0, 5.0, 4.0, 3.0]))
    milestones = {"read": 0.2, "imported": 1.0, "first epoch": 2.0, "97 %": 3.0, "98 %": 4.0}
    run.starts = {
        "fastbp, empty cache": {k: [v, 2 * v, 3 * v] for k, v in milestones.items()},
        "fastbp, warm cache": {k: [v] for k, v in milestones.items()},
        "PyTorch": {k: [3 * v] for k, v in milestones.items()},
        "scikit-learn": {"remark": "not installed"},
    }
    for name in ("fastbp, empty cache", "fastbp, warm cache", "PyTorch"):
        run.starts[name]["exit"] = [12.5]
    run.sizes = {"fastbp": 500e6, "PyTorch": None}
    run.mnist_command = {"warm cache": {"seconds": 2.5, "test_accuracy": 0.9812}}
    fit = {"compile_seconds": 4.0, "seconds": 1.25, "epochs": 30, "test_error": 0.0224}
    run.bench_mnist = {"adam": {"fastbp": fit, "scikit-learn": fit | {"seconds": 53.46}}}
    return run


# ---- the work that is raced -----------------------------------------------------------------


def test_arithmetic_and_bytes_of_a_case():
    case = Case((3, 4, 2), "relu", "adam", 10, 25, 0.1)
    assert case.n_steps == 3
    # Forward 12 + 8 multiply-adds, gradient the same, δ of the hidden layer 8; two operations each.
    assert case.operations == 25 * 2 * (20 + 20 + 8)
    parameters = 3 * 4 + 4 + 4 * 2 + 2
    assert case.state_bytes == 4 * 3 * parameters
    assert case.touched_bytes == 25 * 3 * 4 + 2 * 3 * case.state_bytes
    assert case.memory_bytes(2**20) == 0
    assert case.memory_bytes(case.state_bytes) == 0
    assert case.memory_bytes(case.row_bytes) == 2 * 3 * case.state_bytes
    assert case.memory_bytes(0) == case.touched_bytes


def test_roofline_takes_the_lower_ceiling():
    wide = Case((8, 4096, 4096, 2), "relu", "sgd", 1, 10, 0.1)
    assert CEILING.share_of_roofline(wide, 1.0) == wide.memory_bytes(2**25) / 40e9
    assert CEILING.share_of_roofline(SMALL, 1.0) == CEILING.share_of_peak(SMALL, 1.0)
    double = replace(SMALL, dtype="float64")
    assert CEILING.share_of_peak(double, 1.0) == SMALL.operations / 200e9
    assert CEILING.better_of(replace(CEILING, float32=5e11)) == replace(CEILING, float32=5e11)


def test_the_ceiling_of_this_machine_can_be_measured(monkeypatch):
    monkeypatch.setattr("fastbp.bench.ceiling.SECONDS_PER_PROBE", 0.002)
    monkeypatch.setattr("fastbp.bench.ceiling.last_cache_bytes", lambda: 2**20)
    ceiling = measure_ceiling(1)
    assert min(ceiling.float32, ceiling.float64, ceiling.bandwidth) > 1e7


@pytest.mark.parametrize("n_threads", [1, 2, 6])
def test_every_sweep_has_its_values(n_threads):
    heats = make_heats(n_threads)
    assert len(set(heats)) == len(heats)
    for name, (_, values, _) in SWEEPS.items():
        assert [heat.value for heat in heats if heat.series == name] == list(values)
    counts = sorted({heat.n_threads for heat in heats if heat.series == "threads"})
    assert counts == {1: [], 2: [1, 2], 6: [1, 2, 4, 6]}[n_threads]
    assert all(heat.n_threads == n_threads for heat in heats if heat.series != "threads")


class Script:
    """Stands for `Turns`: lets a trainer go through its epochs and keeps their losses."""

    def __init__(self):
        self.losses = []

    def begin(self):
        pass

    def end(self, loss):
        self.losses.append(float(loss))


@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("activation", "solver"), [("logistic", "sgd"), ("tanh", "adam"), ("relu", "sgd")]
)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "torch.compile"])
def test_contenders_do_the_same_arithmetic(name, activation, solver):
    if contenders.CONTENDERS[name].missing():
        pytest.skip(f"{name} is not installed")
    case = replace(SMALL, activation=activation, solver=solver, dtype="float64")
    draws, turns = draw(case, 4), Script()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        contenders.CONTENDERS[name].load()(case, draws, turns, 1, "cpu")
    expected = numpy_losses(case, draws)
    # PyTorch's Adam adds its ε after the bias correction, the others before.
    tolerance = 1e-4 if solver == "adam" else 1e-9
    np.testing.assert_allclose(turns.losses, expected, rtol=tolerance)
    assert turns.losses[-1] < turns.losses[0]


def numpy_losses(case, draws):
    turns = Script()
    contenders.train_numpy(case, draws, turns, 1, "cpu")
    return turns.losses


class Answering:
    """Stands for the connection of a trainer that may always go on; keeps what it sends."""

    def __init__(self):
        self.sent = []
        self.send = self.sent.append

    def recv(self):
        return "go"


@pytest.mark.parametrize(("epochs", "expected"), [(1, [9, 9, 5, 7, 7]), (3, [9, 6])])
def test_the_first_epoch_of_a_turn_is_not_timed_unless_alone(epochs, expected, monkeypatch):
    connection, now = Answering(), [0]
    monkeypatch.setattr(contenders.time, "perf_counter", lambda: now[0])
    turns = contenders.Turns(connection, epochs)
    turns.begin()
    for seconds in (9, 9, 5, 7, 7):
        now[0] += seconds
        turns.end(0.5)
    assert connection.sent == ["prepared", *((seconds, 0.5) for seconds in expected)]


@pytest.mark.parametrize("name", ["NumPy", "PyTorch", "JAX"])
def test_orders_are_drawn_within_the_epochs(name, monkeypatch):
    """They were handed out beforehand, while fastbp and scikit-learn drew theirs in their time."""
    if contenders.CONTENDERS[name].missing():
        pytest.skip(f"{name} is not installed")
    events, shuffles = [], Draws.shuffles

    def noted_shuffles(draws):
        for order in shuffles(draws):
            events.append("order")
            yield order

    class Noted(Script):
        def begin(self):
            events.clear()  # what a trial has drawn

        def end(self, loss):
            super().end(loss)
            events.append("epoch")

    monkeypatch.setattr(Draws, "shuffles", noted_shuffles)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    contenders.CONTENDERS[name].load()(SMALL, draw(SMALL, 3), Noted(), 1, "cpu")
    assert events == ["order", "epoch"] * 3


def test_draws_survive_the_file(tmp_path):
    draws = draw(SMALL, 2)
    draws.save(tmp_path / "draws.npz")
    loaded = Draws.load(tmp_path / "draws.npz")
    assert loaded.n_epochs == 2
    for name in ("X", "labels", "coefs", "intercepts", "state"):
        assert all(map(np.array_equal, getattr(draws, name), getattr(loaded, name))), name
    orders = [[order.copy() for order in each.shuffles()] for each in (draws, loaded)]
    np.testing.assert_array_equal(*orders)


# ---- the proof ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "remark"),
    [
        ([2.0, 1.0, 0.5], ""),
        ([2.0, 1.0, 0.509], ""),
        ([2.0, 1.0, 0.52], "loss off by 4.0%"),
        ([2.0, 2.0, 2.0], "loss off by 300.0%"),  # trains nothing
        ([0.5, 0.5, 0.5], "loss off by 57.1%"),  # knows where training will end
        ([2.0, 1.0, float("nan")], "not finite"),
    ],
)
@pytest.mark.parametrize("cheat", ["JAX", "fastbp"])
def test_who_computes_something_else_is_marked(cheat, losses, remark):
    """fastbp was what the others were compared with, so it could not be marked itself."""
    entries = [
        Entry(name, "", 1.0, [1.0], losses if name == cheat else [2.0, 1.0, 0.5]) for name in NAMES
    ]
    compare_losses(entries, SMALL)
    for entry in entries:
        if entry.contender == cheat and remark:
            assert entry.remark.startswith("computes something else")
            assert remark in entry.remark
        else:
            assert not entry.remark


def test_a_reference_that_failed_is_replaced():
    entries = [
        Entry("fastbp", "", 1.0, [1.0], [1.0]),
        Entry("NumPy", "failed: exit status 1"),
        Entry("scikit-learn", "", 1.0, [1.0], [1.0]),
        Entry("JAX", "", 1.0, [1.0], [1.1]),
    ]
    compare_losses(entries, SMALL)
    assert [bool(entry.remark) for entry in entries] == [False, True, False, True]


# ---- a race ---------------------------------------------------------------------------------


def test_a_tiny_race_without_some_peers(monkeypatch):
    absent = replace(contenders.CONTENDERS["JAX"], module="no_such_module")
    monkeypatch.setitem(contenders.CONTENDERS, "JAX", absent)
    monkeypatch.setattr(race, "PAUSE", 0.0)
    heat = Heat("table", None, SMALL, 1)
    with race.limited_to(1):
        entries = race.race(heat, ["fastbp", "NumPy", "JAX"], Pace(0.0, 2, 4), CACHE)
    ours, plain, missing = entries
    assert missing.remark == "not installed (pip install jax)"
    assert not missing.losses
    for entry in (ours, plain):
        assert entry.remark == ""
        assert len(entry.seconds) == 2
        assert len(entry.losses) == 3
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=1e-5)


def test_all_cores_are_awake_before_a_turn(monkeypatch):
    """A pause of sleep made short turns half as long again as training without pauses is."""
    clock, all_at_once = [0.0], threading.Barrier(3, timeout=60)

    def hash_block(block):
        all_at_once.wait()
        clock[0] = 1.0

    monkeypatch.setattr(race.hashlib, "sha256", hash_block)
    monkeypatch.setattr(race, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    race.keep_busy(3, 0.5)
    assert clock == [1.0]
    assert not all_at_once.broken


def test_a_contender_that_fails_is_marked_and_the_others_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(race, "PAUSE", 0.0)
    bad = replace(SMALL, activation="identity")  # NumPy's loop has no such activation
    entries = race.race(
        Heat("table", None, bad, 1), ["NumPy", "scikit-learn"], Pace(0.0, 1, 1), tmp_path
    )
    assert entries[0].remark == "failed: KeyError: 'identity'"
    assert entries[1].remark == ""
    assert len(entries[1].seconds) == 1


# ---- the record and the report --------------------------------------------------------------


def test_results_survive_the_file(tmp_path):
    run = canned_results()
    run.write(tmp_path / "bench.json")
    loaded = results.Results.read(tmp_path / "bench.json")
    assert loaded == run
    assert report.document(loaded) == report.document(run)
    assert {"cpu", "cores", "threads"} <= loaded.machine.keys()
    assert {"python", "numpy", "fastbp"} <= loaded.versions.keys()


def test_the_report_says_who_won_and_who_lost():
    run = canned_results()
    text = report.document(run)
    assert "torch.compile did not take part: not installed (pip install torch)" in text
    row = next(line for line in text.splitlines() if line.startswith("| 784-128-10 b64 logistic"))
    share = CEILING.share_of_peak(TABLE[2], 1e-3)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:8] == ["1", "9.00", "7.00", "5.00", "4.00", "3.00", "3.00"]
    assert cells[8] == f"{share:.0%}"
    slower = text[text.index("### Slower than a peer") :].splitlines()[2:]
    assert [line for line in slower if line.startswith("- ")] == [
        "- 64-64-64-10 b128 relu sgd (width 64, 2 threads): JAX takes 0.75 of fastbp's time"
    ]
    assert "2 threads' throughput over 1: 2.00 ×" in text
    assert "98.12% of the test set" in text
    assert "2.24%" in text
    quiet = report.document(run, details=False)
    assert "quartiles" in text
    assert "quartiles" not in quiet


def test_unproved_times_are_not_compared():
    remark = "computes something else: loss off by 9.0%"
    heat = Heat("table", None, TABLE[0], 2)
    run = results.Results.begin(2, quick=True)
    run.races = [canned_race(heat, [2.0, 9.0, 7.0, 5.0, 4.0, 1.0], {"JAX": remark})]
    assert run.races[0].fastest_peer.contender == "torch.compile"
    assert run.races[0].ratio == 2.0
    text = report.document(run)
    assert f"- JAX: {remark} ({TABLE[0].name})" in text
    assert "Nothing in this run." in text
    run.races = [canned_race(heat, [2.0, 9.0], {"fastbp": remark})]
    assert np.isnan(run.races[0].ratio)


def test_an_empty_run_can_be_reported(tmp_path):
    run = results.Results.begin(1, quick=True)
    program.finish(program.Options(output=tmp_path), run)
    assert results.Results.read(tmp_path / "bench.json") == run


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from fastbp.bench import plots

    names = plots.draw_all(canned_results(), tmp_path)
    assert names == ["ratios.png", "sweeps.png", "roofline.png", "cold.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert plots.draw_all(results.Results.begin(1, quick=True), tmp_path) == []


# ---- whole processes ------------------------------------------------------------------------


def test_milestones_of_a_whole_process_without_mnist():
    starts = processes.milestones(processes.accuracy_command("fastbp", "", 0), CACHE)
    assert list(starts) == ["read", "imported", "first epoch", "exit"]
    assert sorted(starts.values()) == list(starts.values())


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        processes.milestones(processes.accuracy_command("nobody", "", 0), tmp_path)


def test_installed_sizes_count_what_is_needed():
    assert processes.installed_bytes("scikit-learn") > processes.installed_bytes("numpy") > 1e6
    assert processes.installed_bytes("fastbp") > processes.installed_bytes("numba")
    assert processes.installed_bytes("no-such-distribution") is None


# ---- the command ----------------------------------------------------------------------------


def test_the_command_hands_its_options_on(monkeypatch, tmp_path):
    received = []
    monkeypatch.setattr(program, "run", received.append)
    arguments = ["bench", "--quick", "--only", "width", "--only", "784", "--peer", "JAX"]
    assert cli.main([*arguments, "--threads", "3", "--data", str(tmp_path)]) == 0
    (options,) = received
    assert options == program.Options(
        True, "cpu", ("width", "784"), ("JAX",), 3, Path("fastbp-bench"), tmp_path
    )


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--peer", "Caffe"]])
def test_unknown_names_are_one_line(arguments, tmp_path, capsys):
    assert cli.main(["bench", *arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert repr(arguments[1]) in error


def test_a_run_of_one_network_from_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "QUICK_PACE", Pace(0.0, 1, 1))
    monkeypatch.setattr(program, "make_heats", lambda *_: [Heat("table", None, SMALL, 1)])
    monkeypatch.setattr(program, "measure_ceiling", lambda n_threads: CEILING)
    monkeypatch.setattr(program, "find_mnist", lambda: None)
    monkeypatch.setattr(program, "race", lambda *given: race.race(*given[:3], CACHE, given[4]))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["--quick", "--only", "table", "--peer", "NumPy", "--output", str(tmp_path / "new")]
    assert cli.main(["bench", *arguments]) == 0
    output = capsys.readouterr().out
    assert "no pictures: matplotlib is not installed" in output
    assert "MNIST is not here" in output
    record = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert [entry["contender"] for entry in record["races"][0]["entries"]] == ["fastbp", "NumPy"]
    assert "5-9-6-3" in (tmp_path / "new" / "bench.md").read_text()


def test_ctrl_c_keeps_what_was_measured(monkeypatch, tmp_path, capsys):
    heats = [Heat("table", None, SMALL, 1), Heat("table", None, TABLE[0], 1)]
    monkeypatch.setattr(program, "make_heats", lambda *_: heats)
    monkeypatch.setattr(program, "measure_ceiling", lambda n_threads: CEILING)

    def interrupted(heat, *_):
        if heat.case != SMALL:
            raise KeyboardInterrupt
        return canned_race(heat, [1.0, 2.0]).entries

    monkeypatch.setattr(program, "race", interrupted)
    assert cli.main(["bench", "--output", str(tmp_path)]) == 130
    run = results.Results.read(tmp_path / "bench.json")
    assert len(run.races) == 1
    assert "interrupted" in run.problems[-1]


# ---- the figures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remarks", "ours", "met"),
    [
        ({}, 1.0, True),
        ({}, 3.0, False),
        ({"JAX": "not installed"}, 1.0, None),
        ({"JAX": "failed: exit status 1", "PyTorch": "computes something else"}, 1.0, None),
        ({"JAX": "not installed"}, 3.0, False),
        (dict.fromkeys(NAMES[1:], "x"), 1.0, None),
        ({"fastbp": "failed: exit status 1"}, 1.0, False),
    ],
)
def test_a_race_is_only_won_against_every_peer(remarks, ours, met):
    heat = Heat("table", None, TABLE[0], 2)
    figure = figures.compare(canned_race(heat, [ours, 2, 2, 2, 2, 2], remarks), 1.5)
    assert figure.met is met
    named = [part for item in remarks.items() for part in item if part != "fastbp"]
    assert all(part in figure.measured for part in named)


def test_figures_are_taken_from_the_record():
    found = {figure.what: figure for figure in figures.speed_figures(canned_results())}
    assert found["784-128-10 b64 logistic sgd: fastest peer's time / fastbp's"].met is True
    assert found["4-16-3 b32 logistic sgd: fastest peer's time / fastbp's"].met is False  # 3 < 6
    assert found[f"{batch_sweep(1).name}: PyTorch's time / fastbp's"].met is False
    assert found[f"{VARIED[1].shape}: 2 threads' throughput over 1"].measured == "2.00"
    assert found[f"{VARIED[1].shape}: float64 throughput over float32"].measured == "1.00"
    process = "MNIST to 98 %, whole process, warm cache: PyTorch's time / fastbp's"
    assert found[process].measured == "3.00"


def test_only_the_blocks_of_a_page_are_renewed(tmp_path):
    page = tmp_path / "page.md"
    begin, end = figures.BEGIN.format("bench"), figures.END.format("bench")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    figures.renew(page, bench="new")
    assert page.read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
