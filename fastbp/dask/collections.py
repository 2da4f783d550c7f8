"""Rows in a dask array or dataframe: what is known of them, and how shards are made of them."""

import operator
import sys
from functools import partial

import numpy as np

from fastbp.clusters import Computed, run_together
from fastbp.dask import tasks
from fastbp.late import imported
from fastbp.sources.source import readable

MOST_GROUPS = 64  # of blocks that are dealt at once: the graph has as many tasks for each shard


def is_collection(X):
    """Whether X is something of dask's, which may not have been imported yet."""
    dask = sys.modules.get("dask.base")
    return dask is not None and dask.is_dask_collection(X)


def is_array(collection):
    """Whether it is a dask array rather than a dataframe."""
    array = sys.modules.get("dask.array")
    return array is not None and isinstance(collection, array.Array)


def blocks_of(collection, name="X"):
    """The blocks of a collection from the first row to the last, all columns in one, delayed."""
    if is_array(collection):
        if collection.ndim == 2:
            collection = collection.rechunk({1: -1})
        return collection.to_delayed().ravel().tolist()
    if not hasattr(collection, "to_delayed") or not hasattr(collection, "divisions"):
        raise TypeError(
            f"{name} must be a dask array or dataframe, got a {type(collection).__name__}."
        )
    return list(collection.to_delayed())


def fetch(client, recipes):
    """The values of delayed objects, brought here."""
    computed = Computed.together(client, recipes)
    try:
        return run_together(client, [each.current for each in computed])
    finally:
        for each in computed:
            each.forget()


def fetch_arrays(client, collection, name):
    """The blocks of a collection as arrays."""
    return [np.asarray(each) for each in fetch(client, blocks_of(collection, name))]


def joined(parts):
    """One array of all, but not of those without rows, which may have another dtype."""
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


class Collection:
    """Rows in a dask array or dataframe; like a source, it has its y and sample weights here.

    Parameters
    ----------
    client : distributed.Client
    X : dask array or dataframe
    y, sample_weight : dask array, series or dataframe, or array-like
        Dask's are brought here.
    """

    def __init__(self, client, X, y, sample_weight):
        self._client = client
        self._blocks = blocks_of(X)
        if X.ndim != 2:
            raise ValueError(f"X must have two dimensions, got {X.ndim}.")
        self.n_features, self.dtype, self.feature_names = _columns_of(X)
        self._columns = tasks.Columns(self.n_features, self.dtype)
        if y is None:
            raise ValueError("y must be given beside X: it is None.")
        self.y, lengths = self._here(y, "y")
        self.sample_weight = None
        if sample_weight is not None:
            self.sample_weight, _ = self._here(sample_weight, "sample_weight")
        self.block_rows = self._lengths(X, lengths)
        n_rows = self.shape[0]
        for name, each in (("y", self.y), ("sample_weight", self.sample_weight)):
            if each is not None and (each.ndim == 0 or len(each) != n_rows):
                raise ValueError(f"X has {n_rows} rows, but {name} has shape {each.shape}.")

    @property
    def shape(self):
        """Rows and columns."""
        return int(self.block_rows.sum()), self.n_features

    def targets(self, y=None, sample_weight=None):
        """Its y and sample weights."""
        return self.y, self.sample_weight

    def _here(self, given, name):
        """An array of what is given, and the lengths of its blocks if it is dask's."""
        if not is_collection(given):
            return np.asarray(given), None
        parts = fetch_arrays(self._client, given, name)
        return joined(parts), [len(part) for part in parts]

    def _lengths(self, X, lengths_of_y):
        """The rows of each block."""
        if is_array(X) and not np.isnan(X.chunks[0]).any():
            return np.array(X.chunks[0], np.int64)
        if lengths_of_y is None or len(lengths_of_y) != len(self._blocks):
            count = imported("dask").delayed(tasks.count_rows, pure=False)
            lengths_of_y = fetch(self._client, [count(block) for block in self._blocks])
        return np.array(lengths_of_y, np.int64)

    def rows_at(self, rows):
        """Some rows, in the order of their numbers, brought here."""
        take, end = imported("dask").delayed(tasks.take, pure=False), 0
        recipes, start = [], 0
        for number, (block, n_rows) in enumerate(zip(self._blocks, self.block_rows, strict=True)):
            begin, end = end, int(np.searchsorted(rows, start + n_rows))
            if end > begin:
                places = rows[begin:end] - start
                recipes.append(take(block, number, self.block_rows, self._columns, places))
            start += n_rows
        return np.concatenate(fetch(self._client, recipes))

    def shards(self, n_shards, seed):
        """The rows of each shard, as recipes."""
        delayed = partial(imported("dask").delayed, pure=False)
        full = np.flatnonzero(self.block_rows)  # a block without rows may have another dtype
        runs = np.split(full, np.flatnonzero(np.diff(full) > 1) + 1)
        n_parts = -(-len(full) // MOST_GROUPS)
        groups = [
            run[start : start + n_parts] for run in runs for start in range(0, len(run), n_parts)
        ]
        parts = [
            delayed(tasks.split)(
                [self._blocks[number] for number in group], int(group[0]), self.block_rows,
                self._columns, n_shards, seed,
            )
            for group in groups
        ]  # fmt: skip
        pick, join = delayed(operator.getitem), delayed(np.concatenate)
        recipes = [join([pick(part, shard) for part in parts]) for shard in range(n_shards)]
        return Computed.spread(self._client, recipes)


def _columns_of(X):
    """The number, the dtype and the names of the columns of a collection."""
    if is_array(X):
        if np.isnan(X.shape[1]):
            raise ValueError("X must have a known number of columns.")
        return int(X.shape[1]), readable(X.dtype), None
    dtypes = []
    for name, dtype in X.dtypes.items():
        dtype = getattr(dtype, "numpy_dtype", dtype)  # of what may be missing
        if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
            raise TypeError(
                f"Column {name!r} of X has dtype {dtype}, but must hold numbers. Encode it before."
            )
        dtypes.append(dtype)
    names = list(X.columns)
    are_strings = all(isinstance(name, str) for name in names)
    return (
        len(names), readable(np.result_type(*dtypes)),
        np.array(names, dtype=object) if are_strings else None,
    )  # fmt: skip
