"""Many threads predict by one estimator while others fit it anew, to other data and labels.

    python -m tests.trials.refit_threads --seconds 60 --threads 16 --seed 0

Every prediction, and every copy, must be that of one of the models that the fits make, whole, or
raise a ValueError about the number of features. Two threads fit the same object at once; between
their fits come calls that fail.
"""

import argparse
import copy
import faulthandler
import pickle
import random
import sys
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from sklearn.base import clone

from fastbp import MLPClassifier, MLPRegressor
from tests.fuzz.state import same_result

SUBSETS = (slice(0, 1), slice(3, 4), slice(0, 5), slice(0, 40), slice(0, 300))
LABELS = (
    np.arange(4),
    np.array(list("abc")),
    np.array([b"p", b"q"]),
    10.0 * np.arange(7),
    np.array([False, True]),
)
SWITCH_INTERVAL = 1e-6  # seconds after which Python lets another thread run


@dataclass
class Variant:
    """One data set to which the estimator is fitted, and the rows that threads ask for.

    Parameters
    ----------
    X, y : as for `fit`
    rows : list of array or sparse matrix
    """

    X: object
    y: object
    rows: list


def make_variants(classifies, generator):
    """Data of several widths; of one of them twice, with other labels."""
    variants = []
    for index, n_features in enumerate((40, 40, 3, 40, 300)):
        X = generator.normal(size=(300, n_features))
        if classifies:
            names = LABELS[index]
            y = names[generator.integers(0, len(names), 300)]
        else:
            y = generator.normal(size=(300, 1 + index))
        rows = [X[part] for part in SUBSETS]
        rows += [scipy.sparse.csr_matrix(np.where(part > 1, part, 0)) for part in rows]
        variants.append(Variant(X, np.squeeze(y), rows))
    return variants


class Trial:
    """One estimator with its threads.

    Parameters
    ----------
    estimator : unfitted estimator
    variants : list of Variant
    seed : int
    """

    def __init__(self, estimator, variants, seed):
        self.estimator, self.variants, self.seed = estimator, variants, seed
        self.methods = (
            ("predict", "predict_proba") if hasattr(estimator, "predict_proba") else ("predict",)
        )
        fitted = [clone(estimator).fit(each.X, each.y) for each in variants]
        # (variant of the rows, number of the rows, method) -> results of all models that take them
        self.right = {
            (asked, number, method): [
                getattr(model, method)(rows)
                for model, variant in zip(fitted, variants, strict=True)
                if variant.X.shape[1] == each.X.shape[1]
            ]
            for asked, each in enumerate(variants)
            for number, rows in enumerate(each.rows)
            for method in self.methods
        }
        self.counts, self.wrong, self.lock = Counter(), Counter(), threading.Lock()
        self.is_over = threading.Event()
        estimator.fit(variants[0].X, variants[0].y)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def complain(self, what):
        with self.lock:
            self.wrong[what] += 1

    # ---- what the threads do ------------------------------------------------------------------

    def ask(self, number):
        """Predict until the end, by the estimator and now and then by a copy of it."""
        dice = random.Random(f"{self.seed}/{number}")
        while not self.is_over.is_set():
            key = dice.choice(list(self.right))
            try:
                self.check(key, dice)
            except Exception as error:
                self.complain(f"{type(error).__name__}: {error}"[:200])

    def check(self, key, dice):
        """One prediction, which must be right."""
        asked, number, method = key
        estimator, rows, how = self.estimator, self.variants[asked].rows[number], "prediction"
        if dice.random() < 0.05:
            how = dice.choice(("deepcopy", "pickle"))
            pickled = how == "pickle"
            estimator = (
                pickle.loads(pickle.dumps(estimator)) if pickled else copy.deepcopy(estimator)
            )
        try:
            result = getattr(estimator, method)(rows)
        except ValueError as error:
            if "features" not in str(error):
                raise
            self.count("refused for its width")
            return
        if any(same_result(result, each) for each in self.right[key]):
            self.count(how)
        else:
            self.complain(f"{how}: {method} of {rows.shape} rows is no model's")

    def refit(self, number):
        """Fit to one data set after the other, with calls in between that fail."""
        dice = random.Random(f"{self.seed}/refit {number}")
        while not self.is_over.is_set():
            variant = dice.choice(self.variants)
            try:
                self.estimator.fit(variant.X, variant.y)
                self.count("fit")
            except Exception as error:
                self.complain(f"fit: {type(error).__name__}: {error}"[:200])
            self.fail(dice, variant)

    def fail(self, dice, variant):
        """A call that must raise a ValueError."""
        X, y = variant.X, variant.y
        calls = (
            lambda: self.estimator.fit(X * np.nan, y),
            lambda: self.estimator.fit(X, y[:-1]),
            lambda: self.estimator.partial_fit(X[:, :0], y),
            lambda: self.estimator.partial_fit(np.ones((2, 2)), y[:2]),
            lambda: self.estimator.fit(X[:5], [None] * 5),
        )
        try:
            dice.choice(calls)()
        except (ValueError, TypeError):
            self.count("failed as it must")
        except Exception as error:
            self.complain(f"a failing call: {type(error).__name__}: {error}"[:200])
        else:
            self.complain("a failing call succeeded")

    # ---- all together -------------------------------------------------------------------------

    def run(self, n_threads, seconds):
        """Let the threads work; then the estimator must be one of the models, too."""
        jobs = [(self.refit, 0), (self.refit, 1), *((self.ask, i) for i in range(n_threads))]
        threads = [threading.Thread(target=job, args=(i,), daemon=True) for job, i in jobs]
        for thread in threads:
            thread.start()
        self.is_over.wait(seconds)
        self.is_over.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                self.complain("a thread hangs")
        dice = random.Random(0)
        for key in self.right:
            self.check(key, dice)


def main():
    """Run the trial; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    counts, wrong, before = Counter(), Counter(), sys.getswitchinterval()
    parameters = dict(hidden_layer_sizes=(9, 5), max_iter=3, random_state=0)
    kinds = (MLPClassifier(**parameters), MLPRegressor(solver="sgd", **parameters))
    started = time.monotonic()
    for estimator in kinds:
        variants = make_variants(isinstance(estimator, MLPClassifier), np.random.default_rng(0))
        trial = Trial(estimator, variants, given.seed)
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            trial.run(given.threads, given.seconds / len(kinds))
        finally:
            sys.setswitchinterval(before)
        counts, wrong = counts + trial.counts, wrong + trial.wrong
    for what, n in wrong.most_common():
        print(f"{n:8d}  {what}")
    done = ", ".join(f"{n} × {what}" for what, n in counts.most_common())
    print(
        f"{given.threads} threads that predict and 2 that fit, seed {given.seed}, "
        f"{time.monotonic() - started:.0f} s: {done}; {wrong.total()} wrong"
    )
    return int(wrong.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
