"""The CPU engine: one network's memory, and the methods of `fastbp.engine.Engine`."""

import math
import os
import platform
from functools import cached_property, lru_cache, reduce
from operator import and_
from time import perf_counter
from weakref import WeakSet

import numpy as np
from numba.core.registry import cpu_target
from scipy.sparse import csr_array

from fastbp import activations, losses
from fastbp.cpu import kernels
from fastbp.cpu.compilation import compile_for
from fastbp.cpu.gather import source_of
from fastbp.cpu.kernel_cache import kernel_folder, warn_of_refused_folders
from fastbp.cpu.layout import Layout, aligned_zeros, round_up
from fastbp.cpu.outputs import Objective
from fastbp.cpu.rows import Rows
from fastbp.cpu.shuffling import WORTH_COMPILING, shuffle
from fastbp.cpu.simd import VECTOR_BITS, lanes
from fastbp.cpu.team import end_teams, run_team
from fastbp.cpu.work import Trials, Work
from fastbp.cpu.workspace import GradientSums, TrainingBuffers, make_memory, make_workspace
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import MOST_MOMENTS, Optimizer, code_of
from fastbp.schedules import StepPlanner, gradient_steps
from fastbp.threads import available_threads

PREDICT_ROWS = 128  # rows per batch of a prediction
FEW_ROWS = 8  # at most this many rows, and one vector's lanes, skip packing the parameters
GRADIENT_ROWS = 256  # rows per batch of `loss_and_gradient`

# Engines whose context is entered: concurrent fits share the cores. Weak, because Ctrl-C may come
# after `__enter__` and before the `with` block that would call `__exit__`.
_active = WeakSet()


def _forget_active():
    """In a forked child: the threads that had entered engines are not here."""
    global _active
    _active = WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_active)

_compiled = set()  # what kernels have been compiled for before a team started

# Layouts are immutable, and making one takes as long as predicting a row.
_layout_of = lru_cache(maxsize=64)(Layout)


class Engine:
    """One network's parameters and working memory on the CPU.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
    n_threads : int or None, default=None
        Most threads in the team; None takes the cores that are available. The team is smaller where
        a batch has too little work, where other Python threads have entered engines in this
        process, and where training measures that fewer are faster. Results do not depend on it.

    Raises
    ------
    MemoryError
        If the padded parameters do not fit into memory.
    """

    def __init__(self, network, dtype, n_threads=None):
        self.dtype = np.dtype(dtype)
        self.n_threads = n_threads
        self.layout = _layout_of(network, self.dtype)
        self.network = self.layout.network  # an equal one, whose sizes were checked
        self._flat = None  # parameters not yet packed into panels
        self._nothing = np.zeros(0, self.dtype)
        self.inputs_were_finite = self.outputs_were_finite = True  # at the last prediction
        self.moments = [self._nothing] * MOST_MOMENTS
        self._work = Work(network)
        self._at_work = []  # the team, if an interrupt has left it there
        self._rows = None  # of the last X
        self._trials = None  # of the last epoch's team
        self._buffers = None  # of the last epoch, if they are small

    def __enter__(self):
        _active.add(self)
        return self

    def __exit__(self, *exception):
        _active.discard(self)
        self._buffers = None

    # ---- parameters and optimizer state -------------------------------------------------------

    def load_parameters(self, parameters):
        """Set the parameters from a flat vector in the network's order.

        It is copied at its first use, and must not change before.
        """
        self._flat = np.ascontiguousarray(parameters, self.dtype)

    def store_parameters(self):
        """Return a copy of the parameters as a flat vector of shape (n_parameters,)."""
        end_teams(self._at_work)
        return self.layout.unpack(self.weights)

    @cached_property
    def _padded(self):
        return aligned_zeros(self.layout.n_weights, self.dtype)

    @property
    def weights(self):
        """The parameters in panels, as the tiles read them."""
        if self._flat is not None:
            end_teams(self._at_work)
            self.layout.pack(self._flat, self._padded)
            self._flat = None
        return self._padded

    def load_moments(self, moments):
        """Set the optimizer's moments from a list of flat vectors."""
        self.moments = [self._nothing] * MOST_MOMENTS
        for index, moment in enumerate(moments):
            self.moments[index] = aligned_zeros(self.layout.n_weights, self.dtype)
            self.layout.pack(moment, self.moments[index])

    def store_moments(self):
        """Return the moments as a list of new flat vectors."""
        end_teams(self._at_work)
        return [self.layout.unpack(moment) for moment in self.moments if moment.size]

    # ---- working memory -----------------------------------------------------------------------

    def _team_size(self, batch_size, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches: as many as have enough work for their barriers."""
        useful = self._work.useful_threads(batch_size, n_rows, density)
        if useful <= 1:  # asking for the number of cores takes longer than a small prediction
            return 1
        team = self._n_cores if self.n_threads is None else self.n_threads
        if len(_active) > 1:
            team = min(team, max(1, self._n_cores // len(_active)))
        return min(useful, team)

    @cached_property
    def _n_cores(self):
        return available_threads()

    def _rows_of(self, X):
        """X as kernels read it, analysed once."""
        if self._rows is None or self._rows.X is not X:
            self._rows = Rows(X)
        return self._rows

    def _workspaces(self, rows, order, batch_size, size, learns=True):
        """The working memory of each thread, for batches of the rows in `order`."""
        units, passes = self.network.layer_sizes[1] / size, 2 if learns else 1
        skips_zeros = rows.pays_to_skip_zeros(order, units, passes)
        return [
            make_workspace(self.layout, batch_size, entries, rows.are_gathered, skips_zeros, learns)
            for entries in rows.make_entries(order, batch_size, size, self.dtype, learns)
        ]

    def _memory(self, rows, learns=True):
        return make_memory(self.layout, self.weights, self.moments, rows, learns)

    def _objective(self, data):
        network, targets, weight = self.network, data.targets, data.sample_weight
        loss = losses.find_loss(network.loss, network.output_activation)
        is_class = targets.ndim == 1 and network.output_activation != "identity"
        return Objective(
            output_activation=activations.code_of(network.output_activation),
            loss=losses.code_of(loss),
            joins_activation=int(loss.joins_activation),
            has_classes=int(is_class and loss is losses.CROSS_ENTROPY),
            loss_scale=1 / network.layer_sizes[-1] if network.average_outputs else 1.0,
            eps=float(np.finfo(self.dtype).eps),
            targets=source_of(targets),
            target_is_class=int(is_class),
            sample_weight=0 if weight is None else weight.__array_interface__["data"][0],
        )

    # ---- training and prediction --------------------------------------------------------------

    def train_epoch(self, data, order, steps):
        """Train on the rows of `order` once, with an update per batch; return their mean loss."""
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        try:
            self._run(data, order, steps, result)
        finally:  # even after Ctrl-C
            end_teams(self._at_work)
            steps.made += int(result[kernels.UPDATES])
        weight = result[kernels.TOTAL_WEIGHT]
        return float(result[kernels.LOSS] / weight) if weight else float("nan")

    def loss_and_gradient(self, data):
        """Compute the weighted mean loss of all rows, without penalty, and its gradient."""
        steps, total_weight = gradient_steps(data, GRADIENT_ROWS)
        self.moments = [np.zeros_like(self.weights), *self.moments[1:]]
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        sums = GradientSums(self.moments[0]) if self.dtype == np.float32 else None
        self._run(data, np.arange(data.n_samples), steps, result, sums)
        gradient = self.moments[0] if sums is None else sums.total()
        return float(result[kernels.LOSS] / total_weight), self.layout.unpack(gradient)

    def _run(self, data, order, steps, result, sums=None):
        """Train on the rows of `order`, in kernel calls short enough to respond to Ctrl-C."""
        batch_size = min(steps.batch_size, len(order))
        buffers = self._buffers_for(data, order, batch_size)
        plan = kernels.Plan(code_of(steps.rule), steps.alpha, float(data.input_scale))
        trials = self._trials_of(data, batch_size, len(buffers.workspaces))
        for part, part_steps in buffers.parts(order, steps.table, sums):
            size = trials.choose()
            # Addresses do not keep what they point to: a rank may outlive an interrupted caller.
            held = self, data

            def arguments(rank, part=part, part_steps=part_steps, size=size, held=held):
                return (
                    buffers.memory, buffers.workspaces[rank], buffers.source, buffers.objective,
                    plan, part_steps, part, result, rank, size,
                )  # fmt: skip

            self._compile(kernels.train, buffers.source, size, arguments)
            began = perf_counter()
            run_team(
                size, lambda rank, arguments=arguments: kernels.train(*arguments(rank)),
                buffers.memory.control, self._at_work,
            )  # fmt: skip
            trials.record(len(part), perf_counter() - began)
            if sums is not None:
                sums.end_batches(len(part_steps))
            if not np.isfinite(result[kernels.LOSS]):
                return

    def _compile(self, kernel, source, size, arguments):
        """Compile a kernel before a team starts, which could not be interrupted meanwhile."""
        use = kernel.py_func.__name__, self.dtype, source is None
        if size > 1 and use not in _compiled:
            compile_for(kernel, *arguments(0))
            _compiled.add(use)

    def _trials_of(self, data, batch_size, size):
        """The timings of teams of up to `size` threads on such batches."""
        if self._trials is None or self._trials.max_size != size:
            density = self._rows_of(data.X).density
            self._trials = Trials(size, self._work.may_favour_fewer(batch_size, size, density))
        return self._trials

    def _buffers_for(self, data, order, batch_size):
        """The buffers that a team trains in: the last epoch's where they fit."""
        rows = self._rows_of(data.X)
        size = self._team_size(batch_size, len(order), rows.density)
        buffers = self._buffers
        if buffers and buffers.fit(data, batch_size, size, self.weights, self.moments):
            return buffers
        buffers = TrainingBuffers(
            data, batch_size, self._objective(data), self._memory(batch_size), rows.source,
            self._workspaces(rows, order, batch_size, size),
            self._work.batches_per_call(batch_size, rows.density),
        )  # fmt: skip
        self._buffers = buffers if buffers.are_small() else None
        return buffers

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs, an array of shape (n_rows, n_outputs)."""
        order = np.arange(data.n_samples) if rows is None else rows
        out = np.empty((len(order), self.network.layer_sizes[-1]), self.dtype)
        if len(order) == 0:
            self.inputs_were_finite = self.outputs_were_finite = True
            return out
        code = activations.code_of(activation or self.network.output_activation)
        if self._flat is not None and len(order) <= min(FEW_ROWS, lanes(self.dtype)):
            self._predict_few(data, order, code, out)
            return out
        source, batch_size = self._rows_of(data.X), min(PREDICT_ROWS, len(order))
        size = self._team_size(len(order), len(order), source.density)
        size = min(size, -(-len(order) // PREDICT_ROWS))
        workspaces = self._workspaces(source, order, batch_size, size, learns=False)
        plan = kernels.PredictionPlan(batch_size, code, float(data.input_scale))
        memories = [self._memory(batch_size, learns=False) for _ in range(size)]
        n_batches = self._work.batches_per_call(batch_size, source.density, learns=False)
        stride, bits = n_batches * batch_size * size, []
        for start in range(0, len(order), stride):
            part, outputs = order[start : start + stride], out[start : start + stride]

            def arguments(rank, part=part, outputs=outputs, held=(self, data)):
                return (
                    memories[rank], workspaces[rank], source.source, plan, part, outputs, rank, size
                )  # fmt: skip

            def member(rank, arguments=arguments):
                bits.append(kernels.predict(*arguments(rank)))

            self._compile(kernels.predict, source.source, size, arguments)
            run_team(size, member, memories[0].control, self._at_work)
        found = kernels.FINITENESS[reduce(and_, bits)]
        self.inputs_were_finite, self.outputs_were_finite = found
        return out

    def _predict_few(self, data, order, code, out):
        """Predict a few rows straight from the flat parameters, into `out`."""
        vector = lanes(self.dtype)
        widest = round_up(max(self.network.layer_sizes), vector)
        working = np.empty(2 * widest + out.shape[1] * vector, self.dtype)
        rows = self._rows_of(data.X)
        (entries,) = rows.make_entries(order, 1, 1, self.dtype, learns=False)
        bits = kernels.predict_few(
            self._flat, self.layout.table, rows.source, entries, float(data.input_scale), code,
            order, out, working, widest,
        )  # fmt: skip
        self.inputs_were_finite, self.outputs_were_finite = kernels.FINITENESS[bits]


def warmup(dtypes=("float32", "float64"), everything=True):
    """Compile all kernels, or load them from the cache, so that the next fit need not.

    Parameters
    ----------
    dtypes : sequence of str, default=("float32", "float64")
    everything : bool, default=True
        Whether to include the kernels for sparse rows and for predictions of a few rows.

    Returns
    -------
    folder : str or None
        The cache folder; None where no folder can be written to.
    """
    shuffle(np.random.RandomState(0), np.arange(WORTH_COMPILING))
    network = Network((1, 1, 2), ("relu",), "softmax", "log_loss")
    optimizer, rows = Optimizer("sgd", 0.0), np.zeros(1, np.int64)
    kinds = (np.zeros((1, 1)), csr_array((1, 1))) if everything else (np.zeros((1, 1)),)
    for dtype in dtypes:
        for X in kinds:
            data, engine = Data(X, rows), Engine(network, dtype, n_threads=1)
            optimizer.reset(network.n_parameters, dtype)
            engine.load_moments(optimizer.moments)
            steps = StepPlanner(optimizer, 1, 1, None, 0.0, 1).next_epoch(rows)
            engine.train_epoch(data, rows, steps)
            engine.predict(data)
            if everything:
                engine.load_parameters(engine.store_parameters())
                engine.predict(data)
    warn_of_refused_folders()
    return kernel_folder()


def describe():
    """What the engine found on this machine: CPU, vector width, threads, cache folder."""
    return {
        "cpu": cpu_target.target_context.codegen().magic_tuple()[1] or platform.processor(),
        "vector_bits": VECTOR_BITS,
        "lanes": {name: lanes(name) for name in ("float32", "float64")},
        "n_threads": available_threads(),
        "cache_folder": kernel_folder(),
    }
