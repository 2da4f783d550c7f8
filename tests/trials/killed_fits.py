"""Kinds of `tests.trials.kills`: fits with checkpoints, and saves."""

import os
import pickle
import signal
import time
import warnings
from pathlib import Path

import numpy as np

from fastbp.files import replacing
from tests.trials import children
from tests.trials.children import RIGHT, WRONG

MOST_KILLS = 3  # of one fit


def kill_after(seconds, function, *arguments):
    """Start a child, kill it after a while, and say whether it was still at work."""
    child = children.start_child(function, *arguments, seconds=600)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def long_fit(path, rows, kind):
    """A fit of about half a second; what it leaves, as bytes."""
    model, X, y = children.task()
    data = ROWS[rows](X, y, os.environ["FASTBP_CACHE_DIR"])
    model.set_params(max_iter=150, n_iter_no_change=1000, **kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path is None:
            model.fit(*data)
        else:
            model.set_params(checkpoint=path).fit(*data, resume=True)
    arrays = [*model.coefs_, *model.intercepts_, *model._optimizer.moments, model.loss_curve_]
    return pickle.dumps([np.asarray(a).tobytes() for a in arrays] + [model.n_iter_, model.t_])


def from_npy(X, y, folder):
    """The rows in a file that the first of all fits has made."""
    from fastbp import sources

    path = Path(folder, "rows.npy")
    if not path.exists():
        with replacing(path) as file:
            np.save(file, X)
    return (sources.from_npy(path, y, buffer="16kB"),)


def from_blocks(X, y, folder):
    """The rows in blocks that a function reads."""
    from fastbp import sources

    blocks = [(X[first : first + 10], y[first : first + 10]) for first in range(0, len(X), 10)]
    return (sources.from_blocks(len(blocks), blocks.__getitem__, buffer="16kB"),)


ROWS = {"arrays": lambda X, y, folder: (X, y), "npy": from_npy, "blocks": from_blocks}
FITS = (
    {},
    {"early_stopping": True, "checkpoint_every": 2},
    {"solver": "sgd", "learning_rate": "adaptive", "precision": "float32"},
)


def write_long_fit(path, *what):
    Path(path).write_bytes(long_fit(None, *what))
    return RIGHT


def compare_long_fit(path, what, expected):
    return RIGHT if long_fit(path, *what) == expected else WRONG


def in_fits(trial, expected, folder):
    """Kill a fit up to three times; resumed, it has the bits of the uninterrupted one."""
    os.environ["FASTBP_CACHE_DIR"] = in_fits.filled
    os.makedirs(folder, exist_ok=True)
    kind = FITS[trial.random.integers(len(FITS))]
    what = list(ROWS)[trial.random.integers(len(ROWS))], kind
    if str(what) not in in_fits.expected:
        path = os.path.join(folder, "expected")
        if children.in_a_child(write_long_fit, path, *what, seconds=60):
            return WRONG
        in_fits.expected[str(what)] = Path(path).read_bytes()
    path, right = os.path.join(folder, "checkpoint"), in_fits.expected[str(what)]
    for _ in range(trial.random.integers(1, MOST_KILLS + 1)):
        # Half of them soon after the kernels are loaded, when checkpoints are being written.
        if kill_after(trial.random.uniform(0.3, 2.5), compare_long_fit, path, what, right):
            trial.note(f"fits from {what[0]} killed")
            if os.path.exists(path):
                trial.note("of them after a checkpoint")
    return children.in_a_child(compare_long_fit, path, what, right, seconds=60)


in_fits.expected = {}


def save_for_ever(path):
    """Save two models in turn."""
    model, X, y = children.task()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [model.fit(X, y), children.task()[0].set_params(random_state=1).fit(X, y)]
    while True:
        for each in models:
            each.save(path)


def load_either(path, expected):
    """Load what a killed process has left: one of its two models, whole, or no file at all."""
    import fastbp

    if not os.path.exists(path):
        return RIGHT
    loaded, (_, X, _) = fastbp.load(path), children.task()
    if loaded.random_state == 0:
        return RIGHT if np.array_equal(loaded.predict_proba(X), expected[2]) else WRONG
    return RIGHT if loaded.random_state == 1 else WRONG


def in_saves(trial, expected, folder):
    """Kill a process that saves; the file is one of the models, whole."""
    os.environ["FASTBP_CACHE_DIR"] = in_fits.filled
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.fastbp")
    if kill_after(trial.random.uniform(0.5, 2.5), save_for_ever, path) and os.path.exists(path):
        trial.note("killed in saves")
    code = children.in_a_child(load_either, path, expected)
    left = [name for name in os.listdir(folder) if name != "model.fastbp"]
    if left:
        trial.note("temporary files left by a save")
    return code
