"""Schedules of the learning rate, one record each, and the table of an epoch's steps.

The host plans all updates of an epoch in one table, for all engines: kernels know no schedule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fastbp.dropout import Dropout
from fastbp.optimizers import N_COEFFICIENTS, SUM_GRADIENTS, UpdateRule

SMALLEST_ADAPTIVE_RATE = 1e-6


@dataclass(frozen=True)
class Schedule:
    """How the learning rate η changes: per update, after epochs, or where training would stop.

    Parameters
    ----------
    name : str
        What users call it.
    factor : callable or None, default=None
        progress -> factor of the initial η for each of an epoch's updates, both arrays of shape
        (n_updates,). Progress is the fraction of the planned training, `max_iter` epochs, that
        precedes the update, from 0 to 1.
    after_epoch : callable or None, default=None
        (optimizer, n_samples_seen) -> η from now on.
    on_plateau : callable or None, default=None
        η -> a smaller η with which to continue where training would stop, or None to stop.
    """

    name: str
    factor: Callable | None = None
    after_epoch: Callable | None = None
    on_plateau: Callable | None = None


def inverse_scaling(optimizer, n_samples_seen):
    """η₀ / (t + 1)^power_t, t being the rows seen."""
    try:
        return optimizer.learning_rate_init / (n_samples_seen + 1) ** optimizer.power_t
    except OverflowError:  # the divisor is infinite, as good as
        return 0.0


def divided_by_five(learning_rate):
    """A fifth, or None once it is too small to matter."""
    return learning_rate / 5.0 if learning_rate > SMALLEST_ADAPTIVE_RATE else None


def half_cosine(progress):
    """From 1 to 0: Loshchilov and Hutter (2017), without restarts."""
    return 0.5 * (1.0 + np.cos(np.pi * progress))


def linear(progress):
    """From 1 to 0."""
    return 1.0 - progress


LOG_COSINE_CYCLES = 4


def log_cosine(progress):
    """Four cycles from 0 up to 1 and back to 0, each twice as long as the one before.

    Holzmüller, Grinsztajn and Steinwart (2024), section 3: ½ (1 − cos(2π log₂(1 + 15t))).
    """
    cycles = np.log2(1.0 + (2.0**LOG_COSINE_CYCLES - 1.0) * progress)
    return 0.5 * (1.0 - np.cos(2.0 * np.pi * cycles))


def flat_cosine(progress):
    """1 in the first half of training, then down to 0 by half a cosine: likewise, appendix A."""
    return half_cosine(np.maximum(1.0, 2.0 * progress) - 1.0)


SMALLEST_EXPONENTIAL = 0.01


def exponential(progress):
    """From 1 to 1/100, by the same factor in equal times."""
    return SMALLEST_EXPONENTIAL**progress


# Those of PyTorch's OneCycleLR, and of fastai.
CYCLE_START, CYCLE_END, CYCLE_PEAK = 1 / 25, 1 / 25e4, 0.3


def one_cycle(progress):
    """From 1/25 up to 1 in three tenths of training, then down to 1/250,000: Smith (2019).

    Two half cosines, as in PyTorch. The momentum stays as it is.
    """
    rise = CYCLE_START + (1.0 - CYCLE_START) * half_cosine(1.0 - progress / CYCLE_PEAK)
    fall = half_cosine((progress - CYCLE_PEAK) / (1.0 - CYCLE_PEAK))
    return np.where(progress < CYCLE_PEAK, rise, CYCLE_END + (1.0 - CYCLE_END) * fall)


CONSTANT = Schedule("constant")
SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        CONSTANT,
        Schedule("invscaling", after_epoch=inverse_scaling),
        Schedule("adaptive", on_plateau=divided_by_five),
        Schedule("cosine", factor=half_cosine),
        Schedule("log_cosine", factor=log_cosine),
        Schedule("flat_cosine", factor=flat_cosine),
        Schedule("one_cycle", factor=one_cycle),
        Schedule("linear", factor=linear),
        Schedule("exponential", factor=exponential),
    )
}
# Those of other coefficients than the learning rate: by progress alone.
PLANS = {"constant": None} | {
    schedule.name: schedule.factor for schedule in SCHEDULES.values() if schedule.factor is not None
}


def schedule_of(optimizer):
    """The schedule that an optimizer's rule follows; a callable is the `factor` of its own."""
    if callable(optimizer.schedule):
        return Schedule("callable", factor=optimizer.schedule)
    schedule = SCHEDULES[optimizer.schedule]
    return schedule if schedule.factor or optimizer.rule.follows_epochs else CONSTANT


def plan_of(optimizer, name):
    """The factor of a coefficient whose schedule has this name on the optimizer; None for 1."""
    plan = getattr(optimizer, name)
    return plan if callable(plan) else PLANS[plan]


# ---- the step table ---------------------------------------------------------------------------

# Columns, a row for each update: the batch's rows; its summed sample weight, by which δ are divided
# (0 where the update is left out); the learning rate; the L2 penalty's share of the gradient,
# α / weight; what decoupled decay takes from a weight; the share of the new weights in their
# average; the update's number, from 1, by which dropout is drawn; the factor of its probabilities;
# the factor of the gradient; and the rule's coefficients.
(
    ROWS, WEIGHT, RATE, PENALTY, SHRINKAGE, AVERAGING, UPDATE, DROPPING, GRADIENT, COEFFICIENTS,
) = range(10)  # fmt: skip
TABLE_WIDTH = COEFFICIENTS + N_COEFFICIENTS
MOST_AHEAD = 4096  # rows that are planned ahead at most


@dataclass
class Steps:
    """The updates of one epoch, as an engine takes them.

    Parameters
    ----------
    rule : UpdateRule
    table : ndarray of shape (n_steps, TABLE_WIDTH), dtype float64
    batch_size : int
        Rows of the largest batch.
    alpha : float, default=0.0
        Strength of the L2 penalty in the loss.
    dropout : Dropout or None, default=None
    max_grad_norm : float or None, default=None
        Bound of the Euclidean norm of all gradients together, the penalty's included.
    averages : bool, default=False
        Whether there is an average of the parameters, a moment after those of the rule.
    factors : ndarray of shape (n_groups, N_FACTORS), or None, default=None
        Of groups of parameters: see `fastbp.parameter_groups`.

    Attributes
    ----------
    made : int
        Updates that the engine has made, even if an exception ended the epoch.
    """

    rule: UpdateRule
    table: np.ndarray
    batch_size: int
    alpha: float = 0.0
    dropout: Dropout | None = None
    max_grad_norm: float | None = None
    averages: bool = False
    factors: np.ndarray | None = None
    made: int = field(init=False, default=0)


class StepPlanner:
    """Plans the steps of a fit's epochs.

    Parameters
    ----------
    optimizer : Optimizer
    n_rows : int
        Rows of an epoch.
    batch_size : int
    sample_weight : ndarray of shape (n_samples,) or None
    alpha : float
        Strength of the L2 penalty α / (2 Σw) ‖W‖², by the batch's summed sample weights.
    max_iter : int
        Number of epochs that the schedule spans.

    Attributes
    ----------
    batch_size : int
    last_rate : float
        η of the last update that was planned, as the schedule and the warm-up make it.

    Raises
    ------
    ValueError
        From `next_epoch`, where a callable schedule returns something else than finite factors,
        none negative.
    """

    def __init__(self, optimizer, n_rows, batch_size, sample_weight, alpha, max_iter):
        self._optimizer, self._weight = optimizer, sample_weight
        self.batch_size, self._alpha = batch_size, float(alpha)
        self._rule, self._schedule = optimizer.rule, schedule_of(optimizer)
        self._decay_plan = plan_of(optimizer, "weight_decay_schedule")
        self._dropout_plan = plan_of(optimizer, "dropout_schedule")
        self._hyper = [optimizer.coefficient(name) for name in self._rule.coefficients]
        self._table = empty_table(n_rows, batch_size)
        self._max_iter, self.last_rate = max_iter, optimizer.learning_rate
        if sample_weight is None:
            self._table[:, WEIGHT] = self._table[:, ROWS]
            self._table[:, PENALTY] = self._alpha / self._table[:, ROWS]
        # Tables of some epochs ahead, the rows taken, and what they were planned for.
        self._ahead, self._taken, self._planned_for = self._table[:0], 0, None

    def next_epoch(self, order):
        """Plan the next epoch from the optimizer's present state.

        Parameters
        ----------
        order : ndarray of shape (n_rows,), or None
            The rows of the data in the order of training; not needed without sample weights.

        Returns
        -------
        steps : Steps
            Its table is good until the next epoch.
        """
        table = self._take_ahead() if self._is_known_ahead else self._plan_anew(order)
        return self._steps_of(table)

    @property
    def _is_known_ahead(self):
        """Whether steps depend on nothing but η and the number of updates."""
        plans = self._schedule.factor, self._decay_plan, self._dropout_plan
        return self._weight is None and not any(plans) and not self.warms_up

    def _steps_of(self, table):
        optimizer = self._optimizer
        return Steps(
            self._rule, table, self.batch_size, self._alpha, optimizer.dropout,
            optimizer.max_grad_norm, optimizer.ema_decay is not None, optimizer.factors,
        )  # fmt: skip

    def next_epochs(self, most):
        """Plan several epochs at once, where what comes after one decides nothing about the next.

        Parameters
        ----------
        most : int

        Returns
        -------
        steps : Steps or None
            Its table has the rows of all epochs, or those of one if all are like it; None where
            each must be planned after the one before.
        n_epochs, n_tables : int
            How many they are, and how many are in the table.
        """
        if self._schedule.after_epoch is not None or not self._is_known_ahead:
            return None, 0, 0
        if not self._changes:
            return self._steps_of(self._take_ahead()), most, 1
        n_epochs = max(1, min(most, MOST_AHEAD // len(self._table)))
        step, self.last_rate = self._optimizer.step, self._optimizer.learning_rate
        table = np.tile(self._table, (n_epochs, 1))
        self._fill(table, self.last_rate, np.arange(step + 1, step + 1 + len(table)))
        return self._steps_of(table), n_epochs, n_epochs

    @property
    def _changes(self):
        """Whether steps depend on the number of updates."""
        return self._rule.numbers is not None or self._optimizer.counts_updates

    def _take_ahead(self):
        """The next epoch's table where it depends on nothing but η and the number of updates.

        Short epochs take as long as planning one, so twice as many are planned each time.
        """
        rate, step, n_steps = self._optimizer.learning_rate, self._optimizer.step, len(self._table)
        self.last_rate = rate
        changes = self._changes
        state = rate, step if changes else None
        if state != self._planned_for or self._taken == len(self._ahead):
            n_epochs = 1
            if changes and state == self._planned_for:
                n_epochs = max(1, min(2 * len(self._ahead), MOST_AHEAD) // n_steps)
            self._ahead, self._taken = np.tile(self._table, (n_epochs, 1)), 0
            self._fill(self._ahead, rate, np.arange(step + 1, step + 1 + len(self._ahead)))
        table = self._ahead[self._taken : self._taken + n_steps]
        if changes:
            self._taken += n_steps
            state = rate, step + n_steps
        self._planned_for = state
        return table

    def _plan_anew(self, order):
        """The next epoch's table where it depends on the rows' order, or on a function."""
        optimizer, table = self._optimizer, self._table
        counts = np.arange(1, len(table) + 1)
        if self._weight is not None:
            weight = np.add.reduceat(self._weight[order], np.arange(0, len(order), self.batch_size))
            table[:, WEIGHT], counts = weight, np.cumsum(weight != 0)
            with np.errstate(divide="ignore", invalid="ignore"):  # those are left out
                table[:, PENALTY] = self._alpha / weight
        updates, rates = optimizer.step + counts, optimizer.learning_rate
        if self._schedule.factor is not None:
            factors = self._factors("learning_rate", self._schedule.factor, counts)
            rates = optimizer.learning_rate_init * factors
            optimizer.learning_rate = float(rates[-1])
        if self.warms_up:
            rates = rates * self._warm_up(counts)
        self.last_rate = float(np.broadcast_to(rates, counts.shape)[-1])
        self._fill(table, rates, updates)
        if self._decay_plan is not None:
            table[:, SHRINKAGE] *= self._factors("weight_decay_schedule", self._decay_plan, counts)
        if self._dropout_plan is not None:
            factors = self._factors("dropout_schedule", self._dropout_plan, counts)
            table[:, DROPPING] = np.minimum(factors, 1.0)
        return table

    def _factors(self, name, plan, counts):
        """A plan's factors for an epoch's updates, checked: they may be the user's."""
        progress = np.clip(self._progress(counts - 1), 0.0, 1.0)
        try:
            given = plan(progress)
        except Exception as error:
            error.add_note(
                f"It comes from {name}, which is called with an array: the progress of each "
                f"of an epoch's {len(progress)} updates."
            )
            raise
        factors = np.asarray(given)
        is_number = factors.dtype.kind in "biuf" and factors.shape in ((), progress.shape)
        if not (is_number and np.isfinite(factors).all()):
            raise ValueError(
                f"{name} as a callable must return finite factors, one for each of the "
                f"{len(progress)} numbers that it is given; got {given!r}."
            )
        if factors.min() < 0:
            raise ValueError(
                f"{name} as a callable must not return negative factors, got {factors.min():g}."
            )
        return np.broadcast_to(factors.astype(np.float64), progress.shape)

    def _progress(self, counts):
        """The share of the planned training that ends with so many of an epoch's updates."""
        return (self._optimizer.epochs + counts / len(self._table)) / self._max_iter

    def _warm_up(self, counts):
        """The rising factors of an epoch's updates: 1/n for the first of n, and 1 from there on."""
        return np.minimum(self._progress(counts) / self._optimizer.warmup, 1.0)

    def _fill(self, table, rates, updates):
        """Write the learning rates into a table, and what depends on them."""
        coefficients = self._hyper
        if self._rule.decay == "decoupled":
            table[:, SHRINKAGE] = rates * self._optimizer.weight_decay
        if self._optimizer.counts_updates:
            table[:, UPDATE] = updates
            table[:, AVERAGING] = self._optimizer.averaging_of(updates)
        if self._rule.numbers is not None:
            rates, coefficients = self._rule.numbers(rates, updates, *coefficients)
        table[:, RATE] = rates
        for column, numbers in enumerate(coefficients, COEFFICIENTS):
            table[:, column] = numbers

    def after_epoch(self, n_samples_seen):
        """Count an epoch, and let the schedule act after it."""
        self._optimizer.epochs += 1
        if self._schedule.after_epoch is not None:
            rate = self._schedule.after_epoch(self._optimizer, n_samples_seen)
            self._optimizer.learning_rate = rate

    @property
    def warms_up(self):
        """Whether the learning rate still rises in the epoch to come."""
        return self._progress(0) < self._optimizer.warmup

    @property
    def is_planned(self):
        """Whether the schedule has a plan, which ends after `max_iter` epochs."""
        return self._schedule.factor is not None

    @property
    def adapts(self):
        """Whether η is reduced where training would stop."""
        return self._schedule.on_plateau is not None

    def reduce_on_plateau(self):
        """Reduce η; return False if training should stop instead."""
        rate = self._schedule.on_plateau(self._optimizer.learning_rate) if self.adapts else None
        if rate is None:
            return False
        self._optimizer.learning_rate = rate
        return True


def empty_table(n_rows, batch_size):
    """A step table that holds the rows of each batch, and otherwise zeros."""
    starts = np.arange(0, n_rows, batch_size)
    table = np.zeros((len(starts), TABLE_WIDTH))
    table[:, ROWS] = np.minimum(batch_size, n_rows - starts)
    table[:, DROPPING] = table[:, GRADIENT] = 1.0
    return table


def gradient_steps(data, batch_size):
    """Steps that accumulate the gradient of all rows, each with its share of the total weight.

    Returns
    -------
    steps : Steps
    total_weight : float
        The divisor of every row's loss and δ.
    """
    batch_size = min(batch_size, data.n_samples)
    table = empty_table(data.n_samples, batch_size)
    if data.sample_weight is None:
        total = float(data.n_samples)
        table[:, WEIGHT] = total
    else:
        total = float(data.sample_weight.sum())
        starts = np.arange(0, data.n_samples, batch_size)
        has_weight = np.add.reduceat(data.sample_weight, starts) != 0
        table[:, WEIGHT] = np.where(has_weight, total, 0.0)
    return Steps(SUM_GRADIENTS, table, batch_size), total
