"""PyTorch as the oracle of losses with coefficients, smoothed labels and missing targets."""

from itertools import pairwise

import numpy as np
import pytest

from fastbp.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.losses import LOSSES
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

torch = pytest.importorskip("torch")
functional = torch.nn.functional

N_SAMPLES, N_FEATURES = 47, 4
ELEMENTWISE = {
    "identity": torch.nn.Identity(),
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": torch.exp,
}
COEFFICIENTS = {
    "focal": (2.0, 0.5, 0.0, 1.3), "huber": (0.1, 0.5, 1.0, 2.0), "quantile": (0.05, 0.5, 0.9, 1.0)
}  # fmt: skip
OLDER = {"log_loss", "squared_error", "poisson"}  # tests/cpu/test_torch.py has these


# Every newer loss with every output activation that it goes with.
OBJECTIVES = [
    (name, loss.name)
    for loss in LOSSES
    for name in OUTPUT_ACTIVATIONS
    if loss.name not in OLDER
    and loss.goes_with(name)
    and (name in ELEMENTWISE or ACTIVATIONS[name].forward is None)
]
WITH_MISSING = [objective for objective in OBJECTIVES if objective[1] != "focal"]


def row_losses(network, logits, targets):
    """Each row's loss as PyTorch's functions make it, or its definition."""
    c = torch.tensor(network.loss_coefficients, dtype=torch.float64)
    if network.output_activation == "softmax":
        log_p = functional.log_softmax(logits, dim=1)
        one_hot = functional.one_hot(targets, logits.shape[1]).double()
        smoothing = network.label_smoothing
        one_hot = one_hot * (1 - smoothing) + smoothing / logits.shape[1]
        return -(one_hot * (1 - log_p.exp()) ** c * log_p).sum(dim=1)
    if network.loss == "focal":
        positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        losses = -targets * negative.exp() ** c * positive
        return (losses - (1 - targets) * positive.exp() ** c * negative).sum(dim=1)
    outputs = ELEMENTWISE[network.output_activation](logits)
    is_there = ~torch.isnan(targets)
    targets = torch.where(is_there, targets, 1.0)
    if network.loss == "absolute_error":
        losses = functional.l1_loss(outputs, targets, reduction="none")
    elif network.loss == "huber":
        columns = zip(outputs.T, targets.T, network.loss_coefficients, strict=True)
        losses = [functional.huber_loss(o, t, reduction="none", delta=d) for o, t, d in columns]
        losses = torch.stack(losses, dim=1)
    elif network.loss == "log_cosh":
        difference = abs(outputs - targets)
        losses = difference + functional.softplus(-2 * difference) - np.log(2)
    elif network.loss == "quantile":
        losses = torch.maximum(c * (targets - outputs), (c - 1) * (targets - outputs))
    else:
        losses = targets / outputs - 1 - torch.log(targets / outputs)
    return torch.where(is_there, losses, 0.0).sum(dim=1)


def make_problem(output_activation, loss, missing=False, smoothing=0.0):
    """A network, its initial parameters, X and targets."""
    n_outputs = 4
    coefficients = COEFFICIENTS.get(loss, ())
    network = Network(
        (N_FEATURES, 9, n_outputs), ("tanh",), output_activation, loss,
        loss_coefficients=coefficients, label_smoothing=smoothing,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    parameters = generator.normal(scale=0.5, size=network.n_parameters)
    X = generator.normal(size=(N_SAMPLES, N_FEATURES))
    if output_activation == "softmax":
        return network, parameters, X, generator.integers(n_outputs, size=N_SAMPLES)
    targets = generator.normal(size=(N_SAMPLES, n_outputs))
    if loss == "focal":
        targets = (targets > 0).astype(float)
    elif loss == "gamma":
        targets = np.exp(targets)
    if missing:
        targets[generator.random(targets.shape) < 0.4] = np.nan
        targets[7] = np.nan
    return network, parameters, X, targets


class Oracle:
    """The network in PyTorch, in float64, with fastbp's flat order of parameters."""

    def __init__(self, network, parameters):
        self.network, self.blocks, start = network, [], 0
        for fan_in, fan_out in pairwise(network.layer_sizes):
            for rows in (fan_in, 1):
                block = torch.tensor(parameters[start : start + rows * fan_out])
                self.blocks.append(block.reshape(rows, fan_out).requires_grad_())
                start += rows * fan_out

    def loss(self, X, targets, weight):
        hidden = torch.tanh(torch.tensor(X) @ self.blocks[0] + self.blocks[1])
        logits = hidden @ self.blocks[2] + self.blocks[3]
        losses = row_losses(self.network, logits, torch.tensor(targets))
        return (losses * torch.tensor(weight)).sum() / weight.sum()

    def gradient(self):
        return np.concatenate([block.grad.numpy().ravel() for block in self.blocks])

    def parameters(self):
        return np.concatenate([block.detach().numpy().ravel() for block in self.blocks])


def assert_gradients_agree(problem, weighted=False):
    network, parameters, X, targets = problem
    weight = np.random.default_rng(1).uniform(0, 2, N_SAMPLES) if weighted else None
    engine = Engine(network, np.float64)
    engine.load_parameters(parameters)
    loss, gradient = engine.loss_and_gradient(Data(X, targets, weight))
    oracle = Oracle(network, parameters)
    expected = oracle.loss(X, targets, np.ones(N_SAMPLES) if weight is None else weight)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, oracle.gradient(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids="-".join)
def test_values_and_gradients(objective, weighted):
    assert_gradients_agree(make_problem(*objective), weighted)


@pytest.mark.parametrize("objective", WITH_MISSING, ids="-".join)
def test_missing_targets_leave_loss_and_gradient(objective):
    assert_gradients_agree(make_problem(*objective, missing=True), weighted=True)


@pytest.mark.parametrize(
    ("objective", "missing"),
    [(each, False) for each in OBJECTIVES] + [(each, True) for each in WITH_MISSING],
    ids=lambda each: "-".join(each) if isinstance(each, tuple) else f"missing={each}",
)
def test_fifty_updates_of_adam(objective, missing):
    """The losses of every epoch, and the weights at the end."""
    network, parameters, X, targets = make_problem(*objective, missing=missing)
    optimizer = Optimizer("adam", 0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-30)
    optimizer.reset(network.n_parameters, np.float64)
    engine, oracle = Engine(network, np.float64), Oracle(network, parameters)
    engine.load_parameters(parameters)
    engine.load_moments(optimizer.moments)
    theirs = torch.optim.Adam(oracle.blocks, 0.01, betas=(0.8, 0.95), eps=1e-30)
    order, batch_size = np.arange(N_SAMPLES), 10
    planner = StepPlanner(optimizer, N_SAMPLES, batch_size, None, 0.0, 10)
    for _ in range(10):
        steps = planner.next_epoch(order)
        loss = engine.train_epoch(Data(X, targets), order, steps)
        optimizer.step += steps.made
        total = 0.0
        for rows in np.split(order, range(batch_size, N_SAMPLES, batch_size)):
            theirs.zero_grad()
            batch_loss = oracle.loss(X[rows], targets[rows], np.ones(len(rows)))
            batch_loss.backward()
            theirs.step()
            total += batch_loss.item() * len(rows)
        assert loss == pytest.approx(total / N_SAMPLES, rel=1e-9)
    assert optimizer.step == 50
    np.testing.assert_allclose(engine.store_parameters(), oracle.parameters(), rtol=1e-7, atol=1e-9)


# ---- label smoothing ----------------------------------------------------------------------------


def of_logits(network, logits, targets):
    """The engine's losses and δ of rows of logits, by a layer of identity weights."""
    n_outputs = network.layer_sizes[-1]
    parameters = network.flatten([np.eye(n_outputs)], [np.zeros(n_outputs)], logits.dtype)
    losses, deltas = [], []
    for row in range(len(logits)):
        engine = Engine(network, logits.dtype)
        engine.load_parameters(parameters)
        data = Data(logits[row : row + 1], targets[row : row + 1])
        loss, gradient = engine.loss_and_gradient(data)
        losses.append(loss)
        deltas.append(network.views(gradient)[1][0])
    return np.array(losses), np.array(deltas)


@pytest.mark.parametrize("n_classes", [3, 10, 130])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.75])
def test_smoothed_classes_are_pytorchs(smoothing, n_classes):
    generator = np.random.default_rng(2)
    logits, classes = generator.normal(size=(9, n_classes)), generator.integers(n_classes, size=9)
    network = Network((n_classes, n_classes), (), "softmax", "log_loss", label_smoothing=smoothing)
    losses, deltas = of_logits(network, logits, classes)
    tensor = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    expected = theirs(tensor, torch.tensor(classes))
    expected.sum().backward()
    np.testing.assert_allclose(losses, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(deltas, tensor.grad, rtol=1e-10, atol=1e-15)


def test_two_smoothed_classes_are_two_softmax_units():
    generator = np.random.default_rng(3)
    logits, classes = generator.normal(size=(9, 1)), generator.integers(2, size=9)
    network = Network((1, 1), (), "logistic", "log_loss", label_smoothing=0.2)
    losses, deltas = of_logits(network, logits, classes[:, None].astype(float))
    tensor = torch.tensor(logits, requires_grad=True)
    both = torch.hstack([torch.zeros(9, 1, dtype=torch.float64), tensor])
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    expected = theirs(both, torch.tensor(classes))
    expected.sum().backward()
    np.testing.assert_allclose(losses, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(deltas, tensor.grad, rtol=1e-10, atol=1e-15)


def test_smoothed_focal_loss_of_softmax():
    assert_gradients_agree(make_problem("softmax", "focal", smoothing=0.3), weighted=True)


# ---- far from zero ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("activation", ["softmax", "logistic"])
def test_focal_loss_of_probabilities_near_zero_and_one(activation, gamma, dtype):
    """An exponent of 0, or below 1, makes a product of zero and infinity of the naive formulas."""
    tops = np.array([-120.0, -40, -9, 0, 9, 40, 120])
    if activation == "softmax":
        logits = np.column_stack([tops, np.zeros(7), np.full(7, -1.0)]).astype(dtype)
        targets, n_outputs = np.zeros(7, np.int64), 3
    else:
        logits, n_outputs = np.column_stack([tops, -tops]).astype(dtype), 2
        targets = np.tile([1.0, 0.0], (7, 1))
    network = Network(
        (n_outputs, n_outputs), (), activation, "focal", loss_coefficients=(gamma,) * n_outputs
    )
    losses, deltas = of_logits(network, logits, targets)
    tensor = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    if activation == "softmax":
        log_p = functional.log_softmax(tensor, dim=1)[:, :1]
        others = torch.logsumexp(tensor[:, 1:], dim=1, keepdim=True)
        log_q = others - torch.logsumexp(tensor, dim=1, keepdim=True)
    else:
        signed = tensor * torch.tensor([1.0, -1.0])
        log_p, log_q = functional.logsigmoid(signed), functional.logsigmoid(-signed)
    expected = -(torch.exp(gamma * log_q) * log_p).sum(dim=1)
    expected.sum().backward()
    eps, inner = np.finfo(dtype).eps, abs(tops) < 10
    np.testing.assert_allclose(losses[inner], expected.detach()[inner], rtol=1e4 * eps, atol=eps)
    # As with the log loss, no probability counts as less than the dtype's eps.
    assert (losses <= -n_outputs * np.log(eps)).all()
    np.testing.assert_allclose(deltas, tensor.grad, rtol=1e4 * eps, atol=50 * eps)
