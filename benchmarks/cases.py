"""The networks that are raced: their shapes, their data, the draws that all contenders share."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SEED = 0


@dataclass(frozen=True)
class Case:
    """One network on one training set, and what is asked of fastbp's speed there.

    Parameters
    ----------
    layer_sizes : tuple of int
        Units a layer, features and classes included. With 784 features the rows are MNIST's
        training images where they are found, else made up.
    activation : {"logistic", "tanh"}
        Of every hidden layer; the output is a softmax.
    batch_size, n_rows : int
    learning_rate : float
        Of gradient descent with classical momentum 0.9.
    n_rounds : int
        Timed epochs a contender; more where an epoch is short.
    required : float
        The fastest peer's time over fastbp's must reach this.
    """

    layer_sizes: tuple[int, ...]
    activation: str
    batch_size: int
    n_rows: int
    learning_rate: float
    n_rounds: int
    required: float = 1.0

    @property
    def name(self):
        """The layer sizes, with a run of equal ones written once: 28-300x5-3."""
        first, *hidden, last = self.layer_sizes
        if len(hidden) > 2 and len(set(hidden)) == 1:
            hidden = [f"{hidden[0]}x{len(hidden)}"]
        return "-".join(map(str, (first, *hidden, last)))


CASES = (
    Case((784, 128, 10), "logistic", 64, 60_000, 0.1, 11, required=1.5),
    Case((4, 16, 3), "logistic", 32, 15_000, 0.05, 15),
    Case((30, 64, 64, 3), "logistic", 64, 60_000, 0.05, 11),
    Case((28, 300, 300, 300, 300, 300, 3), "tanh", 100, 50_000, 0.01, 7),
    Case((784, 512, 512, 10), "logistic", 256, 60_000, 0.1, 7),
)


@dataclass(frozen=True)
class Draws:
    """A case's arrays and the random draws that every contender uses, made beforehand.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), dtype float32
    labels : ndarray of shape (n_rows,), dtype int64
    coefs, intercepts : list of ndarray, dtype float32
        The initial weights, of shapes (fan_in, fan_out) and (fan_out,).
    orders : ndarray of shape (n_epochs, n_rows), dtype int64
        The order of the rows in each epoch.
    """

    X: np.ndarray
    labels: np.ndarray
    coefs: list
    intercepts: list
    orders: np.ndarray

    def save(self, path):
        """Write the arrays to one file, which every worker reads."""
        layers = {f"coefs_{i}": array for i, array in enumerate(self.coefs)}
        layers |= {f"intercepts_{i}": array for i, array in enumerate(self.intercepts)}
        np.savez(path, X=self.X, labels=self.labels, orders=self.orders, **layers)

    @classmethod
    def load(cls, path):
        """Read the file that `save` wrote."""
        with np.load(path) as file:
            n_layers = sum(name.startswith("coefs_") for name in file.files)
            coefs = [file[f"coefs_{i}"] for i in range(n_layers)]
            intercepts = [file[f"intercepts_{i}"] for i in range(n_layers)]
            return cls(file["X"], file["labels"], coefs, intercepts, file["orders"])


def draw(case, n_epochs):
    """Make a case's `Draws`.

    The weights and the orders are the ones that scikit-learn and fastbp draw themselves in a fit
    with `random_state=SEED`; JAX and PyTorch are handed them.
    """
    X, labels = rows_and_labels(case)
    random_state = np.random.RandomState(SEED)  # scikit-learn's generator
    coefs, intercepts = [], []
    factor = 2.0 if case.activation == "logistic" else 6.0
    for fan_in, fan_out in zip(case.layer_sizes[:-1], case.layer_sizes[1:], strict=True):
        bound = np.sqrt(factor / (fan_in + fan_out))
        coefs.append(random_state.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32))
        intercepts.append(random_state.uniform(-bound, bound, fan_out).astype(np.float32))
    orders = np.empty((n_epochs, len(X)), np.int64)
    order = np.arange(len(X))
    for epoch in range(n_epochs):
        permutation = np.arange(len(X))
        random_state.shuffle(permutation)
        orders[epoch] = order = order[permutation]
    return Draws(X, labels, coefs, intercepts, orders)


def rows_and_labels(case):
    """A case's training set: MNIST's, or made-up rows whose classes a noisy linear map decides."""
    n_features, n_classes = case.layer_sizes[0], case.layer_sizes[-1]
    folder = mnist_folder()
    if n_features == 784 and folder:
        X, labels = mnist(folder)
        return X.astype(np.float32) / np.float32(255), labels.astype(np.int64)
    generator = np.random.default_rng(SEED)
    X = generator.standard_normal((case.n_rows, n_features), dtype=np.float32)
    scores = X @ generator.standard_normal((n_features, n_classes), dtype=np.float32)
    scores += np.sqrt(n_features) * generator.standard_normal(scores.shape, dtype=np.float32)
    return X, scores.argmax(axis=1)


def mnist_folder():
    """The folder of MNIST's files: FASTBP_DATA, or beside the checkout; None where neither is."""
    candidates = (os.environ.get("FASTBP_DATA"), ROOT.parent / "shared" / "data" / "mnist")
    for folder in candidates:
        if folder and list(Path(folder).glob("train-images-idx3-ubyte*")):
            return Path(folder)
    return None


def mnist(folder):
    """MNIST's training set as it comes: uint8 of shape (60000, 784) and (60000,)."""
    images = read_idx(folder, "train-images-idx3-ubyte", 16)
    return images.reshape(-1, 784), read_idx(folder, "train-labels-idx1-ubyte", 8)


def read_idx(folder, name, n_header_bytes):
    """The bytes behind an IDX file's header, gzipped or not."""
    path = folder / name
    zipped = folder / f"{name}.gz"
    content = path.read_bytes() if path.exists() else gzip.decompress(zipped.read_bytes())
    return np.frombuffer(content, np.uint8, offset=n_header_bytes)
