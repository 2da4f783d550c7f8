"""Mutations of files: of bytes, and of what a container says, with a digest that is right again."""

import copy
import json
import math

import numpy as np

from fastbp import container

# ---- bytes --------------------------------------------------------------------------------------


def flip(dice, content, others):
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return content


def cut(dice, content, others):
    return content[: dice.randrange(len(content))]


def drop(dice, content, others):
    start, size = _range(dice, content)
    return content[:start] + content[start + size :]


def insert(dice, content, others):
    start, size = _range(dice, content)
    return content[:start] + _filling(dice, content, size) + content[start:]


def overwrite(dice, content, others):
    start, size = _range(dice, content)
    return content[:start] + _filling(dice, content, size) + content[start + size :]


def swap(dice, content, others):
    (start, size), (other, _) = sorted((_range(dice, content), _range(dice, content)))
    size = min(size, other - start, len(content) - other)
    first, second = content[start : start + size], content[other : other + size]
    content[start : start + size], content[other : other + size] = second, first
    return content


def splice(dice, content, others):
    """The beginning of one file and the end of another."""
    place = dice.randrange(len(content))
    return content[:place] + dice.choice(others)[place:]


def set_number(dice, content, others):
    """Another number where one may be: the length of a header, or a size."""
    size = dice.choice((1, 2, 4, 8))
    start = dice.choice((0, 0, 4, 8, 12, dice.randrange(len(content))))
    number = dice.choice((0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1, len(content)))
    number = (number + dice.choice((-1, 0, 0, 1))) % 2 ** (8 * size)
    content[start : start + size] = number.to_bytes(size, dice.choice(("little", "big")))
    return content


_BYTE_MUTATIONS = flip, flip, flip, cut, drop, insert, overwrite, swap, splice, set_number


def mutate_bytes(dice, content, others):
    """Change the bytes of a file in one to three places; return the new bytes and a name."""
    changed, names = bytearray(content), []
    for _ in range(dice.choice((1, 1, 2, 3))):
        if changed:
            mutation = dice.choice(_BYTE_MUTATIONS)
            changed = bytearray(mutation(dice, changed, others))
            names.append(mutation.__name__)
    return bytes(changed), " ".join(names)


def _range(dice, content):
    """Where a range begins, and how long it is."""
    size = min(len(content), int(2 ** dice.uniform(0, 10)))
    return dice.randrange(len(content) - size + 1), size


def _filling(dice, content, size):
    start = dice.randrange(len(content))
    return dice.choice((bytes(size), dice.randbytes(size), bytes(content[start : start + size])))


# ---- JSON ---------------------------------------------------------------------------------------

_NUMBERS = (
    0, 1, 2, 3, -1, -7, 12, 100, 2**20, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64,
    10**30, 10**400, -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e300, -1e300, math.nan, math.inf,
)  # fmt: skip
_WORDS = (
    "", "a", "MLPClassifier", "MLPRegressor", "BaseEstimator", "os.system", "relu", "gelu",
    "identity", "softmax", "logistic", "tanh", "adam", "sgd", "adamw", "lbfgs", "log_loss",
    "squared_error", "poisson", "multiclass", "binary", "multilabel", "F64", "F32", "I64", "BOOL",
    "inf", "nan", "<f8", "<U999999999", "|S9", "|O", "|b1", "1", "None", "__class__", "\ud800",
    "\0", "float64", "float32", "auto", "constant", "adaptive", "x" * 5000,
)  # fmt: skip
_VALUES = (
    None, True, False, [], {}, [[]], [None], {"float": "inf"}, {"float": "nan"},
    {"bytes": "abc"}, {"bytes": "\u20ac"}, {"tuple": []}, {"tuple": [1, 2]}, {"generator": {}},
    {"dtype": "<f8", "value": 1.0}, {"dtype": "<f8", "values": [1.0]},
    {"dtype": "<U999999999", "values": ["a"]}, {"dtype": "|O", "values": [[1]]},
    {"dtype": "<i8", "values": list(range(3))},
)  # fmt: skip


class Doubled(dict):
    """A dict that is written with a key twice."""


def mutate_json(dice, value, depth=0):
    """Change one place of a JSON value."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.05:
        return foreign(dice, value)
    if isinstance(value, list):
        changed, index = list(value), dice.randrange(len(value))
        how = dice.choice(("inside", "inside", "drop", "double", "swap", "many"))
        if how == "inside":
            changed[index] = mutate_json(dice, value[index], depth + 1)
        elif how == "drop":
            del changed[index]
        elif how == "double":
            changed.insert(index, changed[index])
        elif how == "swap":
            changed.reverse()
        else:
            changed = changed * dice.choice((2, 1000))
        return changed
    changed, name = dict(value), dice.choice(sorted(value))
    how = dice.choice(("inside",) * 8 + ("drop", "add", "rename", "swap", "double"))
    if how == "drop":
        del changed[name]
    elif how == "add":
        changed[dice.choice(_WORDS)] = foreign(dice, value[name])
    elif how == "rename":
        changed[dice.choice(_WORDS)] = changed.pop(name)
    elif how == "swap":
        other = dice.choice(sorted(value))
        changed[name], changed[other] = changed[other], changed[name]
    elif how == "double":
        changed = Doubled(changed)
    else:
        changed[name] = mutate_json(dice, value[name], depth + 1)
    return changed


def foreign(dice, value):
    """Another value, near to one or of another type."""
    how = dice.random()
    if type(value) in (int, float) and how < 0.4:
        near = value + 1, value - 1, -value, value * 2, str(value)
        return dice.choice(near if abs(value) > 1e300 else (*near, float(value)))
    if how < 0.6:
        return dice.choice(_NUMBERS)
    if how < 0.85:
        return dice.choice(_WORDS)
    if how < 0.87:
        nested = []
        for _ in range(dice.choice((50, 500, 3000))):
            nested = [nested]
        return nested
    return copy.deepcopy(dice.choice(_VALUES))


def dumps(value):
    """JSON that may say NaN, a key twice, and nest deeply."""
    pieces = []
    todo = [value]  # not recursive: `json.dumps` gives up early
    while todo:
        each = todo.pop()
        if isinstance(each, _Text):
            pieces.append(each.text)
        elif isinstance(each, dict):
            items = [*each.items()]
            items += items[:1] if isinstance(each, Doubled) else []
            todo.append(_Text("}"))
            for index, (name, inner) in reversed([*enumerate(items)]):
                todo += [inner, _Text(("," if index else "") + json.dumps(name) + ":")]
            todo.append(_Text("{"))
        elif isinstance(each, list) and any(isinstance(inner, list | dict) for inner in each):
            todo.append(_Text("]"))
            for index, inner in reversed([*enumerate(each)]):
                todo += [inner, _Text("," if index else "")]
            todo.append(_Text("["))
        else:
            pieces.append(json.dumps(each))
    return "".join(pieces)


class _Text:
    def __init__(self, text):
        self.text = text


# ---- containers ---------------------------------------------------------------------------------


def take_apart(content):
    """The entries of the arrays, the description and the arrays' bytes of a file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header.pop("__metadata__")
    return header, json.loads(metadata["fastbp"]), content[end:]


def put_together(entries, description, data):
    """A file with this content, whatever it is, and its digest."""
    text = description if isinstance(description, str) else dumps(description)
    try:
        digest = container._digest_of(entries, text, [data])
    except (RecursionError, AttributeError, TypeError):  # which no reader gets to
        digest = "0" * 64
    header = {"__metadata__": {"fastbp": text, "sha256": digest}}
    header = dumps({**header, **entries} if isinstance(entries, dict) else entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def mutate_content(dice, content):
    """Change what a file says in one to three places, so that its digest is right."""
    entries, description, data = take_apart(content)
    names = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        how = dice.choice(("description",) * 6 + ("entries", "entries", "values", "array", "array"))
        names.append(how)
        if how == "description":
            description = mutate_json(dice, description)
        elif how == "entries":
            entries = mutate_json(dice, entries)
        elif data and how == "values":
            data = mutate_bytes(dice, data, [data])[0][: len(data)].ljust(len(data), b"\0")
        elif data and isinstance(entries, dict):
            entries, data = mutate_array(dice, entries, data)
        if not isinstance(description, dict):
            break
    return put_together(entries, description, data), " ".join(names)


def mutate_array(dice, entries, data):
    """Leave an array out, or give it another name, shape, type or other numbers."""
    try:
        arrays = {
            name: np.frombuffer(data[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]])
            .reshape(entry["shape"])
            .copy()
            for name, entry in entries.items()
        }
        name = dice.choice(sorted(arrays))
    except (ValueError, KeyError, TypeError, IndexError):
        return entries, data  # the entries were changed before
    array = arrays[name]
    how = dice.choice(("drop", "rename", "number", "number", "type", "shape", "resize", "swap"))
    if how == "drop":
        del arrays[name]
    elif how == "rename":
        arrays[dice.choice([*arrays, *_WORDS])] = arrays.pop(name)
    elif how == "number" and array.size:
        number = dice.choice((0, 1, -1, 3, 1e30, 1e300, 1e-310, math.nan, math.inf, -math.inf))
        with np.errstate(all="ignore"):
            array.flat[dice.randrange(array.size)] = np.array(number).astype(array.dtype)
    elif how == "type":
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(dice.choice([*_DTYPES.values()]))
    elif how == "shape":
        shapes = (array.size,), array.shape[::-1], (*array.shape, 1), (1, *array.shape)
        arrays[name] = array.reshape(dice.choice(shapes))
    elif how == "resize":
        arrays[name] = np.resize(array, dice.choice((0, 1, 2, 7, 1000)))
    else:
        other = dice.choice(sorted(arrays))
        arrays[name], arrays[other] = arrays[other], arrays[name]
    entries, pieces, position = {}, [], 0
    for name, array in arrays.items():
        piece = np.ascontiguousarray(array).tobytes()
        entries[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + len(piece)],
        }
        pieces.append(piece)
        position += len(piece)
    return entries, b"".join(pieces)


_DTYPES, _NAMES = container._DTYPES, container._NAMES
