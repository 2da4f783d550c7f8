"""The CPU engine: one network's memory, and the methods of `fastbp.engine.Engine`."""

import math
import os
from functools import cached_property, lru_cache
from math import isfinite
from time import perf_counter, process_time
from weakref import WeakSet

import numpy as np
from scipy.sparse import issparse

from fastbp import activations, losses
from fastbp.cpu import code
from fastbp.cpu.calls import Calls
from fastbp.cpu.epochs import train_epochs
from fastbp.cpu.evaluation import Evaluation
from fastbp.cpu.layout import Layout, aligned_zeros
from fastbp.cpu.packing import Packed, address_of
from fastbp.cpu.predicting import PredictingMixin
from fastbp.cpu.records import (
    BFLOAT16_AMX,
    IN_BFLOAT16,
    LOSS,
    RESULT_SIZE,
    TOTAL_WEIGHT,
    UPDATES,
    Objective,
)
from fastbp.cpu.rows import Rows, source_of
from fastbp.cpu.team import end_teams, run_team
from fastbp.cpu.work import Trials, Work
from fastbp.cpu.workspace import (
    BrokenBatch,
    State,
    TrainingBuffers,
    make_masks,
    make_memory,
    make_workspace,
)
from fastbp.threads import available_threads, cores_at_hand

# Engines whose context is entered: concurrent fits share the cores. Weak, because Ctrl-C may come
# after `__enter__` and before the `with` block that would call `__exit__`.
_active = WeakSet()


def _forget_active():
    """In a forked child: the threads that had entered engines are not here."""
    global _active
    _active = WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_active)

# Layouts are immutable, and making one takes as long as predicting a row.
_layout_of = lru_cache(maxsize=64)(Layout)


class Engine(PredictingMixin):
    """One network's parameters and working memory on the CPU.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
    n_threads : int or None, default=None
        Most threads in the team; None takes the cores that are available. The team is smaller where
        there are fewer cores, where a batch has too little work, where other Python threads have
        entered engines in this process, and where training measures that fewer are faster. Results
        do not depend on it.
    precision : {"bfloat16"} or None, default=None
        Of the products in training, where it is not the dtype, which is float32 then.

    Raises
    ------
    MemoryError
        If the padded parameters do not fit into memory.
    """

    def __init__(self, network, dtype, n_threads=None, precision=None):
        self.dtype = np.dtype(dtype)
        self.precision = precision or self.dtype.name
        self._kernel_precision = code.precision_of_kernels(self.precision)
        self.n_threads = n_threads
        self.layout = _layout_of(network, self.dtype)
        self.network = self.layout.network  # an equal one, whose sizes were checked
        self._flat = None  # parameters not yet packed into panels
        self._nothing = np.zeros(0, self.dtype)
        self.inputs_were_finite = self.outputs_were_finite = True  # at the last prediction
        self.moments = []
        self._pairs = None  # of weights, for products in bfloat16
        self._scaled = self._nothing  # the first dense layer's weights times the inputs' scales
        self._gradient = self._nothing  # where its norm is bounded
        self._work = Work(network)
        self._at_work = []  # the team, if an interrupt has left it there
        self._broken = None  # a `BrokenBatch`, while there is one
        self._rows = []  # of the last two X: that of training, and validation rows
        self._trials = None  # of the last epoch's team
        self._buffers = None  # of the last epoch, if they are small, or of evaluations
        self._evaluation = None  # of the last `loss_and_gradient`
        self._prediction_buffers = None  # of the last prediction, likewise

    def __enter__(self):
        _active.add(self)
        return self

    @property
    def is_entered(self):
        """Whether it is in use, so that what it keeps may be wanted again."""
        return self in _active

    def __exit__(self, *exception):
        _active.discard(self)
        self._buffers = self._prediction_buffers = self._evaluation = None

    # ---- parameters and optimizer state -------------------------------------------------------

    def load_parameters(self, parameters):
        """Set the parameters from a flat vector in the network's order.

        It is copied at its first use, and must not change before.
        """
        self._flat = np.ascontiguousarray(parameters, self.dtype)

    def store_parameters(self):
        """Return a copy of the parameters as a flat vector of shape (n_parameters,)."""
        self._end_teams()
        return self.layout.unpack(self.weights)

    @cached_property
    def _padded(self):
        return aligned_zeros(self.layout.n_weights, self.dtype)

    @property
    def weights(self):
        """The parameters in panels, as the tiles read them."""
        if self._flat is not None:
            self._pack_parameters()
        return self._padded

    def _pack_parameters(self):
        self._end_teams()
        self.layout.pack(self._flat, self._padded)
        if self.network.has_scales:
            if not self._scaled.size:
                self._scaled = self.layout.room_for_scaled()
            self.layout.scale(self._padded, self._scaled)
        self._flat = None

    def load_moments(self, moments):
        """Set the optimizer's moments from a list of flat vectors."""
        self.moments = []
        for moment in moments:
            self.moments.append(aligned_zeros(self.layout.n_weights, self.dtype))
            self.layout.pack(moment, self.moments[-1])

    def store_moments(self):
        """Return the moments as a list of new flat vectors."""
        self._end_teams()
        return [self.layout.unpack(moment) for moment in self.moments]

    # ---- working memory -----------------------------------------------------------------------

    def _team_size(self, batch_size, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches: as many as have enough work for their barriers."""
        useful = self._work.useful_threads(batch_size, n_rows, density)
        if useful <= 1:  # asking for the number of cores takes longer than a small prediction
            return 1
        team = self._most_threads
        if len(_active) > 1:
            team = min(team, max(1, self._n_cores // len(_active)))
        return min(useful, team)

    @cached_property
    def _n_cores(self):
        return available_threads()

    @cached_property
    def _most_threads(self):
        return self._n_cores if self.n_threads is None else min(self.n_threads, cores_at_hand())

    def _rows_of(self, X):
        """X as kernels read it, analysed once."""
        for rows in self._rows:
            if rows.X is X:
                return rows
        self._rows = [Rows(X), *self._rows[:1]]
        return self._rows[0]

    def _workspaces(self, rows, order, batch_size, size, learns=True, drops=False):
        """The working memory of each thread, for batches of the rows in `order`."""
        units, passes = self.network.layer_sizes[1] / size, 2 if learns else 1
        has_pairs, has_amx = False, False
        if learns:
            has_pairs = self._kernel_precision in IN_BFLOAT16
            has_amx = self._kernel_precision == BFLOAT16_AMX  # for which a step more is no work
        skips_zeros = not (self.network.n_embedded or has_amx)
        skips_zeros = skips_zeros and rows.pays_to_skip_zeros(order, units, passes)
        return [
            self._pack(
                make_workspace(
                    self.layout,
                    batch_size,
                    entries,
                    rows.are_gathered,
                    skips_zeros,
                    learns,
                    drops,
                    has_pairs,
                    has_amx,
                ),
                rows,
                learns,
            )
            for entries in rows.make_entries(order, batch_size, size, self.dtype, learns)
        ]

    def _state(self, steps):
        """The arrays that updates change besides the weights."""
        own, nothing = self.moments[: steps.rule.n_moments], self._nothing
        if steps.max_grad_norm is None:
            self._gradient = nothing
        elif not self._gradient.size:
            self._gradient = aligned_zeros(self.layout.n_weights, self.dtype)
        return State(
            own[0], own[1] if len(own) > 1 else nothing,
            self.moments[len(own)] if steps.averages else nothing, self._gradient,
        )  # fmt: skip

    def _pack(self, record, rows, learns=False):
        """A record for the kernel that trains, if it `learns`, or those that predict."""
        real = self._kernel_precision if learns else self.layout.real
        return Packed(record, real, rows.source is None)

    def _objective(self, data):
        network, targets, weight = self.network, data.targets, data.sample_weight
        loss = losses.find_loss(network.loss, network.output_activation)
        is_class = targets.ndim == 1 and network.output_activation != "identity"
        smoothing, n_outputs = network.label_smoothing, network.layer_sizes[-1]
        return Objective(
            output_activation=activations.code_of(network.output_activation),
            loss=losses.code_of(loss),
            joins_activation=int(loss.joins_activation),
            has_classes=int(is_class and loss is losses.CROSS_ENTROPY),
            loss_scale=1 / n_outputs if network.average_outputs else 1.0,
            eps=float(np.finfo(self.dtype).eps),
            targets=source_of(targets),
            target_is_class=int(is_class),
            coefficients=np.array(network.loss_coefficients, self.dtype),
            kept=1 - smoothing,
            shared=smoothing / (n_outputs if is_class else 2),
            sample_weight=0 if weight is None else address_of(weight),
        )

    # ---- training and prediction --------------------------------------------------------------

    def train_epoch(self, data, order, steps):
        """Train on the rows of `order` once, with an update per batch; return their mean loss."""
        result = aligned_zeros(RESULT_SIZE, np.float64)
        try:
            self._run(data, order, steps, result)
        finally:  # even after Ctrl-C
            try:
                self._end_teams()
            finally:
                steps.made += int(result[UPDATES])
        weight = result[TOTAL_WEIGHT]
        return float(result[LOSS] / weight) if weight else float("nan")

    def epochs_at_once(self, data, n_rows, batch_size):
        """How many epochs `train_epochs` may be given, so that it responds to Ctrl-C; 0 for none.

        It is for dense rows and small networks, which a team of one trains.
        """
        density = self._rows_of(data.X).density
        if issparse(data.X) or self._team_size(batch_size, n_rows, density) > 1:
            return 0
        if self._work.is_breakable(batch_size, density):
            return 0
        return self._work.batches_per_call(batch_size, density) // -(-n_rows // batch_size)

    def train_epochs(self, data, order, epochs):
        """Train several times, each time as `train_epoch` does.

        Parameters
        ----------
        data : fastbp.data.Data
        order : ndarray of shape (n_rows,), dtype int64, contiguous
            The rows of the data, in an order that is shuffled before each epoch.
        epochs : fastbp.epochs.Epochs
            It gets the losses.
        """
        self._end_teams()
        steps, used = epochs.steps, order[: epochs.n_rows]
        batch_size = min(steps.batch_size, len(used))
        train_epochs(self._buffers_for(data, used, batch_size, 1, steps, False), order, epochs)

    def loss_and_gradient(self, data):
        """Compute the weighted mean loss of all rows, without penalty, and its gradient."""
        self._end_teams()
        kept = self._evaluation
        if kept is None or kept.data is not data:
            kept = self._evaluation = Evaluation(self.layout, self._padded, data)
        if self.network.has_scales:  # which are more than a copy
            if self._flat is not None:
                self._pack_parameters()
            kept.begin(None)
        else:
            kept.begin(self._flat)
            self._flat = None
        self.moments = kept.moments
        self._run(data, kept.order, kept.steps, kept.result, kept)
        return kept.end()

    def _end_teams(self):
        """Wait for a team that an interrupt has left, and take its batch back if it is not done."""
        end_teams(self._at_work)
        if self._broken is not None:
            self._broken.take_back()
            self._broken = None

    def _run(self, data, order, steps, result, kept=None):
        """Train on the rows of `order`, in kernel calls short enough to respond to Ctrl-C.

        `kept` is an `Evaluation`, whose every call is alike.
        """
        rows, batch_size = self._rows_of(data.X), min(steps.batch_size, len(order))
        size = self._team_size(batch_size, len(order), rows.density)
        sums, calls = (None, None) if kept is None else (kept.sums, kept.calls)
        if calls is None or calls.buffers is not self._buffers or calls.buffers.size != size:
            order = np.ascontiguousarray(order, np.int64)
            buffers = self._buffers_for(data, order, batch_size, size, steps, kept is not None)
            calls = Calls(buffers, order, steps, result, sums is not None)
            if kept is not None:
                kept.calls = calls
        buffers, trials = calls.buffers, self._trials_of(batch_size, size, rows.density)
        control = buffers.memory.record.control
        is_breakable = sums is None and self._work.is_breakable(batch_size, rows.density)
        if is_breakable:
            self._broken = BrokenBatch(buffers.memory.record, result)
        for number, part, part_steps in calls.parts:
            size = trials.choose()
            began, worked = perf_counter(), process_time()
            member = calls.member(number, size, (self, data))
            run_team(size, member, control, self._at_work, is_breakable)
            if is_breakable:
                self._broken.begin()
            seconds, worked = perf_counter() - began, process_time() - worked
            trials.record(len(part), seconds, worked / (size * seconds))
            if sums is not None:
                sums.end_batches(len(part_steps))
            if not isfinite(result[LOSS]):
                break
        self._broken = None  # nothing is to be taken back

    def _trials_of(self, batch_size, size, density):
        """The timings of teams of up to `size` threads on such batches."""
        if self._trials is None or self._trials.max_size != size:
            self._trials = Trials(size, self._work.may_favour_fewer(batch_size, size, density))
        return self._trials

    def _buffers_for(self, data, order, batch_size, size, steps, keeps):
        """The buffers that a team trains in: the last ones where they fit."""
        rows = self._rows_of(data.X)
        buffers, state, weights = self._buffers, self._state(steps), self.weights
        masks = make_masks(steps.dropout, self.layout.first_dense)
        if buffers and buffers.fit(
            data, order, batch_size, size, weights, self._scaled, state, masks
        ):
            return buffers
        if self._kernel_precision in IN_BFLOAT16 and self._pairs is None:
            self._pairs = aligned_zeros(self.layout.n_pairs, np.int32)
        memory = make_memory(
            self.layout, weights, self._scaled, state, masks, batch_size, pairs=self._pairs,
            has_amx=self._kernel_precision == BFLOAT16_AMX,
        )  # fmt: skip
        workspaces = self._workspaces(
            rows, order, batch_size, size, drops=steps.dropout is not None
        )
        buffers = TrainingBuffers(
            self._kernel_precision, data, batch_size, self._objective(data),
            self._pack(memory, rows, learns=True), rows.source, workspaces,
            self._work.batches_per_call(batch_size, rows.density), order,
        )  # fmt: skip
        self._buffers = buffers if keeps or buffers.are_small() else None
        return buffers
