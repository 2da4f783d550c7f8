"""The contenders that NumPy, scikit-learn and fastbp are, and how any contender is served.

Each trainer does the same arithmetic on the same arrays and shuffles their rows within the time of
every epoch. Each runs in a process of its own (`serve`), which trains one epoch whenever it is told
to, so that contenders can take turns.

A trainer takes the case, its draws, a `Turns`, the number of threads that it may use, and its
contender's device.
"""

import importlib
import importlib.util
import os
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastbp.bench.cases import BETA_1, BETA_2, EPSILON, FIT_EPOCHS, MOMENTUM, SEED
from fastbp.bench.draws import Draws
from fastbp.bench.workers import one_line

SMALLEST = np.finfo(np.float32).eps  # scikit-learn keeps float32 probabilities this far from 0


def train_fastbp(case, draws, turns, n_threads, device):
    """fastbp's public estimators in one fit; the team's size is its own choice."""
    from fastbp import MLPClassifier, fit_many

    def make(seed, **options):
        return MLPClassifier(
            **estimator_parameters(case) | options, random_state=seed, device=device,
            precision=(case.precision if device == "cuda" else case.cpu_precision) or case.dtype,
        )  # fmt: skip

    def end_epoch(report):
        turns.end(report.loss)

    with warnings.catch_warnings():
        if device == "cuda":
            # It warns where it gives a program up: times would be another program's.
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
        turns.begin()
        if case.n_networks == 1:
            model = make(SEED, max_iter=draws.n_epochs, callback=end_epoch)
            model.fit(draws.X, draws.labels)
            return
        for _ in range(draws.n_epochs):
            models = [make(SEED + number, max_iter=FIT_EPOCHS) for number in range(case.n_networks)]
            fit_many(models, draws.X, draws.labels)
            turns.end(models[0].loss_curve_[-1])


def train_sklearn(case, draws, turns, n_threads, device):
    """scikit-learn's estimator in one fit."""
    from sklearn.neural_network import MLPClassifier

    class PausingClassifier(MLPClassifier):
        # scikit-learn has no callback; this method of its own runs once, after every epoch.
        def _update_no_improvement_count(self, *arguments):
            super()._update_no_improvement_count(*arguments)
            turns.end(self.loss_)

    model = PausingClassifier(
        **estimator_parameters(case), max_iter=draws.n_epochs, random_state=SEED
    )
    turns.begin()
    model.fit(draws.X, draws.labels)


def estimator_parameters(case):
    """What both estimators are constructed with; they draw what the `Draws` hold."""
    return {
        "hidden_layer_sizes": case.layer_sizes[1:-1],
        "activation": case.activation,
        "solver": case.solver,
        "alpha": 0.0,
        "batch_size": case.batch_size,
        "learning_rate_init": case.learning_rate,
        "momentum": MOMENTUM,
        "nesterovs_momentum": False,
        "n_iter_no_change": np.inf,
    }


# ---- NumPy ----------------------------------------------------------------------------------


def train_numpy(case, draws, turns, n_threads, device):
    """A plain loop over NumPy's products, in place wherever NumPy can work in place."""
    network = NumpyNetwork(case, draws)
    turns.begin()
    for order in draws.shuffles():
        total = 0.0
        for start in range(0, len(order), case.batch_size):
            rows = order[start : start + case.batch_size]
            X, labels = draws.X.take(rows, axis=0), draws.labels.take(rows)
            total += network.learn(X, labels) * len(rows)
        turns.end(total / len(order))


def _logistic(values):
    np.negative(values, out=values)
    np.exp(values, out=values)
    values += 1
    np.reciprocal(values, out=values)


# Name -> (f in place, f′ from f's values).
NUMPY_ACTIVATIONS = {
    "logistic": (_logistic, lambda values: values * (1 - values)),
    "tanh": (lambda values: np.tanh(values, out=values), lambda values: 1 - values * values),
    "relu": (lambda values: np.maximum(values, 0, out=values), lambda values: values > 0),
}


class NumpyNetwork:
    """The reference: what every contender must compute, in as few words as it takes.

    All parameters are one vector and the layers its views, so that an update is a few calls
    however many layers there are.
    """

    def __init__(self, case, draws):
        self.case = case
        starts = [part.ravel() for part in (*draws.coefs, *draws.intercepts)]
        self.parameters = np.concatenate(starts)
        self.gradient = np.empty_like(self.parameters)
        self.scratch = np.empty_like(self.parameters)
        self.moments = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        self.coefs, self.intercepts = self.views(self.parameters)
        self.coef_gradients, self.intercept_gradients = self.views(self.gradient)
        self.n_updates = 0

    def views(self, flat):
        """Weight matrices and biases that share a vector's memory, matrices first."""
        sizes = self.case.layer_sizes
        shapes = [*pairwise(sizes), *((size,) for size in sizes[1:])]
        parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return arrays[: len(sizes) - 1], arrays[len(sizes) - 1 :]

    def learn(self, X, labels):
        """Train on one batch and return its mean loss."""
        activations, probabilities = self.forward(X)
        picked = np.arange(len(X)), labels
        loss = -np.log(np.maximum(probabilities[picked], SMALLEST)).mean()
        probabilities[picked] -= 1
        probabilities *= 1 / len(X)
        self.backward(activations, probabilities)
        self.update()
        return float(loss)

    def forward(self, X):
        """Every layer's inputs, and the softmax of the last one's outputs."""
        activate = NUMPY_ACTIVATIONS[self.case.activation][0]
        activations = [X]
        for coefs, intercepts in zip(self.coefs, self.intercepts, strict=True):
            X = X @ coefs
            X += intercepts
            if len(activations) < len(self.coefs):
                activate(X)
                activations.append(X)
        X -= X.max(axis=1, keepdims=True)
        np.exp(X, out=X)
        X /= X.sum(axis=1, keepdims=True)
        return activations, X

    def backward(self, activations, delta):
        """Fill the gradient, last layer first."""
        derivative = NUMPY_ACTIVATIONS[self.case.activation][1]
        for layer in reversed(range(len(self.coefs))):
            np.dot(activations[layer].T, delta, out=self.coef_gradients[layer])
            delta.sum(axis=0, out=self.intercept_gradients[layer])
            if layer:
                delta = delta @ self.coefs[layer].T
                delta *= derivative(activations[layer])

    def update(self):
        """Move the parameters."""
        rate, gradient, scratch = self.case.learning_rate, self.gradient, self.scratch
        first, second = self.moments
        self.n_updates += 1
        if self.case.solver == "sgd":
            gradient *= rate
            first *= MOMENTUM
            first -= gradient
            self.parameters += first
            return
        first *= BETA_1
        first += np.multiply(gradient, 1 - BETA_1, out=scratch)
        second *= BETA_2
        gradient *= gradient
        gradient *= 1 - BETA_2
        second += gradient
        np.sqrt(second, out=scratch)
        scratch += EPSILON
        np.divide(first, scratch, out=scratch)
        scratch *= rate * np.sqrt(1 - BETA_2**self.n_updates) / (1 - BETA_1**self.n_updates)
        self.parameters -= scratch


# ---- all of them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """Who trains.

    Parameters
    ----------
    name : str
    trainer : str
        "module:function" of its trainer, in this package.
    module, package : str
        The module that must be installed for it, and what pip calls it.
    device : {"cpu", "cuda"}, default="cpu"
    trains_many : bool, default=False
        Whether it takes cases of many networks, too.
    starts_slowly : bool, default=False
        Whether it compiles for some ten seconds a network before its first epoch.
    """

    name: str
    trainer: str
    module: str
    package: str
    device: str = "cpu"
    trains_many: bool = False
    starts_slowly: bool = False

    @property
    def is_ours(self):
        """Whether it is fastbp."""
        return self.package == "fastbp"

    def missing(self):
        """Why it cannot take part; empty where it can."""
        if importlib.util.find_spec(self.module) is None:
            return f"not installed (pip install {self.package})"
        return ""

    def load(self):
        """Import the module and return the trainer."""
        importlib.import_module(self.module)
        module, function = self.trainer.split(":")
        return getattr(importlib.import_module(f"fastbp.bench.{module}"), function)


FASTBP, TORCH, JAX = ("fastbp", "fastbp"), ("torch", "torch"), ("jax", "jax")
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("fastbp", "contenders:train_fastbp", *FASTBP, trains_many=True),
        Contender("NumPy", "contenders:train_numpy", "numpy", "numpy"),
        Contender("scikit-learn", "contenders:train_sklearn", "sklearn.neural_network", "sklearn"),
        Contender("PyTorch", "torch_trainers:train_torch", *TORCH),
        Contender(
            "torch.compile", "torch_trainers:train_torch_compiled", *TORCH, starts_slowly=True
        ),
        Contender("JAX", "jax_trainers:train_jax", *JAX),
        Contender("fastbp on GPU", "contenders:train_fastbp", *FASTBP, "cuda", trains_many=True),
        Contender(
            "PyTorch on GPU", "torch_on_gpu:train_eagerly", *TORCH, "cuda", trains_many=True
        ),
        Contender(
            "PyTorch, CUDA graphs", "torch_on_gpu:train_graphs", *TORCH, "cuda", trains_many=True
        ),
        Contender(
            "torch.compile, CUDA graphs", "torch_on_gpu:train_compiled_graphs", *TORCH, "cuda",
            starts_slowly=True,
        ),
        Contender("JAX on GPU", "jax_trainers:train_jax", *JAX, "cuda", trains_many=True),
    )
}  # fmt: skip


def contenders_on(device):
    """Names of the contenders of a run; fastbp on the CPU, which comes first, is in all of them.

    Parameters
    ----------
    device : {"cpu", "cuda", "both"}
    """
    return [
        name
        for name, contender in CONTENDERS.items()
        if device in ("both", contender.device) or name == "fastbp"
    ]


class Turns:
    """A trainer's clock: it reports the time of its epochs, then waits for the next turn.

    The first of a turn's epochs is not timed, unless it is the only one: its caches are cold.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
        Is sent (seconds an epoch, last loss) after a turn; any message received starts the next.
    epochs : int, default=1
        Epochs of a turn. The first turn is one epoch, in which everything is compiled.

    Attributes
    ----------
    scale : float
        By which times are multiplied: a trainer may do a known part of the work only.
    """

    def __init__(self, connection, epochs=1):
        self.connection = connection
        self.epochs = epochs
        self.scale = 1.0
        self.due, self.done = 1, 0

    def begin(self):
        """Say that everything is prepared, wait for the turn, then start the clock."""
        self.connection.send("prepared")
        self.connection.recv()
        self.started = time.perf_counter()

    def end(self, loss):
        """Count an epoch; after the turn's last, report, wait, and start the clock again."""
        loss = float(loss)  # JAX and GPUs compute until somebody asks
        self.done += 1
        if self.done < self.due:
            if self.done == 1:
                self.started = time.perf_counter()
            return
        n_timed = max(1, self.due - 1)
        seconds = (time.perf_counter() - self.started) * self.scale / n_timed
        self.connection.send((seconds, loss))
        self.due, self.done = self.epochs, 0
        self.connection.recv()
        self.started = time.perf_counter()


def serve(connection, name, case, path, n_threads):
    """A worker process's whole life: import, prepare, then train an epoch whenever told to."""
    warnings.simplefilter("ignore")  # reaching max_iter is what we want
    np.seterr(all="ignore")
    try:
        contender = CONTENDERS[name]
        trainer = contender.load()
        draws = Draws.load(path)
        connection.send("imported")
        connection.recv()
        turns = Turns(connection, case.epochs_a_turn)
        trainer(case, draws, turns, n_threads, contender.device)
    except (EOFError, KeyboardInterrupt):
        pass  # the race is over before the last epoch
    except BaseException as error:
        connection.send(RuntimeError(one_line(error)))
    # Compilers' helper processes and libraries' threads need no farewell.
    connection.close()
    os._exit(0)
