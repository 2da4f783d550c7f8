"""The contenders: the same network trained by fastbp, JAX, PyTorch and scikit-learn.

Each trainer does the same arithmetic on the same arrays: dense layers, softmax and cross-entropy,
gradient descent with classical momentum, float32. Each runs in a process of its own (`serve`),
which trains one epoch whenever it is told to, so that contenders can take turns.

A trainer takes the case, its draws, an `EndOfEpoch` and the number of threads that it may use.
"""

import os
import time
import warnings
from functools import partial

import numpy as np

from benchmarks.cases import SEED, Draws

MOMENTUM = 0.9


def train_fastbp(case, draws, end_epoch, n_threads):
    """fastbp's public estimator in one fit; the team's size is its own choice."""
    from fastbp import MLPClassifier

    model = MLPClassifier(
        **estimator_parameters(case, draws), callback=lambda report: end_epoch(report.loss)
    )
    end_epoch.start()
    model.fit(draws.X, draws.labels)


def train_sklearn(case, draws, end_epoch, n_threads):
    """scikit-learn's estimator in one fit."""
    from sklearn.neural_network import MLPClassifier

    class PausingClassifier(MLPClassifier):
        # scikit-learn has no callback; this method of its own runs once, after every epoch.
        def _update_no_improvement_count(self, *arguments):
            super()._update_no_improvement_count(*arguments)
            end_epoch(self.loss_)

    model = PausingClassifier(**estimator_parameters(case, draws))
    end_epoch.start()
    model.fit(draws.X, draws.labels)


def estimator_parameters(case, draws):
    """What both estimators are constructed with; they draw weights and orders like `draw`."""
    return {
        "hidden_layer_sizes": case.layer_sizes[1:-1],
        "activation": case.activation,
        "solver": "sgd",
        "alpha": 0.0,
        "batch_size": case.batch_size,
        "learning_rate_init": case.learning_rate,
        "momentum": MOMENTUM,
        "nesterovs_momentum": False,
        "max_iter": len(draws.orders),
        "n_iter_no_change": np.inf,
        "random_state": SEED,
    }


def train_torch(case, draws, end_epoch, n_threads):
    """PyTorch, eager: autograd and the library's own fused optimizer."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(n_threads)
    activation = {"logistic": torch.nn.Sigmoid, "tanh": torch.nn.Tanh}[case.activation]
    layers = []
    for coefs, intercepts in zip(draws.coefs, draws.intercepts, strict=True):
        layer = torch.nn.Linear(*coefs.shape)
        layer.weight.data = torch.from_numpy(coefs.T.copy())
        layer.bias.data = torch.from_numpy(intercepts.copy())
        layers += [layer, activation()]
    model = torch.nn.Sequential(*layers[:-1])
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, case.learning_rate, momentum=MOMENTUM, fused=True)
    X, labels = torch.from_numpy(draws.X), torch.from_numpy(draws.labels)
    end_epoch.start()
    for order in torch.from_numpy(draws.orders):
        total = 0.0
        for rows in order.split(case.batch_size):
            optimizer.zero_grad()
            logits = model(X.index_select(0, rows))
            loss = cross_entropy(logits, labels.index_select(0, rows))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        end_epoch(total / len(order))


def train_jax(case, draws, end_epoch, n_threads):
    """JAX: a whole epoch in one `jit`, `lax.scan` over its batches.

    Batches gathered by index inside the scan are the faster way for some networks, rows permuted
    beforehand for others; a trial decides before the race.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    X, labels = jnp.asarray(draws.X), jnp.asarray(draws.labels)
    orders = [jnp.asarray(order) for order in draws.orders]

    def initial_state():
        parameters = [jnp.array(array) for array in (*draws.coefs, *draws.intercepts)]
        return parameters, [jnp.zeros_like(array) for array in parameters]

    def trial(gathered):
        epoch, state, seconds = jax_epoch(case, gathered), initial_state(), []
        for order in orders[:3]:
            started = time.perf_counter()
            state, _ = jax.block_until_ready(epoch(state, X, labels, order))
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    gathered = trial(True) <= trial(False)
    epoch, state = jax_epoch(case, gathered), initial_state()
    end_epoch.start()
    for order in orders:
        state, loss = epoch(state, X, labels, order)
        end_epoch(float(loss))


def jax_epoch(case, gathered):
    """A compiled function (state, X, labels, order) -> (state, loss) that trains one epoch."""
    import jax
    import jax.numpy as jnp

    activation = {"logistic": jax.nn.sigmoid, "tanh": jnp.tanh}[case.activation]
    n_layers = len(case.layer_sizes) - 1

    def batch_loss(parameters, X, labels):
        for weights, bias in zip(parameters[: n_layers - 1], parameters[n_layers:], strict=False):
            X = activation(X @ weights + bias)
        log_probabilities = jax.nn.log_softmax(X @ parameters[n_layers - 1] + parameters[-1])
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    def update(state, X, labels):
        parameters, velocity = state
        loss, gradient = jax.value_and_grad(batch_loss)(parameters, X, labels)
        velocity = jax.tree.map(
            lambda v, g: MOMENTUM * v - case.learning_rate * g, velocity, gradient
        )
        return (jax.tree.map(jnp.add, parameters, velocity), velocity), loss * len(X)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state, X, labels, order):
        n_whole = len(order) // case.batch_size * case.batch_size
        whole, rest = order[:n_whole].reshape(-1, case.batch_size), order[n_whole:]
        if gathered:
            state, losses = jax.lax.scan(
                lambda state, rows: update(state, X[rows], labels[rows]), state, whole, unroll=4
            )
        else:
            batches = X[whole], labels[whole]
            state, losses = jax.lax.scan(lambda state, batch: update(state, *batch), state, batches)
        total = losses.sum()
        if len(rest):
            state, loss = update(state, X[rest], labels[rest])
            total += loss
        return state, total / len(order)

    return epoch


# By name: the trainer and the module that must be there.
CONTENDERS = {
    "fastbp": (train_fastbp, "fastbp"),
    "JAX": (train_jax, "jax"),
    "PyTorch": (train_torch, "torch"),
    "scikit-learn": (train_sklearn, "sklearn"),
}


class EndOfEpoch:
    """Called by a trainer after each epoch: reports the time taken, then waits for the next turn.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
        Is sent (seconds, loss) after an epoch; any message received starts the next one.
    n_epochs : int
        After the last one there is nothing to wait for.
    """

    def __init__(self, connection, n_epochs):
        self.connection = connection
        self.n_left = n_epochs

    def start(self):
        """Wait for the turn, then start the clock."""
        self.connection.recv()
        self.started = time.perf_counter()

    def __call__(self, loss):
        seconds = time.perf_counter() - self.started
        self.connection.send((seconds, float(loss)))
        self.n_left -= 1
        if self.n_left:
            self.start()


def serve(connection, contender, case, path, n_threads):
    """A worker process's whole life: read the draws, then train an epoch whenever told to."""
    warnings.simplefilter("ignore")  # reaching max_iter is what we want
    os.environ["FASTBP_CACHE_DIR"] = str(path.with_name("cache"))  # empty: the kernels are compiled
    draws = Draws.load(path)
    trainer, _ = CONTENDERS[contender]
    try:
        trainer(case, draws, EndOfEpoch(connection, len(draws.orders)), n_threads)
    except EOFError:
        pass  # the race is over before the last epoch
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
