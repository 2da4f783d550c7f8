"""A grid search over 12 settings on the bundled digits, against scikit-learn's own MLP.

Both searches run two jobs at once, each package in the way that suits it: fastbp in joblib's
threads, scikit-learn in loky's processes. In float64 both must rank the settings alike before a
speed is told. The workers have been started and the kernels compiled before the clock starts.

    python -m benchmarks.grid_search
"""

import argparse
import os
import time
import warnings

import numpy as np
import sklearn.neural_network
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import fastbp

GRID = {
    "hidden_layer_sizes": [(50,), (100,), (100, 50)],
    "alpha": [1e-4, 1e-2],
    "learning_rate_init": [1e-3, 1e-2],
}
CONTENDERS = {"fastbp": (fastbp, "threading"), "scikit-learn": (sklearn.neural_network, "loky")}
N_JOBS = 2


def search(contender, X, y, max_iter):
    """Run the search; return its duration in seconds and the fitted search."""
    package, backend = CONTENDERS[contender]
    model = package.MLPClassifier(max_iter=max_iter, random_state=0)
    grid_search = GridSearchCV(model, GRID, n_jobs=N_JOBS)
    with parallel_config(backend=backend):
        started = time.perf_counter()
        grid_search.fit(X, y)
        return time.perf_counter() - started, grid_search


def compare(dtype, n_rounds, max_iter):
    """Race the two by turns; return each one's best time, and whether the ranking is the same.

    Parameters
    ----------
    dtype : str
        Of X.
    n_rounds : int
    max_iter : int
        Epochs at most.

    Returns
    -------
    seconds : dict of str to float
    same : bool
    difference : float
        The largest between two mean scores.
    """
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(dtype)
    seconds, scores, ranks = {}, {}, {}
    for contender in CONTENDERS:
        search(contender, X, y, max_iter=1)
        seconds[contender] = np.inf
    for _ in range(n_rounds):
        for contender in CONTENDERS:
            elapsed, found = search(contender, X, y, max_iter)
            seconds[contender] = min(seconds[contender], elapsed)
            scores[contender] = found.cv_results_["mean_test_score"]
            ranks[contender] = found.cv_results_["rank_test_score"]
    same = np.array_equal(ranks["fastbp"], ranks["scikit-learn"])
    difference = np.abs(scores["fastbp"] - scores["scikit-learn"]).max()
    return seconds, same, float(difference)


def main():
    """Print a line for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-iter", type=int, default=50)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # loky's workers
    for dtype in ("float64", "float32"):
        seconds, same, difference = compare(dtype, options.rounds, options.max_iter)
        ours, theirs = seconds["fastbp"], seconds["scikit-learn"]
        if dtype == "float64" and not same:
            raise SystemExit(f"The rankings differ in float64; scores by {difference:.2g} at most.")
        print(
            f"{dtype}: fastbp, threads {ours:.2f} s; scikit-learn, loky {theirs:.2f} s; "
            f"{theirs / ours:.1f} times faster; ranking {'the same' if same else 'another'}, "
            f"scores differ by {difference:.2g} at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
