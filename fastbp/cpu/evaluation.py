"""What an engine keeps between evaluations of the loss and its gradient, as L-BFGS makes them.

For a small network it takes longer to find where things are than to compute with them.
"""

import numpy as np

from fastbp.cpu.layout import aligned_zeros
from fastbp.cpu.records import LOSS, RESULT_SIZE
from fastbp.cpu.workspace import GradientSums
from fastbp.schedules import gradient_steps

GRADIENT_ROWS = 256  # rows per batch


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
        self._layout, self._weights, self.sums, self.calls = layout, weights, None, None

    def begin(self, flat):
        """Pack the parameters, unless they are None, and clear the sums."""
        if flat is not None:
            self._layout.pack(flat, self._weights)
        self.moments[0][...] = self.result[...] = 0
        if self._layout.dtype == np.float32:
            self.sums = GradientSums(self.moments[0])

    def end(self):
        """Return the loss, and its gradient as a new flat vector."""
        loss = float(self.result[LOSS] / self._total_weight)
        total = self.moments[0] if self.sums is None else self.sums.total()
        return loss, self._layout.unpack(total)
