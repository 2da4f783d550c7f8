"""The data of a fit on a cluster: who has the rows, and how they become shards."""

from dataclasses import replace
from functools import partial

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp.clusters import Computed, ShippedPart
from fastbp.dask import tasks
from fastbp.dask.collections import Collection
from fastbp.dask.dealing import PAGE, deal
from fastbp.dask.engine import ClusterEngine, Shard
from fastbp.dask.rounds import choose_n_shards, local_plan, rounds_of
from fastbp.data import Data
from fastbp.epochs import InMemory
from fastbp.fingerprints import digest, of_rows, of_targets
from fastbp.fitting import GivenData
from fastbp.initialisation import INITIALISATIONS
from fastbp.late import imported
from fastbp.precisions import LOW_PRECISIONS
from fastbp.schedules import RATE, SHRINKAGE, StepPlanner
from fastbp.sources.order import MOST_SEED, OrderedBySeed
from fastbp.sources.shared import without_targets
from fastbp.sources.streaming import GivenSource, StreamedRows, draw_held_out

SAMPLED_ROWS = 16  # of a collection, by which a checkpoint knows it


def refuse(estimator):
    """Raise where a parameter asks for what is not done on a cluster."""
    if estimator.device != "cpu":
        raise InvalidParameterError(
            f"device={estimator.device!r} is not for a cluster, whose workers train on CPUs. Use "
            "device='cpu'."
        )
    if estimator.drop_last:
        raise InvalidParameterError(
            "drop_last=True is not for a cluster, where each shard has batches of its own. Use "
            "drop_last=False."
        )


def refuse_sampling(estimator):
    """Raise where initial parameters are fitted to rows, which are not here."""
    if INITIALISATIONS[estimator.initialization].needs_sample:
        raise InvalidParameterError(
            f"initialization={estimator.initialization!r} is not for rows on a cluster: it is "
            "fitted to rows that are drawn from all. Use initialization='glorot', or give arrays."
        )


class GivenArrays(GivenData):
    """Arrays that are here, as the data of a fit on a cluster."""

    def __init__(self, client, X, y, sample_weight, own):
        super().__init__(X, y, sample_weight, own)
        object.__setattr__(self, "_client", client)

    def check(self, estimator, model):
        """Check all of it."""
        checked = super().check(estimator, model)
        object.__setattr__(self, "_X", checked[0])
        return checked

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return ShardedRows(ArrayRows(self._client, self._X), fit)


class GivenCollection(GivenSource):
    """A collection of dask's as the data of a fit on a cluster: its X stays there."""

    def __init__(self, client, X, y, sample_weight, own):
        super().__init__(Collection(client, X, y, sample_weight), own)
        self._client, self._X = client, X

    @property
    def raw(self):
        """X as it was given."""
        return self._X

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return ShardedRows(CollectionRows(self._client, self.source), fit)


class GivenSourceOnCluster(GivenSource):
    """A source as the data of a fit on a cluster, whose workers open it."""

    def __init__(self, client, source, own):
        super().__init__(source, own)
        self._client = client

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return ShardedRows(SourceRows(self._client, self.source), fit)


# ---- where the rows come from -------------------------------------------------------------------


class ArrayRows:
    """Rows that are here, and are sent to the workers.

    Parameters
    ----------
    client : distributed.Client
    X : ndarray or CSR
    """

    def __init__(self, client, X):
        self.client, self._X = client, X
        self.n_rows = X.shape[0]

    def fingerprint(self, data):
        """What tells the rows from others: all of their numbers."""
        return of_rows(data)

    def check(self, n_shards):
        """See that there is something for each shard."""
        refuse_more_shards(n_shards, self.n_rows, "rows")

    def deal(self, n_shards, seed):
        """The shard of each row."""
        return deal(0, self.n_rows, n_shards, seed)

    def shards(self, n_shards, seed, dealt):
        """The rows of each shard, as `fastbp.clusters.Shipped`."""
        return [
            ShippedPart(self.client, partial(_part, self._X, dealt, shard), place=shard)
            for shard in range(n_shards)
        ]

    def hold_out(self, data, fraction, random_state, labels):
        """Draw rows for early stopping, as in memory."""
        return InMemory().hold_out(data, fraction, random_state, labels)

    def bring(self, judge, data):
        """Let a judge of held-out rows have them at hand: they are."""
        return judge


def _part(values, dealt, shard):
    return values[np.flatnonzero(dealt == shard)]


class CollectionRows(ArrayRows):
    """Rows of a collection of dask's."""

    def __init__(self, client, collection):
        self.client, self._collection = client, collection
        self.n_rows = collection.shape[0]

    def fingerprint(self, data):
        """What tells the rows from others: all targets and weights, but only some rows of X."""
        rows = np.unique(np.linspace(0, self.n_rows - 1, SAMPLED_ROWS).astype(np.int64))
        sampled = digest(self._collection.rows_at(rows), kind=self._collection.shape)
        return {"X": sampled, **of_targets(data)}

    def shards(self, n_shards, seed, dealt):
        """The rows of each shard: workers exchange them."""
        return self._collection.shards(n_shards, seed)

    def hold_out(self, data, fraction, random_state, labels):
        """Draw the same fraction of all rows that follow each other."""
        pages = np.diff(np.arange(0, self.n_rows, PAGE), append=self.n_rows)
        mask = draw_held_out(pages, fraction, random_state.randint(MOST_SEED))
        return ~mask, np.flatnonzero(mask)

    def bring(self, judge, data):
        """Bring a judge's held-out rows here."""
        if judge is None or judge.rows is None:
            return judge
        X, targets = self._collection.rows_at(judge.rows), judge.targets
        if targets.ndim == 1:
            targets = targets.astype(np.int64)
        own = Data(X, targets, judge.sample_weight, data.input_scale)
        return replace(judge, targets=targets, rows=None, own=own, raw=X)


class SourceRows:
    """Rows of a source, of which blocks are dealt and read by the workers."""

    def __init__(self, client, source):
        self.client, self._source = client, source
        self.n_rows = source.shape[0]
        streamed = StreamedRows(source, incremental=False)
        self.hold_out, self.bring = streamed.hold_out, streamed.bring
        if source.is_sequential:
            raise TypeError(
                "Batches that come one after the other cannot be shared out to workers. Use "
                "sources.from_blocks, from_npy or from_parquet."
            )
        self._sent = without_targets(source)

    def fingerprint(self, data):
        """What the source knows, and all targets and weights."""
        return self._source.fingerprint() | of_targets(data)

    def check(self, n_shards):
        """See that there is something for each shard."""
        refuse_more_shards(n_shards, len(self._source.block_rows), "blocks of the source")

    def deal(self, n_shards, seed):
        """The shard of each row."""
        blocks = self._source.block_rows
        return np.repeat(deal(0, len(blocks), n_shards, seed), blocks)

    def shards(self, n_shards, seed, dealt):
        """The rows of each shard, as recipes."""
        read = imported("dask").delayed(tasks.read_blocks, pure=False)
        blocks = deal(0, len(self._source.block_rows), n_shards, seed)
        recipes = [read(self._sent, np.flatnonzero(blocks == shard)) for shard in range(n_shards)]
        return Computed.spread(self.client, recipes)


def refuse_more_shards(n_shards, n_most, what):
    """Raise if there are more shards than something."""
    if n_shards > n_most:
        raise InvalidParameterError(
            f"n_shards={n_shards} is more than the {n_most} {what}. Use at most {n_most}, or "
            "n_shards='auto'."
        )


# ---- training -----------------------------------------------------------------------------------


class ShardedRows(OrderedBySeed, InMemory):
    """The rows of a training on a cluster: like `fastbp.epochs.InMemory`.

    Parameters
    ----------
    rows : ArrayRows, CollectionRows or SourceRows
    fit : fastbp.fitting.Fit
    """

    def __init__(self, rows, fit):
        estimator = fit.estimator
        self._rows, self._n_rounds = rows, estimator.rounds
        self._n_shards = estimator.n_shards
        if self._n_shards == "auto":
            self._n_shards = choose_n_shards(rows.n_rows, estimator.solver)
        rows.check(self._n_shards)
        self._held_out = None
        self._shards, self._plan = [], None

    def fingerprint(self, data):
        """What tells the rows from others, and the number of shards that they are dealt to."""
        return self._rows.fingerprint(data) | {"the number of shards": str(self._n_shards)}

    def hold_out(self, data, fraction, random_state, labels):
        """Draw rows for early stopping."""
        train, held_out = self._rows.hold_out(data, fraction, random_state, labels)
        self._held_out = np.zeros(self._rows.n_rows, bool)
        self._held_out[held_out] = True
        return train, held_out

    def bring(self, judge, data):
        """Let a judge of held-out rows have them at hand."""
        return self._rows.bring(judge, data)

    def make_engine(self, fit, n_threads):
        """An engine on the cluster; the shards are made meanwhile."""
        training, estimator = fit.training, fit.estimator
        low = estimator.precision if estimator.precision in LOW_PRECISIONS else None
        data = training.data
        local = fit.make_engine(n_threads)
        setup = tasks.Setup(local.network, np.dtype(local.dtype), low, n_threads, data.input_scale)
        self._shards = self._make_shards(data)
        seed = self._seed if training.settings.shuffle else None
        return ClusterEngine(local, self._rows.client, self._shards, setup, seed)

    def _make_shards(self, data):
        rows, n_shards = self._rows, self._n_shards
        dealt = rows.deal(n_shards, self._seed)
        handles = rows.shards(n_shards, self._seed, dealt)
        learns = np.ones(rows.n_rows, bool) if self._held_out is None else ~self._held_out
        n_rows = np.bincount(dealt, learns, n_shards).astype(int)
        weights = n_rows.astype(np.float64)
        if data.sample_weight is not None:
            weights = np.bincount(dealt, learns * data.sample_weight, n_shards)
        return [
            Shard(
                handle,
                ShippedPart(rows.client, partial(self._lesson, data, dealt, shard), place=shard),
                int(n_rows[shard]),
                float(weights[shard]),
            )
            for shard, handle in enumerate(handles)
        ]

    def _lesson(self, data, dealt, shard):
        rows = np.flatnonzero(dealt == shard)
        weight, learned = data.sample_weight, None
        if self._held_out is not None:
            learned = np.flatnonzero(~self._held_out[rows])
        return tasks.Lesson(data.targets[rows], None if weight is None else weight[rows], learned)

    def plan(self, training, n_rows, batch_size):
        """Who plans the steps of the largest shard."""
        settings = training.settings
        is_linear = training.optimizer.rule.is_linear
        plan = self._plan = local_plan(self._n_shards, batch_size, settings.alpha, is_linear)
        most = max(shard.n_rows for shard in self._shards)
        return StepPlanner(
            training.optimizer, most, min(plan.batch_size, most), None, plan.alpha,
            settings.max_iter,
        )  # fmt: skip

    def begin(self, training):
        """Begin the first epoch; return how many rows there are to learn from."""
        return sum(shard.n_rows for shard in self._shards)

    def pieces(self, training, planner, n_rows):
        """Yield the rounds of the next epoch."""
        epoch = len(training.progress.loss_curve)  # of all calls that go on from each other
        steps = planner.next_epoch(None)
        size = planner.batch_size
        for part, each in rounds_of(epoch, len(steps.table), self._n_rounds, size):
            table = steps.table[part].copy()
            table[:, [RATE, SHRINKAGE]] *= self._plan.rate_factor
            yield training.data, each, replace(steps, table=table)

    def close(self):
        """Let the workers drop all shards."""
        shards, self._shards = self._shards, []
        for shard in shards:
            shard.X.forget()
            shard.lesson.forget()
