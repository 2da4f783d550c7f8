"""What all sources of rows have in common, and what they must offer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from fastbp.data import READABLE_DTYPES
from fastbp.fingerprints import digest

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from fastbp.hints import Array

BUFFER = "64MB"
LEAST_BLOCKS = 64  # in a buffer: with fewer, rows sorted by class are not shuffled well
MOST_ROWS = 2**19  # in a buffer: each has some 50 bytes beside X, for its place and its targets
_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}


class Source(ABC):
    """Rows that stay where they are, in blocks that are read by number.

    Estimators take it in the place of X, and y and the sample weights from it.

    Parameters
    ----------
    buffer : int or str
        See `from_npy`.

    Attributes
    ----------
    n_features : int
    dtype : numpy dtype
        Of the rows in a buffer, one of `fastbp.data.READABLE_DTYPES`.
    block_rows : ndarray of shape (n_blocks,), dtype int64
        Rows of each block, which is never empty.
    y : ndarray or None
        Targets of all rows, in the order of the blocks; None to predict only.
    sample_weight : ndarray or None
    feature_names : ndarray of str, or None
    """

    is_source_of_rows = True  # see `fastbp.data.is_source`
    is_sequential = False  # whether blocks can only be read one after the other
    ndim = 2
    feature_names: Any = None
    if TYPE_CHECKING:
        n_features: int
        dtype: np.dtype[Any]
        block_rows: Array
        y: Array | None
        sample_weight: Array | None

    def __init__(self, buffer: int | str = BUFFER) -> None:
        self.buffer = buffer
        self.buffer_bytes = _read_size(buffer)

    # ---- what a source offers -----------------------------------------------------------------

    @abstractmethod
    def open(self) -> Any:
        """Open what is needed to read.

        Returns
        -------
        reader : context manager with a method `read`
            ``read(block, out)`` fills an array of shape (block_rows[block], n_features). It is
            called in one thread at a time.
        """

    # ---- what follows -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.block_rows.sum()), self.n_features

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a buffer."""
        return self.n_features * self.dtype.itemsize

    @property
    def most_rows(self) -> int:
        """Rows that a buffer has room for."""
        return self.buffer_bytes // self.row_bytes

    @property
    def fits(self) -> bool:
        """Whether one buffer has room for all rows: then they are trained on as an array."""
        return self.shape[0] <= self.most_rows

    def load(self) -> Array:
        """Read all rows into memory.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features)
        """
        X, end = np.empty(self.shape, self.dtype), 0
        with self.open() as reader:
            for block, n_rows in enumerate(self.block_rows):
                reader.read(block, X[end : end + n_rows])
                end += n_rows
        return X

    def targets(self, y: object = None, sample_weight: object = None) -> tuple[Any, Any]:
        """The source's y and sample weights; raise if a call has given others, or there are none.

        Returns
        -------
        y : ndarray
        sample_weight : ndarray or None
        """
        for name, given in (("y", y), ("sample_weight", sample_weight)):
            if given is not None:
                raise ValueError(
                    f"{name} is given beside a source, which has its own. Give {name} to the "
                    "function that makes the source."
                )
        if self.y is None:
            raise ValueError(
                "The source has no y: it was made to predict only. Give y (or target) to the "
                "function that makes the source."
            )
        return self.y, self.sample_weight

    def fingerprint(self) -> dict[str, str]:
        """What tells the rows of X from others, as far as it is known without reading them.

        A checkpoint of a fit is refused where something of it has changed.

        Returns
        -------
        known : dict of str to str
            By the name of what it is.
        """
        kind = f"{self.shape} {self.dtype}"
        return {"the shape of X": kind, "the blocks of X": digest(self.block_rows)}

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} is a source of rows and no array. Sources are for fit, "
            "partial_fit, score and predict of MLPClassifier and MLPRegressor; what else needs X "
            "takes source.load(), if that fits into memory."
        )


def readable(dtype):
    """The dtype in which a buffer holds rows that are stored as `dtype`.

    Raises
    ------
    TypeError
        If they hold no numbers.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native in READABLE_DTYPES:
        return native
    if native == np.float16:  # which kernels do not read
        return np.dtype(np.float32)
    raise TypeError(f"X must hold real numbers or booleans of at most 64 bits, got dtype {dtype}.")


def even_blocks(n_rows, row_bytes, buffer_bytes, most_bytes):
    """The sizes of blocks of rows that may be cut anywhere.

    Small enough that half a buffer holds `LEAST_BLOCKS`: an epoch's last buffers are half full.
    """
    size = min(most_bytes, buffer_bytes // (2 * LEAST_BLOCKS)) // row_bytes
    size = min(size, MOST_ROWS // (2 * LEAST_BLOCKS))
    starts = np.arange(0, n_rows, max(1, size))
    return np.diff(starts, append=n_rows)


def check_finite(X, first, what="X"):
    """Raise if rows contain NaN or infinity; `first` is the number of the first of them."""
    if X.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(X.sum()):  # much faster than to look at every number
            return
    bad = ~np.isfinite(X)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{what} contains {X[row, column]} in row {first + row}, column {column}. Leave such "
            "rows out, or fill them in."
        )


def _read_size(buffer):
    """Bytes of `buffer`, a number or a string such as "256MB"."""
    if isinstance(buffer, Integral) and not isinstance(buffer, bool) and buffer > 0:
        return int(buffer)
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?B|)", str(buffer).upper())
    if isinstance(buffer, str) and match and float(match[1]) > 0:
        return max(1, int(float(match[1]) * _UNITS[match[2]]))
    raise ValueError(f"buffer must be a size such as '256MB', or bytes above 0, got {buffer!r}.")
