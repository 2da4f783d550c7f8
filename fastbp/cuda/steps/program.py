"""The generic program: a few kernels for each step, a window of steps replayed as one graph.

It takes everything, in float32 and float64. A step is: each hidden layer forward; the output layer
with loss and δ (one kernel where outputs are few, else three); δ back through the hidden layers;
and all gradients with the optimizer's update. 784-128-10 takes three kernels. Deep networks of
narrow layers take two, where the GPU has clusters: all but the update are one (`passes`).
"""

from functools import cached_property

import numpy as np

from fastbp import functions
from fastbp.cuda.data import ROWS, TABLE_WIDTH, SparseRows
from fastbp.cuda.device import address_of, compiled
from fastbp.cuda.program import Program, Result
from fastbp.cuda.steps import outputs, products, windows
from fastbp.cuda.steps.pass_layout import pass_layout_for
from fastbp.cuda.steps.passes import BatchPass
from fastbp.cuda.steps.tiles import FORMS, choose_form
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import is_simulated

WINDOW_STEPS = 64  # at most
WINDOW_BYTES = 32 * 2**20  # of gathered inputs: they are to stay in the second cache
GRAPH_WINDOWS = 3  # a graph is worth recording where so many windows are to come
GATHER_BLOCKS, GATHER_THREADS = 1024, 256
MOST_DOWN = 65_535  # blocks, in a grid's second dimension
_HIDDEN = list(functions.HIDDEN_ACTIVATIONS)


class Launcher:
    """Forward passes over rows that lie gathered on the device: what training and prediction share.

    Parameters
    ----------
    device : Device
    network : Network
    dtype : numpy dtype
    capacity : int
        Most rows a pass.
    n_gathered : int
        Rows that are gathered at once.
    """

    def __init__(self, device, network, dtype, capacity, n_gathered):
        self.device, self.network, self.dtype = device, network, np.dtype(dtype)
        self.capacity = capacity
        self.threads = 16 if is_simulated() else GATHER_THREADS
        sizes = network.layer_sizes
        # One array of all layers' values: the gathered inputs, then each layer's outputs.
        self.starts = np.cumsum([0, n_gathered * sizes[0], *(capacity * n for n in sizes[1:])])
        self.values = device.empty(int(self.starts[-1]), self.dtype)
        self.infinite = device.zeros(1, np.int32)
        self.state = device.zeros(windows.STATE_SIZE, np.float64)

    def inputs_of(self, layer, first_row):
        """Where the inputs of a layer start."""
        return int(self.starts[layer]) if layer else first_row * self.network.layer_sizes[0]

    def launch(self, kernel, grid, block, *arguments):
        """Launch a kernel of a registry."""
        self.device.launch(compiled(kernel), grid, block, *arguments)

    def launch_product(self, kind, rows, columns, *arguments):
        """Launch a product whose result has so many rows and columns."""
        name = choose_form(rows, columns, self.dtype, self.device.n_multiprocessors, is_simulated())
        form = FORMS[name]
        down, across = form.tiles(rows, columns)
        slabs = -(-down // MOST_DOWN)
        grid = across, -(-down // slabs), slabs
        self.launch(products.kernel(kind, name, self.dtype), grid, form.threads, *arguments)

    def gather(self, data, order, n_rows, batch_size):
        """Convert the rows of the window that `state` names."""
        X, n_columns = data.X, self.network.layer_sizes[0]
        end = (data.input_scale, self.values, 0, n_rows, self.infinite)
        if isinstance(X, SparseRows):
            arrays = X.values, X.columns, X.starts, n_columns
            kernel, grid = windows.gather_sparse_rows, -(-n_rows // self.threads)
        else:
            arrays, kernel, grid = (X,), windows.gather_rows, n_rows
        grid = min(grid, GATHER_BLOCKS)
        self.launch(kernel, grid, self.threads, self.state, batch_size, order, *arrays, *end)

    def forward(self, parameters, table, step, first_row, n_layers):
        """Pass gathered rows from `first_row` on through layers; behind the last, logits."""
        network = self.network
        for layer in range(n_layers):
            fan_in, fan_out = network.shapes[layer]
            is_output = layer == len(network.shapes) - 1
            activation = 0 if is_output else _HIDDEN.index(network.activations[layer])
            self.launch_product(
                "forward", self.capacity, fan_out, table, step, parameters,
                network.starts[layer], fan_in, fan_out, self.values,
                self.inputs_of(layer, first_row), int(self.starts[layer + 1]), activation,
            )  # fmt: skip


class StepsProgram(Program):
    """The generic program; see `fastbp.cuda.program.Program`."""

    def __init__(self, device, task):
        super().__init__(device, task)
        network, dtype, batch = task.network, task.dtype, task.batch_size
        row_bytes = batch * network.layer_sizes[0] * dtype.itemsize
        self.window_steps = max(1, min(WINDOW_STEPS, WINDOW_BYTES // row_bytes))
        n_rows = self.window_steps * batch
        self.n_window_rows = n_rows
        self.launcher = Launcher(device, network, dtype, batch, n_rows)
        sizes, n_outputs = network.layer_sizes, network.layer_sizes[-1]
        # δ behind each layer of weights.
        self.delta_starts = np.cumsum([0, *(batch * n for n in sizes[1:])])
        self.deltas = device.empty(int(self.delta_starts[-1]), dtype)
        self.targets = device.empty(n_rows * n_outputs, dtype)
        self.row_weights = device.empty(n_rows, np.float64)
        self.table = device.empty(self.window_steps * TABLE_WIDTH, np.float64)
        self.step_losses = device.empty(self.window_steps, np.float64)
        self.has_head = n_outputs <= outputs.HEAD_OUTPUTS
        self.head_threads = outputs.TOY_THREADS if is_simulated() else outputs.HEAD_THREADS
        self.judge_threads = 16 if is_simulated() else outputs.JUDGE_THREADS
        layout = pass_layout_for(task, device)
        self.batch_pass = None if layout is None else BatchPass(device, layout)
        rows_a_block = outputs.HEAD_ROWS if self.has_head else self.judge_threads
        self.n_losses = -(-batch // rows_a_block) if layout is None else layout.n_clusters
        self.losses = device.empty(self.window_steps * self.n_losses, np.float64)
        self._lay_out_update()
        self.norms = device.empty(self.window_steps * self.n_tiles, np.float64)
        self.parameters = device.empty(network.n_parameters, dtype)
        self.first = device.zeros(network.n_parameters, dtype)
        self.second = device.zeros(network.n_parameters if task.rule == ADAM else 1, dtype)
        self._recorded = None, None  # what a graph holds, and the graph

    def _lay_out_update(self):
        """The table of layers for the kernel that updates them all."""
        shapes = self.task.network.shapes
        largest = max(shapes, key=lambda shape: shape[0] * shape[1])
        self.update_form = choose_form(
            largest[0] + 1, largest[1], self.task.dtype, self.device.n_multiprocessors,
            is_simulated(),
        )  # fmt: skip
        layers = np.zeros((len(shapes), products.LAYER_WIDTH), np.int64)
        self.n_tiles = 0
        for layer, (fan_in, fan_out) in enumerate(shapes):
            down, across = FORMS[self.update_form].tiles(fan_in + 1, fan_out)
            layers[layer] = (
                fan_in, fan_out, self.launcher.inputs_of(layer, 0), self.delta_starts[layer],
                self.task.network.starts[layer], self.n_tiles, across,
            )  # fmt: skip
            self.n_tiles += down * across
        self.layers = self.device.upload(layers)

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
        return [self.first, self.second] if self.task.rule == ADAM else [self.first]

    # ---- training -----------------------------------------------------------------------------

    def train(self, data, epoch):
        state = np.zeros(windows.STATE_SIZE)
        state[windows.N_STEPS] = epoch.n_steps
        state[windows.N_ROWS] = epoch.host_table[:, ROWS].sum()
        self.device.write(self.launcher.state, state)
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
        wanted = _held(data, epoch, steps)
        if held is None or not _is_same(held, wanted):
            launch()  # compiles; in a graph nothing can be
            n_windows, replay = n_windows - 1, launch
            if n_windows >= GRAPH_WINDOWS:
                replay = self.device.record(launch)
                self._recorded = wanted, replay
        for _ in range(n_windows):
            replay()

    def _result(self):
        """What has been added up. Waits until all work has been done."""
        state = self.device.read(self.launcher.state)
        return Result(
            float(state[windows.LOSS]),
            float(state[windows.TOTAL_WEIGHT]),
            int(state[windows.UPDATES]),
        )

    def _launch_window(self, data, epoch, steps):
        """Gather a window, go through its steps and add up its losses."""
        launcher, batch = self.launcher, self.task.batch_size
        threads = launcher.threads
        n_rows = steps * batch
        grid = min(-(-n_rows // threads), GATHER_BLOCKS)
        weight, n_outputs = data.sample_weight, self.task.network.layer_sizes[-1]
        launcher.launch(
            windows.open_window, grid, threads, launcher.state, batch, epoch.order, epoch.table,
            self._no_weight if weight is None else weight, int(weight is not None), self.table,
            self.row_weights, steps,
        )  # fmt: skip
        launcher.gather(data, epoch.order, n_rows, batch)
        if data.targets.ndim == 1:
            launcher.launch(
                windows.gather_classes, grid, threads, launcher.state, batch, epoch.order,
                data.targets, n_outputs, self.targets, n_rows,
            )  # fmt: skip
        else:
            launcher.launch(
                windows.gather_rows, min(n_rows, GATHER_BLOCKS), threads, launcher.state, batch,
                epoch.order, data.targets, 1.0, self.targets, 0, n_rows, launcher.infinite,
            )  # fmt: skip
        for step in range(steps):
            self._launch_step(step, epoch)
        launcher.launch(
            windows.close_window, 1, max(threads, 16), launcher.state, self.table, steps,
            self.losses, self.n_losses, self.norms, self.n_tiles, epoch.alpha, self.step_losses,
        )  # fmt: skip

    def _launch_step(self, step, epoch):
        """One step of a window."""
        launcher, task = self.launcher, self.task
        first_row = step * task.batch_size
        if self.batch_pass is None:
            self._launch_layers(step, first_row)
        else:
            self._launch_pass(step)
        launcher.launch(
            products.kernel("update", self.update_form, task.dtype), self.n_tiles,
            FORMS[self.update_form].threads, self.table, step, self.layers,
            len(task.network.shapes), launcher.values, launcher.inputs_of(0, first_row),
            self.deltas, self.parameters, self.first, self.second, self.norms, task.rule,
            epoch.momentum, epoch.beta_1, epoch.beta_2, epoch.epsilon,
        )  # fmt: skip

    def _launch_pass(self, step):
        """All layers forward and back, in one kernel."""
        values = address_of(self.launcher.values)
        hidden = values + int(self.launcher.starts[1]) * self.task.dtype.itemsize
        arrays = (self.deltas, self.targets, self.row_weights, self.losses)
        self.batch_pass(
            address_of(self.table), address_of(self.parameters), values, hidden,
            *map(address_of, arrays), step,
        )  # fmt: skip

    def _launch_layers(self, step, first_row):
        """All layers forward and back, a kernel or more for each."""
        n_layers = len(self.task.network.shapes)
        self.launcher.forward(
            self.parameters, self.table, step, first_row, n_layers - int(self.has_head)
        )
        if self.has_head:
            self._launch_head(step, first_row)
        else:
            self._launch_judge(step, first_row)
        # The head has taken δ back through the output layer.
        for layer in range(n_layers - 1 - int(self.has_head), 0, -1):
            self._launch_backward(step, layer)

    def _objective(self):
        """Codes of the output activation and the loss, and the factor of the loss."""
        network = self.task.network
        scale = 1 / network.layer_sizes[-1] if network.average_outputs else 1.0
        return (
            functions.OUTPUT_ACTIVATIONS.index(network.output_activation),
            functions.LOSSES.index(network.loss),
            scale,
        )

    def _launch_head(self, step, first_row):
        launcher, network = self.launcher, self.task.network
        layer = len(network.shapes) - 1
        input_deltas = int(self.delta_starts[layer - 1]) if layer else -1
        hidden = _HIDDEN.index(network.activations[layer - 1]) if layer else 0
        launcher.launch(
            outputs.HEADS[self.task.dtype.name, self.head_threads], self.n_losses,
            self.head_threads, self.table, step, first_row, self.parameters,
            network.starts[layer], *network.shapes[layer], launcher.values,
            launcher.inputs_of(layer, first_row), self.targets, self.row_weights, self.deltas,
            int(self.delta_starts[layer]), input_deltas, hidden, *self._objective(), self.losses,
        )  # fmt: skip

    def _launch_judge(self, step, first_row):
        launcher, network = self.launcher, self.task.network
        layer = len(network.shapes) - 1
        launcher.launch(
            outputs.JUDGES[self.task.dtype.name], self.n_losses, self.judge_threads, self.table,
            step, first_row, launcher.values, int(launcher.starts[layer + 1]),
            network.layer_sizes[-1], self.targets, self.row_weights, self.deltas,
            int(self.delta_starts[layer]), *self._objective(), self.losses,
        )  # fmt: skip

    def _launch_backward(self, step, layer):
        """δ behind the layer before, from δ behind `layer`."""
        launcher, network = self.launcher, self.task.network
        fan_in, fan_out = network.shapes[layer]
        launcher.launch_product(
            "backward", self.task.batch_size, fan_in, self.table, step, self.parameters,
            network.starts[layer], fan_in, fan_out, launcher.values,
            launcher.inputs_of(layer, 0), self.deltas, int(self.delta_starts[layer]),
            int(self.delta_starts[layer - 1]), _HIDDEN.index(network.activations[layer - 1]),
        )  # fmt: skip


def _held(data, epoch, steps):
    """All that a graph of a window holds and that may differ from epoch to epoch."""
    numbers = epoch.alpha, epoch.momentum, epoch.beta_1, epoch.beta_2, epoch.epsilon, steps
    return (data, epoch.order, epoch.table), numbers


def _is_same(held, wanted):
    return held[1] == wanted[1] and all(
        one is other for one, other in zip(held[0], wanted[0], strict=True)
    )
