"""A case's arrays and random draws, the same for every contender."""

import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastbp import datasets
from fastbp.bench.cases import SEED

N_TRIALS, TRIAL_ROWS = 2, 4_096
SUBNORMAL_NUMBER = 1e-39  # of float32


@dataclass(frozen=True)
class Draws:
    """What a case is trained on, from which weights, and in which orders.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), of the case's dtype
    labels : ndarray of shape (n_rows,), dtype int64
    coefs, intercepts : list of ndarray, of the case's dtype
        The initial weights, of shapes (fan_in, fan_out) and (fan_out,).
    n_epochs : int
        How many epochs there will be at most.
    state : tuple of (ndarray of shape (624,), dtype uint32, int)
        Key and position of scikit-learn's generator once the weights are drawn.
    """

    X: np.ndarray
    labels: np.ndarray
    coefs: list
    intercepts: list
    n_epochs: int
    state: tuple

    def shuffles(self):
        """Draw the order of the rows in one epoch after the other, as fastbp does in its fit.

        A contender takes each order within that epoch's time, because fastbp and scikit-learn do.

        Yields
        ------
        order : ndarray of shape (n_rows,), dtype int64
            The same array every time, shuffled again.
        """
        random_state = np.random.RandomState()
        random_state.set_state(("MT19937", *self.state))
        order = np.arange(len(self.X), dtype=np.int64)
        for _ in range(self.n_epochs):
            random_state.shuffle(order)  # upon the last order
            yield order

    def save(self, path):
        """Write the arrays to one file, which every worker reads."""
        layers = {f"coefs_{i}": array for i, array in enumerate(self.coefs)}
        layers |= {f"intercepts_{i}": array for i, array in enumerate(self.intercepts)}
        key, position = self.state
        drawn = {"n_epochs": self.n_epochs, "key": key, "position": position}
        np.savez(path, X=self.X, labels=self.labels, **drawn, **layers)

    @classmethod
    def load(cls, path):
        """Read the file that `save` wrote."""
        with np.load(path) as file:
            n_layers = sum(name.startswith("coefs_") for name in file.files)
            coefs = [file[f"coefs_{i}"] for i in range(n_layers)]
            intercepts = [file[f"intercepts_{i}"] for i in range(n_layers)]
            n_epochs, state = int(file["n_epochs"]), (file["key"], int(file["position"]))
            return cls(file["X"], file["labels"], coefs, intercepts, n_epochs, state)


def draw(case, n_epochs, mnist=None):
    """Make a case's `Draws`.

    The weights and the orders are the ones that scikit-learn and fastbp draw themselves in a fit
    with `random_state=SEED`; the other contenders are handed the weights and draw the orders.

    Parameters
    ----------
    case : Case
    n_epochs : int
    mnist : path-like or None, default=None
        Folder of MNIST's files.
    """
    X, labels = rows_and_labels(case, mnist)
    random_state = np.random.RandomState(SEED)  # scikit-learn's generator
    coefs, intercepts = [], []
    factor = 2.0 if case.activation == "logistic" else 6.0
    for fan_in, fan_out in pairwise(case.layer_sizes):
        bound = np.sqrt(factor / (fan_in + fan_out))
        coefs.append(random_state.uniform(-bound, bound, (fan_in, fan_out)).astype(case.dtype))
        intercepts.append(random_state.uniform(-bound, bound, fan_out).astype(case.dtype))
    _, key, position, *_ = random_state.get_state()
    return Draws(X, labels, coefs, intercepts, n_epochs, (key, position))


def rows_and_labels(case, mnist=None):
    """A case's training set: MNIST's, or made-up rows whose classes a noisy linear map decides."""
    n_features, n_classes = case.layer_sizes[0], case.layer_sizes[-1]
    if n_features == 784 and mnist and not case.is_dense:
        data = datasets.load_mnist(mnist)
        X = data.X_train[: case.n_rows].astype(case.dtype) * np.dtype(case.dtype).type(1 / 255)
        return X, data.y_train[: case.n_rows]
    generator = np.random.default_rng(SEED)
    X = generator.standard_normal((case.n_rows, n_features), dtype=np.float32)
    scores = X @ generator.standard_normal((n_features, n_classes), dtype=np.float32)
    scores += 0.3 * np.sqrt(n_features) * generator.standard_normal(scores.shape, np.float32)
    if case.has_subnormals:
        X[:, ::3] = SUBNORMAL_NUMBER
    return X.astype(case.dtype), scores.argmax(axis=1)


def find_mnist():
    """The folder of MNIST's files: FASTBP_DATA, or where `load_mnist` keeps its copy.

    Returns
    -------
    folder : Path or None
        None where neither has them: a benchmark downloads nothing.
    """
    for folder in (os.environ.get("FASTBP_DATA"), datasets.cache_folder()):
        if folder and list(Path(folder).glob("train-images-idx3-ubyte*")):
            return Path(folder)
    return None


def faster(train_epoch):
    """Whether gathering by index, `train_epoch(True)`, beats permuting, `train_epoch(False)`."""
    seconds = {True: [], False: []}
    for gathered in (True, False) * N_TRIALS:
        started = time.perf_counter()
        train_epoch(gathered)
        seconds[gathered].append(time.perf_counter() - started)
    return min(seconds[True]) <= min(seconds[False])
