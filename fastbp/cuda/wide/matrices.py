"""The wide program's padded matrices on the device, and launches over their addresses.

Masters and moments are float32. What the products read, the operands, is rounded to the task's
precision: weights once, when they are updated.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import typeof

from fastbp.activations import code_of
from fastbp.cuda.device import address_of, compiled
from fastbp.cuda.wide import batch_kernels
from fastbp.cuda.wide.operands import ITEM_SIZES, PADDING, PADDING_ROWS


def ceil_divide(number, divisor):
    """The quotient, rounded up."""
    return -(-number // divisor)


def round_up(number, multiple):
    """The next multiple."""
    return ceil_divide(number, multiple) * multiple


@dataclass(frozen=True)
class Matrix:
    """Where a padded matrix lies on the device, and how many bytes from one row to the next."""

    array: object
    pitch: int
    offset: int = 0

    @property
    def address(self):
        """In bytes."""
        return address_of(self.array) + self.offset

    @property
    def place(self):
        """Address and pitch, as the kernels take them."""
        return self.address, self.pitch


class LayerPlaces(NamedTuple):
    """A layer's sizes, and where its matrices lie: addresses, and pitches from one row to the next.

    Both are in bytes. Kernels take it whole.

    Parameters
    ----------
    n_inputs, n_outputs : int
    inputs, outputs, deltas : int
        Operands: what the layer reads and writes, and δ of what it writes. Of the last layer,
        `outputs` are its logits in float32, which δ replace.
    input_deltas : int
        δ of what it reads; their pitch is that of `inputs`.
    weights, first_moment, second_moment : int
        Float32, one pitch, each with its biases' as a further row.
    rounded : int
        The weights as an operand.
    sums, input_sums : int
        Float32, the sums of `deltas` and `input_deltas` over groups of rows: a row a group.
    rows_a_sum : int
        Rows of such a group of `deltas`.
    penalties : int
        Where the sums of the squares of its weights go, float64.
    """

    n_inputs: int
    n_outputs: int
    inputs: int
    inputs_pitch: int
    outputs: int
    outputs_pitch: int
    deltas: int
    deltas_pitch: int
    input_deltas: int
    weights: int
    first_moment: int
    second_moment: int
    weights_pitch: int
    rounded: int
    rounded_pitch: int
    sums: int
    sums_pitch: int
    input_sums: int
    input_sums_pitch: int
    rows_a_sum: int
    penalties: int


class Matrices:
    """What a task keeps on the device.

    Parameters
    ----------
    device : Device
    task : Task

    Attributes
    ----------
    masters : list of Matrix
        Each layer's weights, float32, followed by its biases as a further row.
    moments : list of list of Matrix
        Likewise.
    rounded : list of Matrix
        Each layer's weights as operands; zeros around them.
    values, deltas : list of Matrix
        What each layer reads, and δ of what it writes, as operands.
    state : device array
        See `fastbp.cuda.wide.batch_kernels`.
    """

    def __init__(self, device, task):
        self.device, self.task = device, task
        self.sizes = size = task.network.layer_sizes
        self.n_layers = len(size) - 1
        self.item_size = item = ITEM_SIZES[task.precision]
        self._kernels = set()  # those that have been allowed their shared memory
        self.masters = self._stack_of_weights()
        self.moments = [self._stack_of_weights() for _ in range(task.rule.n_moments)]
        self.rounded = [self.matrix(m, n, item, PADDING) for m, n in pairwise(size)]
        self.values, self.deltas = (
            [self.matrix(task.batch_size, n, item, PADDING_ROWS) for n in some]
            for some in (size[:-1], size[1:])
        )
        self.state = device.zeros(batch_kernels.STATE_SIZE, np.float64)

    def matrix(self, rows, columns, item_size, row_multiple=1):
        """A matrix of zeros, its rows padded."""
        pitch = round_up(columns, PADDING) * item_size
        n_bytes = round_up(rows, row_multiple) * pitch
        return Matrix(self.device.zeros(n_bytes, np.uint8), pitch)

    def _stack_of_weights(self):
        """Float32 matrices one after the other, each with its biases as a further row."""
        pitches = [round_up(n, PADDING) * 4 for n in self.sizes[1:]]
        n_bytes = [(m + 1) * pitch for m, pitch in zip(self.sizes, pitches, strict=False)]
        array = self.device.zeros(sum(n_bytes), np.uint8)
        starts = np.cumsum([0, *n_bytes])
        return [
            Matrix(array, pitch, int(start)) for pitch, start in zip(pitches, starts, strict=False)
        ]

    # ---- what kernels take --------------------------------------------------------------------

    @property
    def state_address(self):
        """Of the state."""
        return Matrix(self.state, 0).address

    def shape(self, index):
        """A layer's numbers of inputs and outputs."""
        return self.sizes[index : index + 2]

    def activation(self, index):
        """The code of a layer's activation."""
        return code_of(self.task.network.activations[index])

    def weights(self, index):
        """Masters and moments of a layer, and their pitch."""
        first, second = self.moments[0][index].address, self.moments[-1][index].address
        return self.masters[index].address, first, second, self.masters[index].pitch

    def launch(self, function, grid, block, *arguments, shared_memory=0):
        """Launch a kernel over numbers: addresses, pitches, sizes."""
        kernel = compiled(function)
        if shared_memory and function not in self._kernels:
            kernel.compile(tuple(map(typeof, arguments)))
            self.device.allow_shared_memory(kernel, shared_memory)
            self._kernels.add(function)
        self.device.launch(kernel, grid, block, *arguments, shared_memory=shared_memory)

    def round(self, source, target, rows, columns):
        """Round rows of float32 to operands."""
        self.launch(
            batch_kernels.make_round(self.task.precision),
            (rows, ceil_divide(columns, 4 * batch_kernels.THREADS)), batch_kernels.THREADS,
            *source, *target, columns,
        )  # fmt: skip

    # ---- parameters and moments ---------------------------------------------------------------

    def load(self, matrices, flat):
        """Copy a flat host vector into masters or moments."""
        source = Matrix(self.device.upload(np.asarray(flat, np.float32)), 0)
        for address, matrix, rows, n in self._copies(source, matrices):
            self._copy(address, 4 * n, *matrix.place, rows, n)
        self.device.synchronize()  # the source is let go

    def flatten(self, matrices):
        """Masters or moments as a flat device vector."""
        target = Matrix(self.device.empty(self.task.network.n_parameters, np.float32), 0)
        for address, matrix, rows, n in self._copies(target, matrices):
            self._copy(*matrix.place, address, 4 * n, rows, n)
        return target.array

    def _copies(self, flat, matrices):
        """Where each layer's part lies in a flat vector: weights and biases in one matrix there."""
        network = self.task.network
        for matrix, (m, n), start in zip(matrices, network.shapes, network.starts, strict=True):
            yield flat.address + 4 * start, matrix, m + 1, n

    def _copy(self, source, source_pitch, target, target_pitch, rows, columns):
        self.launch(
            batch_kernels.copy_matrix, rows, batch_kernels.THREADS, source, source_pitch, target,
            target_pitch, columns,
        )  # fmt: skip
