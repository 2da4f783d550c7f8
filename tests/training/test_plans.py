"""Plans of the weight decay and of dropout, short last batches, and equal scores."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastbp import MLPClassifier, MLPRegressor
from fastbp.schedules import SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 4))
    return X, X[:, 0] * X[:, 1] + X[:, 2]


def test_log_cosine_has_four_cycles_of_doubling_length():
    factor = SCHEDULES["log_cosine"].factor
    ends = (2.0 ** np.arange(5) - 1) / 15
    assert_allclose(factor(ends), 0, atol=1e-12)
    peaks = (2.0 ** (np.arange(4) + 0.5) - 1) / 15
    assert_allclose(factor(peaks), 1)
    assert_allclose(factor(np.array([0.2])), 0.5 - 0.5 * np.cos(2 * np.pi * 2.0), atol=1e-12)


def test_flat_cosine_falls_in_the_second_half():
    factor = SCHEDULES["flat_cosine"].factor
    assert_allclose(factor(np.array([0, 0.3, 0.5, 0.75, 1])), [1, 1, 1, 0.5, 0], atol=1e-12)


def adamw(**parameters):
    own = {"hidden_layer_sizes": (6,), "solver": "adamw", "batch_size": 10, "random_state": 0}
    return MLPRegressor(**own | {"max_iter": 4} | parameters)


def test_weight_decay_follows_its_plan(rows):
    X, y = rows
    never = adamw(weight_decay=0.5, weight_decay_schedule=np.zeros_like).fit(X, y)
    assert_array_equal(never.coefs_[0], adamw(weight_decay=0.0).fit(X, y).coefs_[0])
    always = adamw(weight_decay=0.5, weight_decay_schedule=np.ones_like).fit(X, y)
    assert_array_equal(always.coefs_[0], adamw(weight_decay=0.5).fit(X, y).coefs_[0])
    falling = adamw(weight_decay=0.5, weight_decay_schedule="linear").fit(X, y)
    norms = [np.linalg.norm(model.coefs_[0]) for model in (always, falling, never)]
    assert norms == sorted(norms)
    assert len(set(norms)) == 3


def test_dropout_follows_its_plan(rows):
    X, y = rows
    kind = {"dropout": 0.5, "input_dropout": 0.25, "shuffle": False}
    never = adamw(**kind, dropout_schedule=np.zeros_like).fit(X, y)
    assert_array_equal(never.coefs_[0], adamw(shuffle=False).fit(X, y).coefs_[0])
    always = adamw(**kind, dropout_schedule=np.ones_like).fit(X, y)
    assert_array_equal(always.coefs_[0], adamw(**kind).fit(X, y).coefs_[0])
    half = adamw(**kind, dropout_schedule=lambda t: np.full_like(t, 0.5)).fit(X, y)
    less = adamw(dropout=0.25, input_dropout=0.125, shuffle=False).fit(X, y)
    assert_array_equal(half.coefs_[0], less.coefs_[0])


def test_a_plan_must_return_factors(rows):
    for name in ("weight_decay_schedule", "dropout_schedule"):
        with pytest.raises(ValueError, match=f"{name} as a callable must not return negative"):
            adamw(**{name: lambda t: -1 - t}).fit(*rows)


def test_a_short_last_batch_is_left_out(rows):
    X, y = rows
    model = adamw(batch_size=16, drop_last=True, shuffle=False, max_iter=2).fit(X, y)
    assert model.t_ == 2 * 48
    fewer = adamw(batch_size=16, shuffle=False, max_iter=2).fit(X[:48], y[:48])
    assert_array_equal(model.coefs_[0], fewer.coefs_[0])
    assert model.loss_curve_ == fewer.loss_curve_
    weighted = adamw(batch_size=16, drop_last=True, shuffle=False, max_iter=2)
    weighted.fit(X, y, np.ones(50))
    assert_allclose(weighted.coefs_[0], fewer.coefs_[0])
    all_in_one = adamw(batch_size=50, drop_last=True, max_iter=2).fit(X, y)
    assert all_in_one.t_ == 100


def test_of_equal_scores_the_last_may_count(rows):
    X, y = rows
    fitted = {}
    for ties in ("first", "last"):
        fitted[ties] = MLPClassifier(
            (5,), early_stopping=True, scoring=lambda *_: 1.0, max_iter=4, n_iter_no_change=9,
            random_state=0, ties=ties,
        ).fit(X, y > 0)  # fmt: skip
    assert [fitted[ties].best_iter_ for ties in ("first", "last")] == [1, 4]
    assert not np.array_equal(fitted["first"].coefs_[0], fitted["last"].coefs_[0])
