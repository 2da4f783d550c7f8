"""What an engine keeps between evaluations of the loss and its gradient, as L-BFGS makes them.

For a small network it takes longer to find where things are than to compute with them.
"""

import numpy as np

from fastbp.cpu.layout import aligned_zeros
from fastbp.cpu.packing import address_of
from fastbp.cpu.records import LOSS, RESULT_SIZE
from fastbp.cpu.workspace import GradientSums
from fastbp.schedules import gradient_steps

GRADIENT_ROWS = 256  # rows per batch


class Pieces:
    """The pieces of one padded vector beside their places in any flat one.

    Parameters
    ----------
    layout : Layout
    padded : ndarray of shape (n_weights,)
    """

    def __init__(self, layout, padded):
        self._n_parameters, self._dtype = layout.network.n_parameters, layout.dtype
        flat = np.empty(self._n_parameters, self._dtype)
        start = address_of(flat)
        self._pieces = [
            (inside, outside.shape, address_of(outside) - start, outside.strides)
            for inside, outside in layout.pieces(padded, flat)
            if outside.size
        ]

    def pack(self, flat):
        """Copy a flat vector, contiguous and of the layout's dtype, into the padded one."""
        for inside, shape, start, strides in self._pieces:
            inside[...] = np.ndarray(shape, self._dtype, flat, start, strides)

    def unpack(self):
        """Copy the padded vector into a new flat one."""
        flat = np.empty(self._n_parameters, self._dtype)
        for inside, shape, start, strides in self._pieces:
            np.ndarray(shape, self._dtype, flat, start, strides)[...] = inside
        return flat


class Evaluation:
    """The loss of all rows of some data, and its gradient.

    Parameters
    ----------
    layout : Layout
    weights : ndarray of shape (n_weights,)
        The engine's.
    data : Data

    Attributes
    ----------
    data : Data
    order : ndarray of shape (n_rows,)
    steps : Steps
    moments : list of ndarray
        One, in which the kernel adds up the gradient.
    result : ndarray of shape (RESULT_SIZE,)
    sums : GradientSums or None
    calls : fastbp.cpu.calls.Calls or None
        Those of the last one.
    """

    def __init__(self, layout, weights, data):
        self.data, self.order = data, np.arange(data.n_samples)
        self.steps, self._total_weight = gradient_steps(data, GRADIENT_ROWS)
        self.moments = [aligned_zeros(layout.n_weights, layout.dtype)]
        self.result = aligned_zeros(RESULT_SIZE, np.float64)
        self._layout, self.sums, self.calls = layout, None, None
        self._weights = Pieces(layout, weights)
        self._gradient = Pieces(layout, self.moments[0])

    def begin(self, flat):
        """Pack the parameters, unless they are None, and clear the sums."""
        if flat is not None:
            self._weights.pack(flat)
        self.moments[0][...] = self.result[...] = 0
        if self._layout.dtype == np.float32:
            self.sums = GradientSums(self.moments[0])

    def end(self):
        """Return the loss, and its gradient as a new flat vector."""
        loss = float(self.result[LOSS] / self._total_weight)
        total = self.moments[0] if self.sums is None else self.sums.total()
        if total is self.moments[0]:
            return loss, self._gradient.unpack()
        return loss, self._layout.unpack(total)
