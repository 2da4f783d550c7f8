"""A source as the data of several fits: checked once, encoded once where alike, read by each."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from fastbp.epochs import InMemory
from fastbp.late import imported
from fastbp.shared_data import Shared, check_kinds
from fastbp.sources.streaming import (
    check_columns_of,
    encode_by_parts,
    refuse,
    stand_in,
    streamed_rows,
)
from fastbp.validation import check_sample_weight


@dataclass
class SharedSource(Shared):
    """The rows of a source for all fits of `fit_many`, as `fastbp.base` has them for one.

    Parameters
    ----------
    source : fastbp.sources.source.Source
        What fits its buffer has been read, and is an array for all; else each fit reads by itself.
    """

    source: object = None

    @classmethod
    def of(cls, estimators, source, y, sample_weight, rows, own):
        """The data, checked; raise if a call has given what belongs to the source."""
        if rows is not None:
            raise ValueError(
                "rows is given beside a source, whose rows are all learned from. Make a source of "
                "the rows that are wanted, or use rows=None."
            )
        y, weight = source.targets(y, sample_weight)
        X = source.load() if source.fits else stand_in(source, np.uint8)
        checked, own = check_kinds(estimators, X, y, own, source.feature_names)
        given = (X, y, weight) if source.fits else (source, None, None)
        weight = check_sample_weight(weight, X)
        if not source.fits:
            checked = _with_rows(checked, stand_in(source, source.dtype))
        no_rows = [None] * len(estimators)
        return cls(given[0], checked, weight, no_rows, own, given, source=source)

    @property
    def shape(self):
        """Rows and columns of the source."""
        return self.source.shape

    def columns(self, estimator, model):
        """As of `Shared`; the names are the source's."""
        if not self.source.fits:
            refuse(estimator, self.source)
        if model is not None:
            check_columns_of(self.source, estimator, model)
        return self.source.feature_names

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return InMemory() if self.source.fits else streamed_rows(self.source, fit)

    def encode(self, fit, y, dtype):
        """As of `Shared`, in little memory."""
        return fit.encode(y, dtype) if self.source.fits else encode_by_parts(fit, y, dtype)

    def __getstate__(self):
        """Without what stands for rows that are read, which a pickle would hold as numbers."""
        state = super().__getstate__()
        if not self.source.fits:
            return state | {"checked_data": _with_rows(self.checked_data, None)}
        # Perhaps it cannot be pickled, and nobody will read from it.
        source = self.source
        known = SimpleNamespace(fits=True, shape=source.shape, feature_names=source.feature_names)
        return state | {"source": known}

    def __setstate__(self, state):
        vars(self).update(state)
        if not self.source.fits:
            rows = stand_in(self.source, self.source.dtype)
            self.checked_data = _with_rows(self.checked_data, rows)

    def check_sendable(self):
        """Raise if the source cannot be opened by another process."""
        if not self.source.fits:
            without_targets(self.source)


def without_targets(source):
    """A copy of a source that only reads X, for the workers of a cluster.

    Raises
    ------
    TypeError
        If it cannot be sent.
    """
    reader = copy(source)
    reader.y = reader.sample_weight = None
    try:
        imported("distributed.protocol.pickle").dumps(reader)
    except Exception as error:
        raise TypeError(
            "The source cannot be sent to the workers of client, each of which would read it: "
            f"{error} Use a source that pickle takes, such as from_npy, from_parquet with a "
            "cache, or from_blocks with a function of a module; or train here, without a client."
        ) from error
    return reader


def _with_rows(checked_data, X):
    """The same with another X."""
    return {kind: (X, *rest) for kind, (_, *rest) in checked_data.items()}
