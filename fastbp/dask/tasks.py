"""What workers do: functions without side effects, of arrays and records alone.

Nothing here knows of dask. Any worker may call them, and again, with the same result to the bit.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fastbp import devices
from fastbp.dask.dealing import deal, order_of
from fastbp.dask.rounds import Round
from fastbp.data import Data
from fastbp.schedules import PENALTY, ROWS, WEIGHT, Steps
from fastbp.sources.source import check_finite

KEPT_ORDERS = 4  # of shards and epochs, as an epoch has many rounds
_kept_order = lru_cache(KEPT_ORDERS)(order_of)


# ---- loading shards -----------------------------------------------------------------------------


def split(blocks, first, lengths, columns, n_shards, seed):
    """Deal the rows of some blocks that follow each other.

    Parameters
    ----------
    blocks : list of array or DataFrame
    first : int
        Number of the first block.
    lengths : ndarray of int
        Rows of all blocks.
    columns : Columns
    n_shards, seed : int

    Returns
    -------
    parts : list of ndarray
        Those of each shard.
    """
    start, parts = int(lengths[:first].sum()), []
    for number, block in enumerate(blocks, first):
        parts.append(columns.read(block, number, lengths))
    X = np.concatenate(parts)
    dealt = deal(start, start + len(X), n_shards, seed)
    ends = np.cumsum(np.bincount(dealt, minlength=n_shards))
    return np.split(X[np.argsort(dealt, kind="stable")], ends[:-1])


def take(block, number, lengths, columns, rows):
    """Some rows of a block, by their places in it."""
    return columns.read(block, number, lengths)[rows]


def count_rows(block):
    """The number of rows of a block."""
    return len(block)


def read_blocks(source, blocks):
    """Read blocks of a source, one after the other, into an array."""
    sizes = source.block_rows[blocks]
    X, end = np.empty((int(sizes.sum()), source.n_features), source.dtype), 0
    with source.open() as reader:
        for block, n_rows in zip(blocks.tolist(), sizes.tolist(), strict=True):
            reader.read(block, X[end : end + n_rows])
            end += n_rows
    return X


@dataclass(frozen=True)
class Columns:
    """What the blocks of a collection must be.

    Parameters
    ----------
    n_features : int
    dtype : numpy dtype
        One of `fastbp.data.READABLE_DTYPES`.
    """

    n_features: int
    dtype: np.dtype

    def read(self, block, number, lengths):
        """The rows of a block as an array, checked."""
        X, start = self.convert(block), int(lengths[:number].sum())
        expected = int(lengths[number]), self.n_features
        if X.shape != expected:
            raise ValueError(
                f"Block {number} of X has shape {X.shape}, but {expected} is expected: X, y and "
                "sample_weight must have the same partitions, and the same rows every time."
            )
        check_finite(X, start)
        return X

    def convert(self, block):
        """A block as an array of the dtype."""
        if hasattr(block, "to_numpy"):
            missing = {"na_value": np.nan} if self.dtype.kind == "f" else {}
            return block.to_numpy(dtype=self.dtype, **missing)
        X = np.asarray(block)
        if not np.can_cast(X.dtype, self.dtype):
            raise TypeError(
                f"X is said to have dtype {self.dtype}, but a block has {X.dtype}. Convert it by "
                "X.astype."
            )
        return X.astype(self.dtype, copy=False)


# ---- training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """What is to be learned from a shard's rows.

    Parameters
    ----------
    targets : ndarray
        As in `fastbp.data.Data`, but classes may be of any dtype.
    sample_weight : ndarray or None
    learned : ndarray of int64, or None
        The rows to learn from, where others are held out; None for all.
    """

    targets: np.ndarray
    sample_weight: np.ndarray | None
    learned: np.ndarray | None

    def data(self, X, input_scale):
        """The rows as engines take them."""
        targets = self.targets
        if targets.ndim == 1:
            targets = targets.astype(np.int64, copy=False)
        return Data(X, targets, self.sample_weight, input_scale)


@dataclass(frozen=True)
class Setup:
    """What all tasks of a fit need: see `fastbp.devices.make_engine`."""

    network: object
    dtype: np.dtype
    precision: str | None
    n_threads: int | None
    input_scale: float

    def engine(self, parameters):
        """An engine with parameters."""
        engine = devices.make_engine(
            self.network, self.dtype, self.n_threads, "cpu", self.precision
        )
        engine.load_parameters(parameters)
        return engine


@dataclass(frozen=True)
class Job:
    """What a shard is to do in a round.

    Parameters
    ----------
    shard : int
    round : Round
    steps : Steps
        Of full batches without sample weights.
    seed : int or None
        Of the shards' orders; None for that of their rows.
    """

    shard: int
    round: Round
    steps: Steps
    seed: int | None

    def order(self, lesson):
        """The rows of the round, in the order of their use."""
        n_rows = len(lesson.targets if lesson.learned is None else lesson.learned)
        if self.seed is None:
            order = np.arange(n_rows)
        else:
            order = _kept_order(n_rows, self.seed, self.round.epoch, self.shard)
        order = order[self.round.start : self.round.stop]
        return order if lesson.learned is None else lesson.learned[order]

    def steps_of(self, order, sample_weight):
        """The steps with the sizes and the weights of the batches of an order."""
        steps, size = self.steps, self.steps.batch_size
        starts = np.arange(0, len(order), size)
        table = steps.table[: len(starts)].copy()
        table[:, ROWS] = np.minimum(size, len(order) - starts)
        table[:, WEIGHT] = table[:, ROWS]
        if sample_weight is not None:
            table[:, WEIGHT] = np.add.reduceat(sample_weight[order], starts)
        with np.errstate(divide="ignore", invalid="ignore"):  # those without weight are left out
            table[:, PENALTY] = steps.alpha / table[:, WEIGHT]
        dropout = steps.dropout
        if dropout is not None:  # others in each shard
            seeds = np.random.SeedSequence([dropout.seed, self.shard])
            seed = int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1))
            dropout = replace(dropout, seed=seed)
        return replace(steps, table=table, dropout=dropout)


@dataclass(frozen=True)
class Replica:
    """A shard's state after a round: its mean loss, the weight of its rows, and the parameters."""

    loss: float
    weight: float
    parameters: np.ndarray
    moments: list


def train_round(X, lesson, state, setup, job):
    """Train a shard's replica in a round, from parameters and moments."""
    parameters, moments = state
    data, order = lesson.data(X, setup.input_scale), job.order(lesson)
    steps = job.steps_of(order, lesson.sample_weight)
    with setup.engine(parameters) as engine:
        engine.load_moments(moments)
        loss = engine.train_epoch(data, order, steps)
        weight = float(steps.table[:, WEIGHT].sum())
        return Replica(loss, weight, engine.store_parameters(), engine.store_moments())


def loss_and_gradient(X, lesson, parameters, setup):
    """The mean loss of a shard's rows by weight, and its gradient."""
    with setup.engine(parameters) as engine:
        return engine.loss_and_gradient(lesson.data(X, setup.input_scale))
