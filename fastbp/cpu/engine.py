"""The CPU engine: one network's memory, and the verbs of `fastbp.engine.Engine`."""

import math
import platform
from functools import cached_property, lru_cache
from time import perf_counter
from weakref import WeakSet

import numpy as np
from numba.core.registry import cpu_target
from scipy.sparse import csr_array

from fastbp import activations, losses
from fastbp.cpu import kernels
from fastbp.cpu.compilation import kernel_folder
from fastbp.cpu.gather import source_of
from fastbp.cpu.layout import Layout, aligned_zeros, round_up
from fastbp.cpu.outputs import Objective
from fastbp.cpu.rows import Rows
from fastbp.cpu.shuffling import WORTH_COMPILING, shuffle
from fastbp.cpu.simd import VECTOR_BITS, lanes
from fastbp.cpu.team import run_team
from fastbp.cpu.work import Trials, Work
from fastbp.cpu.workspace import Desk, make_memory, make_workspace
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import MOST_MOMENTS, Optimizer, code_of
from fastbp.schedules import StepPlanner, gradient_steps
from fastbp.threads import available_threads

# Rows of a batch where nothing is learnt from it.
PREDICT_ROWS = 128
FEW_ROWS = 8  # at most this many, and a vector's lanes, are predicted from unpacked parameters
GRADIENT_ROWS = 256

# The engines that are entered now: those of fits side by side share the cores. Weak, because Ctrl-C
# may come between entering and the block that would leave.
_at_work = WeakSet()

# Layouts are never written to; to make one takes as long as to predict a row.
_layout_of = lru_cache(maxsize=64)(Layout)


class Engine:
    """One network's parameters and working memory on the CPU.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
    n_threads : int or None, default=None
        The largest team; None takes the cores that are available. The team is made smaller where
        a batch has too little work for it, or where other engines are at work in this process:
        those entered as a context, by other Python threads; and where training goes faster with
        fewer, which is tried. Results do not depend on it.

    Raises
    ------
    MemoryError
        When the padded parameters do not fit into memory.
    """

    def __init__(self, network, dtype, n_threads=None):
        self.network = network
        self.dtype = np.dtype(dtype)
        self.n_threads = n_threads
        self.layout = _layout_of(network, self.dtype)
        self._flat = None  # parameters that nothing has asked to be packed yet
        self._nothing = np.zeros(0, self.dtype)
        self.inputs_were_finite = True  # at the last prediction
        self.moments = [self._nothing] * MOST_MOMENTS
        self._work = Work(network)
        self._rows = None  # of the last X
        self._trials = None  # of the last epoch's team
        self._desk = None  # likewise, where it is small

    def __enter__(self):
        _at_work.add(self)
        return self

    def __exit__(self, *exception):
        _at_work.discard(self)
        self._desk = None

    # ---- parameters and optimizer state -------------------------------------------------------

    def load_parameters(self, parameters):
        """Take over parameters, a flat vector in the network's order.

        It is copied at the first use, and must not change before.
        """
        self._flat = np.ascontiguousarray(parameters, self.dtype)

    def store_parameters(self):
        """Return a copy of the parameters as a flat vector of shape (n_parameters,)."""
        return self.layout.unpack(self.weights)

    @cached_property
    def _padded(self):
        return aligned_zeros(self.layout.n_weights, self.dtype)

    @property
    def weights(self):
        """The parameters in panels, for the tiles."""
        if self._flat is not None:
            self.layout.pack(self._flat, self._padded)
            self._flat = None
        return self._padded

    def load_moments(self, moments):
        """Take over the optimizer's moments, a list of flat vectors."""
        self.moments = [self._nothing] * MOST_MOMENTS
        for index, moment in enumerate(moments):
            self.moments[index] = aligned_zeros(self.layout.n_weights, self.dtype)
            self.layout.pack(moment, self.moments[index])

    def store_moments(self):
        """Return the moments as a list of new flat vectors; the engine keeps none."""
        moments = [self.layout.unpack(moment) for moment in self.moments if moment.size]
        self.moments = [self._nothing] * MOST_MOMENTS
        return moments

    # ---- working memory -----------------------------------------------------------------------

    def _team_size(self, batch_size, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches: as many as have work enough for a barrier."""
        useful = self._work.useful_threads(batch_size, n_rows, density)
        if useful <= 1:  # to ask for the cores takes longer than a small prediction
            return 1
        team = self._n_cores if self.n_threads is None else self.n_threads
        if len(_at_work) > 1:
            team = min(team, max(1, self._n_cores // len(_at_work)))
        return min(useful, team)

    @cached_property
    def _n_cores(self):
        return available_threads()

    def _rows_of(self, X):
        """X in the kernels' terms, looked at once."""
        if self._rows is None or self._rows.X is not X:
            self._rows = Rows(X)
        return self._rows

    def _workspaces(self, rows, order, batch_size, size, learns=True):
        """The working memory of each thread, for batches of the rows in `order`."""
        units, passes = self.network.layer_sizes[1] / size, 2 if learns else 1
        skips_zeros = rows.are_worth_a_look(order, units, passes)
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

    # ---- verbs --------------------------------------------------------------------------------

    def train_epoch(self, data, order, steps):
        """Go through rows once, batch by batch, and update the parameters after each."""
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        try:
            self._run(data, order, steps, result)
        finally:  # Ctrl-C may have ended it
            steps.made += int(result[kernels.UPDATES])
        weight = result[kernels.TOTAL_WEIGHT]
        return float(result[kernels.LOSS] / weight) if weight else float("nan")

    def loss_and_gradient(self, data):
        """Compute the mean loss of all rows by weight, without penalty, and its gradient."""
        steps, total_weight = gradient_steps(data, GRADIENT_ROWS)
        self.moments = [np.zeros_like(self.weights), *self.moments[1:]]
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        self._run(data, np.arange(data.n_samples), steps, result)
        return float(result[kernels.LOSS] / total_weight), self.layout.unpack(self.moments[0])

    def _run(self, data, order, steps, result):
        """Train over `order`, in calls short enough for Ctrl-C to be heard between them."""
        batch_size = min(steps.batch_size, len(order))
        desk = self._desk_for(data, order, batch_size)
        plan = kernels.Plan(code_of(steps.rule), steps.alpha, float(data.input_scale))
        trials = self._trials_of(data, batch_size, len(desk.workspaces))
        for part, part_steps in desk.parts(order, steps.table):
            size, began = trials.choose(), perf_counter()

            def member(rank, part=part, part_steps=part_steps, size=size):
                kernels.train(
                    desk.memory, desk.workspaces[rank], desk.source, desk.objective, plan,
                    part_steps, part, result, rank, size,
                )  # fmt: skip

            run_team(size, member, desk.memory.control)
            trials.note(len(part), perf_counter() - began)
            if not np.isfinite(result[kernels.LOSS]):
                return

    def _trials_of(self, data, batch_size, size):
        """How teams of at most this size do with such batches."""
        if self._trials is None or self._trials.most != size:
            density = self._rows_of(data.X).density
            self._trials = Trials(size, self._work.is_doubtful(batch_size, size, density))
        return self._trials

    def _desk_for(self, data, order, batch_size):
        """What a team works with, if possible what it has worked with before."""
        rows = self._rows_of(data.X)
        size = self._team_size(batch_size, len(order), rows.density)
        if self._desk and self._desk.serves(data, batch_size, size, self.weights, self.moments):
            return self._desk
        desk = Desk(
            data, batch_size, self._objective(data), self._memory(batch_size), rows.source,
            self._workspaces(rows, order, batch_size, size),
            self._work.batches_per_call(batch_size, rows.density),
        )  # fmt: skip
        self._desk = desk if desk.is_small() else None
        return desk

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs."""
        order = np.arange(data.n_samples) if rows is None else rows
        out = np.empty((len(order), self.network.layer_sizes[-1]), self.dtype)
        if len(order) == 0:
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
        stride, were_finite = n_batches * batch_size * size, []
        for start in range(0, len(order), stride):
            part, outputs = order[start : start + stride], out[start : start + stride]

            def member(rank, part=part, outputs=outputs):
                finite = kernels.predict(
                    memories[rank], workspaces[rank], source.source, plan, part, outputs, rank, size
                )
                were_finite.append(finite)

            run_team(size, member, memories[0].control)
        self.inputs_were_finite = all(were_finite)
        return out

    def _predict_few(self, data, order, code, out):
        """Predict a few rows with the parameters as they were given."""
        vector = lanes(self.dtype)
        widest = round_up(max(self.network.layer_sizes), vector)
        working = np.empty(2 * widest + out.shape[1] * vector, self.dtype)
        rows = self._rows_of(data.X)
        (entries,) = rows.make_entries(order, 1, 1, self.dtype, learns=False)
        self.inputs_were_finite = kernels.predict_few(
            self._flat, self.layout.table, rows.source, entries, float(data.input_scale), code,
            order, out, working, widest,
        )  # fmt: skip


def warmup(dtypes=("float32", "float64"), everything=True):
    """Compile all kernels, or load them from the cache, so that the next fit need not.

    Parameters
    ----------
    dtypes : sequence of str, default=("float32", "float64")
    everything : bool, default=True
        Also what sparse rows and predictions of a few rows need.

    Returns
    -------
    folder : str or None
        The cache folder; None where none can be written.
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
