"""Training many networks on the same data at once: sweeps, ensembles and cross-validation."""

from __future__ import annotations

import contextlib
from numbers import Integral
from typing import TYPE_CHECKING

from sklearn import get_config
from sklearn.utils._param_validation import InvalidParameterError

from fastbp.base import BaseMLP
from fastbp.data import is_source
from fastbp.judging import OwnRows
from fastbp.late import imported
from fastbp.row_files import opened
from fastbp.shared_data import Shared
from fastbp.side_by_side import members_of, train

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TypeVar

    from numpy.typing import ArrayLike

    from fastbp.hints import ArrayLikeOrSparse, Path
    from fastbp.sources import Source

    Estimator = TypeVar("Estimator", bound=BaseMLP)


def fit_many(
    estimators: Iterable[Estimator],
    X: ArrayLikeOrSparse | Path | Source,
    y: ArrayLikeOrSparse | Path | None = None,
    sample_weight: ArrayLike | Path | None = None,
    *,
    rows: Sequence[ArrayLike | None] | None = None,
    n_threads: int | None = None,
    device_shuffle: bool = False,
    X_val: ArrayLikeOrSparse | None = None,
    y_val: ArrayLikeOrSparse | None = None,
    sample_weight_val: ArrayLike | None = None,
    client: Any = None,
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
        Or the path of a ``.npy`` file, as y and `sample_weight`. Or a source of rows beyond memory,
        see `fastbp.sources`, from which each running fit reads by itself: at most `n_threads` at
        once, each with two buffers and a thread that reads.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Labels for classifiers, numbers for regressors. A source has its own y and sample weights.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, at least 0.
    rows : sequence, default=None
        For each estimator the rows to train on: indices, which may repeat (a bootstrap), a mask of
        n_samples booleans, or None for all rows. Estimator i is trained as by ``fit(X[rows[i]],
        y[rows[i]])``, but X is not copied, except for solver='lbfgs'. Not for sources.
    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores, of which there are never fewer
        than threads. Results do not depend on it.
    device_shuffle : bool, default=False
        Whether the GPU shuffles the rows of the networks that it trains at once. The orders depend
        on `random_state` and are repeatable, but differ from those of `fit`, which the CPU draws.
    X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
        Validation rows for all estimators, as in their `fit`.
    y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
        Their labels or numbers.
    sample_weight_val : array-like of shape (n_val,), default=None
        Their weights.
    client : dask.distributed.Client or None, default=None
        Train on its cluster, in tasks of half a second to ten seconds; `n_threads` is then the
        maximum of each task. X, y and weights are sent to the workers once; a path of X, or a
        source, is opened by each of them. Models are the same to the bit as here, if the CPUs are
        of one kind. A worker that is lost costs its tasks, which others repeat. Callbacks are
        refused.

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
    fastbp.clusters.NoWorkersError
        If the cluster of `client` has no workers for a minute.
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
    if client is not None:
        imported("fastbp.clusters").check_client(client)
        if device_shuffle:
            raise ValueError("device_shuffle=True is for a GPU here: use it without a client.")
    if not estimators:
        return estimators
    given = X, y, sample_weight
    own = OwnRows.of(X_val, y_val, sample_weight_val)
    if is_source(X):
        of_source = imported("fastbp.sources.shared").SharedSource.of
        shared = of_source(estimators, X, y, sample_weight, rows, own)
    else:
        shared = Shared.checked(estimators, *map(opened, given), rows, own)
    members = members_of(estimators, shared)
    try:
        if client is None:
            train(members, n_threads, device_shuffle)
        else:
            remote_fits = imported("fastbp.remote_fits")
            remote_fits.fit_members(client, members, shared, given, own, n_threads)
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
        if estimator._is_on_cluster:
            raise TypeError(
                f"estimators[{index}] is of fastbp.dask, which trains one network on a whole "
                "cluster. Give its ordinary estimator, as from to_local(), and client= to fit_many."
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
    check_n_threads(n_threads)
    return estimators


def check_n_threads(n_threads):
    """Raise unless it is None or a whole number from 1."""
    if n_threads is not None and (not isinstance(n_threads, Integral) or n_threads < 1):
        raise ValueError(f"n_threads must be None or a whole number from 1, got {n_threads!r}.")


@contextlib.contextmanager
def _naming(index, estimator):
    """Add to an error a note of which estimator it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"It is about estimators[{index}], {estimator!r}.")
        raise


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
