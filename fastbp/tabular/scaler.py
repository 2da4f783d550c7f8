"""Robust scaling with a smooth clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from fastbp.tabular.quantiles import weighted_quantiles
from fastbp.validation import check_columns, check_sample_weight

if TYPE_CHECKING:
    from typing import Any, Self

    from numpy.typing import ArrayLike

    from fastbp.hints import FloatArray

_BLOCK = 16384  # so many numbers stay in the cache from one operation to the next
LIMIT = 3.0
QUARTILES = 0.25, 0.5, 0.75


class SmoothClipScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scale columns by their medians and quartiles, and bend what is far out smoothly towards ±3.

    A column x becomes z = (x - median) · factor and then z / sqrt(1 + (z/3)²). The factor is
    1 / (q75 - q25), the distance of the quartiles; where they are equal, as in most columns of
    zeros and ones, 2 / (max - min); in constant columns 0. Outliers can so not drive a network's
    first layer, however far out they are, and keep their order.

    Attributes
    ----------
    medians_ : ndarray of shape (n_features_in_,)
        The columns' medians, in float64.

    factors_ : ndarray of shape (n_features_in_,)
        What the distances from the medians are multiplied by.

    n_features_in_ : int
        Number of columns.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had names that are all strings.

    See Also
    --------
    sklearn.preprocessing.RobustScaler : The same without the clip, but for columns whose quartiles
        are equal.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart: Better by Default: Strong Pre-Tuned MLPs and Boosted
    Trees on Tabular Data. NeurIPS 2024. https://arxiv.org/abs/2407.04491

    Examples
    --------
    >>> from fastbp.tabular import SmoothClipScaler
    >>> scaler = SmoothClipScaler().fit([[1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> scaler.transform([[3.0], [5.0], [1e300]]).ravel()
    array([0.       , 0.9486833, 3.       ], dtype=float32)
    """

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the columns' medians and quartiles.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, at least 0. Whole numbers count: a row of weight 3 stands for
            three. Of others only the proportions matter.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X has missing or infinite values. Nothing changes.
        """
        check_columns(self, X, None)
        values = check_array(X, dtype=[np.float64, np.float32], estimator=self, input_name="X")
        weight = check_sample_weight(sample_weight, values)
        if weight is not None:
            values, weight = values[weight > 0], weight[weight > 0]
        learned = [_median_and_factor(column, weight) for column in values.T]
        validate_data(self, X, skip_check_array=True)
        self.medians_, self.factors_ = np.array(learned).T
        return self

    def transform(self, X: ArrayLike) -> FloatArray:
        """Scale and bend.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)

        Returns
        -------
        scaled : ndarray of shape (n_rows, n_columns)
            In float32, between -3 and 3, computed in float64.

        Raises
        ------
        ValueError
            If X has missing or infinite values, or other columns than in `fit`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        scaled = np.empty(X.shape, np.float32)
        # Quarters: the difference of two large numbers may be larger than there is.
        medians, factors = self.medians_ * 0.25, self.factors_ * 4
        n_rows = max(_BLOCK // X.shape[1], 16)
        for start in range(0, len(X), n_rows):
            z = np.multiply(X[start : start + n_rows], 0.25, dtype=np.float64)
            z -= medians
            with np.errstate(over="ignore"):
                z *= factors
            np.clip(z, -1e100, 1e100, out=z)  # whose squares are finite
            bend = z / LIMIT
            bend *= bend
            bend += 1.0
            z /= np.sqrt(bend, out=bend)
            scaled[start : start + n_rows] = z
        return scaled

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _median_and_factor(column, weight):
    quarters = np.ascontiguousarray(column, np.float64) * 0.25
    least, most = quarters.min(), quarters.max()
    if least == most:
        return float(column[0]), 0.0
    q25, middle, q75 = (
        _quartiles(quarters, least, most)
        if weight is None
        else weighted_quantiles(quarters, QUARTILES, weight)
    )
    width = q75 - q25 if q75 > q25 else (most - least) / 2
    # The inverse of a subnormal number may be infinite, and its product with 0 none.
    return 4 * middle, min(0.25 / width, np.finfo(np.float64).max / 4)


def _quartiles(values, least, most):
    """Quantiles by linear interpolation, without sorting what has two values only."""
    n_most = np.count_nonzero(values == most)
    if np.count_nonzero(values == least) + n_most < len(values):
        return np.quantile(values, QUARTILES)
    places = np.array(QUARTILES) * (len(values) - 1) - (len(values) - n_most - 1)
    return least + (most - least) * np.clip(places, 0, 1)
