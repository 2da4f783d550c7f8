"""IDX files of unsigned bytes, which MNIST comes in: the header is checked before what follows.

A file is a magic number, the size of each dimension (4 bytes each, big-endian) and the bytes; all
of it may be compressed by gzip. What the header promises is compared with what the file can hold:
no more memory is taken than both say.
"""

import zlib
from math import prod

import numpy as np

from fastbp.files import open_regular

MOST_ITEMS = 10**6
MAGIC = 0x0800  # of unsigned bytes; the number of dimensions is added

_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib then checks gzip's header, CRC and length
_DEFLATE_RATIO = 1032  # 258 bytes take 2 bits at the least
_SLACK = 2**20  # of compressed bytes beside the content: names, comments, padding
_MOST_MEMBERS = 10_000  # gzip files one after the other in one, as some programs write them
_READ_BYTES, _UNPACK_BYTES = 2**16, 2**18


def read(path, n_dimensions, item_shape=None, most_items=MOST_ITEMS):
    """Read one IDX file, compressed or not, and check it.

    Parameters
    ----------
    path : pathlib.Path
        Of a regular file.
    n_dimensions : int
    item_shape : tuple of int, default=None
        The sizes that must follow the first; None for any.
    most_items : int, default=1000000
        The largest first size.

    Returns
    -------
    array : ndarray, dtype uint8
        It can be written to.

    Raises
    ------
    ValueError
        If the file is damaged, or its header says something else. No more memory is taken than the
        header says, nor than the file could hold.
    OSError
        As from `open`.
    """
    file, size = open_regular(path)
    with file:
        try:
            start = file.read(len(_GZIP))
            file.seek(0)
            source = _Packed(file, size) if start == _GZIP else _Plain(file, size)
            return _read(source, n_dimensions, item_shape, most_items)
        except (ValueError, EOFError, zlib.error) as error:
            what = "" if isinstance(error, ValueError) else "truncated or corrupt gzip file: "
            raise ValueError(f"{path}: {what}{error}") from error


def _read(source, n_dimensions, item_shape, most_items):
    header = bytearray(4 * (1 + n_dimensions))
    n_read = source.read_into(memoryview(header))
    if n_read < len(header):
        raise ValueError(f"{n_read} bytes, too short for an IDX header")
    magic, *shape = np.frombuffer(header, ">u4").tolist()
    if magic != MAGIC + n_dimensions:
        raise ValueError(
            f"magic number {magic}, where {MAGIC + n_dimensions} should be (unsigned bytes in "
            f"{n_dimensions} dimensions)"
        )
    expected = prod(shape)
    promise = f"its header says {' x '.join(map(str, shape))} = {expected} bytes"
    source.check_size(len(header), expected, promise)
    if item_shape is not None and tuple(shape[1:]) != item_shape:
        raise ValueError(f"images of shape {tuple(shape[1:])}, not {item_shape}")
    if shape[0] > most_items:
        raise ValueError(f"{promise}, and more than {most_items} items are not read")
    array = np.empty(shape, np.uint8)
    n_read = source.read_into(array.reshape(-1).data)
    if n_read < expected:
        raise ValueError(f"truncated; {promise}, {n_read} follow")
    if source.read_into(memoryview(bytearray(1))):
        raise ValueError(f"trailing bytes; {promise}, more follow")
    return array


class _Plain:
    """The bytes of a file.

    Parameters
    ----------
    file : binary file object
    size : int
    """

    def __init__(self, file, size):
        self._file, self._size = file, size

    def check_size(self, n_header, expected, promise):
        """See that the file has the size that its header says."""
        found = self._size - n_header
        if found != expected:
            what = "truncated" if found < expected else "trailing bytes"
            raise ValueError(f"{what}; {promise}, {found} follow")

    def read_into(self, target):
        """Read bytes until a buffer is full or the file at its end; return how many."""
        n_read = 0
        while n_read < len(target):
            n_more = self._file.readinto(target[n_read:])
            if not n_more:
                break
            n_read += n_more
        return n_read


class _Packed:
    """The bytes that a gzip file holds, unpacked as they are asked for.

    The class of the standard library reads names and many empty members slowly, without an end.

    Parameters
    ----------
    file : binary file object
    size : int
    """

    def __init__(self, file, size):
        self._file, self._size, self._n_read = file, size, 0
        self._may_read = _SLACK  # before the header says how much
        self._n_members, self._packed, self._unpacked = 0, b"", None

    def check_size(self, n_header, expected, promise):
        """See that the file can hold what its header says, and does not hold much more."""
        most = _DEFLATE_RATIO * self._size - n_header
        if expected > most:
            raise ValueError(
                f"truncated; {promise}, {self._size} compressed bytes hold {most} at the most"
            )
        self._may_read = 2 * expected + _SLACK
        if self._size > self._may_read:
            raise ValueError(f"trailing bytes; {promise}, the compressed file has {self._size}")

    def read_into(self, target):
        """Unpack bytes until a buffer is full or the file at its end; return how many."""
        n_unpacked = 0
        while n_unpacked < len(target):
            if not self._packed and not self._read_more():
                break
            if self._unpacked is None and not self._begin_member():
                continue
            most = min(_UNPACK_BYTES, len(target) - n_unpacked)
            piece = self._unpacked.decompress(self._packed, most)
            target[n_unpacked : n_unpacked + len(piece)] = piece
            n_unpacked += len(piece)
            self._packed = self._unpacked.unconsumed_tail
            if self._unpacked.eof:
                self._packed, self._unpacked = self._unpacked.unused_data, None
        return n_unpacked

    def _read_more(self):
        """Read the next compressed bytes; return whether there are any."""
        if self._n_read >= self._may_read:
            raise ValueError(f"its first {self._n_read} compressed bytes hold hardly anything")
        self._packed = self._file.read(_READ_BYTES)
        self._n_read += len(self._packed)
        if not self._packed and self._unpacked is not None:
            raise EOFError("it ends too early")
        return bool(self._packed)

    def _begin_member(self):
        """Begin to unpack the next gzip file in this one; return False if that is only padding."""
        if self._n_members:
            self._packed = self._packed.lstrip(b"\0")
            if not self._packed:
                return False
        if self._n_members == _MOST_MEMBERS:
            raise ValueError(f"more than {_MOST_MEMBERS} gzip files in one")
        self._n_members += 1
        self._unpacked = zlib.decompressobj(_GZIP_WINDOW)
        return True
