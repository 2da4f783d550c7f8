"""The estimators for tables: what goes in, what is learned, and what comes out."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tables import CLASSES, NUMBERS, PRICE, QUICK, TABLE, TARGETS, as_polars, make, outputs

import fastbp.tabular.training
from fastbp import MLPClassifier, MLPRegressor, TabularMLPClassifier, TabularMLPRegressor
from fastbp.tabular import make_preprocessing
from fastbp.tabular.training import LEAST_HELD_OUT

each_target = pytest.mark.parametrize("target", TARGETS)


# ---- what they are made of ----------------------------------------------------------------------


@pytest.mark.smoke
@each_target
def test_it_is_the_network_on_the_encoded_table(target):
    """All that this class adds can be done by hand."""
    model, y = make(target)
    model.fit(TABLE, y)
    encoded = make_preprocessing().fit_transform(TABLE)
    np.testing.assert_array_equal(model.preprocessing_.transform(TABLE), encoded)
    (member,) = model.estimators_
    by_hand = clone(member).fit(encoded, y)
    assert by_hand.loss_curve_ == member.loss_curve_ == model.loss_curve_
    assert by_hand.validation_scores_ == model.validation_scores_
    assert (by_hand.best_iter_, by_hand.n_iter_) == (model.best_iter_, model.n_iter_)
    if target in NUMBERS:
        expected = np.clip(by_hand.predict(encoded), y.min(axis=0), y.max(axis=0))
        np.testing.assert_allclose(model.predict(TABLE), expected, rtol=1e-6)
        assert type(member) is MLPRegressor
    else:
        np.testing.assert_array_equal(model.predict_proba(TABLE), by_hand.predict_proba(encoded))
        np.testing.assert_array_equal(model.predict(TABLE), by_hand.predict(encoded), strict=True)
        np.testing.assert_array_equal(model.classes_, by_hand.classes_)
        assert type(member) is MLPClassifier


@each_target
def test_it_learns(target):
    model, y = make(target, max_iter=100)
    score = model.fit(TABLE, y).score(TABLE, y)
    assert score > (0.7 if target != "multilabel" else 0.6)
    metric = r2_score if target in NUMBERS else accuracy_score
    assert score == pytest.approx(metric(y, model.predict(TABLE)))


@each_target
def test_the_averages_of_an_ensemble(target):
    model, y = make(target, n_ensemble=3)
    model.fit(TABLE, y)
    encoded = model.preprocessing_.transform(TABLE)
    assert len({each.random_state for each in model.estimators_}) == 3
    curves = [each.validation_scores_ for each in model.estimators_]
    assert curves[0] == model.validation_scores_ != curves[1] != curves[2]
    if target in NUMBERS:
        single = [np.clip(each.predict(encoded), y.min(axis=0), y.max(axis=0))
                  for each in model.estimators_]  # fmt: skip
        np.testing.assert_allclose(model.predict(TABLE), np.mean(single, axis=0), rtol=1e-6)
    else:
        single = [each.predict_proba(encoded) for each in model.estimators_]
        mean = np.mean(single, axis=0)
        np.testing.assert_allclose(model.predict_proba(TABLE), mean, rtol=1e-6)
        np.testing.assert_allclose(model.predict_log_proba(TABLE), np.log(mean), rtol=1e-5)
        expected = mean > 0.5 if target == "multilabel" else model.classes_[mean.argmax(axis=1)]
        np.testing.assert_array_equal(model.predict(TABLE), expected)


def test_a_smaller_ensemble_is_the_beginning_of_a_larger_one():
    models = [make("single", n_ensemble=n)[0].fit(TABLE, PRICE) for n in (1, 3)]
    assert models[0].loss_curve_ == models[1].loss_curve_
    assert models[0].estimators_[0].random_state == models[1].estimators_[0].random_state


@pytest.mark.parametrize("n_ensemble", [1, 3])
def test_threads_do_not_change_a_bit(n_ensemble, monkeypatch):
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)  # so that several are used
    found = [
        make("single", n_ensemble=n_ensemble, n_threads=n_threads)[0].fit(TABLE, PRICE)
        for n_threads in (1, 2)
    ]
    np.testing.assert_array_equal(*(each.predict(TABLE) for each in found))
    assert found[0].loss_curve_ == found[1].loss_curve_


def test_sources_of_random_numbers():
    def curve(random_state):
        return make("single", random_state=random_state)[0].fit(TABLE, PRICE).loss_curve_

    assert curve(0) == curve(0) != curve(1)
    source = np.random.RandomState(0)
    assert curve(source) == curve(0) != curve(source)
    np.random.seed(0)  # noqa: NPY002
    assert curve(None) == curve(0)


def test_parameters_reach_the_networks():
    model = TabularMLPClassifier(
        hidden_layer_sizes=(5, 4), max_iter=3, batch_size=33, learning_rate_init=0.5,
        selection="log_loss", class_weight="balanced", validation_fraction=0.3,
        precision="float64", n_threads=1,
    ).fit(TABLE, CLASSES)  # fmt: skip
    (member,) = model.estimators_
    found = member.get_params()
    expected = {
        "hidden_layer_sizes": (5, 4), "max_iter": 3, "batch_size": 33, "learning_rate_init": 0.5,
        "scoring": "loss", "label_smoothing": 0.0, "class_weight": "balanced",
        "validation_fraction": 0.3, "precision": "float64", "n_threads": 1,
        "early_stopping": True, "n_iter_no_change": np.inf, "callback": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert model.predict_proba(TABLE).dtype == np.float64
    default = TabularMLPClassifier(max_iter=1).fit(TABLE, CLASSES).estimators_[0]
    assert default.label_smoothing == 0.1
    assert default.scoring is None
    assert TabularMLPRegressor(max_iter=1).fit(TABLE, PRICE).estimators_[0].scale_targets


def test_selection_by_log_loss_makes_better_probabilities():
    X, y = TABLE[:150], CLASSES[:150]
    losses = {
        selection: log_loss(
            CLASSES[150:],
            make("multiclass", selection=selection, max_iter=80)[0].fit(X, y)
            .predict_proba(TABLE[150:]),
            labels=np.unique(y),
        )
        for selection in ("error", "log_loss")
    }  # fmt: skip
    assert losses["log_loss"] < losses["error"]


# ---- what goes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_the_same_table_from_another_library(library):
    model, y = make("multiclass")
    expected = model.fit(TABLE, y).predict_proba(TABLE)
    table, labels = as_polars(TABLE), pl.Series(y)
    if library == "pyarrow":
        pytest.importorskip("pyarrow")
        table, labels = table.to_arrow(), labels.to_arrow()
    again, _ = make("multiclass")
    weight = np.ones(len(y))
    again.fit(table, labels, weight, X_val=table[:20], y_val=labels[:20])
    again.fit(table, labels)
    np.testing.assert_array_equal(again.predict_proba(table), expected)
    np.testing.assert_array_equal(again.classes_, model.classes_)
    assert again.score(table, labels) == model.score(TABLE, y)
    assert again.feature_names_in_.tolist() == list(TABLE.columns)
    weight[::2] = 0  # of which rows are taken
    again.fit(table, labels, weight)
    model.fit(TABLE, y, weight)
    np.testing.assert_array_equal(again.predict_proba(table), model.predict_proba(TABLE))


@pytest.mark.parametrize(
    "kind", [pd.Series, pl.Series, list, lambda y: pd.Series(y).astype("category")]
)
def test_labels_in_every_container(kind):
    model, y = make("binary")
    expected = model.fit(TABLE, y).predict(TABLE)
    found = make("binary")[0].fit(TABLE, kind(y)).predict(TABLE)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_sparse_indicators_come_back_sparse():
    model, y = make("multilabel")
    expected = model.fit(TABLE, y).predict(TABLE)
    found = make("multilabel")[0].fit(TABLE, csr_array(y)).predict(TABLE)
    np.testing.assert_array_equal(found.toarray(), expected)


def test_unknown_categories_and_missing_values_in_new_rows():
    model, y = make("single")
    model.fit(TABLE, y)
    new = TABLE[:3].assign(colour=["violet", None, "red"], rooms=[np.nan, 3, 2], used=[None] * 3)
    assert np.isfinite(model.predict(new)).all()


def test_categorical_features_by_name():
    """Numbers that are named become categories."""
    model, y = make("single", categorical_features=["rooms", "colour"])
    model.fit(TABLE, y)
    names = model.preprocessing_[0].get_feature_names_out().tolist()
    assert {"rooms_1", "rooms_5", "colour_red"} <= {*names}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_columns_of_another_name_are_refused():
    model, y = make("single")
    model.fit(TABLE, y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(TABLE.rename(columns={"size": "length"}))
    with pytest.raises(ValueError, match="4 features"):
        model.predict(TABLE.to_numpy()[:, :4])


# ---- weights and validation rows ----------------------------------------------------------------


@each_target
def test_rows_without_weight_do_not_count(target):
    """They are as good as not there: also for the preprocessing and the range of predictions."""
    model, y = make(target, validation_fraction=0, batch_size=1000)
    weight = np.where(np.arange(len(y)) % 4 == 0, 0.0, 1.0)
    strange = TABLE.copy()
    strange.loc[weight == 0, "size"] = 1e30
    strange.loc[weight == 0, "colour"] = "strange"
    targets = y.copy()
    if y.dtype.kind == "f":
        targets[weight == 0] *= 100
    model.fit(strange, targets, weight)
    other, _ = make(target, validation_fraction=0, batch_size=1000)
    other.fit(TABLE[weight > 0], y[weight > 0])
    # The order of sums is another one.
    np.testing.assert_allclose(outputs(model, TABLE), outputs(other, TABLE), rtol=1e-3, atol=1e-4)


def test_weights_count_in_the_scaling():
    weight = np.arange(len(PRICE)) % 3 + 1
    model, y = make("single")
    found = model.fit(TABLE, y, weight).preprocessing_
    expected = make_preprocessing().fit(TABLE.loc[TABLE.index.repeat(weight)])
    place = found[0].get_feature_names_out().tolist().index("sold")
    assert expected[0].get_feature_names_out()[place] == "sold"
    assert found[1].medians_[place] == expected[1].medians_[place]
    assert found[1].factors_[place] == pytest.approx(expected[1].factors_[place])


def test_the_range_of_targets_is_that_of_rows_with_weight():
    weight = np.r_[np.zeros(20), np.ones(180)]
    model, y = make("several")
    model.fit(TABLE, np.where(weight[:, None] > 0, y, 1e12), weight)
    np.testing.assert_array_equal(model._model.bounds, [y[20:].min(axis=0), y[20:].max(axis=0)])


def test_class_weight():
    settings = {"max_iter": 60, "validation_fraction": 0}
    X, y = pd.DataFrame({"x": np.zeros(100)}), np.repeat([0, 1], [80, 20])
    plain = make("binary", **settings)[0].fit(X, y).predict_proba(X[:1])
    balanced = make("binary", **settings, class_weight="balanced")[0].fit(X, y).predict_proba(X[:1])
    assert plain[0, 1] < 0.35
    assert balanced[0, 1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("n_ensemble", [1, 2])
@each_target
def test_own_validation_rows(target, n_ensemble):
    """They are encoded as the table is, and decide which weights are kept."""
    model, y = make(target, n_ensemble=n_ensemble, max_iter=30)
    rows = slice(0, 120), slice(120, 200)
    model.fit(TABLE[rows[0]], y[rows[0]], X_val=TABLE[rows[1]], y_val=y[rows[1]])
    for member in model.estimators_:
        encoded = model.preprocessing_.transform(TABLE[rows[1]])
        best = max(member.validation_scores_)
        assert member.score(encoded, y[rows[1]]) == pytest.approx(best, abs=1e-3)
        assert member.validation_scores_[member.best_iter_ - 1] == best
    np.testing.assert_array_equal(
        model.preprocessing_[1].medians_,
        make_preprocessing().fit(TABLE[rows[0]])[1].medians_,
    )


def test_weights_of_own_validation_rows():
    model, y = make("single")
    weight = np.r_[np.zeros(30), np.ones(30)]
    own = {"X_val": TABLE[140:], "y_val": y[140:]}
    model.fit(TABLE[:140], y[:140], **own, sample_weight_val=weight)
    other, _ = make("single")
    other.fit(TABLE[:140], y[:140], X_val=TABLE[170:], y_val=y[170:])
    np.testing.assert_allclose(model.validation_scores_, other.validation_scores_, atol=1e-4)


def test_messages_say_that_it_is_about_validation_rows():
    model, y = make("single")
    with pytest.raises(ValueError, match="In X_val, y_val and sample_weight_val: "):
        model.fit(TABLE, y, X_val=TABLE.rename(columns={"size": "length"}), y_val=y)
    with pytest.raises(ValueError, match="In X_val, y_val and sample_weight_val: "):
        model.fit(TABLE, y, X_val=TABLE, y_val=y[:-1])
    with pytest.raises(ValueError, match="y_val was not provided"):
        model.fit(TABLE, y, X_val=TABLE)


# ---- few rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 2, 3, 9, 49])
@each_target
def test_few_rows(target, n_rows):
    """Too few to hold some out: all are learned from."""
    model, y = make(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(TABLE[:n_rows], y[:n_rows])
    assert model.validation_scores_ is None
    assert np.isfinite(outputs(model, TABLE)).all()
    if len(np.unique(y[:n_rows], axis=0)) == 1:
        np.testing.assert_array_equal(model.predict(TABLE[:1]), y[:1])


def test_where_validation_begins():
    n_rows = 5 * LEAST_HELD_OUT
    assert make("single")[0].fit(TABLE[:n_rows], PRICE[:n_rows]).validation_scores_ is not None
    fewer = make("single")[0].fit(TABLE[: n_rows - 1], PRICE[: n_rows - 1])
    assert fewer.validation_scores_ is None
    # Rows without weight are none.
    weight = np.r_[0.0, np.ones(n_rows - 1)]
    assert make("single")[0].fit(TABLE[:n_rows], PRICE[:n_rows], weight).validation_scores_ is None


def test_without_validation_the_last_weights_are_kept():
    model, y = make("single", validation_fraction=0)
    model.fit(TABLE, y)
    (member,) = model.estimators_
    assert (member.early_stopping, model.n_iter_) == (False, 12)
    again = clone(member).fit(model.preprocessing_.transform(TABLE), y)
    np.testing.assert_array_equal(again.coefs_[0], member.coefs_[0])


@pytest.mark.parametrize("target", ["binary", "multiclass"])
def test_a_class_with_a_single_row(target):
    model, y = make(target)
    y = np.where(np.arange(len(y)) == 7, "rare", "often" if target == "binary" else y)
    model.fit(TABLE, y)
    assert "rare" in model.classes_
    assert (model.validation_scores_ is None) == (target == "binary")


def test_batches_are_at_most_the_rows_that_are_learned_from():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, y = make("single", batch_size=10**6)
        model.fit(TABLE, y)
    assert model.estimators_[0].batch_size == 160


def test_predictions_stay_in_the_range_of_the_targets():
    X = pd.DataFrame({"x": np.linspace(0, 1, 60)})
    y = np.stack([X.x * 5 + 7, -X.x], axis=1)
    model = TabularMLPRegressor(**QUICK | {"max_iter": 60}).fit(X, y)
    found = model.predict(pd.DataFrame({"x": [-100.0, 100.0]}))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.max(axis=0) <= y.max(axis=0), True)
    np.testing.assert_array_equal(found.min(axis=0) >= y.min(axis=0), True)
    (member,) = model.estimators_
    far = model.preprocessing_.transform(pd.DataFrame({"x": [-100.0, 100.0]}))
    beyond = member._model.targets.unscale(member._outputs(member._model, far))
    assert beyond.max() > 12  # so that there was something to clip


def test_predictions_have_more_digits_than_float32():
    X = pd.DataFrame({"x": np.arange(100.0)})
    model = TabularMLPRegressor(**QUICK | {"max_iter": 60}).fit(X, 1e9 + X.x)
    assert len(np.unique(model.predict(X))) > 50
    assert np.abs(model.predict(X) - X.x - 1e9).mean() < 10


# ---- time ---------------------------------------------------------------------------------------


class Ticks:
    """A clock that advances by a number of seconds for every epoch that the networks train."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.epochs, self.classes = 0.0, [], []
        monkeypatch.setattr("fastbp.tabular.budget.time.perf_counter", lambda: self.now)
        train = fastbp.tabular.training._train

        def timed(members, rows):
            n_rows = len(rows.X) + (0 if rows.own is None else len(rows.own.X))
            share = n_rows / len(TABLE)
            self.epochs.append(members[0].max_iter)
            self.classes.append({*rows.y.tolist()})
            self.now += seconds * members[0].max_iter * share
            train(members, rows)

        monkeypatch.setattr("fastbp.tabular.training._train", timed)


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.7])
def test_time_limit_picks_the_epochs_that_fit(seconds, monkeypatch):
    clock = Ticks(monkeypatch, seconds)
    model, y = make("single", time_limit=10, max_iter=90)
    model.fit(TABLE, y)
    *trials, last = clock.epochs
    assert model.n_iter_ == last
    if seconds == 0.001:
        assert last == 90  # the parameter's
    else:
        spent = sum(trials) * seconds
        assert last == int(0.9 * (10 - spent) / seconds)
        assert 0.7 * 10 < clock.now <= 10
    without, _ = make("single", max_iter=last)
    np.testing.assert_array_equal(without.fit(TABLE, y).predict(TABLE), model.predict(TABLE))


def test_a_trial_takes_a_part_of_many_rows(monkeypatch):
    """Of all classes, with validation rows, and counted in proportion."""
    clock = Ticks(monkeypatch, 1.0)
    model, y = make("multiclass", time_limit=30, max_iter=300, batch_size=4)
    y = np.where(np.arange(len(y)) == 7, "rare", y)
    model.fit(TABLE, y)
    *trials, last = clock.epochs
    assert {*map(len, clock.classes)} == {4}
    spent = sum(trials) * 40 / 200
    assert last == pytest.approx(0.9 * (30 - spent), rel=0.05)
    assert clock.now <= 30


@pytest.mark.parametrize("has_own", [False, True])
@each_target
def test_trials_with_every_target(target, has_own):
    """Of a part of the rows, weights and validation rows included; here there is time enough."""
    model, y = make(target, time_limit=1000, max_iter=2, batch_size=4)
    own = {"X_val": TABLE[:50], "y_val": y[:50], "sample_weight_val": np.ones(50)}
    weight = np.arange(len(PRICE)) % 3
    model.fit(TABLE, y, weight, **(own if has_own else {}))
    assert model.n_iter_ == 2


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("columns", [["colour", "used"], ["used"], ["size"]])
@pytest.mark.parametrize("hidden_layer_sizes", [(), 3])
def test_presets_on_columns_of_one_kind(preset, columns, hidden_layer_sizes):
    model, y = make("binary", preset=preset, hidden_layer_sizes=hidden_layer_sizes)
    model.fit(TABLE[columns], y)
    found = model.predict_proba(TABLE[columns])
    assert np.isfinite(found).all()
    embedded = 3 * (columns == ["size"] and preset == "full")
    n_encoded = len(model.preprocessing_[0].get_feature_names_out())
    assert len(model.feature_scales_) == n_encoded + embedded


def test_nobody_hears_of_a_trial(monkeypatch, capsys):
    Ticks(monkeypatch, 0.1)
    epochs = []
    model, y = make("single", time_limit=10, max_iter=30, verbose=True)
    model.set_params(callback=lambda report: epochs.append(report.n_iter)).fit(TABLE, y)
    assert epochs == [*range(1, 31)]
    printed = capsys.readouterr().out
    assert printed.startswith("30 epochs fit into time_limit=10 seconds.\n")
    assert printed.count("Iteration") == 30


def test_a_time_limit_that_is_too_short_says_so(monkeypatch):
    Ticks(monkeypatch, 100)
    model, y = make("single", time_limit=1)
    with pytest.warns(UserWarning, match="time_limit=1 is too short"):
        model.fit(TABLE, y)
    assert model.n_iter_ == 1


def test_ctrl_c_in_a_trial_ends_the_fit(monkeypatch):
    """The networks' own fits end with a usable model: here that of a trial."""
    train = fastbp.tabular.training._train

    def interrupted(members, rows):
        train(members, rows)
        members[0].n_iter_ -= 1

    monkeypatch.setattr("fastbp.tabular.training._train", interrupted)
    model, y = make("single", time_limit=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(TABLE, y)
    assert not hasattr(model, "estimators_")


# ---- told of every epoch ------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["multiclass", "single"])
def test_callbacks_predict_from_tables(target):
    reports = []

    def note(report):
        reports.append((report.n_iter, report.validation_score, outputs(report, TABLE), report))
        if report.n_iter == 5:
            report.stop()

    def outputs(report, X):
        return report.predict_proba(X) if target == "multiclass" else report.predict(X)

    model, y = make(target, callback=note)
    model.fit(TABLE, y)
    assert [report[0] for report in reports] == [1, 2, 3, 4, 5]
    assert [report[1] for report in reports] == model.validation_scores_
    best = reports[model.best_iter_ - 1]
    expected = model.predict_proba(TABLE) if target == "multiclass" else model.predict(TABLE)
    np.testing.assert_array_equal(best[2], expected)
    with pytest.raises(RuntimeError, match="works while the callback runs"):
        reports[0][3].predict(TABLE)


def test_every_member_is_told_of():
    epochs = []
    make("single", n_ensemble=3, callback=lambda report: epochs.append(report.n_iter))[0].fit(
        TABLE, PRICE
    )
    assert sorted(epochs) == sorted(3 * [*range(1, 13)])


def test_progress_is_one_line(capsys):
    make("single", verbose="progress")[0].fit(TABLE, PRICE)
    assert "12/12 epochs" in capsys.readouterr().out
    make("single", verbose="progress", n_ensemble=2)[0].fit(TABLE, PRICE)
    assert "2/2 fits" in capsys.readouterr().out
    make("single", verbose=True, max_iter=2)[0].fit(TABLE, PRICE)
    assert "Iteration 2, loss" in capsys.readouterr().out


# ---- scikit-learn's tools -----------------------------------------------------------------------


def test_searches_pipelines_and_cross_validation():
    model, y = make("multiclass")
    search = GridSearchCV(model, {"learning_rate_init": [1e-6, 0.02]}, cv=2).fit(TABLE, y)
    assert search.best_params_ == {"learning_rate_init": 0.02}
    assert cross_val_score(model, TABLE, y, cv=2).shape == (2,)
    pipeline = make_pipeline(FunctionTransformer(lambda X: X.drop(columns="sold")), model)
    pipeline.set_output(transform="pandas").fit(TABLE, y)
    assert pipeline.n_features_in_ if hasattr(pipeline, "n_features_in_") else True
    with config_context(transform_output="pandas"):
        found = clone(model).fit(TABLE, y).predict(TABLE)
    np.testing.assert_array_equal(found, model.fit(TABLE, y).predict(TABLE))


def test_weights_are_routed():
    weight = np.where(np.arange(len(PRICE)) % 4 == 0, 0.0, 2.0)
    with config_context(enable_metadata_routing=True):
        model = make("single")[0].set_fit_request(sample_weight=True)
        pipeline = Pipeline([("model", model)]).fit(TABLE, PRICE, sample_weight=weight)
    expected = make("single")[0].fit(TABLE, PRICE, weight).predict(TABLE)
    np.testing.assert_array_equal(pipeline.predict(TABLE), expected)


@each_target
def test_copies_and_pickles_predict_the_same(target):
    model, y = make(target, n_ensemble=2)
    model.fit(TABLE, y)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        np.testing.assert_array_equal(outputs(other, TABLE), outputs(model, TABLE), strict=True)
        assert other.get_params() == model.get_params()
    assert not hasattr(clone(model), "estimators_")
    # What only further training needs takes two thirds of a network's space.
    assert all(member._optimizer is None for member in model.estimators_)


def test_callbacks_in_clones_copies_and_pickles():
    model, y = make("single", callback=lambda report: None)
    model.fit(TABLE, y)
    assert clone(model).callback is copy.deepcopy(model).callback is model.callback
    with pytest.warns(UserWarning, match="cannot be pickled"):
        assert pickle.loads(pickle.dumps(model)).callback is None
    assert copy.copy(model).callback is model.callback


def test_a_damaged_pickle_is_refused():
    model, y = make("single")
    state = model.fit(TABLE, y).__getstate__()
    damaged = [
        {**state, "_state_version": 99},
        {**state, "_model": 3},
        {**state, "_model": copy.copy(state["_model"])},
        [],
    ]
    vars(damaged[2]["_model"])["members"] = ()
    for each in damaged:
        with pytest.raises(ValueError, match=r"TabularMLPRegressor|members"):
            TabularMLPRegressor.__new__(TabularMLPRegressor).__setstate__(each)


def test_before_fit():
    model, _ = make("single")
    with pytest.raises(NotFittedError):
        model.predict(TABLE)
    for name in ("estimators_", "preprocessing_", "n_iter_", "n_features_in_"):
        with pytest.raises(AttributeError, match="before it is fitted"):
            getattr(model, name)
    assert not hasattr(make("single")[0].fit(TABLE.to_numpy()[:, 3:4], PRICE), "feature_names_in_")
    with pytest.raises(AttributeError, match="cannot be assigned"):
        model.n_iter_ = 3


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({"max_iter": 0}, {}),
        ({"preset": "none"}, {}),
        ({"categorical_features": ["nowhere"]}, {}),
        ({"learning_rate_init": 1e30}, {}),
        ({"validation_fraction": 0.999}, {}),
        ({}, {"sample_weight": [1, 2, 3]}),
        ({}, {"X_val": TABLE, "y_val": PRICE[:-1]}),
        ({"callback": lambda report: 1 / 0}, {}),
    ],
)
def test_a_failed_fit_changes_nothing(parameters, arguments):
    model, y = make("single", validation_fraction=0)
    expected = model.fit(TABLE, y).predict(TABLE)
    before = model._model
    model.set_params(**parameters)
    with pytest.raises((ValueError, ZeroDivisionError)):
        model.fit(TABLE, y, **arguments)
    assert model._model is before
    np.testing.assert_array_equal(model.predict(TABLE), expected)


def test_plots_of_the_loss():
    pytest.importorskip("matplotlib")
    from fastbp.plotting import LossCurveDisplay

    model, y = make("single")
    display = LossCurveDisplay.from_estimator(model.fit(TABLE, y))
    np.testing.assert_array_equal(display.line_.get_ydata(), model.loss_curve_)


def test_the_device_and_threads_of_the_moment_count(monkeypatch):
    model, y = make("single")
    model.fit(TABLE, y)
    expected = model.predict(TABLE)
    np.testing.assert_array_equal(model.set_params(n_threads=2).predict(TABLE), expected)
    model.set_params(device="cuda")
    monkeypatch.setattr("fastbp.devices.make_engine", lambda *given: pytest.fail(f"{given[3]}"))
    with pytest.raises(pytest.fail.Exception, match="cuda"):
        model.predict(TABLE)
