"""One fit of an estimator for tables: encode, train the members, and gather what was learned."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state

from fastbp.judging import naming_validation
from fastbp.many import fit_many
from fastbp.supervision import labels_of
from fastbp.tabular.budget import Clock, Rows, epochs_within
from fastbp.tabular.encoder import make_preprocessing
from fastbp.tabular.model import TabularModel
from fastbp.validation import check_sample_weight, check_training_data

# Fewer rows cannot tell one epoch's network from another's: they are better learned from.
LEAST_HELD_OUT = 10
_LARGEST_SEED = np.iinfo(np.int32).max


def learn(estimator, X, y, sample_weight, own):
    """Train what an estimator's parameters ask for; the estimator itself is not changed.

    Parameters
    ----------
    estimator : TabularMLPClassifier or TabularMLPRegressor
        With valid parameters.
    X, y, sample_weight : object
        As given to `fit`.
    own : OwnRows or None

    Returns
    -------
    model : TabularModel
    """
    clock = Clock(estimator.time_limit)
    preprocessing, rows = _encode(estimator, X, y, sample_weight, own)
    bounds = _bounds_of(estimator, rows)
    n_train, holds_out = _split(estimator, rows)
    decided = {
        "early_stopping": holds_out or own is not None,
        "batch_size": min(estimator.batch_size, n_train),
    }
    members = _members_of(estimator, preprocessing[0].n_numerical_, decided)
    if clock.limit is not None:
        max_iter = epochs_within(clock, members, _train, rows, n_train)
        members = [member.set_params(max_iter=max_iter) for member in members]
        if estimator.verbose:
            print(f"{max_iter} epochs fit into time_limit={clock.limit} seconds.")
    if estimator.callback is not None:
        for member in members:
            member.callback = _Told(estimator, preprocessing, bounds)
    _train(members, rows)
    for member in members:  # they are there to predict
        member.callback, member.verbose, member._optimizer = None, False, None
    return TabularModel(preprocessing, tuple(members), bounds)


def _encode(estimator, X, y, sample_weight, own):
    """Check everything that was given, and fit the preprocessing to the rows that have weight."""
    preprocessing, learnt = make_preprocessing(estimator.categorical_features), X
    weight = sample_weight = check_sample_weight(sample_weight, X)
    if weight is not None and not weight.all():
        with_weight = np.flatnonzero(weight)
        learnt, weight = _rows_of(X, with_weight), weight[with_weight]
    encoder, scaler = (step for _, step in preprocessing.steps)
    encoded = encoder.fit_transform(learnt)
    scaler.fit(encoded, sample_weight=weight)
    encoded = scaler.transform(encoded if learnt is X else encoder.transform(X))
    _, y, _ = check_training_data(
        estimator, encoded, y, model=None, numeric=estimator._numeric_targets
    )
    if own is not None:
        with naming_validation():
            encoded_own = preprocessing.transform(own.X)
            check_consistent_length(own.X, own.y)
        own = replace(own, X=encoded_own)
    return preprocessing, Rows(encoded, y, sample_weight, own)


def _rows_of(X, rows):
    """Some rows of a table."""
    is_arrow = hasattr(X, "column_names")  # which scikit-learn has learned to index in version 1.8
    return X.take(rows) if is_arrow else _safe_indexing(X, rows)


def _split(estimator, rows):
    """How many rows are learned from, and whether the others are held out."""
    n_rows, fraction = len(rows.X), estimator.validation_fraction
    if rows.own is not None or not _can_hold_out(estimator, rows):
        return n_rows, False
    n_train = n_rows - ceil(fraction * n_rows)
    least = 1 if estimator._numeric_targets else 2  # of two classes one of each
    if n_train < least:
        raise ValueError(
            f"validation_fraction={fraction} of {n_rows} rows leaves {n_train} to learn from. "
            "Lower it, or use 0 to learn from all rows."
        )
    return n_train, True


def _can_hold_out(estimator, rows):
    """Whether there are enough rows to hold some out, of each class if there are two."""
    weight = rows.sample_weight
    n_rows = len(rows.X) if weight is None else np.count_nonzero(weight)
    if estimator.validation_fraction * n_rows < LEAST_HELD_OUT:
        return False
    if estimator._numeric_targets:
        return True
    labels = labels_of(rows.y, None, False, None)
    # Two classes are held out in proportion, which takes two rows of each.
    return labels.kind != "binary" or (
        len(labels.classes) == 2 and np.unique(rows.y, return_counts=True)[1].min() >= 2
    )


def _members_of(estimator, n_numerical, decided):
    """The networks to train, which differ by their source of random numbers alone."""
    seeds = check_random_state(estimator.random_state).randint(
        _LARGEST_SEED, size=estimator.n_ensemble
    )
    parameters = estimator._member_parameters(n_numerical) | decided
    return [estimator._member_class(**parameters, random_state=int(seed)) for seed in seeds]


def _train(members, rows):
    """Fit a single member, or all of them side by side."""
    own = {}
    if rows.own is not None:
        own = {
            "X_val": rows.own.X,
            "y_val": rows.own.y,
            "sample_weight_val": rows.own.sample_weight,
        }
    if len(members) == 1:
        members[0].fit(rows.X, rows.y, rows.sample_weight, **own)
    else:
        n_threads = members[0].n_threads
        fit_many(members, rows.X, rows.y, rows.sample_weight, n_threads=n_threads, **own)


def _bounds_of(estimator, rows):
    """The smallest and the largest target of each output, of rows with weight; None of labels."""
    if not estimator._numeric_targets:
        return None
    y = rows.y.reshape(len(rows.y), -1).astype(np.float64)
    if rows.sample_weight is not None:
        y = y[rows.sample_weight > 0]
    return np.array([y.min(axis=0), y.max(axis=0)])


class _Told:
    """A user's callback as a member's, whose reports predict from tables."""

    def __init__(self, estimator, preprocessing, bounds):
        self.function, self.estimator = estimator.callback, estimator
        self.preprocessing, self.bounds = preprocessing, bounds

    def __call__(self, report):
        """Call the function with a report of its own."""
        present = report._present

        def of_tables():
            model = TabularModel(self.preprocessing, (present(),), self.bounds)
            return self.estimator._with(model)

        own = replace(report, _present=of_tables)
        try:
            self.function(own)
        finally:
            own._present = None
        if own.stopped:
            report.stop()
