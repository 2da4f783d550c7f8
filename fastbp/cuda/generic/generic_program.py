"""The general program: a few kernels for each step, a window of steps replayed as one graph.

It takes everything, in float32 and float64. A step is: each hidden layer forward; the output layer
with loss and δ (one kernel where outputs are few, else three); δ back through the hidden layers;
and all gradients with the optimizer's update. 784-128-10 takes three kernels.
"""

from functools import cached_property

import numpy as np

from fastbp import losses
from fastbp.cuda.generic import output_layer, tile_products, windows
from fastbp.cuda.generic.forward_pass import GATHER_BLOCKS, ForwardPass
from fastbp.cuda.generic.tiles import FORMS, choose_form
from fastbp.cuda.program import Program, Result
from fastbp.cuda.toolkit import is_simulated
from fastbp.optimizers import code_of
from fastbp.schedules import ROWS, TABLE_WIDTH

WINDOW_STEPS = 64  # at most
WINDOW_BYTES = 32 * 2**20  # of gathered inputs: they are to stay in the second cache
GRAPH_WINDOWS = 3  # for this many windows a graph is recorded in the first epoch already


class GenericProgram(Program):
    """The general program; see `fastbp.cuda.program.Program`."""

    def __init__(self, device, task):
        super().__init__(device, task)
        network, dtype, batch = task.network, task.dtype, task.batch_size
        row_bytes = batch * network.layer_sizes[0] * dtype.itemsize
        self.window_steps = max(1, min(WINDOW_STEPS, WINDOW_BYTES // row_bytes))
        n_rows, n_outputs = self.window_steps * batch, network.layer_sizes[-1]
        self.forward_pass = ForwardPass(device, network, dtype, batch, n_rows, task.dropout)
        self.deltas = device.empty(self.forward_pass.n_deltas, dtype)
        # First the loss's coefficients, then the rows of a window.
        self.targets = device.empty((1 + n_rows) * n_outputs, dtype)
        device.write(self.targets, np.array(network.loss_coefficients or [0.0] * n_outputs))
        self.row_weights = device.empty(n_rows, np.float64)
        self.table = device.empty(self.window_steps * TABLE_WIDTH, np.float64)
        self.step_losses = device.empty(self.window_steps, np.float64)
        self.has_head = n_outputs <= output_layer.HEAD_OUTPUTS
        self.head_threads = (
            output_layer.TOY_THREADS if is_simulated() else output_layer.HEAD_THREADS
        )
        self.loss_threads = 16 if is_simulated() else output_layer.LOSS_THREADS
        rows_a_block = output_layer.HEAD_ROWS if self.has_head else self.loss_threads
        self.n_losses = -(-batch // rows_a_block)
        self.losses = device.empty(self.window_steps * self.n_losses, np.float64)
        self._lay_out_update()
        self.norms = device.empty(self.window_steps * self.n_tiles, np.float64)
        self.parameters = device.empty(network.n_parameters, dtype)
        self.first = device.zeros(network.n_parameters, dtype)
        has_second = task.rule.n_moments > 1
        self.second = device.zeros(network.n_parameters if has_second else 1, dtype)
        self.average = device.zeros(network.n_parameters if task.averages else 1, dtype)
        self._recorded = None, None  # what a graph holds, and the graph

    def _lay_out_update(self):
        """The table of layers for the kernel that updates them all."""
        shapes = self.task.network.shapes
        largest = max(shapes, key=lambda shape: shape[0] * shape[1])
        self.update_form = choose_form(
            largest[0] + 1, largest[1], self.task.dtype, self.device.n_multiprocessors,
            is_simulated(),
        )  # fmt: skip
        rows, self.n_tiles = [], 0
        for layer in self.forward_pass.layers:
            down, across = FORMS[self.update_form].tiles(layer.n_inputs + 1, layer.n_outputs)
            rows.append(layer._replace(first_tile=self.n_tiles, tiles_across=across))
            self.n_tiles += down * across
        self.layers = self.device.upload(np.array(rows, np.int64))

    @cached_property
    def _no_weight(self):
        return self.device.zeros(1, np.float64)

    # ---- parameters and moments ---------------------------------------------------------------

    def load_parameters(self, parameters):
        self.device.write(self.parameters, parameters)

    def store_parameters(self):
        return self.device.read(self.parameters)

    def flat_parameters(self):
        return self.parameters

    def load_moments(self, moments):
        for target, moment in zip(self._moments, moments, strict=False):
            self.device.write(target, moment)

    def store_moments(self):
        return [self.device.read(moment) for moment in self._moments]

    @property
    def _moments(self):
        own = [self.first, self.second][: self.task.rule.n_moments]
        return [*own, self.average] if self.task.averages else own

    # ---- an epoch -----------------------------------------------------------------------------

    def train(self, data, epoch):
        state = np.zeros(windows.STATE_SIZE)
        state[windows.N_STEPS] = epoch.n_steps
        state[windows.N_ROWS] = epoch.host_table[:, ROWS].sum()
        self.device.write(self.forward_pass.state, state)
        n_windows = -(-epoch.n_steps // self.window_steps)
        # As few empty steps as can be, in the last window.
        steps = -(-epoch.n_steps // n_windows)
        try:
            self._run_windows(data, epoch, steps, n_windows)
        except KeyboardInterrupt as interrupt:
            interrupt.updates = self._result().updates
            raise
        return self._result()

    def _run_windows(self, data, epoch, steps, n_windows):
        """Go through all windows, by a graph where it pays to record one or there is one."""

        def launch():
            self._launch_window(data, epoch, steps)

        held, replay = self._recorded
        wanted = (data, epoch.order, epoch.table), (epoch.alpha, steps)
        is_new = held is None or not _is_same(held, wanted)
        if is_new:
            launch()  # compiles; in a graph nothing can be
            n_windows, replay = n_windows - 1, None
            self._recorded = wanted, None
        if replay is None and (n_windows >= GRAPH_WINDOWS or not is_new):
            replay = self.device.record(launch)
            self._recorded = wanted, replay
        for _ in range(n_windows):
            (replay or launch)()

    def _result(self):
        """What has been added up. Waits until all work has been done."""
        state = self.device.read(self.forward_pass.state)
        return Result(
            float(state[windows.LOSS]),
            float(state[windows.TOTAL_WEIGHT]),
            int(state[windows.UPDATES]),
        )

    # ---- a window -----------------------------------------------------------------------------

    def _launch_window(self, data, epoch, steps):
        """Gather a window, go through its steps and add up its losses."""
        forward_pass, network = self.forward_pass, self.task.network
        self._open_window(data, epoch, steps)
        for step in range(steps):
            self._launch_step(step)
        scale = 1 / network.layer_sizes[-1] if network.average_outputs else 1.0
        forward_pass.launch(
            windows.close_window, 1, max(forward_pass.threads, 16), forward_pass.state, self.table,
            steps, self.losses, self.n_losses, scale, self.norms, self.n_tiles, epoch.alpha,
            self.step_losses,
        )  # fmt: skip

    def _open_window(self, data, epoch, steps):
        """Bring the rows, targets, weights and table of a window's steps together."""
        forward_pass, batch = self.forward_pass, self.task.batch_size
        state, threads, n_rows = forward_pass.state, forward_pass.threads, steps * batch
        grid = min(-(-n_rows // threads), GATHER_BLOCKS)
        weight = data.sample_weight
        forward_pass.launch(
            windows.open_window, grid, threads, state, batch, epoch.order, epoch.table,
            self._no_weight if weight is None else weight, int(weight is not None), self.table,
            self.row_weights, steps,
        )  # fmt: skip
        forward_pass.gather(data, epoch.order, n_rows, batch)
        forward_pass.drop_inputs(self.table, n_rows, batch)
        self._gather_targets(data, epoch, n_rows, grid)

    def _gather_targets(self, data, epoch, n_rows, grid):
        forward_pass, network = self.forward_pass, self.task.network
        state, threads, batch = forward_pass.state, forward_pass.threads, self.task.batch_size
        n_outputs, smoothing = network.layer_sizes[-1], network.label_smoothing
        if data.targets.ndim == 1:
            forward_pass.launch(
                windows.gather_classes, grid, threads, state, batch, epoch.order, data.targets,
                n_outputs, 1 - smoothing, smoothing / n_outputs, self.targets, n_rows,
            )  # fmt: skip
            return
        forward_pass.launch(
            windows.gather_rows, min(n_rows, GATHER_BLOCKS), threads, state, batch,
            epoch.order, data.targets, 1.0, self.targets, n_outputs, n_rows,
            forward_pass.infinite,
        )  # fmt: skip
        if smoothing:
            forward_pass.launch(
                windows.smooth_targets, grid, threads, self.targets, n_outputs,
                n_rows * n_outputs, 1 - smoothing, smoothing / 2,
            )  # fmt: skip

    # ---- a step -------------------------------------------------------------------------------

    def _launch_step(self, step):
        """One step of a window: forward, loss, backward, update."""
        forward_pass, first_row = self.forward_pass, step * self.task.batch_size
        n_layers = len(forward_pass.layers)
        forward_pass.run(
            self.parameters, self.table, step, first_row, n_layers - int(self.has_head), self.deltas
        )
        self._launch_output_layer(step, first_row)
        # The head has taken δ back through the output layer.
        for index in range(n_layers - 1 - int(self.has_head), 0, -1):
            layer = forward_pass.layers[index]
            forward_pass.launch_product(
                "backward", self.task.batch_size, layer.n_inputs, self.table, step, layer,
                self.parameters, forward_pass.values, self.deltas,
            )  # fmt: skip
        forward_pass.launch(
            tile_products.kernel("update", self.update_form, self.task.dtype), self.n_tiles,
            FORMS[self.update_form].threads, self.table, step, self.layers,
            forward_pass.layer(0, first_row).inputs, forward_pass.values, self.deltas,
            self.parameters, self.first, self.second, self.average, self.norms,
            code_of(self.task.rule),
        )  # fmt: skip

    def _launch_output_layer(self, step, first_row):
        forward_pass, name = self.forward_pass, self.task.dtype.name
        layer = forward_pass.layer(len(forward_pass.layers) - 1, first_row)
        network = self.task.network
        loss = losses.find_loss(network.loss, network.output_activation)
        begin = self.table, step, first_row, layer
        end = (
            forward_pass.values, self.targets, self.row_weights, self.deltas,
            losses.code_of(loss), self.losses,
        )  # fmt: skip
        if self.has_head:
            kernel, threads = output_layer.HEADS[name, self.head_threads], self.head_threads
            begin += (self.parameters,)
        else:
            kernel, threads = output_layer.LOSS_KERNELS[name], self.loss_threads
        forward_pass.launch(kernel, self.n_losses, threads, *begin, *end)


def _is_same(held, wanted):
    """Whether a graph holds the wanted arrays and numbers, which may differ between epochs."""
    return held[1] == wanted[1] and all(
        one is other for one, other in zip(held[0], wanted[0], strict=True)
    )
