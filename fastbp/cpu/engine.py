"""The CPU engine: one network's memory, and the verbs that the training loop knows."""

import math
import platform
from functools import cached_property, lru_cache
from time import perf_counter
from weakref import WeakSet

import numpy as np
from joblib import cpu_count
from numba.core.registry import cpu_target
from scipy.sparse import csr_array, issparse
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from fastbp import functions
from fastbp.cpu import kernels
from fastbp.cpu.compilation import cache_folder
from fastbp.cpu.gather import source_of
from fastbp.cpu.layout import Layout, aligned_zeros
from fastbp.cpu.outputs import Objective
from fastbp.cpu.simd import VECTOR_BITS, lanes
from fastbp.cpu.sparse import density_of, make_entries, most_entries
from fastbp.cpu.team import run_team
from fastbp.cpu.tiles import ADAM, GRADIENT, NESTEROV, SGD, Step
from fastbp.cpu.work import Trials, Work
from fastbp.cpu.workspace import Desk, make_memory, make_workspace
from fastbp.cpu.zeros import is_worth_a_look
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import N_MOMENTS, Optimizer
from fastbp.shuffling import WORTH_COMPILING, shuffle

# Rows of a batch where nothing is learnt from it.
PREDICT_ROWS = 128
FEW_ROWS = 8  # so few, or fewer lanes, are predicted faster than the parameters are packed
GRADIENT_ROWS = 256

# The engines that are entered now: those of fits side by side share the cores. Weak, because Ctrl-C
# may come between entering and the block that would leave.
_at_work = WeakSet()

# Layouts are never written to; to make one takes as long as to predict a row.
_layout_of = lru_cache(maxsize=64)(Layout)


def available_threads():
    """Cores that this process may use now.

    Respects CPU affinity, the container's quota, OMP_NUM_THREADS and the limits that joblib and
    threadpoolctl set.
    """
    return max(1, min(cpu_count(), _openmp_effective_n_threads()))


def _solver_of(optimizer):
    """The kernels' code for an optimizer's update rule."""
    if optimizer.solver == "adam":
        return ADAM
    return NESTEROV if optimizer.nesterovs_momentum else SGD


def _mean_loss(result):
    """The loss by weight, from what an epoch has added up."""
    weight = result[kernels.WEIGHT]
    return float(result[kernels.LOSS] / weight) if weight else float("nan")


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
        self.moments = [self._nothing, self._nothing]
        self._work = Work(network)
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

    def load_optimizer(self, optimizer):
        """Take over an optimizer's moments."""
        self.moments = [self._nothing, self._nothing]
        for index, moment in enumerate(optimizer.moments):
            self.moments[index] = aligned_zeros(self.layout.n_weights, self.dtype)
            self.layout.pack(moment, self.moments[index])

    def store_optimizer(self, optimizer):
        """Give an optimizer its moments back as new flat vectors; the engine keeps none."""
        count, optimizer.moments = N_MOMENTS[optimizer.solver], []
        for index in range(count):
            optimizer.moments.append(self.layout.unpack(self.moments[index]))
            self.moments[index] = self._nothing

    # ---- working memory -----------------------------------------------------------------------

    def _team_size(self, rows, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches of so many: as many as have work enough for a barrier."""
        useful = self._work.useful_threads(rows, n_rows, density)
        if useful <= 1:  # to ask for the cores takes longer than a small prediction
            return 1
        team = self._n_cores if self.n_threads is None else self.n_threads
        if len(_at_work) > 1:
            team = min(team, max(1, self._n_cores // len(_at_work)))
        return min(useful, team)

    @cached_property
    def _n_cores(self):
        return available_threads()

    def _inputs(self, X, order, rows, size, learns=True):
        """Where kernels find dense rows, or None; and each thread's memory for sparse ones."""
        if not issparse(X):
            return source_of(X), [None] * size
        n_entries = most_entries(X, order, rows)
        return None, [make_entries(X, rows, n_entries, self.dtype, learns) for _ in range(size)]

    def _workspaces(self, X, order, rows, entries, learns=True):
        """The working memory of each thread, for batches of so many rows."""
        is_dense, units = density_of(X) == 1, self.network.layer_sizes[1] / len(entries)
        skips_zeros = is_dense and is_worth_a_look(X, order, units, passes=2 if learns else 1)
        return [
            make_workspace(self.layout, rows, each, is_dense, skips_zeros, learns)
            for each in entries
        ]

    def _memory(self, rows, learns=True):
        return make_memory(self.layout, self.weights, self.moments, rows, learns)

    def _objective(self, data):
        network, targets = self.network, data.targets
        is_class = targets.ndim == 1 and network.output_activation != "identity"
        weight = data.sample_weight
        return Objective(
            output_activation=functions.OUTPUT_ACTIVATIONS.index(network.output_activation),
            loss=functions.LOSSES.index(network.loss),
            loss_scale=1 / network.layer_sizes[-1] if network.average_outputs else 1.0,
            eps=float(np.finfo(self.dtype).eps),
            targets=source_of(targets),
            target_is_class=int(is_class),
            sample_weight=0 if weight is None else weight.__array_interface__["data"][0],
        )

    # ---- verbs --------------------------------------------------------------------------------

    def train_epoch(self, data, order, batch_size, optimizer, alpha):
        """Go through some rows once, in batches, and update the parameters after each.

        Parameters
        ----------
        data : Data
            With targets.
        order : ndarray of shape (n_rows,), dtype int64
            The rows, in the order of their use; the last batch may be short.
        batch_size : int
        optimizer : Optimizer
            Hyper-parameters; its `step` advances by the updates made, its moments stay here until
            `store_optimizer`.
        alpha : float
            Strength of the L2 penalty α / (2 Σw) ‖W‖², by the batch's summed sample weights.

        Returns
        -------
        loss : float
            Mean over the samples, by weight, each batch's as it was before its update. Not finite
            when a batch's loss was not; that batch was the last. NaN when no row has weight.
        """
        step = Step(
            float(optimizer.learning_rate), float(optimizer.momentum), float(optimizer.beta_1),
            float(optimizer.beta_2), float(optimizer.epsilon), 0.0,
        )  # fmt: skip
        plan = kernels.Plan(
            int(batch_size), _solver_of(optimizer), optimizer.step, float(alpha), 0.0,
            float(data.input_scale),
        )  # fmt: skip
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        try:
            self._run(data, order, plan, step, result)
        finally:  # Ctrl-C may have ended it
            optimizer.step += int(result[kernels.UPDATES])
        return _mean_loss(result)

    def loss_and_gradient(self, data, alpha):
        """Loss of all rows and its gradient.

        For a multi-output squared error with `average_outputs` the gradient is that of the sum
        over the outputs, as in scikit-learn.

        Parameters
        ----------
        data : Data
            With targets.
        alpha : float
            Strength of the L2 penalty.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
            In the engine's dtype and the network's flat order.
        """
        weight = data.sample_weight
        total = float(data.n_samples if weight is None else weight.sum())
        self.moments = [np.zeros_like(self.weights), self._nothing]
        plan = kernels.Plan(GRADIENT_ROWS, GRADIENT, 0, 0.0, total, float(data.input_scale))
        result = aligned_zeros(kernels.RESULT_SIZE, np.float64)
        order = np.arange(data.n_samples)
        self._run(data, order, plan, Step(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), result)
        gradient = self.layout.unpack(self.moments[0])
        penalty = 0.0
        parameters = self.network.views(self.store_parameters())[0]
        for weights, slope in zip(parameters, self.network.views(gradient)[0], strict=True):
            penalty += float(np.sum(np.square(weights, dtype=np.float64)))
            slope += weights * self.dtype.type(alpha / total)
        return _mean_loss(result) + 0.5 * alpha * penalty / total, gradient

    def _run(self, data, order, plan, step, result):
        """Train over `order`, in calls short enough for Ctrl-C to be heard between them."""
        rows = min(plan.batch_size, len(order))
        desk = self._desk_for(data, order, rows)
        trials = self._trials_of(data, rows, len(desk.workspaces))
        for part in desk.parts(order):
            size, began = trials.choose(), perf_counter()
            call = plan._replace(steps_before=plan.steps_before + int(result[kernels.UPDATES]))

            def member(rank, part=part, call=call, size=size):
                kernels.train(
                    desk.memory, desk.workspaces[rank], desk.source, desk.objective, call, step,
                    part, result, rank, size,
                )  # fmt: skip

            run_team(size, member, desk.memory.control)
            trials.note(len(part), perf_counter() - began)
            if not np.isfinite(result[kernels.LOSS]):
                return

    def _trials_of(self, data, rows, size):
        """How teams of at most this size do with batches of so many rows."""
        if self._trials is None or self._trials.most != size:
            is_doubtful = self._work.is_doubtful(rows, size, density_of(data.X))
            self._trials = Trials(size, is_doubtful)
        return self._trials

    def _desk_for(self, data, order, rows):
        """What a team works with, as far as possible what it has worked with before."""
        density = density_of(data.X)
        size = self._team_size(rows, len(order), density)
        if self._desk and self._desk.serves(data, rows, size, self.weights, self.moments):
            return self._desk
        source, entries = self._inputs(data.X, order, rows, size)
        desk = Desk(
            data, rows, self._objective(data), self._memory(rows), source,
            self._workspaces(data.X, order, rows, entries),
            self._work.batches_per_call(rows, density),
        )  # fmt: skip
        self._desk = desk if desk.is_small() else None
        return desk

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs; `inputs_were_finite` then says whether all inputs were.

        Parameters
        ----------
        data : Data
            Targets are not needed.
        rows : ndarray of shape (n_rows,), dtype int64, or None
            None for all rows.
        activation : str or None
            Another output activation than the network's; "identity" gives the logits.

        Returns
        -------
        outputs : ndarray of shape (n_rows, n_outputs)
            C-contiguous, in the engine's dtype.
        """
        order = np.arange(data.n_samples) if rows is None else rows
        out = np.empty((len(order), self.network.layer_sizes[-1]), self.dtype)
        if len(order) == 0:
            return out
        code = functions.OUTPUT_ACTIVATIONS.index(activation or self.network.output_activation)
        if self._flat is not None and len(order) <= min(FEW_ROWS, lanes(self.dtype)):
            self._predict_few(data, order, code, out)
            return out
        batch, density = min(PREDICT_ROWS, len(order)), density_of(data.X)
        size = self._team_size(len(order), len(order), density)
        size = min(size, -(-len(order) // PREDICT_ROWS))
        source, entries = self._inputs(data.X, order, batch, size, learns=False)
        workspaces = self._workspaces(data.X, order, batch, entries, learns=False)
        plan = kernels.Plan(batch, 0, 0, 0.0, 0.0, float(data.input_scale))
        memories = [self._memory(batch, learns=False) for _ in range(size)]
        stride = self._work.batches_per_call(batch, density, learns=False) * batch * size
        were_finite = []
        for start in range(0, len(order), stride):
            part, outputs = order[start : start + stride], out[start : start + stride]

            def member(rank, part=part, outputs=outputs):
                finite = kernels.predict(
                    memories[rank], workspaces[rank], source, plan, code, part, outputs, rank, size
                )
                were_finite.append(finite)

            run_team(size, member, memories[0].control)
        self.inputs_were_finite = all(were_finite)
        return out

    def _predict_few(self, data, order, code, out):
        """Predict a few rows with the parameters as they were given."""
        widest, vector = max(self.network.layer_sizes), lanes(self.dtype)
        working = np.empty(2 * widest + out.shape[1] * vector, self.dtype)
        source, (entries,) = self._inputs(data.X, order, 1, 1, learns=False)
        self.inputs_were_finite = kernels.predict_few(
            self._flat, self.layout.table, source, entries, float(data.input_scale), code, order,
            out, working, widest,
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
            engine.load_optimizer(optimizer)
            engine.train_epoch(data, rows, 1, optimizer, 0.0)
            engine.predict(data)
            if everything:
                engine.load_parameters(engine.store_parameters())
                engine.predict(data)
    return cache_folder()


def describe():
    """What the engine found on this machine: CPU, vector width, threads, cache folder."""
    return {
        "cpu": cpu_target.target_context.codegen().magic_tuple()[1] or platform.processor(),
        "vector_bits": VECTOR_BITS,
        "lanes": {name: lanes(name) for name in ("float32", "float64")},
        "n_threads": available_threads(),
        "cache_folder": cache_folder(),
    }
