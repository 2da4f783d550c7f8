"""Rows that are named by their file, for processes that open it themselves."""

from os import PathLike, fspath, path

import numpy as np


def is_path(rows):
    """Whether rows are named by their file; other text is no rows, as for `fit`."""
    return isinstance(rows, PathLike) or (isinstance(rows, str) and rows.endswith(".npy"))


def found(rows):
    """A path that names the same file for processes in other folders; all else as it is."""
    return path.abspath(rows) if is_path(rows) else rows


def opened(rows):
    """Rows, or those of a file of NumPy's, which are not read before they are used.

    Parameters
    ----------
    rows : object
        A str or path names a ``.npy`` file; all else is returned as it is.
    """
    return np.load(fspath(rows), mmap_mode="r", allow_pickle=False) if is_path(rows) else rows
