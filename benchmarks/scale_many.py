"""Many networks at once: searches and sweeps, here and on a cluster of two worker processes.

Digits, a hidden layer of 16 units, 20 epochs. Scores must be the same wherever they are compared.
The contenders take turns, and each one's best time counts.

    python -m benchmarks.scale_many                       # all figures
    python -m benchmarks.scale_many --only search --rounds 1 --fits 40
"""

import argparse
import os
import sys
import time
import warnings
from functools import partial

import numpy as np
import sklearn.neural_network
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import fastbp
from fastbp.model_selection import search_many

N_FOLDS = 5
N_JOBS = 2
SETTINGS = dict(hidden_layer_sizes=(16,), max_iter=20, random_state=0)


def make_grid(n_fits):
    """A grid of so many fits in all, or a few less."""
    n_rates = max(1, n_fits // N_FOLDS // 4)
    return {
        "learning_rate_init": np.logspace(-3.5, -1.5, n_rates).tolist(),
        "alpha": [1e-5, 1e-4, 1e-3, 1e-2],
    }


def race(contenders, n_rounds):
    """Call all of them by turns; return each one's best time in seconds, and its last result."""
    seconds, results = dict.fromkeys(contenders, np.inf), {}
    for _ in range(n_rounds):
        for name, call in contenders.items():
            began = time.perf_counter()
            results[name] = call()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds, results


def say(title, seconds, yardstick):
    """Print a line for each contender."""
    print(f"\n{title}")
    for name, best in seconds.items():
        print(f"  {name:44s} {best:8.2f} s   {best / seconds[yardstick]:6.2f} x")
    sys.stdout.flush()


def compare_searches(X, y, options, client):
    """`search_many` against GridSearchCV in processes, with fastbp and with scikit-learn's MLP."""
    grid = make_grid(options.fits)
    ours = fastbp.MLPClassifier(**SETTINGS)
    theirs = sklearn.neural_network.MLPClassifier(**SETTINGS)

    def on_dask():
        with parallel_config("dask", client=client):
            return GridSearchCV(ours, grid, cv=N_FOLDS).fit(X, y)

    contenders = {
        "search_many": partial(search_many, ours, grid, X, y, cv=N_FOLDS),
        "search_many, 2 workers": partial(search_many, ours, grid, X, y, cv=N_FOLDS, client=client),
        "GridSearchCV(n_jobs=2), fastbp": (
            lambda: GridSearchCV(ours, grid, cv=N_FOLDS, n_jobs=N_JOBS).fit(X, y)
        ),
        "GridSearchCV on joblib's dask, fastbp": on_dask,
        "GridSearchCV(n_jobs=2), scikit-learn's MLP": (
            lambda: GridSearchCV(theirs, grid, cv=N_FOLDS, n_jobs=N_JOBS).fit(X, y)
        ),
    }
    for call in contenders.values():  # workers started, kernels compiled
        call()
    seconds, results = race(contenders, options.rounds)
    scores = [found.cv_results_["mean_test_score"] for found in results.values()]
    for name, found in zip([*results][:-1], scores, strict=False):
        if not np.array_equal(found, scores[2]):
            raise SystemExit(f"The scores of {name} differ.")
    difference = abs(scores[0] - scores[-1]).max()
    n_fits = len(scores[0]) * N_FOLDS
    title = f"{n_fits} fits on {X.dtype} digits; scikit-learn's scores differ by {difference:.2g}"
    say(title, seconds, "search_many")


def compare_workers(X, y, options, clients):
    """`fit_many` on one worker, on two, and in the threads of this process."""

    def fit(client):
        models = [
            fastbp.MLPClassifier(**SETTINGS | {"random_state": seed})
            for seed in range(options.fits)
        ]
        return [model.loss_ for model in fastbp.fit_many(models, X, y, client=client)]

    contenders = {
        "fit_many, 1 worker": partial(fit, clients[0]),
        "fit_many, 2 workers": partial(fit, clients[1]),
        "fit_many here": partial(fit, None),
    }
    for call in contenders.values():
        call()
    seconds, results = race(contenders, options.rounds)
    if len({tuple(losses) for losses in results.values()}) > 1:
        raise SystemExit("The losses differ.")
    say(f"{options.fits} networks", seconds, "fit_many, 2 workers")


def time_a_sweep(X, y, options, client):
    """Many networks on two workers, once."""
    models = [
        fastbp.MLPClassifier(**SETTINGS | {"random_state": seed}) for seed in range(options.nets)
    ]
    began, used = time.perf_counter(), time.process_time()
    fastbp.fit_many(models, X, y, client=client)
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    print(
        f"\n{options.nets} networks 64-16-10 of 20 epochs, 2 workers: {elapsed:.1f} s, of which "
        f"this process was at work {used:.1f} s",
        flush=True,
    )


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["search", "workers", "sweep"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--nets", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # of worker processes
    from distributed import Client, LocalCluster

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    local = partial(LocalCluster, threads_per_worker=1, dashboard_address=None)
    with (
        local(n_workers=1) as one,
        local(n_workers=2) as two,
        Client(one, set_as_default=False) as single,
        Client(two) as client,
    ):
        if options.only in (None, "search"):
            compare_searches(X, y, options, client)
        if options.only in (None, "workers"):
            compare_workers(X, y, options, (single, client))
        if options.only in (None, "sweep"):
            time_a_sweep(X, y, options, client)


if __name__ == "__main__":
    main()
