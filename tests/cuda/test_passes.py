"""A batch through all layers in one kernel of clusters: the kernel in the emulator, all else of the
generic program in the simulator, through the engine.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import naive
from emulated_ptx import EmulatedPtx
from emulator import launch
from simulation import simulates, speed_up

from fastbp.cuda.choice import Gpu, choose
from fastbp.cuda.engine import Engine
from fastbp.cuda.steps import pass_layout, passes
from fastbp.cuda.steps import program as steps
from fastbp.cuda.steps.pass_layout import PassLayout, PassShape, pass_layout_for
from fastbp.cuda.task import NESTEROV, Task
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer

if simulates():
    speed_up()
SHAPE = PassShape(cluster=2, warps=2, rows=8, units=1)  # of the emulated launches
N_ROWS = 27


class EmulatedKernel:
    """In place of `ClusterKernel`."""

    arrays, launches, seed = [], 0, None

    def __init__(self, device, layout, name, cluster, threads, shared_memory, n_clusters):
        assert shared_memory == layout.n_bytes
        self.layout, self.grid = layout, (n_clusters * cluster, threads)

    def __call__(self, *arguments):
        EmulatedKernel.launches += 1
        launch(
            passes.make_pass(self.layout), *self.grid, arguments, ptx=EmulatedPtx,
            memory=[one for one in self.arrays if one.size], cluster=self.layout.shape.cluster,
            dynamic_shared_bytes=self.layout.n_bytes, seed=self.seed,
        )  # fmt: skip


@pytest.fixture
def emulated(monkeypatch):
    """Passes of small clusters run in the emulator; it may use all arrays of the device."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    from fastbp.cuda.device import Device

    interface = property(lambda array: array._ary.__array_interface__)
    monkeypatch.setattr(FakeCUDAArray, "__cuda_array_interface__", interface, raising=False)
    monkeypatch.setattr(EmulatedKernel, "arrays", [])
    monkeypatch.setattr(EmulatedKernel, "launches", 0)

    def remembering(make):
        def make_array(device, *arguments):
            array = make(device, *arguments)
            EmulatedKernel.arrays.append(array._ary)
            return array

        return make_array

    monkeypatch.setattr(Device, "empty", remembering(Device.empty))
    monkeypatch.setattr(Device, "upload", remembering(Device.upload))
    monkeypatch.setattr(passes, "ClusterKernel", EmulatedKernel)
    monkeypatch.setattr(
        passes, "compile_cluster", lambda device, make, layout, signature: (layout, "")
    )
    monkeypatch.setattr(
        steps,
        "pass_layout_for",
        lambda task, device: PassLayout(task.network, task.batch_size, EmulatedKernel.shape),
    )
    monkeypatch.setattr(EmulatedKernel, "shape", SHAPE, raising=False)
    return EmulatedKernel


def make_data(network, weighted=False):
    """Rows in batches of 11: the last one is short enough to leave a cluster without rows."""
    random = np.random.default_rng(0)
    X = random.standard_normal((N_ROWS, network.layer_sizes[0])).astype(np.float32)
    n_outputs = network.layer_sizes[-1]
    if network.output_activation == "softmax":
        targets = random.integers(0, n_outputs, N_ROWS)
    else:
        targets = random.integers(0, 2, (N_ROWS, n_outputs)).astype(np.float32)
    weights = None
    if weighted:
        weights = random.uniform(0.5, 2, N_ROWS)
        weights[11:22] = 0  # the second batch
    return Data(X, targets, weights, 0.5)


def train(make_engine, network, data, optimizer):
    """The loss, parameters and moments after an epoch."""
    own = replace(optimizer)
    own.reset(network.n_parameters, np.float64)
    with make_engine() as engine:
        engine.load_parameters(
            network.initialise(np.random.RandomState(1), np.float64, default_activation="tanh")
        )
        engine.load_optimizer(own)
        loss = engine.train_epoch(data, np.arange(N_ROWS), 11, own, 0.1)
        engine.store_optimizer(own)
        return loss, engine.store_parameters(), own.moments


SGD, WITH_ADAM = Optimizer("sgd", 0.1), Optimizer("adam", 0.01, epsilon=1e-3)
CASES = {
    "one output": (
        Network((7, 8, 8, 12, 1), ("tanh",) * 3, "logistic", "log_loss"), SGD, False, SHAPE
    ),
    "softmax": (
        Network((5, 7, 20, 4), ("relu", "logistic"), "softmax", "log_loss"), WITH_ADAM, True,
        SHAPE._replace(cluster=4),
    ),
    "regression": (
        Network((18, 3, 5, 2), ("identity", "relu"), "identity", "squared_error", True), SGD, True,
        SHAPE._replace(cluster=4),  # one block has no unit of the first layer
    ),
    "two octets of rows": (
        Network((4, 35, 6, 2), ("tanh", "relu"), "exp", "poisson"), SGD, False,
        SHAPE._replace(rows=16, units=2),
    ),
}  # fmt: skip


@pytest.mark.skipif(not simulates(), reason="the other kernels run in numba's simulator")
@pytest.mark.parametrize(("network", "optimizer", "weighted", "shape"), CASES.values(), ids=CASES)
def test_an_epoch_agrees_with_the_oracle(emulated, network, optimizer, weighted, shape):
    emulated.shape = shape
    data = make_data(network, weighted)
    found = train(lambda: Engine(network, np.float32), network, data, optimizer)
    assert emulated.launches == 3
    expected = train(lambda: naive.NaiveEngine(network, np.float64), network, data, optimizer)
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6)
    for one, other in zip([found[1], *found[2]], [expected[1], *expected[2]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * np.abs(other).max())


@pytest.mark.skipif(not simulates(), reason="the other kernels run in numba's simulator")
def test_threads_may_run_in_any_order(emulated, monkeypatch):
    """To the bit: sums run in a fixed order, and the emulator finds no race."""
    network = Network((4, 5, 6, 3), ("tanh", "relu"), "softmax", "log_loss")
    emulated.shape = SHAPE._replace(cluster=3)
    data, results = make_data(network), []
    for seed in (None, 0):
        monkeypatch.setattr(emulated, "seed", seed)
        loss, parameters, _ = train(lambda: Engine(network, np.float32), network, data, SGD)
        results.append((loss, parameters.tolist()))
    assert results[0] == results[1]


# ---- layouts and the choice --------------------------------------------------------------------

HIGGS = Network((28, *(300,) * 5, 1), ("tanh",) * 5, "logistic", "log_loss")


def higgs_task(**changes):
    return replace(Task(HIGGS, np.dtype(np.float32), "float32", 100, NESTEROV), **changes)


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 8), (100, 8), (128, 8), (129, 16), (512, 32)])
def test_clusters_take_as_few_rows_as_run_at_once(batch_size, rows):
    layout = pass_layout_for(higgs_task(batch_size=batch_size), Gpu())
    assert layout.shape.rows == rows
    choice = choose(higgs_task(batch_size=batch_size), Gpu())
    assert choice.name == "steps"
    assert "clusters of 8 blocks" in choice.reason


@pytest.mark.parametrize(
    ("gpu", "changes"),
    [
        (Gpu(capability=(8, 0)), {}),
        (Gpu(largest_cluster=1), {}),
        (Gpu(), {"batch_size": 1024}),
        (Gpu(), {"precision": "float64", "dtype": np.dtype(np.float64)}),
        (Gpu(), {"network": Network((9, 5, 2), ("relu",), "softmax", "log_loss")}),
        (Gpu(), {"network": Network((9, 5, 5, 17), ("relu",) * 2, "softmax", "log_loss")}),
        (Gpu(), {"network": Network((784, 2048, 2048, 2), ("relu",) * 2, "softmax", "log_loss")}),
    ],
)
def test_other_tasks_take_a_kernel_a_layer(gpu, changes):
    task = higgs_task(**changes)
    assert pass_layout_for(task, gpu) is None
    assert "clusters" not in choose(task, gpu).reason


@pytest.mark.parametrize("network", [HIGGS, *(network for network, *_ in CASES.values())])
@pytest.mark.parametrize("rows", [8, 16, 32])
def test_places_of_a_layout_are_aligned_and_apart(network, rows):
    at, layout = pass_layout, PassLayout(network, 50, PassShape(8, 16, rows, 2))
    words = layout.words
    records = words[at.HEAD_SIZE :].reshape(-1, at.RECORD_SIZE)
    n_layers, n_outputs = len(network.shapes), network.layer_sizes[-1]
    whole = {(0, len(words)), (words[at.ROW_LOSSES], 2 * rows)}
    whole |= {(words[place], rows * n_outputs) for place in (at.OUTPUTS, at.TARGETS, at.ERRORS)}
    whole |= {(record[at.BIAS], record[at.SHARE]) for record in records[:n_layers]}
    whole |= {
        (record[at.OWN_VALUES], record[at.SHARE] * rows) for record in records[: n_layers - 1]
    }
    # What a product reads, while the weights of the next one come and its inputs are written.
    for q, record in enumerate(records):
        spans = {(words[at.SUMS], record[at.GROUPS] * record[at.SHARE] * rows)}
        for one in records[q : q + 2]:
            spans.add((one[at.INPUTS], at.input_size(one[at.N_TERMS], rows)))
            spans.add((one[at.WEIGHTS], one[at.SHARE] * one[at.WEIGHT_STRIDE]))
        spans = sorted(spans | whole)
        assert all(start % 4 == 0 for start, _ in spans)
        for (start, size), (following, _) in pairwise(spans):
            assert start + size <= following
        assert spans[-1][0] + spans[-1][1] <= layout.n_bytes // 4
