"""The benchmark with a GPU: what can be tested without one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fastbp import cli
from fastbp.bench import contenders, plots, program, race, report, results
from fastbp.bench.cases import BATCH_SIZES, FIT_EPOCHS, MANY, WIDTHS, Case, Heat, make_heats
from fastbp.bench.ceiling import Ceiling
from fastbp.bench.draws import draw
from fastbp.bench.race import Entry, Pace, compare_losses
from fastbp.cuda import toolkit

TOY = Case((7, 9, 6, 4), "logistic", "sgd", 16, 70, 0.05)
CEILING = Ceiling(2, 400e9, 200e9, 40e9, 2**25)
CONTENDERS = contenders.CONTENDERS
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class EnoughError(Exception):
    """Ends a trainer that would go on."""


class Script:
    """Stands for `Turns`: lets a trainer go through some epochs and keeps their losses."""

    def __init__(self, most):
        self.losses, self.most = [], most

    def begin(self):
        pass

    def end(self, loss):
        self.losses.append(float(loss))
        if len(self.losses) == self.most:
            raise EnoughError


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Settings of this process that trainers change."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def losses_of(name, case, n_epochs=3):
    """What a contender's trainer reports, on the CPU."""
    if CONTENDERS[name].missing():
        pytest.skip(f"{name} is not installed")
    turns = Script(n_epochs)
    with pytest.raises(EnoughError):
        CONTENDERS[name].load()(case, draw(case, FIT_EPOCHS), turns, 1, "cpu")
    return turns.losses


# ---- the same training by everyone -----------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize(
    "name", ["PyTorch on GPU", "PyTorch, CUDA graphs", "torch.compile, CUDA graphs"]
)
def test_pytorch_trains_what_fastbp_trains(name, solver, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case = replace(TOY, solver=solver, learning_rate=0.01)
    found = losses_of(name, case)
    np.testing.assert_allclose(found, losses_of("fastbp", case), rtol=1e-5)


def test_pytorch_in_bfloat16_keeps_single_parameters():
    found = losses_of("PyTorch on GPU", replace(TOY, precision="bfloat16"))
    expected = losses_of("fastbp", TOY)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found != expected


@pytest.mark.parametrize("name", ["fastbp", "PyTorch, CUDA graphs", "JAX on GPU"])
def test_the_first_of_many_networks_is_the_same_everywhere(name):
    many = replace(MANY, n_rows=150, n_networks=4)
    alone = losses_of("fastbp", replace(many, n_networks=1), FIT_EPOCHS)[-1]
    np.testing.assert_allclose(losses_of(name, many, 2), [alone] * 2, rtol=1e-5)


def test_an_engine_that_gives_its_program_up_has_no_time(monkeypatch):
    import warnings

    from fastbp import MLPClassifier

    def fit(model, X, y):
        warnings.warn("the fast program is not trusted", stacklevel=1)

    monkeypatch.setattr(MLPClassifier, "fit", fit)
    with pytest.raises(UserWarning, match="not trusted"):
        contenders.train_fastbp(TOY, draw(TOY, 2), Script(2), 1, "cuda")


def test_a_turn_of_many_networks_is_one_fit_and_may_stand_for_more():
    class Answering:
        sent = ()

        def send(self, message):
            self.sent += (message,)

        def recv(self):
            return "go"

    assert MANY.epochs_a_turn == 1
    assert MANY.n_samples == 20_000 * 1_000 * FIT_EPOCHS
    assert MANY.operations == FIT_EPOCHS * 1_000 * replace(MANY, n_networks=1).operations
    connection = Answering()
    turns = contenders.Turns(connection)
    turns.begin()
    turns.scale = 1e9
    turns.end(0.5)
    assert connection.sent[1][0] > 100


# ---- who takes part, and the proof -------------------------------------------------------------


def test_the_gpus_races_have_the_cpus_fastbp_as_their_proof():
    for device in ("cuda", "both"):
        names = contenders.contenders_on(device)
        assert names[0] == "fastbp"
        assert "fastbp on GPU" in names
        assert ("NumPy" in names) == (device == "both")
    assert not any("GPU" in name for name in contenders.contenders_on("cpu"))
    heats = make_heats(2, device="both")
    assert {heat.value for heat in heats if heat.series == "sizes"} == set(WIDTHS)
    assert {heat.case.batch_size for heat in heats if heat.series == "sizes"} == set(BATCH_SIZES)
    assert {heat.case.precision for heat in heats} == {"", "tf32", "bfloat16"}
    assert all(heat.case.n_rows >= heat.case.batch_size for heat in heats)
    (together,) = (heat for heat in heats if heat.series == "together")
    taking = [name for name in CONTENDERS if program.takes_part(CONTENDERS[name], together, False)]
    assert "scikit-learn" not in taking
    assert {"fastbp", "fastbp on GPU", "JAX on GPU"} <= set(taking)


@pytest.mark.parametrize(("precision", "is_marked"), [("", True), ("bfloat16", False)])
def test_losses_on_a_gpu_are_compared_with_the_cpus(precision, is_marked):
    entries = [
        Entry("fastbp", "", 1.0, [1.0], [0.5, 0.25]),
        Entry("fastbp on GPU", "", 1.0, [1.0], [0.5, 0.26]),
        Entry("JAX on GPU", "", 1.0, [1.0], [0.5, 0.25]),
    ]
    compare_losses(entries, replace(TOY, precision=precision))
    assert [bool(entry.remark) for entry in entries] == [False, is_marked, False]


def test_without_a_reference_there_is_no_time():
    entries = [Entry("fastbp", "failed"), Entry("JAX on GPU", "", 1.0, [1.0], [0.5])]
    compare_losses(entries, TOY)
    assert entries[1].remark == "nothing to compare its loss with"


# ---- the report --------------------------------------------------------------------------------


def canned_results():
    """A run in which a GPU pays from 512 units on, and JAX is faster there; numbers are made up."""
    run = results.Results.begin(2, quick=False)
    run.machine["gpu"] = "Toy GPU 1, driver for CUDA 13.0"
    for heat in make_heats(2, device="both"):
        is_large = heat.value is None or heat.value >= 512
        seconds = {"fastbp": 2e-3, "NumPy": 8e-3, "PyTorch": 6e-3, "fastbp on GPU": 1e-3,
                   "JAX on GPU": 0.5e-3}  # fmt: skip
        if not is_large:
            seconds |= {"fastbp on GPU": 4e-3, "JAX on GPU": 8e-3}
        entries = [Entry(name, "", 2 * s, [s] * 3, [0.7]) for name, s in seconds.items()]
        entries.append(Entry("PyTorch on GPU", "failed: out of luck"))
        run.races.append(results.Race(heat, entries, CEILING))
    run.starts = {"fastbp on GPU, warm cache": {
        name: [1.0 + at] for at, name in enumerate(("read", "imported", "first epoch", "exit"))
    }}  # fmt: skip
    return run


def test_the_report_sets_gpu_and_cpu_side_by_side(tmp_path):
    run = canned_results()
    run.write(tmp_path / "bench.json")
    assert results.Results.read(tmp_path / "bench.json") == run
    text = report.document(run)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| 64-2048-2048-10 b64 ")
    ]
    n_rows = next(h.case.n_rows for h in make_heats(2, device="both") if h.value == 2_048)
    assert rows[0][1:] == [
        f"{n_rows / 2e-3:,.0f}", f"{n_rows / 1e-3:,.0f}", "2.00", "3.00 PyTorch", "0.50 JAX on GPU"
    ]  # fmt: skip
    assert "- batch size 64: the GPU is faster from 512 units on" in text
    assert "JAX on GPU takes 0.50 of fastbp's time" in text
    assert "- PyTorch on GPU: failed: out of luck" in text
    assert "Toy GPU 1" in text
    assert "fastbp on GPU, warm cache" in text
    assert "1,000 networks" in text


def test_a_width_without_valid_times_says_nothing_about_where_a_gpu_pays():
    run = canned_results()
    sizes = run.series("sizes")
    for found in sizes:
        if found.heat.value == max(WIDTHS):
            found.on("cuda").ours.remark = "failed"
    assert "batch size 64: the GPU is faster from 512 units on" in report.document(run)
    for found in sizes:
        found.on("cpu").ours.seconds[:] = [1e-9]
    assert report.document(run).count("the GPU is faster at no width raced") == 2


def test_there_is_a_picture_of_where_a_gpu_starts_to_pay(tmp_path):
    pytest.importorskip("matplotlib")
    names = plots.draw_all(canned_results(), tmp_path)
    assert "devices.png" in names
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


# ---- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench --device cuda", "bench --device both",
                                     "check --device cuda"])  # fmt: skip
def test_without_a_gpu_the_command_says_what_is_missing(command, monkeypatch, capsys):
    monkeypatch.setattr(toolkit, "problem", lambda: "there is none. Buy one.")
    assert cli.main(command.split()) == 2
    device = command.split()[-1]
    expected = f"fastbp: error: --device {device} cannot be used: there is none. Buy one.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("arguments", [["--only", "bench_mnist"], ["--peer", "NumPy"]])
def test_parts_and_peers_are_those_of_the_device(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(toolkit, "problem", lambda: None)
    monkeypatch.setattr("fastbp.info.describe_gpu", lambda: "Toy GPU 1")
    command = ["bench", "--device", "cuda", *arguments, "--output", str(tmp_path)]
    assert cli.main(command) == 2
    assert repr(arguments[1]) in capsys.readouterr().err


def test_a_run_where_the_gpu_is_only_believed_in(monkeypatch, tmp_path, capsys):
    """The processes find none: their failures are remarks, and the CPU's times stand."""
    heats = [Heat("table", None, TOY, 1, "both"), Heat("sizes", 16, TOY, 1, "cuda")]
    monkeypatch.setattr(toolkit, "problem", lambda: None)
    monkeypatch.setattr("fastbp.info.describe_gpu", lambda: "Toy GPU 1")
    monkeypatch.setattr(program, "QUICK_PACE", Pace(0.0, 1, 1))
    monkeypatch.setattr(program, "make_heats", lambda *_: heats)
    monkeypatch.setattr(program, "measure_ceiling", lambda n_threads: CEILING)
    monkeypatch.setattr(race, "PAUSE", 0.0)
    command = ["bench", "--device", "both", "--quick", "--only", "table", "--peer", "PyTorch on"]
    assert cli.main([*command, "--output", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "bench.json").read_text())["races"]
    ours, gpu, *peers = found["entries"]
    assert len(peers) == (not CONTENDERS["PyTorch on GPU"].missing())
    assert [ours["contender"], gpu["contender"]] == ["fastbp", "fastbp on GPU"]
    assert ours["remark"] == ""
    assert ours["seconds"]
    assert "device='cuda' cannot be used" in gpu["remark"]
    assert all(peer["remark"] for peer in peers)
    assert "Toy GPU 1" in capsys.readouterr().out
