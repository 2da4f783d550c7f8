"""The program for wide nets: products on tensor cores, float32 master weights.

A step is one graph: gather, forward layer by layer, last layer and loss, backward layer by layer
with the updates, and the state moved on. Masters, moments and sums are float32; what the products
read is rounded to bfloat16 or tf32 (weights once, when they are updated).
"""

import numpy as np

from fastbp import losses
from fastbp.cuda.data import SparseRows
from fastbp.cuda.device import address_of, compiled
from fastbp.cuda.program import Program, Result
from fastbp.cuda.wide import batch_kernels, output_kernels
from fastbp.cuda.wide.layer_products import LayerProducts
from fastbp.cuda.wide.matrices import LayerPlaces, Matrices, ceil_divide, round_up
from fastbp.cuda.wide.operands import PADDING_ROWS
from fastbp.cuda.wide.output_kernels import Supervision
from fastbp.schedules import WEIGHT


class WideProgram(Program):
    """Training with products of large matrices; see `fastbp.cuda.program`.

    Raises
    ------
    DeviceMemoryError
        Where the GPU's memory does not hold the padded matrices.
    """

    def __init__(self, device, task):
        super().__init__(device, task)
        self.matrices = Matrices(device, task)
        self.products = LayerProducts(self.matrices)
        self.n_layers, self.sizes = self.matrices.n_layers, self.matrices.sizes
        self._recorded = None, None  # what the graph of a step holds, and the graph
        # The last layer's logits, δ in their place, and what the steps add up.
        batch, n_outputs = task.batch_size, self.sizes[-1]
        self.logits = self.matrices.matrix(batch, n_outputs, 4, PADDING_ROWS)
        self.losses = device.zeros(round_up(batch, PADDING_ROWS), np.float64)
        counts = [self.products.n_penalties(index) for index in range(self.n_layers)]
        self.penalty_starts = np.cumsum([0, *counts]).tolist()
        self.penalties = device.zeros(self.penalty_starts[-1], np.float64)
        self.layers = [self._places(index) for index in range(self.n_layers)]

    # ---- memory -------------------------------------------------------------------------------

    def _places(self, index):
        """Where the matrices of a layer lie."""
        matrices, products = self.matrices, self.products
        is_last, before = index == self.n_layers - 1, max(index - 1, 0)  # of the first layer unused
        outputs = self.logits if is_last else matrices.values[index + 1]
        return LayerPlaces(
            *matrices.shape(index), *matrices.values[index].place, *outputs.place,
            *matrices.deltas[index].place, matrices.deltas[before].address,
            *matrices.weights(index), *matrices.rounded[index].place,
            *products.sums[index].place, *products.sums[before].place,
            products.rows_a_sum(index), address_of(self.penalties) + 8 * self.penalty_starts[index],
        )  # fmt: skip

    # ---- parameters and moments ---------------------------------------------------------------

    def load_parameters(self, parameters):
        matrices = self.matrices
        matrices.load(matrices.masters, parameters)
        for index in range(self.n_layers):
            places = matrices.masters[index].place, matrices.rounded[index].place
            matrices.round(*places, *matrices.shape(index))

    def store_parameters(self):
        return self.device.read(self.flat_parameters())

    def flat_parameters(self):
        return self.matrices.flatten(self.matrices.masters)

    def load_moments(self, moments):
        for target, moment in zip(self.matrices.moments, moments, strict=True):
            self.matrices.load(target, moment)

    def store_moments(self):
        flatten = self.matrices.flatten
        return [self.device.read(flatten(moment)) for moment in self.matrices.moments]

    # ---- a step -------------------------------------------------------------------------------

    def _step(self, data, epoch):
        """Launch one step."""
        self._gather(data, epoch)
        last = self.n_layers - 1
        for index in range(last):
            self.products.forward(index, self.layers[index])
        self._output_layer(data, epoch)
        for index in range(last, -1, -1):
            if index > 0:
                self.products.backward(index, self.layers[index])
            self.products.update(index, self.layers[index])
        network = self.task.network
        scale = 1 / self.sizes[-1] if network.average_outputs else 1.0
        self.matrices.launch(
            batch_kernels.finish_step, 1, batch_kernels.THREADS, self.matrices.state_address,
            address_of(epoch.table), address_of(self.losses), scale, address_of(self.penalties),
            len(self.penalties),
        )  # fmt: skip

    def _gather(self, data, epoch):
        X, target, n_features = data.X, self.matrices.values[0], self.sizes[0]
        state, rows = self.matrices.state_address, round_up(self.task.batch_size, PADDING_ROWS)
        threads = batch_kernels.THREADS
        if isinstance(X, SparseRows):
            kernel = compiled(batch_kernels.make_gather_sparse(self.task.precision))
            self.device.launch(
                kernel, rows, threads, state, X.values, X.columns, X.starts, epoch.order,
                *target.place, n_features,
            )  # fmt: skip
            return
        grid = rows, ceil_divide(n_features, 4 * threads)
        kernel = compiled(batch_kernels.make_gather(self.task.precision))
        self.device.launch(kernel, grid, threads, state, X, epoch.order, *target.place)

    def _output_layer(self, data, epoch):
        """From the last layer's inputs to losses and δ."""
        matrices, layer, precision = self.matrices, self.layers[-1], self.task.precision
        network = self.task.network
        loss = losses.code_of(losses.find_loss(network.loss, network.output_activation))
        objective = matrices.activation(self.n_layers - 1), loss, len(data.targets.shape) == 1
        weight = data.sample_weight
        supervision = Supervision(
            address_of(data.targets), 0 if weight is None else address_of(weight),
            address_of(epoch.order), address_of(self.losses),
        )  # fmt: skip
        rows, state = round_up(self.task.batch_size, PADDING_ROWS), matrices.state_address
        self.products.logits(self.n_layers - 1, layer)
        threads = output_kernels.threads_for(layer.n_outputs)
        kernel = output_kernels.make_loss_kernel(precision, threads, *objective)
        matrices.launch(kernel, rows, threads, state, layer, supervision)
        threads = batch_kernels.THREADS
        grid = ceil_divide(layer.n_outputs, threads), ceil_divide(rows, layer.rows_a_sum)
        matrices.launch(batch_kernels.sum_columns, grid, threads, state, layer)

    # ---- an epoch -----------------------------------------------------------------------------

    def train(self, data, epoch):
        self.device.write(self.matrices.state, self._first_state(data, epoch))
        try:
            self._run_steps(data, epoch)
        except KeyboardInterrupt as interrupt:
            interrupt.updates = self._result().updates
            raise
        return self._result()

    def _run_steps(self, data, epoch):
        """Go through all steps. The first with new arrays is launched, which compiles; others are
        a graph."""
        n_steps, (held, replay) = epoch.n_steps, self._recorded
        wanted = data, epoch.order, epoch.table
        if held is None or any(one is not other for one, other in zip(held, wanted, strict=True)):
            self._step(data, epoch)
            n_steps, replay = n_steps - 1, None
            self._recorded = wanted, None
        for _ in range(n_steps):
            if replay is None:
                replay = self.device.record(lambda: self._step(data, epoch))
                self._recorded = wanted, replay
            replay()

    def _result(self):
        state = self.device.read(self.matrices.state)
        loss, weight = state[batch_kernels.LOSS_SUM], state[batch_kernels.WEIGHT_SUM]
        return Result(float(loss), float(weight), int(state[batch_kernels.UPDATES]))

    def _first_state(self, data, epoch):
        state = np.zeros(batch_kernels.STATE_SIZE)
        first = epoch.host_table[0]
        state[batch_kernels.IS_ACTIVE] = first[WEIGHT] != 0
        state[batch_kernels.STEP :] = first
        state[batch_kernels.N_STEPS] = epoch.n_steps
        state[batch_kernels.BATCH_SIZE] = self.task.batch_size
        state[batch_kernels.ALPHA], state[batch_kernels.INPUT_SCALE] = epoch.alpha, data.input_scale
        return state
