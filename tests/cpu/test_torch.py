"""PyTorch as the oracle: autograd for gradients, torch.optim for the optimizers' steps."""

import runpy
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.inspect import backprop_trace
from fastbp.lbfgs import PenalisedLoss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

torch = pytest.importorskip("torch")

N_SAMPLES, N_FEATURES = 53, 5
HIDDEN = {
    "identity": torch.nn.Identity(),
    "logistic": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "relu": torch.nn.ReLU(),
    "gelu": torch.nn.GELU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "elu": torch.nn.ELU(),
    "selu": torch.nn.SELU(),
    # PyTorch's own threshold, 20, costs 2e-9 of the value.
    "softplus": torch.nn.Softplus(threshold=50),
    "silu": torch.nn.SiLU(),
    "mish": torch.nn.Mish(),
}
OUTPUT = {**HIDDEN, "exp": torch.exp}  # of the squared error
# Output activation, loss, number of outputs.
OBJECTIVES = [
    ("softmax", "log_loss", 4),
    ("logistic", "log_loss", 1),
    ("logistic", "log_loss", 3),
    ("logistic", "squared_error", 3),
    ("identity", "squared_error", 1),
    ("identity", "squared_error", 3),
    ("tanh", "squared_error", 2),
    ("relu", "squared_error", 2),
    ("exp", "squared_error", 2),
    ("softplus", "squared_error", 2),
    ("exp", "poisson", 1),
    ("exp", "poisson", 2),
]


def row_losses(logits, targets, output_activation, loss):
    """Each row's loss from its logits, as PyTorch spells it."""
    functional = torch.nn.functional
    if output_activation == "softmax":
        return functional.cross_entropy(logits, targets, reduction="none")
    if loss == "log_loss":
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    elif loss == "poisson":
        # PyTorch leaves out the part that depends on the targets alone.
        losses = functional.poisson_nll_loss(logits, targets, log_input=True, reduction="none")
        losses = losses + torch.special.xlogy(targets, targets) - targets
    else:
        outputs = OUTPUT[output_activation](logits)
        losses = functional.mse_loss(outputs, targets, reduction="none") / 2
    return losses.sum(dim=1)


class Oracle:
    """The network in PyTorch, in float64, with fastbp's flat order of parameters."""

    def __init__(self, network, parameters):
        self.network = network
        self.weights, self.biases = [], []
        start = 0
        for fan_in, fan_out in pairwise(network.layer_sizes):
            for size, kept in ((fan_in, self.weights), (1, self.biases)):
                block = torch.tensor(parameters[start : start + size * fan_out])
                kept.append(block.reshape(size, fan_out).requires_grad_())
                start += size * fan_out

    @property
    def parameters(self):
        """W₀ b₀ W₁ b₁ …"""
        return [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]

    def flat(self, what=lambda parameter: parameter):
        """The parameters, or what a function makes of each, as one NumPy vector."""
        return torch.cat([what(p).detach().flatten() for p in self.parameters]).numpy()

    def forward(self, X):
        """Every layer's z, the value in front of its activation; the last are the logits."""
        layers = []
        for weights, bias, name in zip(
            self.weights, self.biases, ("identity", *self.network.hidden_activations), strict=True
        ):
            X = layers[-1] if layers else X
            layers.append(HIDDEN[name](X) @ weights + bias)
        return layers

    def row_losses(self, logits, targets):
        """Each row's loss."""
        return row_losses(logits, targets, self.network.output_activation, self.network.loss)

    def loss(self, X, targets, sample_weight, alpha):
        """Weighted mean of the rows' losses and the penalty α / (2 Σw) ‖W‖²."""
        losses = self.row_losses(self.forward(X)[-1], targets)
        penalty = alpha / 2 * sum((weights**2).sum() for weights in self.weights)
        return ((sample_weight * losses).sum() + penalty) / sample_weight.sum()


def make_problem(hidden_sizes, hidden_activations, objective):
    """A network, its initial parameters and rows with targets, all drawn at random."""
    output_activation, loss, n_outputs = objective
    network = Network(
        (N_FEATURES, *hidden_sizes, n_outputs), tuple(hidden_activations), output_activation, loss
    )
    generator = np.random.default_rng(0)
    parameters = generator.normal(scale=0.4, size=network.n_parameters)
    X = generator.normal(size=(N_SAMPLES, N_FEATURES))
    if output_activation == "softmax":
        targets = generator.integers(n_outputs, size=N_SAMPLES)
    elif loss == "poisson":
        targets = generator.poisson(1.5, (N_SAMPLES, n_outputs)).astype(float)
    elif output_activation == "logistic":
        targets = generator.integers(2, size=(N_SAMPLES, n_outputs)).astype(float)
    else:
        targets = generator.normal(size=(N_SAMPLES, n_outputs))
    return network, parameters, X, targets


def assert_gradients_agree(hidden_sizes, hidden_activations, objective, weighted, alpha):
    network, parameters, X, targets = make_problem(hidden_sizes, hidden_activations, objective)
    sample_weight = np.random.default_rng(1).uniform(0, 2, N_SAMPLES) if weighted else None
    engine = Engine(network, np.float64)
    loss, gradient = PenalisedLoss(engine, Data(X, targets, sample_weight), alpha)(parameters)

    oracle = Oracle(network, parameters)
    weight = np.ones(N_SAMPLES) if sample_weight is None else sample_weight
    expected = oracle.loss(*map(torch.tensor, (X, targets, weight)), alpha)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, oracle.flat(lambda p: p.grad), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o)))
@pytest.mark.parametrize("activation", HIDDEN)
def test_gradient_of_every_activation_and_loss(activation, objective, weighted):
    assert_gradients_agree((7, 18), (activation,) * 2, objective, weighted, alpha=0.3)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o)))
@pytest.mark.parametrize(
    ("hidden_sizes", "hidden_activations"),
    [
        ((), ()),
        ((1,), ("tanh",)),
        ((33,), ("relu",)),
        ((9, 4, 17, 6, 5), ("relu", "tanh", "gelu", "identity", "logistic")),
    ],
    ids=["no hidden layer", "one unit", "one layer", "five unlike layers"],
)
def test_gradient_at_other_depths(hidden_sizes, hidden_activations, objective):
    assert_gradients_agree(hidden_sizes, hidden_activations, objective, weighted=True, alpha=0.0)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o)))
def test_deltas_of_a_trace(objective):
    network, parameters, X, targets = make_problem((7, 4), ("tanh", "relu"), objective)
    trace = backprop_trace(network, X, targets, parameters=parameters)
    oracle = Oracle(network, parameters)
    layers = oracle.forward(torch.tensor(X))
    losses = oracle.row_losses(layers[-1], torch.tensor(targets))
    for z, found, delta in zip(layers, trace.pre_activations, trace.deltas, strict=True):
        (expected,) = torch.autograd.grad(losses.sum(), z, retain_graph=True)
        np.testing.assert_allclose(found, z.detach(), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(delta, expected, rtol=1e-9, atol=1e-13)


def test_the_example_that_compares_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sigmoid_stack", "--no-plot"])
    example = Path(__file__).parents[2] / "examples" / "sigmoid_stack.py"
    assert runpy.run_path(str(example), run_name="__main__")["difference"] < 1e-12
    assert "PyTorch's loss 2499.014444" in capsys.readouterr().out


# fastbp's optimizer, PyTorch's counterpart. PyTorch adds epsilon to the bias-corrected root of the
# second moment, fastbp as scikit-learn before the correction: one that is tiny compares the rest.
OPTIMIZERS = {
    "sgd": (
        {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
        lambda parameters: torch.optim.SGD(parameters, 0.1),
    ),
    "momentum": (
        {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.8),
    ),
    "nesterov": (
        {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": True},
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.8, nesterov=True),
    ),
    "adam": (
        {"solver": "adam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-30},
        lambda parameters: torch.optim.Adam(parameters, 0.1, betas=(0.8, 0.95), eps=1e-30),
    ),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("objective", [OBJECTIVES[i] for i in (0, 5, 6)], ids=lambda o: o[0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_steps(name, objective, weighted):
    hyper_parameters, make_torch_optimizer = OPTIMIZERS[name]
    network, parameters, X, targets = make_problem((19, 6), ("tanh", "logistic"), objective)
    generator = np.random.default_rng(2)
    weight = generator.uniform(0.5, 2, N_SAMPLES) if weighted else np.ones(N_SAMPLES)
    alpha, batch_size, n_epochs = 0.2, 16, 3

    optimizer = Optimizer(learning_rate_init=0.1, **hyper_parameters)
    optimizer.reset(network.n_parameters, np.float64)
    engine = Engine(network, np.float64)
    engine.load_parameters(parameters)
    engine.load_moments(optimizer.moments)
    oracle = Oracle(network, parameters)
    torch_optimizer = make_torch_optimizer(oracle.parameters)

    data = Data(X, targets, weight if weighted else None)
    planner = StepPlanner(optimizer, N_SAMPLES, batch_size, data.sample_weight, alpha, n_epochs)
    for _ in range(n_epochs):
        order = generator.permutation(N_SAMPLES)
        steps = planner.next_epoch(order)
        loss = engine.train_epoch(data, order, steps)
        optimizer.step += steps.made
        total = 0.0
        for rows in np.split(order, range(batch_size, N_SAMPLES, batch_size)):
            torch_optimizer.zero_grad()
            batch_loss = oracle.loss(
                *map(torch.tensor, (X[rows], targets[rows], weight[rows])), alpha
            )
            batch_loss.backward()
            torch_optimizer.step()
            total += batch_loss.item() * weight[rows].sum()
        assert loss == pytest.approx(total / weight.sum(), rel=1e-10)
        np.testing.assert_allclose(engine.store_parameters(), oracle.flat(), rtol=1e-8, atol=1e-11)
    assert optimizer.step == n_epochs * -(-N_SAMPLES // batch_size)


def test_200_steps_of_adamw():
    """PyTorch's form of epsilon, and weights alone decay."""
    network, parameters, X, targets = make_problem((19, 6), ("gelu", "tanh"), OBJECTIVES[0])
    optimizer = Optimizer("adamw", 0.01, weight_decay=0.1)
    optimizer.reset(network.n_parameters, np.float64)
    engine, oracle = Engine(network, np.float64), Oracle(network, parameters)
    engine.load_parameters(parameters)
    engine.load_moments(optimizer.moments)
    theirs = torch.optim.AdamW(
        [{"params": oracle.weights}, {"params": oracle.biases, "weight_decay": 0.0}],
        lr=0.01, weight_decay=0.1,
    )  # fmt: skip
    order, batch_size = np.arange(N_SAMPLES), 11
    planner = StepPlanner(optimizer, N_SAMPLES, batch_size, None, 0.0, 40)
    for _ in range(40):
        steps = planner.next_epoch(order)
        engine.train_epoch(Data(X, targets), order, steps)
        optimizer.step += steps.made
        for rows in np.split(order, range(batch_size, N_SAMPLES, batch_size)):
            theirs.zero_grad()
            weight = np.ones(len(rows))
            oracle.loss(*map(torch.tensor, (X[rows], targets[rows], weight)), 0.0).backward()
            theirs.step()
    assert optimizer.step == 200
    np.testing.assert_allclose(engine.store_parameters(), oracle.flat(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
def test_gelu_far_from_zero(dtype, tolerance):
    """Values, and derivatives by way of a network of one weight that is 1; NaN passes."""
    z = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-9, 9, 4001), [np.nan]])
    z = z.astype(dtype)
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.gelu(tensor)
    (derivative,) = torch.autograd.grad(expected.sum(), tensor)
    network = Network((1, 1, 1), ("gelu",), "identity", "squared_error")
    engine = Engine(network, dtype)
    engine.load_parameters(np.array([1, 0, 1, 0], dtype))
    values = engine.predict(Data(z[:, None]))[:, 0]
    np.testing.assert_allclose(values, expected.detach(), rtol=tolerance, atol=tolerance)
    for value, output, expected in zip(z[::40], values[::40], derivative[::40], strict=True):
        # Of half the squared error for a target that is one less than the output.
        data = Data(np.array([[value]]), np.array([[output - 1]], np.float64))
        _, gradient = engine.loss_and_gradient(data)
        bias = network.views(gradient)[1][0][0]
        np.testing.assert_allclose(bias, expected, rtol=4 * tolerance, atol=10 * tolerance)
