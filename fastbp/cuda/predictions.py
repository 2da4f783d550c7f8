"""Outputs of rows, by the forward kernels of the general program."""

import numpy as np

from fastbp.activations import code_of
from fastbp.cuda.generic import output_layer, windows
from fastbp.cuda.generic.forward_pass import ForwardPass
from fastbp.cuda.toolkit import is_simulated
from fastbp.schedules import ROWS, TABLE_WIDTH, WEIGHT

MOST_ROWS = 4096
MOST_BYTES = 256 * 2**20


class Predictor:
    """Passes rows through a network, some at a time.

    Parameters
    ----------
    device : Device
    network : Network
    dtype : numpy dtype
    n_rows : int
        Rows wanted; `capacity` is how many it takes at a time.
    """

    def __init__(self, device, network, dtype, n_rows):
        row_bytes = sum(network.layer_sizes) * np.dtype(dtype).itemsize
        self.capacity = max(1, min(n_rows, MOST_ROWS, MOST_BYTES // row_bytes))
        self.device, self.network = device, network
        self._forward_pass = ForwardPass(device, network, dtype, self.capacity, self.capacity)
        self._order = device.empty(self.capacity, np.int32)
        self._table = device.empty(TABLE_WIDTH, np.float64)

    def run(self, parameters, data, order, activation):
        """Compute the outputs of at most `capacity` rows.

        Parameters
        ----------
        parameters : device array of shape (n_parameters,)
        data : DeviceData
        order : ndarray of shape (n_rows,)
        activation : str
            Of the output layer.

        Returns
        -------
        outputs : ndarray of shape (n_rows, n_outputs)
        were_finite : bool
            Whether all inputs were.
        """
        forward_pass, device = self._forward_pass, self.device
        n_rows, n_layers = len(order), len(forward_pass.layers)
        table, state = np.zeros(TABLE_WIDTH), np.zeros(windows.STATE_SIZE)
        table[WEIGHT] = table[ROWS] = state[windows.N_ROWS] = n_rows
        device.write(self._table, table)
        device.write(forward_pass.state, state)
        device.write(forward_pass.infinite, np.zeros(1, np.int32))
        device.write(self._order, order)
        forward_pass.gather(data, self._order, n_rows, n_rows)
        forward_pass.run(parameters, self._table, 0, 0, n_layers)
        last = forward_pass.layers[-1]
        threads = 16 if is_simulated() else 128
        forward_pass.launch(
            output_layer.activate_rows, -(-n_rows // threads), threads, forward_pass.values,
            last.outputs, n_rows, last.n_outputs, code_of(activation),
        )  # fmt: skip
        size = n_rows * last.n_outputs
        values = device.read(forward_pass.values[last.outputs : last.outputs + size])
        were_finite = not device.read(forward_pass.infinite)[0]
        return values.reshape(n_rows, last.n_outputs), were_finite
