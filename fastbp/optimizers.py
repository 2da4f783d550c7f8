"""Update rules: one record each, with its formula as a plain scalar function; and their state.

A formula takes one parameter, its gradient and its moments, and returns the new parameter and the
new moments. The engines run it over their own storage, fused with the gradient's computation, and
build their switches and that storage from the records: a new rule is one more record here.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, sqrt
from numbers import Integral, Real
from typing import ClassVar

import numpy as np

from fastbp.dropout import Dropout


def sum_gradients(weight, gradient, total, learning_rate):
    """Accumulate the gradient and keep the weights: for L-BFGS, which updates them itself."""
    return weight, total + gradient


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


def adamw(
    weight, gradient, first_moment, second_moment, learning_rate, shrinkage, beta_1, beta_2, epsilon
):
    """Adam after w ← w − ηλw: decoupled weight decay, Loshchilov and Hutter (2019), algorithm 2."""
    weight = weight - shrinkage * weight
    return adam(
        weight, gradient, first_moment, second_moment, learning_rate, beta_1, beta_2, epsilon
    )


def nadam(
    weight, gradient, first_moment, second_moment, learning_rate, beta_1, beta_2, epsilon, lookahead
):
    """Adam with Nesterov's momentum, Dozat (2016): a step along g + `lookahead` · m.

    As in `torch.optim.NAdam`; what it corrects from update to update is in η and `lookahead`.
    """
    one = type(weight)(1)
    first_moment = beta_1 * first_moment + (one - beta_1) * gradient
    second_moment = beta_2 * second_moment + (one - beta_2) * (gradient * gradient)
    step = learning_rate * (gradient + lookahead * first_moment) / (sqrt(second_moment) + epsilon)
    return weight - step, first_moment, second_moment


def rmsprop(weight, gradient, second_moment, learning_rate, beta_2, epsilon):
    """Tieleman and Hinton (2012), lecture 6: w ← w − ηg / (√v + ε), v the average of g².

    As in `torch.optim.RMSprop`, whose α is β₂ here, and whose momentum is 0.
    """
    one = type(weight)(1)
    second_moment = beta_2 * second_moment + (one - beta_2) * (gradient * gradient)
    return weight - learning_rate * gradient / (sqrt(second_moment) + epsilon), second_moment


def lion(weight, gradient, average, learning_rate, shrinkage, beta_1, beta_2):
    """Chen and others (2023), algorithm 2: w ← w − η (sign(β₁m + (1 − β₁)g) + λw)."""
    one, zero = type(weight)(1), type(weight)(0)
    way = beta_1 * average + (one - beta_1) * gradient
    average = beta_2 * average + (one - beta_2) * gradient
    # NaN stays, as in every rule: the fit has to end.
    step = learning_rate if way > zero else (-learning_rate if way < zero else way)
    return weight - shrinkage * weight - step, average


# ---- coefficients that change from update to update -------------------------------------------


def adam_learning_rate(learning_rate, beta_1, beta_2, step):
    """Adam's step size at its `step`-th update (from 1): η √(1 − β₂ᵗ) / (1 − β₁ᵗ)."""
    return learning_rate * sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)


MOST_CORRECTIONS = 10**6  # that are kept for a β
_corrections = {}  # β -> 1 − βᵗ for t = 1, 2, …


def bias_corrections(beta, updates):
    """1 − βᵗ for update numbers t, an array of whole numbers from 1 on.

    Each power is the C library's, as in scikit-learn: NumPy's own may differ in the last bit, and
    from CPU to CPU.
    """
    known, most = _corrections.get(beta, np.zeros(0)), int(updates[-1]) if len(updates) else 0
    is_settled = known.size and known[-1] == 1.0  # and stays 1
    if most > MOST_CORRECTIONS and not is_settled:  # β is next to 1, or a file says so
        return np.array([1.0 - beta**t for t in updates.tolist()])
    if known.size < most and not is_settled:
        wanted = max(most, 2 * known.size)
        more = []
        for t in range(known.size + 1, wanted + 1):
            more.append(1.0 - beta**t)
            if more[-1] == 1.0:
                break
        _corrections[beta] = known = np.concatenate([known, more])
    return known[np.minimum(updates, known.size) - 1]


def adam_numbers(rates, updates, beta_1, beta_2, epsilon):
    """Adam's step sizes, with the bias correction; β₁, β₂ and ε are constant."""
    root = np.sqrt(bias_corrections(beta_2, updates))
    return rates * root / bias_corrections(beta_1, updates), (beta_1, beta_2, epsilon)


def adamw_numbers(rates, updates, beta_1, beta_2, epsilon):
    """Likewise, with the ε of algorithm 2 of Kingma and Ba (2015), added to a corrected root."""
    rates, _ = adam_numbers(rates, updates, beta_1, beta_2, epsilon)
    return rates, (beta_1, beta_2, epsilon * np.sqrt(bias_corrections(beta_2, updates)))


_momentum_products = {}  # β, decay -> 1, μ₁, μ₁μ₂, …


def nadam_momentum(beta, decay, update):
    """NAdam's momentum at its `update`-th update: μ = β (1 − ½ · 0.96^(update · decay))."""
    return beta * (1.0 - 0.5 * 0.96 ** (update * decay))


def nadam_products(beta, decay, updates):
    """The products μ₁ … μ_t for update numbers t, as long as they count beside 1.

    They follow from t alone, so that training can go on wherever it has stopped. Whatever β is,
    they no longer count after some 55 updates, and stay as they are.
    """
    known, most = _momentum_products.get((beta, decay), np.ones(1)), int(updates[-1])
    if 1.0 - known[-1] < 1.0 and known.size <= most:
        products = known.tolist()
        while 1.0 - products[-1] < 1.0 and len(products) <= most:
            products.append(products[-1] * nadam_momentum(beta, decay, len(products)))
        _momentum_products[beta, decay] = known = np.array(products)
    return known[np.minimum(updates, known.size - 1)]


def nadam_numbers(rates, updates, beta_1, beta_2, epsilon, decay):
    """The step size for g, how much longer the step for m is, and AdamW's ε."""
    updates = np.maximum(updates, 1)  # 0 where the first batches of all are left out
    products = nadam_products(beta_1, decay, updates)
    momenta, following = (
        np.array([nadam_momentum(beta_1, decay, t) for t in numbers.tolist()])
        for numbers in (updates, updates + 1)
    )
    share = (1.0 - momenta) / (1.0 - products)
    lookahead = following / (1.0 - products * following) / share
    root = np.sqrt(bias_corrections(beta_2, updates))
    return rates * root * share, (beta_1, beta_2, epsilon * root, lookahead)


# ---- records ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateRule:
    """How a parameter is updated by its gradient.

    Parameters
    ----------
    name : str
        Also the name of the `solver`, except for "nesterov", which is a form of "sgd".
    update : callable
        (weight, gradient, *moments, learning_rate, *coefficients) -> (weight, *moments); with
        decoupled decay a `shrinkage` comes after the learning rate.
    n_moments : {1, 2}
        State variables per parameter.
    coefficients : tuple of str, default=()
        The hyper-parameters that `update` takes, by their names on `Optimizer`, unless `numbers`
        replaces them.
    decay : {"coupled", "decoupled"}, default="coupled"
        Whether the only decay of weights is the L2 penalty's gradient, or there is a
        `weight_decay` apart from the gradient as well.
    numbers : callable or None, default=None
        (rates, updates, *coefficients) -> (rates, coefficients) for update numbers from 1 on,
        where they change from update to update (a correction of the moments' bias). It returns as
        many as it gets, for `update`.
    follows_epochs : bool, default=True
        Whether schedules that act after an epoch apply to it.
    is_linear : bool, default=False
        Whether steps are in proportion to gradients.
    """

    name: str
    update: Callable
    n_moments: int
    coefficients: tuple[str, ...] = ()
    decay: str = "coupled"
    numbers: Callable | None = None
    follows_epochs: bool = True
    is_linear: bool = False


SUM_GRADIENTS = UpdateRule("gradient", sum_gradients, 1, is_linear=True)
_BETAS = ("beta_1", "beta_2", "epsilon")
# The kernels switch on a record's position.
RULES = {
    rule.name: rule
    for rule in (
        SUM_GRADIENTS,
        UpdateRule("sgd", sgd, 1, ("momentum",), is_linear=True),
        UpdateRule("nesterov", nesterov, 1, ("momentum",), is_linear=True),
        # scikit-learn's Adam has no schedules.
        UpdateRule("adam", adam, 2, _BETAS, numbers=adam_numbers, follows_epochs=False),
        UpdateRule("adamw", adamw, 2, _BETAS, decay="decoupled", numbers=adamw_numbers),
        UpdateRule("nadam", nadam, 2, (*_BETAS, "momentum_decay"), numbers=nadam_numbers),
        UpdateRule("rmsprop", rmsprop, 1, _BETAS[1:]),
        UpdateRule("lion", lion, 1, _BETAS[:2], decay="decoupled"),
    )
}
N_COEFFICIENTS = max(len(rule.coefficients) for rule in RULES.values())
MOST_MOMENTS = max(rule.n_moments for rule in RULES.values())
STOCHASTIC_SOLVERS = tuple(name for name in RULES if name not in ("gradient", "nesterov"))


def code_of(rule):
    """The integer by which kernels know an update rule."""
    return list(RULES).index(rule.name)


SCHEDULE_FIELDS = "schedule", "weight_decay_schedule", "dropout_schedule"  # of an `Optimizer`


@dataclass
class Optimizer:
    """Hyper-parameters and state of a stochastic optimizer, apart from any device.

    Parameters
    ----------
    solver : str
        One of `STOCHASTIC_SOLVERS`.
    learning_rate_init : float
        The step size η at the start.
    schedule : str or callable, default="constant"
        How η changes: see `fastbp.schedules`.
    power_t : float, default=0.5
        Exponent of "invscaling".
    momentum, nesterovs_momentum : float, bool
        Of sgd.
    beta_1, beta_2, epsilon : float
        Of Adam and what is related to it: see the rules' `coefficients`.
    weight_decay : float, default=0.01
        λ of AdamW and Lion: before each update a weight loses η λ of itself.
    warmup : float, default=0.0
        Share of the planned training in which η rises from 0: see `fastbp.schedules`.
    max_grad_norm : float or None, default=None
        Bound of the norm of all gradients together.
    ema_decay : float or None, default=None
        What the average of the parameters keeps of itself at each update; None for no average.
    weight_decay_schedule, dropout_schedule : str or callable, default="constant"
        How λ, and the probabilities of dropout, change: see `fastbp.schedules.PLANS`.

    Attributes
    ----------
    learning_rate : float
        The current η, before the warm-up and any correction by the rule.
    step, epochs : int
        Updates and epochs made.
    moments : list of ndarray of shape (n_parameters,)
        The velocity, or Adam's first and second moments, in the network's flat order; then the
        average of the parameters, if there is one; empty until `reset`.
    dropout : Dropout or None
        What is left out of the updates.
    has_scales : bool
        Whether it trains scales: see `fastbp.network.Network`.
    factors : ndarray or None
        Of groups of parameters: see `fastbp.parameter_groups`.
    parameters : ndarray of shape (n_parameters,), or None
        Where the model has others, averages or weights that contain scales: the parameters from
        which training goes on.
    """

    solver: str
    learning_rate_init: float
    schedule: object = "constant"
    power_t: float = 0.5
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    warmup: float = 0.0
    momentum_decay: ClassVar[float] = 0.004  # of NAdam: PyTorch's and Keras's
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    weight_decay_schedule: object = "constant"
    dropout_schedule: object = "constant"
    learning_rate: float = field(init=False)
    step: int = field(init=False, default=0)
    epochs: int = field(init=False, default=0)
    moments: list = field(init=False, default_factory=list)
    dropout: Dropout | None = field(init=False, default=None)
    has_scales: bool = field(init=False, default=False)
    factors: np.ndarray | None = field(init=False, default=None)
    parameters: np.ndarray | None = field(init=False, default=None)

    def __post_init__(self):
        self.learning_rate = float(self.learning_rate_init)

    @property
    def rule(self):
        """The update rule that the hyper-parameters ask for."""
        is_nesterov = self.solver == "sgd" and self.nesterovs_momentum
        return RULES["nesterov" if is_nesterov else self.solver]

    @property
    def n_moments(self):
        """Vectors of its state, the average included."""
        return self.rule.n_moments + (self.ema_decay is not None)

    @property
    def counts_updates(self):
        """Whether updates differ by their number alone, apart from the rule."""
        return self.dropout is not None or self.ema_decay is not None

    def averaging_of(self, updates):
        """The share of the new parameters in their average; the first update's are the first."""
        if self.ema_decay is None:
            return 0.0
        return np.where(updates == 1, 1.0, 1.0 - self.ema_decay)

    def check(self, n_parameters):
        """See that the state can go on, for a network of so many parameters.

        Raises
        ------
        ValueError
            It names the field, as in a damaged pickle.
        """
        if self.solver not in list(STOCHASTIC_SOLVERS):
            raise ValueError(f"solver must be one of {STOCHASTIC_SOLVERS}, got {self.solver!r}.")
        for name in ("step", "epochs"):
            count = getattr(self, name, None)
            if not isinstance(count, Integral) or not 0 <= count <= 2**62:
                raise ValueError(
                    f"The optimizer's {name} must be a count, got {reprlib.repr(count)}."
                )
        rate = getattr(self, "learning_rate", None)
        if not isinstance(rate, Real) or not 0 <= rate < inf:
            raise ValueError(
                f"The optimizer's learning_rate must be a number, got {reprlib.repr(rate)}."
            )
        decay = self.ema_decay
        if decay is not None and not (isinstance(decay, Real) and 0 <= decay < 1):
            raise ValueError(f"The optimizer's ema_decay must be from 0 to 1, got {decay!r:.100}.")
        if self.dropout is not None:
            if type(self.dropout) is not Dropout:
                raise ValueError(f"The optimizer's dropout is {self.dropout!r:.100}.")
            self.dropout.check()
        moments, expected = getattr(self, "moments", None), RULES[self.solver].n_moments
        expected += decay is not None
        if not isinstance(moments, list) or len(moments) != expected:
            raise ValueError(
                f"{self.solver} has {expected} moment(s), got {reprlib.repr(moments)}."
            )
        for moment in moments if self.parameters is None else [*moments, self.parameters]:
            is_array = isinstance(moment, np.ndarray) and moment.dtype in ("f4", "f8")
            if not is_array or moment.shape != (n_parameters,):
                found = f"{moment.shape} {moment.dtype}" if is_array else reprlib.repr(moment)
                raise ValueError(
                    f"The optimizer's moments must be vectors of {n_parameters} floats, got "
                    f"{found}."
                )

    def coefficient(self, name):
        """A coefficient of the rule, as a float.

        An ε that kernels take for zero would make 0 / 0 of a parameter without a gradient, and of
        all that only fill up tiles: it becomes a number that no √v above zero is changed by.
        """
        value = float(getattr(self, name))
        if name == "epsilon" and self.moments:
            limits = np.finfo(self.moments[0].dtype)
            if value < limits.tiny:
                return float(limits.tiny) / float(limits.eps)
        return value

    def reset(self, n_parameters, dtype):
        """Forget all state; the moments become zeros, which are read-only and take no memory."""
        self.learning_rate = float(self.learning_rate_init)
        self.step = self.epochs = 0
        self.moments = [zeros_of(n_parameters, dtype)] * self.n_moments
        self.parameters = None


def zeros_of(n_parameters, dtype):
    """A vector of zeros that is read-only and takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), n_parameters)


def optimizer_of(rule, learning_rate_init):
    """An optimizer with this rule, and the defaults for all else.

    Examples
    --------
    >>> optimizer_of(RULES["nesterov"], 0.1).rule.name
    'nesterov'
    """
    is_nesterov = rule.name == "nesterov"
    solver = "sgd" if is_nesterov else rule.name
    return Optimizer(solver, learning_rate_init, nesterovs_momentum=is_nesterov)
