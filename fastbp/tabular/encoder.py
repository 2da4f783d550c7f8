"""From a table as it is to a matrix of numbers."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from fastbp.base import keeps_hints
from fastbp.tabular.encodings import ENCODINGS, CategoricalEncoding, placed
from fastbp.tabular.scaler import SmoothClipScaler
from fastbp.tabular.tables import as_table, read_columns
from fastbp.validation import check_columns

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import ArrayLike

    from fastbp.hints import Array, FloatArray


class TableEncoder(TransformerMixin, BaseEstimator):
    """Turn a table of numbers, texts, booleans and dates into a matrix of numbers.

    It reads pandas and polars DataFrames, pyarrow Tables, arrays and lists as they are, column by
    column. What becomes of a column is decided in `fit`, by its kind:

    - *numbers* (also Decimal, nullable dtypes, objects that are all numbers) stay as they are.
      Missing ones become the median. If some were missing in `fit`, a further column is 1 where
      they are and 0 elsewhere. Integers beyond 2**53 are rounded to float64. Durations become
      seconds, times of day seconds since midnight;
    - *booleans* become 1 and -1, missing ones 0;
    - *categories* become one column for each of the `max_categories` most frequent, 1 where it is
      and 0 elsewhere. Of exactly two categories a single column is made, of -1 and 1. Missing,
      rare and unknown categories give zeros. Categories are compared as texts, so that 1, 1.0 and
      "1" are one;
    - *dates and times*, also as texts in ISO 8601 ("2024-12-31", "2024-12-31 23:59:59"), become
      seconds since 1970. For each of the cycles year, week and day that the column runs through
      and varies in, sine and cosine of the place in the cycle follow. Times with a zone are taken
      as the clocks there show them. Missing ones are treated as missing numbers;
    - a column with no value at all gives nothing.

    Parameters
    ----------
    categorical_features : "from_dtype", None or array-like of bool, int or str, \
            default="from_dtype"
        Which columns hold categories, as in
        :class:`~sklearn.ensemble.HistGradientBoostingClassifier`:

        - "from_dtype": those of a categorical dtype or of texts; in an array of dtype object those
          that hold anything but numbers, booleans or dates. A text of digits is no number;
        - an array: a mask, the positions or the names. All others must hold numbers, booleans or
          dates;
        - None: no column.

    max_categories : int, default=255
        The most columns that are made of the categories of one column.

    Attributes
    ----------
    encodings_ : list of records
        For each column of X what becomes of it: `kind`, `position`, the `outputs` and the
        `indicator` among the encoded columns, `median` or `medians`, `cycles`, `categories`.

    n_numerical_ : int
        How many of the encoded columns are numbers; they come first. Indicators of missing numbers
        follow, then columns of -1 and 1, then those of categories.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had names that are all strings.

    See Also
    --------
    SmoothClipScaler : What the encoded columns are scaled by.
    make_preprocessing : Both in a pipeline.

    Examples
    --------
    >>> from fastbp.tabular import TableEncoder
    >>> rows = [[1.5, "red", True], [None, "blue", False], [2.5, "green", True]]
    >>> encoder = TableEncoder().fit(rows)
    >>> encoder.get_feature_names_out().tolist()
    ['x0', 'x0_missing', 'x2', 'x1_blue', 'x1_green', 'x1_red']
    >>> encoder.transform([[None, "violet", None]]).tolist()
    [[2.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    """

    _parameter_constraints: ClassVar = {
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
        "max_categories": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, categorical_features: Any = "from_dtype", *, max_categories: int = 255
    ) -> None:
        self.categorical_features = categorical_features
        self.max_categories = max_categories

    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the columns' kinds, medians and categories.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If X is sparse, or a cell holds a list or the like. Nothing changes.
        ValueError
            If X has no rows, no columns, two columns of one name, infinite numbers, or columns that
            are no categories and hold something else than numbers, booleans and dates.
        """
        self._learn(X)
        return self

    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def fit_transform(self, X: ArrayLike, y: Any = None) -> FloatArray:
        """Learn from a table and encode it.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
        y : None
            Ignored.

        Returns
        -------
        encoded : ndarray of shape (n_rows, n_encoded)
            As from `transform`.

        Raises
        ------
        TypeError, ValueError
            As in `fit`.
        """
        return self._encoded(*self._learn(X))

    def transform(self, X: ArrayLike) -> FloatArray:
        """Encode a table.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
            With the columns that it had in `fit`, in their order.

        Returns
        -------
        encoded : ndarray of shape (n_rows, n_encoded)
            In float64, for numbers that float32 cannot hold, column by column in memory.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError, ValueError
            As in `fit`, and if the columns are others or no longer hold numbers, booleans or dates
            where they did in `fit`.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        known = SimpleNamespace(n_features=self.n_features_in_, feature_names=names)
        table = as_table(X)
        check_columns(self, table, known)
        n_rows, _ = _checked_shape(table, self)
        return self._encoded(n_rows, read_columns(table))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> Array:
        """Names of the encoded columns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            The columns' names, where X had none; otherwise they must be those of `fit`.

        Returns
        -------
        names : ndarray of str objects
            "age" for a number or a boolean, "age_missing" for its indicator, "color_red" for a
            category, "date_week_sin" for a part of a date.
        """
        check_is_fitted(self)
        given = _check_feature_names_in(self, input_features)
        names = np.empty(self._n_features_out, object)
        for encoding, name in zip(self.encodings_, given, strict=True):
            names[[*encoding.outputs]] = encoding.output_names(name)
            if encoding.indicator is not None:
                names[encoding.indicator] = f"{name}_missing"
        return _different(names)

    def _learn(self, X):
        """Set what is learned, at the end; returns the columns for those who go on with them."""
        table = as_table(X)
        names = check_columns(self, table, None)
        n_rows, n_columns = _checked_shape(table, self)
        is_categorical = _mask(self.categorical_features, n_columns, names)
        columns = [*read_columns(table)]
        encodings = []
        for position, column in enumerate(columns):
            kind = _kind(column, None if is_categorical is None else is_categorical[position])
            if kind == "categorical":
                encoding = CategoricalEncoding.fitted(position, column, self.max_categories)
            else:
                encoding = ENCODINGS[kind].fitted(position, column)
            encodings.append(encoding)
        encodings, n_outputs = placed(encodings)
        if n_outputs == 0:
            raise ValueError("X has no column with a value in it: there is nothing to learn from.")
        self.encodings_, self._n_features_out = encodings, n_outputs
        self.n_numerical_ = sum(encoding.n_numbers for encoding in encodings)
        validate_data(self, table, skip_check_array=True)  # sets the number and names of columns
        return n_rows, columns

    def _encoded(self, n_rows, columns):
        encoded = np.zeros((n_rows, self._n_features_out), order="F")
        for encoding, column in zip(self.encodings_, columns, strict=True):
            encoding.encode(column, encoded)
        return encoded

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags


def make_preprocessing(
    categorical_features: Any = "from_dtype", *, max_categories: int = 255
) -> Pipeline:
    """Make the pipeline that prepares a table for a network: encoder, then scaler.

    Parameters
    ----------
    categorical_features : "from_dtype", None or array-like, default="from_dtype"
        Which columns hold categories; see `TableEncoder`.

    max_categories : int, default=255
        The most columns that are made of the categories of one column.

    Returns
    -------
    preprocessing : Pipeline
        Of the steps "encoder" and "scaler", not fitted. It gives arrays of float32, whatever
        scikit-learn's configuration says of the outputs of transformers.

    Examples
    --------
    >>> from fastbp.tabular import make_preprocessing
    >>> preprocessing = make_preprocessing()
    >>> preprocessing.fit_transform([[1, "a"], [2, "b"], [4, "c"]]).shape
    (3, 4)
    >>> preprocessing["encoder"].n_numerical_
    1
    """
    encoder = TableEncoder(categorical_features, max_categories=max_categories)
    steps = [("encoder", encoder), ("scaler", SmoothClipScaler())]
    return Pipeline(steps).set_output(transform="default")


def _checked_shape(table, encoder):
    n_rows, n_columns = table.shape
    for number, what in ((n_rows, "sample(s)"), (n_columns, "feature(s)")):
        if number == 0:
            raise ValueError(
                f"Found array with 0 {what} (shape={table.shape}) while a minimum of 1 is required "
                f"by {type(encoder).__name__}."
            )
    return n_rows, n_columns


def _kind(column, is_categorical):
    """What a column is treated as; `is_categorical` is None where its dtype says it."""
    if is_categorical is None:
        return column.kind()
    kind = replace(column, declared=False).kind()
    if is_categorical and kind != "empty":
        return "categorical"
    if kind == "categorical":
        raise ValueError(
            f"Column {column.name} holds something else than numbers, booleans or dates, but is "
            "not among categorical_features: name it there, or set "
            'categorical_features="from_dtype".'
        )
    return kind


def _mask(categorical_features, n_columns, names):
    """Which columns are categories, or None where their dtypes say it."""
    if categorical_features is None:
        return np.zeros(n_columns, bool)
    if isinstance(categorical_features, str):
        return None
    given = np.asarray(categorical_features)
    kind = given.dtype.kind
    if kind == "O" and all(isinstance(item, str) for item in given.flat):
        kind = "U"
    if given.ndim != 1 or (given.size and kind not in "biuU"):
        raise ValueError(
            "categorical_features must be an array-like of bool, int or str, got "
            f"{categorical_features!r}."
        )
    mask = np.zeros(n_columns, bool)
    if kind == "b":
        if len(given) != n_columns:
            raise ValueError(
                "categorical_features set as a boolean mask must have shape (n_features,), got: "
                f"{given.shape}, but X has {n_columns} columns."
            )
        mask[:] = given
    elif kind == "U":
        mask[[_position(name, names) for name in given]] = True
    elif given.size:
        if given.min() < 0 or given.max() >= n_columns:
            raise ValueError(
                "categorical_features set as integer indices must be in [0, n_features - 1], got "
                f"{categorical_features!r}, but X has {n_columns} columns."
            )
        mask[given] = True
    return mask


def _position(name, names):
    if names is None:
        raise ValueError(
            f"categorical_features has the name {str(name)!r}, but the columns of X have no names: "
            "use their positions, or a boolean mask."
        )
    position = np.flatnonzero(names == name)
    if not len(position):
        raise ValueError(
            f"categorical_features has the name {str(name)!r}, which is none of X's columns: "
            f"{names.tolist()}."
        )
    return position[0]


def _different(names):
    """Names, those that came before with a number behind them: frames have no name twice."""
    taken = {*names.tolist()}
    if len(taken) == len(names):
        return names
    seen = set()
    for place, name in enumerate(names):
        number = 1
        while names[place] in seen or (number > 1 and names[place] in taken):
            number += 1
            names[place] = f"{name}_{number}"
        seen.add(names[place])
    return names
