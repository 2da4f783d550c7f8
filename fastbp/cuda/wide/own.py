"""fastbp's own products on tensor cores, launched: nothing need be installed for them.

The kernels are those of `fastbp.cuda.wide.layers`; what is chosen here is each product's tile.
"""

from itertools import pairwise

from fastbp.cuda import formulas
from fastbp.cuda.wide import layers
from fastbp.cuda.wide.layerwise import LayerProducts
from fastbp.cuda.wide.memory import ceil_divide
from fastbp.cuda.wide.products import PADDING_ROWS, STEP_BYTES, Tile

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


class OwnProducts(LayerProducts):
    """Each product a kernel, with what follows it fused in; see `LayerProducts`."""

    def __init__(self, memory):
        batch, sizes = memory.task.batch_size, memory.sizes
        shapes = {
            "forward": lambda m, n: (batch, n),
            "backward": lambda m, n: (batch, m),
            "gradient": lambda m, n: (m, n),
        }
        gpu = memory.device.n_multiprocessors, memory.device.shared_memory
        self.tiles = {
            name: [choose_tile(*shape(m, n), *gpu) for m, n in pairwise(sizes)]
            for name, shape in shapes.items()
        }
        super().__init__(memory)

    def rows_a_sum(self, index):
        backward = self.tiles["backward"][index + 1 :]
        return backward[0].rows if backward else PADDING_ROWS

    def n_penalties(self, index):
        columns, rows = self._grid(self.tiles["gradient"][index], *self.memory.shape(index))
        return rows * columns

    def load_parameters(self):
        pass

    def _grid(self, tile, rows, columns):
        return ceil_divide(columns, tile.columns), ceil_divide(rows, tile.rows)

    def _launch(self, function, tile, rows, columns, *arguments):
        self.memory.launch(
            function, self._grid(tile, rows, columns), tile.threads, self.memory.state_address,
            *arguments, shared_memory=tile.shared_memory,
        )  # fmt: skip

    def _n_steps(self, n):
        """Steps of a product that sums n numbers."""
        return ceil_divide(n * self.memory.item_size, STEP_BYTES)

    def forward(self, index, rows):
        self._forward(index, rows, self.memory.activation(index), self.memory.values[index + 1])

    def logits(self, rows, target):
        self._forward(self.memory.n_layers - 1, rows, formulas.IDENTITY, target, rounds=False)

    def _forward(self, index, rows, activation, target, rounds=True):
        memory, tile = self.memory, self.tiles["forward"][index]
        m, n = memory.shape(index)
        kernel = layers.make_forward(memory.task.precision, tile, activation, rounds)
        self._launch(
            kernel, tile, rows, n, *memory.values[index].place, *memory.rounded[index].place,
            self._n_steps(m), memory.bias(index), *target.place, n,
        )  # fmt: skip

    def backward(self, index, rows):
        memory, tile = self.memory, self.tiles["backward"][index]
        m, n = memory.shape(index)
        kernel = layers.make_backward(memory.task.precision, tile, memory.activation(index - 1))
        self._launch(
            kernel, tile, rows, m, *memory.deltas[index].place, *memory.rounded[index].place,
            self._n_steps(n), memory.values[index].address, *memory.deltas[index - 1].place,
            *self.sums[index - 1].place,
        )  # fmt: skip

    def update(self, index, rows, penalties):
        memory, tile = self.memory, self.tiles["gradient"][index]
        m, n = memory.shape(index)
        self._launch(
            layers.make_gradient(memory.task.precision, tile, memory.task.rule), tile, m, n,
            *memory.values[index].place, *memory.deltas[index].place, *memory.weights(index),
            *memory.rounded[index].place, m, n, *self.sums[index].place, self.rows_a_sum(index),
            penalties,
        )  # fmt: skip
