"""Clones: what scikit-learn's `clone` makes of any other estimator."""

import numpy as np
import pytest
import sklearn
from conftest import small
from sklearn.base import _clone_parametrized, clone

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"hidden_layer_sizes": (3, 4)}, {"hidden_layer_sizes": [3, 4]}, {"tol": np.nan},
        {"alpha": np.float64(3)}, {"random_state": np.random.RandomState(3)},
        {"callback": print}, {"hidden_layer_sizes": ([3], 4)}, {"learning_rate": np.cos},
    ],
    ids=["none", "tuple", "list", "nan", "float64", "state", "callback", "nested", "function"],
)  # fmt: skip
def test_parameters(parameters):
    model = fastbp.MLPClassifier(**parameters)
    found, expected = vars(clone(model)), vars(_clone_parametrized(model))
    assert [*found] == [*expected]
    for name, value in expected.items():
        assert type(found[name]) is type(value)
        if type(value) is not tuple:  # of which it makes another one
            assert (found[name] is vars(model)[name]) == (value is vars(model)[name]), name
        assert repr(found[name]).split(" at ")[0] == repr(value).split(" at ")[0]


def test_what_is_fitted_stays_behind():
    model, X, y = small("multiclass")
    copied = clone(model.fit(X, y))
    assert vars(copied).keys() == model.get_params().keys()
    assert copied.get_params() == model.get_params()


def test_requests_come_along():
    with sklearn.config_context(enable_metadata_routing=True):
        model = fastbp.MLPRegressor().set_fit_request(sample_weight=True)
        copied = clone(model)
        assert copied.get_metadata_routing().fit.requests["sample_weight"] is True


class Rounding(fastbp.MLPRegressor):
    """A constructor that does what none may do."""

    def __init__(self, alpha=1.0):
        super().__init__(alpha=float(alpha))


def test_a_constructor_that_changes_parameters_is_refused():
    model = Rounding()
    assert clone(model.set_params(alpha=2.0)).alpha == 2.0
    with pytest.raises(RuntimeError, match="constructor either does not set or modifies"):
        clone(model.set_params(alpha=2))
