"""Products by cuBLASLt, the kernels of `fastbp.cuda.wide.elementwise` behind them.

cuBLASLt adds the biases, and cuts at zero for relu; a gradient exists in memory, as float32. All
other results are operands of the next product and come in its type. So in bfloat16 sums that an
activation or its slope follows are rounded once more than by fastbp's own kernels; and in tf32
cuBLASLt itself rounds what relu and identity leave.

The matrices' padding is zero and takes part, so that every row is whole pieces of 16 bytes.
"""

from itertools import pairwise

import numpy as np

from fastbp.cuda import formulas
from fastbp.cuda.wide import elementwise, library
from fastbp.cuda.wide.elementwise import BLOCK_ROWS, COLUMNS, ROWS_A_SUM, THREADS
from fastbp.cuda.wide.layerwise import LayerProducts
from fastbp.cuda.wide.memory import Matrix, ceil_divide, round_up
from fastbp.cuda.wide.products import PADDING, PADDING_ROWS

PIECE = 8  # numbers: 16 bytes of bfloat16


class CublasLtProducts(LayerProducts):
    """Each product a plan, made when it is first wanted; see `LayerProducts`."""

    exact_rows = True

    def __init__(self, memory):
        super().__init__(memory)
        self.precision = memory.task.precision
        self.kind = library.TYPES[self.precision]
        device, shapes = memory.device, list(pairwise(memory.sizes))
        self.workspace = Matrix(device.empty(library.WORKSPACE_BYTES, np.uint8), 0)
        n_bytes = max(round_up(m, PIECE) * self._gradient_pitch(n) for m, n in shapes)
        self.gradient = device.empty(n_bytes, np.uint8)  # of one layer after the other
        # cuBLASLt adds biases of the result's type.
        self.biases = None
        if self.precision == "bfloat16":
            self.biases = [memory.matrix(1, n, memory.item_size) for _, n in shapes]
        self._plans = {}

    def rows_a_sum(self, index):
        return ROWS_A_SUM if index < self.memory.n_layers - 1 else PADDING_ROWS

    def n_penalties(self, index):
        columns, rows = self._update_grid(index)
        return columns * rows

    def load_parameters(self):
        for index in range(self.memory.n_layers if self.biases else 0):
            target, n = self.biases[index].place, self.memory.sizes[index + 1]
            self.memory.round((self.memory.bias(index), 0), target, 1, n)

    def _gradient_pitch(self, columns):
        return round_up(columns, PADDING) * 4

    def _update_grid(self, index):
        m, n = self.memory.shape(index)
        return ceil_divide(n, COLUMNS), ceil_divide(m, BLOCK_ROWS)

    # ---- plans --------------------------------------------------------------------------------

    def _plan(self, name, index, rows, make):
        """The plan of a layer's product for so many rows, made once."""
        key = name, index, rows
        if key not in self._plans:
            self._plans[key] = make()
        return self._plans[key]

    def _make(self, a, b, c, **options):
        return library.Plan(
            self.memory.device, self.precision, a, b, c, self.workspace.address, **options
        )

    def _operand(self, matrix, rows, columns, kind=None):
        return library.Operand(matrix.place, rows, round_up(columns, PIECE), kind or self.kind)

    def _inputs(self, index, rows):
        return self._operand(self.memory.values[index], rows, self.memory.sizes[index])

    def _deltas(self, index, rows):
        return self._operand(self.memory.deltas[index], rows, self.memory.sizes[index + 1])

    def _weights(self, index):
        m, n = self.memory.shape(index)
        return self._operand(self.memory.rounded[index], round_up(m, PIECE), n)

    # ---- products -----------------------------------------------------------------------------

    def forward(self, index, rows):
        memory, activation = self.memory, self.memory.activation(index)
        bias = self.biases[index].address if self.biases else memory.bias(index)
        epilogue = "RELU_BIAS" if activation == formulas.RELU else "BIAS"
        self._plan(
            "forward", index, rows,
            lambda: self._make(
                self._inputs(index, rows), self._weights(index), self._inputs(index + 1, rows),
                epilogue=epilogue, bias=bias,
            ),
        )()  # fmt: skip
        if activation in (formulas.RELU, formulas.IDENTITY):
            return
        n = memory.sizes[index + 1]
        memory.launch(
            elementwise.make_activate(self.precision, activation),
            (ceil_divide(n, COLUMNS), ceil_divide(rows, BLOCK_ROWS)), THREADS,
            memory.state_address, *memory.values[index + 1].place, n,
        )  # fmt: skip

    def logits(self, rows, target):
        last = self.memory.n_layers - 1
        n = self.memory.sizes[-1]
        self._plan(
            "logits", last, rows,
            lambda: self._make(
                self._inputs(last, rows), self._weights(last),
                self._operand(target, rows, n, "CUDA_R_32F"),
                epilogue="BIAS", bias=self.memory.bias(last),
            ),
        )()  # fmt: skip

    def backward(self, index, rows):
        memory, m = self.memory, self.memory.sizes[index]
        self._plan(
            "backward", index, rows,
            lambda: self._make(
                self._deltas(index, rows), self._weights(index), self._deltas(index - 1, rows),
                transposed=(False, True),
            ),
        )()  # fmt: skip
        memory.launch(
            elementwise.make_slopes(self.precision, memory.activation(index - 1)),
            (ceil_divide(m, COLUMNS), ceil_divide(rows, ROWS_A_SUM)), THREADS,
            memory.state_address, memory.deltas[index - 1].address, *memory.values[index].place, m,
            *self.sums[index - 1].place,
        )  # fmt: skip

    def update(self, index, rows, penalties):
        memory, (m, n) = self.memory, self.memory.shape(index)
        gradient = Matrix(self.gradient, self._gradient_pitch(n))
        self._plan(
            "gradient", index, rows,
            lambda: self._make(
                self._inputs(index, rows), self._deltas(index, rows),
                self._operand(gradient, round_up(m, PIECE), n, "CUDA_R_32F"),
                transposed=(True, False),
            ),
        )()  # fmt: skip
        rounds_biases = self.biases is not None
        biases = self.biases[index].address if rounds_biases else 0
        memory.launch(
            elementwise.make_update_weights(self.precision, memory.task.rule, rounds_biases),
            self._update_grid(index), THREADS, memory.state_address, *gradient.place,
            *memory.weights(index), *memory.rounded[index].place, m, n, *self.sums[index].place,
            self.rows_a_sum(index), biases, penalties,
        )  # fmt: skip
