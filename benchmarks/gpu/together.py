"""A thousand small networks: `fit_many` against PyTorch one after the other and `jax.vmap`.

Every contender trains the same number of networks for as many epochs. Network 0 starts from the
same weights in all, and sees its rows in the same orders, so its last loss must be the CPU's.
PyTorch trains a few networks and is multiplied up. JAX's networks all see the same batches, which
spares it a gather for each; fastbp's see each its own.
"""

import time
from functools import partial

import numpy as np

from benchmarks.gpu.races import Race
from benchmarks.gpu.torch_trainer import TorchTrainer
from benchmarks.gpu.trainers import JAX_PRECISIONS
from fastbp.bench import frameworks
from fastbp.bench.cases import MOMENTUM, SEED, Case
from fastbp.bench.draws import Draws

N_NETWORKS, N_EPOCHS, N_ROUNDS = 1_000, 10, 3
N_TORCH = 3  # networks that PyTorch trains in a turn
MANY = Case((30, 64, 2), "relu", "sgd", 64, 20_000, 0.02)
HERE = "benchmarks.gpu.together"


def make_race():
    """The race of this section; only the first `N_EPOCHS` orders are used, in every turn."""
    contenders = {
        "fastbp fit_many": (f"{HERE}:train_fit_many", {}),
        "fastbp fit_many, device_shuffle": (f"{HERE}:train_fit_many", {"device_shuffle": True}),
        "PyTorch eager": (f"{HERE}:train_one_by_one", {"form": "eager"}),
        "PyTorch, CUDA graphs": (f"{HERE}:train_one_by_one", {"form": "graphs"}),
        "jax.vmap": (f"{HERE}:train_vmap", {}),
    }
    return Race(
        "fit_many", MANY, contenders, epochs=N_EPOCHS, rounds=N_ROUNDS,
        unit=f"{N_NETWORKS:,} networks", reference=(f"{HERE}:train_on_cpu", {}),
    )  # fmt: skip


def take_runs(run, n_turns=N_ROUNDS + 1):
    """Yield the seconds and the last loss of network 0 of whole runs, the first to warm up."""
    for _ in range(n_turns):
        started = time.perf_counter()
        loss = float(run())
        yield {"seconds": time.perf_counter() - started, "loss": loss}


def make_estimators(case, n_networks, device, n_epochs):
    """Estimators of a case; the first one draws what the case's `Draws` hold."""
    from fastbp import MLPClassifier

    return [
        MLPClassifier(
            case.layer_sizes[1:-1], case.activation, solver="sgd", alpha=0.0,
            batch_size=case.batch_size, learning_rate_init=case.learning_rate, momentum=MOMENTUM,
            nesterovs_momentum=False, max_iter=n_epochs, n_iter_no_change=np.inf,
            random_state=SEED + number, device=device, precision="float32",
        )
        for number in range(n_networks)
    ]  # fmt: skip


def train_fit_many(case, path, epochs, device_shuffle=False, n_networks=N_NETWORKS, device="cuda"):
    """One call of `fit_many`, its checks, draws and uploads included."""
    from fastbp import fit_many

    draws = Draws.load(path)
    targets = draws.labels.astype(np.int64)

    def run():
        models = make_estimators(case, n_networks, device, epochs)
        fit_many(models, draws.X, targets, device_shuffle=device_shuffle)
        return models[0].loss_curve_[-1]

    for found in take_runs(run):
        if device_shuffle:  # other orders, so the loss is another
            found["comparable"] = False
        yield found


def train_on_cpu(case, path, epochs):
    """Network 0 alone on the CPU; the same loss for every turn."""
    draws = Draws.load(path)
    (model,) = make_estimators(case, 1, "cpu", epochs)
    model.set_params(n_threads=1).fit(draws.X, draws.labels.astype(np.int64))
    yield from take_runs(lambda: model.loss_curve_[-1])


def train_one_by_one(case, path, epochs, form, n_networks=N_NETWORKS, device="cuda"):
    """PyTorch: some networks one after the other, and the time that all would take.

    What is recorded for the first network serves all, as no more than its parameters would change.
    """
    import torch

    draws = Draws.load(path)
    trainer = TorchTrainer(case, draws, form, device=device)
    starts = [parameter.detach().clone() for parameter in trainer.parameters]

    def run():
        with torch.no_grad():
            for parameter, start in zip(trainer.parameters, starts, strict=True):
                parameter.copy_(start)
            for state in trainer.optimizer.state.values():
                state["momentum_buffer"].zero_()
        for order in trainer.orders[:epochs]:
            loss = trainer.train_epoch(order)
        return float(loss)

    def run_some():
        losses = [run() for _ in range(N_TORCH)]
        return losses[0]

    for found in take_runs(run_some):
        found["seconds"] *= n_networks / N_TORCH
        yield found


def train_vmap(case, path, epochs, n_networks=N_NETWORKS, device="cuda"):
    """JAX: one program for all networks, an epoch in one `lax.scan`."""
    import jax
    import jax.numpy as jnp

    if device == "cuda" and jax.default_backend() not in ("gpu", "cuda"):
        raise RuntimeError(f"JAX has no GPU here, but {jax.default_backend()}")
    jax.config.update("jax_default_matmul_precision", JAX_PRECISIONS["float32"])
    draws = Draws.load(path)
    X, labels = jnp.asarray(draws.X), jnp.asarray(draws.labels)
    orders = [jnp.asarray(order) for order in draws.orders[:epochs]]
    generator = np.random.default_rng(SEED)
    starts = []
    for array in (*draws.coefs, *draws.intercepts):
        bound = np.abs(array).max()
        stacked = generator.uniform(-bound, bound, (n_networks, *array.shape)).astype(array.dtype)
        stacked[0] = array
        starts.append(jnp.asarray(stacked))
    epoch = vmapped_epoch(case)

    def run():
        parameters = [jnp.array(start) for start in starts]  # given away by the first epoch
        state = parameters, [jnp.zeros_like(start) for start in starts]
        for order in orders:
            state, losses = epoch(state, X, labels, order)
        return losses[0]

    yield from take_runs(run)


def vmapped_epoch(case):
    """A compiled function (state of all networks, X, labels, order) -> (state, losses)."""
    import jax

    loss_of, update = frameworks.jax_loss(case), frameworks.jax_update(case)

    def learn(state, X, labels):
        loss, gradient = jax.value_and_grad(loss_of)(state[0], X, labels)
        parameters, velocity, *_ = update((*state, None, None), gradient)
        return (parameters, velocity), loss * len(X)

    learn_all = jax.vmap(learn, (0, None, None))

    @partial(jax.jit, donate_argnums=0)
    def epoch(state, X, labels, order):
        n_whole = len(order) // case.batch_size * case.batch_size
        whole, rest = order[:n_whole].reshape(-1, case.batch_size), order[n_whole:]
        state, losses = jax.lax.scan(
            lambda state, rows: learn_all(state, X[rows], labels[rows]), state, whole, unroll=4
        )
        total = losses.sum(axis=0)
        if len(rest):
            state, loss = learn_all(state, X[rest], labels[rest])
            total += loss
        return state, total / len(order)

    return epoch
