"""The program for wide nets: products of large matrices, float32 master weights.

A step is one graph: gather, forward layer by layer, last layer and loss, backward layer by layer
with the updates, and the state moved on. Who multiplies, fastbp's own kernels or cuBLASLt, is
chosen by `fastbp.cuda.choice.choose_products`. Masters, moments and sums are float32; what the
products read is rounded to bfloat16 or tf32 (weights once, when they are updated), or float32 too.
"""

from importlib import import_module

import numpy as np

from fastbp import functions
from fastbp.cuda.choice import PRODUCTS, choose_products
from fastbp.cuda.data import DECAY, RATE, ROWS, WEIGHT, SparseRows
from fastbp.cuda.device import compiled
from fastbp.cuda.program import Program, Result
from fastbp.cuda.wide import batches, outputs
from fastbp.cuda.wide.memory import Matrix, Memory, ceil_divide, round_up
from fastbp.cuda.wide.products import PADDING_ROWS


class WideProgram(Program):
    """Training with products of large matrices; see `fastbp.cuda.program`.

    Raises
    ------
    DeviceMemoryError
        Where the GPU's memory does not hold the padded matrices.
    DeviceError
        Where cuBLASLt was asked for and cannot be used, or fails.
    """

    def __init__(self, device, task):
        super().__init__(device, task)
        self.memory = Memory(device, task)
        module, class_name = PRODUCTS[choose_products(device)[0]]
        self.products = getattr(import_module(module), class_name)(self.memory)
        self.n_layers, self.sizes = self.memory.n_layers, self.memory.sizes
        # The head's own kernels multiply on tensor cores, which are not exact in float32.
        few = self.sizes[-1] <= outputs.MOST_OF_HEAD
        self.has_head = few and task.precision != "float32"
        self._graphs = {}  # by their number of rows; None where a step has only been made
        self._graph_key = self._recorded = None
        self._allocate()

    # ---- memory -------------------------------------------------------------------------------

    def _allocate(self):
        """The last layer's, and what the steps add up."""
        batch, size, matrix = self.task.batch_size, self.sizes, self.memory.matrix
        if self.has_head:
            n_padded = round_up(size[-1], 8)
            self.transposed = matrix(n_padded, size[-2], self.memory.item_size)
            self.output_deltas = Matrix(
                self.device.zeros(round_up(batch, PADDING_ROWS) * n_padded, np.float32),
                n_padded * 4,
            )
            self.part_size = (size[-2] + 1) * n_padded * 4
            n_parts = ceil_divide(batch, outputs.GRADIENT_ROWS)
            self.parts = self.device.zeros(n_parts * self.part_size, np.uint8)
        else:
            self.output_deltas = matrix(batch, size[-1], 4, PADDING_ROWS)
        self.losses = self.device.zeros(round_up(batch, PADDING_ROWS), np.float64)
        counts = [self.products.n_penalties(index) for index in range(self.n_layers)]
        if self.has_head:
            counts[-1] = self._head_blocks
        self.penalty_starts = np.cumsum([0, *counts])
        self.penalties = self.device.zeros(int(self.penalty_starts[-1]), np.float64)

    @property
    def _head_blocks(self):
        """Blocks that update the head's weights."""
        m, n = self.sizes[-2:]
        return ceil_divide((m + 1) * round_up(n, 8), batches.THREADS)

    # ---- parameters and moments ---------------------------------------------------------------

    def load_parameters(self, parameters):
        memory, last = self.memory, self.n_layers - 1
        memory.load(memory.masters, parameters)
        for index in range(self.n_layers):
            places = memory.masters[index].place, memory.rounded[index].place
            memory.round(*places, *memory.shape(index))
        if self.has_head:
            memory.launch(
                batches.make_round_transposed(self.task.precision), self.sizes[-2],
                batches.THREADS, *memory.masters[last].place, *self.transposed.place,
                self.sizes[-1],
            )  # fmt: skip
        self.products.load_parameters()

    def store_parameters(self):
        return self.device.read(self.flat_parameters())

    def flat_parameters(self):
        return self.memory.flatten(self.memory.masters)

    def load_moments(self, moments):
        for target, moment in zip(self.memory.moments, moments, strict=True):
            self.memory.load(target, moment)

    def store_moments(self):
        return [self.device.read(self.memory.flatten(moment)) for moment in self.memory.moments]

    # ---- a step -------------------------------------------------------------------------------

    def _step(self, data, epoch, rows):
        """Launch one step."""
        self._gather(data, epoch)
        last = self.n_layers - 1
        for index in range(last):
            self.products.forward(index, rows)
        if self.has_head:
            self._head(data, epoch)
        else:
            self._outputs(data, epoch, rows)
        for index in range(last, -1, -1):
            if index > 0:
                self.products.backward(index, rows)
            if self.has_head and index == last:
                self._update_head()
            else:
                self.products.update(index, rows, self._penalties(index))
        rows_a_loss = outputs.HEAD_ROWS if self.has_head else 1
        self.memory.launch(
            batches.finish_step, 1, batches.THREADS, self.memory.state_address,
            Matrix(epoch.table, 0).address, Matrix(self.losses, 0).address, rows_a_loss,
            self._penalties(0), len(self.penalties),
        )  # fmt: skip

    def _gather(self, data, epoch):
        X, target, n_features = data.X, self.memory.values[0], self.sizes[0]
        state, rows = self.memory.state_address, round_up(self.task.batch_size, PADDING_ROWS)
        if isinstance(X, SparseRows):
            kernel = compiled(batches.make_gather_sparse(self.task.precision))
            self.device.launch(
                kernel, rows, batches.THREADS, state, X.values, X.columns, X.starts, epoch.order,
                *target.place, n_features,
            )  # fmt: skip
            return
        grid = rows, ceil_divide(n_features, 4 * batches.THREADS)
        kernel = compiled(batches.make_gather(self.task.precision))
        self.device.launch(kernel, grid, batches.THREADS, state, X, epoch.order, *target.place)

    def _loss(self, data):
        is_class = len(data.targets.shape) == 1
        code = functions.LOSSES.index(self.task.network.loss)
        return self.memory.activation(self.n_layers - 1), code, is_class

    def _of_data(self, data, epoch):
        """Addresses and numbers that the loss depends on."""
        weight = data.sample_weight
        scale = 1 / self.sizes[-1] if self.task.network.average_outputs else 1.0
        return (
            Matrix(data.targets, 0).address, 0 if weight is None else Matrix(weight, 0).address,
            Matrix(epoch.order, 0).address, scale, float(np.finfo(np.float32).eps),
        )  # fmt: skip

    def _head(self, data, epoch):
        memory, (m, n), last = self.memory, self.sizes[-2:], self.n_layers - 1
        activation, loss, is_class = self._loss(data)
        kernel = outputs.make_head(self.task.precision, n, activation, loss, is_class)
        rows = round_up(self.task.batch_size, PADDING_ROWS)
        memory.launch(
            kernel, rows // outputs.HEAD_ROWS, batches.THREADS, memory.state_address,
            *memory.values[last].place, *self.transposed.place,
            ceil_divide(m * memory.item_size, outputs.UNIT_BYTES), memory.bias(last),
            *self._of_data(data, epoch), self.output_deltas.address, *memory.deltas[last].place,
            Matrix(self.losses, 0).address,
        )  # fmt: skip

    def _outputs(self, data, epoch, step_rows):
        memory, last, n = self.memory, self.n_layers - 1, self.sizes[-1]
        self.products.logits(step_rows, self.output_deltas)
        kernel = outputs.make_outputs(self.task.precision, *self._loss(data))
        rows = round_up(self.task.batch_size, PADDING_ROWS)
        memory.launch(
            kernel, rows, batches.THREADS, memory.state_address, *self.output_deltas.place, n,
            *self._of_data(data, epoch), *memory.deltas[last].place,
            Matrix(self.losses, 0).address,
        )  # fmt: skip
        rows_a_sum = self.products.rows_a_sum(last)
        memory.launch(
            batches.sum_columns, (ceil_divide(n, batches.THREADS), ceil_divide(rows, rows_a_sum)),
            batches.THREADS, memory.state_address, *self.output_deltas.place,
            *self.products.sums[last].place, rows_a_sum, n,
        )  # fmt: skip

    def _penalties(self, index):
        return Matrix(self.penalties, 0).address + 8 * int(self.penalty_starts[index])

    def _update_head(self):
        memory, (m, n), last = self.memory, self.sizes[-2:], self.n_layers - 1
        parts = Matrix(self.parts, 0).address
        grid = (
            ceil_divide(m, 4 * outputs.GRADIENT_THREADS),
            ceil_divide(self.task.batch_size, outputs.GRADIENT_ROWS),
        )
        memory.launch(
            outputs.make_head_gradient(self.task.precision, n), grid, outputs.GRADIENT_THREADS,
            memory.state_address, *memory.values[last].place, self.output_deltas.address, parts,
            self.part_size, m,
        )  # fmt: skip
        memory.launch(
            outputs.make_head_update(self.task.precision, n, self.task.rule), self._head_blocks,
            batches.THREADS, memory.state_address, parts, self.part_size, *memory.weights(last),
            *memory.rounded[last].place, *self.transposed.place, m, self._penalties(last),
        )  # fmt: skip

    # ---- an epoch -----------------------------------------------------------------------------

    def train(self, data, epoch):
        self.device.write(self.memory.state, self._first_state(data, epoch))
        try:
            self._run_steps(data, epoch)
        except KeyboardInterrupt as interrupt:
            interrupt.updates = self._result().updates
            raise
        return self._result()

    def _run_steps(self, data, epoch):
        """Go through all steps. One of a new size is made, the next recorded, and then replayed."""
        key = id(data), id(epoch.order), id(epoch.table)
        if self._graph_key != key:
            self._graphs = {}
            self._graph_key, self._recorded = key, (data, epoch)  # kept alive, and so are their ids
        for step_rows in epoch.host_table[:, ROWS]:
            rows = int(step_rows) if self.products.exact_rows else self.task.batch_size
            if rows not in self._graphs:
                self._step(data, epoch, rows)  # compiles what is new
                self._graphs[rows] = None
                continue
            if self._graphs[rows] is None:
                self._graphs[rows] = self.device.record(
                    lambda rows=rows: self._step(data, epoch, rows)
                )
            self._graphs[rows]()

    def _result(self):
        state = self.device.read(self.memory.state)
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
