"""What goes up to the device: a fit's rows once, an epoch's order and steps every epoch."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse


@dataclass(frozen=True)
class SparseRows:
    """A CSR matrix on the device: `values` as X came, `columns` int32, `starts` int64."""

    values: object
    columns: object
    starts: object
    shape: tuple


@dataclass(frozen=True)
class DeviceData:
    """A fit's rows on the device, uploaded once.

    Parameters
    ----------
    X : device array of shape (n_samples, n_features), or SparseRows
        C-contiguous and of the dtype in which it came (bool as uint8); float64 only where the
        parameters are float64, else float32.
    targets : device array or None
        Classes of shape (n_samples,) and dtype int32, or numbers of shape (n_samples, n_outputs)
        in the parameters' dtype.
    sample_weight : device array of shape (n_samples,), dtype float64, or None
    input_scale : float
        Multiplies X as it is read.
    """

    X: object
    targets: object
    sample_weight: object
    input_scale: float

    @classmethod
    def upload(cls, device, data, dtype, with_targets=True):
        """Bring a `fastbp.data.Data` to the device."""
        targets = weight = None
        if with_targets:
            is_class = data.targets.ndim == 1
            targets = device.upload(data.targets.astype(np.int32 if is_class else dtype))
            if data.sample_weight is not None:
                weight = device.upload(np.asarray(data.sample_weight, np.float64))
        return cls(upload_rows(device, data.X, dtype), targets, weight, float(data.input_scale))


def upload_rows(device, X, dtype):
    """Bring X to the device, a dense array or a CSR matrix."""
    if issparse(X):
        values = device.upload(_narrow(X.data, dtype))
        starts = device.upload(X.indptr.astype(np.int64))
        return SparseRows(values, device.upload(X.indices.astype(np.int32)), starts, X.shape)
    return device.upload(_narrow(X, dtype))


def _narrow(array, dtype):
    """As an array goes up: no wider than the arithmetic, and bytes for booleans."""
    if array.dtype == np.bool_:
        return array.view(np.uint8) if array.flags.c_contiguous else array.astype(np.uint8)
    if array.dtype == np.float64 and dtype == np.float32:
        with np.errstate(over="ignore"):  # the outputs will show it
            return array.astype(np.float32)
    return array


@dataclass(frozen=True)
class Epoch:
    """One epoch's order and steps.

    Parameters
    ----------
    order : device array of int32, shape (n_steps * batch_size,)
        Rows of X. Step s takes those from `s * batch_size` on, `table[s, ROWS]` of them.
    table : device array of float64, shape (n_steps, TABLE_WIDTH)
        The steps, as `fastbp.schedules` plans them.
    host_table : ndarray
        The same.
    alpha : float

    Notes
    -----
    `order` and `table` are the same device arrays in all epochs of an engine with as many rows and
    the same batch size, so graphs may hold their addresses.
    """

    order: object
    table: object
    host_table: np.ndarray
    alpha: float

    @property
    def n_steps(self):
        """Steps, skipped ones included."""
        return len(self.host_table)
