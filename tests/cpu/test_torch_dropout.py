"""PyTorch as the oracle of dropout, bounded gradients and averages: 50 updates with our masks."""

import numpy as np
import pytest
from naive import dropout_factors

from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.dropout import Dropout
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

torch = pytest.importorskip("torch")

N_ROWS, N_FEATURES, N_EPOCHS = 60, 6, 10
BATCH_SIZE = N_ROWS // 5
NETWORK = Network((N_FEATURES, 17, 9, 4), ("tanh", "gelu"), "softmax", "log_loss")
HIDDEN = torch.nn.functional.tanh, torch.nn.functional.gelu
CASES = {
    "dropout": dict(rates=(0.0, 0.5, 0.25)),
    "input_dropout": dict(rates=(0.25, 0.0, 0.0)),
    "max_grad_norm": dict(max_grad_norm=0.3),
    "ema_decay": dict(ema_decay=0.9),
    "all": dict(rates=(0.1, 0.2, 0.3), max_grad_norm=0.3, ema_decay=0.7),
}


class Oracle(torch.nn.Module):
    """The network as a module, with the factors of dropout handed in."""

    def __init__(self, parameters):
        super().__init__()
        coefs, intercepts = NETWORK.views(parameters)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(*shape, dtype=torch.float64) for shape in NETWORK.shapes
        )
        for layer, weights, bias in zip(self.layers, coefs, intercepts, strict=True):
            layer.weight.data = torch.tensor(weights.T.copy())
            layer.bias.data = torch.tensor(bias.copy())

    def forward(self, X, factors):
        for index, layer in enumerate(self.layers):
            X = layer(X * factors[index])
            X = HIDDEN[index](X) if index < len(HIDDEN) else X
        return X

    def flat(self):
        parts = [each for layer in self.layers for each in (layer.weight.data.T, layer.bias.data)]
        return torch.cat([part.flatten() for part in parts]).numpy()


def train_ours(data, start, dropout, extra):
    engine, optimizer = (
        Engine(NETWORK, np.float64),
        Optimizer("adamw", 0.02, weight_decay=0.0, **extra),
    )
    optimizer.reset(NETWORK.n_parameters, np.float64)
    optimizer.dropout = dropout
    engine.load_parameters(start)
    engine.load_moments(optimizer.moments)
    planner = StepPlanner(optimizer, N_ROWS, BATCH_SIZE, None, 0.0, N_EPOCHS)
    order, losses = np.arange(N_ROWS), []
    for _ in range(N_EPOCHS):
        steps = planner.next_epoch(order)
        losses.append(engine.train_epoch(data, order, steps))
        optimizer.step += steps.made
    return losses, engine.store_parameters(), engine.store_moments()[-1]


def train_theirs(data, start, dropout, max_grad_norm=None, ema_decay=None):
    """By PyTorch's AdamW, `clip_grad_norm_` and `AveragedModel`."""
    model = Oracle(start)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02, weight_decay=0.0)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay or 0.5)
    )
    losses, update = [], 0
    for _ in range(N_EPOCHS):
        total = 0.0
        for first in range(0, N_ROWS, BATCH_SIZE):
            update += 1
            rows = slice(first, first + BATCH_SIZE)
            sizes = NETWORK.layer_sizes[:-1]
            factors = [1.0] * len(sizes)
            if dropout is not None:
                shapes = [(BATCH_SIZE, size) for size in sizes]
                factors = [
                    torch.tensor(dropout_factors(dropout, layer, update, shape))
                    for layer, shape in enumerate(shapes)
                ]
            logits = model(torch.tensor(data.X[rows]), factors)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(data.targets[rows]))
            optimizer.zero_grad()
            loss.backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            average.update_parameters(model)
            total += loss.item() / (N_ROWS // BATCH_SIZE)
        losses.append(total)
    return losses, model.flat(), average.module.flat()


@pytest.mark.parametrize("case", CASES)
def test_fifty_updates_are_those_of_pytorch(case):
    random = np.random.default_rng(0)
    data = Data(random.normal(size=(N_ROWS, N_FEATURES)), random.integers(0, 4, N_ROWS))
    start = random.normal(scale=0.4, size=NETWORK.n_parameters)
    extra = dict(CASES[case])
    rates = extra.pop("rates", None)
    dropout = None if rates is None else Dropout.of(rates, seed=17)
    ours = train_ours(data, start, dropout, extra)
    theirs = train_theirs(data, start, dropout, **extra)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-9)
    if "ema_decay" in extra:
        np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-8, atol=1e-9)
