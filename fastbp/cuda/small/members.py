"""What networks that train together bring to the device, and what they take back."""

from dataclasses import dataclass, field

import numpy as np

from fastbp.cuda.data import adam_learning_rates
from fastbp.cuda.small import placement
from fastbp.cuda.small.placement import Plan
from fastbp.cuda.task import ADAM


def n_vectors_of(plan):
    """Vectors of a network's parameters and moments."""
    return 3 if plan.table[placement.RULE] == ADAM else 2


def real_numbers(network, training):
    optimizer, settings = training.optimizer, training.settings
    numbers = {
        placement.ALPHA: settings.alpha,
        placement.TOL: settings.tol,
        placement.PATIENCE: settings.n_iter_no_change,
        placement.MOMENTUM: optimizer.momentum,
        placement.BETA_1: optimizer.beta_1,
        placement.BETA_2: optimizer.beta_2,
        placement.EPSILON: optimizer.epsilon,
        placement.LOSS_SCALE: 1 / network.layer_sizes[-1] if network.average_outputs else 1.0,
        placement.EPS: np.finfo(np.float32).eps,
    }
    return [float(numbers[position]) for position in range(placement.N_REALS)]


def scaled_rows(X, scale):
    """X as the kernels read it: they gather no row before it has been scaled."""
    with np.errstate(over="ignore"):
        return X.astype(np.float32) * np.float32(scale)


def joined_targets(data):
    """Rows of targets, a class as its number, and the sample weight last."""
    columns = [data.targets.reshape(data.n_samples, -1)]
    if data.sample_weight is not None:
        columns.append(data.sample_weight[:, None])
    return np.hstack([column.astype(np.float32) for column in columns])


def n_step_sizes(beta_1, beta_2, n_steps):
    """After how many updates Adam's step size stays the same: 1 − βᵗ is 1 then."""
    largest = max(beta_1, beta_2, 0.1)
    return int(min(n_steps, 2 + 38 / -np.log(largest)))


def step_sizes(beta_1, beta_2, n_steps):
    steps = np.arange(1, n_step_sizes(beta_1, beta_2, n_steps) + 1)
    return adam_learning_rates(1.0, beta_1, beta_2, steps)


@dataclass
class Trained:
    """An engine that plays back what the device has computed, to the ordinary training loop.

    Parameters
    ----------
    losses : list of float
        Of every epoch.
    parameters : ndarray of shape (n_parameters,), dtype float32
    moments : list of ndarray
    updates : int
    interrupted : bool
        Whether Ctrl-C came before the end.
    """

    losses: list
    parameters: np.ndarray
    moments: list
    updates: int
    interrupted: bool

    def load_optimizer(self, optimizer):
        """Nothing: the moments have been with the device."""

    def store_optimizer(self, optimizer):
        """Give an optimizer its state as after the last epoch."""
        optimizer.moments, optimizer.step = self.moments, self.updates

    def store_parameters(self):
        """Return the parameters as a flat vector of shape (n_parameters,)."""
        return self.parameters

    def train_epoch(self, data, order, batch_size, optimizer, alpha):
        """Return the next epoch's loss."""
        if self.losses:
            return self.losses.pop(0)
        if self.interrupted:
            raise KeyboardInterrupt
        raise AssertionError("the device stopped before the training loop")


@dataclass
class Member:
    """One network among those that train together."""

    network: object
    training: object
    plan: Plan
    table: np.ndarray
    order: np.ndarray = None  # the last one drawn
    losses: list = field(default_factory=list)

    @property
    def n_rows(self):
        return len(self.training.split.train)

    @property
    def epochs_left(self):
        return self.training.settings.max_iter - len(self.losses)


class SharedArrays:
    """Host arrays that go up as one; the same one goes up once."""

    def __init__(self, dtype):
        self.dtype, self.parts, self.starts, self.size = dtype, [], {}, 0

    def add(self, key, make):
        """Where the array that `make()` returns begins; arrays of the same key are the same."""
        if key not in self.starts:
            part = np.ascontiguousarray(make(), self.dtype).ravel()
            self.starts[key] = self.size
            self.parts.append(part)
            self.size += part.size
        return self.starts[key]

    def upload(self, device):
        return device.upload(np.concatenate([*self.parts, np.zeros(1, self.dtype)]))
