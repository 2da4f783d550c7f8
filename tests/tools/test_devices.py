"""`device`: what it means where there is no GPU, and what is said about it. No CUDA is needed."""

import ctypes
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import small, weights
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import cli, devices, info
from fastbp.cuda import choice, toolkit
from fastbp.cuda.toolkit import DeviceError, DeviceMemoryError, Findings
from fastbp.precisions import LOW_PRECISIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
H200 = Findings(
    numba_cuda="0.30.4", bindings="13.0.1", has_driver=True, driver_version=13000,
    gpus=(("NVIDIA H200", (9, 0)),),
)  # fmt: skip
# What is found -> what is said of it: the fault and the remedy.
FAULTS = {
    "no driver": (dict(has_driver=False, gpus=()), "no NVIDIA driver.*Install one"),
    "old driver": (dict(driver_version=12040), "CUDA 12.4.*older.*580.*cuda12"),
    "older driver": (dict(bindings="12.9.0", driver_version=11080), "CUDA 11.8.*525"),
    "driver to restart": (dict(driver_error=803, gpus=()), "not the one that is loaded.*restart"),
    "broken driver": (dict(driver_error=999, gpus=()), r"does not start \(CUDA error 999\)"),
    "no GPU": (dict(driver_error=100, gpus=()), "sees no GPU.*--gpus all"),
    "no GPU given": (dict(gpus=()), "sees no GPU.*CUDA_VISIBLE_DEVICES"),
    "old GPU": (dict(gpus=(("GTX 1080", (6, 1)),)), r"GTX 1080\) has compute capability 6.1.*7.5"),
    "no numba-cuda": (dict(numba_cuda=None), r"not installed.*pip install 'fastbp\[cuda13\]'"),
    "numba's own": (dict(implementation="Built-in"), "deprecated.*_numba_cuda_redirector"),
    "no toolkit": (dict(missing_libraries=("nvvm",)), r"nvvm cannot be loaded.*fastbp\[cuda13\]"),
}


@pytest.fixture
def found(monkeypatch):
    """Let the toolkit find what a test says."""

    def pretend(findings):
        monkeypatch.setattr(toolkit, "look_around", lambda: findings)

    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    return pretend


def test_a_sound_chain_has_no_problem(found):
    assert toolkit.diagnose(H200) is None
    found(H200)
    assert devices.resolve("auto") == devices.resolve("cuda") == ("cuda", None)
    assert "NVIDIA H200 (compute capability 9.0), driver for CUDA 13.0" in info.describe_gpu()


@pytest.mark.parametrize(("changes", "says"), FAULTS.values(), ids=FAULTS)
def test_cuda_says_what_is_missing_and_changes_nothing(found, changes, says):
    found(replace(H200, **changes))
    model, X, y = small("multiclass")
    model.fit(X, y).set_params(device="cuda")
    before = pickle.dumps(model)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(DeviceError, match=f"device='cuda' cannot be used: .*{says}"):
            call(X, y)
    with pytest.raises(DeviceError, match=says):
        model.predict(X)
    assert pickle.dumps(model) == before
    assert "device='auto' is the CPU" in info.describe_gpu()


@pytest.mark.smoke
def test_auto_falls_back_to_the_cpu_and_says_so_once(found, capsys):
    found(Findings())
    model, X, y = small("multiclass", max_iter=2)
    expected = weights(model.fit(X, y))
    assert capsys.readouterr().out == ""
    model.set_params(device="auto", verbose=True).fit(X, y)
    model.predict(X)
    np.testing.assert_array_equal(weights(model), expected)
    said = capsys.readouterr().out
    assert said.count("device='auto': on the CPU, because there is no NVIDIA driver") == 1
    with pytest.raises(ValueError, match=r"precision='tf32'.*no NVIDIA driver.*'float32'"):
        model.set_params(precision="tf32").fit(X, y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"scaling_layer": True},
        {"parametrization": "neural_tangent"},
        {"max_grad_norm": 1.0},
        {"numerical_embedding": "pbld", "parametric_activation": True},
    ],
    ids=lambda parameters: "/".join(parameters),
)
def test_what_a_gpu_does_not_compute_is_left_to_the_cpu_or_refused(parameters, found, capsys):
    found(H200)
    model, X, y = small("multiclass", max_iter=2, precision="float32", **parameters)
    with pytest.raises(InvalidParameterError, match=r"=.*is not for device='cuda'"):
        model.set_params(device="cuda").fit(X, y)
    model.set_params(device="auto", verbose=True).fit(X, y)
    assert "on the CPU, because " in capsys.readouterr().out
    if model._model.network.extra_shapes:
        expected = model.predict(X)
        with pytest.raises(InvalidParameterError, match="does not compute slopes"):
            model.set_params(device="cuda").predict(X)
        np.testing.assert_array_equal(model.set_params(device="cpu").predict(X), expected)


@pytest.mark.parametrize("precision", LOW_PRECISIONS)
def test_lbfgs_refuses_coarse_precisions(precision):
    model, X, y = small("single", solver="lbfgs", precision=precision, device="cuda")
    with pytest.raises(ValueError, match=f"precision='{precision}'.*line search.*lbfgs"):
        model.fit(X, y)


def test_an_unknown_device_is_refused_in_predictions_too():
    model, X, y = small("single")
    model.fit(X, y).set_params(device="gpu")
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'auto', got 'gpu'"):
        model.predict(X)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in ...", DeviceMemoryError,
         "memory of 2.0 GiB is full. Lower batch_size.*device='cpu'"),
        ("[700] Call to cuStreamSynchronize results in CUDA_ERROR_ILLEGAL_ADDRESS", DeviceError,
         "lost to this process.*ILLEGAL_ADDRESS.*Restart Python"),
        ("CUDA initialized before forking", DeviceError, "'spawn' or joblib's loky"),
        ("something else", RuntimeError, "^something else$"),
    ],
)  # fmt: skip
def test_errors_of_the_gpu_name_the_remedy(text, error, says):
    from fastbp.cuda.device import reporting

    with pytest.raises(error, match=says) as caught, reporting(SimpleNamespace(memory=2**31)):
        raise RuntimeError(text)
    assert type(caught.value) is error


class Stream:
    """cuda.core's stream while a graph is recorded: what it is asked to do, in order."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        def note(*arguments):
            self.asked.append(name)
            return self

        return note


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_recording_that_breaks_off_leaves_the_stream_usable(error):
    """Ctrl-C while a graph was recorded ended a fit in a DeviceError: the stream went on recording,
    so what had been learned could not be read."""
    from fastbp.cuda.device import Device

    device = object.__new__(Device)
    device._core_stream = Stream()

    def work():
        raise error

    with pytest.raises(error):
        device.record(work)
    assert device._core_stream.asked == ["create_graph_builder", "begin_building", "close"]
    device._core_stream.asked.clear()
    device.record(lambda: None)()
    assert device._core_stream.asked[2:] == ["end_building", "complete", "upload", "launch"]


@pytest.mark.parametrize("n_numbers", [5, 50_000])
def test_a_host_array_may_change_while_its_copy_is_under_way(n_numbers):
    """CUDA may read pageable memory after the call: here it does so when it is waited for."""
    from fastbp.cuda.device import Device

    device, found, pending = object.__new__(Device), [], []
    device._core_stream = device.stream = SimpleNamespace(
        synchronize=lambda: found.extend(map(np.copy, pending)) or pending.clear()
    )
    device._cuda = SimpleNamespace(to_device=lambda array, stream: pending.append(array))
    device._kept = []
    array = np.arange(n_numbers)
    device.upload(array)
    array[:] = -1
    device.synchronize()
    np.testing.assert_array_equal(found[0], np.arange(n_numbers))
    assert not device._kept


class Driver:
    """NVIDIA's driver with some GPUs of compute capability 8.9, or one that fails to start."""

    def __init__(self, *gpus, error=0):
        self.gpus, self.error = gpus, error

    def cuInit(self, flags):  # noqa: N802
        return self.error

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGetName(self, name, size, index):  # noqa: N802
        name.value = self.gpus[index]
        return 0

    def cuDeviceGetAttribute(self, number, attribute, index):  # noqa: N802
        number._obj.value = {75: 8, 76: 9}[attribute]
        return 0


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (None, (False, 0, 0, ())),
        (Driver(error=100), (True, 100, 12060, ())),
        (Driver(b"NVIDIA L4"), (True, 0, 12060, (("NVIDIA L4", (8, 9)),))),
    ],
)
def test_the_driver_is_asked_itself(monkeypatch, driver, expected):
    def load(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(toolkit, "_version", lambda package: None)
    found = toolkit.look_around.__wrapped__()
    assert (found.has_driver, found.driver_error, found.driver_version, found.gpus) == expected


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", "general: general float32 kernels, many steps in a graph"),
        ("float64", "general: general float64"),
        ("tf32", "wide: products on tensor cores in float32 rounded to tf32, float32 master"),
        ("bfloat16", "wide: products on tensor cores in bfloat16, float32 master weights"),
    ],
)
def test_info_explains_the_choice_for_a_network(found, capsys, precision, expected):
    found(Findings())
    assert cli.main(["info", "--layers", "784,128,10", "--precision", precision]) == 0
    shown = capsys.readouterr().out
    assert "network       784-128-10\n" in shown
    assert re.search(f"on a GPU +{expected}.*supposing an H200", shown)


@pytest.mark.parametrize("lack", [{"capability": (7, 5)}, {"shared_memory": 65_536}])
def test_precisions_of_tensor_cores_are_refused_without_them(lack):
    task = info.make_task((4, 3, 2), 8, "bfloat16", "sgd")
    with pytest.raises(ValueError, match=r"precision='bfloat16' needs an Ampere.*'float32'"):
        choice.choose(task, choice.Gpu(**lack))


def test_importing_imports_no_cuda():
    # Apart from what numba-cuda's .pth files load at every start.
    program = """
import sys
old = {*sys.modules}
import fastbp, fastbp.cuda.toolkit, fastbp.info, fastbp.cli
print(*{*sys.modules} - old)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = {name for name in run.stdout.split() if not name.startswith("fastbp")}
    assert not {name for name in loaded if "cuda" in name}
