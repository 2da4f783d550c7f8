"""Training and predicting from a source, buffer by buffer.

What the loops of training ask of their rows (`fastbp.epochs`) is answered here. A buffer of blocks
is a `Data`, as the engines take it; its rows are shuffled, and those that fill no whole batch are
carried over to the front of the next buffer. So an epoch has the batches, and the step table, that
it has in memory; only the order of its rows is drawn otherwise (`fastbp.sources.order`). Targets
and sample weights of all rows are in memory, classes as small as they can be.
"""

import math
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import devices
from fastbp.data import Data
from fastbp.epochs import InMemory, check_weight
from fastbp.fingerprints import of_targets
from fastbp.fitting import GivenData
from fastbp.initialisation import INITIALISATIONS
from fastbp.labels import pack_bytes
from fastbp.sources.ahead import ReadAhead
from fastbp.sources.order import MOST_SEED, BlockOrder, OrderedBySeed
from fastbp.validation import (
    check_columns,
    check_sample_weight,
    check_training_data,
    kind_of_targets,
)
from fastbp.warned import warn

ENCODED_AT_ONCE = 2**20  # labels


class GivenSource:
    """A source as the data of a fit: like `fastbp.fitting.GivenData`.

    Parameters
    ----------
    source : fastbp.sources.source.Source
    own : fastbp.judging.OwnRows or None
        Validation rows.
    """

    rows = None  # all of them

    def __init__(self, source, own):
        self.source, self.own = source, own

    @property
    def raw(self):
        """X as it was given."""
        return self.source

    def as_given(self):
        """X, y and sample_weight."""
        return self.source, None, None

    def check(self, estimator, model):
        """Check y, weights and what can be said of X before it is read.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Of the dtype of the source, without memory: there are only zeros in it.
        y, feature_names, sample_weight : as from `fastbp.fitting.GivenData.check`
        """
        refuse(estimator, self.source)
        X = stand_in(self.source, np.uint8)
        checked = _check(estimator, model, self.source, X)
        return stand_in(self.source, self.source.dtype), *checked[1:]

    def check_validation(self, estimator, n_features, feature_names):
        """Check the validation rows; None without."""
        return self.own and self.own.check(estimator, n_features, feature_names)

    def encode(self, fit, y, dtype):
        """Turn y into targets and labels, and count the columns of targets."""
        return encode_by_parts(fit, y, dtype)

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return streamed_rows(self.source, fit)


class LoadedSource(GivenData):
    """A source that has been read into memory, as the data of a fit."""

    def __init__(self, source, own):
        super().__init__(source.load(), *source.targets(), own)
        object.__setattr__(self, "source", source)

    def check(self, estimator, model):
        """Check all of it: see `fastbp.fitting.GivenData.check`."""
        return _check(estimator, model, self.source, self.X)


def _check(estimator, model, source, X):
    """Check X, or what stands for it, and what belongs to it; columns have the source's names."""
    y, weight = source.targets()
    known = None
    if model is not None:
        _check_names(model, source)
        known = SimpleNamespace(n_features=model.n_features, feature_names=None)
    X, y, _ = check_training_data(estimator, X, y, model=known, **kind_of_targets(estimator))
    return X, y, source.feature_names, check_sample_weight(weight, X)


def encode_by_parts(fit, y, dtype):
    """Turn y into targets and labels, and count the columns of targets, in little memory."""
    if fit.estimator._numeric_targets or y.ndim > 1:
        return fit.encode(y, dtype)
    # By parts, as sorting takes some times the memory of what is sorted.
    parts = np.array_split(y, -(-len(y) // ENCODED_AT_ONCE))
    classes = np.unique(np.concatenate([np.unique(part) for part in parts]))
    # scikit-learn takes rows that are all different for numbers.
    _, labels, n_outputs = fit.encode(np.repeat(classes, 4), dtype)

    def encode(part):
        targets = labels.encode(part, dtype)
        is_class = targets.ndim == 1
        return targets.astype(np.min_scalar_type(len(labels.classes))) if is_class else targets

    return np.concatenate([encode(pack_bytes(part)) for part in parts]), labels, n_outputs


def streamed_rows(source, fit):
    """Who has the rows of a training that stay in a source."""
    if fit.device == "cuda":
        raise InvalidParameterError(
            f"device={fit.estimator.device!r} is not for sources: rows are read for the CPU. "
            "Use device='cpu'."
        )
    return StreamedRows(source, fit.incremental)


def stand_in(source, dtype):
    """An array of a source's shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), source.shape)


def refuse(estimator, source):
    """Raise where a parameter asks for what is not done with sources."""
    if INITIALISATIONS[estimator.initialization].needs_sample:
        raise InvalidParameterError(
            f"initialization={estimator.initialization!r} is not for sources: it is fitted to "
            "rows that are drawn from all. Use initialization='glorot'."
        )
    if source.shape[0] == 0:
        raise ValueError("The source has no rows.")


def _check_names(model, source):
    """See that columns have the names that they had in training, if both are known."""
    if model.feature_names is None or source.feature_names is None:
        return
    if list(model.feature_names) != list(source.feature_names):
        raise ValueError(
            f"The columns of the source must be those of training, in that order. They are "
            f"{list(source.feature_names)}, but were {list(model.feature_names)}."
        )


def check_columns_of(source, estimator, model):
    """See that a source has the columns of a model."""
    _check_names(model, source)
    known = SimpleNamespace(n_features=model.n_features, feature_names=None)
    check_columns(estimator, stand_in(source, np.uint8), known)


def _rounded_down(share):
    """A share below 1 in two digits that are not more than it."""
    digits = 1 - math.floor(math.log10(share))
    return f"{math.floor(share * 10**digits) / 10**digits:.{digits}f}"


def draw_held_out(block_rows, fraction, seed):
    """Draw the same fraction of the rows of each block.

    Parameters
    ----------
    block_rows : ndarray of int
        Rows of each block.
    fraction : float
    seed : int

    Returns
    -------
    is_held_out : ndarray of bool of shape (n_rows,)

    Raises
    ------
    ValueError
        If fewer than two rows would be held out, or none left.
    """
    n_rows = int(block_rows.sum())
    ends = np.round(fraction * np.cumsum(block_rows)).astype(np.int64)
    counts, mask, start = np.diff(ends, prepend=0), np.zeros(n_rows, bool), 0
    for block, (n_block, n_held_out) in enumerate(zip(block_rows, counts, strict=True)):
        draws = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, block])))
        mask[start + draws.permutation(n_block)[:n_held_out]] = True
        start += n_block
    n_held_out = int(mask.sum())
    if n_held_out < 2 or n_held_out == n_rows:
        raise ValueError(
            f"validation_fraction={fraction} of {n_rows} rows are {n_held_out} to be held out: at "
            "least two must be, and one left. Change validation_fraction, or use more rows."
        )
    return mask


class StreamedRows(OrderedBySeed):
    """The rows of a training that stay in a source: like `fastbp.epochs.InMemory`.

    Parameters
    ----------
    source : fastbp.sources.source.Source
    incremental : bool
        Whether there is one epoch only.
    """

    def __init__(self, source, incremental):
        self._source, self._incremental = source, incremental
        self._held_out = None  # whether each row is; None if none is
        self._order = self._ahead = None
        self._told = 0.0

    def fingerprint(self, data):
        """What the source knows, and all targets and weights; the order depends on the buffer."""
        known = self._source.fingerprint() | {"buffer": str(self._source.buffer_bytes)}
        return known | of_targets(data)

    # ---- held-out rows ------------------------------------------------------------------------

    def hold_out(self, data, fraction, random_state, labels):
        """Draw rows for early stopping, the same fraction of each block.

        Returns
        -------
        train : ndarray of bool of shape (n_samples,)
        held_out : ndarray of int64
        """
        source, seed = self._source, random_state.randint(MOST_SEED)
        n_rows, row_bytes = source.shape[0], source.row_bytes
        n_most = source.buffer_bytes // row_bytes
        if fraction * n_rows > n_most:
            raise ValueError(
                f"validation_fraction={fraction} of {n_rows} rows of a source are to be held out, "
                f"but they are kept in memory, and buffer={source.buffer!r} has room for {n_most}. "
                f"Use validation_fraction={_rounded_down(n_most / n_rows)}, a larger buffer, or "
                "validation rows of your own as X_val and y_val."
            )
        self._held_out = mask = draw_held_out(source.block_rows, fraction, seed)
        return ~mask, np.flatnonzero(mask)

    def bring(self, judge, data):
        """Read a judge's held-out rows into memory."""
        if judge is None or judge.rows is None:
            return judge
        source, rows, end = self._source, judge.rows, 0
        X, start = np.empty((len(rows), source.n_features), source.dtype), 0
        block_rows = np.empty((int(source.block_rows.max()), source.n_features), source.dtype)
        with source.open() as reader:
            for block, n_rows in enumerate(source.block_rows):
                reader.read(block, block_rows[:n_rows])
                begin, end = end, int(np.searchsorted(rows, start + n_rows))
                X[begin:end] = block_rows[rows[begin:end] - start]
                start += n_rows
        targets = judge.targets
        if targets.ndim == 1:
            targets = targets.astype(np.int64)
        own = Data(X, targets, judge.sample_weight, data.input_scale)
        return replace(judge, targets=targets, rows=None, own=own, raw=X)

    # ---- training -----------------------------------------------------------------------------

    make_engine, plan = InMemory.make_engine, InMemory.plan

    def begin(self, training):
        """Begin the first epoch; return how many rows there are to learn from."""
        self._order = BlockOrder(self._source, training.settings.shuffle, self._seed)
        self._check_first_buffer(training)
        n_rows = self._source.shape[0]
        return n_rows if self._held_out is None else n_rows - int(self._held_out.sum())

    def _check_first_buffer(self, training):
        """Warn where batches that come one after the other seem to be sorted by class."""
        source, targets = self._source, training.data.targets
        if not (source.is_sequential and self._order.n_groups > 1 and targets.ndim == 1):
            return
        first = self._order.groups(0)[0]
        classes, seen = np.unique(targets), np.unique(targets[: source.block_rows[first].sum()])
        if len(seen) < len(classes):
            warn(
                f"The first buffer has rows of {len(seen)} of {len(classes)} classes: batches that "
                "come one after the other are shuffled within a buffer only. Shuffle the rows "
                "before, raise buffer, or use from_blocks, which reads blocks in random order."
            )

    def epochs_ahead(self, training, planner, n_rows, most):
        """None: every epoch is read in pieces."""

    def pieces(self, training, planner, n_rows):
        """Yield the pieces of the next epoch; rows beyond `n_rows` are left out."""
        settings, data = training.settings, training.data
        epoch = len(training.progress.loss_curve)  # of all calls that go on from each other
        batch_size = planner.batch_size
        if self._ahead is None:
            n_epochs = 1 if self._incremental else settings.max_iter - training.progress.n_iter
            self._start(self._jobs(range(epoch, epoch + n_epochs)), batch_size)
        order, done = None, 0
        if data.sample_weight is not None:  # batches differ by what they weigh
            plan = self._plan(epoch, n_rows, batch_size)
            order = np.concatenate([ids[order[:n_used]] for ids, order, n_used, _ in plan])
            if settings.drop_last:
                check_weight(data.sample_weight[order], training.progress.n_iter + 1)
        steps, carried = planner.next_epoch(order), None
        for ids, order, n_used, n_carried in self._plan(epoch, n_rows, batch_size):
            filled = self._ahead.take()
            X = filled.room[len(filled.room) - len(ids) :]
            if n_carried:
                X[:n_carried] = carried
            n_steps = -(-n_used // batch_size)
            if n_used:
                table = steps.table[done : done + n_steps]
                yield self._data_of(X, ids, data), order[:n_used], replace(steps, table=table)
            carried, done = X[order[n_used:]], done + n_steps

    def _plan(self, epoch, n_rows, batch_size):
        """Yield for each buffer which rows it has, in what order how many are used, and more.

        Those not used are carried over: the last is how many come first that have been.
        """
        carried, n_left = np.zeros(0, np.int64), n_rows
        groups = self._order.groups(epoch)
        for group, blocks in enumerate(groups):
            ids = np.concatenate([carried, self._order.rows(blocks)])
            order = np.arange(len(ids))
            if self._held_out is not None:
                order = order[~self._held_out[ids]]
            self._order.shuffle_rows(order, epoch, group)
            n_used = min(n_left, len(order))
            if group + 1 < len(groups):
                n_used -= n_used % batch_size
            n_left -= n_used
            yield ids, order, n_used, len(carried)
            carried = ids[order[n_used:]]

    def _jobs(self, epochs):
        for epoch in epochs:
            for blocks in self._order.groups(epoch):
                yield blocks, None

    def _start(self, jobs, batch_size=1):
        """Begin to read."""
        order, source = self._order, self._source
        if batch_size > order.most_rows:
            raise ValueError(
                f"batch_size={batch_size} is more than the {order.most_rows} rows of a buffer of "
                f"buffer={source.buffer!r}. Use a smaller batch_size, or a larger buffer."
            )
        self._ahead = ReadAhead(source, jobs, order.most_rows, n_head=batch_size - 1)
        self._ahead.__enter__()

    def _data_of(self, X, ids, data):
        """A buffer as engines take it."""
        targets, weight = data.targets[ids], data.sample_weight
        if targets.ndim == 1:
            targets = targets.astype(np.int64)
        return Data(X, targets, None if weight is None else weight[ids], data.input_scale)

    def loss_and_gradient(self, engine, data):
        """The weighted mean loss of all rows and its gradient, summed over the buffers."""
        if self._ahead is None:
            self._order = BlockOrder(self._source, shuffle=False)
            self._start(self._jobs(count()))
        loss_sum, gradient_sum, weight_sum = 0.0, 0.0, 0.0
        for blocks in self._order.groups(0):
            piece = self._data_of(self._ahead.take().rows, self._order.rows(blocks), data)
            weight = piece.sample_weight
            weight = float(piece.n_samples if weight is None else weight.sum())
            if weight:
                loss, gradient = engine.loss_and_gradient(piece)
                loss_sum += weight * loss
                gradient_sum = gradient_sum + weight * gradient.astype(np.float64)
                weight_sum += weight
        return loss_sum / weight_sum, (gradient_sum / weight_sum).astype(engine.dtype)

    def seconds_waited(self):
        """For how long training has waited for rows since the last call."""
        told, self._told = self._told, self._ahead.seconds_waiting
        return self._told - told

    def close(self):
        """End the reading."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()


# ---- prediction ---------------------------------------------------------------------------------


def outputs_of(estimator, model, source, activation=None):
    """Yield a model's outputs for the rows of a source, in order, buffer by buffer.

    Parameters
    ----------
    estimator : estimator
    model : Model
    source : fastbp.sources.source.Source
    activation : str or None, default=None
        As of `Engine.predict`.
    """
    check_columns_of(source, estimator, model)
    network, dtype, order = model.network, model.parameter_dtype(), BlockOrder(source, False)
    jobs = ((blocks, None) for blocks in order.groups(0))
    with ExitStack() as stack:
        engine = devices.make_engine(network, dtype, estimator.n_threads, estimator.device)
        stack.enter_context(engine)
        ahead = stack.enter_context(ReadAhead(source, jobs, order.most_rows))
        engine.load_parameters(model.flat(dtype, copy=False))
        for filled in ahead:
            data = Data(filled.rows, input_scale=model.input_scale)
            outputs = engine.predict(data, None, activation)
            estimator._check_outputs(engine, dtype)
            yield outputs
