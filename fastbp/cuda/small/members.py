"""What networks that train together bring to the device, and what they take back."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from fastbp.cuda.small import placement
from fastbp.cuda.small.placement import Plan


def real_numbers(network, training):
    """A network's row of real numbers."""
    optimizer, settings = training.optimizer, training.settings
    numbers = {
        placement.ALPHA: settings.alpha,
        placement.TOL: settings.tol,
        placement.PATIENCE: settings.n_iter_no_change,
        placement.WEIGHT_DECAY: optimizer.weight_decay,
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


def step_numbers(optimizer, n_steps):
    """What changes from update to update, until it stays the same: see `FACTOR_WIDTH`.

    Returns
    -------
    key : tuple
        The same for the same numbers.
    rows : ndarray of shape (at most n_steps, FACTOR_WIDTH)
    """
    coefficients = tuple(float(getattr(optimizer, name)) for name in optimizer.rule.coefficients)
    key = optimizer.rule, coefficients, n_steps
    return key, _step_numbers(*key)


@lru_cache(maxsize=16)
def _step_numbers(rule, coefficients, n_steps):
    factors = 1.0
    if rule.numbers is None:
        n_steps = 1
    else:
        factors, coefficients = rule.numbers(1.0, np.arange(1, n_steps + 1), *coefficients)
    rows = np.zeros((n_steps, placement.FACTOR_WIDTH))
    for column, numbers in enumerate((factors, *coefficients)):
        rows[:, column] = numbers
    differ = np.flatnonzero((rows != rows[-1]).any(axis=1))
    return rows[: differ[-1] + 2 if len(differ) else 1].copy()  # all of them may be many


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

    def load_moments(self, moments):
        """Nothing: the moments have been with the device."""

    def store_moments(self):
        """Return the moments as after the last epoch."""
        return self.moments

    def store_parameters(self):
        """Return the parameters as a flat vector of shape (n_parameters,)."""
        return self.parameters

    def train_epoch(self, data, order, steps):
        """Return the next epoch's loss; all updates count as the last one's."""
        loss = self.losses.pop(0) if self.losses else None
        if not self.losses:
            steps.made, self.updates = self.updates, 0
        if loss is not None:
            return loss
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
