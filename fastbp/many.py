"""Training many networks on the same data at once: sweeps, ensembles and folds."""

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import Lock

import numpy as np
from sklearn import get_config
from sklearn.utils.validation import validate_data

from fastbp import parameters as params
from fastbp.base import BaseMLP
from fastbp.crew import work_off
from fastbp.data import Data
from fastbp.devices import TENSOR_CORE_PRECISIONS, resolve
from fastbp.training import Split, fit_stochastic, postponed_warnings, warn
from fastbp.validation import check_row_lists, check_sample_weight, check_training_data


def fit_many(
    estimators, X, y, sample_weight=None, *, rows=None, n_threads=None, device_shuffle=False
):
    """Fit many estimators to the same data, side by side.

    Each becomes the model that its own `fit` would have made of it: on the CPU to the bit, on a GPU
    to rounding. The networks are spread over the cores, one in each, the largest first: small
    networks, which a single fit cannot share out among the cores, then use all of them. X is
    checked once, and is not copied.

    Estimators with ``device="cuda"`` train on the GPU, all at once, each in one block of threads
    with its weights in shared memory. Those go one after the other that do not fit in there, have
    another precision than float32, sparse X, early stopping, a callback or solver='lbfgs'.

    Parameters
    ----------
    estimators : sequence of MLPClassifier and MLPRegressor
        Of any settings, each object once. They are fitted in place.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels to classifiers, numbers to regressors.
    sample_weight : array-like of shape (n_samples,), default=None
    rows : sequence, default=None
        For each estimator the rows to learn from: indices, which may repeat (a bootstrap), or a
        mask of n_samples booleans, or None for all. So ``rows[i]`` is as ``fit(X[rows[i]],
        y[rows[i]])``, but X is not copied, unless for solver='lbfgs'.
    n_threads : int or None, default=None
        Threads at most; None for the cores available. It does not change results.
    device_shuffle : bool, default=False
        Let the GPU shuffle the rows of the networks that train there at once, by `random_state`
        and repeatably, but in other orders than `fit` would take. To draw those is the CPU's work,
        and takes it longer than the GPU trains where networks are tiny and rows many.

    Returns
    -------
    estimators : list
        The same objects.

    Raises
    ------
    ValueError
        On X, y, sample weights, rows or parameters that make no sense; no estimator has changed.
    fastbp.training.NonFiniteLossError
        Where the loss of a network becomes NaN or infinite. This and whatever else ends one fit
        ends no other: all the others are trained, those that failed are as before, and the first
        one's error is raised then. Its notes name every estimator that failed.
    KeyboardInterrupt
        Ctrl-C ends the fits at work as it ends a single one, with a warning and what they have
        learned; it is raised where others had not begun, which stay as they were.

    Notes
    -----
    Warnings come from the calling thread when all is done. Callbacks are called, and lines of
    `verbose` printed, in the threads that train; a GPU's when its networks have ended. Estimators
    that share a RandomState instance are fitted one after the other, since each draws what the one
    before has left. With ``random_state=None`` they draw from NumPy's global state in any order.

    Examples
    --------
    A sweep over learning rates; and 5 folds, whose models score the rows that they have not seen:

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
    shared = _Shared.checked(estimators, X, y, sample_weight, rows)
    fits = [_Fit(estimator, index, shared) for index, estimator in enumerate(estimators)]
    queues, together = _in_order(fits)
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
        work_off(jobs, n_workers + bool(together and queues))
    except KeyboardInterrupt:
        for fit in fits:
            fit.warn()
        if any(fit.outcome is None for fit in fits):
            raise
    else:
        _report(fits)
    return estimators


def _check_estimators(estimators, n_threads):
    """Check everything that can be said without the data."""
    estimators = list(estimators)
    for index, estimator in enumerate(estimators):
        if not isinstance(estimator, BaseMLP):
            raise TypeError(
                f"estimators[{index}] must be an MLPClassifier or MLPRegressor of fastbp, got "
                f"{estimator!r}."
            )
        with _naming(index, estimator):
            if not get_config()["skip_parameter_validation"]:
                estimator._validate_params()
    if len({id(estimator) for estimator in estimators}) < len(estimators):
        raise ValueError(
            "estimators must be different objects, but one of them is there twice. Make copies "
            "by sklearn.base.clone."
        )
    if n_threads is not None and (not isinstance(n_threads, params.Integral) or n_threads < 1):
        raise ValueError(f"n_threads must be None or a whole number from 1, got {n_threads!r}.")
    return estimators


@contextlib.contextmanager
def _naming(index, estimator):
    """Add to an error which estimator it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"It is about estimators[{index}], {estimator!r}.")
        raise


@dataclass
class _Shared:
    """The data of all fits: checked once for each kind of y, labels encoded once for all alike.

    Parameters
    ----------
    raw : array-like or sparse matrix
        X as it was given, maybe with names.
    checked_data : dict
        Whether y is numbers -> X and y as `check_training_data` returns them.
    sample_weight : ndarray of shape (n_samples,) or None
    rows : list of ndarray or None
    """

    raw: object
    checked_data: dict
    sample_weight: np.ndarray | None
    rows: list
    encoded: dict = field(default_factory=dict)
    lock: object = field(default_factory=Lock)

    def __post_init__(self):
        self.uses = Counter(map(id, self.rows))

    @classmethod
    def checked(cls, estimators, X, y, sample_weight, rows):
        kinds = {estimator._numeric_targets: type(estimator) for estimator in estimators}
        data = {
            numeric: check_training_data(kind(), X, y, reset=True, numeric=numeric)
            for numeric, kind in kinds.items()
        }
        first = next(iter(data.values()))[0]
        weight = check_sample_weight(sample_weight, first)
        return cls(X, data, weight, check_row_lists(rows, len(estimators), first.shape[0]))

    def encode(self, estimator, index, y, dtype, goes_on):
        """Encode y, or take over what an estimator before made of the same."""
        rows = self.rows[index]
        key = type(estimator), estimator.loss, dtype, id(rows)
        with self.lock:
            if goes_on or (rows is not None and self.uses[id(rows)] == 1):
                return estimator._encode(y, dtype, goes_on, False, None)
            if key not in self.encoded:
                encoded = estimator._encode(y, dtype, goes_on, False, None)
                self.encoded[key] = encoded, getattr(estimator, "_labels", None)
            encoded, labels = self.encoded[key]
        if labels is not None:
            estimator._labels, estimator.classes_ = labels, labels.classes.copy()
        return encoded


class _Fit:
    """One estimator's fit and how it ended.

    `outcome` is None before it has ended, True when it succeeded, else the error.
    """

    def __init__(self, estimator, index, shared):
        self.estimator, self.index, self.shared = estimator, index, shared
        self.outcome, self.warnings = None, []
        self.before, self.goes_on = vars(estimator).copy(), estimator._goes_on()

    def prepare(self):
        """Check and draw all that comes before the first epoch.

        Returns
        -------
        network : Network
        training : Training
        """
        estimator, shared, rows = self.estimator, self.shared, self.shared.rows[self.index]
        goes_on, device = self.goes_on, estimator._choose_device()
        validate_data(estimator, shared.raw, reset=not goes_on, skip_check_array=True)
        X, y = shared.checked_data[estimator._numeric_targets]
        weight = shared.sample_weight
        if rows is not None:
            y, weight = y[rows], None if weight is None else weight[rows]
            weight = check_sample_weight(weight, y)
        dtype = estimator._choose_dtype(X, goes_on, device)
        targets, n_outputs = shared.encode(estimator, self.index, y, dtype, goes_on)
        network = estimator._describe_network(X.shape[1], n_outputs)
        indexed = rows is not None and estimator.solver != "lbfgs"
        if indexed:  # the draws need no more of X than its shape
            chosen = np.broadcast_to(np.uint8(0), (len(rows), X.shape[1]))
        else:
            chosen = X if rows is None else X[rows]
        data = Data(chosen, targets, weight, float(estimator.input_scale))
        training = estimator._begin(network, data, dtype, goes_on)
        if indexed:
            _spread(training, X, rows)
        return network, training

    def train(self, prepared, n_threads):
        """Train in this thread, in so many more at most."""
        limit = self.estimator.n_threads
        if n_threads is not None:
            limit = n_threads if limit is None else min(limit, n_threads)
        self.estimator._train(*prepared, limit, self.goes_on)
        self.outcome = True

    @contextlib.contextmanager
    def attempt(self):
        """Note warnings and errors; where there is one, the estimator is as before."""
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

    def fail(self, error):
        """Put all attributes back."""
        vars(self.estimator).clear()
        vars(self.estimator).update(self.before)
        self.outcome = error

    def warn(self):
        """Give the warnings out; where the user makes them errors, the fit has failed."""
        try:
            for message, category in self.warnings:
                warn(message, category)
        except Warning as error:
            self.fail(error)

    @property
    def work(self):
        """About how long it takes, to have the longest ones begin first."""
        X, _ = self.shared.checked_data[self.estimator._numeric_targets]
        rows = self.shared.rows[self.index]
        with contextlib.suppress(ValueError):  # said when its turn has come
            sizes = X.shape[1], *params.hidden_sizes(self.estimator.hidden_layer_sizes), 1
            products = sum(a * b for a, b in pairwise(sizes))
            n_rows = X.shape[0] if rows is None else len(rows)
            return products * n_rows * self.estimator.max_iter
        return 0


def _spread(training, X, rows):
    """Let a training that was begun for some rows of X run over X itself."""
    data, split = training.data, training.split

    def spread(values):
        if values is None:
            return None
        spread = np.zeros((X.shape[0], *values.shape[1:]), values.dtype)
        spread[rows] = values
        return spread

    training.data = Data(X, spread(data.targets), spread(data.sample_weight), data.input_scale)
    held_out = None if split.validation is None else rows[split.validation]
    training.split = Split(rows[split.train], held_out, split.score)


def _in_order(fits):
    """Sort out who goes with whom.

    Returns
    -------
    queues : list of lists of fits
        Those in a queue share a source of random numbers; the longest queue comes first.
    together : list of fits
        To be trained at once on the GPU.
    """
    by_source = {}
    for fit in fits:
        source = fit.estimator.random_state
        key = id(source) if isinstance(source, np.random.RandomState) else id(fit)
        by_source.setdefault(key, []).append(fit)
    queues, together = [], []
    for queue in by_source.values():
        if len(queue) == 1 and _is_for_gpu(queue[0].estimator):
            together += queue
        else:
            queues.append(queue)
    return sorted(queues, key=lambda queue: -sum(fit.work for fit in queue)), together


def _is_for_gpu(estimator):
    try:
        return resolve(estimator.device)[0] == "cuda"
    except RuntimeError:  # no GPU: its fit will say so
        return False


def _share_threads(n_threads, n_queues):
    """How many threads work at once, and at most how many of their own each fit may have.

    Left to themselves the engines at work share the cores, so the last ones have more of them.
    """
    from fastbp.cpu.engine import available_threads

    n_workers = min(n_queues, n_threads or available_threads())
    return n_workers, None if n_threads is None else max(1, n_threads // n_workers)


def _run(queue, n_threads):
    """Fit one after the other in this thread."""
    for fit in queue:
        with fit.attempt():
            fit.train(fit.prepare(), n_threads)


def _train_on_gpu(fits, device_shuffle):
    """Train at once what fits into a block for each, and the others one after the other."""
    from fastbp.cuda.device import Device
    from fastbp.cuda.small.fits import plan_for, train_together

    device, small, others = None, [], []
    try:
        for fit in fits:
            with fit.attempt():
                device = device or Device()
                begun = fit.prepare()
                is_single = fit.estimator.precision not in TENSOR_CORE_PRECISIONS
                plan = plan_for(*begun, device) if is_single else None
                (others if plan is None else small).append((fit, begun, plan))
        states = [training.random_state.get_state() for _, (_, training), _ in small]
        try:
            trained = train_together(
                device, [(*begun, plan) for _, begun, plan in small], device_shuffle
            )
        except Exception as error:  # of the device: it has failed all of them
            trained = []
            for fit, _, _ in small:
                fit.fail(error)
        for (fit, begun, _), training, state in zip(small, trained, states, strict=False):
            with fit.attempt():
                _keep(fit, begun, training, state, device_shuffle)
        for fit, begun, _ in others:
            with fit.attempt():
                fit.train(begun, None)
    finally:
        for fit in fits:
            if fit.outcome is None:
                fit.fail(None)


def _keep(fit, begun, training, state, device_shuffle):
    """Go through the epochs that the device has trained, and keep what they come to."""
    estimator, (network, original) = fit.estimator, begun
    parameters = fit_stochastic(training, goes_on=fit.goes_on)
    source = original.random_state
    if source is estimator.random_state and original.settings.shuffle and not device_shuffle:
        # The user's own: orders were drawn ahead of the last epoch.
        source.set_state(state)
        rows = np.empty(len(original.split.train))
        for _ in range(training.progress.n_iter):
            source.shuffle(rows)
    estimator._keep(network, parameters, training, False)
    fit.outcome = True


def _report(fits):
    """Warn of everything, in the order of the estimators, and raise what went wrong first."""
    for fit in fits:
        fit.warn()
    failed = [fit for fit in fits if isinstance(fit.outcome, BaseException)]
    if not failed:
        return
    first = failed[0].outcome
    names = ", ".join(f"estimators[{fit.index}]" for fit in failed)
    first.add_note(
        f"It is about estimators[{failed[0].index}], {failed[0].estimator!r}. Failed and left as "
        f"before: {names}; all others are fitted."
    )
    raise first
