"""Forward passes over gathered rows: what training and prediction share."""

import numpy as np

from fastbp.cuda.data import SparseRows
from fastbp.cuda.device import compiled
from fastbp.cuda.formulas import IDENTITY
from fastbp.cuda.generic import masks, tile_products, windows
from fastbp.cuda.generic.layers import lay_out
from fastbp.cuda.generic.tiles import FORMS, choose_form
from fastbp.cuda.toolkit import is_simulated

GATHER_BLOCKS, GATHER_THREADS = 1024, 256
MOST_DOWN = 65_535  # blocks, in a grid's second dimension


class ForwardPass:
    """Passes gathered rows through a network's layers.

    Parameters
    ----------
    device : Device
    network : Network
    dtype : numpy dtype
    capacity : int
        Most rows of a pass.
    n_gathered : int
        Rows that are gathered at once.
    dropout : Dropout or None, default=None

    Attributes
    ----------
    layers : list of Layer
    values : device array
        The gathered inputs, then each layer's outputs.
    state : device array
        See `fastbp.cuda.generic.windows`.
    infinite : device array of shape (1,)
        Not zero once an input was not finite.
    n_deltas : int
        Numbers that the δ of all layers take.
    """

    def __init__(self, device, network, dtype, capacity, n_gathered, dropout=None):
        self.device, self.network, self.dtype = device, network, np.dtype(dtype)
        self.capacity = capacity
        self.threads = 16 if is_simulated() else GATHER_THREADS
        self.layers, n_values, self.n_deltas = lay_out(network, capacity, n_gathered, dropout)
        self.values = device.empty(n_values, self.dtype)
        self.infinite = device.zeros(1, np.int32)
        self.state = device.zeros(windows.STATE_SIZE, np.float64)

    def layer(self, index, first_row):
        """A layer, as it is for a pass over the gathered rows from `first_row` on."""
        layer = self.layers[index]
        return layer if index else layer._replace(inputs=first_row * layer.n_inputs)

    def launch(self, kernel, grid, block, *arguments):
        """Launch a kernel of a registry."""
        self.device.launch(compiled(kernel), grid, block, *arguments)

    def launch_product(self, kind, rows, columns, *arguments):
        """Launch a product whose result has this many rows and columns."""
        name = choose_form(rows, columns, self.dtype, self.device.n_multiprocessors, is_simulated())
        form = FORMS[name]
        down, across = form.tiles(rows, columns)
        slabs = -(-down // MOST_DOWN)
        grid = across, -(-down // slabs), slabs
        self.launch(tile_products.kernel(kind, name, self.dtype), grid, form.threads, *arguments)

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

    def drop_inputs(self, table, n_rows, batch_size):
        """Leave out some of the gathered inputs, of each step its own."""
        first, n_columns = self.layers[0], self.network.layer_sizes[0]
        if first.input_threshold > 0:
            grid = min(-(-n_rows * n_columns // self.threads), GATHER_BLOCKS)
            self.launch(
                masks.drop_inputs, grid, self.threads, table, batch_size, self.values, n_columns,
                n_rows, first.input_threshold, first.seed,
            )  # fmt: skip

    def run(self, parameters, table, step, first_row, n_layers, deltas=None):
        """Pass gathered rows from `first_row` on through layers; the output layer yields logits.

        `deltas` are those of the way back; None where there is none.
        """
        for index in range(n_layers):
            layer = self.layer(index, first_row)
            if index == len(self.layers) - 1:
                layer = layer._replace(activation=IDENTITY)
            if deltas is None:
                layer = layer._replace(deltas=-1, threshold=0)
            self.launch_product(
                "forward", self.capacity, layer.n_outputs, table, step, layer, parameters,
                self.values, self.values if deltas is None else deltas,
            )  # fmt: skip
