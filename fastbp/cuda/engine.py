"""The CUDA engine: the verbs that the training loop knows, over programs on a GPU.

What a program is, what it gets and what it returns: `fastbp.cuda.program`. Which one serves a task:
`fastbp.cuda.choice`. What goes up to the device: `fastbp.cuda.data`.
"""

import numpy as np

from fastbp.cuda.choice import choose
from fastbp.cuda.data import WEIGHT, DeviceData, Epoch, make_table, upload_rows
from fastbp.cuda.device import Device
from fastbp.cuda.predictions import MOST_ROWS, Predictor
from fastbp.cuda.task import GRADIENT, Task, rule_of
from fastbp.optimizers import N_MOMENTS, Optimizer

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
        self.inputs_were_finite = True  # at the last prediction
        self._program = None
        self._parameters = np.zeros(network.n_parameters, self.dtype)  # until there is a program
        self._moments = []
        self._uploaded = (None, None)  # a Data and what it is on the device
        self._epoch_arrays = {}
        self._predictor = None

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

    def load_optimizer(self, optimizer):
        """Take over an optimizer's moments."""
        self._moments = [np.array(moment, self.dtype) for moment in optimizer.moments]
        if self._program is not None:
            self._program.load_moments(self._moments)

    def store_optimizer(self, optimizer):
        """Give an optimizer its moments as new flat vectors."""
        moments = self._moments if self._program is None else self._program.store_moments()
        optimizer.moments = [moment.copy() for moment in moments[: N_MOMENTS[optimizer.solver]]]

    # ---- what goes to the device --------------------------------------------------------------

    def _on_device(self, data):
        """What a `Data` is on the device; uploaded once."""
        if self._uploaded[0] is not data:
            self._uploaded = (data, DeviceData.upload(self.device, data, self.dtype))
        return self._uploaded[1]

    def _make_epoch(self, order, table, batch_size, alpha):
        """Bring an epoch's order and table to the device, always to the same arrays."""
        shape = len(table), batch_size
        if shape not in self._epoch_arrays:
            self._epoch_arrays = {}  # their memory is free before more is taken
            rows = self.device.empty(len(table) * batch_size, np.int32)
            self._epoch_arrays[shape] = rows, self.device.empty(table.shape, table.dtype)
        on_device = self._epoch_arrays[shape]
        self.device.write(on_device[0], order)
        self.device.write(on_device[1], table)
        return Epoch(*on_device, table, float(alpha))

    def _program_for(self, task):
        """The program of a task: the present one, or a new one that takes over its state."""
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

    def train_epoch(self, data, order, batch_size, optimizer, alpha):
        """Go through some rows once, in batches; as the CPU engine's `train_epoch`."""
        batch_size = min(int(batch_size), len(order))
        task = Task(self.network, self.dtype, self.precision, batch_size, rule_of(optimizer))
        program = self._program_for(task)
        table = make_table(data, order, batch_size, optimizer, task.rule, alpha)
        epoch = self._make_epoch(order, table, batch_size, alpha)
        try:
            result = program.train(self._on_device(data), epoch)
        except KeyboardInterrupt as interrupt:
            optimizer.step += getattr(interrupt, "updates", 0)
            raise
        optimizer.step += result.updates
        return result.loss / result.weight if result.weight else float("nan")

    def loss_and_gradient(self, data, alpha):
        """Loss of all rows and its gradient; as the CPU engine's, in `dtype` whatever `precision`.

        Parameters
        ----------
        data : Data
            With targets.
        alpha : float
            Strength of the L2 penalty.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
        """
        weight, order = data.sample_weight, np.arange(data.n_samples)
        total = float(data.n_samples if weight is None else weight.sum())
        batch_size = min(GRADIENT_ROWS, len(order))
        task = Task(self.network, self.dtype, self.dtype.name, batch_size, GRADIENT)
        program = self._program_for(task)
        program.load_moments([np.zeros(self.network.n_parameters, self.dtype)])
        nothing = Optimizer("sgd", 0.0)
        table = make_table(data, order, batch_size, nothing, GRADIENT, 0.0)
        table[table[:, WEIGHT] != 0, WEIGHT] = total  # what δ are divided by
        epoch = self._make_epoch(order, table, batch_size, 0.0)
        result = program.train(self._on_device(data), epoch)
        gradient, penalty = program.store_moments()[0], 0.0
        coefs = self.network.views(program.store_parameters())[0]
        for weights, slope in zip(coefs, self.network.views(gradient)[0], strict=True):
            penalty += float(np.sum(np.square(weights, dtype=np.float64)))
            slope += weights * self.dtype.type(alpha / total)
        return (result.loss + 0.5 * alpha * penalty) / total, gradient

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs; as the CPU engine's `predict`.

        Returns
        -------
        outputs : ndarray of shape (n_rows, n_outputs)
            C-contiguous, in the engine's dtype, which is that of the products too.
        """
        order = np.arange(data.n_samples) if rows is None else rows
        out = np.empty((len(order), self.network.layer_sizes[-1]), self.dtype)
        if len(order) == 0:
            return out
        if self._program is None:
            parameters = self.device.upload(self._parameters)
        else:
            parameters = self._program.flat_parameters()
        predictor = self._predictor_for(len(order))
        on_device = self._uploaded[1] if self._uploaded[0] is data else None
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
        return out

    def _predictor_for(self, n_rows):
        if self._predictor is None or self._predictor.capacity < min(n_rows, MOST_ROWS):
            self._predictor = None  # its memory is free before more is taken
            self._predictor = Predictor(self.device, self.network, self.dtype, n_rows)
        return self._predictor
