"""Comparisons to the bit: of all that an estimator or an array contains, and of results."""

import struct

import numpy as np
import scipy.sparse

# What a fit leaves for users to see.
FITTED = (
    "coefs_", "intercepts_", "loss_", "loss_curve_", "best_loss_", "validation_scores_",
    "best_validation_score_", "n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_",
    "n_features_in_", "feature_names_in_", "classes_",
)  # fmt: skip


def freeze(thing):
    """Turn a thing into nested tuples that are equal if and only if its contents are, to the bit.

    Objects without contents of their own, such as functions, are compared by identity.
    """
    if isinstance(thing, float):  # NumPy's, too
        return "float", struct.pack("d", thing)
    if thing is None or isinstance(thing, (int, str, bytes)):
        return type(thing).__name__, thing
    if isinstance(thing, np.generic) or type(thing) in (np.ndarray, np.memmap, np.matrix):
        array = np.asarray(thing)
        if array.dtype.hasobject:
            return "objects", array.shape, tuple(freeze(each) for each in array.ravel().tolist())
        return type(thing).__name__, array.dtype.str, array.shape, array.tobytes()
    if isinstance(thing, dict):
        return "dict", tuple((name, freeze(value)) for name, value in sorted(thing.items()))
    if isinstance(thing, (list, tuple)):
        return type(thing).__name__, tuple(freeze(each) for each in thing)
    if isinstance(thing, np.random.RandomState):
        return "RandomState", id(thing)  # a failed fit may have drawn from it, as scikit-learn's
    if scipy.sparse.issparse(thing):
        arrays = {name: each for name, each in vars(thing).items() if isinstance(each, np.ndarray)}
        return thing.format, thing.shape, freeze(arrays)
    # Of a table only the numbers: other contents come and go.
    if hasattr(thing, "__array__") and not isinstance(thing, type):
        return type(thing).__name__, freeze(np.asarray(thing))
    contents = getattr(thing, "__dict__", None)
    if contents is None or callable(thing):
        return type(thing).__name__, id(thing)
    return type(thing).__name__, freeze(contents)


def changed(before, after):
    """The names of the attributes that differ between two frozen estimators."""
    before, after = dict(before[1][1]), dict(after[1][1])
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def learned(estimator):
    """What a fit has left, name -> frozen value."""
    return {name: freeze(getattr(estimator, name, None)) for name in FITTED}


def as_array(result):
    """A prediction or score as an array."""
    return np.asarray(result.toarray() if scipy.sparse.issparse(result) else result)


def same_result(one, other):
    """Whether two predictions are equal to the bit."""
    if scipy.sparse.issparse(one) != scipy.sparse.issparse(other):
        return False
    return freeze(as_array(one)) == freeze(as_array(other))
