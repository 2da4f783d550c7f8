"""scikit-learn's contract for estimators, whole, of both estimators for tables."""

from functools import partial

from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp import TabularMLPClassifier, TabularMLPRegressor

# Small networks and few epochs.
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 40, "learning_rate_init": 0.02}


@parametrize_with_checks(
    [
        TabularMLPClassifier(**QUICK),
        # Rounding grows while a regression is trained.
        TabularMLPRegressor(**QUICK, precision="float64"),
        TabularMLPClassifier(**QUICK, n_ensemble=2, selection="log_loss", n_threads=2),
        TabularMLPRegressor(**QUICK, n_ensemble=2, validation_fraction=0, precision="float64"),
    ]
)
def test_scikit_learn_checks(estimator, check, monkeypatch):
    if estimator.precision == "float32" and "sample_weight_equivalence" in check.func.__name__:
        # For float32 results scikit-learn's own assert_allclose asks for these digits.
        wide = partial(estimator_checks.assert_allclose_dense_sparse, rtol=1e-4)
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", wide)
    check(estimator)


def _what_dropout_breaks(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": "Dropout leaves out other units in a row "
        "that is there three times than in one of weight 3, as do the rows that the initial "
        "weights are fitted to."
    }


@parametrize_with_checks(
    [TabularMLPClassifier(**QUICK, preset="full"), TabularMLPRegressor(**QUICK, preset="full")],
    expected_failed_checks=_what_dropout_breaks,
)
def test_scikit_learn_checks_of_the_full_preset(estimator, check):
    check(estimator)
