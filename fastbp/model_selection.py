"""Searches for the best parameters, whose networks are trained at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from joblib import parallel_config
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
)
from sklearn.pipeline import Pipeline

from fastbp.base import BaseMLP
from fastbp.data import is_source
from fastbp.evaluations import Together, evaluate
from fastbp.late import imported
from fastbp.many import check_n_threads
from fastbp.row_files import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeAlias

    from numpy.typing import ArrayLike

    from fastbp.hints import ArrayLikeOrSparse, Path, RandomSource, Scoring

    Choices: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]
    Search: TypeAlias = Any  # scikit-learn has no hints

__all__ = ["search_many"]


def search_many(
    estimator: BaseMLP | Pipeline,
    grid_or_distributions: Choices,
    X: ArrayLikeOrSparse | Path,
    y: ArrayLikeOrSparse | Path,
    *,
    cv: Any = None,
    scoring: Scoring | Callable[..., dict[str, float]] = None,
    n_iter: int | None = None,
    halving: bool | Mapping[str, Any] = False,
    random_state: RandomSource = None,
    refit: bool | str | Callable[[dict[str, Any]], int] = True,
    error_score: float | Literal["raise"] = np.nan,
    return_train_score: bool = False,
    n_threads: int | None = None,
    client: Any = None,
    **fit_params: ArrayLike | None,
) -> Search:
    """Search for the best parameters as scikit-learn does, with all networks trained at once.

    The search is scikit-learn's own, with its candidates, splits, scores and results; only its fits
    are trained side by side, as by `fit_many`, and each network is scored in the thread that has
    trained it. The scores are those of `GridSearchCV` and its relatives, to the bit.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or Pipeline
        A pipeline ends with one of these. Its transformers are fitted for each split on the rows to
        learn from, once for all candidates that have the same ones: those that draw random numbers
        with ``random_state=None`` draw once for these. Candidates that replace the network by
        something else are fitted one after the other.
    grid_or_distributions : dict or list of dict
        Parameters to try, as for `GridSearchCV`; with `n_iter`, or if one of the values is a
        distribution (has a method `rvs`), as for `RandomizedSearchCV`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Or the path of a ``.npy`` file, as y.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    cv : int, splitter or iterable, default=None
        As for `GridSearchCV`: None for 5 folds.
    scoring : str, callable, list, tuple or dict, default=None
        As for `GridSearchCV`: None for the estimator's `score`. With several metrics `refit` names
        the one that decides.
    n_iter : int or None, default=None
        Number of candidates drawn from distributions; None for 10, or in a grid all.
    halving : bool or dict, default=False
        Whether all candidates begin with few rows, and the better third goes on with three times as
        many: `HalvingGridSearchCV` or `HalvingRandomSearchCV`. A dict has their parameters
        `resource`, `factor`, `min_resources`, `max_resources`, `aggressive_elimination`; with
        ``{"resource": "max_iter", "max_resources": 81}`` it is epochs that they begin with few of,
        and each round trains anew.
    random_state : int, RandomState instance or None, default=None
        Draws from distributions, and the rows of `halving`.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all rows, as for `GridSearchCV`. The fit uses all
        cores.
    error_score : "raise" or float, default=nan
        The score of a fit that fails. "raise" raises its error when all fits have ended.
    return_train_score : bool, default=False
        Whether to score the rows to learn from, too.
    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores. Scores do not depend on it.
    client : dask.distributed.Client or None, default=None
        Train and score on its cluster, in tasks of half a second to ten seconds, with `n_threads`
        each; the best candidate is fitted here. X and y are sent to the workers once, or opened by
        them if they are paths. A worker that is lost costs its tasks, which others repeat.
    **fit_params
        As for the `fit` of `GridSearchCV`: `groups` for the splitter, `sample_weight` (in a
        pipeline, ``"name__sample_weight"``), and validation rows, which all fits share.

    Returns
    -------
    search : GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV or HalvingRandomSearchCV
        Fitted: `cv_results_`, `best_params_`, `best_score_`, `best_index_`, `best_estimator_`, and
        it predicts. `mean_fit_time` is the time that the thread of a fit took.

    Raises
    ------
    TypeError
        If the estimator is none of these.
    ValueError
        If the arguments are invalid, or if all fits fail.
    KeyboardInterrupt
        After Ctrl-C, when the running fits have ended.

    See Also
    --------
    fastbp.fit_many : The same for estimators of your own making.

    Notes
    -----
    Fits with `checkpoint`, with scikit-learn's callbacks or with other arguments than those above
    are made one after the other, as scikit-learn makes them.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((10,), max_iter=300, tol=1e-3, random_state=0)
    >>> search = search_many(model, {"learning_rate_init": [1e-4, 1e-3, 1e-2]}, X, y)
    >>> search.best_params_, bool(search.best_score_ > 0.9)
    ({'learning_rate_init': 0.01}, True)
    >>> len(search.cv_results_["split4_test_score"]), search.predict(X[:2]).tolist()
    (3, [0, 0])
    """
    _check_estimator(estimator)
    if is_source(X):
        raise TypeError(
            "X must be an array or the path of a .npy file, got a source of rows: a search splits "
            "rows by number, and a source reads blocks. Give source.load(), if that fits into "
            "memory, or fit candidates by fastbp.fit_many(estimators, source, X_val=..., "
            "y_val=...)."
        )
    check_n_threads(n_threads)
    search = _make_search(estimator, grid_or_distributions, n_iter, halving, random_state)
    search.set_params(
        cv=search.cv if cv is None else cv, scoring=scoring, refit=refit,
        error_score=error_score, return_train_score=return_train_score, n_jobs=Together.n_jobs,
    )  # fmt: skip
    run = partial(evaluate, n_threads=n_threads)
    if client is not None:
        imported("fastbp.clusters").check_client(client)
        network = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
        imported("fastbp.remote_fits").check_sendable(network, "estimator")
        run = imported("fastbp.remote_fits").RemoteEvaluations(client, n_threads, (X, y))
    dispatched, search.pre_dispatch = search.pre_dispatch, "all"
    try:
        with parallel_config(Together(run)):
            search.fit(opened(X), opened(y), **fit_params)
    finally:
        search.n_jobs, search.pre_dispatch = None, dispatched
    return search


def _check_estimator(estimator):
    network = estimator.steps[-1][1] if type(estimator) is Pipeline else estimator
    if not isinstance(network, BaseMLP):
        raise TypeError(
            "estimator must be an MLPClassifier or MLPRegressor of fastbp, or a scikit-learn "
            f"Pipeline that ends with one, got {estimator!r}. Search others by scikit-learn's "
            "GridSearchCV."
        )


def _make_search(estimator, choices, n_iter, halving, random_state):
    """The search of scikit-learn's that is meant."""
    if not isinstance(halving, bool | np.bool_ | Mapping):
        raise TypeError(f"halving must be True, False or a dict of parameters, got {halving!r}.")
    given = [choices] if isinstance(choices, Mapping) else choices
    is_text = isinstance(given, str | bytes)
    if is_text or not isinstance(given, Sequence) or not all(isinstance(g, Mapping) for g in given):
        raise TypeError(
            "grid_or_distributions must be a dict of parameters and the values to try, such as "
            f"{{'alpha': [1e-4, 1e-2]}}, or a list of such, got {choices!r}."
        )
    draws = n_iter is not None or any(
        hasattr(values, "rvs") for each in given for values in each.values()
    )
    if not isinstance(halving, Mapping) and not halving:
        if not draws:
            return GridSearchCV(estimator, choices)
        return RandomizedSearchCV(
            estimator, choices, n_iter=10 if n_iter is None else n_iter, random_state=random_state
        )
    options = {"random_state": random_state, **(halving if isinstance(halving, Mapping) else {})}
    if not draws:
        return HalvingGridSearchCV(estimator, choices, **options)
    if n_iter is not None:
        options["n_candidates"] = n_iter
    return HalvingRandomSearchCV(estimator, choices, **options)
