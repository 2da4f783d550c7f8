"""Single kernels on one thread, each against its NumPy line: `pytest benchmarks`.

A time is of `PASSES` passes, for the kernel as for its NumPy line, so that the call into compiled
code counts for little. Both are checked against each other first.
"""

import numpy as np
import pytest
from numba.core.caching import NullCache
from threadpoolctl import threadpool_limits

from fastbp.cpu.code import TILE_ROWS
from fastbp.cpu.engine import Engine
from fastbp.cpu.kernels.batches import gather_batch
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import panel_start, rows_of_inputs
from fastbp.cpu.kernels.outputs import losses_and_deltas
from fastbp.cpu.kernels.products import multiply
from fastbp.cpu.kernels.shares import all_rows
from fastbp.cpu.kernels.spans import ONE, ZERO
from fastbp.cpu.kernels.tiles import (
    COMPUTED,
    backward_layer,
    forward_layer,
    update_layer,
)
from fastbp.cpu.records import (
    BIAS_ROW,
    BLOCKS,
    N_INPUTS,
    N_OUTPUTS,
    N_PANELS,
    UNITS,
    WEIGHTS,
    WIDTH,
)
from fastbp.cpu.rows import source_of
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer, code_of
from fastbp.schedules import WEIGHT, StepPlanner
from tests.cpu.callable import Callable

pytest.importorskip("pytest_benchmark")

LAYER_SIZES, BATCH = (784, 256, 128, 10), 64
MIDDLE = ONE  # the layer that is worked on, 256 -> 128
PASSES = 100
LEARNING_RATE, MOMENTUM = 1e-6, 0.9


def compiled(function):
    """A kernel that is kept in memory only: no cache knows of this file's changes."""
    kernel = Callable(function, "float32")
    kernel.dispatcher._cache = NullCache()
    return kernel


@compiled
def tile(memory, workspace, passes):
    layer = layer_of(memory.layers, MIDDLE)
    weights, out = layer[WEIGHTS], panel_start(memory, layer, ZERO)
    left = rows_of_inputs(memory, workspace, MIDDLE, ZERO)
    bias = weights + layer[BIAS_ROW] * layer[WIDTH]
    for _ in range(passes):
        multiply(
            memory.activations, out, layer, ZERO, left, memory.weights, weights, layer[N_INPUTS],
            memory.weights, bias,
        )  # fmt: skip


@compiled
def gather(workspace, masks, source, order, n_inputs, passes):
    for _ in range(passes):
        gather_batch(workspace, masks, 0, None, source, order, n_inputs, 1 / 255)


@compiled
def forward(memory, workspace, blocks, passes):
    for _ in range(passes):
        tiles = all_rows(layer_of(memory.layers, MIDDLE), blocks, 0, 1)
        forward_layer(memory, workspace, None, MIDDLE, 0, tiles)


@compiled
def backward(memory, workspace, blocks, passes):
    for _ in range(passes):
        below = layer_of(memory.layers, MIDDLE - 1)
        backward_layer(memory, workspace, MIDDLE, all_rows(below, blocks, 0, 1))


@compiled
def update(memory, workspace, depth, rule, step, passes):
    layer = layer_of(memory.layers, MIDDLE)
    for _ in range(passes):
        tiles = all_rows(layer, layer[BLOCKS], 0, 1)
        update_layer(memory, workspace, None, MIDDLE, depth, rule, step, COMPUTED, tiles)


@compiled
def outputs(memory, workspace, objective, order, weight, passes):
    for _ in range(passes):
        losses_and_deltas(memory, workspace, objective, order, weight, ZERO, order.size)


class Bench:
    """An engine's memory in the middle of a batch, and the same numbers as plain matrices."""

    def __init__(self):
        generator = np.random.default_rng(0)
        network = Network(LAYER_SIZES, ("logistic", "logistic"), "softmax", "log_loss")
        optimizer = Optimizer("sgd", LEARNING_RATE, momentum=MOMENTUM, nesterovs_momentum=False)
        optimizer.reset(network.n_parameters, "float32")
        engine = Engine(network, "float32", n_threads=1)
        parameters = generator.normal(0, 0.1, network.n_parameters).astype(np.float32)
        engine.load_parameters(parameters)
        engine.load_moments(optimizer.moments)
        images = generator.integers(0, 256, (1_000, 784), np.uint8)
        self.data = Data(images, generator.integers(0, 10, 1_000), input_scale=1 / 255)
        self.engine, self.network = engine, network
        self.order = generator.permutation(1_000)[:BATCH]
        steps = StepPlanner(optimizer, BATCH, BATCH, None, 0.0, 1).next_epoch(self.order)
        self.rule, self.step = code_of(steps.rule), steps.table[0]
        self.blocks = BATCH // TILE_ROWS
        self.source = source_of(images)
        self.objective = engine._objective(self.data)
        buffers = engine._buffers_for(self.data, self.order, BATCH, steps)
        self.memory, self.workspace = buffers.memory.record, buffers.workspaces[0].record
        for values in (self.memory.activations, self.memory.deltas):
            values[:] = generator.uniform(0.1, 0.9, values.size)
        self.coefs, self.intercepts = network.views(parameters)

    def matrix(self, panels, index):
        """A layer's activations or deltas as a matrix of shape (BATCH, units)."""
        layer, capacity = self.engine.layout.table[index], self.memory.capacity
        width, n_panels = layer[WIDTH], layer[N_PANELS]
        start = layer[UNITS] * capacity
        shape = n_panels, capacity, width
        flat = panels[start : start + n_panels * capacity * width].reshape(shape)
        joined = flat.transpose(1, 0, 2).reshape(capacity, -1)
        return joined[:BATCH, : layer[N_OUTPUTS]].copy()


@pytest.fixture
def bench():
    with threadpool_limits(1):
        yield Bench()


@pytest.fixture(params=["fastbp", "NumPy"])
def race(request, benchmark):
    """Times one of the two: `race(kernel, line)`, in a group of the test's name."""
    benchmark.group = request.node.originalname.removeprefix("test_")

    def run(kernel, line):
        if request.param == "fastbp":
            benchmark(lambda: kernel(PASSES))
        else:
            benchmark(lambda: [line() for _ in range(PASSES)])

    return run


def logistic(values):
    return 1 / (1 + np.exp(-values))


def test_tile(bench, race):
    layer = bench.engine.layout.table[MIDDLE]
    rows = bench.matrix(bench.memory.activations, MIDDLE - 1)[:TILE_ROWS].copy()
    weights = bench.coefs[MIDDLE][:, : layer[WIDTH]].copy()
    bias = bench.intercepts[MIDDLE][: layer[WIDTH]]
    tile(bench.memory, bench.workspace, 1)
    found = bench.matrix(bench.memory.activations, MIDDLE)[:TILE_ROWS, : layer[WIDTH]]
    np.testing.assert_allclose(found, rows @ weights + bias, rtol=1e-4, atol=1e-5)
    race(lambda n: tile(bench.memory, bench.workspace, n), lambda: rows @ weights + bias)


def test_gather(bench, race):
    images, order, scale = bench.data.X, bench.order, np.float32(1 / 255)
    arguments = bench.workspace, bench.memory.masks, bench.source, order, images.shape[1]
    gather(*arguments, 1)
    rows = bench.workspace.inputs.reshape(-1, bench.workspace.input_stride)
    np.testing.assert_allclose(rows[:BATCH, :784], images[order] * scale, rtol=1e-6)
    race(lambda n: gather(*arguments, n), lambda: images[order] * scale)


def test_forward(bench, race):
    X = bench.matrix(bench.memory.activations, MIDDLE - 1)
    weights, bias = bench.coefs[MIDDLE], bench.intercepts[MIDDLE]
    forward(bench.memory, bench.workspace, bench.blocks, 1)
    found = bench.matrix(bench.memory.activations, MIDDLE)
    np.testing.assert_allclose(found, logistic(X @ weights + bias), rtol=1e-4)
    race(
        lambda n: forward(bench.memory, bench.workspace, bench.blocks, n),
        lambda: logistic(X @ weights + bias),
    )


def test_backward(bench, race):
    weights = bench.coefs[MIDDLE]
    delta = bench.matrix(bench.memory.deltas, MIDDLE)
    below = bench.matrix(bench.memory.activations, MIDDLE - 1)

    def line():
        return (delta @ weights.T) * below * (1 - below)

    backward(bench.memory, bench.workspace, bench.blocks, 1)
    found = bench.matrix(bench.memory.deltas, MIDDLE - 1)
    np.testing.assert_allclose(found, line(), rtol=1e-3, atol=1e-4)
    race(lambda n: backward(bench.memory, bench.workspace, bench.blocks, n), line)


def test_update(bench, race):
    X = bench.matrix(bench.memory.activations, MIDDLE - 1)
    delta = bench.matrix(bench.memory.deltas, MIDDLE)
    weights, bias = bench.coefs[MIDDLE].copy(), bench.intercepts[MIDDLE].copy()
    velocities = np.zeros_like(weights), np.zeros_like(bias)

    def line():
        for parameter, velocity, gradient in zip(
            (weights, bias), velocities, (X.T @ delta, delta.sum(axis=0)), strict=True
        ):
            velocity *= np.float32(MOMENTUM)
            velocity -= np.float32(LEARNING_RATE) * gradient
            parameter += velocity

    line()
    arguments = bench.memory, bench.workspace, BATCH, bench.rule, bench.step
    update(*arguments, 1)
    coefs, intercepts = bench.network.views(bench.engine.store_parameters())
    np.testing.assert_allclose(coefs[MIDDLE], weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(intercepts[MIDDLE], bias, rtol=1e-5, atol=1e-7)
    race(lambda n: update(*arguments, n), line)


def test_outputs(bench, race):
    last = len(LAYER_SIZES) - 2
    logits = bench.matrix(bench.memory.activations, last)
    picked = np.arange(BATCH), bench.data.targets[bench.order]

    def line():
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        losses = -np.log(shares[picked])
        shares[picked] -= 1
        return losses, shares / np.float32(BATCH)

    weight = bench.step[WEIGHT]
    arguments = bench.memory, bench.workspace, bench.objective, bench.order, weight
    outputs(*arguments, 1)
    losses, delta = line()
    np.testing.assert_allclose(bench.memory.row_losses[:BATCH], losses, rtol=1e-5)
    np.testing.assert_allclose(bench.matrix(bench.memory.deltas, last), delta, atol=1e-6)
    race(lambda n: outputs(*arguments, n), line)
