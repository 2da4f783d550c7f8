"""Predictions against scikit-learn: many rows at once, and one row at a time; by turns.

    python -m benchmarks.serving

A 784-128-10 classifier in float32. Both packages predict with the same weights, in one process and
on the same arrays. A round is one call on all rows, or 500 calls on one row; medians over
the rounds. All cores are kept busy for a moment before each, until the idle threads of
scikit-learn's BLAS have stopped spinning.
"""

import time
import warnings
from statistics import median

import numpy as np

import fastbp
from fastbp.bench.race import PAUSE, keep_busy
from fastbp.threads import available_threads

ROWS, ROUNDS, CALLS = 60_000, 15, 500


def seconds(function, calls=1):
    """Seconds that a call takes, from several in a row."""
    keep_busy(available_threads(), PAUSE)
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def main():
    """Measure and print a table."""
    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    X = random.random((ROWS, 784), dtype=np.float32)
    ours = fastbp.MLPClassifier((128,), max_iter=1, random_state=0)
    ours.fit(X[:2000], np.arange(2000) % 10)
    theirs = ours.to_sklearn()
    np.testing.assert_allclose(
        ours.predict_proba(X[:500]), theirs.predict_proba(X[:500]), rtol=1e-3, atol=1e-6
    )
    row = X[:1]
    tasks = {
        f"predict_proba, {ROWS:,} rows": (lambda model: lambda: model.predict_proba(X), 1),
        "predict_proba, one row": (lambda model: lambda: model.predict_proba(row), CALLS),
        "predict, one row": (lambda model: lambda: model.predict(row), CALLS),
    }
    print(f"{'':30}{'fastbp':>12}{'scikit-learn':>14}{'ratio':>8}")
    for name, (make, calls) in tasks.items():
        taken = {id(model): [] for model in (ours, theirs)}
        for _ in range(ROUNDS):
            for model in (ours, theirs):
                taken[id(model)].append(seconds(make(model), calls))
        fast, slow = (median(taken[id(model)][1:]) * 1e6 for model in (ours, theirs))
        print(f"{name:30}{fast:9.0f} µs{slow:11.0f} µs{slow / fast:8.2f}")


if __name__ == "__main__":
    main()
