"""scikit-learn's contract for estimators, whole: every solver, precision, and teams of threads."""

from functools import partial
from itertools import product

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp import MLPClassifier, MLPRegressor
from fastbp.cpu import work

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOLVERS = {
    "adam": {"learning_rate_init": 0.02},
    "sgd": {"learning_rate_init": 0.05},
    # Unpenalised, lbfgs comes to probabilities of exactly 0 and 1, which the checks refuse.
    "lbfgs": {"alpha": 1.0, "max_iter": 20},
}


def every_estimator():
    """Every estimator, solver, precision and number of threads: small networks, few epochs."""
    for estimator, solver, precision, n_threads in product(
        (MLPClassifier, MLPRegressor), SOLVERS, ("float32", "float64"), (None, 2)
    ):
        quick = {"hidden_layer_sizes": (8,), "max_iter": 60} | SOLVERS[solver]
        if (estimator, solver) == (MLPRegressor, "sgd"):
            quick["learning_rate_init"] = 0.01  # for targets that are not scaled
        yield estimator(solver=solver, precision=precision, n_threads=n_threads, **quick)


@parametrize_with_checks(
    [
        *every_estimator(),
        MLPClassifier(solver="sgd", loss="squared_error", learning_rate_init=0.5),
        MLPRegressor(loss="poisson", max_iter=60, learning_rate_init=0.02),
    ]
)
def test_scikit_learn_checks(estimator, check, monkeypatch):
    if estimator.n_threads:
        # Networks as small as these would be left to one thread.
        monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    if estimator.precision == "float32" and "sample_weight_equivalence" in check.func.__name__:
        # The check sends float64 data, and so asks for float64's digits. For float32 results
        # scikit-learn's own assert_allclose asks for these.
        wide = partial(estimator_checks.assert_allclose_dense_sparse, rtol=1e-4)
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", wide)
    check(estimator)
