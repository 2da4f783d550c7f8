"""Rows beyond memory: sources that `fit`, `score` and `predict` read in blocks.

A source takes the place of X; y and sample weights belong to it. Training reads blocks in random
order, fills a buffer with many of them and shuffles the rows in it, while a second buffer is filled
by one thread: see `fastbp.sources.order`, `fastbp.sources.ahead` and, for the epochs,
`fastbp.sources.streaming`. A new kind of storage is a new `Source`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING

from fastbp.sources.blocks import BatchSource, BlockSource
from fastbp.sources.flat import FlatSource, load_column, read_header
from fastbp.sources.parquet import Columns, ParquetSource, find_files
from fastbp.sources.source import BUFFER, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from numpy.typing import ArrayLike, DTypeLike

    from fastbp.hints import Path

__all__ = ["Source", "from_batches", "from_blocks", "from_npy", "from_parquet"]


def from_npy(
    X: Path,
    y: ArrayLike | Path | None = None,
    sample_weight: ArrayLike | Path | None = None,
    *,
    buffer: int | str = BUFFER,
) -> Source:
    """Rows of a .npy file, as `numpy.save` writes it.

    Parameters
    ----------
    X : str or path-like
        The file, of an array of shape (n_samples, n_features) that is stored row by row. bool,
        integers, float16, float32 and float64 are read as they are; float16 becomes float32 in a
        buffer.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), str or path-like, default=None
        The targets, or a .npy file of them, which is read into memory. None to predict only.
    sample_weight : array-like of shape (n_samples,), str or path-like, default=None
        Likewise.
    buffer : int or str, default="64MB"
        Size of each of the two buffers, in bytes or as in "256MB". Rows that fit into one buffer
        are trained on as an array is, with the same result to the bit.

    Returns
    -------
    source : Source

    Raises
    ------
    ValueError
        If the file is no such file or cut off, or y has another number of rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from fastbp import MLPClassifier, sources
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> X = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    >>> np.save(folder / "x.npy", X)
    >>> source = sources.from_npy(folder / "x.npy", X[:, 0] > 0, buffer="32kB")
    >>> MLPClassifier((8,), max_iter=30, tol=0, random_state=0).fit(source).score(source) > 0.95
    True
    """
    if not isinstance(X, str | os.PathLike):
        raise TypeError(
            f"X must be the path of a .npy file, got {type(X).__name__}: give an array to fit."
        )
    file = read_header(X)
    if len(file.shape) != 2 or 0 in file.shape:
        raise ValueError(
            f"{X} must hold an array of shape (n_samples, n_features), neither 0; it has shape "
            f"{file.shape}."
        )
    n_rows = file.shape[0]
    y, weight = load_column(y, "y", n_rows), load_column(sample_weight, "sample_weight", n_rows)
    return FlatSource(file, y, weight, buffer)


def from_parquet(
    paths: Path | Sequence[Path],
    target: str | Sequence[str] | None,
    columns: Sequence[str] | None = None,
    *,
    sample_weight: str | None = None,
    cache: Path | None = None,
    dtype: DTypeLike | None = None,
    buffer: int | str = BUFFER,
) -> Source:
    """Rows of Parquet files; needs pyarrow (``pip install 'fastbp[parquet]'``).

    Decoding takes longer than training a small network, so that it is done once, here, into a flat
    file, which every epoch reads. Models know the names of the columns.

    Parameters
    ----------
    paths : str, path-like or a list of them
        Files, patterns such as "rows/*.parquet", or folders with .parquet files at any depth;
        those of a pattern or folder are taken in the order of their names.
    target : str, list of str or None
        The column of y, or several. None to predict only.
    columns : list of str, default=None
        The columns of X, in this order. They must hold numbers or booleans, none missing. None for
        all but `target` and `sample_weight`.
    sample_weight : str, default=None
        The column of the rows' weights.
    cache : str or path-like, default=None
        The flat file, a .npy file of X. It is used again as long as the Parquet files and `columns`
        are the same, and replaced otherwise. None for a file without a name in the folder for
        temporary files (the environment variable TMPDIR), which vanishes with the source.
    dtype : dtype, default=None
        Of X in the flat file. None for the smallest that holds all columns: float32 if all are,
        but float64 for float32 beside int64. float16 halves what is read.
    buffer : int or str, default="64MB"
        Size of each of the two buffers, in bytes or as in "256MB".

    Returns
    -------
    source : Source

    Raises
    ------
    ValueError
        If columns are missing, or have missing values.
    ImportError
        Without pyarrow.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import pandas as pd
    >>> from fastbp import MLPClassifier, sources
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for part in range(3):
    ...     X = np.random.default_rng(part).normal(size=(2000, 3)).astype(np.float32)
    ...     table = pd.DataFrame(X, columns=["a", "b", "c"])
    ...     table.assign(sign=X[:, 1] > 0).to_parquet(folder / f"{part}.parquet")
    >>> source = sources.from_parquet(folder / "*.parquet", target="sign", buffer="32kB")
    >>> model = MLPClassifier((8,), max_iter=20, tol=0, random_state=0).fit(source)
    >>> model.score(source) > 0.95, model.feature_names_in_.tolist()
    (True, ['a', 'b', 'c'])
    """
    read = Columns(find_files(paths), target, columns, sample_weight, dtype)
    return ParquetSource(read, cache, buffer)


def from_blocks(n_blocks: int, read: Callable[[int], Any], *, buffer: int | str = BUFFER) -> Source:
    """Rows of any storage, in blocks that a function reads.

    All blocks are read once at first, for their sizes and targets. In training they are read in
    random order, once an epoch.

    Parameters
    ----------
    n_blocks : int
    read : callable
        ``read(i)`` returns block i, counted from 0, as a tuple (X, y) or (X, y, sample_weight), or
        X alone to predict only; the same rows every time. It is called in a thread of its own,
        of each fit in one. What it raises ends training.
    buffer : int or str, default="64MB"
        Size of each of the two buffers, in bytes or as in "256MB". If rows are sorted, by class or
        by time, it should hold 128 blocks, and fewer than 64 are warned of.

    Returns
    -------
    source : Source

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import MLPRegressor, sources
    >>> def read(block):
    ...     X = np.random.default_rng(block).normal(size=(20, 4))
    ...     return X, X[:, 0] * X[:, 1]
    >>> source = sources.from_blocks(300, read, buffer="128kB")
    >>> MLPRegressor(hidden_layer_sizes=16, random_state=0).fit(source).score(source) > 0.9
    True
    """
    if not isinstance(n_blocks, Integral) or isinstance(n_blocks, bool) or n_blocks < 1:
        raise ValueError(f"n_blocks must be a whole number from 1, got {n_blocks!r}.")
    if not callable(read):
        raise TypeError(f"read must be a function of a block's number, got {read!r}.")
    return BlockSource(int(n_blocks), read, buffer)


def from_batches(
    batches: Iterable[Any] | Callable[[], Iterable[Any]], *, buffer: int | str = BUFFER
) -> Source:
    """Rows that come in batches, one after the other, and only so.

    The rows are shuffled weakly: within a buffer only, where `from_blocks` chooses blocks from all
    over. Rows that are sorted by class make a bad model; if whole classes are missing from the
    first buffer, training warns.

    Parameters
    ----------
    batches : iterable or callable
        Of tuples (X, y) or (X, y, sample_weight), or of X alone to predict only. It is gone through
        once at first, then once an epoch, and must give the same batches every time: a list, an
        object whose ``__iter__`` begins anew, or a function that returns a generator. A generator
        itself can be gone through only once and is refused.
    buffer : int or str, default="64MB"
        Size of each of the two buffers, in bytes or as in "256MB".

    Returns
    -------
    source : Source

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import MLPClassifier, sources
    >>> def batches():
    ...     for seed in range(100):
    ...         X = np.random.default_rng(seed).normal(size=(50, 4))
    ...         yield X, X[:, 0] > 0
    >>> source = sources.from_batches(batches, buffer="64kB")
    >>> MLPClassifier((8,), max_iter=20, tol=0, random_state=0).fit(source).score(source) > 0.9
    True
    """
    if isinstance(batches, Iterator):
        raise TypeError(
            f"batches can be gone through only once ({type(batches).__name__}), but training goes "
            "through them every epoch. Give the function that makes it, or a list."
        )
    if not callable(batches) and not hasattr(batches, "__iter__"):
        raise TypeError(
            f"batches must be an iterable or a function that returns one, got {batches!r}."
        )
    return BatchSource(batches, buffer)
