"""The contender that JAX is, on either device, written for its own greatest speed.

Rows of a batch can be gathered by index, or all rows permuted beforehand. Which is faster depends
on the network: an untimed trial decides.
"""

import os
from functools import partial
from itertools import islice

import numpy as np

from fastbp.bench.cases import BETA_1, BETA_2, EPSILON, FIT_EPOCHS, MOMENTUM, SEED
from fastbp.bench.draws import TRIAL_ROWS, faster

PRECISIONS = {"": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def train_jax(case, draws, turns, n_threads, device):
    """JAX: a whole epoch in one `jit`, `lax.scan` over its batches."""
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    if device == "cuda":
        if jax.default_backend() not in ("gpu", "cuda"):
            raise RuntimeError(f"JAX has no GPU here, but {jax.default_backend()}")
        # Left to itself, it multiplies float32 matrices in tf32 on a GPU.
        jax.config.update("jax_default_matmul_precision", PRECISIONS[case.precision])
    if case.n_networks > 1:
        train_many(case, draws, turns)
        return
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
        if case.cpu_precision:  # the gradients are float32 again
            X, *parameters = (array.astype(case.cpu_precision) for array in (X, *parameters))
        for weights, bias in zip(parameters[: n_layers - 1], parameters[n_layers:], strict=False):
            X = activation(X @ weights + bias)
        logits = X @ parameters[n_layers - 1] + parameters[-1]
        logits = logits.astype(case.dtype)
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
        mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, mean, gradient)
        square = jax.tree.map(lambda s, g: BETA_2 * s + (1 - BETA_2) * g * g, square, gradient)
        rate = case.learning_rate * jnp.sqrt(1 - BETA_2**n_updates)
        rate /= 1 - BETA_1**n_updates
        parameters = jax.tree.map(
            lambda p, m, s: p - rate * m / (jnp.sqrt(s) + EPSILON), parameters, mean, square
        )
        return parameters, mean, square, n_updates

    return {"sgd": sgd, "adam": adam}[case.solver]


def jax_epoch(case, gathered, learns=lambda learn: learn):
    """A compiled function (state, X, labels, order) -> (state, loss) that trains one epoch.

    Parameters
    ----------
    case : Case
    gathered : bool
        Whether batches are gathered by index, or all rows permuted beforehand.
    learns : callable, optional
        Makes of a step for one network one for all.
    """
    import jax

    loss_of, update = jax_loss(case), jax_update(case)

    def learn_batch(state, X, labels):
        loss, gradient = jax.value_and_grad(loss_of)(state[0], X, labels)
        return update(state, gradient), loss * len(X)

    learn = learns(learn_batch)

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
        total = losses.sum(axis=0)
        if len(rest):
            state, loss = learn(state, X[rest], labels[rest])
            total += loss
        return state, total / len(order)

    return epoch


def train_many(case, draws, turns):
    """JAX: one program for all networks, by `vmap`.

    All see the same batches, which spares it a gather for each. The first starts as the draws say.
    """
    import jax
    import jax.numpy as jnp

    X, labels = jnp.asarray(draws.X), jnp.asarray(draws.labels)
    generator = np.random.default_rng(SEED)
    starts = []
    for array in (*draws.coefs, *draws.intercepts):
        bound = np.abs(array).max()
        stacked = generator.uniform(-bound, bound, (case.n_networks, *array.shape))
        stacked[0] = array
        starts.append(jnp.asarray(stacked.astype(array.dtype)))
    epoch = jax_epoch(case, True, lambda learn: jax.vmap(learn, (0, None, None)))
    turns.begin()
    for _ in range(draws.n_epochs):
        moments = [[jnp.zeros_like(start) for start in starts] for _ in range(2)]
        # The first epoch takes the arrays away.
        state = [jnp.array(start) for start in starts], *moments, jnp.zeros(case.n_networks)
        for order in islice(draws.shuffles(), FIT_EPOCHS):
            state, losses = epoch(state, X, labels, jnp.asarray(order.copy()))
        turns.end(losses[0])
