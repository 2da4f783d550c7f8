"""Fits of `fit_many` and of searches on a cluster: what is sent there, and what comes back."""

from __future__ import annotations

import pickle
from copy import copy
from dataclasses import dataclass
from functools import cache
from traceback import format_exc
from uuid import uuid4

import numpy as np
from sklearn.metrics._scorer import _MultimetricScorer

from fastbp.base import BaseMLP
from fastbp.callbacks import has_callbacks
from fastbp.clusters import Chunks, Shipped
from fastbp.evaluations import Evaluation, fit_and_score, results_of, run_evaluations
from fastbp.progress_line import line_of_fits
from fastbp.row_files import found, is_path, opened
from fastbp.shared_data import Shared
from fastbp.side_by_side import group_by_source, members_of, train


@dataclass(frozen=True)
class SharedFiles:
    """What workers need to open and check the data by themselves, once in each process.

    Parameters
    ----------
    key : str
    estimators : list
        One for each kind of y.
    given : tuple
        X, y and sample_weight, or where they are.
    own : OwnRows or None
    """

    key: str
    estimators: list
    given: tuple
    own: object

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return self.key == other.key

    @cache  # noqa: B019, as long as a worker lives; the rows themselves stay in the file
    def opened(self):
        """The data."""
        X, y, weight = map(opened, self.given)
        return Shared.checked(self.estimators, X, y, weight, None, self.own)

    def part(self, rows):
        """As `Shared.part`."""
        return self.opened().part(rows)


@dataclass
class Ended:
    """How a fit on a worker has ended.

    Parameters
    ----------
    error : Exception or None
    fitted : dict or None
        The fitted attributes.
    warnings : list
        As of `Member`.
    source : tuple or None
        The state of the estimator's RandomState, if it has one.
    """

    error: Exception | None
    fitted: dict | None
    warnings: list
    source: tuple | None


def fit_members(client, members, shared, given, own, n_threads):
    """Fit members on a cluster, as `fastbp.side_by_side.train` does here.

    Parameters
    ----------
    client : distributed.Client
    members : list of Member
    shared : Shared
        Checked.
    given : tuple
        X, y and sample_weight as `fit_many` was given them, perhaps by their paths.
    own : OwnRows or None
    n_threads : int or None
        Of each task.
    """
    for member in members:
        check_sendable(member.estimator, f"estimators[{member.index}]")
    shared.check_sendable()
    data = shared
    if any(map(is_path, given)):
        estimators = [member.estimator for member in members]
        data = SharedFiles(uuid4().hex, estimators, tuple(map(found, given)), own)
    queues = group_by_source(members)
    items = [
        [(member.estimator, shared.rows[member.index]) for member in queue] for queue in queues
    ]
    works = [sum(member.work for member in queue) for queue in queues]
    shipped = [Shipped(client, (data, n_threads))]
    with line_of_fits(members):
        for places, outcome in Chunks(client, fit_chunk, shipped, items, works):
            chunk = [member for place in places for member in queues[place]]
            for position, member in enumerate(chunk):
                failed = isinstance(outcome, Exception)
                _receive(member, Ended(outcome, None, [], None) if failed else outcome[position])


def check_sendable(estimator, name):
    """Raise if an estimator has what cannot be called on another machine."""
    if estimator.callback is not None or has_callbacks(estimator):
        raise ValueError(
            f"{name} has a callback, which would be called in another process, perhaps of another "
            "machine. Fit it here with client=None, or set callback=None."
        )


def _receive(member, ended):
    """Let a member end as its copy on a worker did."""
    member.warnings += ended.warnings
    with member.attempt():
        if ended.error is not None:
            raise ended.error
        member.fit.assign(ended.fitted)
        member.outcome = True
        if ended.source is not None:
            member.estimator.random_state.set_state(ended.source)


def fit_chunk(data, queues):
    """Fit the estimators of a chunk on a worker; return how each has ended."""
    shared, n_threads = data
    estimators, rows = zip(*(each for queue in queues for each in queue), strict=True)
    shared = shared.part(list(rows))
    members = members_of(estimators, shared)
    train(members, n_threads, shows_progress=False)
    return [_ended(member) for member in members]


def _sendable(error):
    """An error, or what takes its place where pickle cannot bring it to another process."""
    if error is None:
        return None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _ended(member):
    source = member.estimator.random_state
    state = source.get_state() if isinstance(source, np.random.RandomState) else None
    if member.outcome is True:
        return Ended(None, member.fit.assigned(), member.warnings, state)
    return Ended(_sendable(member.outcome), None, member.warnings, state)


# ---- searches -----------------------------------------------------------------------------------

# Arguments of `_fit_and_score` that are a call's own.
_OWN = "parameters", "train", "test", "split_progress", "candidate_progress", "caller"
_OWN += ("callback_ctx",)


class RemoteEvaluations:
    """Runs the calls of a search on a cluster, as `fastbp.evaluations.evaluate` does here.

    Parameters
    ----------
    client : distributed.Client
    n_threads : int or None
        Of each task.
    given : tuple
        X and y of the search as given, perhaps by their paths.
    """

    def __init__(self, client, n_threads, given):
        self.client, self.n_threads, self.given, self.common = client, n_threads, given, None

    def __call__(self, calls):
        """Return what the calls return."""
        evaluations = [Evaluation(call) for call in calls]
        for each in evaluations:  # a grid may have callbacks, too
            if isinstance(each.network, BaseMLP):
                check_sendable(each.network, "estimator")
        if self.common is None:
            first = evaluations[0]
            named = {name: each for name, each in first.named.items() if name not in _OWN}
            data = [
                found(given) if is_path(given) else held
                for given, held in zip(self.given, (first.X, first.y), strict=True)
            ]
            self.common = Shipped(self.client, (*data, named, self.n_threads))
        # Of one group side by side: their transformers are fitted once in a chunk.
        evaluations, order = _sorted_by_group(evaluations)
        splits, places = [], {}
        for each in evaluations:
            split = each.named["train"], each.named["test"]
            key = tuple(map(id, split))
            if key not in places:
                places[key] = len(splits)
                splits.append(split)
        items = [
            (each.estimator, places[id(each.named["train"]), id(each.named["test"])])
            for each in evaluations
        ]
        works = [each.work for each in evaluations]
        shipped = [self.common, Shipped(self.client, splits)]
        for chunk, outcome in Chunks(self.client, evaluate_chunk, shipped, items, works):
            for position, place in enumerate(chunk):
                if isinstance(outcome, Exception):
                    evaluations[place].score(outcome, 0.0)
                else:
                    each = evaluations[place]
                    each.result, each.error, each.warnings = outcome[position]
        return results_of([evaluations[place] for place in order])


def _sorted_by_group(evaluations):
    """The same with those of one group side by side, and the places that they have now."""
    groups = {}
    for place, each in enumerate(evaluations):
        groups.setdefault(each.group(), []).append(place)
    order = [place for group in groups.values() for place in group]
    return [evaluations[place] for place in order], np.argsort(order).tolist()


def evaluate_chunk(common, splits, items):
    """Fit and score the estimators of a chunk on a worker."""
    X, y, named, n_threads = common
    X, y = opened(X), opened(y)
    evaluations = []
    for estimator, place in items:
        train_rows, test_rows = splits[place]
        own = {"parameters": None, "train": train_rows, "test": test_rows}
        own["scorer"] = heard_scorer(named["scorer"], named["error_score"])
        evaluations.append(Evaluation((fit_and_score, (estimator, X, y), {**named, **own})))
    run_evaluations(evaluations, n_threads)
    return [
        (each.result, _sendable(each.error), each.warnings + each.named["scorer"].warnings)
        for each in evaluations
    ]


def heard_scorer(scorer, error_score):
    """A scorer like this one, whose `warnings` are what scikit-learn says of it here.

    scikit-learn warns of scorers that fail where they are called.
    """
    if isinstance(scorer, _MultimetricScorer):
        heard = copy(scorer)
        heard.__class__ = _HeardScorers
    else:
        heard = _HeardScorer()
        heard.scorer = scorer
    heard.warnings, heard.error_score = [], error_score
    return heard


def _scoring_failed(heard, details):
    if heard.error_score != "raise":
        message = (
            "Scoring failed. The score on this train-test partition for these parameters will be "
            f"set to {heard.error_score}. Details: \n{details}"
        )
        heard.warnings.append((message, UserWarning))


class _HeardScorer:
    def __call__(self, *arguments, **named):
        try:
            return self.scorer(*arguments, **named)
        except Exception:
            _scoring_failed(self, format_exc())
            raise


class _HeardScorers(_MultimetricScorer):
    def __call__(self, *arguments, **named):
        scores = super().__call__(*arguments, **named)
        for each in scores.values():
            if isinstance(each, str):  # in place of a score
                _scoring_failed(self, each)
        return scores
