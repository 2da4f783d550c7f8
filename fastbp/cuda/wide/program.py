"""The program for wide nets in low precision: products on tensor cores, float32 master weights.

A step is one graph: gather, forward layer by layer, last layer and loss, backward layer by layer
with the updates fused in, and the state moved on. Masters, moments and sums are float32; what the
products read is rounded to bfloat16 or tf32 (weights once, when they are updated).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import float64, int64

from fastbp import functions
from fastbp.cuda.data import DECAY, RATE, ROWS, WEIGHT, SparseRows
from fastbp.cuda.device import compiled
from fastbp.cuda.program import Program, Result
from fastbp.cuda.task import ADAM
from fastbp.cuda.wide import batches, layers, outputs
from fastbp.cuda.wide.products import ITEM_SIZES, PADDING, PADDING_ROWS, STEP_BYTES, Tile

# With how well a tile keeps the tensor cores busy, about, as its shared memory traffic has it.
TILES = {
    Tile(4, 8, 2, 4, stages=4): 1.0,
    Tile(4, 8, 2, 4, stages=3): 0.98,
    Tile(4, 4, 2, 4, stages=4): 0.8,
    Tile(4, 4, 2, 4, stages=3): 0.78,
    Tile(2, 4, 2, 2, stages=4): 0.5,
}
_STATIC_SHARED_MEMORY = 8 * max(tile.threads for tile in TILES)  # of a sum over the block


def choose_tile(rows, columns, n_multiprocessors, shared_memory):
    """The tile with which a product of this size is likely to be done first."""

    def cost(tile):
        blocks = _ceil(rows, tile.rows) * _ceil(columns, tile.columns)
        return _ceil(blocks, n_multiprocessors) * tile.rows * tile.columns / TILES[tile]

    available = shared_memory - _STATIC_SHARED_MEMORY
    return min((tile for tile in TILES if tile.shared_memory <= available), key=cost)


def _ceil(number, divisor):
    return -(-number // divisor)


def _round_up(number, multiple):
    return _ceil(number, multiple) * multiple


@dataclass(frozen=True)
class Matrix:
    """Where a padded matrix lies on the device, and how many bytes from one row to the next."""

    array: object
    pitch: int
    offset: int = 0

    @property
    def address(self):
        """In bytes."""
        return self.array.__cuda_array_interface__["data"][0] + self.offset

    @property
    def place(self):
        """Address and pitch, as the kernels take them."""
        return self.address, self.pitch


class WideProgram(Program):
    """Training on tensor cores; see `fastbp.cuda.program`.

    Raises
    ------
    DeviceMemoryError
        Where the GPU's memory does not hold the padded matrices.
    """

    def __init__(self, device, task):
        super().__init__(device, task)
        self.item_size = ITEM_SIZES[task.precision]
        self.sizes = task.network.layer_sizes
        self.n_layers = len(self.sizes) - 1
        self.has_head = self.sizes[-1] <= outputs.MOST_OF_HEAD
        self.n_moments = 2 if task.rule == ADAM else 1
        self._kernels = {}
        self._graph = self._graph_key = self._recorded = None
        self._allocate()

    # ---- memory -------------------------------------------------------------------------------

    def _matrix(self, rows, columns, item_size, row_multiple=1):
        pitch = _round_up(columns, PADDING) * item_size
        n_bytes = _round_up(rows, row_multiple) * pitch
        return Matrix(self.device.zeros(n_bytes, np.uint8), pitch)

    def _allocate(self):
        batch, size, item = self.task.batch_size, self.sizes, self.item_size
        last = self.n_layers - 1
        self.masters = self._stack_of_weights()
        self.moments = [self._stack_of_weights() for _ in range(self.n_moments)]
        self.rounded = [self._matrix(m, n, item, PADDING) for m, n in pairwise(size)]
        # What a layer reads, and δ behind it.
        self.values = [self._matrix(batch, n, item, PADDING_ROWS) for n in size[:-1]]
        self.deltas = [self._matrix(batch, n, item, PADDING_ROWS) for n in size[1:]]
        self.tiles = {name: self._tiles(name) for name in ("forward", "backward", "gradient")}
        self.sums = [None] * self.n_layers
        for index in range(1, self.n_layers):
            rows = self.tiles["backward"][index].rows
            self.sums[index - 1] = self._matrix(_ceil(batch, rows), size[index], 4)
        if self.has_head:
            n_padded = _round_up(size[-1], 8)
            self.transposed = self._matrix(n_padded, size[-2], item)
            self.output_deltas = Matrix(
                self.device.zeros(_round_up(batch, PADDING_ROWS) * n_padded, np.float32),
                n_padded * 4,
            )
            self.part_size = (size[-2] + 1) * n_padded * 4
            n_parts = _ceil(batch, outputs.GRADIENT_ROWS)
            self.parts = self.device.zeros(n_parts * self.part_size, np.uint8)
        else:
            self.output_deltas = self._matrix(batch, size[-1], 4, PADDING_ROWS)
            self.sums[last] = self._matrix(_ceil(batch, PADDING_ROWS), size[-1], 4)
        self.losses = self.device.zeros(_round_up(batch, PADDING_ROWS), np.float64)
        self.penalty_starts = np.cumsum([0, *map(self._n_penalties, range(self.n_layers))])
        self.penalties = self.device.zeros(int(self.penalty_starts[-1]), np.float64)
        self.state = self.device.zeros(batches.STATE_SIZE, np.float64)

    def _stack_of_weights(self):
        """Float32 matrices one behind the other, each with its biases as a further row."""
        pitches = [_round_up(n, PADDING) * 4 for n in self.sizes[1:]]
        n_bytes = [(m + 1) * pitch for m, pitch in zip(self.sizes, pitches, strict=False)]
        array = self.device.zeros(sum(n_bytes), np.uint8)
        starts = np.cumsum([0, *n_bytes])
        return [
            Matrix(array, pitch, int(start)) for pitch, start in zip(pitches, starts, strict=False)
        ]

    def _tiles(self, name):
        """The tile of every layer's product."""
        batch, gpu = self.task.batch_size, self.device
        shapes = {
            "forward": lambda m, n: (batch, n),
            "backward": lambda m, n: (batch, m),
            "gradient": lambda m, n: (m, n),
        }
        return [
            choose_tile(*shapes[name](m, n), gpu.n_multiprocessors, gpu.shared_memory)
            for m, n in pairwise(self.sizes)
        ]

    def _n_penalties(self, index):
        """Blocks that update a layer's weights."""
        return int(np.prod(self._update_grid(index)))

    def _update_grid(self, index):
        m, n = self.sizes[index : index + 2]
        if self.has_head and index == self.n_layers - 1:
            return (_ceil((m + 1) * _round_up(n, 8), batches.THREADS),)
        tile = self.tiles["gradient"][index]
        return _ceil(n, tile.columns), _ceil(m, tile.rows)

    # ---- parameters and moments ---------------------------------------------------------------

    def load_parameters(self, parameters):
        self._load(self.masters, parameters)
        for index in range(self.n_layers):
            self._round(index)

    def store_parameters(self):
        return self.device.read(self.flat_parameters())

    def flat_parameters(self):
        return self._flatten(self.masters)

    def load_moments(self, moments):
        for target, moment in zip(self.moments, moments, strict=True):
            self._load(target, moment)

    def store_moments(self):
        return [self.device.read(self._flatten(moment)) for moment in self.moments]

    def _load(self, matrices, flat):
        source = Matrix(self.device.upload(np.asarray(flat, np.float32)), 0)
        for address, matrix, rows, n in self._copies(source, matrices):
            self._copy(address, 4 * n, *matrix.place, rows, n)
        self.device.synchronize()  # the source is let go

    def _flatten(self, matrices):
        target = Matrix(self.device.empty(self.task.network.n_parameters, np.float32), 0)
        for address, matrix, rows, n in self._copies(target, matrices):
            self._copy(*matrix.place, address, 4 * n, rows, n)
        return target.array

    def _copies(self, flat, matrices):
        """Where each layer's part lies in a flat vector: weights and biases in one matrix there."""
        address = flat.address
        for matrix, (m, n) in zip(matrices, pairwise(self.sizes), strict=True):
            yield address, matrix, m + 1, n
            address += 4 * (m + 1) * n

    def _copy(self, source, source_pitch, target, target_pitch, rows, columns):
        self._launch(
            batches.copy_matrix, rows, batches.THREADS, source, source_pitch, target, target_pitch,
            columns,
        )  # fmt: skip

    def _round(self, index):
        m, n = self.sizes[index : index + 2]
        master, rounded = self.masters[index], self.rounded[index]
        self._launch(
            batches.make_round(self.task.precision), (m, _ceil(n, 4 * batches.THREADS)),
            batches.THREADS, *master.place, *rounded.place, n,
        )  # fmt: skip
        if self.has_head and index == self.n_layers - 1:
            self._launch(
                batches.make_round_transposed(self.task.precision), m, batches.THREADS,
                *master.place, *self.transposed.place, n,
            )  # fmt: skip

    # ---- launches -----------------------------------------------------------------------------

    def _launch(self, function, grid, block, *arguments, shared_memory=0):
        """Launch a kernel over numbers: addresses, pitches, sizes."""
        kernel = compiled(function)
        if shared_memory and function not in self._kernels:
            kinds = tuple(float64 if isinstance(a, float) else int64 for a in arguments)
            kernel.compile(kinds)
            self.device.allow_shared_memory(kernel, shared_memory)
            self._kernels[function] = kernel
        self.device.launch(kernel, grid, block, *arguments, shared_memory=shared_memory)

    def _launch_tiles(self, function, tile, rows, columns, *arguments):
        grid = _ceil(columns, tile.columns), _ceil(rows, tile.rows)
        self._launch(function, grid, tile.threads, *arguments, shared_memory=tile.shared_memory)

    @property
    def _state(self):
        return Matrix(self.state, 0).address

    def _step(self, data, epoch):
        """Launch one step."""
        self._gather(data, epoch)
        last = self.n_layers - 1
        for index in range(last):
            self._forward(index)
        (self._head if self.has_head else self._outputs)(data, epoch)
        for index in range(last, -1, -1):
            if index > 0:
                self._backward(index)
            if self.has_head and index == last:
                self._update_head()
            else:
                self._update(index)
        rows_a_loss = outputs.HEAD_ROWS if self.has_head else 1
        self._launch(
            batches.finish_step, 1, batches.THREADS, self._state, Matrix(epoch.table, 0).address,
            Matrix(self.losses, 0).address, rows_a_loss, Matrix(self.penalties, 0).address,
            len(self.penalties),
        )  # fmt: skip

    def _gather(self, data, epoch):
        X, target, n_features = data.X, self.values[0], self.sizes[0]
        rows = _round_up(self.task.batch_size, PADDING_ROWS)
        if isinstance(X, SparseRows):
            kernel = compiled(batches.make_gather_sparse(self.task.precision))
            self.device.launch(
                kernel, rows, batches.THREADS, self._state, X.values, X.columns, X.starts,
                epoch.order, *target.place, n_features,
            )  # fmt: skip
            return
        grid = rows, _ceil(n_features, 4 * batches.THREADS)
        kernel = compiled(batches.make_gather(self.task.precision))
        self.device.launch(
            kernel, grid, batches.THREADS, self._state, X, epoch.order, *target.place
        )

    def _activation(self, index):
        return functions.OUTPUT_ACTIVATIONS.index(self.task.network.activations[index])

    def _forward(self, index, target=None, activation=None):
        m, n = self.sizes[index : index + 2]
        tile, precision = self.tiles["forward"][index], self.task.precision
        activation = self._activation(index) if activation is None else activation
        kernel = layers.make_forward(precision, tile, activation, target is None)
        bias = self.masters[index].address + m * self.masters[index].pitch
        target = target or self.values[index + 1]
        self._launch_tiles(
            kernel, tile, self.task.batch_size, n, self._state, *self.values[index].place,
            *self.rounded[index].place, self._n_steps(m), bias, *target.place, n,
        )  # fmt: skip

    def _n_steps(self, n):
        """Steps of a product that sums n numbers."""
        return _ceil(n * self.item_size, STEP_BYTES)

    def _loss(self, data):
        network = self.task.network
        is_class = len(data.targets.shape) == 1
        code = functions.LOSSES.index(network.loss)
        return self._activation(self.n_layers - 1), code, is_class

    def _of_data(self, data, epoch):
        """Addresses and numbers that the loss depends on."""
        weight = data.sample_weight
        scale = 1 / self.sizes[-1] if self.task.network.average_outputs else 1.0
        return (
            Matrix(data.targets, 0).address, 0 if weight is None else Matrix(weight, 0).address,
            Matrix(epoch.order, 0).address, scale, float(np.finfo(np.float32).eps),
        )  # fmt: skip

    def _head(self, data, epoch):
        m, n, last = *self.sizes[-2:], self.n_layers - 1
        activation, loss, is_class = self._loss(data)
        kernel = outputs.make_head(self.task.precision, n, activation, loss, is_class)
        bias = self.masters[last].address + m * self.masters[last].pitch
        rows = _round_up(self.task.batch_size, PADDING_ROWS)
        self._launch(
            kernel, rows // outputs.HEAD_ROWS, batches.THREADS, self._state,
            *self.values[last].place, *self.transposed.place,
            _ceil(m * self.item_size, outputs.UNIT_BYTES), bias, *self._of_data(data, epoch),
            self.output_deltas.address, *self.deltas[last].place, Matrix(self.losses, 0).address,
        )  # fmt: skip

    def _outputs(self, data, epoch):
        last, n = self.n_layers - 1, self.sizes[-1]
        identity = functions.OUTPUT_ACTIVATIONS.index("identity")
        self._forward(last, self.output_deltas, identity)
        kernel = outputs.make_outputs(self.task.precision, *self._loss(data))
        rows = _round_up(self.task.batch_size, PADDING_ROWS)
        self._launch(
            kernel, rows, batches.THREADS, self._state, *self.output_deltas.place, n,
            *self._of_data(data, epoch), *self.deltas[last].place, Matrix(self.losses, 0).address,
        )  # fmt: skip
        grid = _ceil(n, batches.THREADS), rows // PADDING_ROWS
        self._launch(
            batches.sum_columns, grid, batches.THREADS, self._state, *self.output_deltas.place,
            *self.sums[last].place, PADDING_ROWS, n,
        )  # fmt: skip

    def _backward(self, index):
        m, n = self.sizes[index : index + 2]
        tile, activation = self.tiles["backward"][index], self._activation(index - 1)
        kernel = layers.make_backward(self.task.precision, tile, activation)
        self._launch_tiles(
            kernel, tile, self.task.batch_size, m, self._state, *self.deltas[index].place,
            *self.rounded[index].place, self._n_steps(n), self.values[index].address,
            *self.deltas[index - 1].place, *self.sums[index - 1].place,
        )  # fmt: skip

    def _weights(self, index):
        """Masters and moments of a layer, as the kernels take them."""
        second = self.moments[-1][index].address
        master = self.masters[index]
        return master.address, self.moments[0][index].address, second, master.pitch

    def _penalties(self, index):
        return Matrix(self.penalties, 0).address + 8 * int(self.penalty_starts[index])

    def _update(self, index):
        m, n = self.sizes[index : index + 2]
        tile = self.tiles["gradient"][index]
        rows_a_sum = PADDING_ROWS
        if index < self.n_layers - 1:
            rows_a_sum = self.tiles["backward"][index + 1].rows
        self._launch_tiles(
            layers.make_gradient(self.task.precision, tile, self.task.rule), tile, m, n,
            self._state, *self.values[index].place, *self.deltas[index].place,
            *self._weights(index), *self.rounded[index].place, m, n, *self.sums[index].place,
            rows_a_sum, self._penalties(index),
        )  # fmt: skip

    def _update_head(self):
        m, n, last = *self.sizes[-2:], self.n_layers - 1
        parts = Matrix(self.parts, 0).address
        grid = (
            _ceil(m, 4 * outputs.GRADIENT_THREADS),
            _ceil(self.task.batch_size, outputs.GRADIENT_ROWS),
        )
        self._launch(
            outputs.make_head_gradient(self.task.precision, n), grid, outputs.GRADIENT_THREADS,
            self._state, *self.values[last].place, self.output_deltas.address, parts,
            self.part_size, m,
        )  # fmt: skip
        self._launch(
            outputs.make_head_update(self.task.precision, n, self.task.rule),
            self._update_grid(last), batches.THREADS, self._state, parts, self.part_size,
            *self._weights(last), *self.rounded[last].place, *self.transposed.place, m,
            self._penalties(last),
        )  # fmt: skip

    # ---- an epoch -----------------------------------------------------------------------------

    def train(self, data, epoch):
        self.device.write(self.state, self._first_state(data, epoch))
        try:
            self._run_steps(data, epoch)
        except KeyboardInterrupt as interrupt:
            interrupt.updates = self._result().updates
            raise
        return self._result()

    def _run_steps(self, data, epoch):
        """Go through all steps; they are recorded where there is more than one."""
        steps, key = epoch.n_steps, (id(data), id(epoch.order), id(epoch.table))
        if self._graph_key != key:
            self._step(data, epoch)  # compiles what is new
            steps -= 1
            if steps > 0:
                self._graph = self.device.record(lambda: self._step(data, epoch))
                self._graph_key = key
                self._recorded = data, epoch  # kept alive, and so are their ids
        for _ in range(steps):
            self._graph()

    def _result(self):
        state = self.device.read(self.state)
        loss, weight = state[batches.LOSS_SUM], state[batches.WEIGHT_SUM]
        return Result(float(loss), float(weight), int(state[batches.UPDATES]))

    def _first_state(self, data, epoch):
        state = np.zeros(batches.STATE_SIZE)
        first = epoch.host_table[0]
        state[batches.IS_ACTIVE] = first[WEIGHT] != 0
        state[batches.ROWS], state[batches.WEIGHT] = first[ROWS], first[WEIGHT]
        state[batches.RATE], state[batches.DECAY] = first[RATE], first[DECAY]
        state[batches.N_STEPS], state[batches.BATCH_SIZE] = epoch.n_steps, self.task.batch_size
        state[batches.ALPHA], state[batches.MOMENTUM] = epoch.alpha, epoch.momentum
        state[batches.BETA_1], state[batches.BETA_2] = epoch.beta_1, epoch.beta_2
        state[batches.EPSILON], state[batches.INPUT_SCALE] = epoch.epsilon, data.input_scale
        return state
