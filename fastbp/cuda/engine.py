"""The CUDA engine: the verbs that the training loop knows, over programs on a GPU.

What a program is, what it gets and what it returns: `fastbp.cuda.program`. Which one serves a task:
`fastbp.cuda.choice`. What goes up to the device: `fastbp.cuda.data`.
"""

import numpy as np

from fastbp.cuda.choice import choose
from fastbp.cuda.data import DeviceData, Epoch, make_table
from fastbp.cuda.device import Device
from fastbp.cuda.task import Task, rule_of
from fastbp.optimizers import N_MOMENTS


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

    def _make_epoch(self, data, order, batch_size, optimizer, alpha):
        """Lay out an epoch and bring it to the device, always to the same arrays."""
        table = make_table(data, order, batch_size, optimizer, rule_of(optimizer), alpha)
        size = len(table) * batch_size
        if size not in self._epoch_arrays:
            arrays = self.device.empty(size, np.int32), self.device.empty(table.shape, table.dtype)
            self._epoch_arrays = {size: arrays}
        on_device = self._epoch_arrays[size]
        self.device.write(on_device[0], order)
        self.device.write(on_device[1], table)
        return Epoch(
            *on_device, table, float(alpha), float(optimizer.momentum), float(optimizer.beta_1),
            float(optimizer.beta_2), float(optimizer.epsilon),
        )  # fmt: skip

    def _program_for(self, task):
        """The program of a task: the present one, or a new one that takes over its state."""
        if self._program is None or self._program.task != task:
            parameters, moments = self.store_parameters(), self._moments
            if self._program is not None:
                moments = self._program.store_moments()
            self._program = None  # its memory is free before more is taken
            program = choose(task, self.device).load()(self.device, task)
            program.load_parameters(parameters)
            program.load_moments(moments)
            self._program = program
        return self._program

    # ---- verbs --------------------------------------------------------------------------------

    def train_epoch(self, data, order, batch_size, optimizer, alpha):
        """Go through some rows once, in batches; as the CPU engine's `train_epoch`."""
        batch_size = min(int(batch_size), len(order))
        task = Task(self.network, self.dtype, self.precision, batch_size, rule_of(optimizer))
        program = self._program_for(task)
        epoch = self._make_epoch(data, order, batch_size, optimizer, alpha)
        result = program.train(self._on_device(data), epoch)
        optimizer.step += result.updates
        return result.loss / result.weight if result.weight else float("nan")
