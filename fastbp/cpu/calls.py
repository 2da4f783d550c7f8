"""The calls of the kernel in which a team trains on some rows once."""

import math

from fastbp.cpu.code import kernel_of
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import IN_BFLOAT16, Training
from fastbp.cpu.workspace import GROUP_BATCHES, NO_FACTORS
from fastbp.optimizers import code_of


class Calls:
    """What a team is to do, cut into calls short enough to respond to Ctrl-C.

    Parameters
    ----------
    buffers : fastbp.cpu.workspace.TrainingBuffers
        That the team trains in.
    order : ndarray of shape (n_rows,), dtype int64
        Rows of `buffers.data`.
    steps : fastbp.schedules.Steps
    result : ndarray of shape (RESULT_SIZE,)
    adds_up : bool
        Whether no call goes beyond one of the groups of batches of `GradientSums`.

    Attributes
    ----------
    buffers : fastbp.cpu.workspace.TrainingBuffers
    parts : list of tuple
        For each call its number, its rows and its rows of the step table: as many whole batches as
        it may take.
    """

    def __init__(self, buffers, order, steps, result, adds_up):
        self.buffers, self._result = buffers, result
        self._kernel = kernel_of("train", buffers.real, buffers.source is None)
        bound = math.inf if steps.max_grad_norm is None else float(steps.max_grad_norm)
        input_scale = float(buffers.data.input_scale)
        self._plan = code_of(steps.rule), steps.alpha, input_scale, bound
        self._factors = NO_FACTORS if steps.factors is None else steps.factors.ravel()
        self._packed = {}  # by number and team size
        self.parts = self._cut(order, steps.table, GROUP_BATCHES if adds_up else len(steps.table))

    def _cut(self, order, table, group):
        most, rows, cuts = self.buffers.batches_per_call, self.buffers.batch_size, []
        for start in range(0, len(table), group):
            end = min(start + group, len(table))
            stride = -(-(end - start) // -(-(end - start) // most))  # of batches
            cuts += [(first, min(first + stride, end)) for first in range(start, end, stride)]
        return [
            (number, order[first * rows : last * rows], table[first:last])
            for number, (first, last) in enumerate(cuts)
        ]

    def member(self, number, size, held):
        """What each rank of a team calls.

        Parameters
        ----------
        number : int
            Of the call.
        size : int
            Of the team.
        held : object
            What addresses point to and do not keep: a rank may outlive an interrupted caller.
        """
        call = self.packed(number, size)
        kernel, memory = self._kernel, self.buffers.memory
        workspaces = self.buffers.workspaces

        def member(rank, held=(call, held)):
            kernel(call.address, memory.address, workspaces[rank].address, rank)

        return member

    def packed(self, number, size):
        """What the kernel reads in a call."""
        call = self._packed.get((number, size))
        if call is None:
            call = self._packed[number, size] = self._pack(number, size)
        return call

    def _pack(self, number, size):
        _, order, table = self.parts[number]
        buffers = self.buffers
        # At first; they are kept by every update.
        makes_pairs = number == 0 and buffers.real in IN_BFLOAT16
        training = Training(
            buffers.objective, *self._plan, table, self._factors, order, self._result, size,
            makes_pairs, buffers.source,
        )  # fmt: skip
        return Packed(training, buffers.real, buffers.source is None)
