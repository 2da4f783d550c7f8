"""The three products of every layer, launched, each with the tile that is likely to be fastest.

For every layer, row by row with H its inputs, W and b its parameters, and Δ of its outputs:

========  =====================================================================
forward   f(H W + b), the next layer's inputs
backward  (Δ Wᵀ) ⊙ f′(H), the Δ of the layer before, and its sums over some rows
update    Hᵀ Δ, the gradient, and what the optimizer makes of it
========  =====================================================================

The kernels are those of `fastbp.cuda.wide.layer_kernels`.
"""

from fastbp.cuda import formulas
from fastbp.cuda.wide import layer_kernels
from fastbp.cuda.wide.matrices import ceil_divide
from fastbp.cuda.wide.operands import PADDING_ROWS, Tile

# With how well a tile keeps the tensor cores busy, about, as its shared memory traffic has it.
TILES = {
    Tile(4, 8, 2, 4, stages=4): 1.0,
    Tile(4, 8, 2, 4, stages=3): 0.98,
    Tile(4, 4, 2, 4, stages=4): 0.8,
    Tile(4, 4, 2, 4, stages=3): 0.78,
    Tile(2, 4, 2, 2, stages=4): 0.5,
}
_STATIC_SHARED_MEMORY = 8 * max(tile.threads for tile in TILES)  # of a sum over the block


def choose_tile(rows, columns, n_multiprocessors, shared_memory):
    """The tile with which a product of this size is likely to be done first."""

    def cost(tile):
        blocks = ceil_divide(rows, tile.rows) * ceil_divide(columns, tile.columns)
        return ceil_divide(blocks, n_multiprocessors) * tile.rows * tile.columns / TILES[tile]

    available = shared_memory - _STATIC_SHARED_MEMORY
    return min((tile for tile in TILES if tile.shared_memory <= available), key=cost)


def choose_tiles(task, gpu):
    """The tiles of every layer's products, by their names.

    Parameters
    ----------
    task : Task
        In a trial, the larger task that it stands for decides.
    gpu : Device or Gpu
    """
    task = task.stands_for or task
    batch, shapes = task.batch_size, task.network.shapes
    products = {
        "forward": [(batch, n) for _, n in shapes],
        "backward": [(batch, m) for m, _ in shapes],
        "gradient": shapes,
    }
    return {
        name: [choose_tile(*sizes, gpu.n_multiprocessors, gpu.shared_memory) for sizes in some]
        for name, some in products.items()
    }


class LayerProducts:
    """Launches the products of a task's layers.

    Parameters
    ----------
    matrices : Matrices

    Attributes
    ----------
    sums : list of Matrix
        Float32, the sums of each layer's Δ over groups of `rows_a_sum` rows: a row a group.
    """

    def __init__(self, matrices):
        self.matrices = matrices
        self.tiles = choose_tiles(matrices.task, matrices.device)
        batch = matrices.task.batch_size
        self.sums = [
            matrices.matrix(ceil_divide(batch, self.rows_a_sum(index)), n, 4)
            for index, n in enumerate(matrices.sizes[1:])
        ]

    def rows_a_sum(self, index):
        """Rows of a layer's Δ that are summed to one; of the last layer, the program does."""
        backward = self.tiles["backward"][index + 1 :]
        return backward[0].rows if backward else PADDING_ROWS

    def n_penalties(self, index):
        """How many parts of ‖W‖² `update` writes."""
        columns, rows = self._grid(self.tiles["gradient"][index], *self.matrices.shape(index))
        return rows * columns

    def _grid(self, tile, rows, columns):
        return ceil_divide(columns, tile.columns), ceil_divide(rows, tile.rows)

    def _launch(self, function, tile, rows, columns, layer):
        self.matrices.launch(
            function, self._grid(tile, rows, columns), tile.threads, self.matrices.state_address,
            layer, shared_memory=tile.shared_memory,
        )  # fmt: skip

    def forward(self, index, layer):
        """Compute the outputs of a hidden layer."""
        self._forward(index, layer, self.matrices.activation(index))

    def logits(self, index, layer):
        """Compute the last layer's H W + b, as float32."""
        self._forward(index, layer, formulas.IDENTITY, rounds=False)

    def _forward(self, index, layer, activation, rounds=True):
        task, tile = self.matrices.task, self.tiles["forward"][index]
        kernel = layer_kernels.make_forward(task.precision, tile, activation, rounds)
        self._launch(kernel, tile, task.batch_size, layer.n_outputs, layer)

    def backward(self, index, layer):
        """Compute the Δ of the layer before, and `sums` of it."""
        task, tile = self.matrices.task, self.tiles["backward"][index]
        activation = self.matrices.activation(index - 1)
        kernel = layer_kernels.make_backward(task.precision, tile, activation)
        self._launch(kernel, tile, task.batch_size, layer.n_inputs, layer)

    def update(self, index, layer):
        """Update weights, their rounded copy and biases."""
        task, tile = self.matrices.task, self.tiles["gradient"][index]
        kernel = layer_kernels.make_gradient(task.precision, tile, task.rule)
        self._launch(kernel, tile, layer.n_inputs, layer.n_outputs, layer)
