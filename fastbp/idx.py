"""IDX files, the format of MNIST: read within bounds, gzip-compressed or not, and written."""

import math
import os
import zlib
from contextlib import closing

import numpy as np

from fastbp.files import open_regular, replacing

UNSIGNED_BYTES = 0x0800  # magic number; the number of dimensions is added
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_FORMAT = 31  # of zlib: with gzip's header and checksum
_MOST_EXPANSION = 1032  # of deflate
_MOST_MEMBERS = 2**16  # of a gzip file, which may be the concatenation of several
_CHUNK_BYTES = 2**18


def read(path, n_dimensions, max_bytes):
    """Read a file of unsigned bytes, compressed or not, and check it.

    The header comes first: no more memory is taken than it asks for, and none if that is more than
    `max_bytes` or more than a file of this size can hold.

    Parameters
    ----------
    path : str or path-like
        Of a regular file.
    n_dimensions : int
    max_bytes : int

    Returns
    -------
    array : ndarray of uint8

    Raises
    ------
    ValueError
        If the file is damaged, something else or too large.
    OSError
        As from `open`.
    """
    file, size = open_regular(path)
    with file:
        is_compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        try:
            with closing(_Gunzip(file) if is_compressed else file) as source:
                return _read(source, size, is_compressed, n_dimensions, max_bytes)
        except (EOFError, zlib.error) as error:
            raise ValueError(
                f"{os.fsdecode(path)}: truncated or corrupt gzip file ({error})"
            ) from error
        except ValueError as error:
            raise ValueError(f"{os.fsdecode(path)}: {error}") from error


def _read(source, size, is_compressed, n_dimensions, max_bytes):
    header = bytearray(4 * (1 + n_dimensions))
    n_read = _read_into(source, memoryview(header))
    if n_read < len(header):
        raise ValueError(f"{n_read} bytes, too short for an IDX header")
    magic, *shape = np.frombuffer(header, ">u4").tolist()
    if magic != UNSIGNED_BYTES + n_dimensions:
        raise ValueError(
            f"magic number {magic}, where {UNSIGNED_BYTES + n_dimensions} should be (unsigned "
            f"bytes in {n_dimensions} dimensions)"
        )
    expected = math.prod(shape)
    asked = f"its header says {' x '.join(map(str, shape))} = {expected} bytes"
    follow = size - len(header)
    if not is_compressed and follow != expected:
        what = "truncated" if follow < expected else "trailing bytes"
        raise ValueError(f"{what}; {asked}, {follow} follow")
    if expected > _MOST_EXPANSION * size:
        raise ValueError(f"truncated; {asked}, which {size} compressed bytes cannot hold")
    if expected > max_bytes:
        raise ValueError(f"too large; {asked}, more than max_bytes={max_bytes}")
    if size > 2 * expected + 2**20:
        raise ValueError(f"trailing bytes; {asked}, for which {size} compressed bytes are too many")
    array = np.empty(shape, np.uint8)
    n_read = _read_into(source, array.reshape(-1).data)
    if n_read < expected:
        raise ValueError(f"truncated; {asked}, {n_read} follow")
    if _read_into(source, memoryview(bytearray(1))):
        raise ValueError(f"trailing bytes; {asked}, more follow")
    return array


def _read_into(source, view):
    """Fill a memoryview as far as the source goes; return how far."""
    n_read = 0
    while n_read < len(view):
        n_more = source.readinto(view[n_read : n_read + _CHUNK_BYTES])
        if not n_more:
            break
        n_read += n_more
    return n_read


class _Gunzip:
    """Decompresses a file as it is read, in bounded memory.

    Python's own reader goes through a header's name byte by byte, however long it is.

    Parameters
    ----------
    file : binary file object
    """

    def __init__(self, file):
        self._file, self._decoder, self._n_members = file, None, 0
        self._compressed = b""

    def close(self):
        self._file.close()

    def readinto(self, view):
        """Fill a memoryview, or its beginning; return the number of bytes, 0 at the end."""
        while True:
            self._compressed = self._compressed or self._file.read(_CHUNK_BYTES)
            if self._decoder is None and not self._begin_member():
                return 0
            is_at_end = not self._compressed
            content = self._decoder.decompress(self._compressed, len(view))
            if self._decoder.eof:
                self._compressed, self._decoder = self._decoder.unused_data, None
            else:
                self._compressed = self._decoder.unconsumed_tail
            if content:
                view[: len(content)] = content
                return len(content)
            if is_at_end and self._decoder is not None:
                raise EOFError("it ends before the end-of-stream marker")

    def _begin_member(self):
        """Prepare for a member of the file; return False where none follows."""
        if self._n_members:  # zeros may fill up the file
            self._compressed = self._compressed.lstrip(b"\0")
            while not self._compressed:
                more = self._file.read(_CHUNK_BYTES)
                if not more:
                    return False
                self._compressed = more.lstrip(b"\0")
        self._n_members += 1
        if self._n_members > _MOST_MEMBERS:
            raise ValueError(f"a gzip file of more than {_MOST_MEMBERS} members")
        self._decoder = zlib.decompressobj(_GZIP_FORMAT)
        return True


def write(path, array):
    """Write unsigned bytes in one step: see `fastbp.files.replacing`.

    Parameters
    ----------
    path : str or path-like
    array : ndarray of uint8

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels")
    >>> write(path, np.array([3, 1, 4], np.uint8))
    >>> path.read_bytes()
    b'\\x00\\x00\\x08\\x01\\x00\\x00\\x00\\x03\\x03\\x01\\x04'
    >>> read(path, 1, max_bytes=100)
    array([3, 1, 4], dtype=uint8)
    """
    header = np.array([UNSIGNED_BYTES + array.ndim, *array.shape], ">u4")
    with replacing(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(array).reshape(-1).data)
