"""The step table: what the host plans for every update, and the schedules' places in it."""

import warnings

import numpy as np
import pytest

from fastbp import MLPClassifier
from fastbp.data import Data
from fastbp.optimizers import (
    STOCHASTIC_SOLVERS,
    Optimizer,
    _momentum_products,
    adam_learning_rate,
    bias_corrections,
    nadam_momentum,
    nadam_numbers,
    nadam_products,
)
from fastbp.schedules import (
    COEFFICIENTS,
    PENALTY,
    RATE,
    ROWS,
    SHRINKAGE,
    WEIGHT,
    StepPlanner,
    gradient_steps,
)


def plan(optimizer, n_rows=10, batch_size=4, weight=None, alpha=0.0, max_iter=5):
    return StepPlanner(optimizer, n_rows, batch_size, weight, alpha, max_iter)


def test_rows_weights_and_penalties_of_each_batch():
    weight = np.array([1.0, 2, 3, 4, 0, 0, 0, 0, 5, 0.5])
    order = np.arange(10)
    table = plan(Optimizer("sgd", 0.1), weight=weight, alpha=0.3).next_epoch(order).table
    assert table[:, ROWS].tolist() == [4, 4, 2]
    assert table[:, WEIGHT].tolist() == [10, 0, 5.5]
    assert table[[0, 2], PENALTY].tolist() == [0.3 / 10, 0.3 / 5.5]
    unweighted = plan(Optimizer("sgd", 0.1), alpha=0.3).next_epoch(order).table
    assert unweighted[:, WEIGHT].tolist() == [4, 4, 2]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)])
def test_adams_step_sizes_are_scikit_learns_to_the_bit(betas):
    optimizer = Optimizer("adam", 0.01, beta_1=betas[0], beta_2=betas[1])
    planner, found = plan(optimizer, 90, 1), []
    for _ in range(6):
        steps = planner.next_epoch(np.arange(90))
        found += steps.table[:, RATE].tolist()
        optimizer.step += 90
    assert found == [adam_learning_rate(0.01, *betas, t) for t in range(1, 541)]


def test_updates_left_out_are_not_counted():
    optimizer = Optimizer("adam", 0.01)
    weight = np.array([1.0, 0, 0, 1])
    table = plan(optimizer, 4, 1, weight).next_epoch(np.arange(4)).table
    assert table[3, RATE] == adam_learning_rate(0.01, 0.9, 0.999, 2)


def test_adamw_has_its_decay_and_its_epsilon():
    optimizer = Optimizer("adamw", 0.01, weight_decay=0.5, epsilon=1e-3)
    optimizer.step = 2
    table = plan(optimizer, 2, 1).next_epoch(np.arange(2)).table
    assert table[:, SHRINKAGE].tolist() == [0.005, 0.005]
    root = np.sqrt(1 - 0.999**3)
    assert table[0, COEFFICIENTS:][:3].tolist() == [0.9, 0.999, 1e-3 * root]


def test_a_callable_gets_the_progress_of_each_update():
    asked = []

    def factor(progress):
        asked.extend(progress)
        return 1 - progress / 2

    optimizer = Optimizer("adam", 0.1, schedule=factor, beta_1=0.0, beta_2=0.0)
    planner, rates = plan(optimizer, 10, 4, max_iter=2), []
    for _ in range(3):  # one epoch more than planned
        rates += planner.next_epoch(np.arange(10)).table[:, RATE].tolist()
        planner.after_epoch(0)
    np.testing.assert_allclose(asked, [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])
    np.testing.assert_allclose(rates, 0.1 * (1 - np.array(asked) / 2))
    assert optimizer.learning_rate == pytest.approx(0.05)
    assert planner.is_planned


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (lambda progress: -progress - 1, "must not return negative"),
        (lambda progress: progress * np.nan, "must return finite factors"),
        (lambda progress: [1.0, 2.0], "must return finite factors"),
        (lambda progress: "half", "must return finite factors"),
        (lambda progress: None, "must return finite factors"),
    ],
)
def test_a_callable_that_makes_no_sense_is_named(factor, message):
    with pytest.raises(ValueError, match=f"learning_rate as a callable {message}"):
        plan(Optimizer("sgd", 0.1, schedule=factor)).next_epoch(np.arange(10))


def test_schedules_between_epochs_are_those_of_every_rule_but_adam():
    rates = {}
    for solver in STOCHASTIC_SOLVERS:
        optimizer = Optimizer(solver, 0.1, schedule="invscaling", power_t=1.0)
        plan(optimizer).after_epoch(9)
        rates[solver] = optimizer.learning_rate
    assert rates == dict.fromkeys(STOCHASTIC_SOLVERS, 0.01) | {"adam": 0.1}


@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("weight", [None, np.ones(10)], ids=["unweighted", "weighted"])
def test_a_warm_up_multiplies_the_other_schedules_and_leaves_their_rate(schedule, weight):
    rates, own = {}, {}
    for warmup in (0.0, 0.5):
        optimizer = Optimizer("sgd", 0.1, schedule=schedule, warmup=warmup)
        planner, rates[warmup], own[warmup] = plan(optimizer, weight=weight, max_iter=4), [], []
        for epoch in range(4):
            assert planner.warms_up == (epoch < 4 * warmup)
            rates[warmup] += planner.next_epoch(np.arange(10)).table[:, RATE].tolist()
            planner.after_epoch(10 * (epoch + 1))
            planner.reduce_on_plateau()
            own[warmup].append(optimizer.learning_rate)
    assert own[0.5] == own[0.0]
    rise = np.minimum(np.arange(1, 13) / 6, 1)
    np.testing.assert_allclose(rates[0.5], np.array(rates[0.0]) * rise, rtol=1e-15)
    assert rates[0.5][6:] == rates[0.0][6:]


def test_a_warm_up_of_less_than_an_update_is_none():
    first = plan(Optimizer("adam", 0.1, warmup=0.05)).next_epoch(np.arange(10)).table
    np.testing.assert_array_equal(
        first, plan(Optimizer("adam", 0.1)).next_epoch(np.arange(10)).table
    )


def test_nadams_momenta_follow_from_the_number_of_updates():
    """Wherever training goes on, with whatever plan of epochs, also where a file says how late."""
    (beta, decay), products, product = (0.9, 0.004), [], 1.0
    for t in range(1, 3001):
        product *= nadam_momentum(beta, decay, t)
        products.append(product)
    for parts in ([3000], [1, 2, 300, 2697], [10] * 300):
        _momentum_products.clear()
        ends = np.cumsum(parts)
        found = [
            nadam_products(beta, decay, np.arange(e - n + 1, e + 1))
            for e, n in zip(ends, parts, strict=True)
        ]
        # As they are used; the last ones of all are smaller than what is kept.
        np.testing.assert_array_equal(1 - np.concatenate(found), 1 - np.array(products))
    _momentum_products.clear()
    late = np.array([2**62, 2**62 + 1])
    for beta_1 in (0.0, 0.9, 1 - 2.0**-53):
        assert (1 - nadam_products(beta_1, decay, late)).tolist() == [1, 1]
        rates, (*_, lookahead) = nadam_numbers(0.1, late, beta_1, 0.999, 1e-8, decay)
        np.testing.assert_allclose(lookahead * rates, 0.1 * beta_1)
    assert max(map(len, _momentum_products.values())) < 60


def test_nadam_has_no_number_for_batches_left_out_before_the_first():
    weight = np.array([0.0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = plan(Optimizer("nadam", 0.01), 4, 1, weight).next_epoch(np.arange(4)).table
    whole = plan(Optimizer("nadam", 0.01), 2, 1).next_epoch(np.arange(2)).table
    np.testing.assert_array_equal(table[2:, COEFFICIENTS:], whole[:, COEFFICIENTS:])


def test_adaptive_comes_down_by_five_until_it_makes_no_difference():
    optimizer = Optimizer("sgd", 1e-4, schedule="adaptive")
    planner, rates = plan(optimizer), []
    while planner.reduce_on_plateau():
        rates.append(optimizer.learning_rate)
    np.testing.assert_allclose(rates, [2e-5, 4e-6, 8e-7])


def test_gradient_steps_weigh_all_rows_alike():
    data = Data(np.zeros((5, 1)), None, np.array([1.0, 2, 0, 0, 3]))
    steps, total = gradient_steps(data, 2)
    assert total == 6
    assert steps.table[:, WEIGHT].tolist() == [6, 0, 6]
    assert steps.rule.n_moments == 1


def test_an_error_in_a_callable_says_where_it_comes_from():
    def scalar(progress):
        return 1 if progress < 0.5 else 0.1

    with pytest.raises(ValueError, match="ambiguous") as caught:
        plan(Optimizer("sgd", 0.1, schedule=scalar)).next_epoch(np.arange(10))
    assert "learning_rate, which is called with an array" in caught.value.__notes__[0]


def test_progress_never_goes_back_in_partial_fits_of_any_size():
    """It was counted in batches of the present call: a larger one made it go back."""
    asked = []

    def factor(progress):
        asked.extend(progress)
        return np.ones_like(progress)

    model = MLPClassifier((3,), learning_rate=factor, max_iter=4, batch_size=10)
    for n_rows in (10, 10, 50, 10, 10):
        X = np.random.default_rng(0).normal(size=(n_rows, 2))
        model.partial_fit(X, X[:, 0] > 0, classes=[False, True])
    expected = [0, 1 / 4, *(np.arange(10, 15) / 20), 3 / 4, 1]
    np.testing.assert_allclose(asked, expected)


def test_corrections_of_late_updates_are_computed_alone():
    """A file may say that 2⁶² updates were made, with a β next to 1: the table had no end."""
    beta, updates = 1 - 2.0**-52, np.array([2**62, 2**62 + 1])
    found = bias_corrections(beta, updates)
    assert found.tolist() == [1.0 - beta**t for t in updates.tolist()]
    some = np.arange(1, 50)
    expected = [1.0 - 0.999**t for t in some.tolist()]
    np.testing.assert_array_equal(bias_corrections(0.999, some), expected)
