"""Arrays and a description in one file, in the safetensors format, read without trust.

The format is eight bytes of length, a header in JSON, and the arrays one after the other
(https://github.com/huggingface/safetensors). It is so small that reading it here is shorter than
guarding another package's reader: fastbp needs nothing but NumPy for it, and refuses what the format
leaves open, such as duplicate keys. The description is JSON in the header's metadata, with a digest
of all numbers, so that a flipped bit is noticed.
"""

import hashlib
import json
import math
import os

import numpy as np

from fastbp.files import open_regular, write_atomically

LONGEST_HEADER = 2**24  # bytes
_METADATA, _DESCRIPTION, _DIGEST = "__metadata__", "fastbp", "sha256"
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def write(path, arrays, description):
    """Write arrays and a description, in one step.

    Parameters
    ----------
    path : str or path-like
    arrays : dict of str to ndarray
        Of numbers or booleans.
    description : dict
        Of what JSON knows: None, booleans, finite numbers, strings, lists and dicts.

    Raises
    ------
    ValueError
        If an array or the description cannot be stored.
    OSError
        The system's; a file that was there stays.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # Largest numbers first, so that each array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    entries, parts, end = {}, [], 0
    for name in names:
        array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        if array.dtype not in _NAMES:
            raise ValueError(f"{name} cannot be stored: its dtype is {array.dtype}.")
        offsets = [end, end := end + array.nbytes]
        entries[name] = {
            "dtype": _NAMES[array.dtype], "shape": list(arrays[name].shape),
            "data_offsets": offsets,
        }  # fmt: skip
        parts.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(description, allow_nan=False)
    metadata = {_DESCRIPTION: text, _DIGEST: _digest(text, entries, parts)}
    header = json.dumps({_METADATA: metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > LONGEST_HEADER:
        raise ValueError(f"The description takes {len(header)} bytes, over {LONGEST_HEADER}.")
    write_atomically(path, [len(header).to_bytes(8, "little"), header, *parts])


def read(path):
    """Read a file that `write` has written, and check all of it.

    Memory is bounded by the file's size, and nothing in the file is executed.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    arrays : dict of str to ndarray
        They can be written to.
    description : dict

    Raises
    ------
    ValueError
        If the file is damaged or something else; it says what is wrong.
    OSError
        The system's.
    """
    name = os.fspath(path)
    file, size = open_regular(path)
    with file:
        try:
            entries, metadata, start = _read_header(file, size)
            arrays, parts = _read_arrays(file, entries, size - start)
            text = metadata.get(_DESCRIPTION)
            if not isinstance(text, str):
                raise ValueError("it was not written by fastbp: it has no description")
            if metadata.get(_DIGEST) != _digest(text, entries, parts):
                raise ValueError("its digest differs from that of its content")
            description = _parse(text, "description")
        except ValueError as error:
            raise ValueError(f"{name} cannot be read: {error}.") from error
    return arrays, description


def _read_header(file, size):
    """The arrays' entries, the metadata, and where the numbers begin."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"a header of {length} bytes does not fit into a file of {size}")
    content = file.read(length)
    if len(content) != length:
        raise ValueError("it ends within its header")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("its header is no text") from error
    header = _parse(text, "header")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no dict")
    return header, metadata, 8 + length


def _parse(text, what):
    """Parse JSON that holds a dict, without what other programs might read otherwise."""
    def refuse(constant):
        raise ValueError(f"its {what} contains {constant}, which is no JSON")

    def finite(digits):
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"its {what} contains a number that is not finite, {digits[:20]}")
        return number

    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"its {what} has a key twice")
        return found

    try:
        parsed = json.loads(
            text, parse_constant=refuse, parse_float=finite, object_pairs_hook=unique
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"its {what} is no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"its {what} is nested too deep") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"its {what} is no dict")
    return parsed


def _read_arrays(file, entries, n_bytes):
    """The arrays, and their bytes in the order of the file."""
    places = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name!r} is no dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"{name!r} has the dtype {dtype!r}, not one of {sorted(_DTYPES)}")
        for numbers in (shape, offsets):
            is_list = isinstance(numbers, list) and len(numbers) <= 32
            if not is_list or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
                raise ValueError(f"{name!r} has sizes or offsets that are no counts")
        expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if len(offsets) != 2 or offsets[1] - offsets[0] != expected:
            raise ValueError(f"{name!r} has the offsets {offsets}, but takes {expected} bytes")
        places.append((*offsets, name))
    places.sort()
    end = 0
    for first, last, name in places:
        if first != end:
            raise ValueError(f"{name!r} begins at {first}, not where the last one ends, {end}")
        end = last
    if end != n_bytes:
        raise ValueError(f"{n_bytes} bytes follow its header, which describes {end}")
    arrays, parts = {}, []
    for first, last, name in places:
        part = np.empty(last - first, np.uint8)
        if file.readinto(part.data) != len(part):
            raise ValueError("it ends within its arrays")
        dtype, shape = np.dtype(_DTYPES[entries[name]["dtype"]]), entries[name]["shape"]
        if dtype == bool and len(part) and part.max() > 1:
            raise ValueError(f"{name!r} has booleans that are neither 0 nor 1")
        parts.append(part.data)
        arrays[name] = part.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    return arrays, parts


def _digest(text, entries, parts):
    """SHA-256 of the description, the arrays' entries and their bytes."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    digest.update(json.dumps(entries, sort_keys=True).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
