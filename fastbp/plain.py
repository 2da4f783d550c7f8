"""Values in the types that JSON knows, and back: parameters and labels of saved models.

What JSON lacks is an object with one key: {"tuple": [...]}, {"float": "inf"}, {"bytes": "..."}.
"""

import re
import reprlib
from math import isfinite
from numbers import Integral, Real

import numpy as np

from fastbp.labels import Labels

_NOT_FINITE = {"inf", "-inf", "nan"}
_MOST_LABEL_BYTES = 2**28  # in memory, where the longest label decides about all
_NUMBER_DTYPES = {
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
    "bool",
}
_TIME_DTYPE = re.compile(r"(datetime|timedelta)64\[[0-9]{0,9}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\]")
_TEXT_DTYPES = {"U": "str", "S": "bytes"}


def encode(value):
    """Say a value in JSON's types.

    Parameters
    ----------
    value : None, bool, number, str, bytes, tuple, list or ndarray
        NumPy's scalars become Python's, arrays and ranges become lists.

    Returns
    -------
    plain : object

    Raises
    ------
    ValueError
        If it is of another type.

    Examples
    --------
    >>> encode((10, np.float32(0.5), float("inf")))
    {'tuple': [10, 0.5, {'float': 'inf'}]}
    >>> decode(_)
    (10, 0.5, inf)
    """
    if value is None or isinstance(value, bool | np.bool_):
        return value if value is None else bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if isfinite(number) else {"float": repr(number)}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, tuple):
        return {"tuple": [encode(each) for each in value]}
    if isinstance(value, list | range):
        return [encode(each) for each in value]
    if hasattr(value, "__array__"):
        return encode(np.asarray(value).tolist())
    raise ValueError(f"{reprlib.repr(value)} of type {type(value).__name__} cannot be saved.")


def decode(plain):
    """Turn what `encode` has returned, or a stranger made, into the value.

    Raises
    ------
    ValueError
        If it is nothing that `encode` returns.
    """
    if isinstance(plain, list):
        return [decode(each) for each in plain]
    if not isinstance(plain, dict):
        return plain
    (kind, content), *more = plain.items() or [(None, None)]
    if kind == "tuple" and isinstance(content, list) and not more:
        return tuple(decode(each) for each in content)
    if kind == "float" and isinstance(content, str) and content in _NOT_FINITE and not more:
        return float(content)
    if kind == "bytes" and isinstance(content, str) and not more:
        try:
            return content.encode("latin-1")
        except UnicodeEncodeError as error:
            raise ValueError(f"{reprlib.repr(content)} are not bytes") from error
    raise ValueError(f"{reprlib.repr(plain)} is no value")


# ---- labels -----------------------------------------------------------------------------------


def encode_labels(labels):
    """Say a classifier's labels in JSON's types.

    Parameters
    ----------
    labels : Labels or None

    Returns
    -------
    plain : dict or None

    Raises
    ------
    ValueError
        If the classes are of a type that cannot be saved.

    Examples
    --------
    >>> encode_labels(Labels("binary", np.array(["no", "yes"])))
    {'kind': 'binary', 'sparse': False, 'dtype': 'str', 'classes': ['no', 'yes']}
    """
    if labels is None:
        return None
    classes = labels.classes
    name = _TEXT_DTYPES.get(classes.dtype.kind, classes.dtype.name)
    if name in ("str", "bytes", "object") or name in _NUMBER_DTYPES:
        values = classes.tolist()
    elif _TIME_DTYPE.fullmatch(name):
        values = classes.astype(np.int64).tolist()
    else:
        raise ValueError(
            f"classes_ of dtype {classes.dtype} cannot be saved, only strings, bytes, numbers and "
            "times."
        )
    return {
        "kind": labels.kind,
        "sparse": labels.sparse,
        "dtype": name,
        "classes": [encode(value) for value in values],
    }


def decode_labels(plain):
    """Turn what `encode_labels` has returned, or a stranger made, into labels.

    They are checked by themselves here, and by `Labels.check` against a network.

    Returns
    -------
    labels : Labels or None

    Raises
    ------
    ValueError
        If they are no labels.
    """
    if plain is None:
        return None
    if not isinstance(plain, dict) or plain.keys() != {"kind", "sparse", "dtype", "classes"}:
        raise ValueError(f"labels cannot be {reprlib.repr(plain)}")
    name, values = plain["dtype"], decode(plain["classes"])
    if not isinstance(name, str) or not isinstance(values, list) or not values:
        raise ValueError(f"labels cannot be {reprlib.repr(plain)}")
    if name == "object":
        classes = _make_objects(values)
    elif name in _TEXT_DTYPES.values():
        classes = _make_text(values, str if name == "str" else bytes)
    elif name in _NUMBER_DTYPES:
        classes = _make_numbers(values, np.dtype(name))
    elif _TIME_DTYPE.fullmatch(name):
        classes = _make_numbers(values, np.dtype(np.int64)).view(name)
    else:
        raise ValueError(f"labels cannot be of dtype {reprlib.repr(name)}")
    return Labels(plain["kind"], classes, plain["sparse"])


def _make_objects(values):
    if not all(isinstance(value, str | int | float | bytes) for value in values):
        raise ValueError(f"labels cannot be {reprlib.repr(values)}")
    classes = np.empty(len(values), object)
    classes[:] = values
    return classes


def _make_text(values, kind):
    if not all(isinstance(value, kind) for value in values):
        raise ValueError(f"labels of dtype {kind.__name__} cannot be {reprlib.repr(values)}")
    n_bytes = len(values) * max(map(len, values)) * (4 if kind is str else 1)
    if n_bytes > _MOST_LABEL_BYTES:
        raise ValueError(f"the labels take {n_bytes} bytes, more than {_MOST_LABEL_BYTES}")
    return np.array(values)


def _make_numbers(values, dtype):
    """An array of numbers of a dtype, which must hold each as it is."""
    kind = {"b": bool, "f": float}.get(dtype.kind, int)
    if all(type(value) is kind for value in values):
        try:
            with np.errstate(over="ignore"):
                classes = np.array(values, object).astype(dtype)
        except OverflowError:
            classes = np.zeros(0)
        if repr(classes.tolist()) == repr(values):
            return classes
    raise ValueError(f"labels of dtype {dtype} cannot be {reprlib.repr(values)}")
