"""Fitted estimators whose state was changed at random, then used, each in a process of its own.

    python -m tests.trials.forged_states --n 2000 --seed 0

A pickle, a file or a careless program may leave any state behind. Whatever it is, a call raises a
ValueError, TypeError, AttributeError or NotFittedError, or predicts what the weights that can be
seen say, computed by NumPy. It never crashes (X lies before an unreadable page), hangs or answers
wrongly.
"""

import argparse
import copy
import dataclasses
import json
import os
import pickle
import random
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter

import numpy as np
import scipy.sparse

from fastbp import MLPClassifier, MLPRegressor
from tests.fuzz import features, oracles
from tests.guard import guarded

ALLOWED = (ValueError, TypeError, AttributeError)
SECONDS = 20
WAYS = "vars", "record", "pickle", "attribute"

# ---- estimators ---------------------------------------------------------------------------------


def make_estimators():
    """Fitted estimators of every kind, with the X and y that they know."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 12))
    labels = generator.integers(0, 4, 40)
    tasks = (
        (MLPClassifier, {}, labels),
        (MLPClassifier, {"solver": "sgd"}, np.array(list("abcd"))[labels]),
        (MLPClassifier, {}, labels > 1),
        (MLPClassifier, {"loss": "squared_error"}, labels),
        (MLPClassifier, {"precision": "float32"}, generator.integers(0, 2, (40, 3))),
        (MLPClassifier, {"early_stopping": True, "validation_fraction": 0.3}, labels),
        (MLPRegressor, {"solver": "lbfgs"}, generator.normal(size=40)),
        (MLPRegressor, {}, generator.normal(size=(40, 3))),
        (MLPRegressor, {"loss": "poisson", "solver": "adamw"}, labels),
    )
    made = []
    for kind, parameters, y in tasks:
        for sizes in ((7,), (), (9, 5)):
            estimator = kind(hidden_layer_sizes=sizes, max_iter=2, random_state=0, **parameters)
            made.append((estimator.fit(X, y), X, y))
    return made


# ---- changes ------------------------------------------------------------------------------------

FOREIGN = (
    None, 0, 1, -1, -5, 3, 2**31, 2**63, 2**70, 0.5, -0.5, 1e300, float("nan"), float("inf"), True,
    "", "x", "relu", "softmax", "squared_error", b"x", (), (1,), (12, 7, 4), [], [1, 2], [None], {},
    {"a": 1}, set(), object(), int, len, 1j, np.float32(2), np.int64(-3), np.datetime64("2020"),
    np.zeros(0), np.zeros(3), np.full((3, 3), np.nan), np.array(None), np.array("x"),
    np.array([b"x"]), np.arange(4)[::-1], np.array([1, "a"], object), MLPRegressor(),
)  # fmt: skip


def foreign(dice):
    """Something that does not belong there."""
    value = dice.choice(FOREIGN)
    return value.copy() if isinstance(value, (np.ndarray, list, dict, set)) else value


def change_array(dice, array):
    """The array with another shape, dtype, order or other numbers."""
    size = dice.choice((0, 1, 2, 3, 5, 7, 12, 13, 64, 1000))
    shapes = (
        (size,),
        (size, size),
        (size, *array.shape[1:]),
        (*array.shape[:-1], size),
        (),
        (1, 1, 1),
    )
    options = (
        lambda: np.zeros(dice.choice(shapes), array.dtype),
        lambda: np.ones(dice.choice(shapes)),
        lambda: array.astype(dice.choice(("f2", "f4", "f8", ">f8", "i1", "u1", "i8", "?", "c16"))),
        lambda: array.astype(dice.choice((object, str, np.longdouble))),
        lambda: array.T,
        lambda: np.asfortranarray(array),
        lambda: array[::-1],
        lambda: array[:-1],
        lambda: array[..., None],
        lambda: np.broadcast_to(array.dtype.type(), array.shape),
        lambda: np.broadcast_to(array.dtype.type(), (2**40,) if dice.random() < 0.5 else (2**20,)),
        lambda: np.repeat(array, 2, axis=0)[::2],
        lambda: np.where(
            np.arange(array.size).reshape(array.shape) == 0, foreign_number(dice), array
        ),
        lambda: np.ma.masked_array(array),
        lambda: array.tolist(),
        lambda: array.view("u1") if array.flags.c_contiguous else array,
    )
    with np.errstate(all="ignore"):
        return dice.choice(options)()


def foreign_number(dice):
    """A number that is hard to compute with."""
    return dice.choice((np.nan, np.inf, -np.inf, 1e308, 1e-310, -1.0, 2.0**63))


def change(dice, value, depth=0):
    """Change a value: somewhere inside of it, or as a whole."""
    if dice.random() < 0.2 or depth > 5:
        return foreign(dice)
    if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "biufc":
        return change_array(dice, value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value):
        return dice.choice((value[::-1], value[:-1], value[:1], value[:0], value[:, None],
                            np.concatenate([value, value]), np.arange(len(value))))  # fmt: skip
    if isinstance(value, (list, tuple)) and value:
        return type(value)(change_list(dice, list(value), depth))
    if isinstance(value, dict) and value:
        return change_dict(dice, value, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return change_record(dice, value, depth)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return dice.choice((value + 1, value - 1, -value, 0, 2 * value, value + 0.5, 10**9, 2**63))
    if isinstance(value, float):
        return float(foreign_number(dice))
    return foreign(dice)


def change_list(dice, items, depth):
    """Change, drop, double or swap an entry."""
    index = dice.randrange(len(items))
    how = dice.choice(("change", "change", "change", "drop", "double", "swap"))
    if how == "drop":
        del items[index]
    elif how == "double":
        items.insert(index, items[index])
    elif how == "swap":
        items.reverse()
    else:
        items[index] = change(dice, items[index], depth + 1)
    return items


def change_dict(dice, entries, depth):
    """Change an entry, leave one out, or add one."""
    entries, name = dict(entries), dice.choice(sorted(entries))
    how = dice.random()
    if how < 0.2:
        del entries[name]
    elif how < 0.25:
        entries["an_attribute_of_a_later_version"] = 3
    else:
        entries[name] = change(dice, entries[name], depth + 1)
    return entries


def change_record(dice, record, depth):
    """Change a field of a dataclass in a copy, behind its back where it checks."""
    name = dice.choice([each.name for each in dataclasses.fields(record)])
    value = change(dice, getattr(record, name), depth + 1)
    with np.errstate(all="ignore"):
        try:
            if dice.random() < 0.5:
                return dataclasses.replace(record, **{name: value})
        except (ValueError, TypeError):
            pass
        changed = copy.copy(record)
        object.__setattr__(changed, name, value)
    return changed


def forge(dice, estimator):
    """Change the state of a copy of an estimator in one to three places.

    Returns
    -------
    forged : estimator
    how : {"vars", "record", "pickle", "attribute"}
        Where: in its `__dict__`; in the record of its model, unchecked; in a pickle's state; in its
        public attributes. The last two may raise what `ALLOWED` says.
    """
    forged, how = copy.deepcopy(estimator), dice.choice(WAYS)
    for _ in range(dice.choice((1, 1, 2, 3))):
        if how == "pickle":
            state = change_dict(dice, forged.__getstate__(), 0)
            forged = object.__new__(type(estimator))
            forged.__setstate__(state)
        elif how == "attribute":
            names = [name for name in dir(forged) if name.endswith("_") and name[0] != "_"]
            name = dice.choice(names)
            value = getattr(forged, name, None)
            if isinstance(value, list) and value and dice.random() < 0.5:
                change_list(dice, value, 0)  # in place
            elif isinstance(value, np.ndarray) and value.size and dice.random() < 0.3:
                value[...] = value.flat[0]
            else:
                setattr(forged, name, change(dice, value))
        elif how == "record" and "_model" in vars(forged):
            vars(forged)["_model"] = change(dice, vars(forged)["_model"])
        else:
            changed = change_dict(dice, vars(forged), 0)
            vars(forged).clear()
            vars(forged).update(changed)
    return forged, how


# ---- use ----------------------------------------------------------------------------------------


def rows_for(forged, X):
    """X, also as wide as the estimator says that it must be."""
    yield X
    try:
        width = forged.n_features_in_
    except Exception:  # which `uses_of` tells
        return
    if isinstance(width, (int, np.integer)) and 0 < width < 10**7 and width != X.shape[1]:
        n_rows = max(1, min(20, 10**7 // int(width)))
        yield np.random.default_rng(1).normal(size=(n_rows, int(width)))


def uses_of(forged, X, y):
    """Yield names and functions: all that may be done with an estimator."""
    for name in ("n_features_in_", "coefs_", "out_activation_", "n_layers_", "classes_"):
        yield name, lambda name=name: getattr(forged, name, None)
    for rows in rows_for(forged, X):
        methods = ("predict", "predict_proba", "predict_log_proba")
        for method in methods if isinstance(forged, MLPClassifier) else methods[:1]:
            for name, some in (
                (method, guarded(rows)),
                (f"{method} one row", guarded(rows[:1])),
                (f"{method} sparse", scipy.sparse.csr_matrix(np.where(rows > 0.5, rows, 0))),
            ):
                yield name, lambda method=method, some=some: predict(forged, method, some)
    X, y = guarded(X), y if y.dtype.kind in "OU" else guarded(y)
    yield "pickle", lambda: predict(pickle.loads(pickle.dumps(forged)), "predict", X)
    yield "deepcopy", lambda: predict(copy.deepcopy(forged), "predict", X)
    yield "to_sklearn", lambda: forged.to_sklearn().predict(X)
    if features.CAN_SAVE:
        yield "save", lambda: forged.save(f"/tmp/forged-{os.getpid()}.fastbp")
    yield "partial_fit", lambda: train(forged, "partial_fit", X, y)
    yield "partial_fit again", lambda: train(forged, "partial_fit", X[:9], y[:9])
    yield "warm start", lambda: train(forged.set_params(warm_start=True), "fit", X, y)
    yield "fit", lambda: train(forged.set_params(warm_start=False), "fit", X, y)


def predict(forged, method, X):
    """Predict; raise an oracle's Finding where the result is not what the weights say."""
    result = getattr(forged, method)(X)
    oracles.check_prediction(forged, X, method, result, "X")
    if oracles.expected_outputs(forged, X)[0].shape[0] != len(oracles.as_array(result)):
        raise oracles.Finding("forged", "another number of rows")


def train(forged, method, X, y):
    """Train, and predict with what was learned."""
    getattr(forged, method)(X, y)
    for array in (*forged.coefs_, *forged.intercepts_):
        if not np.isfinite(array).all():
            raise oracles.Finding("forged", "trained to NaN")
    predict(forged, "predict", X)


def use(number, seed, estimators):
    """What comes of one forged state: a list of [use, outcome]; wrong outcomes begin with "!"."""
    dice = random.Random(f"{seed}/{number}")
    estimator, X, y = dice.choice(estimators)
    outcomes = []
    try:
        forged, how = forge(dice, estimator)
    except Exception as error:
        return [["forge", verdict(error)]]
    for name, call in uses_of(forged, X, y):
        try:
            call()
            outcomes.append([f"{how}: {name}", "right"])
        except BaseException as error:
            outcomes.append([f"{how}: {name}", verdict(error)])
    return outcomes


def verdict(error):
    """The outcome that an exception means."""
    if isinstance(error, oracles.Finding):
        return f"! {error.oracle}: {error.what}"
    place = oracles.place_of(error)
    said = f"{type(error).__name__}: {str(error)[:160]}"
    is_clear = isinstance(error, ALLOWED) and str(error)
    if isinstance(error, MemoryError):
        is_clear = True  # an array that claims terabytes has them once it is copied
    if isinstance(error, AttributeError) and "NoneType" in said:
        is_clear = False
    if is_clear or (not place and not _in_the_package(error)):
        return said
    return f"! {said} [{place}]"


def _in_the_package(error):
    return any(oracles.PACKAGE in f.filename for f in traceback.extract_tb(error.__traceback__))


# ---- processes ----------------------------------------------------------------------------------


def in_child(number, seed, estimators):
    """Use one forged state in a forked process; return its outcomes."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        outcomes = [["child", "! no outcome"]]
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, `verbose` may be on
        try:
            outcomes = use(number, seed, estimators)
        finally:
            os.write(theirs, json.dumps(outcomes)[:60_000].encode())
            os._exit(0)
    os.close(theirs)
    answer, ends = b"", time.monotonic() + SECONDS
    while time.monotonic() < ends:
        if select.select([ours], [], [], 0.5)[0]:
            more = os.read(ours, 1 << 16)
            answer += more
            if not more:
                break
    else:
        os.kill(pid, signal.SIGKILL)
        answer = json.dumps([["hang", f"! no answer within {SECONDS} s"]]).encode()
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and not answer:
        return [["crash", f"! signal {os.WTERMSIG(status)}"]]
    return json.loads(answer)


def main():
    """Run the trials; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print all outcomes")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    estimators, counts, kinds, started = make_estimators(), Counter(), Counter(), time.monotonic()
    for estimator, X, y in estimators:  # loads all kernels, before the forks
        for _, call in uses_of(copy.deepcopy(estimator), X, y):
            try:
                call()
            except ALLOWED:
                continue
    for number in range(given.first, given.first + given.n):
        for name, outcome in in_child(number, given.seed, estimators):
            is_wrong = outcome.startswith("!")
            counts["wrong" if is_wrong else "right" if outcome == "right" else "refused"] += 1
            if is_wrong:
                kinds[outcome] += 1
            if given.verbose or (is_wrong and kinds[outcome] <= 2):
                print(f"{number:6d} {name:32s} {outcome}", flush=True)
    print(
        f"{given.n} forged states of seed {given.seed} in {time.monotonic() - started:.0f} s: "
        f"{counts['right']} right results, {counts['refused']} clear errors, "
        f"{counts['wrong']} wrong"
    )
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
