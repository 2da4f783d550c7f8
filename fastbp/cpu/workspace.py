"""The arrays that kernels work in: those that a team shares, and those of each thread.

All are aligned, so that no cache line belongs to the arrays of two threads, which would then wait
for each other.
"""

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from fastbp.cpu.amx import make_scratch
from fastbp.cpu.code import TILE_ROWS, lanes
from fastbp.cpu.layout import ALIGNMENT, aligned_zeros, round_up
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import (
    BIAS_ROW,
    BLOCK_ROWS,
    CONTROL_SIZE,
    EMBEDDING_SIZE,
    GROUP_ROWS,
    N_GROUP_STEPS,
    N_PANELS,
    UPDATES,
    Masks,
    Memory,
    Objective,
    Pairs,
    Scaling,
    Source,
    ThreadPairs,
    Workspace,
)
from fastbp.cpu.rows import Rows
from fastbp.cpu.zero_steps import make_steps, no_steps
from fastbp.data import Data
from fastbp.embedding import NUMBERS
from fastbp.schedules import TABLE_WIDTH

# Vectors of samples whose outputs are computed at once: loops of that length are unrolled.
OUTPUT_VECTORS = 4
MANY_OUTPUTS = 64  # with more outputs one vector, to stay in the L1 cache
GROUP_BATCHES = 64  # of L-BFGS, that are added up in float32
NO_FACTORS = np.zeros(0)  # of groups of parameters
SMALL_BYTES = 2**20  # smaller buffers are kept between the epochs of a fit


class TrainingBuffers(NamedTuple):
    """Everything that a team trains with, which later epochs may reuse."""

    real: str  # the precision
    data: Data
    batch_size: int  # rows of the largest batch
    objective: Objective
    memory: Packed
    source: Source | None  # of dense rows
    workspaces: list  # one for each thread of the largest team, packed
    batches_per_call: int  # most batches of one call of the kernel
    order: np.ndarray  # of all rows, for which sparse ones have room

    def fit(self, data, order, batch_size, size, weights, scaled, state, masks):
        """Whether they are for this data, batch size and team, and for these very arrays."""
        memory = self.memory.record
        return (
            data is self.data
            and (order is self.order or self.source is not None)
            and (batch_size, size) == (self.batch_size, self.size)
            and weights is memory.weights
            and scaled is memory.scaling.weights
            and all(one is other for one, other in zip(state, state_of(memory), strict=True))
            and masks is memory.masks
        )

    @property
    def size(self):
        """Of the largest team."""
        return len(self.workspaces)

    def are_small(self):
        """Whether to keep them: making such small arrays takes longer than filling them."""
        inputs = sum(workspace.record.inputs.nbytes for workspace in self.workspaces)
        memory = self.memory.record
        activations = memory.activations.nbytes + memory.deltas.nbytes
        return self.source is not None and inputs + activations < SMALL_BYTES


class BrokenBatch:
    """What the update of a batch changes, to be taken back if the batch is broken off.

    Parameters
    ----------
    memory : Memory
    result : ndarray of shape (RESULT_SIZE,)
        Of the call.
    """

    def __init__(self, memory, result):
        arrays = memory.weights, memory.scaling.weights, *state_of(memory)
        self._arrays, self._result = [array for array in arrays if array.size], result
        self._copies = [np.empty_like(array) for array in self._arrays]
        self.begin()

    def begin(self):
        """Keep everything as it is now, before a batch."""
        self._updates = None  # nothing is taken back while the copies are of two times
        for kept, array in zip(self._copies, self._arrays, strict=True):
            kept[...] = array
        self._updates = self._result[UPDATES]

    def take_back(self):
        """Restore everything, unless the batch has come to its end; after the team's end."""
        if self._result[UPDATES] == self._updates:
            for kept, array in zip(self._copies, self._arrays, strict=True):
                array[...] = kept


class PredictionWeights(NamedTuple):
    """Where a prediction finds the parameters."""

    batch_size: int
    padded: np.ndarray  # in panels; empty if each is copied to a thread's memory before use
    scaled: np.ndarray
    layers: np.ndarray  # layer table
    flat: np.ndarray  # empty if they are packed


class PredictionBuffers(NamedTuple):
    """What each thread of a team predicts in."""

    rows: Rows
    batch_size: int
    size: int
    weights: np.ndarray
    scaled: np.ndarray
    memories: list
    workspaces: list

    def fit(self, rows, batch_size, size, weights, scaled):
        """Whether they are for these rows, batches and team, and for these very arrays."""
        return (
            rows is self.rows
            and (batch_size, size) == (self.batch_size, self.size)
            and weights is self.weights
            and scaled is self.scaled
        )

    def are_small(self):
        """Whether to keep them, as those of training; what sparse rows need depends on the rows."""
        inputs = sum(workspace.record.inputs.nbytes for workspace in self.workspaces)
        activations = sum(memory.record.activations.nbytes for memory in self.memories)
        return self.rows.source is not None and inputs + activations < SMALL_BYTES


class GradientSums:
    """Adds up the gradients of very many batches without losing digits.

    The kernel adds up those of a group of batches in the engine's dtype, and the groups are added
    up in float64, in the same way whatever the calls of the kernel.

    Parameters
    ----------
    batches : ndarray
        What the kernel adds to.
    """

    def __init__(self, batches):
        self._batches, self._groups, self._n_batches = batches, None, 0

    def end_batches(self, count):
        """Take note that the kernel has added `count` batches, which were all of one group."""
        self._n_batches += count
        if self._n_batches % GROUP_BATCHES == 0:
            if self._groups is None:
                self._groups = np.zeros(self._batches.shape, np.float64)
            self._groups += self._batches
            self._batches[...] = 0

    def total(self):
        """The sum of all batches, an array like that of the kernel."""
        if self._groups is None:
            return self._batches
        return (self._groups + self._batches).astype(self._batches.dtype)


def _aligned_arrays(dtype, **sizes):
    """Named arrays of zeros in one allocation; one for each would take 1.5 µs each."""
    line = ALIGNMENT // np.dtype(dtype).itemsize
    *starts, end = accumulate((round_up(size, line) for size in sizes.values()), initial=0)
    memory = aligned_zeros(end, dtype)
    places = zip(sizes.items(), starts, strict=True)
    return {name: memory[start : start + size] for (name, size), start in places}


class State(NamedTuple):
    """What updates change besides the weights: arrays like them, or empty ones."""

    first_moment: np.ndarray
    second_moment: np.ndarray
    average: np.ndarray
    gradient: np.ndarray


def state_of(memory):
    """Those of a `Memory`."""
    return State(*(getattr(memory, name) for name in State._fields))


@lru_cache(maxsize=64)
def make_masks(dropout, first_dense=0):
    """What kernels know of a `fastbp.dropout.Dropout`, or of None."""
    if dropout is None:
        return Masks(np.zeros(0, np.int64), 0)
    first, *others = dropout.thresholds
    # A layer that embeds features drops nothing; nor does the output layer.
    thresholds = [first, *[0] * first_dense, *others, 0]
    return Masks(np.array(thresholds, np.int64), dropout.seed)


def make_scaling(layout, scaled, learns):
    """What kernels know of a network's scales; `scaled` is empty if there are none."""
    n_sums = 0
    if scaled.size and learns:
        fields = layout.table[layout.first_dense]
        n_sums = fields[N_PANELS] * fields[BIAS_ROW]
    return Scaling(
        scaled, aligned_zeros(n_sums, layout.dtype), layout.scales_start, layout.n_scale_chunks,
        layout.first_scale_block,
    )  # fmt: skip


def make_pairs(layout, weights, capacity):
    """Make those of a team, for products in bfloat16; `weights` is its array, or None."""
    if weights is None:
        return None
    n_pairs = layout.n_units * capacity // 2
    return Pairs(weights, *(aligned_zeros(n_pairs, np.int32) for _ in range(4)))


def make_thread_pairs(layout, input_rows):
    """Make those of one thread, for gathered batches of so many rows."""
    n_pairs = input_rows * layout.input_stride // 2
    return ThreadPairs(
        aligned_zeros(n_pairs, np.int32),
        aligned_zeros(n_pairs, np.int32),
        aligned_zeros(layout.transposed_size, np.int32),
    )


def rows_in_panels(layout, rows, has_amx):
    """How many rows panels of activations have, for batches of so many."""
    return round_up(rows, GROUP_ROWS if has_amx else max(TILE_ROWS, lanes(layout.dtype)))


def make_memory(
    layout, weights, scaled, state, masks, rows, learns=True, pairs=None, has_amx=False
):
    """Make the arrays that a team shares.

    Parameters
    ----------
    layout : Layout
    weights : ndarray of shape (layout.n_weights,)
    scaled : ndarray
        As from `Layout.scale`; empty without scales.
    state : State
    masks : Masks
    rows : int
        Rows of the largest batch.
    learns : bool, default=True
        Whether there are a backward pass and updates.
    pairs : ndarray of shape (layout.n_pairs,) or None, default=None
        For those of the weights, where products are in bfloat16.
    has_amx : bool, default=False
        Whether AMX makes them.
    """
    capacity = rows_in_panels(layout, rows, has_amx)
    units = layout.n_units * capacity
    return Memory(
        layers=layout.table.ravel(),
        capacity=capacity,
        weights=weights,
        **state._asdict(),
        gradient_norms=aligned_zeros(layout.n_blocks if state.gradient.size else 0, np.float64),
        activations=aligned_zeros(units, layout.dtype),
        deltas=aligned_zeros(units if learns else 0, layout.dtype),
        square_norms=aligned_zeros(layout.n_blocks if learns else 0, np.float64),
        row_losses=aligned_zeros(capacity if learns else 0, np.float64),
        control=aligned_zeros(CONTROL_SIZE, np.int64),
        masks=masks,
        bends=aligned_zeros(units if learns and layout.network.has_slopes else 0, layout.dtype),
        scaling=make_scaling(layout, scaled, learns),
        n_embedded=layout.network.n_embedded,
        pairs=make_pairs(layout, pairs, capacity),
    )


def make_workspace(
    layout, rows, entries=None, is_dense=True, skips_zeros=False, learns=True, drops=False,
    has_pairs=False, has_amx=False,
):  # fmt: skip
    """Make the arrays of one thread.

    Parameters
    ----------
    layout : Layout
    rows : int
        Rows of the largest batch.
    entries : Entries or None, default=None
        Memory for sparse rows.
    is_dense : bool, default=True
        Whether to make room for dense rows.
    skips_zeros : bool, default=False
        Whether tiles of the first layer skip steps whose inputs are all zero.
    learns : bool, default=True
        Whether there are gradients.
    drops : bool, default=False
        Whether there is dropout.
    has_pairs : bool, default=False
        Whether products are in bfloat16.
    has_amx : bool, default=False
        Whether AMX makes them.
    """
    vector, n_features = lanes(layout.dtype), layout.network.layer_sizes[0]
    n_outputs = layout.network.layer_sizes[-1]
    samples = vector * (OUTPUT_VECTORS if n_outputs <= MANY_OUTPUTS else 1)
    input_rows = round_up(rows, GROUP_ROWS if has_amx else TILE_ROWS) if is_dense else 0
    has_slopes, is_embedded = layout.network.has_slopes, layout.network.n_embedded > 0
    tile_size = max(layout.tile_size, EMBEDDING_SIZE if is_embedded else 0)
    columns = (1 + NUMBERS) * rows_in_panels(layout, rows, has_amx) if is_embedded else 0

    arrays = _aligned_arrays(
        layout.dtype,
        inputs=input_rows * layout.input_stride,
        transposed=layout.transposed_size,
        tile=tile_size,
        zeros=layout.tile_size // TILE_ROWS,
        one=1,
        samples=samples,
        outputs=round_up(n_outputs, vector) * samples,
        targets=round_up(n_outputs, vector) * samples,
        errors=round_up(n_outputs, vector) * samples,
        losses=n_outputs * samples,
        row=n_outputs,
        factors=layout.tile_size if drops or has_slopes else 0,
        bent=layout.tile_size if has_slopes else 0,
        columns=columns,
    )
    arrays["one"][0] = 1
    sums_in_blocks = learns and rows > BLOCK_ROWS and layout.dtype == np.float32
    amx = make_scratch(layout.panel, aligned_zeros) if has_amx else None
    summed = layout.tile_size if amx is None else amx.sums.size
    return Workspace(
        **arrays,
        totals=aligned_zeros(summed if sums_in_blocks else 0, np.float64),
        sums=aligned_zeros(EMBEDDING_SIZE if is_embedded and learns else 0, np.float64),
        group_steps=aligned_zeros(N_GROUP_STEPS * TABLE_WIDTH if learns else 0, np.float64),
        input_stride=layout.input_stride,
        lanes=vector,
        steps=make_steps(rows, n_features, learns) if skips_zeros else no_steps(),
        entries=entries,
        pairs=make_thread_pairs(layout, input_rows) if has_pairs else None,
        amx=amx,
    )
