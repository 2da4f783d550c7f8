"""Who trains in the races: fastbp's engines and JAX; PyTorch has a module of its own.

A trainer is a generator for a `Worker`. It trains one epoch to begin with, in which everything is
compiled, and then a turn of some epochs whenever it is asked to; after each it yields the seconds
of an epoch and the training loss of the last one. Times are those of the wall clock, from before
the first launch until the last loss has come back from the GPU.
"""

import time
from dataclasses import replace

import numpy as np

from fastbp.bench import frameworks
from fastbp.bench.cases import MOMENTUM
from fastbp.bench.draws import Draws, draw, rows_and_labels
from fastbp.data import Data
from fastbp.devices import make_engine
from fastbp.network import Network
from fastbp.optimizers import Optimizer

BYTE_SCALE = 1 / 255


def take_turns(train_epoch, orders, epochs):
    """Yield what a trainer yields.

    Parameters
    ----------
    train_epoch : callable
        Takes an order, returns the loss or what `float` makes it of, however much later.
    orders : sequence
    epochs : int
        Of a turn, after the first.
    """
    start = 0
    while start < len(orders):
        stop = min(start + (epochs if start else 1), len(orders))
        started = time.perf_counter()
        for order in orders[start:stop]:
            loss = train_epoch(order)
        loss = float(loss)  # waits for the device
        seconds = (time.perf_counter() - started) / (stop - start)
        yield {"seconds": seconds, "loss": loss}
        start = stop


# ---- what is trained on ----------------------------------------------------------------------


def draw_for_gpu(case, n_epochs, mnist=None):
    """A case's draws; images as bytes, and where fewer than three classes are, logistic targets.

    Returns
    -------
    draws : fastbp.bench.draws.Draws
        With 784 features `X` is uint8, to be multiplied by `BYTE_SCALE`. With up to two outputs
        `labels` is float32 of shape (n_rows, n_outputs): zeros and ones, for logistic units.
    """
    n_outputs = case.layer_sizes[-1]
    draws = draw(case, n_epochs, mnist)
    if n_outputs <= 2:
        four_classes = replace(case, layer_sizes=(*case.layer_sizes[:-1], 4))
        X, labels = rows_and_labels(four_classes, mnist)
        targets = (labels[:, None] >> np.arange(n_outputs) & 1).astype(np.float32)
        return replace(draws, X=X, labels=targets)
    if case.layer_sizes[0] == 784:
        scale, shift = (255, 0) if mnist else (64, 128)
        return replace(draws, X=np.clip(np.rint(draws.X * scale + shift), 0, 255).astype(np.uint8))
    return draws


def input_scale(X):
    """What the numbers of X are multiplied by."""
    return BYTE_SCALE if X.dtype == np.uint8 else 1.0


def network_of(case, labels):
    """The network that a case trains on such labels."""
    hidden = (case.activation,) * (len(case.layer_sizes) - 2)
    output = "softmax" if labels.ndim == 1 else "logistic"
    return Network(case.layer_sizes, hidden, output, "log_loss")


# ---- fastbp ----------------------------------------------------------------------------------


def use_only(program):
    """Let this process's CUDA engine have one program and no other.

    Parameters
    ----------
    program : str
        A name of `fastbp.cuda.choice.PROGRAMS`.
    """
    from fastbp.cuda import choice

    if program not in choice.PROGRAMS:
        raise ValueError(f"there is no program {program!r}, but {', '.join(choice.PROGRAMS)}")
    choice.PROGRAMS = {program: choice.PROGRAMS[program]}


def train_fastbp(case, path, epochs, device, program=None, precision="float32", n_threads=None):
    """fastbp's engine on a device, by one program."""
    if program is not None:
        use_only(program)
    draws = Draws.load(path)
    network = network_of(case, draws.labels)
    optimizer = Optimizer(case.solver, case.learning_rate, nesterovs_momentum=False)
    optimizer.momentum = MOMENTUM
    optimizer.reset(network.n_parameters, np.float32)
    layers = zip(draws.coefs, draws.intercepts, strict=True)
    data = Data(draws.X, draws.labels, None, input_scale(draws.X))
    with make_engine(network, np.dtype("float32"), n_threads, device, precision) as engine:
        engine.load_parameters(np.concatenate([part.ravel() for layer in layers for part in layer]))
        engine.load_optimizer(optimizer)

        def train_epoch(order):
            return engine.train_epoch(data, order, case.batch_size, optimizer, 0.0)

        yield from take_turns(train_epoch, draws.orders, epochs)


# ---- JAX -------------------------------------------------------------------------------------

JAX_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def train_jax(case, path, epochs, precision="float32", device="cuda"):
    """JAX: a whole epoch in one `jit`, `lax.scan` over its batches; rows gathered or permuted."""
    import jax
    import jax.numpy as jnp

    if device == "cuda" and jax.default_backend() not in ("gpu", "cuda"):
        raise RuntimeError(f"JAX has no GPU here, but {jax.default_backend()}")
    # Left to itself, JAX multiplies float32 matrices in tf32 on a GPU.
    jax.config.update("jax_default_matmul_precision", JAX_PRECISIONS[precision])
    draws = Draws.load(path)
    X = jnp.asarray(draws.X).astype(jnp.float32) * np.float32(input_scale(draws.X))
    labels = jnp.asarray(draws.labels)
    orders = [jnp.asarray(order) for order in draws.orders]
    epoch, state = frameworks.faster_jax_epoch(case, draws, X, labels, orders[0])

    def train_epoch(order):
        nonlocal state
        state, loss = epoch(state, X, labels, order)
        return loss

    yield from take_turns(train_epoch, orders, epochs)
