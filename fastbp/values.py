"""Python's and NumPy's values as JSON, and back: what no JSON knows becomes a dict that says it.

What comes back from a stranger's file is one of these values or an error, and takes no more memory
than `MOST_BYTES` beside its text.
"""

import re
import reprlib
from math import isfinite

import numpy as np

MOST_BYTES = 2**28  # of an array of strings: NumPy gives each the space of the longest
_ARRAY_TYPES = re.compile(
    r"[<>|](b1|[iu][1248]|f(2|4|8|12|16)|[SU]\d{1,9}|O8?|"
    r"[mM]8\[(\d{1,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])"
)
_WIDE = np.dtype(np.longdouble)  # which NumPy turns into no number of Python's, if it is wide
_NOT_FINITE = {"inf", "-inf", "nan"}


def encode(value):
    """Turn a value into one of JSON, from which `decode` makes the same value of the same type.

    Parameters
    ----------
    value : object
        None, a bool, an int, a float, a str or bytes; a list or a tuple of them, or a dict with
        names for keys; one of NumPy's scalars; or a one-dimensional array of NumPy's, with objects
        of these types.

    Returns
    -------
    encoded : object
        Without NaN and infinity.

    Raises
    ------
    ValueError
        If the value is of another type.

    Examples
    --------
    >>> encode((1, float("inf"), np.float32(0.5)))
    {'tuple': [1, {'float': 'inf'}, {'dtype': '<f4', 'value': 0.5}]}
    >>> decode(encode((b"a", None)))
    (b'a', None)
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if isfinite(value) else {"float": repr(value)}
    if kind is bytes:
        return {"bytes": value.decode("latin-1")}
    if kind is list:
        return [encode(each) for each in value]
    if kind is tuple:
        return {"tuple": [encode(each) for each in value]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: encode(each) for key, each in value.items()}}
    if isinstance(value, np.generic | np.ndarray) and value.ndim < 2:
        dtype = value.dtype
        if _ARRAY_TYPES.fullmatch(dtype.str) and (value.ndim == 0 or value.nbytes <= MOST_BYTES):
            name = "value" if value.ndim == 0 else "values"
            return {"dtype": dtype.str, name: _items(value)}
    raise ValueError(
        f"{reprlib.repr(value)} of type {kind.__name__} cannot be stored: only None, booleans, "
        "numbers, strings, bytes, and lists, tuples, dicts and one-dimensional arrays of them can."
    )


def _items(value):
    """What stands for an array or a scalar in JSON: wide floats as text."""
    if value.dtype.kind != "f" or value.dtype.itemsize <= 8:
        return encode(value.tolist())
    return [str(each) for each in value] if value.ndim else str(value)


def decode(encoded):
    """Make the value that `encode` was given; whoever wrote it need not be trusted.

    Raises
    ------
    ValueError
        If it is nothing that `encode` returns.
    """
    if encoded is None or type(encoded) in (bool, int, float, str):
        return encoded
    if isinstance(encoded, list):
        return [decode(each) for each in encoded]
    keys = {*encoded} if isinstance(encoded, dict) else {}
    if keys == {"float"} and encoded["float"] in list(_NOT_FINITE):
        return float(encoded["float"])
    if keys == {"bytes"} and isinstance(encoded["bytes"], str):
        return encoded["bytes"].encode("latin-1")
    if keys == {"tuple"} and isinstance(encoded["tuple"], list):
        return tuple(decode(each) for each in encoded["tuple"])
    if keys == {"dict"} and isinstance(encoded["dict"], dict):
        return {key: decode(each) for key, each in encoded["dict"].items()}
    if keys == {"dtype", "value"} and not isinstance(encoded["value"], list):
        return _array(encoded["dtype"], [encoded["value"]])[0]
    if keys == {"dtype", "values"} and isinstance(encoded["values"], list):
        return _array(encoded["dtype"], encoded["values"])
    raise ValueError(f"{reprlib.repr(encoded)} is no stored value")


def array_type(name):
    """The dtype of this name, as `numpy.dtype.str` gives it, among those that can be stored.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(name, str) or not _ARRAY_TYPES.fullmatch(name):
        raise ValueError(f"{reprlib.repr(name)} is no dtype of stored values")
    return np.dtype(name)


def _array(name, encoded):
    """A one-dimensional array; every value must stay what it is."""
    dtype, values = array_type(name), decode(encoded)
    if dtype.itemsize * len(values) > MOST_BYTES:
        raise ValueError(f"{len(values)} values of dtype {name} take more than {MOST_BYTES} bytes")
    array = np.empty(len(values), dtype)
    if dtype.newbyteorder("=") == _WIDE and dtype.itemsize > 8:
        values = [np.longdouble(value) for value in values]
    try:
        for index, value in enumerate(values):
            array[index] = value
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{reprlib.repr(encoded)} is no array of dtype {name}: {error}") from error
    if _items(array) != encoded:
        raise ValueError(f"{reprlib.repr(encoded)} is no array of dtype {name}")
    return array
