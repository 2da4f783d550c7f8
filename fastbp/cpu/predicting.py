"""How the CPU engine predicts: by a team in batches, and a few rows from the flat parameters."""

from functools import reduce
from operator import and_

import numpy as np

from fastbp import activations
from fastbp.cpu.code import kernel_of
from fastbp.cpu.layout import aligned_zeros
from fastbp.cpu.records import FINITENESS, FewRows, Prediction
from fastbp.cpu.team import run_team
from fastbp.cpu.workspace import (
    PredictionBuffers,
    PredictionWeights,
    State,
    make_masks,
    make_memory,
)

PREDICT_ROWS = 128  # rows per batch of a prediction
# Panels that are copied before their use, once in a batch, want large batches: at most so many of
# PREDICT_ROWS together, and so many bytes of inputs and activations.
FLAT_BATCHES, FLAT_BYTES = 8, 2**25
# Tiles are for more rows than these, and for multiply-adds of more bytes, of which a row counts for
# so many besides.
FEW_ROWS, FEW_BYTES, BYTES_PER_ROW = 3, 6 * 2**20, 2**14
FIRST_ROWS = tuple(map(np.arange, range(17)))  # all rows, if there are so many


class PredictingMixin:
    """The methods of `fastbp.cpu.engine.Engine` that predict."""

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs, an array of shape (n_rows, n_outputs)."""
        n_rows = data.n_samples if rows is None else len(rows)
        out = np.empty((n_rows, self.network.layer_sizes[-1]), self.dtype)
        if n_rows == 0:
            self.inputs_were_finite = self.outputs_were_finite = True
            return out
        code = activations.code_of(activation or self.network.output_activation)
        if rows is not None:
            rows = np.ascontiguousarray(rows, np.int64)
        order = rows
        if rows is None:
            order = FIRST_ROWS[n_rows] if n_rows < len(FIRST_ROWS) else np.arange(n_rows)
        if self._are_few(data.X, n_rows):
            bits = self._predict_few(data, order, code, out)
        else:
            bits = self._predict_many(data, order, code, out)
        self.inputs_were_finite, self.outputs_were_finite = FINITENESS[bits]
        return out

    def _predict_many(self, data, order, code, out):
        """Predict rows in batches, into `out`; return what the kernel does."""
        rows = self._rows_of(data.X)
        size = self._team_size(len(order), len(order), rows.density)
        size = min(size, -(-len(order) // PREDICT_ROWS))
        weights = self._weights_to_predict(rows, -(-len(order) // size))
        batch_size = weights.batch_size
        memories, workspaces = self._buffers_to_predict(rows, order, size, weights)
        kernel = kernel_of("predict", self.layout.real, rows.source is None)
        n_batches = self._work.batches_per_call(batch_size, rows.density, learns=False)
        stride, bits = n_batches * batch_size * size, []
        for start in range(0, len(order), stride):
            part, outputs = order[start : start + stride], out[start : start + stride]
            prediction = Prediction(
                batch_size, code, float(data.input_scale), part, outputs, size, weights.flat,
                rows.source,
            )  # fmt: skip
            call = self._pack(prediction, rows)

            # Addresses do not keep what they point to: a rank may outlive an interrupted caller.
            def member(rank, call=call, held=(self, data)):
                bits.append(
                    kernel(call.address, memories[rank].address, workspaces[rank].address, rank)
                )

            run_team(size, member, memories[0].record.control, self._at_work)
        return reduce(and_, bits)

    def _weights_to_predict(self, rows, n_rows):
        """Where a prediction of `n_rows` by each thread finds the parameters.

        Those that are not packed yet, as an estimator's, are not packed for one large batch or two,
        which takes longer than to copy a panel before its use; nor for sparse rows, which need the
        first layer's weights of their entries only.
        """
        layout, nothing, batch_size = self.layout, self._nothing, min(PREDICT_ROWS, n_rows)
        if self._flat is not None and not self.network.extra_shapes:
            n_batches = self._work.batches_per_call(PREDICT_ROWS, rows.density, learns=False)
            numbers = layout.n_units + layout.input_stride * rows.are_gathered  # of a row
            fitting = FLAT_BYTES // (numbers * self.dtype.itemsize) // PREDICT_ROWS
            flat_rows = PREDICT_ROWS * max(1, min(FLAT_BATCHES, n_batches, fitting))
            if n_rows <= 2 * flat_rows or not rows.are_gathered:
                return PredictionWeights(
                    min(flat_rows, n_rows), nothing, nothing, layout.one_panel_table, self._flat
                )
        layers = layout.table.ravel()
        return PredictionWeights(batch_size, self.weights, self._scaled, layers, nothing)

    def _buffers_to_predict(self, rows, order, size, weights):
        """What each thread predicts in: the last prediction's where it fits, as in each epoch."""
        buffers, batch_size, is_flat = (
            self._prediction_buffers, weights.batch_size, weights.flat.size > 0
        )  # fmt: skip
        wanted = rows, batch_size, size, weights.padded, weights.scaled
        if buffers and not is_flat and buffers.fit(*wanted):
            return buffers.memories, buffers.workspaces
        workspaces = self._workspaces(rows, order, batch_size, size, learns=False)
        state, masks = State(*[self._nothing] * len(State._fields)), make_masks(None)
        memories, padded = [], weights.padded
        room = self.layout.one_panel_size(first_layer=0 if rows.are_gathered else 1)
        for _ in range(size):
            if is_flat:
                padded = aligned_zeros(room, self.dtype)
            memory = make_memory(
                self.layout, padded, weights.scaled, state, masks, batch_size, learns=False
            )
            memories.append(self._pack(memory._replace(layers=weights.layers), rows))
        buffers = PredictionBuffers(*wanted, memories, workspaces)
        keeps = self.is_entered and not is_flat and buffers.are_small()
        self._prediction_buffers = buffers if keeps else None
        return memories, workspaces

    def _are_few(self, X, n_rows):
        """Whether to predict rows one by one, straight from the flat parameters."""
        if self._flat is None or self.network.extra_shapes:
            return False
        if n_rows <= FEW_ROWS:
            return True
        rows = self._rows_of(X)
        work = self._work.of_rows(n_rows, rows.density)
        return work * self.dtype.itemsize + n_rows * BYTES_PER_ROW <= FEW_BYTES

    def _predict_few(self, data, order, code, out):
        """Predict a few rows straight from the flat parameters, likewise."""
        widest = self.layout.widest
        working = np.empty(2 * widest + out.shape[1] * self.layout.lanes, self.dtype)
        rows = self._rows_of(data.X)
        (entries,) = rows.make_entries(order, self.layout.lanes, 1, self.dtype, learns=False)
        few = FewRows(
            self._flat, self.layout.table_place, float(data.input_scale), code, order, out, working,
            widest, rows.source, entries,
        )  # fmt: skip
        call = self._pack(few, rows)
        return kernel_of("predict_few", self.layout.real, rows.source is None)(call.address)
