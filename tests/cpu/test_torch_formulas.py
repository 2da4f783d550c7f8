"""PyTorch as the oracle: every activation, each with every update rule, and the schedules."""

import numpy as np
import pytest
from naive import NaiveEngine
from test_torch import HIDDEN, N_SAMPLES, Oracle, make_problem

from fastbp.activations import HIDDEN_ACTIVATIONS, code_of
from fastbp.cpu.engine import Engine
from fastbp.cpu.kernels import formulas
from fastbp.data import Data
from fastbp.optimizers import STOCHASTIC_SOLVERS, Optimizer
from fastbp.schedules import CYCLE_PEAK, RATE, SCHEDULES, StepPlanner
from tests.cpu.callable import Callable

torch = pytest.importorskip("torch")

# ---- activations ------------------------------------------------------------------------------

EVERYWHERE = np.concatenate(
    [
        np.linspace(-100, 100, 2001), np.linspace(-9, 9, 2001), [-0.0, 0.0],
        *(sign * np.geomspace(1e-30, 1e30, 122) for sign in (1, -1)),
    ]
)  # fmt: skip
BEYOND = np.array([np.nan, np.inf, -np.inf])


@Callable
def go_forward(code, values, kept):
    formulas.activate(code, values, kept)


@Callable
def go_back(code, deltas, errors, values):
    formulas.activate_backward(code, deltas, errors, values)


def values_and_derivatives(name, z):
    """What the kernels make of z, and f′(z)."""
    size = -(-len(z) // 64) * 64  # whole vectors
    values, deltas = np.zeros(size, z.dtype), np.zeros(size, z.dtype)
    values[: len(z)] = z
    go_forward(code_of(name), values, deltas)
    go_back(code_of(name), deltas, np.ones(size, z.dtype), values)
    return values[: len(z)], deltas[: len(z)]


def test_every_activation_has_an_oracle():
    assert set(HIDDEN) == set(HIDDEN_ACTIVATIONS)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("name", HIDDEN)
def test_values_and_derivatives_everywhere(name, dtype, tolerance):
    """Far from 0 as well: nothing overflows, and nothing is NaN for being ∞ · 0."""
    z = np.concatenate([EVERYWHERE, BEYOND]).astype(dtype)
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = HIDDEN[name](tensor)
    (slopes,) = torch.autograd.grad(expected.sum(), tensor)
    values, derivatives = values_and_derivatives(name, z)
    assert np.isnan(values[-3])
    for found, theirs in ((values, expected), (derivatives, slopes)):
        theirs = theirs.detach().numpy()
        assert np.isfinite(theirs[: len(EVERYWHERE)]).all()
        is_finite = np.isfinite(theirs) & ~np.isnan(z)
        found, theirs = found[is_finite], theirs[is_finite]
        assert (np.abs(found - theirs) <= tolerance * np.maximum(1, np.abs(theirs))).all()


@pytest.mark.parametrize("name", ["elu", "selu", "softplus"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_small_values_keep_their_digits(name, dtype):
    """eᶻ − 1 next to 0, and log(1 + eᶻ) far below it, are not what is left of 1."""
    z = -np.geomspace(1e-30, 60, 500).astype(dtype)
    expected = HIDDEN[name](torch.tensor(z.astype("float64"))).numpy()
    found, _ = values_and_derivatives(name, z)
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)


# ---- update rules -----------------------------------------------------------------------------

OBJECTIVE = "softmax", "log_loss", 4
N_UPDATES, ALPHA = 50, 0.1
RULES = {
    "sgd": (
        dict(learning_rate_init=0.05, momentum=0.8, nesterovs_momentum=False),
        lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.8),
    ),
    "nesterov": (
        dict(learning_rate_init=0.05, momentum=0.8),
        lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.8, nesterov=True),
    ),
    # scikit-learn adds ε before the correction, PyTorch after it: it is tiny here.
    "adam": (
        dict(learning_rate_init=0.01, epsilon=1e-30),
        lambda groups: torch.optim.Adam(groups, 0.01, eps=1e-30),
    ),
    "adamw": (
        dict(learning_rate_init=0.01, weight_decay=0.1),
        lambda groups: torch.optim.AdamW(groups, 0.01, weight_decay=0.1),
    ),
    "nadam": (
        dict(learning_rate_init=0.01, beta_1=0.8, epsilon=1e-3),
        lambda groups: torch.optim.NAdam(groups, 0.01, betas=(0.8, 0.999), eps=1e-3),
    ),
    "rmsprop": (
        dict(learning_rate_init=0.01, beta_2=0.99, epsilon=1e-3),
        lambda groups: torch.optim.RMSprop(groups, 0.01, alpha=0.99, eps=1e-3),
    ),
}


@pytest.fixture(autouse=True)
def double_precision():
    """NAdam keeps its product of momenta in PyTorch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def train(engine, optimizer, data, n_updates=N_UPDATES):
    """The loss before every update: an update is an epoch here."""
    optimizer.reset(engine.network.n_parameters, np.float64)
    engine.load_moments(optimizer.moments)
    planner = StepPlanner(optimizer, N_SAMPLES, N_SAMPLES, None, ALPHA, n_updates)
    order, losses = np.arange(N_SAMPLES), []
    for _ in range(n_updates):
        steps = planner.next_epoch(order)
        losses.append(engine.train_epoch(data, order, steps))
        optimizer.step += steps.made
        planner.after_epoch(0)
    return losses


def torch_losses(oracle, make_optimizer, X, targets, factor=lambda update: 1.0):
    """Likewise by PyTorch; biases do not decay."""
    theirs = make_optimizer(
        [{"params": oracle.weights}, {"params": oracle.biases, "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, factor)
    X, targets, ones = map(torch.tensor, (X, targets, np.ones(N_SAMPLES)))
    losses = []
    for _ in range(N_UPDATES):
        theirs.zero_grad()
        loss = oracle.loss(X, targets, ones, ALPHA)
        loss.backward()
        theirs.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("rule", RULES)
def test_50_updates_by_every_rule(rule, activation):
    network, parameters, X, targets = make_problem((7, 6), (activation,) * 2, OBJECTIVE)
    given, make_optimizer = RULES[rule]
    engine = Engine(network, np.float64)
    engine.load_parameters(parameters)
    optimizer = Optimizer("sgd" if rule == "nesterov" else rule, **given)
    found = train(engine, optimizer, Data(X, targets))
    oracle = Oracle(network, parameters)
    np.testing.assert_allclose(found, torch_losses(oracle, make_optimizer, X, targets), rtol=1e-9)
    assert found[-1] < found[0]
    np.testing.assert_allclose(engine.store_parameters(), oracle.flat(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("activation", HIDDEN)
def test_50_updates_by_lion(activation):
    """PyTorch has no Lion: in NumPy, as the paper's algorithm 2 has it."""
    network, parameters, X, targets = make_problem((7, 6), (activation,) * 2, OBJECTIVE)
    rate, beta_1, beta_2, decay = 0.003, 0.9, 0.98, 0.3
    engine = Engine(network, np.float64)
    engine.load_parameters(parameters)
    optimizer = Optimizer("lion", rate, beta_1=beta_1, beta_2=beta_2, weight_decay=decay)
    found = train(engine, optimizer, Data(X, targets))

    theta, average, expected = parameters.copy(), np.zeros_like(parameters), []
    naive = NaiveEngine(network, np.float64)
    is_weight = np.zeros(network.n_parameters)
    for weights in network.views(is_weight)[0]:
        weights[...] = 1
    for _ in range(N_UPDATES):
        naive.load_parameters(theta)
        loss, gradient = naive.loss_and_gradient(Data(X, targets))
        expected.append(loss + ALPHA / 2 * ((is_weight * theta) ** 2).sum() / N_SAMPLES)
        gradient = gradient + ALPHA * is_weight * theta / N_SAMPLES
        update = np.sign(beta_1 * average + (1 - beta_1) * gradient)
        average = beta_2 * average + (1 - beta_2) * gradient
        theta = theta - rate * (update + decay * is_weight * theta)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[-1] < found[0]


def test_every_rule_has_an_oracle():
    assert {*RULES, "lion"} == {*STOCHASTIC_SOLVERS, "nesterov"}


# ---- schedules --------------------------------------------------------------------------------


def torch_rates(make_schedule, n_updates):
    """The rates of so many updates by one of PyTorch's schedules, from 0.1 on."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    schedule, rates = make_schedule(optimizer), []
    for _ in range(n_updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def planned_rates(schedule, n_epochs, per_epoch, warmup=0.0):
    """Those of a plan for so many epochs."""
    optimizer = Optimizer("rmsprop", 0.1, schedule=schedule, warmup=warmup)
    planner, rates = StepPlanner(optimizer, per_epoch, 1, None, 0.0, n_epochs), []
    for _ in range(n_epochs):
        steps = planner.next_epoch(np.arange(per_epoch))
        rates += steps.table[:, RATE].tolist()
        optimizer.step += per_epoch
        planner.after_epoch(0)
    return rates


SCHEDULERS = torch.optim.lr_scheduler
PLANS = {
    "constant": lambda o: SCHEDULERS.ConstantLR(o, factor=1.0),
    "cosine": lambda o: SCHEDULERS.CosineAnnealingLR(o, T_max=60),
    "linear": lambda o: SCHEDULERS.LinearLR(o, 1.0, 0.0, total_iters=60),
    "exponential": lambda o: SCHEDULERS.ExponentialLR(o, 0.01 ** (1 / 60)),
}


@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("name", PLANS)
def test_rates_of_every_update(name, warmup):
    """A warm-up multiplies them by 1/n, 2/n, … 1, as PyTorch's LinearLR does from 1/n on."""
    expected = np.array(torch_rates(PLANS[name], 60))
    if warmup:
        rise = torch_rates(lambda o: SCHEDULERS.LinearLR(o, 1 / 12, total_iters=11), 60)
        expected = expected * rise / 0.1
    np.testing.assert_allclose(planned_rates(name, 6, 10, warmup), expected, rtol=1e-12, atol=1e-16)


def test_one_cycle_is_pytorchs():
    """PyTorch's comes to its peak, and to its end, an update earlier; nothing else differs."""
    n_updates = 1000
    expected = torch_rates(
        lambda o: SCHEDULERS.OneCycleLR(o, 0.1, total_steps=n_updates + 1, cycle_momentum=False),
        n_updates,
    )
    peak, end = CYCLE_PEAK * (n_updates + 1) - 1, n_updates
    progress = np.interp(np.arange(n_updates), [0, peak, end], [0, CYCLE_PEAK, 1])
    found = 0.1 * SCHEDULES["one_cycle"].factor(progress)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(planned_rates("one_cycle", 10, 100), found, atol=3e-4)
    assert 0.1 * SCHEDULES["one_cycle"].factor(1.0) == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.parametrize("rule", ["adam", "nadam"])
def test_50_updates_by_a_cosine_with_a_warm_up(rule):
    """Adam follows it, too, and NAdam's lookahead is apart from the rate."""
    network, parameters, X, targets = make_problem((7, 6), ("silu", "elu"), OBJECTIVE)
    given, make_optimizer = RULES[rule]
    engine = Engine(network, np.float64)
    engine.load_parameters(parameters)
    optimizer = Optimizer(rule, schedule="cosine", warmup=0.3, **given)
    found = train(engine, optimizer, Data(X, targets))

    def factor(update):
        return min(1.0, (update + 1) / 15) * (1 + np.cos(np.pi * update / N_UPDATES)) / 2

    oracle = Oracle(network, parameters)
    expected = torch_losses(oracle, make_optimizer, X, targets, factor)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
