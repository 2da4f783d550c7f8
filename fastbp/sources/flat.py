"""Rows one after the other in a file, read without filling the system's cache of pages."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastbp.files import open_regular
from fastbp.sources.source import Source, check_finite, even_blocks, readable

BLOCK_BYTES = 2**19  # of a block at most: fewer take longer to read, more shuffle worse
PAGE = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)


@dataclass(frozen=True)
class RowFile:
    """A file that holds rows one after the other.

    Parameters
    ----------
    path : str or path-like, or int
        An open file's descriptor if it has no name.
    offset : int
        Where the first row begins, in bytes.
    shape : tuple of int
    dtype : numpy dtype
        As it is stored.
    status : tuple of int
        Of the file when it was looked at: another file, or a changed one, is refused. None for what
        differs from machine to machine.
    """

    path: object
    offset: int
    shape: tuple
    dtype: np.dtype
    status: tuple

    @property
    def row_bytes(self):
        """Bytes of a row in the file."""
        return self.shape[1] * self.dtype.itemsize


def status_of(status):
    """What of an `os.stat_result` changes with the file's contents."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def contents_of(status):
    """Of that, what is the same in all folders and on all machines: size and time."""
    return status[2:]


def read_header(path):
    """Describe the array of a .npy file, whose numbers are not read.

    Returns
    -------
    file : RowFile

    Raises
    ------
    ValueError
        If it is no such file, or shorter than its header says.
    """
    file, size = open_regular(path)
    with file:
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, is_fortran, dtype = read(file)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is no .npy file that can be read: {error}.") from error
        offset, status = file.tell(), status_of(os.fstat(file.fileno()))
    if is_fortran and len(shape) > 1:
        raise ValueError(
            f"{path} is stored column by column. Save it row by row, by np.save(path, "
            "np.ascontiguousarray(X))."
        )
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects, which are not read from files. Convert it.")
    needed = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < needed:
        raise ValueError(
            f"{path} is cut off: its header promises {needed} bytes, but it has {size}."
        )
    return RowFile(path, offset, shape, dtype, status)


class FlatSource(Source):
    """Rows in a file, as from `from_npy`.

    Parameters
    ----------
    file : RowFile
    y, sample_weight : ndarray or None
    buffer : int or str
    feature_names : ndarray or None, default=None
    """

    def __init__(self, file, y, sample_weight, buffer, feature_names=None):
        super().__init__(buffer)
        self.file, self.feature_names = file, feature_names
        self.n_features, self.dtype = file.shape[1], readable(file.dtype)
        self.y, self.sample_weight = y, sample_weight
        self.block_rows = even_blocks(file.shape[0], self.row_bytes, self.buffer_bytes, BLOCK_BYTES)
        self.first_rows = np.cumsum(self.block_rows) - self.block_rows
        self._finite = np.zeros(len(self.block_rows), bool)  # blocks that have been looked at

    def __getstate__(self):
        """With what the file is known by in other folders, and on other machines that see it."""
        status = (None, None, *contents_of(self.file.status))
        path = os.path.abspath(self.file.path)
        return {**vars(self), "file": replace(self.file, path=path, status=status)}

    def fingerprint(self):
        """As of `Source`, with the file's size and the time when it was written."""
        known = repr(contents_of(self.file.status))
        return super().fingerprint() | {"the size or the time of X's file": known}

    def open(self):
        """A reader of the file."""
        return FlatReader(self)

    def checks(self, block, rows):
        """See that the rows of a block are finite, once."""
        if not self._finite[block]:
            check_finite(rows, self.first_rows[block], f"{self.file.path}")
            self._finite[block] = True


class FlatReader:
    """Reads blocks of a file, past the system's cache where it can.

    Parameters
    ----------
    source : FlatSource
    """

    def __init__(self, source):
        self.source, self.file = source, source.file
        self._descriptor = None
        most_bytes = int(source.block_rows.max()) * self.file.row_bytes
        self._scratch = np.empty(most_bytes + 3 * PAGE, np.uint8)
        self._scratch = self._scratch[-self._scratch.ctypes.data % PAGE :]

    def __enter__(self):
        path, flags = self.file.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
        if isinstance(path, int):  # a file without a name has another name here
            path = f"/proc/self/fd/{path}"
        try:
            self._descriptor, self._is_direct = os.open(path, flags | _DIRECT), bool(_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._descriptor, self._is_direct = os.open(path, flags), False  # as in memory
        try:
            self._check_status()
        except ValueError:
            self.__exit__()
            raise
        return self

    def _check_status(self):
        """See that nobody has written to the file."""
        status = status_of(os.fstat(self._descriptor))
        if any(old not in (None, new) for old, new in zip(self.file.status, status, strict=True)):
            raise ValueError(
                f"{self.file.path} has changed since the source was made. Make a new source."
            )

    def __exit__(self, *exception):
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def read(self, block, out):
        """Read the rows of a block."""
        source, file = self.source, self.file
        start = file.offset + int(source.first_rows[block]) * file.row_bytes
        length = len(out) * file.row_bytes
        before = start % PAGE
        n_bytes = before + length
        n_bytes += -n_bytes % PAGE
        self._fill(start - before, n_bytes, before + length)
        self._check_status()  # after it: then these rows are what they were
        stored = self._scratch[before : before + length].view(file.dtype)
        out[...] = stored.reshape(out.shape)
        source.checks(block, out)

    def _fill(self, position, n_bytes, needed):
        """Read whole pages into the scratch memory, of which the first `needed` bytes must be."""
        done = 0
        while done < needed:
            view = memoryview(self._scratch)[done:n_bytes]
            try:
                count = os.preadv(self._descriptor, [view], position + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._read_by_cache()
                continue
            done += count
            if count == 0 or (self._is_direct and done % PAGE and done < needed):
                raise ValueError(
                    f"{self.file.path} is cut off: it has no more than {position + done} bytes, "
                    f"and rows are expected up to {position + needed}."
                )
        if not self._is_direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, position, n_bytes, os.POSIX_FADV_DONTNEED)

    def _read_by_cache(self):
        """Go on as with an ordinary file: a file system may refuse the other way only here."""
        import fcntl

        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        self._is_direct = False


def load_column(given, name, n_rows):
    """Targets or weights: an array, or the path of a .npy file, which is read.

    Raises
    ------
    ValueError
        If there is not one for each row.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        read_header(given)
        given = np.load(Path(given), allow_pickle=False)
    values = np.array(given)  # a copy: what the source has must not change
    if values.ndim not in (1, 2) or len(values) != n_rows:
        raise ValueError(f"{name} must have {n_rows} rows, as X; its shape is {values.shape}.")
    return values
