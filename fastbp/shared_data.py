"""The data of all fits of `fit_many`: checked once, encoded once where alike, and never copied."""

from collections import Counter
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from sklearn.utils import _safe_indexing

from fastbp.epochs import InMemory
from fastbp.validation import (
    check_columns,
    check_row_lists,
    check_sample_weight,
    check_training_data,
    kind_of_targets,
)


@dataclass
class Shared:
    """The data of all fits: checked once for each kind of y, labels encoded once where alike.

    Parameters
    ----------
    raw : array-like or sparse matrix
        X as it was given, possibly with feature names.
    checked_data : dict
        What `kind_of_targets` says of y -> X and y as `check_training_data` returns them.
    sample_weight : ndarray of shape (n_samples,) or None
    rows : list of ndarray or None
    own : dict
        Likewise -> the validation rows, checked, or None.
    given : tuple
        X, y and sample_weight as they were given.
    """

    raw: object
    checked_data: dict
    sample_weight: np.ndarray | None
    rows: list
    own: dict
    given: tuple
    encoded: dict = field(default_factory=dict)
    lock: object = field(default_factory=Lock)

    def __post_init__(self):
        self.uses = Counter(map(id, self.rows))

    def __getstate__(self):
        """The data alone, for other fits in another process."""
        return {**vars(self), "rows": [], "encoded": {}, "lock": None}

    def part(self, rows):
        """The same data for other fits, which learn from these rows (None for all)."""
        return replace(self, rows=rows, encoded={}, lock=Lock())

    @property
    def shape(self):
        """Rows and columns of X."""
        return next(iter(self.checked_data.values()))[0].shape

    def shape_of(self, index):
        """Rows that estimator `index` learns from, and columns."""
        rows = self.rows[index]
        n_samples, n_features = self.shape
        return n_samples if rows is None else len(rows), n_features

    def data_of(self, index):
        """The data of estimator `index`, as `Fit.prepare` takes them."""
        return SharedData(self, index)

    def columns(self, estimator, model):
        """Check what belongs to an estimator alone; return the names of X's columns, or None."""
        if model is None:
            return self.checked_data[tuple(kind_of_targets(estimator).values())][2]
        return check_columns(estimator, self.raw, model)

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return InMemory()

    def encode(self, fit, y, dtype):
        """Turn y into targets and labels, and count the columns of targets."""
        return fit.encode(y, dtype)

    def check_sendable(self):
        """Raise if the data cannot be sent to another process: all of these can."""

    @classmethod
    def checked(cls, estimators, X, y, sample_weight, rows, own):
        data, own = check_kinds(estimators, X, y, own)
        first = next(iter(data.values()))[0]
        weight = check_sample_weight(sample_weight, first)
        rows = check_row_lists(rows, len(estimators), first.shape[0])
        return cls(X, data, weight, rows, own, (X, y, sample_weight))


def check_kinds(estimators, X, y, own, names=None):
    """Check X, y and validation rows, once for each kind of y.

    Parameters
    ----------
    estimators : list of estimators
    X, y : object
    own : OwnRows or None
    names : ndarray or None, default=None
        Of the columns, where X does not know them.

    Returns
    -------
    checked_data, own : dict
        See `Shared`.
    """
    data, checked_own = {}, {}
    for estimator in estimators:
        kind = kind_of_targets(estimator)
        key = tuple(kind.values())
        if key not in data:
            checked = check_training_data(type(estimator)(), X, y, model=None, **kind)
            data[key] = (*checked[:2], checked[2] if names is None else names)
            checked_own[key] = own and own.check(estimator, checked[0].shape[1], data[key][2])
    return data, checked_own


@dataclass(frozen=True)
class SharedData:
    """One estimator's part of the shared data, as `Fit.prepare` takes it.

    Parameters
    ----------
    shared : Shared
    index : int
        Of the estimator.
    """

    shared: Shared
    index: int

    @property
    def rows(self):
        """The rows of X to learn from, or None for all."""
        return self.shared.rows[self.index]

    def check(self, estimator, model):
        """The same as `fastbp.fitting.GivenData.check`, with y and weights of `rows` only."""
        shared, rows = self.shared, self.rows
        names = shared.columns(estimator, model)
        X, y, _ = shared.checked_data[tuple(kind_of_targets(estimator).values())]
        weight = shared.sample_weight
        if rows is not None:
            y, weight = y[rows], None if weight is None else weight[rows]
            weight = check_sample_weight(weight, y)
        return X, y, names, weight

    @property
    def raw(self):
        """X as it was given."""
        return self.shared.raw

    def as_given(self):
        """X, y and sample_weight of `rows`."""
        X, y, weight = self.shared.given
        if self.rows is None:
            return X, y, weight
        weight = None if weight is None else _safe_indexing(weight, self.rows)
        return _safe_indexing(X, self.rows), _safe_indexing(y, self.rows), weight

    def check_validation(self, estimator, n_features, feature_names):
        """The validation rows, which have been checked; None without."""
        return self.shared.own[tuple(kind_of_targets(estimator).values())]

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return self.shared.rows_of(fit)

    def encode(self, fit, y, dtype):
        """Encode y, or reuse what an earlier estimator encoded from the same."""
        estimator, shared, rows = fit.estimator, self.shared, self.rows
        # Class weights, and in which units a regressor learns, come after this.
        choices = tuple(getattr(estimator, name) for name in estimator._encoding)
        key = type(estimator), choices, dtype, id(rows)
        with shared.lock:
            if fit.goes_on or (rows is not None and shared.uses[id(rows)] == 1):
                return shared.encode(fit, y, dtype)
            if key not in shared.encoded:
                shared.encoded[key] = shared.encode(fit, y, dtype)
            return shared.encoded[key]
