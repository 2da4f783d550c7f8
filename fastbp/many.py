"""Training many networks on the same data at once: sweeps, ensembles and cross-validation."""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sklearn import get_config
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import parameters as params
from fastbp.base import BaseMLP
from fastbp.callbacks import managed_callbacks
from fastbp.devices import resolve
from fastbp.fitting import Fit
from fastbp.judging import OwnRows
from fastbp.precisions import LOW_PRECISIONS
from fastbp.progress_line import line_of_fits
from fastbp.shared_data import Shared, SharedData
from fastbp.threads import available_threads, cores_at_hand, run_jobs
from fastbp.warned import postponed_warnings, warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeVar

    from numpy.typing import ArrayLike

    from fastbp.hints import ArrayLikeOrSparse

    Estimator = TypeVar("Estimator", bound=BaseMLP)


def fit_many(
    estimators: Iterable[Estimator],
    X: ArrayLikeOrSparse,
    y: ArrayLikeOrSparse,
    sample_weight: ArrayLike | None = None,
    *,
    rows: Sequence[ArrayLike | None] | None = None,
    n_threads: int | None = None,
    device_shuffle: bool = False,
    X_val: ArrayLikeOrSparse | None = None,
    y_val: ArrayLikeOrSparse | None = None,
    sample_weight_val: ArrayLike | None = None,
) -> list[Estimator]:
    """Fit many estimators to the same data, side by side.

    Each becomes the model that its own `fit` would have made: on the CPU to the bit, on a GPU to
    rounding. Each core trains one network at a time, the largest first, so that small networks,
    for which a single fit can use only one core, use all of them. X is checked once and is not
    copied.

    Estimators with ``device="cuda"`` train on the GPU, all at once, each in one block of threads
    with its weights in shared memory. Networks that are too large for that are trained one after
    the other, as are those with another precision than float32, sparse X, validation rows,
    callbacks, solver='lbfgs', an activation whose derivative needs more than its output ('gelu',
    'silu', 'mish'), dropout, `max_grad_norm`, `ema_decay`, `drop_last`, a `warmup`, or a
    learning rate that is 'adaptive' or a plan (such as 'cosine' or a function).

    Parameters
    ----------
    estimators : sequence of MLPClassifier and MLPRegressor
        Their parameters may differ. Each object may occur once; it is fitted in place.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels for classifiers, numbers for regressors.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, at least 0.
    rows : sequence, default=None
        For each estimator the rows to train on: indices, which may repeat (a bootstrap), a mask of
        n_samples booleans, or None for all rows. Estimator i is trained as by ``fit(X[rows[i]],
        y[rows[i]])``, but X is not copied, except for solver='lbfgs'.
    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores. Results do not depend on it.
    device_shuffle : bool, default=False
        Whether the GPU shuffles the rows of the networks that it trains at once. The orders depend
        on `random_state` and are repeatable, but differ from those of `fit`, which the CPU draws.
    X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
        Validation rows for all estimators, as in their `fit`.
    y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
        Their labels or numbers.
    sample_weight_val : array-like of shape (n_val,), default=None
        Their weights.

    Returns
    -------
    estimators : list
        The same objects.

    Raises
    ------
    ValueError
        If X, y, sample weights, rows or parameters are invalid; no estimator is changed.
    fastbp.training.NonFiniteLossError
        If the loss of a network becomes NaN or infinite. An error in one fit does not end the
        others: they are all trained, the estimators that failed stay unchanged, and then the first
        error is raised. Its notes name every estimator that failed.
    KeyboardInterrupt
        Ctrl-C ends the running fits as it ends a single one, with a warning and a usable model. It
        is raised if other fits had not begun; those estimators stay unchanged.

    Notes
    -----
    Warnings are issued by the calling thread at the end. Callbacks are called and lines of
    `verbose` printed by the threads that train, for a GPU when its networks have ended. With
    ``verbose="progress"`` one line counts the fits of all estimators that have it. Estimators
    that share a RandomState instance are fitted one after the other, because each draws from the
    state that the previous one left. With ``random_state=None`` they draw from NumPy's global state
    in any order.

    Examples
    --------
    A sweep over learning rates, and 5 folds with the score of each on the rows left out:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import StratifiedKFold
    >>> from fastbp import MLPClassifier, fit_many
    >>> X, y = load_iris(return_X_y=True)
    >>> settings = dict(hidden_layer_sizes=(10,), max_iter=300, tol=1e-3, random_state=0)
    >>> rates = 0.003, 0.01, 0.03
    >>> sweep = [MLPClassifier(**settings, learning_rate_init=rate) for rate in rates]
    >>> [model.score(X, y) > 0.9 for model in fit_many(sweep, X, y)]
    [True, True, True]
    >>> folds = list(StratifiedKFold(5).split(X, y))
    >>> models = [MLPClassifier(**settings, learning_rate_init=0.03) for _ in folds]
    >>> models = fit_many(models, X, y, rows=[train for train, _ in folds])
    >>> scores = [m.score(X[test], y[test]) for m, (_, test) in zip(models, folds)]
    >>> len(scores), min(scores) > 0.8
    (5, True)
    """
    estimators = _check_estimators(estimators, n_threads)
    if not estimators:
        return estimators
    own = OwnRows.of(X_val, y_val, sample_weight_val)
    shared = Shared.checked(estimators, X, y, sample_weight, rows, own)
    members = [_Member(estimator, index, shared) for index, estimator in enumerate(estimators)]
    queues, together = _group(members)
    if device_shuffle and not together:
        raise ValueError(
            "device_shuffle=True is for estimators that train on a GPU (device='cuda'); none does. "
            "Use device_shuffle=False."
        )
    n_workers, share = _share_threads(n_threads, max(1, len(queues)))
    jobs = [partial(_run, queue, share) for queue in queues]
    if together:
        jobs.insert(0, partial(_train_on_gpu, together, device_shuffle))
    try:
        with line_of_fits(members):
            run_jobs(jobs, n_workers + bool(together and queues))
    except KeyboardInterrupt:
        for member in members:
            member.warn()
        if any(member.outcome is None for member in members):
            raise
    else:
        _report(members)
    return estimators


def _check_estimators(estimators, n_threads):
    """Check everything that does not depend on the data."""
    estimators = list(estimators)
    for index, estimator in enumerate(estimators):
        if not isinstance(estimator, BaseMLP):
            raise TypeError(
                f"estimators[{index}] must be an MLPClassifier or MLPRegressor of fastbp, got "
                f"{estimator!r}."
            )
        with _naming(index, estimator):
            if estimator.checkpoint is not None:
                raise InvalidParameterError(
                    f"checkpoint={estimator.checkpoint!r} is for a single fit; fit_many trains "
                    "many. Set checkpoint=None, or call the estimator's fit."
                )
            if not get_config()["skip_parameter_validation"]:
                estimator._validate_params()
    if len({id(estimator) for estimator in estimators}) < len(estimators):
        raise ValueError(
            "estimators must be different objects, but one of them is there twice. Make copies "
            "by sklearn.base.clone."
        )
    if n_threads is not None and (not isinstance(n_threads, Integral) or n_threads < 1):
        raise ValueError(f"n_threads must be None or a whole number from 1, got {n_threads!r}.")
    return estimators


@contextlib.contextmanager
def _naming(index, estimator):
    """Add to an error a note of which estimator it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"It is about estimators[{index}], {estimator!r}.")
        raise


class _Member:
    """One of the estimators to be fitted, and how its fit ended.

    `outcome` is None before the end, True after success, and otherwise the error.
    """

    def __init__(self, estimator, index, shared):
        self.estimator, self.index = estimator, index
        self.data = SharedData(shared, index)
        self.fit, self.outcome, self.warnings = Fit(estimator, shows_progress=False), None, []
        self.after = None  # called when it has ended, in whatever way

    def prepare(self):
        """Check the data, and draw all random numbers needed before the first epoch."""
        self.fit.prepare(self.data)

    def train(self, n_threads):
        """Train in this thread, with at most `n_threads` in all, and keep the result."""
        limit = self.estimator.n_threads
        if n_threads is not None:
            limit = n_threads if limit is None else min(limit, n_threads)
        self.fit.train(limit)
        self.keep()

    def keep(self):
        """Set the fitted attributes from the result."""
        self.fit.keep()
        self.outcome = True

    @contextlib.contextmanager
    def attempt(self):
        """Collect warnings and errors; an error leaves the estimator as it was."""
        token = postponed_warnings.set(self.warnings)
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):  # Ctrl-C
                self.outcome = None
                raise
        finally:
            postponed_warnings.reset(token)
            if self.outcome is not None and self.after is not None:
                self.after()

    def fail(self, error):
        """Restore all attributes, and record the error."""
        self.fit.undo()
        self.outcome = error

    def warn(self):
        """Issue the warnings; where the user turns them into errors, the fit has failed."""
        try:
            for message, category in self.warnings:
                warn(message, category)
        except Warning as error:
            self.fail(error)

    @property
    def work(self):
        """A rough estimate of the time it takes, as the longest fits begin first."""
        n_samples, n_features = self.data.shared.shape
        with contextlib.suppress(ValueError):  # its fit will raise it
            sizes = n_features, *params.hidden_sizes(self.estimator.hidden_layer_sizes), 1
            products = sum(a * b for a, b in pairwise(sizes))
            n_rows = n_samples if self.data.rows is None else len(self.data.rows)
            return products * n_rows * self.estimator.max_iter
        return 0


def _group(members):
    """Queue the fits that share a source of random numbers; put the GPU's together.

    Returns
    -------
    queues : list of lists of _Member
        The longest comes first.
    together : list of _Member
        To be trained at once on the GPU.
    """
    by_source = {}
    for member in members:
        source = member.estimator.random_state
        key = id(source) if isinstance(source, np.random.RandomState) else id(member)
        by_source.setdefault(key, []).append(member)
    queues, together = [], []
    for queue in by_source.values():
        if len(queue) == 1 and _is_for_gpu(queue[0].estimator):
            together += queue
        else:
            queues.append(queue)
    return sorted(queues, key=lambda queue: -sum(member.work for member in queue)), together


def _is_for_gpu(estimator):
    try:
        return resolve(estimator.device)[0] == "cuda"
    except RuntimeError:  # no GPU: its fit will say so
        return False


def _share_threads(n_threads, n_queues):
    """The number of fits that run at once, and the most threads that each may use, or None.

    Without a limit the engines share the cores, and the last fits get more of them.
    """
    at_most = available_threads() if n_threads is None else min(n_threads, cores_at_hand())
    n_workers = min(n_queues, at_most)
    return n_workers, None if n_threads is None else max(1, n_threads // n_workers)


def _run(queue, n_threads):
    """Fit a queue's estimators one after another in this thread."""
    for member in queue:
        with member.attempt(), managed_callbacks(member.estimator):
            member.prepare()
            member.train(n_threads)


def _train_on_gpu(members, device_shuffle):
    """Train at once what fits into a block for each, and the others one after the other."""
    from fastbp.cuda.device import Device
    from fastbp.cuda.small.fits import plan_for, train_together

    device, small, others = None, [], []
    managed = contextlib.ExitStack()
    try:
        for member in members:
            managed.enter_context(managed_callbacks(member.estimator))
            with member.attempt():
                device = device or Device()
                member.prepare()
                is_single = member.estimator.precision not in LOW_PRECISIONS
                fit = member.fit
                plan = plan_for(fit.network, fit.training, device) if is_single else None
                (others if plan is None else small).append((member, plan))
        if small and not _is_small_trusted(device, small[0][0]):
            # One that the trial has failed is as before, and cannot go on.
            others = [each for each in (*small, *others) if each[0].outcome is None]
            small = []
        states = [member.fit.training.random_state.get_state() for member, _ in small]
        begun = [(member.fit.network, member.fit.training, plan) for member, plan in small]
        try:
            trained = train_together(device, begun, device_shuffle) if begun else []
        except Exception as error:  # the device's: all of them have failed
            trained = []
            for member, _ in small:
                member.fail(error)
        for (member, _), training, state in zip(small, trained, states, strict=False):
            with member.attempt():
                _replay(member, training, state, device_shuffle)
        for member, _ in others:
            with member.attempt():
                member.train(None)
    finally:
        managed.close()
        for member in members:
            if member.outcome is None:
                member.fail(None)


def _is_small_trusted(device, member):
    """Whether the GPU's program for many small networks may be used; one like this is tried."""
    from fastbp.cuda.proof import trusts_small

    with member.attempt():
        return trusts_small(device, member.fit.network, member.fit.training)
    return False


def _replay(member, training, state, device_shuffle):
    """Replay the epochs that the device has trained, and keep their result."""
    original = member.fit.training
    member.fit.run(training)
    source = original.random_state
    if source is member.estimator.random_state and original.settings.shuffle and not device_shuffle:
        # The user's own: orders were drawn past the last epoch.
        source.set_state(state)
        rows = np.empty(len(original.split.train))
        for _ in range(training.progress.n_iter):
            source.shuffle(rows)
    member.keep()


def _report(members):
    """Issue all warnings in the order of the estimators, and raise the first error."""
    for member in members:
        member.warn()
    failed = [member for member in members if isinstance(member.outcome, BaseException)]
    if not failed:
        return
    first = failed[0].outcome
    names = ", ".join(f"estimators[{member.index}]" for member in failed)
    first.add_note(
        f"It is about estimators[{failed[0].index}], {failed[0].estimator!r}. Failed and left as "
        f"before: {names}; all others are fitted."
    )
    raise first
