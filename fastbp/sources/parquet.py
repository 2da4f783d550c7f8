"""Rows of Parquet files, decoded once into a flat file that every epoch reads."""

import glob
import hashlib
import os
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import numpy as np

from fastbp.files import open_regular, replacing
from fastbp.late import imported
from fastbp.sources.flat import FlatSource, RowFile, contents_of, read_header, status_of
from fastbp.sources.source import Source, check_finite, readable

BATCH_ROWS = 2**15  # that are decoded at once
READ_BYTES = 2**20  # of a column's compressed pages at once
_MARK = b"fastbp rows, cached "  # before the digest at the end of a cache
_TAIL = len(_MARK) + hashlib.sha256().digest_size


def find_files(paths):
    """The files that a pattern or a folder, or several, stand for, in their order.

    Raises
    ------
    FileNotFoundError
        If a pattern stands for none.
    """
    patterns = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = []
    for pattern in map(os.fsdecode, patterns):
        if os.path.isdir(pattern):  # as Spark and others write them
            pattern = os.path.join(glob.escape(pattern), "**", "*.parquet")
        files = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not files:
            raise FileNotFoundError(f"There is no file {pattern!r}.")
        found += files
    if not found:
        raise ValueError(f"There must be at least one Parquet file, got {paths!r}.")
    return found


def names_of(given):
    """The columns that `target` or `columns` names."""
    return [given] if isinstance(given, str) else list(given)


class Columns:
    """Which columns of Parquet files are X, y and sample weights.

    Parameters
    ----------
    paths : list of str
    target : str, list of str or None
    columns : list of str or None
        None for all others.
    sample_weight : str or None
    dtype : dtype or None
        Of X in the cache; None for the smallest that holds all columns.

    Attributes
    ----------
    features, targets, weights : list of str
    dtype : numpy dtype
    n_rows : list of int
        Of each file.

    Raises
    ------
    ValueError
        If a file lacks a column.
    TypeError
        If a column of X holds no numbers.
    """

    def __init__(self, paths, target, columns, sample_weight, dtype):
        self.paths = paths
        self.targets = [] if target is None else names_of(target)
        self.weights = [] if sample_weight is None else [sample_weight]
        self.features, self.n_rows, self._parquet = None, [], _parquet()
        dtypes = set()
        for path in paths:
            with self.open(path) as file:
                schema = file.schema_arrow
                if self.features is None:
                    others = {*self.targets, *self.weights}
                    self.features = (
                        [name for name in schema.names if name not in others]
                        if columns is None
                        else names_of(columns)
                    )
                dtypes |= {self._dtype_of(path, schema, name) for name in self.features}
                for name in (*self.targets, *self.weights):
                    self._field(path, schema, name)
                self.n_rows.append(file.metadata.num_rows)
        if not self.features or not sum(self.n_rows):
            raise ValueError(
                f"{paths[0]} must have rows, and columns beside the target; they have "
                f"{sum(self.n_rows)} rows and the columns {self.features}."
            )
        self.dtype = np.result_type(*dtypes) if dtype is None else np.dtype(dtype)
        readable(self.dtype)  # raises

    def open(self, path):
        """A Parquet file, of which little is read at once."""
        with _naming(path):
            return self._parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)

    def _field(self, path, schema, name):
        if schema.names.count(name) != 1:
            raise ValueError(f"{path} must have one column {name!r}. It has {schema.names}.")
        return schema.field(name)

    def _dtype_of(self, path, schema, name):
        found = self._field(path, schema, name).type
        with suppress(NotImplementedError, TypeError):
            dtype = np.dtype(found.to_pandas_dtype())
            readable(dtype)
            return dtype
        raise TypeError(
            f"{path} has {found} in its column {name!r}, not numbers. Encode it, or leave it out "
            "by naming the columns to use in columns."
        )

    def digest(self):
        """What a cache of X depends on: files as they are, columns and dtype."""
        digest = hashlib.sha256(repr((self.features, self.dtype.str)).encode())
        for path in self.paths:
            status = os.stat(path)
            digest.update(repr((os.path.abspath(path), *status_of(status))).encode())
        return digest.digest()

    def contents(self):
        """The columns of X, and the size of each file and the time when it was written."""
        found = [contents_of(status_of(os.stat(path))) for path in self.paths]
        return {
            "the columns of X": repr(self.features),
            "the size or the time of a Parquet file": repr(found),
        }

    def batches(self, names):
        """Yield the columns of these names, batch by batch, each with its file's path.

        The next batch is decoded meanwhile.
        """
        decoded = self._decoded(names)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, decoded, None)
            while (found := following.result()) is not None:
                following = pool.submit(next, decoded, None)
                yield found

    def _decoded(self, names):
        for path in self.paths:
            with self.open(path) as file, _naming(path):
                for batch in file.iter_batches(BATCH_ROWS, columns=names):
                    yield path, batch

    def read(self, names):
        """Read columns into memory: an array of shape (n_rows,), or of several columns; or None."""
        if not names:
            return None
        with closing(self.batches(names)) as batches:
            parts = [
                np.column_stack([_numbers(path, name, batch.column(name)) for name in names])
                for path, batch in batches
            ]
        parts = [part.ravel() if len(names) == 1 else part for part in parts]
        return np.concatenate(parts)

    def _converted(self, path, name, values, first):
        """A column's values in the dtype of the rows, of which integers must hold them exactly."""
        if self.dtype.kind not in "biu" or np.can_cast(values.dtype, self.dtype):
            return values
        with np.errstate(invalid="ignore"):
            converted = values.astype(self.dtype)
        wrong = np.flatnonzero(converted != values)
        if len(wrong):
            raise ValueError(
                f"dtype={self.dtype.name!r} cannot hold {values[wrong[0]]}, which {path} has in "
                f"column {name!r}, row {first + wrong[0]}. Use a float dtype, or scale the column."
            )
        return converted

    def decode(self, file):
        """Write X to a binary file as a .npy file; return its header's length."""
        shape = sum(self.n_rows), len(self.features)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset, first = file.tell(), 0
        with closing(self.batches(self.features)) as batches:
            for path, batch in batches:
                rows = np.empty((len(batch), shape[1]), self.dtype)
                for column, name in enumerate(self.features):
                    values = _numbers(path, name, batch.column(name), may_miss=False)
                    rows[:, column] = self._converted(path, name, values, first)
                check_finite(rows, first, path)
                file.write(rows.data.cast("B"))
                first += len(rows)
        if first != shape[0]:
            raise ValueError(f"{self.paths[0]} and others have changed while they were read.")
        return offset


@contextmanager
def _naming(path):
    """Let errors of pyarrow say which file is damaged; those of the system do."""
    try:
        yield
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path} is no Parquet file, or damaged: {error}") from error


def _parquet():
    try:
        return imported("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            "from_parquet needs pyarrow: pip install 'fastbp[parquet]', or pip install pyarrow."
        ) from error


def _numbers(path, name, column, may_miss=True):
    """A column's values as an array; labels as strings of a fixed size."""
    if column.null_count and not (may_miss and str(column.type) in ("float", "double")):
        raise ValueError(
            f"{path} has {column.null_count} missing values in its column {name!r}. Fill them in, "
            "or leave these rows out."
        )
    values = column.to_numpy(zero_copy_only=False)
    return np.array(values.tolist()) if values.dtype == object else values


def open_cache(columns, path):
    """The rows of X in a flat file: the cache if it is of these files, else decoded now.

    Parameters
    ----------
    columns : Columns
    path : str, path-like or None
        None for a file without a name, which vanishes with what is returned.

    Returns
    -------
    file : RowFile
    keeper : object
        To be held as long as the file is used.
    """
    if path is None:
        keeper = tempfile.TemporaryFile()  # noqa: SIM115, as long as the source is there
        try:
            offset = columns.decode(keeper)
            keeper.flush()
            _forget(keeper)
        except BaseException:
            keeper.close()
            raise
        shape = sum(columns.n_rows), len(columns.features)
        status = status_of(os.fstat(keeper.fileno()))
        return RowFile(keeper.fileno(), offset, shape, columns.dtype, status), keeper
    digest = columns.digest()
    if not (os.path.exists(path) and _digest_of(path) == digest):
        with replacing(path) as file:
            columns.decode(file)
            file.write(_MARK + digest)
            file.flush()
            _forget(file)
    return read_header(path), None


def _digest_of(path):
    """The digest in a cache; raise if it is another file, which must not be replaced."""
    file, size = open_regular(path)
    with file:
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
    if size and not tail.startswith(_MARK):
        raise ValueError(
            f"cache={os.fsdecode(path)!r} is another file than a cache of from_parquet, which "
            "would replace it. Give another name."
        )
    return tail[len(_MARK) :]


def _forget(file):
    """Bring what was written to the disk, and let the system's cache forget it."""
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class ParquetSource(FlatSource):
    """See `fastbp.sources.from_parquet`."""

    def __init__(self, columns, cache, buffer):
        self._contents = columns.contents()
        y, weight = columns.read(columns.targets), columns.read(columns.weights)
        file, self._keeper = open_cache(columns, cache)
        if self._keeper is not None:
            weakref.finalize(self, self._keeper.close)  # without a warning
        names = np.array(columns.features, dtype=object)
        super().__init__(file, y, weight, buffer, names)
        self._finite[:] = True  # seen as they were decoded

    def fingerprint(self):
        """As of `Source`, with what is known of the Parquet files: the flat file may be new."""
        return Source.fingerprint(self) | self._contents

    def __getstate__(self):
        if self._keeper is not None:
            raise TypeError(
                "A source of Parquet files without a cache cannot be pickled: its rows are in a "
                "file without a name. Give from_parquet a cache that the other process can read."
            )
        return super().__getstate__()
