"""Calls that are short or no epoch of training, against scikit-learn: predictions and L-BFGS.

Both libraries have the same weights or the same start, and take turns in one process. A time counts
only where both have computed the same.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from fastbp.bench.cases import SEED
from fastbp.bench.workers import one_line

TURN_SECONDS, MOST_CALLS = 0.02, 1_000  # of a turn
ROUNDS, QUICK_ROUNDS = 9, 3
TOLERANCE = 0.02  # relative, between losses; of probabilities, which are at most 1, absolute
N_FEATURES, ENTRIES_A_ROW = 2**18, 50  # of sparse rows, as of hashed words
ITERATIONS = 30  # of L-BFGS, within which rounding has not yet led to another minimum


@dataclass(frozen=True)
class Side:
    """One library's part of a call.

    Parameters
    ----------
    call : callable
        What is timed; it returns how many units it was (iterations, or 1).
    numbers : callable
        What it has computed, to be compared.
    """

    call: Callable
    numbers: Callable


@dataclass(frozen=True)
class Call:
    """What is timed.

    Parameters
    ----------
    name : str
    prepare : callable
        Without arguments; returns fastbp's side and scikit-learn's.
    unit : str, default="call"
        What a time is given for.
    is_quick : bool, default=False
        Whether it belongs to a quick run.
    """

    name: str
    prepare: Callable
    unit: str = "call"
    is_quick: bool = False


@dataclass
class Timed:
    """The medians of a call, in seconds a unit.

    Parameters
    ----------
    name, unit : str
    ours, theirs : float
        NaN without valid times.
    remark : str
        Why there are none; empty where there are.
    """

    name: str
    unit: str
    ours: float = float("nan")
    theirs: float = float("nan")
    remark: str = ""

    @property
    def ratio(self):
        """scikit-learn's time over fastbp's."""
        return self.theirs / self.ours


# ---- what is called -------------------------------------------------------------------------


def _predicting(ours, theirs, X):
    """Both sides of a prediction by two models with the same weights."""

    def side(model):
        def call():
            model.predict(X)
            return 1

        return Side(call, lambda: model.predict_proba(X))

    return side(ours), side(theirs)


def _dense_rows(n_rows, n_features=100):
    generator = np.random.default_rng(SEED)
    X = generator.standard_normal((n_rows, n_features))
    return X, (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def predict_one_row():
    """100-100-2 in float64."""
    from fastbp import MLPClassifier

    X, y = _dense_rows(500)
    model = MLPClassifier(random_state=SEED, max_iter=3).fit(X, y)
    return _predicting(model, model.to_sklearn(), X[:1])


def predict_sparse_rows(n_rows):
    """2¹⁸ features and 20 units in float32."""
    from scipy.sparse import csr_array

    from fastbp import MLPClassifier

    generator = np.random.default_rng(SEED)
    n_entries = n_rows * ENTRIES_A_ROW
    columns = generator.integers(0, N_FEATURES, n_entries)
    starts = np.arange(n_rows + 1) * ENTRIES_A_ROW
    values = generator.standard_normal(n_entries, np.float32)
    X = csr_array((values, columns, starts), shape=(n_rows, N_FEATURES))
    X.sum_duplicates()
    model = MLPClassifier((20,), random_state=SEED)
    model.partial_fit(X, np.arange(n_rows) % 2, classes=[0, 1])
    return _predicting(model, model.to_sklearn(), X)


def partial_fit_of_one_row():
    """100-100-2 in float64, by Adam."""
    from sklearn.neural_network import MLPClassifier as TheirClassifier

    from fastbp import MLPClassifier

    X, y = _dense_rows(1)

    def side(model):
        model.partial_fit(X, y, classes=[0, 1])

        def call():
            model.partial_fit(X, y)
            return 1

        # Both were called as often.
        return Side(call, lambda: model.loss_curve_[:QUICK_ROUNDS])

    return tuple(side(each(random_state=SEED)) for each in (MLPClassifier, TheirClassifier))


def fit_by_lbfgs(make_rows):
    """Sixteen units in float64; time an iteration."""
    from sklearn.neural_network import MLPClassifier as TheirClassifier

    from fastbp import MLPClassifier

    X, y = make_rows()

    def side(estimator_class):
        model = estimator_class(
            (16,), solver="lbfgs", activation="tanh", max_iter=ITERATIONS, random_state=SEED
        )

        def call():
            model.fit(X, y)
            return model.n_iter_

        return Side(call, lambda: model.loss_)

    return side(MLPClassifier), side(TheirClassifier)


def _xor():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return X, np.array([0, 1, 1, 0])


def _iris():
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True)


CALLS = (
    Call("predict, one row", predict_one_row, is_quick=True),
    Call("partial_fit, one row", partial_fit_of_one_row, is_quick=True),
    *(
        Call(f"predict, sparse rows: {n_rows:,}", partial(predict_sparse_rows, n_rows))
        for n_rows in (1, 9, 100, 1_000)
    ),
    Call("lbfgs, XOR", partial(fit_by_lbfgs, _xor), "iteration", is_quick=True),
    Call("lbfgs, iris", partial(fit_by_lbfgs, _iris), "iteration"),
    *(
        Call(
            f"lbfgs, {n_rows:,} × 20",
            partial(fit_by_lbfgs, partial(_dense_rows, n_rows, 20)),
            "iteration",
        )
        for n_rows in (150, 2_000)
    ),
)


# ---- timing ---------------------------------------------------------------------------------


def chosen(quick):
    """The calls of a run."""
    return [call for call in CALLS if call.is_quick or not quick]


def measure(call, rounds):
    """Time both sides of a call by turns, and see that they compute the same.

    Parameters
    ----------
    call : Call
    rounds : int

    Returns
    -------
    timed : Timed
    """
    timed = Timed(call.name, call.unit)
    try:
        sides = call.prepare()
        counts = [max(1, min(MOST_CALLS, int(TURN_SECONDS / _turn(side, 3)))) for side in sides]
        seconds = [
            [_turn(side, count) for side, count in zip(sides, counts, strict=True)]
            for _ in range(rounds)
        ]
        difference = np.abs(np.subtract(*(np.asarray(side.numbers()) for side in sides)))
        scale = np.maximum(1e-3, np.abs(sides[1].numbers())) if call.unit != "call" else 1.0
        if not (difference <= TOLERANCE * scale).all():
            timed.remark = f"they compute different numbers: off by {difference.max():.3g}"
        else:
            timed.ours, timed.theirs = map(float, np.median(seconds, axis=0))
    except Exception as error:
        timed.remark = f"failed: {one_line(error)}"
    return timed


def _turn(side, count):
    """Seconds a unit of so many calls one after another."""
    started = time.perf_counter()
    units = sum(side.call() for _ in range(count))
    return (time.perf_counter() - started) / units


def serve(connection, quick):
    """A worker's whole life: time a call whenever told to."""
    warnings.simplefilter("ignore")  # reaching max_iter is what we want
    for call in chosen(quick):
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(asdict(measure(call, QUICK_ROUNDS if quick else ROUNDS)))
