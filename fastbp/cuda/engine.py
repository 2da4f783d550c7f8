"""The CUDA engine: the verbs that the training loop knows, over programs on a GPU.

What a program is, what it gets and what it returns: `fastbp.cuda.program`. Which one serves a task:
`fastbp.cuda.choice`. What goes up to the device: `fastbp.cuda.data`.
"""

import numpy as np

from fastbp.cuda.choice import choose
from fastbp.cuda.data import DeviceData, Epoch, upload_rows
from fastbp.cuda.device import Device
from fastbp.cuda.predictions import MOST_ROWS, Predictor
from fastbp.cuda.proof import trusted_task
from fastbp.cuda.task import Task
from fastbp.schedules import gradient_steps

GRADIENT_ROWS = 1024  # of a batch where nothing is learnt from it


class Engine:
    """One network's parameters and working memory on a GPU.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
    precision : {"float32", "float64", "tf32", "bfloat16"} or None, default=None
        Of the products; None is `dtype`.

    Raises
    ------
    DeviceError
        Where there is no usable GPU.
    """

    def __init__(self, network, dtype, precision=None):
        self.network = network
        self.dtype = np.dtype(dtype)
        self.precision = precision or self.dtype.name
        self.device = Device()
        self.inputs_were_finite = self.outputs_were_finite = True  # at the last prediction
        self._program = None
        self._parameters = np.zeros(network.n_parameters, self.dtype)  # until there is a program
        self._moments = []
        self._uploaded = (None, None)  # a Data and what it is on the device
        self._predicted = (None, None)
        self._epoch_arrays = {}
        self._predictor = None
        self._trusted = {}  # a task -> itself, or what takes its place

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    # ---- parameters and optimizer state -------------------------------------------------------

    def load_parameters(self, parameters):
        """Take over parameters, a flat vector in the network's order."""
        self._parameters = np.array(parameters, self.dtype)
        if self._program is not None:
            self._program.load_parameters(self._parameters)

    def store_parameters(self):
        """Return a copy of the parameters as a flat vector of shape (n_parameters,)."""
        if self._program is None:
            return self._parameters.copy()
        return self._program.store_parameters()

    def load_moments(self, moments):
        """Take over the optimizer's moments, a list of flat vectors."""
        self._moments = [np.array(moment, self.dtype) for moment in moments]
        if self._program is not None:
            self._program.load_moments(self._moments)

    def store_moments(self):
        """Return the moments as a list of new flat vectors."""
        if self._program is None:
            return [moment.copy() for moment in self._moments]
        return self._program.store_moments()

    # ---- what goes to the device --------------------------------------------------------------

    def _on_device(self, data):
        """What a `Data` is on the device; uploaded once."""
        if self._uploaded[0] is not data:
            self._uploaded = (data, DeviceData.upload(self.device, data, self.dtype))
        return self._uploaded[1]

    def _rows_on_device(self, data):
        """The rows of a `Data` if they are on the device, where those predicted twice go."""
        for known, on_device in (self._uploaded, self._predicted):
            if known is data and on_device is not None:
                return on_device
        is_second = self._predicted[0] is data
        self._predicted = data, None  # the memory of others is free before more is taken
        if is_second:  # validation rows, every epoch
            on_device = DeviceData.upload(self.device, data, self.dtype, with_targets=False)
            self._predicted = data, on_device
        return self._predicted[1]

    def _make_epoch(self, order, steps):
        """Bring an epoch's order and table to the device, always to the same arrays."""
        table, batch_size = steps.table, steps.batch_size
        shape = len(table), batch_size
        if shape not in self._epoch_arrays:
            self._epoch_arrays = {}  # their memory is free before more is taken
            rows = self.device.empty(len(table) * batch_size, np.int32)
            self._epoch_arrays[shape] = rows, self.device.empty(table.shape, table.dtype)
        on_device = self._epoch_arrays[shape]
        self.device.write(on_device[0], order)
        self.device.write(on_device[1], table)
        return Epoch(*on_device, table, steps.alpha)

    def _program_for(self, task):
        """The program of a task: the present one, or a new one that takes over its state."""
        if task not in self._trusted:
            self._trusted[task] = trusted_task(self.device, task)
        task = self._trusted[task]
        if self._program is None or self._program.task != task:
            if self._program is not None:
                self._parameters = self._program.store_parameters()
                self._moments = self._program.store_moments()
                self._program = None  # its memory is free before more is taken
            program = choose(task, self.device).load()(self.device, task)
            program.load_parameters(self._parameters)
            program.load_moments(self._moments)
            self._program = program
        return self._program

    # ---- verbs --------------------------------------------------------------------------------

    def train_epoch(self, data, order, steps):
        """Go through rows once, batch by batch, and update the parameters after each."""
        program = self._program_for(self._task(steps, self.precision))
        result = self._run(program, data, order, steps)
        return result.loss / result.weight if result.weight else float("nan")

    def loss_and_gradient(self, data):
        """Compute the mean loss of all rows by weight, without penalty, and its gradient.

        In `dtype`, whatever the precision.
        """
        steps, total_weight = gradient_steps(data, GRADIENT_ROWS)
        program = self._program_for(self._task(steps, self.dtype.name))
        program.load_moments([np.zeros(self.network.n_parameters, self.dtype)])
        result = self._run(program, data, np.arange(data.n_samples), steps)
        return result.loss / total_weight, program.store_moments()[0]

    def _task(self, steps, precision):
        if steps.max_grad_norm is not None:
            raise ValueError(
                f"max_grad_norm={steps.max_grad_norm!r} is not for device='cuda', which keeps no "
                "gradients. Use device='cpu', or max_grad_norm=None."
            )
        return Task(
            self.network, self.dtype, precision, steps.batch_size, steps.rule, steps.dropout,
            steps.averages,
        )  # fmt: skip

    def _run(self, program, data, order, steps):
        """Run an epoch's steps, and count the updates made."""
        try:
            result = program.train(self._on_device(data), self._make_epoch(order, steps))
        except KeyboardInterrupt as interrupt:
            steps.made += getattr(interrupt, "updates", 0)
            raise
        steps.made += result.updates
        return result

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs, with products in `dtype` whatever the precision."""
        order = np.arange(data.n_samples) if rows is None else rows
        out = np.empty((len(order), self.network.layer_sizes[-1]), self.dtype)
        self.inputs_were_finite = self.outputs_were_finite = True
        if len(order) == 0:
            return out
        if self._program is None:
            parameters = self.device.upload(self._parameters)
        else:
            parameters = self._program.flat_parameters()
        predictor = self._predictor_for(len(order))
        on_device = self._rows_on_device(data)
        activation, were_finite = activation or self.network.output_activation, True
        for start in range(0, len(order), predictor.capacity):
            part = order[start : start + predictor.capacity]
            source = on_device
            if source is None:  # only these rows go up
                X = data.X[start : start + len(part)] if rows is None else data.X[part]
                X = upload_rows(self.device, X, self.dtype)
                source = DeviceData(X, None, None, float(data.input_scale))
                part = np.arange(len(part))
            values, finite = predictor.run(parameters, source, part, activation)
            out[start : start + len(part)] = values
            were_finite &= finite
        self.inputs_were_finite = were_finite
        self.outputs_were_finite = bool(np.isfinite(out).all())
        return out

    def _predictor_for(self, n_rows):
        if self._predictor is None or self._predictor.capacity < min(n_rows, MOST_ROWS):
            self._predictor = None  # its memory is free before more is taken
            self._predictor = Predictor(self.device, self.network, self.dtype, n_rows)
        return self._predictor
