"""The arrays that a fit or a prediction runs over, as the engines take them."""

from dataclasses import dataclass

import numpy as np

# Dtypes that the engines read in place, whatever the strides; others are converted first.
_READABLE = "float32 float64 bool uint8 int8 uint16 int16 uint32 int32 uint64 int64"
READABLE_DTYPES = tuple(map(np.dtype, _READABLE.split()))


@dataclass(frozen=True)
class Data:
    """Rows to learn from or to predict.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features) or CSR matrix or array
        Of a dtype in `READABLE_DTYPES`, any strides, read-only or not. Rows are converted to the
        engine's dtype as they are gathered; X as a whole never is. Of sparse rows only the entries
        are read, in their order: if columns are sorted and unique in each row, results have the
        same bits as the dense matrix's, except in float32 for batches of more than 384 rows.
    targets : ndarray or None
        Class indices of shape (n_samples,) and dtype int64, where outputs are exclusive classes;
        otherwise numbers of shape (n_samples, n_outputs), read like X. NaN is a missing one, which
        leaves loss and gradient. None to predict only.
    sample_weight : ndarray of shape (n_samples,), dtype float64, or None
    input_scale : float, default=1.0
        Multiplies every number of X as it is gathered.
    """

    X: object
    targets: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    input_scale: float = 1.0

    @property
    def n_samples(self):
        """Rows of X."""
        return self.X.shape[0]


def is_source(X):
    """Whether X is one of `fastbp.sources`, which may not have been imported yet."""
    return getattr(type(X), "is_source_of_rows", False)
