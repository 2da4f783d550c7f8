"""What the estimators accept as data. X is not converted where the engines can read it as it is."""

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastbp.data import READABLE_DTYPES

# validate_data keeps the dtypes on this list and turns all others into the first.
_X_DTYPES = (np.float64, *READABLE_DTYPES)


def check_rows(estimator, X):
    """Check rows to predict.

    Parameters
    ----------
    estimator : fitted estimator
    X : array-like or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    X : ndarray or CSR, its columns in order and none twice in a row
        Not copied where it came so, and in one of `fastbp.data.READABLE_DTYPES`.
    """
    X = _check_sparse(X)
    X = validate_data(estimator, X, accept_sparse="csr", dtype=_X_DTYPES, reset=False)
    return _in_order(X)


def check_training_data(estimator, X, y, *, reset, numeric):
    """Check rows and targets to learn from.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` if `reset`, else they must agree.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    reset : bool
    numeric : bool
        Whether y holds numbers rather than labels.

    Returns
    -------
    X : ndarray or CSR
        As from `check_rows`.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), or CSR labels
        A single column is made flat, with a warning.
    """
    X, y = validate_data(
        estimator,
        _check_sparse(X),
        y,
        accept_sparse="csr",
        multi_output=True,
        y_numeric=numeric,
        dtype=_X_DTYPES,
        reset=reset,
    )
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y.toarray() if issparse(y) else y, warn=True)
    if numeric and y.dtype.kind not in "biuf":
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}; to predict labels use a classifier."
        )
    return _in_order(X), y


def _in_order(X):
    """Sort a CSR matrix's columns in a copy, if need be, and add up those that come twice.

    The engines' sums then have the bits of the dense matrix's.
    """
    if not issparse(X) or X.has_canonical_format:
        return X
    # Sums of whole numbers may not fit into their dtype.
    X = X.astype(X.dtype if X.dtype.kind == "f" else np.float64, copy=True)
    X.sum_duplicates()
    return X


def _check_sparse(X):
    """Check a sparse matrix's indices, which become addresses in the kernels unchecked.

    Returns
    -------
    X : as given
        Contiguous arrays, the indices of one dtype, in a matrix that shares those that were so.
    """
    if not issparse(X) or X.format not in ("csr", "csc", "coo", "bsr"):
        return X
    try:
        X = X.__class__(X)  # the checks replace arrays, but must not do so in the caller's matrix
        if X.format == "coo":  # whose constructor has checked them
            return X
        X.check_format(full_check=True)
        if X.nnz == 0 and X.indptr.any():
            raise ValueError("indptr must be a non-decreasing sequence")
    except ValueError as error:
        raise ValueError(f"X is not a valid {X.format.upper()} matrix: {error}.") from error
    for name in ("data", "indices", "indptr"):
        setattr(X, name, np.ascontiguousarray(getattr(X, name)))
    return X


def check_sample_weight(sample_weight, X):
    """Check sample weights: one for each row, finite, none negative, not all zero.

    Returns
    -------
    sample_weight : ndarray of shape (n_samples,), dtype float64, or None
    """
    if sample_weight is None:
        return None
    sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if sample_weight.min() < 0:
        raise ValueError(
            f"sample_weight must not be negative, got {sample_weight.min():g} in row "
            f"{sample_weight.argmin()}. A weight of 0 leaves a row out."
        )
    return sample_weight


def check_row_lists(rows, n_estimators, n_samples):
    """Turn the rows of every estimator into non-negative indices.

    Parameters
    ----------
    rows : sequence of array-like or None
        For each estimator row numbers, or a mask of booleans, or None for all rows.
    n_estimators, n_samples : int

    Returns
    -------
    rows : list of ndarray of int64, or None
        The same object where it was the same.
    """
    if rows is None:
        return [None] * n_estimators
    rows = list(rows)
    if len(rows) != n_estimators:
        raise ValueError(
            f"rows must have {n_estimators} entries, as estimators; it has {len(rows)}."
        )
    found = {}
    for position, given in enumerate(rows):
        if id(given) not in found:
            found[id(given)] = _check_indices(given, f"rows[{position}]", n_samples)
    return [found[id(given)] for given in rows]


def _check_indices(given, name, n_samples):
    if given is None:
        return None
    indices = np.asarray(given)
    if indices.dtype == np.bool_ and indices.shape == (n_samples,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold row numbers, at least one, or {n_samples} booleans; got an array of "
            f"shape {indices.shape} and dtype {indices.dtype}."
        )
    low, high = int(indices.min()), int(indices.max())
    if low < -n_samples or high >= n_samples:
        raise ValueError(
            f"{name} must hold row numbers from 0 to {n_samples - 1}, got {low} to {high}."
        )
    return np.where(indices < 0, indices + n_samples, indices).astype(np.int64)


def passes_as_it_is(estimator, X):
    """Whether `check_rows` would return X unchanged, unless a number is not finite.

    For one row the checks take most of the time, and for many that one takes a third of it: the
    engine sees every number anyway.

    Parameters
    ----------
    estimator : fitted estimator
    X : object

    Returns
    -------
    passes : bool
        Only for plain arrays without names; where it is False nothing is said about X yet.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in READABLE_DTYPES
        and X.shape[0] > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
    )
