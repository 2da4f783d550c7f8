"""The fits of scikit-learn's searches, trained at once: a backend of joblib for `search_many`.

A search asks joblib to run `_fit_and_score` for each candidate and split. Here all networks are
trained first, side by side, and each is scored by that function as soon as it is fitted: splits,
scores, failures and the layout of the results are scikit-learn's own.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from numbers import Number
from threading import Lock

import joblib
import numpy as np
from joblib.parallel import FallbackToBackend, ParallelBackendBase
from sklearn.base import clone
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _score as score_of
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split

from fastbp.base import BaseMLP
from fastbp.callbacks import has_callbacks
from fastbp.judging import OwnRows
from fastbp.shared_data import Shared
from fastbp.side_by_side import Member, members_of, train, work_of
from fastbp.warned import warn

# Arguments of `fit` that all fits may share.
_OF_ALL = "sample_weight", "X_val", "y_val", "sample_weight_val"


class Together(ParallelBackendBase):
    """A backend of joblib that runs all calls of one `Parallel` at once, when they have been given.

    Parameters
    ----------
    run : callable
        From a list of (function, arguments, named arguments) to the list of what they return.
    """

    supports_retrieve_callback = False
    supports_sharedmem = True
    uses_threads = True
    n_jobs = 2  # joblib calls no backend for a single job; the number means nothing else

    def __init__(self, run):
        super().__init__(nesting_level=0)
        self.run, self.jobs, self.parallel = run, [], None

    def effective_n_jobs(self, n_jobs):
        """The number that lets joblib come here."""
        return self.n_jobs

    def configure(self, n_jobs=1, parallel=None, **others):
        """Take the search's own calls; those of a transformer in its refit go to joblib's."""
        if self.parallel not in (None, parallel):
            raise FallbackToBackend(joblib.parallel.BACKENDS["loky"](nesting_level=0))
        self.parallel = parallel
        return self.n_jobs

    def submit(self, func, callback=None):
        """Keep a batch of calls for later."""
        self.jobs.append(_Job(func.items, callback))
        return self.jobs[-1]

    apply_async = submit  # as joblib before 1.5 calls it

    @contextlib.contextmanager
    def retrieval_context(self):
        """Run what has been kept: joblib enters this before it asks for the first result."""
        jobs, self.jobs = self.jobs, []
        results = iter(self.run([call for job in jobs for call in job.calls]))
        for job in jobs:
            job.results = [next(results) for _ in job.calls]
            job.callback(None)
        yield


class _Job:
    """A batch of calls."""

    def __init__(self, calls, callback):
        self.calls, self.callback, self.results = calls, callback, None

    def get(self, timeout=None):
        """What they have returned."""
        return self.results


class Evaluation:
    """One candidate on one split: a call of scikit-learn's `_fit_and_score`.

    Parameters
    ----------
    call : tuple
        (function, arguments, named arguments), as joblib is given it.

    Attributes
    ----------
    result : dict or None
        What `_fit_and_score` has returned.
    error : Exception or None
        What it has raised.
    warnings : list of (str or Warning, type)
        Of the fit.
    """

    def __init__(self, call):
        self.function, (self.estimator, self.X, self.y), self.named = call
        self.result, self.error, self.warnings = None, None, []
        if self.named["parameters"]:
            parameters = clone(self.named["parameters"], safe=False)
            self.estimator.set_params(**parameters)

    @property
    def network(self):
        """The estimator that is a network, or what a candidate has in its place."""
        return self.steps[-1][1]

    @property
    def steps(self):
        """Of the pipeline; one without a name of an estimator alone."""
        return getattr(self.estimator, "steps", [(None, self.estimator)])

    @property
    def work(self):
        """As of `Member`."""
        network = self.network
        if not isinstance(network, BaseMLP):
            return 0
        n_columns = self.X.shape[1] if len(getattr(self.X, "shape", ())) == 2 else 1
        return work_of(network, len(self.named["train"]), n_columns)

    def shared_arguments(self):
        """The arguments of `fit` by the names that the network has for them, or None.

        None where this fit must be called by itself.
        """
        network, is_pipeline = self.network, isinstance(self.estimator, Pipeline)
        if (
            not isinstance(network, BaseMLP)
            or network.checkpoint is not None
            or has_callbacks(network)
            or getattr(self.estimator, "transform_input", None)
        ):
            return None
        try:
            network._validate_params()
        except ValueError:  # its fit will raise it
            return None
        given = self.named["fit_params"] or {}
        prefix = f"{self.steps[-1][0]}__" if is_pipeline else ""
        allowed = [prefix + name for name in (_OF_ALL[:1] if is_pipeline else _OF_ALL)]
        if any(name not in allowed for name in given):
            return None
        return {name.removeprefix(prefix): value for name, value in given.items()}

    def group(self):
        """What tells apart the data that networks learn from: one key, one X."""
        if not isinstance(self.estimator, Pipeline):
            return None
        try:
            return id(self.named["train"]), joblib.hash(self.steps[:-1])
        except Exception:  # a lambda, or what else cannot be pickled
            return id(self)

    def score(self, error, seconds, steps=None):
        """Score the fitted estimator, or let its error count as scikit-learn's search has it.

        Parameters
        ----------
        error : Exception or None
            That its fit has raised.
        seconds : float
            That its fit took.
        steps : list or None
            The fitted transformers before it.
        """
        if error is None and self._is_plain:
            self._score_at_once(seconds)
            return
        named = {**self.named, "parameters": None}
        named |= {name: None for name in ("caller", "callback_ctx") if name in named}
        if not named["return_train_score"]:
            named["train"] = np.zeros(0, np.int64)  # nothing of it is to be copied
        own = self.steps[:-1]
        if steps is not None:
            self.estimator.steps[:-1] = steps
        self.estimator.fit = _Fitted(self.estimator, error)
        try:
            self.result = fit_and_score(self.estimator, self.X, self.y, **named)
            self.result["fit_time"] = seconds
        except Exception as raised:
            self.error = raised
        finally:
            vars(self.estimator).pop("fit", None)
            if steps is not None:
                self.estimator.steps[:-1] = own

    @property
    def _is_plain(self):
        """Whether scikit-learn's function would only take some rows of arrays and score them."""
        named, error_score = self.named, self.named["error_score"]
        asked = "return_train_score", "return_parameters", "return_estimator", "score_params"
        return (
            isinstance(self.estimator, BaseMLP)
            and all(type(each) is np.ndarray for each in (self.X, self.y, named["test"]))
            and not any(named.get(name) for name in asked)
            and named["verbose"] < 2
            and (error_score == "raise" or isinstance(error_score, Number))
        )

    def _score_at_once(self, seconds):
        """Let the result be what that function returns, whose other work takes half as long."""
        began, named = time.time(), self.named
        try:
            X, y = self.X[named["test"]], self.y[named["test"]]
            scores = score_of(self.estimator, X, y, named["scorer"], None, named["error_score"])
        except Exception as raised:
            self.error = raised
            return
        self.result = {
            "fit_error": None, "test_scores": scores, "n_test_samples": len(X),
            "fit_time": seconds, "score_time": time.time() - began,
        }  # fmt: skip

    def run_alone(self):
        """Call the function as it is."""
        with joblib.parallel_config("loky"):
            self.result = self.function(self.estimator, self.X, self.y, **self.named)


class _Fitted:
    """The `fit` of an estimator that has been fitted, or has failed: it gives way at its call."""

    def __init__(self, estimator, error):
        self.estimator, self.error = estimator, error

    def __call__(self, X, y, **arguments):
        del self.estimator.fit
        if self.error is not None:
            raise self.error


class _Transformed:
    """Pipelines with the same transformers on the same split, which are fitted once.

    Parameters
    ----------
    evaluations : list of Evaluation
    arguments : dict
        Of `fit`.
    """

    def __init__(self, evaluations, arguments):
        self.evaluations, self.weight = evaluations, arguments.get("sample_weight")
        self.lock, self.shared, self.error, self.left = Lock(), None, None, len(evaluations)
        self.steps = []

    def members(self):
        """The networks' fits."""
        first = self.evaluations[0]
        n_columns = first.X.shape[1] if len(getattr(first.X, "shape", ())) == 2 else 1
        shape = len(first.named["train"]), n_columns
        return [
            Member(each.network, place, self._data_of(place), shape)
            for place, each in enumerate(self.evaluations)
        ]

    def _data_of(self, place):
        def data():
            with self.lock:
                if self.error is not None:
                    raise self.error
                if self.shared is None:
                    try:
                        self._transform()
                    except Exception as error:
                        self.error = error
                        raise
                return self.shared.data_of(place)

        return data

    def _transform(self):
        first = self.evaluations[0]
        pipeline, train_rows = first.estimator, first.named["train"]
        X, y = _safe_split(pipeline, first.X, first.y, train_rows)
        if len(pipeline.steps) > 1:
            head = clone(pipeline[:-1])
            X = head.fit_transform(X, y)
            self.steps = head.steps
        weight = None if self.weight is None else _safe_indexing(self.weight, train_rows)
        networks = [each.network for each in self.evaluations]
        self.shared = Shared.checked(networks, X, y, weight, None, None)

    def end_one(self):
        """Let go of the data after the last fit."""
        with self.lock:
            self.left -= 1
            if self.left == 0:
                self.shared = None


def _members_of_all(evaluations, arguments):
    """The fits of networks without transformers before them, which read their rows from one X."""
    first = evaluations[0]
    networks = [each.network for each in evaluations]
    rows = [each.named["train"] for each in evaluations]
    own = OwnRows.of(*(arguments.get(name) for name in _OF_ALL[1:]))
    shared = Shared.checked(networks, first.X, first.y, arguments.get("sample_weight"), rows, own)
    return members_of(networks, shared)


def evaluate(calls, n_threads=None):
    """Run calls of `_fit_and_score`: networks side by side, and what is none one after another.

    Parameters
    ----------
    calls : list of tuple
        (function, arguments, named arguments); all with the same X, y and arguments of `fit`.
    n_threads : int or None, default=None
        None for the available cores.

    Returns
    -------
    results : list of dict
    """
    evaluations = [Evaluation(call) for call in calls]
    run_evaluations(evaluations, n_threads)
    return results_of(evaluations)


def run_evaluations(evaluations, n_threads):
    """Let evaluations have their results, errors and warnings."""
    groups, alone, fits = {}, [], []
    for each in evaluations:
        arguments = each.shared_arguments()
        if arguments is None:
            alone.append(each)
        else:
            groups.setdefault(each.group(), (arguments, []))[1].append(each)
    for key, (arguments, group) in groups.items():
        if key is not None:
            transformed = _Transformed(group, arguments)
            fits += [
                (member, each, transformed)
                for member, each in zip(transformed.members(), group, strict=True)
            ]
            continue
        try:
            fits += [
                (member, each, None)
                for member, each in zip(_members_of_all(group, arguments), group, strict=True)
            ]
        except Exception:  # of data that no fit can take, or only some: each will say so itself
            alone += group
    for fit in fits:
        fit[0].after.append(partial(_score, *fit))
    train([member for member, _, _ in fits], n_threads)
    for fit in fits:
        if fit[1].result is None and fit[1].error is None:  # all failed with the GPU
            _score(*fit)
    for each in alone:
        each.run_alone()


def _score(member, evaluation, transformed):
    """Score a network that has been fitted, in the same thread, and let go of its weights."""
    error = None if member.outcome is True else member.outcome
    steps = None if transformed is None else transformed.steps
    evaluation.score(error, member.seconds, steps)
    evaluation.warnings = member.warnings
    member.fit.undo()
    if transformed is not None:
        transformed.end_one()


def results_of(evaluations):
    """The results; warnings are issued and the first error raised here.

    Where the user has a warning raised, the fit counts as failed.
    """
    for each in evaluations:
        try:
            for message, category in each.warnings:
                warn(message, category)
        except Warning as error:
            each.error = None
            each.score(error, 0.0)
    for each in evaluations:
        if each.error is not None:
            raise each.error
    return [each.result for each in evaluations]
