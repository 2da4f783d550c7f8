"""What the estimators accept as data. X is not converted where the engines can read it as it is."""

from copy import copy
from functools import cache
from numbers import Number

import numpy as np
from scipy.sparse import csr_array, csr_matrix, issparse
from sklearn.utils import check_array, column_or_1d, get_tags
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastbp.data import READABLE_DTYPES

# validate_data keeps the dtypes on this list and turns all others into the first.
_X_DTYPES = (np.float64, *READABLE_DTYPES)
_CSR_TYPES = csr_matrix, csr_array
_PASSING_DTYPES = tuple(dtype for dtype in READABLE_DTYPES if dtype != np.bool_)


class _Columns:
    """What scikit-learn's checks read and set on an estimator: the number and names of columns.

    A stand-in, so that checks neither change the estimator nor read what a fit in another thread
    has just changed.
    """

    def __init__(self, estimator, model):
        self._tags = get_tags(estimator)
        if model is not None:
            self.n_features_in_ = model.n_features
            if model.feature_names is not None:
                self.feature_names_in_ = model.feature_names

    def __sklearn_tags__(self):
        return self._tags


@cache
def _columns_class(name):
    """`_Columns` under an estimator's name, which messages contain."""
    return type(name, (_Columns,), {})


def _columns_of(estimator, model):
    return _columns_class(type(estimator).__name__)(estimator, model)


def check_columns(estimator, X, model):
    """Check the number and the names of X's columns, and nothing else.

    Parameters
    ----------
    estimator : estimator
    X : array-like or sparse matrix
    model : Model or None
        Whose features they must be; None takes any.

    Returns
    -------
    feature_names : ndarray of shape (n_features,) or None
    """
    columns = _columns_of(estimator, model)
    validate_data(columns, X, reset=model is None, skip_check_array=True)
    return getattr(columns, "feature_names_in_", None)


def refuse_sparse(network, X):
    """Raise where a network embeds features, which is for dense rows."""
    if network.n_embedded and issparse(X):
        raise TypeError(
            "Sparse data was passed for X, but numerical_embedding needs dense data: its numbers "
            "are not 0 where x is. Use '.toarray()' to convert, or numerical_embedding=None."
        )


def check_rows(estimator, model, X):
    """Check rows to predict.

    Parameters
    ----------
    estimator : estimator
    model : Model
        The estimator's, whose features X must have.
    X : array-like or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    X : ndarray or CSR, its columns in order and none twice in a row
        Not copied where it came so, and in one of `fastbp.data.READABLE_DTYPES`.
    """
    refuse_sparse(model.network, X)
    columns = _columns_of(estimator, model)
    X = validate_data(columns, _check_sparse(X), accept_sparse="csr", dtype=_X_DTYPES, reset=False)
    return with_plain_booleans(_in_order(X))


def kind_of_targets(estimator):
    """What `check_training_data` is to expect of an estimator's y."""
    numeric = estimator._numeric_targets
    return {"numeric": numeric, "missing": numeric and estimator.missing_targets == "ignore"}


def check_training_data(estimator, X, y, *, model, numeric, missing=False):
    """Check rows and targets to learn from.

    Parameters
    ----------
    estimator : estimator
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    model : Model or None
        Whose features X must have; None takes any.
    numeric : bool
        Whether y holds numbers rather than labels.
    missing : bool, default=False
        Whether numbers may be NaN.

    Returns
    -------
    X : ndarray or CSR
        As from `check_rows`.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), or CSR labels
        A single column is made flat, with a warning.
    feature_names : ndarray of shape (n_features,) or None
    """
    if not numeric:
        check_labels(y)
    columns, is_missing = _columns_of(estimator, model), None
    if missing and y is not None:
        y = check_targets(y, missing)
        is_missing = np.isnan(y)
        y = np.where(is_missing, 0, y)
    X, y = validate_data(
        columns,
        _check_sparse(X),
        y,
        accept_sparse="csr",
        multi_output=True,
        y_numeric=numeric,
        dtype=_X_DTYPES,
        reset=model is None,
    )
    if is_missing is not None and is_missing.any():
        y = np.where(is_missing, np.nan, y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y.toarray() if issparse(y) else y, warn=True)
    if numeric and y.dtype.kind not in "biuf":
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}; to predict labels use a classifier."
        )
    names = getattr(columns, "feature_names_in_", None)
    return with_plain_booleans(_in_order(X)), with_plain_booleans(y), names


def check_targets(y, missing=False):
    """Check numbers to learn or to be compared with.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    missing : bool, default=False
        Whether they may be NaN.

    Returns
    -------
    y : ndarray of the same shape
    """
    return check_array(
        y.toarray() if issparse(y) else y,
        dtype="numeric",
        ensure_2d=False,
        ensure_all_finite="allow-nan" if missing else True,
        input_name="y",
    )


def with_plain_booleans(array):
    """Return booleans whose bytes are all 0 or 1; other arrays, and most booleans, as they are.

    A view of a mask of other bytes as booleans is legal. NumPy counts every byte but 0 as true, but
    kernels read bytes, and so do np.unique and SciPy's sums.
    """
    if array.dtype != np.bool_:
        return array
    values = array.data if issparse(array) else array
    if not values.size or values.view(np.uint8).max() <= 1:
        return array
    if not issparse(array):
        return values.view(np.uint8) != 0
    plain = array.copy()
    plain.data = values.view(np.uint8) != 0
    return plain


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
    if getattr(sample_weight, "dtype", None) == np.bool_:
        sample_weight = with_plain_booleans(np.asarray(sample_weight))
    sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if sample_weight.min() < 0:
        raise ValueError(
            f"sample_weight must not be negative, got {sample_weight.min():g} in row "
            f"{sample_weight.argmin()}. A weight of 0 leaves a row out."
        )
    if not sample_weight.any():  # which scikit-learn itself refuses from version 1.9 on
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return sample_weight


def check_labels(y, name="y"):
    """See that no class label is missing, and that all are of one kind.

    Otherwise NumPy's sorting would fail, or turn numbers beside strings into strings.

    Parameters
    ----------
    y : object
        Labels as a user gives them. Only what may hold objects, and has one dimension, is looked
        at.
    name : str, default="y"
        For the message.

    Raises
    ------
    ValueError
        It says in which rows, and what would be right.
    """
    if issparse(y) or y is None:
        return
    try:
        labels = np.asarray(y)
        if labels.dtype.kind in "US" and not isinstance(y, np.ndarray):
            labels = np.asarray(y, dtype=object)  # numbers of a list have become strings
    except (TypeError, ValueError):  # no array at all: the checks to come say so
        return
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.ndim != 1 or labels.dtype.kind not in "Of":
        return
    if labels.dtype.kind == "f":
        missing, kinds = np.flatnonzero(np.isnan(labels)), {}
    else:
        missing = [row for row, label in enumerate(labels) if _is_missing(label)]
        kinds = {}
        for row, label in enumerate(labels):
            kinds.setdefault(_kind_of(label), row)
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{name} contains NaN or other missing labels in {len(missing)} of {len(labels)} rows "
            f"({shown}), such as {labels[missing[0]]!r}. Leave these rows out, or give them a "
            "label of their own."
        )
    if len(kinds) > 1:
        shown = " and ".join(f"{labels[row]!r} in row {row}" for row in kinds.values())
        raise ValueError(
            f"{name} mixes labels of different kinds: {shown}. Convert all to one, for example to "
            "strings."
        )


def _is_missing(label):
    """Whether a label is None, NaN, NaT or pandas.NA, which alone do not equal themselves."""
    if label is None:
        return True
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA is neither true nor false
        return True
    except ValueError:  # an array
        return False


def _kind_of(label):
    """What a label can be sorted among."""
    for kind in (str, bytes):
        if isinstance(label, kind):
            return kind
    return Number if isinstance(label, Number | np.bool_) else type(label)


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
    indices = with_plain_booleans(np.asarray(given))
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


def passing_rows(model, X):
    """X where `check_rows` would return it unchanged, unless a number is not finite; else None.

    For one row the checks take most of the time, and for many that one takes a third of it: the
    engine sees every number anyway.

    Parameters
    ----------
    model : Model
    X : object

    Returns
    -------
    X : ndarray or CSR, or None
        Only plain arrays and CSR matrices, without names; where it is None nothing is said about X
        yet. A matrix is another one with the same arrays, which nobody else can replace.
    """
    if type(X) is not np.ndarray:
        if type(X) not in _CSR_TYPES or model.network.n_embedded:
            return None
        X = copy(X)
    passes = (
        X.ndim == 2
        and X.dtype in _PASSING_DTYPES
        and X.shape[0] > 0
        and X.shape[1] == model.network.layer_sizes[0]
        and model.feature_names is None
        and (type(X) is np.ndarray or _is_orderly(X))
    )
    return X if passes else None


def _is_orderly(X):
    """Whether a CSR matrix's arrays can be read as they are: its indices become addresses."""
    arrays = values, columns, starts = X.data, X.indices, X.indptr
    if not all(type(array) is np.ndarray and array.flags.c_contiguous for array in arrays):
        return False
    return (
        columns.dtype == starts.dtype
        and columns.dtype in (np.int32, np.int64)
        and starts.shape == (X.shape[0] + 1,)
        and values.shape == columns.shape == (starts[-1],)
        and starts[0] == 0
        and bool((starts[1:] >= starts[:-1]).all())
        and (not len(columns) or (columns.min() >= 0 and columns.max() < X.shape[1]))
        and bool(X.has_canonical_format)
    )
