"""The contenders that PyTorch and JAX are, each written for its own greatest speed.

Both can be given a batch's rows by gathering them by index or by permuting all rows beforehand.
Which is faster depends on the network: an untimed trial decides before the race.
"""

import os
import shutil
import tempfile
import time
from functools import partial

from fastbp.bench.cases import MOMENTUM
from fastbp.bench.contenders import ADAM

N_TRIALS = 2
TRIAL_ROWS = 4_096


def faster(train_epoch):
    """Whether gathering by index, `train_epoch(True)`, beats permuting, `train_epoch(False)`."""
    seconds = {True: [], False: []}
    for gathered in (True, False) * N_TRIALS:
        started = time.perf_counter()
        train_epoch(gathered)
        seconds[gathered].append(time.perf_counter() - started)
    return min(seconds[True]) <= min(seconds[False])


# ---- PyTorch --------------------------------------------------------------------------------


def train_torch(case, draws, turns, n_threads):
    """PyTorch, eager: autograd and the library's own fused optimizer."""
    _train_torch(case, draws, turns, n_threads, torch_eager_step)


def train_torch_compiled(case, draws, turns, n_threads):
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
    """A function (parameters, X) -> the last layer's values before the softmax."""
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

    return logits


def torch_judge(logits, labels):
    """Mean loss: of a softmax for classes, of logistic units for zeros and ones by column."""
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    if labels.ndim == 1:
        return cross_entropy(logits, labels)
    return binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)


def torch_loss(case):
    """A function (parameters, X, labels) -> mean loss; the weights first, then the biases."""
    logits_of = torch_logits(case)
    return lambda parameters, X, labels: torch_judge(logits_of(parameters, X), labels)


def torch_optimizer(case, parameters):
    """The library's own fused optimizer of a case."""
    import torch

    for parameter in parameters:
        parameter.requires_grad_()
    if case.solver == "adam":
        betas = ADAM.beta_1, ADAM.beta_2
        return torch.optim.Adam(parameters, case.learning_rate, betas, ADAM.epsilon, fused=True)
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
    n_updates = torch.zeros(())

    def step(X, labels):
        gradient, loss = torch.func.grad_and_value(loss_of)(parameters, X, labels)
        if case.solver == "sgd":
            for parameter, velocity, slope in zip(parameters, first, gradient, strict=True):
                velocity.mul_(MOMENTUM).sub_(slope, alpha=rate)
                parameter.add_(velocity)
            return loss
        n_updates.add_(1)
        step_size = rate * (1 - ADAM.beta_2**n_updates).sqrt() / (1 - ADAM.beta_1**n_updates)
        for parameter, mean, square, slope in zip(parameters, first, second, gradient, strict=True):
            mean.mul_(ADAM.beta_1).add_(slope, alpha=1 - ADAM.beta_1)
            square.mul_(ADAM.beta_2).addcmul_(slope, slope, value=1 - ADAM.beta_2)
            parameter.sub_(step_size * mean / (square.sqrt() + ADAM.epsilon))
        return loss

    return step


def torch_compiled_step(case, parameters):
    """That function, compiled."""
    import torch

    step = torch_functional_step(case, parameters, torch_loss(case))
    compiled = torch.compile(step, dynamic=False)
    return lambda X, labels: (compiled if len(X) == case.batch_size else step)(X, labels).item()


# ---- JAX ------------------------------------------------------------------------------------


def train_jax(case, draws, turns, n_threads):
    """JAX: a whole epoch in one `jit`, `lax.scan` over its batches."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    X, labels = jnp.asarray(draws.X), jnp.asarray(draws.labels)
    first_order = jnp.asarray(next(draws.shuffles()))
    epoch, state = faster_jax_epoch(case, draws, X, labels, first_order)
    turns.begin()
    for order in draws.shuffles():
        state, loss = epoch(state, X, labels, jnp.asarray(order))
        turns.end(loss)  # waits, as JAX may read the order where it is, and it is about to change


def faster_jax_epoch(case, draws, X, labels, order):
    """The faster one of the two epochs by a trial, and the state to begin with."""
    import jax
    import jax.numpy as jnp

    def initial_state():
        parameters = [jnp.array(array) for array in (*draws.coefs, *draws.intercepts)]
        moments = [[jnp.zeros_like(array) for array in parameters] for _ in range(2)]
        return parameters, *moments, jnp.zeros((), case.dtype)

    trained = {gathered: (jax_epoch(case, gathered), initial_state()) for gathered in (True, False)}

    def trial(gathered):
        epoch, state = trained[gathered]
        state, _ = jax.block_until_ready(epoch(state, X, labels, order[:TRIAL_ROWS]))
        trained[gathered] = epoch, state

    return jax_epoch(case, faster(trial)), initial_state()


def jax_loss(case):
    """A function (parameters, X, labels) -> mean loss; the weights first, then the biases."""
    import jax
    import jax.numpy as jnp

    activation = {"logistic": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}[
        case.activation
    ]
    n_layers = len(case.layer_sizes) - 1

    def loss(parameters, X, labels):
        for weights, bias in zip(parameters[: n_layers - 1], parameters[n_layers:], strict=False):
            X = activation(X @ weights + bias)
        logits = X @ parameters[n_layers - 1] + parameters[-1]
        if labels.ndim == 2:  # zeros and ones for logistic units
            return (jnp.logaddexp(0, logits) - labels * logits).sum(axis=1).mean()
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    return loss


def jax_update(case):
    """A function (state, gradient) -> state of the case's solver."""
    import jax
    import jax.numpy as jnp

    def sgd(state, gradient):
        parameters, velocity, unused, n_updates = state
        velocity = jax.tree.map(
            lambda v, g: MOMENTUM * v - case.learning_rate * g, velocity, gradient
        )
        return jax.tree.map(jnp.add, parameters, velocity), velocity, unused, n_updates

    def adam(state, gradient):
        parameters, mean, square, n_updates = state
        n_updates += 1
        mean = jax.tree.map(lambda m, g: ADAM.beta_1 * m + (1 - ADAM.beta_1) * g, mean, gradient)
        square = jax.tree.map(
            lambda s, g: ADAM.beta_2 * s + (1 - ADAM.beta_2) * g * g, square, gradient
        )
        rate = case.learning_rate * jnp.sqrt(1 - ADAM.beta_2**n_updates)
        rate /= 1 - ADAM.beta_1**n_updates
        parameters = jax.tree.map(
            lambda p, m, s: p - rate * m / (jnp.sqrt(s) + ADAM.epsilon), parameters, mean, square
        )
        return parameters, mean, square, n_updates

    return {"sgd": sgd, "adam": adam}[case.solver]


def jax_epoch(case, gathered):
    """A compiled function (state, X, labels, order) -> (state, loss) that trains one epoch."""
    import jax

    loss_of, update = jax_loss(case), jax_update(case)

    def learn(state, X, labels):
        loss, gradient = jax.value_and_grad(loss_of)(state[0], X, labels)
        return update(state, gradient), loss * len(X)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state, X, labels, order):
        n_whole = len(order) // case.batch_size * case.batch_size
        whole, rest = order[:n_whole].reshape(-1, case.batch_size), order[n_whole:]
        if gathered:
            state, losses = jax.lax.scan(
                lambda state, rows: learn(state, X[rows], labels[rows]), state, whole, unroll=4
            )
        else:
            batches = X[whole], labels[whole]
            state, losses = jax.lax.scan(lambda state, batch: learn(state, *batch), state, batches)
        total = losses.sum()
        if len(rest):
            state, loss = learn(state, X[rest], labels[rest])
            total += loss
        return state, total / len(order)

    return epoch
