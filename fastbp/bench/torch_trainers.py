"""The contenders that PyTorch is on the CPU, and what its networks compute on either device.

Each is written for its own greatest speed. Rows of a batch can be gathered by index, or all rows
permuted beforehand. Which is faster depends on the network: an untimed trial decides.
"""

import os
import shutil
import tempfile

from fastbp.bench.cases import BETA_1, BETA_2, EPSILON, MOMENTUM
from fastbp.bench.draws import TRIAL_ROWS, faster


def train_torch(case, draws, turns, n_threads, device):
    """PyTorch, eager: autograd and the library's own fused optimizer."""
    _train_torch(case, draws, turns, n_threads, torch_eager_step)


def train_torch_compiled(case, draws, turns, n_threads, device):
    """PyTorch, compiled: loss, gradient and update in one graph by TorchInductor.

    A last short batch runs the same function eagerly. Compilation starts from an empty cache.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))):
        raise RuntimeError("torch.compile needs a C++ compiler, and there is none")
    with tempfile.TemporaryDirectory(prefix="fastbp-bench-inductor-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # starting helpers takes longer
        _train_torch(case, draws, turns, n_threads, torch_compiled_step)


def _train_torch(case, draws, turns, n_threads, make_step):
    import torch

    torch.set_num_threads(n_threads)
    X, labels = torch.from_numpy(draws.X), torch.from_numpy(draws.labels)

    def train_epoch(step, order, gathered):
        total = 0.0
        if not gathered:
            permuted, permuted_labels = X.index_select(0, order), labels.index_select(0, order)
        for start in range(0, len(order), case.batch_size):
            stop = min(start + case.batch_size, len(order))
            if gathered:
                rows = order[start:stop]
                batch = X.index_select(0, rows), labels.index_select(0, rows)
            else:
                batch = permuted[start:stop], permuted_labels[start:stop]
            total += step(*batch) * (stop - start)
        return total / len(order)

    # The trial steps as eager code does: what it decides, the copies, is the same for both.
    trial_step = torch_eager_step(case, torch_parameters(draws))
    trial_order = torch.from_numpy(next(draws.shuffles())[:TRIAL_ROWS])
    gathered = faster(lambda gathered: train_epoch(trial_step, trial_order, gathered))
    step = make_step(case, torch_parameters(draws))
    turns.begin()
    for order in draws.shuffles():
        turns.end(train_epoch(step, torch.from_numpy(order), gathered))


def torch_parameters(draws, device="cpu"):
    """A case's initial parameters: the weights first, then the biases."""
    import torch

    arrays = [*(array.T for array in draws.coefs), *draws.intercepts]
    return [torch.tensor(array.copy(), device=device) for array in arrays]


def torch_logits(case):
    """A function (parameters, X) -> the last layer's values before the softmax.

    In bfloat16 on the CPU by autocast, which casts the weights once a step.
    """
    import torch
    from torch.nn.functional import linear

    activation = {"logistic": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[
        case.activation
    ]
    last = len(case.layer_sizes) - 2

    def logits(parameters, X):
        for layer in range(last):
            X = activation(linear(X, parameters[layer], parameters[last + 1 + layer]))
        return linear(X, parameters[last], parameters[-1])

    def autocast_logits(parameters, X):
        with torch.autocast("cpu", getattr(torch, case.cpu_precision)):
            return logits(parameters, X).float()

    return autocast_logits if case.cpu_precision else logits


def torch_loss(case):
    """A function (parameters, X, labels) -> mean loss; the weights first, then the biases."""
    from torch.nn.functional import cross_entropy

    logits_of = torch_logits(case)
    return lambda parameters, X, labels: cross_entropy(logits_of(parameters, X), labels)


def torch_optimizer(case, parameters):
    """The library's own fused optimizer of a case."""
    import torch

    for parameter in parameters:
        parameter.requires_grad_()
    if case.solver == "adam":
        betas = BETA_1, BETA_2
        return torch.optim.Adam(parameters, case.learning_rate, betas, EPSILON, fused=True)
    return torch.optim.SGD(parameters, case.learning_rate, momentum=MOMENTUM, fused=True)


def torch_autograd_step(optimizer, parameters, loss_of):
    """A function (X, labels) -> mean loss that also updates the parameters, by autograd."""

    def step(X, labels):
        optimizer.zero_grad()
        loss = loss_of(parameters, X, labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_eager_step(case, parameters):
    """The same, waiting for the loss."""
    step = torch_autograd_step(torch_optimizer(case, parameters), parameters, torch_loss(case))
    return lambda X, labels: step(X, labels).item()


def torch_functional_step(case, parameters, loss_of):
    """The same as one function to compile: faster than compiling the loss alone, by a half."""
    import torch

    rate = case.learning_rate
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    n_updates = torch.zeros((), device=parameters[0].device)

    def step(X, labels):
        gradient, loss = torch.func.grad_and_value(loss_of)(parameters, X, labels)
        if case.solver == "sgd":
            for parameter, velocity, partial in zip(parameters, first, gradient, strict=True):
                velocity.mul_(MOMENTUM).sub_(partial, alpha=rate)
                parameter.add_(velocity)
            return loss
        n_updates.add_(1)
        step_size = rate * (1 - BETA_2**n_updates).sqrt() / (1 - BETA_1**n_updates)
        for parameter, mean, square, partial in zip(
            parameters, first, second, gradient, strict=True
        ):
            mean.mul_(BETA_1).add_(partial, alpha=1 - BETA_1)
            square.mul_(BETA_2).addcmul_(partial, partial, value=1 - BETA_2)
            parameter.sub_(step_size * mean / (square.sqrt() + EPSILON))
        return loss

    return step


def torch_compiled_step(case, parameters):
    """That function, compiled."""
    import torch

    step = torch_functional_step(case, parameters, torch_loss(case))
    compiled = torch.compile(step, dynamic=False)
    return lambda X, labels: (compiled if len(X) == case.batch_size else step)(X, labels).item()
