"""Programs other than the general one are tried before they are trusted."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import small as make_small
from conftest import weights
from simulation import speed_up
from sklearn.base import clone

from fastbp import fit_many
from fastbp.cuda import choice, proof, toolkit
from fastbp.cuda.device import Device
from fastbp.cuda.task import Task
from fastbp.cuda.toolkit import DeviceError, DeviceMemoryError
from fastbp.cuda.wide.layer_products import choose_tiles
from fastbp.fitting import Fit, GivenData
from fastbp.network import Network
from fastbp.optimizers import RULES

speed_up()
NETWORK = Network((5, 8, 3), ("relu",), "softmax", "log_loss")
TASK = Task(NETWORK, np.dtype("float32"), "bfloat16", 12, RULES["adam"])


class Gpu(choice.Gpu):
    def synchronize(self):
        """Wait for nothing."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process that has tried nothing, and an empty cache folder."""
    monkeypatch.setattr(proof, "_verdicts", {})
    monkeypatch.setattr(proof, "_warned", set())
    monkeypatch.setattr(proof, "cache_folder", lambda name: str(tmp_path))
    monkeypatch.setattr(proof, "is_simulated", lambda: False)
    return tmp_path


def restart(monkeypatch):
    monkeypatch.setattr(proof, "_verdicts", {})
    monkeypatch.setattr(proof, "_warned", set())


class FakeTrial(proof.Trial):
    """Its results come from a script instead of a GPU."""

    script, calls = {}, 0

    def run(self, device, precision):
        FakeTrial.calls += 1
        if precision == "float32":
            return [1.0, 0.9], self.start + 1
        answer = FakeTrial.script[FakeTrial.calls % len(FakeTrial.script)]
        if isinstance(answer, Exception):
            raise answer
        loss, moved = answer
        return [1.0, loss], self.start + moved


def try_wide(monkeypatch, *script):
    monkeypatch.setattr(proof, "Trial", FakeTrial)
    FakeTrial.script, FakeTrial.calls = script, 0
    return proof.trusted_task(Gpu(), TASK)


def test_results_within_rounding_are_trusted_and_kept(monkeypatch, fresh):
    assert try_wide(monkeypatch, (0.901, 1.1)) is TASK
    assert FakeTrial.calls == 3
    restart(monkeypatch)
    assert try_wide(monkeypatch, (5.0, 5.0)) is TASK  # not tried again
    assert FakeTrial.calls == 0
    said = r"wide \(bfloat16, adam, .*forward 64x64x4.*\): trusted; small: not tried yet"
    assert re.fullmatch(said, proof.describe(Gpu()))
    monkeypatch.setattr(toolkit, "look_around", lambda: toolkit.Findings(driver_version=14000))
    restart(monkeypatch)
    with pytest.warns(UserWarning, match="losses are off"):
        try_wide(monkeypatch, (5.0, 1.0))
    said = proof.describe(Gpu())
    assert "): not trusted, losses are off by" in said
    assert "small: not tried yet" in said
    kept = json.loads((fresh / "verdicts.json").read_text())
    assert len(kept) == 2  # the first driver's verdict is still there


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([(1.0, 1.0)], r"losses are off by 1\.1e-01, more than 0\.01"),
        ([(np.nan, 1.0)], "losses are off"),
        ([(0.9, 1.8)], r"parameters are off by 8\.0e-01"),
        ([(0.9, 0.0)], "parameters are off"),
        ([(0.9, 1.0), (0.9, 1.0001)], "a repetition gave other bits"),
        ([RuntimeError("CUDA_ERROR_LAUNCH_FAILED")], "RuntimeError: CUDA_ERROR_LAUNCH_FAILED"),
    ],
    ids=["loss", "NaN", "learnt too much", "learnt nothing", "other bits", "launch"],
)
def test_what_is_wrong_goes_to_the_general_program_with_one_warning(script, message, monkeypatch):
    with pytest.warns(UserWarning, match=message):
        found = try_wide(monkeypatch, *script)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert try_wide(monkeypatch, *script) == found
    assert found == replace(TASK, precision="float32")
    assert choice.choose(found, Gpu()).name == "general"
    restart(monkeypatch)
    with pytest.warns(UserWarning, match=message):  # from the file, once a process
        try_wide(monkeypatch, (0.9, 1.0))
    assert FakeTrial.calls == 0


def test_full_memory_is_no_verdict(monkeypatch, fresh):
    with pytest.raises(DeviceMemoryError):
        try_wide(monkeypatch, DeviceMemoryError("full"))
    assert not (fresh / "verdicts.json").exists()
    assert try_wide(monkeypatch, (0.9, 1.0)) is TASK


def test_a_lost_gpu_is_said_and_remembered(monkeypatch):
    def lose(self):
        raise DeviceError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(Gpu, "synchronize", lose)
        with pytest.raises(DeviceError, match="Restart Python: the general program will"):
            try_wide(monkeypatch, RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"))
    restart(monkeypatch)
    with pytest.warns(UserWarning, match="ILLEGAL_ADDRESS"):
        assert try_wide(monkeypatch, (0.9, 1.0)).precision == "float32"


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "{"])
def test_a_damaged_file_costs_a_new_trial(content, monkeypatch, fresh):
    (fresh / "verdicts.json").write_text(content)
    assert try_wide(monkeypatch, (0.9, 1.0)) is TASK
    assert FakeTrial.calls == 3


def test_no_folder_costs_a_trial_a_process(monkeypatch):
    monkeypatch.setattr(proof, "cache_folder", lambda name: None)
    assert try_wide(monkeypatch, (0.9, 1.0)) is TASK


def test_trials_are_small_and_of_the_kind():
    network = Network((5000, 3000, 2), ("tanh",), "identity", "squared_error")
    trial = proof.Trial(replace(TASK, network=network, batch_size=9999))
    assert trial.network.layer_sizes == (512, 512, 2)
    assert trial.network.hidden_activations == ("tanh",)
    assert trial.data.X.shape == (640, 512)


def test_a_trial_tries_the_kernels_of_the_fit(monkeypatch):
    """Tiles went by the trial's own sizes: those of large networks were trusted untried."""
    network = Network((4096, 4096, 10), ("relu",), "softmax", "log_loss")
    task, asked = replace(TASK, network=network, batch_size=4096), []
    monkeypatch.setattr(proof, "choose", lambda task, device: asked.append(task) or choice)
    with pytest.raises(AttributeError):  # there is nothing to load
        proof.Trial(task).run(Gpu(), "bfloat16")
    (tried,) = asked
    assert tried.network.layer_sizes == (512, 512, 10)
    assert choose_tiles(tried, Gpu()) == choose_tiles(task, Gpu())
    assert choose_tiles(replace(tried, stands_for=None), Gpu()) != choose_tiles(task, Gpu())


def test_other_tiles_are_tried_by_themselves(monkeypatch):
    try_wide(monkeypatch, (0.9, 1.0))
    network = Network((4096, 4096, 3), ("relu",), "softmax", "log_loss")
    FakeTrial.calls = 0
    proof.trusted_task(Gpu(), replace(TASK, network=network, batch_size=4096))
    assert FakeTrial.calls == 3
    assert len(proof._verdicts[proof.fingerprint(Gpu())]) == 2


def test_the_small_program_proves_itself_in_the_simulator(monkeypatch):
    device = Device()
    model, X, y = make_small("multiclass", hidden_layer_sizes=(5,), precision="float32")
    fit = Fit(model)
    fit.prepare(GivenData(X[:20], y[:20], None))
    trial = proof.Trial(Task(fit.network, np.dtype("float32"), "float32", 12, RULES["adam"]))
    expected = trial.run(device, "float32")
    found, again = (trial.run_small(device, fit.training) for _ in range(2))
    assert trial.compare(found, again, expected, "float32") == ""
    monkeypatch.setitem(proof.BOUNDS, "float32", (1e-12, 1e-12))
    assert "off by" in trial.compare(found, again, expected, "float32")


def test_fit_many_goes_on_by_the_general_program(monkeypatch):
    """One warning, and the numbers of the general program."""
    monkeypatch.setattr(proof, "is_trusted", lambda *_: proof.warn("not to be trusted"))
    models = []
    for _ in range(2):
        model, X, y = make_small(
            "multiclass", hidden_layer_sizes=(5,), max_iter=2, precision="float32", device="cuda"
        )
        models.append(model)
    with pytest.warns(UserWarning, match="not to be trusted") as caught:
        fit_many(models, X[:30], y[:30])
    assert sum("not to be trusted" in str(warning.message) for warning in caught) == 1
    alone = clone(models[0])
    with pytest.warns(UserWarning, match="Maximum iterations"):
        alone.fit(X[:30], y[:30])
    np.testing.assert_array_equal(weights(models[0]), weights(alone))


def test_a_trial_that_cannot_be_made_costs_one_fit(monkeypatch):
    """The estimator was put back and then trained all the same, without its classes."""

    def fail(*_):
        raise DeviceMemoryError("full")

    monkeypatch.setattr(proof, "is_trusted", fail)
    settings = dict(hidden_layer_sizes=(5,), max_iter=1, precision="float32", device="cuda")
    models = [make_small("multiclass", **settings)[0] for _ in range(2)]
    _, X, y = make_small("multiclass")
    with (
        pytest.raises(MemoryError, match="full") as caught,
        pytest.warns(UserWarning, match="Maximum iterations"),
    ):
        fit_many(models, X[:30], y[:30])
    assert "left as before: estimators[0];" in caught.value.__notes__[0]
    assert vars(models[0]) == vars(clone(models[0]))
    models[1].predict(X[:3])
