"""scikit-learn's contract for estimators, whole: every solver, precision, and teams of threads."""

from functools import partial

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp import MLPClassifier, MLPRegressor
from fastbp.cpu import work

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOLVERS = {
    "adam": {"learning_rate_init": 0.02},
    "sgd": {"learning_rate_init": 0.05},
    # Almost unpenalised, the last digits of sample weights lead to other minima.
    "lbfgs": {"alpha": 1.0, "max_iter": 20},
}


def every_estimator():
    """Every solver and precision, on one thread and on a team: small networks, few epochs.

    Teams, which take longest and have the bits of one thread, take turns: each solver and precision
    has one with the classifier or with the regressor.
    """
    precisions = "float32", "float64"
    for i, solver in enumerate(SOLVERS):
        for k, estimator in enumerate((MLPClassifier, MLPRegressor)):
            quick = {"hidden_layer_sizes": (8,), "max_iter": 60} | SOLVERS[solver]
            if (estimator, solver) == (MLPRegressor, "sgd"):
                quick["learning_rate_init"] = 0.01  # for targets that are not scaled
            for precision in precisions:
                yield estimator(solver=solver, precision=precision, **quick)
            in_turn = precisions[(i + k) % 2]
            yield estimator(solver=solver, precision=in_turn, n_threads=2, **quick)


@parametrize_with_checks(
    [
        *every_estimator(),
        MLPClassifier(solver="sgd", loss="squared_error", learning_rate_init=0.5),
        MLPRegressor(loss="poisson", max_iter=60, learning_rate_init=0.02),
        MLPClassifier(
            hidden_layer_sizes=(8,),
            activation="gelu",
            solver="adamw",
            learning_rate="cosine",
            learning_rate_init=0.02,
            warmup=0.1,
            max_iter=60,
            label_smoothing=0.1,
            max_grad_norm=1.0,
            ema_decay=0.9,
        ),
        MLPRegressor(
            loss="huber",
            hidden_layer_sizes=(8,),
            activation="silu",
            solver="rmsprop",
            learning_rate_init=0.02,
            max_iter=60,
            scale_targets=True,
            ema_decay=0.5,
        ),
        # With probabilities that underflow: none may be 0.
        MLPClassifier(solver="lbfgs", max_iter=100),
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


@pytest.mark.parametrize("options", [{}, {"readonly_memmap": True, "X_dtype": "float32"}])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_probabilities_that_underflow_pass(precision, options):
    """Where a probability was 0 and its logarithm finite, the check refused them."""
    model = MLPClassifier(solver="lbfgs", max_iter=100, precision=precision)
    estimator_checks.check_classifiers_train("MLPClassifier", model, **options)
