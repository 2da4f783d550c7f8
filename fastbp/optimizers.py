"""Update rules, each once, as scalar functions that numba compiles; and the optimizers' state.

A rule takes one parameter, its gradient and its moments, and returns the new parameter and the
new moments. The engines run it over their own storage, fused with the gradient's computation.
"""

from dataclasses import dataclass, field
from math import sqrt

import numpy as np


def sgd(weight, gradient, velocity, learning_rate, momentum):
    """Gradient descent with classical momentum: v ← μv − ηg, w ← w + v."""
    velocity = momentum * velocity - learning_rate * gradient
    return weight + velocity, velocity


def nesterov(weight, gradient, velocity, learning_rate, momentum):
    """Nesterov's momentum in scikit-learn's form: v ← μv − ηg, w ← w + μv − ηg."""
    velocity = momentum * velocity - learning_rate * gradient
    return weight + (momentum * velocity - learning_rate * gradient), velocity


def adam(weight, gradient, first_moment, second_moment, learning_rate, beta_1, beta_2, epsilon):
    """Adam with the ε-hat of Kingma and Ba (2015), section 2: the bias correction is in η."""
    one = type(weight)(1)
    first_moment = beta_1 * first_moment + (one - beta_1) * gradient
    second_moment = beta_2 * second_moment + (one - beta_2) * (gradient * gradient)
    step = learning_rate * first_moment / (sqrt(second_moment) + epsilon)
    return weight - step, first_moment, second_moment


def adam_learning_rate(learning_rate, beta_1, beta_2, step):
    """Adam's step size at its `step`-th update (from 1): η √(1 − β₂ᵗ) / (1 − β₁ᵗ)."""
    return learning_rate * sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)


N_MOMENTS = {"sgd": 1, "adam": 2}
SMALLEST_ADAPTIVE_RATE = 1e-6


@dataclass
class Optimizer:
    """Hyper-parameters and state of a stochastic optimizer, apart from any device.

    Parameters
    ----------
    solver : {"sgd", "adam"}
    learning_rate_init : float
        The step size η at the start.
    schedule : {"constant", "invscaling", "adaptive"}, default="constant"
        How η changes; only sgd obeys it, as in scikit-learn.
    power_t : float, default=0.5
        Exponent of "invscaling".
    momentum, nesterovs_momentum : float, bool
        Of sgd.
    beta_1, beta_2, epsilon : float
        Of Adam.

    Attributes
    ----------
    learning_rate : float
        The current η before Adam's bias correction.
    step : int
        Updates made.
    moments : list of ndarray of shape (n_parameters,)
        The velocity, or Adam's first and second moments, in the network's flat order; empty until
        `reset`.
    """

    solver: str
    learning_rate_init: float
    schedule: str = "constant"
    power_t: float = 0.5
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    learning_rate: float = field(init=False)
    step: int = field(init=False, default=0)
    moments: list = field(init=False, default_factory=list)

    def __post_init__(self):
        self.learning_rate = float(self.learning_rate_init)

    def reset(self, n_parameters, dtype):
        """Forget all state; the moments become zeros, which are read-only and take no memory."""
        self.learning_rate = float(self.learning_rate_init)
        self.step = 0
        zeros = np.broadcast_to(np.zeros((), dtype), n_parameters)
        self.moments = [zeros] * N_MOMENTS[self.solver]

    @property
    def adapts(self):
        """Whether η comes down whenever training would stop."""
        return self.solver == "sgd" and self.schedule == "adaptive"

    def end_epoch(self, n_samples_seen):
        """Apply the schedule that moves once an epoch ("invscaling", by samples seen)."""
        if self.solver == "sgd" and self.schedule == "invscaling":
            self.learning_rate = self.learning_rate_init / (n_samples_seen + 1) ** self.power_t

    def reduce_on_plateau(self):
        """Divide η by 5 under the "adaptive" schedule.

        Returns
        -------
        reduced : bool
            False where training should stop instead.
        """
        if not self.adapts or self.learning_rate <= SMALLEST_ADAPTIVE_RATE:
            return False
        self.learning_rate /= 5.0
        return True
