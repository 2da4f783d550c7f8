"""The program that runs an epoch on one cluster: its kernel in the emulator, through the engine.

Nothing of it is replaced but the GPU: the engine's device is memory of the host, and the compiled
kernel is the kernel's own Python for a small cluster of small blocks.
"""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import naive
from emulated_ptx import EmulatedPtx
from emulator import launch

from fastbp.cpu.engine import Engine as CpuEngine
from fastbp.cuda import engine
from fastbp.cuda.choice import Gpu, choose
from fastbp.cuda.clusters import layout as cluster_layout
from fastbp.cuda.clusters import program as clusters
from fastbp.cuda.clusters.kernel import make_kernel
from fastbp.cuda.clusters.layout import HEAD_SIZE, LAYER_SIZE, ClusterLayout, layout_for
from fastbp.cuda.task import ADAM, NESTEROV, Task
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer

CLUSTER, WARPS = 2, 2  # of the emulated launches


class HostArray(np.ndarray):
    """An array of the host that passes for one of the device."""

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__


class HostDevice(Gpu):
    """A device whose memory is the host's; the emulator may use all arrays that it has made."""

    arrays = ()  # set by the fixture

    def empty(self, shape, dtype):
        array = np.full(shape, 77, dtype).view(HostArray)
        self.arrays.append(array)
        return array

    def upload(self, array):
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def zeros(self, shape, dtype):
        return self.upload(np.zeros(shape, dtype))

    def write(self, target, array):
        target[: len(array)] = array

    def read(self, array):
        return np.array(array)

    def launch(self, kernel, grid, block, *arguments):
        launch(kernel, 2, 8, arguments, ptx=EmulatedPtx)


class EmulatedKernel:
    """In place of `ClusterKernel`."""

    seed = None

    def __init__(self, device, layout, name, cluster, threads, shared_memory):
        assert shared_memory == layout.n_bytes
        self.device, self.layout, self.grid = device, layout, (cluster, threads)

    def __call__(self, address):
        launch(
            make_kernel(self.layout), *self.grid, (address,), ptx=EmulatedPtx,
            memory=[one for one in self.device.arrays if one.size], cluster=self.grid[0],
            dynamic_shared_bytes=self.layout.n_bytes, seed=self.seed,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def emulated_device(monkeypatch):
    """Engines run on the host, clusters of small blocks in the emulator."""
    monkeypatch.setattr(HostDevice, "arrays", [])
    monkeypatch.setattr(engine, "Device", HostDevice)
    monkeypatch.setattr(clusters, "ClusterKernel", EmulatedKernel)
    monkeypatch.setattr(clusters, "compiled", lambda kernel: kernel)
    monkeypatch.setattr(
        clusters, "compile_cluster", lambda device, make_kernel, layout, signature: (layout, "")
    )

    def small_layout(*arguments, **options):
        layout = layout_for(*arguments, **options)
        return layout if isinstance(layout, str) else replace(layout, cluster=CLUSTER, warps=WARPS)

    monkeypatch.setattr(clusters, "layout_for", small_layout)


def make_data(rng, n_rows, network, is_bytes, weights=None):
    n_features, n_outputs = network.layer_sizes[0], network.layer_sizes[-1]
    X = rng.standard_normal((n_rows, n_features)).astype(np.float32)
    if is_bytes:
        X = rng.integers(0, 256, (n_rows, n_features)).astype(np.uint8)
    if network.output_activation == "softmax":
        targets = rng.integers(0, n_outputs, n_rows)
    else:
        targets = rng.random((n_rows, n_outputs))
    return Data(X, targets, weights, 1 / 255 if is_bytes else 0.5)


def compare(
    network,
    data,
    optimizer,
    batch_size,
    *,
    precision="float32",
    alpha=0.3,
    epochs=2,
    moment_limit=3e-5,
):
    """Train on the emulated cluster and by the oracle; return the largest relative error."""
    parameters = network.initialise(np.random.RandomState(1), np.float32, default_activation="relu")
    order = np.random.default_rng(2).permutation(data.n_samples)
    results = []
    for make_engine in (lambda: engine.Engine(network, np.float32, precision),
                        lambda: naive.NaiveEngine(network, np.float64)):  # fmt: skip
        own = replace(optimizer)
        own.reset(network.n_parameters, np.float64)
        with make_engine() as tried:
            tried.load_parameters(parameters)
            tried.load_optimizer(own)
            losses = [tried.train_epoch(data, order, batch_size, own, alpha) for _ in range(epochs)]
            tried.store_optimizer(own)
            results.append((losses, tried.store_parameters(), own))
    (losses, found, own), (expected_losses, expected, reference) = results
    assert own.step == reference.step
    moment_error = max(
        np.abs(one - other).max() / np.abs(other).max()
        for one, other in zip(own.moments, reference.moments, strict=True)
    )
    assert moment_error < moment_limit  # 1 - β₂ has few digits in float32
    return max(
        np.abs(np.divide(losses, expected_losses) - 1).max(),
        np.abs(found - expected).max() / np.abs(expected).max(),
    )


SGD = Optimizer("sgd", 0.05, nesterovs_momentum=False)
WITH_NESTEROV = Optimizer("sgd", 0.05)
WITH_ADAM = Optimizer("adam", 0.01, epsilon=1e-3)
NETWORKS = {
    "one hidden layer": Network((20, 9, 3), ("relu",), "softmax", "log_loss"),
    "a block without units": Network((16, 4, 2), ("identity",), "logistic", "log_loss"),
    "several tiles of units": Network((33, 40, 1), ("tanh",), "exp", "poisson"),
    "two hidden layers": Network(
        (18, 9, 7, 2), ("tanh", "relu"), "identity", "squared_error", True
    ),
    "three hidden layers": Network(
        (5, 6, 4, 5, 3), ("logistic", "tanh", "identity"), "softmax", "log_loss"
    ),
}


@pytest.mark.parametrize(
    ("name", "is_bytes"), [(name, i % 2 == 0) for i, name in enumerate([*NETWORKS, *NETWORKS][:7])]
)
def test_epochs_agree_with_the_oracle(name, is_bytes):
    """Batches of 10 in tiles of 16, the last one short; features and units that fill no tile."""
    rng = np.random.default_rng(len(name))
    data = make_data(rng, 24, NETWORKS[name], is_bytes)
    optimizer = WITH_NESTEROV if is_bytes else WITH_ADAM
    assert compare(NETWORKS[name], data, optimizer, 10) < 2e-6


@pytest.mark.parametrize("optimizer", [SGD, WITH_ADAM], ids=["sgd", "adam"])
def test_weighted_rows_and_batches_without_weight(optimizer, monkeypatch):
    """A batch without weight is skipped; an epoch in several launches is the same epoch."""
    monkeypatch.setattr(clusters, "STEPS_PER_LAUNCH", 2)
    rng = np.random.default_rng(0)
    weights = rng.random(24)
    weights[np.random.default_rng(2).permutation(24)[8:16]] = 0  # the second batch
    data = make_data(rng, 24, NETWORKS["two hidden layers"], True, weights)
    assert compare(NETWORKS["two hidden layers"], data, optimizer, 8, epochs=2) < 2e-6


def test_a_batch_without_weight_does_not_let_blocks_apart():
    """Sums of two steps had one place where the step between them was skipped, and no barrier."""
    network, weights = NETWORKS["one hidden layer"], np.ones(24)
    weights[np.random.default_rng(2).permutation(24)[8:16]] = 0
    data = make_data(np.random.default_rng(0), 24, network, True, weights)
    assert compare(network, data, SGD, 8, epochs=1) < 2e-6


@pytest.mark.parametrize(("precision", "smallest", "largest"),
                         [("tf32", 1e-8, 3e-5), ("bfloat16", 1e-6, 2e-2)])  # fmt: skip
@pytest.mark.parametrize("is_bytes", [True, False], ids=["bytes", "float32"])
def test_fewer_terms_are_less_exact(precision, smallest, largest, is_bytes):
    network = NETWORKS["one hidden layer"]
    data = make_data(np.random.default_rng(0), 24, network, is_bytes)
    error = compare(network, data, SGD, 12, precision=precision, moment_limit=1)
    assert smallest < error < largest


@pytest.mark.parametrize("seed", [0])
def test_threads_may_run_in_any_order(seed, monkeypatch):
    """To the bit: sums run in a fixed order, and the emulator finds no race."""
    monkeypatch.setattr(f"{__name__}.CLUSTER", 4)
    network = NETWORKS["three hidden layers"]
    data = make_data(np.random.default_rng(0), 20, network, False)
    usual = compare(network, data, WITH_NESTEROV, 10)
    monkeypatch.setattr(EmulatedKernel, "seed", seed)
    assert compare(network, data, WITH_NESTEROV, 10) == usual


def test_several_tiles_of_rows_agree_with_the_cpu():
    network = Network((40, 17, 4), ("relu",), "softmax", "log_loss")
    data = make_data(np.random.default_rng(0), 40, network, True)
    order, losses = np.arange(40), []
    for make_engine in (engine.Engine, CpuEngine):
        optimizer = replace(WITH_NESTEROV)
        optimizer.reset(network.n_parameters, np.float32)
        with make_engine(network, np.float32) as tried:
            tried.load_parameters(np.linspace(-0.3, 0.3, network.n_parameters, dtype=np.float32))
            tried.load_optimizer(optimizer)
            losses.append(tried.train_epoch(data, order, 25, optimizer, 0.1))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("where", ["X", "targets"])
def test_a_loss_that_is_not_finite_is_reported(where):
    network = NETWORKS["two hidden layers"]
    data = make_data(np.random.default_rng(0), 20, network, False)
    getattr(data, where)[7, 1] = np.nan
    optimizer = replace(SGD)
    optimizer.reset(network.n_parameters, np.float32)
    tried = engine.Engine(network, np.float32)
    tried.load_optimizer(optimizer)
    assert not np.isfinite(tried.train_epoch(data, np.arange(20), 8, optimizer, 0.0))


# ---- layouts and the choice --------------------------------------------------------------------


def mnist_task(**changes):
    network = Network((784, 128, 10), ("relu",), "softmax", "log_loss")
    task = Task(network, np.dtype(np.float32), "float32", 64, NESTEROV, "uint8")
    return replace(task, **changes)


def test_mnist_is_for_clusters():
    choice = choose(mnist_task(), Gpu())
    assert choice.name == "clusters"
    assert "16 blocks" in choice.reason
    assert choose(mnist_task(rule=ADAM), Gpu()).name == "clusters"
    assert "8 blocks" in choose(mnist_task(), Gpu(largest_cluster=8)).reason


@pytest.mark.parametrize(
    ("gpu", "changes", "reason"),
    [
        (Gpu(capability=(8, 0)), {}, "9.0"),
        (Gpu(), {"precision": "float64"}, "float32, tf32"),
        (Gpu(), {"inputs": "sparse"}, "dense"),
        (Gpu(), {"inputs": "float32"}, "do not fit"),
        (Gpu(), {"batch_size": 1000}, "do not fit"),
        (Gpu(), {"network": Network((9, 2), (), "softmax", "log_loss")}, "hidden"),
        (Gpu(largest_cluster=1), {}, "do not fit"),
    ],
)
def test_refusals_say_why(gpu, changes, reason):
    takes, why = cluster_layout.takes_clusters(mnist_task(**changes), gpu)
    assert not takes
    assert reason in why


@pytest.mark.parametrize("sizes", [(784, 128, 10), (30, 64, 64, 2), (100, 50, 40, 30, 5)])
@pytest.mark.parametrize("cluster", [2, 8, 16])
def test_places_of_a_layout_are_aligned_and_apart(sizes, cluster):
    network = Network(sizes, ("relu",) * (len(sizes) - 2), "softmax", "log_loss")
    for rule in (NESTEROV, ADAM):
        layout = ClusterLayout(mnist_task(network=network, rule=rule), cluster, 1, True, True)
        words, L = layout.words, SimpleNamespace(**vars(cluster_layout))
        copies, stride = (3 if rule == ADAM else 2), words[L.ROW_STRIDE]
        spans = [
            (words[L.TILES], 2 * words[L.TILE_SIZE]),
            (words[L.SAMPLE_WEIGHTS], 4 * layout.n_rows),
            (words[L.TARGETS], 2 * layout.n_rows),
            (words[L.ORDERS], 2 * layout.n_rows),
            (words[L.TABLES], 24),
            (words[L.SCRATCH], layout.shape.warps // 2 * layout.n_units * stride),
        ]
        for index in range(len(sizes) - 1):
            record = words[HEAD_SIZE + index * LAYER_SIZE :][:LAYER_SIZE]
            spans.append((record[L.WEIGHTS], copies * record[L.WEIGHTS_SIZE]))
            spans.append((record[L.BIAS], copies * record[L.BIAS_SIZE]))
        spans.sort()
        assert all(start % 4 == 0 for start, _ in spans)
        for (start, size), (following, _) in pairwise(spans):
            assert start + size <= following
        assert spans[-1][0] + spans[-1][1] <= words[L.USED] == layout.n_bytes // 4
