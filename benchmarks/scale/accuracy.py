"""Accuracy on new rows: blocks in random order beside a full shuffle, of files stored both ways."""

import warnings

import numpy as np
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

from fastbp import MLPClassifier, sources

SEEDS, EPOCHS, BLOCK_ROWS = (0, 1, 2), 5, 20


def scores_of(X, y, test, source=None):
    """The test accuracy for each seed, trained on a source or, without one, in memory."""
    scores = []
    for seed in SEEDS:
        model = MLPClassifier((64, 32), max_iter=EPOCHS, random_state=seed, n_threads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(*((X, y) if source is None else (source,)))
        scores.append(model.score(*test))
    return np.array(scores)


def measure(folder, options):
    """Yield what is measured, what must be, what is, and whether it is met."""
    n_train = min(options.rows, 200_000)
    X, y = make_classification(
        n_train + 20_000, 50, n_informative=30, n_redundant=0, n_classes=5,
        n_clusters_per_class=2, class_sep=1.5, random_state=0,
    )  # fmt: skip
    X, test = X.astype(np.float32), (X[n_train:].astype(np.float32), y[n_train:])
    X, y = X[:n_train], y[:n_train]
    full = scores_of(X, y, test)
    # A twentieth of the rows in a buffer, in at least 64 blocks.
    buffer = n_train // 20 * X.shape[1] * 4
    for name, order in (("random", np.arange(n_train)), ("sorted", np.argsort(y, kind="stable"))):
        path = folder / f"{name}.npy"
        np.save(path, X[order])
        scores = scores_of(X, y, test, sources.from_npy(path, y[order], buffer=buffer))
        lost = full.mean() - scores.mean()
        bound = full.max() - full.min() if name == "random" else 0.01
        yield (
            f"accuracy lost, rows stored {name}, 3 seeds (full shuffle {full.mean():.4f}, "
            f"{full.min():.4f} to {full.max():.4f})",
            f"≤ {bound:.4f}", f"{lost:.4f}", lost <= bound,
        )  # fmt: skip
