"""Fitting a network with an engine: epochs, shuffles, stopping, best weights, callbacks.

Nothing here depends on the engine's device. Draws and decisions follow scikit-learn's, so
that the same seed gives the same model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastbp.averages import averaged, has_average, kept_parameters
from fastbp.data import Data
from fastbp.engine import Engine
from fastbp.epochs import InMemory, train_pieces
from fastbp.late import imported
from fastbp.optimizers import Optimizer
from fastbp.progress import EpochReport as EpochReport
from fastbp.progress import Progress, short, who_waits
from fastbp.warned import warn

if TYPE_CHECKING:
    from fastbp.checkpoints import Checkpoint
    from fastbp.judging import Judge


class NonFiniteLossError(ValueError, FloatingPointError):
    """The loss or the parameters became NaN or infinite.

    Parameters
    ----------
    what : str
        A sentence that says what became NaN or infinite, and when.
    """

    def __str__(self) -> str:
        return (
            "Solver produced non-finite parameter weights. The input data may contain large values"
            f" and need to be preprocessed. {self.args[0]} Scale X (StandardScaler; input_scale for"
            " whole numbers) and a regression's y, lower learning_rate_init, or use"
            " precision='float64'."
        )


@dataclass(frozen=True)
class Settings:
    """The loops' hyper-parameters, each under its name on the estimators."""

    alpha: float
    batch_size: int | str
    max_iter: int
    max_fun: int
    drop_last: bool
    shuffle: bool
    tol: float
    n_iter_no_change: float
    ties: str
    verbose: bool
    callback: Callable | None


@dataclass(frozen=True)
class Split:
    """The rows to learn from and, for early stopping, those held out for scoring.

    Parameters
    ----------
    train : ndarray of shape (n_train,), dtype int64
    validation : ndarray of shape (n_validation,), dtype int64, or None
        None also where the user gives rows of their own.
    judge : Judge or None
        Of the held-out rows or the user's own.
    """

    train: np.ndarray
    validation: np.ndarray | None = None
    judge: Judge | None = None


@dataclass
class Training:
    """One fit: what it is made of, and how far it has come.

    Parameters
    ----------
    engine : Engine or None
        None until there is one, by `use`.
    data : Data
    settings : Settings
    progress : Progress
    split : Split or None
        This and the next two are for `fit_stochastic`.
    optimizer : Optimizer or None
        None afterwards if its moments have diverged.
    random_state : numpy.random.RandomState or None
    start : ndarray or None
        The parameters to start from, until an engine has been given them.
    best_parameters : ndarray or None
        A copy of the parameters that scored best on the held-out rows, apart from the engine's.
    order : ndarray or None
        The rows to learn from in the last epoch's order, from which the next one's is drawn.
    holdout_state : tuple or None
        State of the random generator that has drawn the held-out rows.
    checkpoint : Checkpoint or None
        Where the state is kept after epochs.
    is_resumed : bool, default=False
        Whether the state is that of a checkpoint.
    ending : {"stopped", "max_iter"} or None
        Why there are no more epochs to come; None before the end.
    watchers : list of fastbp.callbacks.Watcher
        Told of every epoch.
    present : callable or None
        From parameters to an estimator with them, as it would be if training ended now.
    rows : fastbp.epochs.InMemory or fastbp.sources.streaming.StreamedRows
        Who has the rows. Of a source, `data` knows all but X.
    """

    engine: Engine | None
    data: Data
    settings: Settings
    progress: Progress
    split: Split | None = None
    optimizer: Optimizer | None = None
    random_state: np.random.RandomState | None = None
    start: np.ndarray | None = None
    best_parameters: np.ndarray | None = None
    order: np.ndarray | None = None
    holdout_state: tuple | None = None
    checkpoint: Checkpoint | None = None
    is_resumed: bool = False
    ending: str | None = None
    watchers: list = field(default_factory=list)
    present: Callable | None = None
    rows: object = field(default_factory=InMemory)

    def use(self, engine):
        """Set the engine, and load the parameters to start from."""
        engine.load_parameters(self.start)
        self.engine, self.start = engine, None

    def parameters(self):
        """The weights that count as those of the epoch: for scores, callbacks and the result."""
        return kept_parameters(self.engine, self.optimizer)

    def predict(self, data, rows=None, activation=None):
        """The outputs with these weights, as from `Engine.predict`."""
        with averaged(self.engine, self.optimizer):
            return self.engine.predict(data, rows, activation)

    def present_estimator(self):
        """An estimator with these weights."""
        return self.present(self.parameters())

    @property
    def judge(self):
        """Who judges on the validation rows, or None."""
        return None if self.split is None else self.split.judge

    @property
    def is_scored(self):
        """Whether the score of validation rows decides when to stop and which weights are kept."""
        return self.judge is not None and self.judge.decides

    @property
    def is_followed(self):
        """Whether somebody wants to know of every epoch."""
        watched = self.watchers or self.settings.verbose or self.checkpoint is not None
        return bool(watched or self.judge is not None)

    def end_epoch(self, loss, n_samples):
        """Record an epoch, judge it, and keep the best weights; return the judgement, or None."""
        judgement = None
        if self.judge is not None:
            judgement = self.judge.judge(self, self.progress.n_iter + 1)
        best = self.progress.end_epoch(
            loss, judgement, n_samples, self.settings.tol, self.settings.ties
        )
        if best and self.is_scored:
            self.best_parameters = self.parameters()
        return judgement

    def report(self, judgement, n_samples, seconds, learning_rate=None):
        """Print the epoch and tell the watchers; return whether one of them asks to stop."""
        progress = self.progress
        score = loss = None
        if judgement is not None:
            score, loss = judgement.score, judgement.loss
        waited = self.rows.seconds_waited()
        if self.settings.verbose:
            print(f"Iteration {progress.n_iter}, loss = {progress.loss:.8f}")
            if waited is not None:
                print(f"{short(n_samples / seconds)} rows/s, {who_waits(waited, seconds)}")
            if score is not None:
                print(f"Validation score: {score:f}")
        if not self.watchers:
            return False
        report = EpochReport(
            progress.n_iter, progress.loss, score, n_samples, seconds, validation_loss=loss,
            learning_rate=learning_rate, seconds_waiting=waited,
            _present=self.present_estimator,
        )  # fmt: skip
        try:
            for watcher in self.watchers:
                watcher.after_epoch(report)
        finally:
            report._present = None
        return report.stopped

    def store_optimizer(self):
        """Let the optimizer keep what it needs to go on."""
        self.optimizer.moments = self.engine.store_moments()
        if has_average(self.optimizer) or self.optimizer.has_scales:
            self.optimizer.parameters = self.engine.store_parameters()

    def adopt_start(self):
        """Score the parameters that training starts from as the best so far."""
        score = self.judge.judge(self, 0).score
        if isfinite(score):
            self.progress.best_validation_score = score
            self.best_parameters = self.parameters()

    def settle(self):
        """Complete the curve of the validation loss."""
        if self.judge is not None:
            self.judge.settle(self.engine.network, self.progress.validation_loss_curve)

    def result(self):
        """The best parameters, or the last without scores; raise if they are not finite."""
        self.settle()
        parameters = self.best_parameters
        if parameters is None:
            parameters = self.parameters()
        if not (isfinite(parameters.min()) and isfinite(parameters.max())):
            raise NonFiniteLossError(f"It happened in epoch {self.progress.n_iter}.")
        return parameters


def hold_out(n_samples, validation_fraction, random_state, labels=None):
    """Draw the rows for early stopping, as scikit-learn's `train_test_split` does.

    Parameters
    ----------
    n_samples : int
    validation_fraction : float
    random_state : numpy.random.RandomState
    labels : ndarray of bool of shape (n_samples,) or None
        Two classes to hold out in proportion: whether each row is of the second.

    Returns
    -------
    train, validation : ndarray of int64

    Raises
    ------
    ValueError
        If fewer than two rows would be held out, or too few of a class.
    """
    try:
        train, validation = imported("sklearn.model_selection").train_test_split(
            np.arange(n_samples, dtype=np.int64),
            test_size=validation_fraction,
            random_state=random_state,
            stratify=labels,
        )
    except ValueError as error:
        message = str(error).rstrip(".")
        for of_two, name in (
            ("[False]", "['False'], the first"),
            ("[True]", "['True'], the second"),
        ):
            message = message.replace(of_two, name)
        raise ValueError(
            f"validation_fraction={validation_fraction} of {n_samples} rows cannot be held out for "
            f"early stopping: {message}. Raise validation_fraction, merge "
            "classes with a single row into others, or use early_stopping=False."
        ) from error
    if len(validation) < 2:
        raise ValueError(
            f"The validation set is too small: validation_fraction={validation_fraction} of "
            f"{n_samples} rows. Increase validation_fraction or train on more rows."
        )
    return train, validation


def fit_stochastic(training, *, goes_on=False, incremental=False):
    """Train by mini-batches until the loss or the score stops improving, or up to `max_iter`.

    Ctrl-C ends training with a warning and keeps what has been learned.

    Parameters
    ----------
    training : Training
        Its optimizer and progress are brought up to date.
    goes_on : bool, default=False
        The engine's parameters have been trained before.
    incremental : bool, default=False
        Train one epoch only.

    Returns
    -------
    parameters : ndarray of shape (n_parameters,)
        Those that scored best on the held-out rows, or the last ones where there are none.

    Raises
    ------
    NonFiniteLossError
        As soon as the loss or the parameters become NaN or infinite, unless parameters have been
        scored: then the best of these are restored, with a warning.
    """
    settings, progress, engine = training.settings, training.progress, training.engine
    n_rows = training.rows.begin(training)
    batch_size = clip_batch_size(settings.batch_size, n_rows)
    if settings.drop_last:
        n_rows -= n_rows % batch_size
    planner = training.rows.plan(training, n_rows, batch_size)
    engine.load_moments(training.optimizer.moments)
    if goes_on and training.is_scored and not training.is_resumed:
        training.adopt_start()
    max_iter = 1 if incremental else settings.max_iter
    try:
        while training.ending is None:
            if not run_epochs(training, planner, n_rows, max_iter - progress.n_iter):
                training.ending = "stopped"
            elif progress.n_iter == max_iter:
                training.ending = "max_iter"
            if training.checkpoint is not None:
                training.checkpoint.after_epoch(training)
        if training.ending == "max_iter" and not (incremental or planner.is_planned):
            warn(
                f"Stochastic Optimizer: Maximum iterations ({settings.max_iter}) reached and "
                "the optimization hasn't converged yet.",
                ConvergenceWarning,
            )
        training.store_optimizer()
    except KeyboardInterrupt:
        warn("Training interrupted by user.")
        training.store_optimizer()
    except NonFiniteLossError as error:
        if training.best_parameters is None:
            raise
        warn(f"{error} The parameters that scored best are restored.", ConvergenceWarning)
        progress.end_epoch(nan, training.judge.failed(), n_rows, settings.tol, settings.ties)
        training.optimizer = None
    return training.result()


def run_epochs(training, planner, n_rows, most):
    """Train at least one epoch, and as many as `most` where nobody wants to know of each.

    Rows beyond the first `n_rows` of an epoch's order are left out.

    Returns
    -------
    goes_on : bool
        Whether to train more.
    """
    epochs = None
    if most > 1 and not training.is_followed:
        epochs = training.rows.epochs_ahead(training, planner, n_rows, most)
    if epochs is None:
        return run_epoch(training, planner, n_rows)
    progress, settings = training.progress, training.settings
    try:
        training.engine.train_epochs(training.data, training.order, epochs)
    finally:  # even after Ctrl-C
        training.optimizer.step += epochs.steps.made
        for loss in epochs.losses:
            check_loss(loss, training, planner)
            progress.end_epoch(loss, None, n_rows, settings.tol, settings.ties)
            planner.after_epoch(progress.n_samples_seen)
    return not has_converged(training, planner)


def check_loss(loss, training, planner):
    """Raise if the loss of an epoch is not finite."""
    if not isfinite(loss):
        raise NonFiniteLossError(
            f"The loss became {loss} in epoch {training.progress.n_iter + 1} "
            f"at learning rate {planner.last_rate:g}."
        )


def run_epoch(training, planner, n_rows):
    """Train one epoch and score it; return whether to go on.

    Rows beyond the first `n_rows` of the epoch's order are left out.
    """
    progress = training.progress
    started = time.perf_counter()
    for watcher in training.watchers:
        watcher.before_epoch()
    loss = train_pieces(training, training.rows.pieces(training, planner, n_rows))
    check_loss(loss, training, planner)
    judgement, rate = training.end_epoch(loss, n_rows), planner.last_rate
    planner.after_epoch(progress.n_samples_seen)
    asked_to_stop = training.report(judgement, n_rows, time.perf_counter() - started, rate)
    return not asked_to_stop and not has_converged(training, planner)


def has_converged(training, planner):
    """Decide after an epoch whether to stop; "adaptive" lowers the learning rate first."""
    settings, progress = training.settings, training.progress
    if planner.warms_up:  # what is slow at first counts for nothing
        progress.no_improvement_count = 0
    if progress.no_improvement_count <= settings.n_iter_no_change:
        return False
    if planner.is_planned and not progress.is_scored:
        return False  # a plateau of the loss ends with the rate that is still to come down
    slower = planner.reduce_on_plateau()
    if slower:
        progress.no_improvement_count = 0
    if settings.verbose:
        what = "Validation score" if progress.is_scored else "Training loss"
        if slower:
            verdict = f"Setting learning rate to {training.optimizer.learning_rate:f}"
        else:
            verdict = f"{'Learning rate too small. ' * planner.adapts}Stopping."
        print(
            f"{what} did not improve more than tol={settings.tol:f} for "
            f"{settings.n_iter_no_change} consecutive epochs. {verdict}"
        )
    return not slower


def clip_batch_size(batch_size, n_samples):
    """Resolve the `batch_size` parameter to rows per batch, at most all of them."""
    if batch_size == "auto":
        return min(200, n_samples)
    if batch_size > n_samples:
        warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped: "
            f"batch_size={batch_size}, {n_samples} rows."
        )
    return min(int(batch_size), n_samples)
