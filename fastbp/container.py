"""Arrays and their description in one file, in the safetensors format.

A file is the length of a header (8 bytes, little-endian), the header in JSON, and the arrays' bytes
one after the other. The header gives each array's dtype, shape and place; `__metadata__` holds
the description as one string of JSON, and a digest. There is nothing in it that could be run, and
every program that reads safetensors reads it.

The package `safetensors` is not used: fastbp needs numpy, numba and scikit-learn and nothing else,
the format takes a page of code, and files of strangers are checked here more strictly. No key
may stand twice, numbers are whole, arrays neither overlap nor leave holes, booleans are 0 or 1,
and with a description of fastbp's every bit of it and of the arrays is covered by the digest.

Format: https://huggingface.co/docs/safetensors, version 0.8.
"""

import hashlib
import json
import os
import reprlib
from math import isfinite, prod

import numpy as np

from fastbp.files import open_regular, replacing

MOST_HEADER_BYTES = 2**25  # of JSON, which takes many times its size in memory
_MOST_DIMENSIONS = 32  # of NumPy 1
_LENGTH_BYTES = 8
_LONGEST_ERROR = 500  # characters
_METADATA, _DESCRIPTION, _DIGEST = "__metadata__", "fastbp", "sha256"
_DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


# ---- write ------------------------------------------------------------------------------------


def write(path, arrays, description):
    """Write arrays and a description in one step: see `fastbp.files.replacing`.

    Parameters
    ----------
    path : str or path-like
    arrays : dict of str to ndarray
        Booleans, integers and floats of at most 64 bits.
    description : dict
        What JSON can say, without NaN and infinity.

    Raises
    ------
    ValueError
        If something is of a type that cannot be stored, or the header becomes longer than
        `MOST_HEADER_BYTES`. The file is as before.
    OSError
        As from `open` and `write`. The file is as before.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "numbers")
    >>> write(path, {"x": np.arange(3)}, {"unit": "m"})
    >>> read(path)
    ({'x': array([0, 1, 2])}, {'unit': 'm'})
    """
    stored = {name: _as_stored(name, array) for name, array in arrays.items()}
    # From wide to narrow types, so that each array is aligned.
    order = sorted(stored, key=lambda name: -stored[name].dtype.itemsize)
    entries, position = {}, 0
    for name in order:
        array = stored[name]
        end = position + array.nbytes
        entries[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(description, allow_nan=False)
    parts = [stored[name].reshape(-1).view(np.uint8).data for name in order]
    metadata = {_DESCRIPTION: text, _DIGEST: _digest_of(entries, text, parts)}
    header = json.dumps({_METADATA: metadata} | {name: entries[name] for name in stored})
    header = header.encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    if len(header) > MOST_HEADER_BYTES:
        raise ValueError(
            f"{os.fsdecode(path)}: the description takes {len(header)} bytes, more than the "
            f"{MOST_HEADER_BYTES} that a file may have for it"
        )
    with replacing(path) as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        for part in parts:
            file.write(part)


def _as_stored(name, array):
    """An array as its bytes are to be in the file."""
    array = np.asarray(array, order="C")
    if array.dtype == np.bool_:
        return np.asarray(array.view(np.uint8) != 0)  # other bytes may stand for True
    dtype = array.dtype.newbyteorder("<")
    if not isinstance(name, str) or name == _METADATA or dtype not in _NAMES:
        raise ValueError(
            f"An array with the name {name!r} and dtype {array.dtype} cannot be stored: names are "
            f"strings but {_METADATA!r}, dtypes booleans, integers and floats up to 64 bits."
        )
    if array.ndim > _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {array.ndim} dimensions, more than {_MOST_DIMENSIONS}.")
    return array.astype(dtype, copy=False)


def _digest_of(entries, text, parts):
    """SHA-256 of the header, as JSON with sorted keys and without its digest, and of all bytes."""
    header = {**entries, _METADATA: {_DESCRIPTION: text}}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# ---- read -------------------------------------------------------------------------------------


def read(path):
    """Read arrays and their description from a file that anybody may have made.

    Parameters
    ----------
    path : str or path-like
        Of a regular file.

    Returns
    -------
    arrays : dict of str to ndarray
        Writable, in native byte order; together they take the file's size in memory.
    description : dict
        Empty where the file is safetensors of another program.

    Raises
    ------
    ValueError
        If the file is not safetensors or damaged. It says what is wrong.
    OSError
        As from `open`.
    """
    file, size = open_regular(path)
    with file:
        try:
            return _read(file, size)
        except ValueError as error:
            raise ValueError(f"{os.fsdecode(path)}: {error}") from error


def _read(file, size):
    header, start = _read_header(file, size)
    metadata = header.pop(_METADATA, {})
    if not _is_dict_of_strings(metadata):
        raise ValueError(f"damaged: {_METADATA} must hold strings, got {reprlib.repr(metadata)}")
    places = [_check_entry(name, entry) for name, entry in header.items()]
    places.sort(key=lambda place: place[3:])
    position = 0
    for name, _, _, begin, end in places:
        if begin != position:
            raise ValueError(
                f"damaged: array {reprlib.repr(name)} begins at byte {begin}, not at {position} "
                "where the one before it ends"
            )
        position = end
    if start + position != size:
        what = "truncated" if size < start + position else "damaged"
        raise ValueError(f"{what}: {size} bytes, where its header asks for {start + position}")
    found = {name: _read_array(file, dtype, shape) for name, dtype, shape, _, _ in places}
    description = {}
    if _DESCRIPTION in metadata:
        text = metadata[_DESCRIPTION]
        parts = [array.reshape(-1).view(np.uint8).data for array in found.values()]
        if metadata.get(_DIGEST) != _digest_of(header, text, parts):
            raise ValueError("damaged: its content does not have the digest that its header says")
        description = parse(text)
    arrays = {}
    for name in header:
        array = found.pop(name)
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise ValueError(
                f"damaged: array {reprlib.repr(name)} has booleans that are neither 0 nor 1"
            )
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays, description


def _read_header(file, size):
    """Read the header; return it, and where the arrays begin."""
    length = file.read(_LENGTH_BYTES)
    n_bytes = int.from_bytes(length, "little")
    start = _LENGTH_BYTES + n_bytes
    if len(length) < _LENGTH_BYTES or start > size or n_bytes > MOST_HEADER_BYTES:
        raise ValueError(
            f"not a safetensors file, or truncated: {size} bytes, of which the first 8 say that "
            f"a header of {n_bytes} follows"
        )
    text = file.read(n_bytes)
    if not text.startswith(b"{"):
        raise ValueError("not a safetensors file: its header is no JSON object")
    try:
        return parse(text.decode()), start
    except UnicodeDecodeError as error:
        raise ValueError(f"damaged: its header is not UTF-8 ({error})") from error


def parse(text):
    """Parse the JSON of an object, and nothing that is only nearly JSON.

    Parameters
    ----------
    text : str

    Returns
    -------
    value : dict

    Raises
    ------
    ValueError
        For keys that stand twice, numbers that are not finite, and too deep nesting.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_float=_as_finite,
            parse_constant=_as_finite,
        )
    except RecursionError as error:
        raise ValueError("damaged: its JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"damaged: its JSON cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"damaged: {reprlib.repr(value)} where a JSON object should be")
    return value


def shortened(error):
    """The text of an error about a file, without the length that a value in it may have.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    text : str

    Examples
    --------
    >>> len(shortened(ValueError("x" * 10_000)))
    500
    """
    text = str(error)
    return text if len(text) <= _LONGEST_ERROR else f"{text[: _LONGEST_ERROR - 2]} …"


def _without_doubles(pairs):
    value = {}
    for name, each in pairs:
        if name in value:
            raise ValueError(f"{reprlib.repr(name)} stands in it twice")
        value[name] = each
    return value


def _as_finite(text):
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{reprlib.repr(text)} is no finite number")
    return number


def _is_dict_of_strings(value):
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _check_entry(name, entry):
    """Check what the header says about an array; return its name, dtype, shape, begin and end."""
    wrong = f"damaged: array {reprlib.repr(name)} has "
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{wrong}the entry {reprlib.repr(entry)}")
    dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(
            f"{wrong}dtype {reprlib.repr(dtype)}, which NumPy does not know; known are {[*_DTYPES]}"
        )
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{wrong}shape {reprlib.repr(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{wrong}data_offsets {reprlib.repr(offsets)}")
    itemsize = _DTYPES[dtype].itemsize
    if prod([itemsize, *filter(None, shape)]) >= 2**63:  # which NumPy counts with
        raise ValueError(f"{wrong}shape {reprlib.repr(shape)}")
    begin, end = offsets
    if end - begin != prod([itemsize, *shape]):
        raise ValueError(
            f"{wrong}{end - begin} bytes, not the {prod([itemsize, *shape])} of shape {shape} and "
            f"dtype {dtype}"
        )
    return name, _DTYPES[dtype], tuple(shape), begin, end


def _are_counts(values):
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _read_array(file, dtype, shape):
    array = np.empty(shape, dtype)
    bytes_left = array.reshape(-1).view(np.uint8).data
    while len(bytes_left):
        n_read = file.readinto(bytes_left)
        if not n_read:
            raise ValueError("truncated while it was being read")
        bytes_left = bytes_left[n_read:]
    return array
