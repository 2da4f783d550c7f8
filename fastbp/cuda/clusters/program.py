"""The program for MNIST-like networks: an epoch in one launch, on one cluster of blocks.

All parameters and moments stay in shared memory during an epoch: in global memory they are the flat
vectors, which the kernel reads when it starts and writes when it ends.
"""

import numpy as np
from numba import types

from fastbp.cuda.clusters.kernel import SIGNATURE, make_kernel
from fastbp.cuda.clusters.launch import ClusterKernel, compile_cluster, registers_for
from fastbp.cuda.clusters.layout import INPUT_BYTES, ClusterLayout, layout_for
from fastbp.cuda.data import TABLE_WIDTH, WEIGHT
from fastbp.cuda.device import address_of, compiled
from fastbp.cuda.program import Listed, Program, Result
from fastbp.cuda.task import ADAM, NESTEROV, Task
from fastbp.cuda.toolkit import cuda
from fastbp.network import Network

STEPS_PER_LAUNCH = 50_000  # some tenths of a second: then Ctrl-C is heard
_PAD_THREADS, _PAD_BLOCKS = 256, 1024


def pad_rows(rows, padded):
    """Copy a matrix into one with more columns; zeros follow."""
    n_columns = padded.shape[1]
    for i in range(cuda.grid(1), padded.size, cuda.gridsize(1)):
        row, column = i // n_columns, i % n_columns
        padded[row, column] = rows[row, column] if column < rows.shape[1] else 0


class ClustersProgram(Program):
    """One cluster of blocks; see `fastbp.cuda.program.Program`."""

    def __init__(self, device, task):
        super().__init__(device, task)
        n_parameters = task.network.n_parameters
        self.parameters = device.zeros(n_parameters, np.float32)
        self.moments = [
            device.zeros(n_parameters, np.float32) for _ in range(2 if task.rule == ADAM else 1)
        ]
        self._data = self._layout = self._kernel = self._rows = self._losses = None

    def load_parameters(self, parameters):
        self.device.write(self.parameters, parameters)

    def store_parameters(self):
        return self.device.read(self.parameters)

    def load_moments(self, moments):
        for own, moment in zip(self.moments, moments, strict=False):
            self.device.write(own, moment)

    def store_moments(self):
        return [self.device.read(moment) for moment in self.moments]

    def flat_parameters(self):
        return self.parameters

    def train(self, data, epoch):
        self._prepare(data)
        blocks, table = self._blocks(data, epoch), epoch.host_table
        on_device, updates, loss = self.device.upload(blocks), 0, 0.0
        for index, start in enumerate(range(0, len(table), STEPS_PER_LAUNCH)):
            try:
                self._kernel(address_of(on_device) + index * blocks.strides[0])
                loss += float(self.device.read(self._losses).sum())
            except KeyboardInterrupt as interrupt:
                interrupt.updates = updates
                raise
            updates += np.count_nonzero(table[start : start + STEPS_PER_LAUNCH, WEIGHT])
            if not np.isfinite(loss):
                break
        return Result(loss, float(table[:, WEIGHT].sum()), int(updates))

    def _prepare(self, data):
        """Get ready for a fit's rows: the kernel for their kind, and X in whole tiles."""
        if self._data is data:
            return
        is_class = data.targets.ndim == 1
        layout = layout_for(self.task, self.device, data.sample_weight is not None, is_class)
        if self._layout != layout:
            shape = layout.shape
            code, name = compile_cluster(self.device, make_kernel, layout, SIGNATURE)
            threads = 32 * shape.warps
            self._kernel = ClusterKernel(
                self.device, code, name, shape.cluster, threads, layout.n_bytes
            )
            self._losses = self.device.zeros(shape.cluster * threads, np.float64)
        self._data, self._layout, self._rows = data, layout, data.X
        if data.X.shape[1] != layout.n_features:
            shape = data.X.shape[0], layout.n_features
            self._rows = self.device.empty(shape, data.X.dtype)
            self.device.launch(compiled(pad_rows), _PAD_BLOCKS, _PAD_THREADS, data.X, self._rows)

    def _blocks(self, data, epoch):
        """What the kernel gets at each launch of an epoch: an array, a row a launch."""
        network, batch_size = self.task.network, self.task.batch_size
        scale = 1 / network.layer_sizes[-1] if network.average_outputs else 1.0
        numbers = (
            epoch.momentum, epoch.beta_1, epoch.beta_2, epoch.epsilon, epoch.alpha,
            data.input_scale, scale, np.finfo(np.float32).eps,
        )  # fmt: skip
        weight = 0 if data.sample_weight is None else address_of(data.sample_weight)
        fixed = [address_of(one) for one in (self.parameters, self.moments[0], self.moments[-1])]
        fixed += [address_of(self._rows), address_of(data.targets), weight]
        order, table, losses = map(address_of, (epoch.order, epoch.table, self._losses))
        bits = np.array(numbers, np.float64).view(np.int64)
        return np.array([
            (
                *fixed, order + 4 * start * batch_size, table + 8 * TABLE_WIDTH * start, losses,
                min(STEPS_PER_LAUNCH, epoch.n_steps - start), *bits,
            )
            for start in range(0, epoch.n_steps, STEPS_PER_LAUNCH)
        ])  # fmt: skip


def _list_kernels():
    """What the tests compile: MNIST's network, and what takes most registers on as many warps."""
    network = Network((784, 128, 10), ("relu",), "softmax", "log_loss")
    deep = Network((100, 128, 64, 10), ("tanh", "relu"), "softmax", "log_loss")
    single, listed = np.dtype(np.float32), {}
    for name, cluster, task, has_weights in (
        ("784-128-10", 16, Task(network, single, "float32", 64, NESTEROV, "uint8"), False),
        ("100-128-64-10", 16, Task(deep, single, "float32", 64, ADAM, "float32"), True),
    ):
        layout = ClusterLayout(task, cluster, INPUT_BYTES[task.inputs], has_weights, True)
        listed[f"train_on_cluster {name}"] = Listed(
            make_kernel(layout), SIGNATURE, registers_for(layout.shape), (9, 0)
        )
    return listed


KERNELS = _list_kernels()
KERNELS["pad_rows"] = Listed(pad_rows, (types.uint8[:, ::1], types.uint8[:, ::1]), 40)
