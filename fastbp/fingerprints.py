"""By what a checkpoint knows its data: digests of what is in memory, under the names of what it is.

Who has the rows of a training says what tells them from others: `fastbp.epochs.InMemory` all
numbers, a source (`fastbp.sources.source.Source.fingerprint`) what it knows without reading.
"""

import hashlib

import numpy as np
from scipy.sparse import issparse

_CHUNK_BYTES = 2**24  # of rows that are copied to be hashed, where an array is not contiguous


def digest(*arrays, kind=None):
    """A digest of arrays: equal for equal numbers of equal types, whatever their strides.

    Parameters
    ----------
    *arrays : ndarray or None
    kind : object, default=None
        Whatever else tells them from others, by its `repr`.

    Returns
    -------
    digest : str

    Examples
    --------
    >>> numbers = np.arange(6.0)
    >>> digest(numbers) == digest(numbers[::-1][::-1]), digest(numbers) == digest(-numbers)
    (True, False)
    """
    found = hashlib.sha256(repr(kind).encode())
    for array in arrays:
        if array is None:
            found.update(b"none")
            continue
        found.update(repr((array.shape, array.dtype.str)).encode())
        if array.flags.c_contiguous:
            found.update(array.reshape(-1).view(np.uint8))
            continue
        n_rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), n_rows):
            chunk = np.ascontiguousarray(array[first : first + n_rows])
            found.update(chunk.reshape(-1).view(np.uint8))
    return found.hexdigest()


def of_rows(data):
    """The fingerprint of a `fastbp.data.Data` whose rows are in memory: every number of it."""
    X = data.X
    parts = (X.data, X.indices, X.indptr) if issparse(X) else (X,)
    kind = X.shape, issparse(X), data.input_scale
    return {"X": digest(*parts, kind=kind), **of_targets(data)}


def of_targets(data):
    """The same of its targets and sample weights alone."""
    return {"y": digest(data.targets), "sample_weight": digest(data.sample_weight)}
