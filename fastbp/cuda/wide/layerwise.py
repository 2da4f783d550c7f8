"""What the wide program asks of its products; fastbp's own and cuBLASLt's both give it.

For every layer, row by row with H its inputs, W and b its parameters, and Δ behind it:

========  =====================================================================
forward   f(H W + b), the next layer's inputs
backward  (Δ Wᵀ) ⊙ f′(H), the Δ of the layer before, and its sums over some rows
update    Hᵀ Δ, the gradient, and what the optimizer makes of it
========  =====================================================================
"""

from abc import ABC, abstractmethod

from fastbp.cuda.wide.memory import ceil_divide


class LayerProducts(ABC):
    """Products of a task's layers, each with what follows it.

    Parameters
    ----------
    memory : Memory

    Attributes
    ----------
    exact_rows : bool
        Whether a step must be told its number of rows, so that a last, short batch is recorded by
        itself; else kernels find it in the state, and are told the batch size.
    sums : list of Matrix
        Float32, the sums of each layer's Δ over groups of `rows_a_sum` rows: a row a group.
    """

    exact_rows = False

    def __init__(self, memory):
        self.memory = memory
        batch, sizes = memory.task.batch_size, memory.sizes[1:]
        self.sums = [
            memory.matrix(ceil_divide(batch, self.rows_a_sum(index)), n, 4)
            for index, n in enumerate(sizes)
        ]

    @abstractmethod
    def rows_a_sum(self, index):
        """Rows of Δ behind a layer that are summed to one; of the last layer, the program does."""

    @abstractmethod
    def n_penalties(self, index):
        """How many parts of ‖W‖² `update` writes."""

    @abstractmethod
    def load_parameters(self):
        """Take notice of parameters that have come into the masters and their rounded copies."""

    @abstractmethod
    def forward(self, index, rows):
        """Compute the outputs of a hidden layer."""

    @abstractmethod
    def logits(self, rows, target):
        """Compute the last layer's H W + b, as float32, into a matrix."""

    @abstractmethod
    def backward(self, index, rows):
        """Compute the Δ of the layer before, and `sums` of it."""

    @abstractmethod
    def update(self, index, rows, penalties):
        """Update weights, their rounded copy and biases; `penalties` is an address."""
