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
        TabularMLPRegressor(**QUICK),
        TabularMLPClassifier(**QUICK, n_ensemble=2, selection="log_loss", n_threads=2),
        TabularMLPRegressor(**QUICK, n_ensemble=2, validation_fraction=0),
    ]
)
def test_scikit_learn_checks(estimator, check, monkeypatch):
    if "sample_weight_equivalence" in check.func.__name__:
        # For float32 results scikit-learn's own assert_allclose asks for these digits.
        wide = partial(estimator_checks.assert_allclose_dense_sparse, rtol=1e-4)
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", wide)
    check(estimator)
