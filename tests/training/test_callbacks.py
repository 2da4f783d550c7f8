"""scikit-learn's callbacks on the estimators, and what fastbp's own callback is told."""

import copy
import pickle

import numpy as np
import pytest
import versions
from conftest import TASKS, small, weights
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# ---- fastbp's own -------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_a_report_predicts_with_the_weights_of_its_epoch(task, solver):
    """As the model of a fit that ends there, whatever training does afterwards."""
    found = []

    def callback(report):
        method = report.predict if model._numeric_targets else report.predict_proba
        found.append((report.predict(X), method(X), report.predict(X[:2].tolist())))

    model, X, y = small(task, solver=solver, callback=callback)
    model.fit(X, y)
    assert len(found) == model.n_iter_
    for n_epochs in (1, 3, 5):
        stopped = small(task, solver=solver, max_iter=n_epochs)[0].fit(X, y)
        predicted, probable, few = found[n_epochs - 1]
        np.testing.assert_array_equal(predicted, stopped.predict(X))
        np.testing.assert_array_equal(few, stopped.predict(X[:2]))
        method = stopped.predict if model._numeric_targets else stopped.predict_proba
        np.testing.assert_array_equal(probable, method(X))


def test_a_report_tells_rate_loss_and_score():
    reports = []
    settings = dict(early_stopping=True, scoring="roc_auc", callback=reports.append)
    model, X, y = small("binary", **settings, solver="sgd", learning_rate="invscaling")
    model.fit(X, y)
    assert [report.validation_score for report in reports] == model.validation_scores_
    assert [report.validation_loss for report in reports] == model.validation_loss_curve_
    rates = [0.001 / (81 * n_epochs + 1) ** 0.5 for n_epochs in range(1, 5)]
    assert [report.learning_rate for report in reports] == pytest.approx([0.001, *rates])
    model.set_params(learning_rate=lambda progress: 1 - progress, early_stopping=False).fit(X, y)
    assert reports[-1].learning_rate == pytest.approx(0.001 * (1 - (5 - 1 / 6) / 5))
    assert reports[-1].validation_loss is reports[-1].validation_score is None
    model.set_params(solver="lbfgs").fit(X, y)
    assert reports[-1].learning_rate is None


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_report_of_a_refit_has_the_columns_and_labels_of_the_refit(solver):
    """The estimator itself is still the old model, whole: once it mixed the two."""
    model, X, y = small("binary", solver=solver)
    model.fit(X[:, :2], y)
    old = model.predict_proba(X[:, :2])
    labels, seen = np.where(y == "no", "a", "b"), []

    def callback(report):
        np.testing.assert_array_equal(model.predict_proba(X[:, :2]), old)
        with pytest.raises(ValueError, match=r"5 features.*expecting 2"):
            model.predict(X)
        with pytest.raises(ValueError, match=r"2 features.*expecting 5"):
            report.predict(X[:, :2])
        with pytest.raises(ValueError, match="NaN"):
            report.predict(np.full((1, 5), np.nan))
        seen.append({*report.predict(X)})

    model.set_params(callback=callback).fit(X, labels)
    assert len(seen) == 5
    assert set.union(*seen) <= {"a", "b"}


def test_a_report_predicts_only_while_the_callback_runs():
    reports = []
    model, X, y = small("single", callback=reports.append)
    model.fit(X, y)
    with pytest.raises(RuntimeError, match=r"report\.predict works while the callback runs"):
        reports[0].predict(X)
    copied = pickle.loads(pickle.dumps(reports[0]))
    assert copied == reports[0]
    model.callback = lambda report: report.predict_proba(X)
    with pytest.raises(AttributeError, match="MLPRegressor has no predict_proba"):
        model.fit(X, y)


def test_predictions_of_a_report_change_no_training():
    model, X, y = small("multiclass", early_stopping=True, shuffle=True)
    expected = weights(model.fit(X, y))
    model.callback = lambda report: report.predict_proba(X)
    np.testing.assert_array_equal(weights(model.fit(X, y)), expected)


def test_partial_fit_reports_too():
    seen = []
    model, X, y = small("single", callback=lambda report: seen.append(report.predict(X)))
    model.partial_fit(X, y)
    np.testing.assert_array_equal(seen[-1], model.predict(X))


# ---- scikit-learn's -----------------------------------------------------------------------------


class Recorder:
    """A callback of scikit-learn's protocol that writes down all that it hears."""

    stop_at = None

    def __init__(self):
        self.heard, self.scores = [], []

    def setup(self, estimator, context):
        self.heard.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.heard.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.heard.append(("end", context.task_name, context.task_id))
        if fitted_estimator is not None:
            self.scores.append((fitted_estimator.n_iter_, fitted_estimator.predict(X)))
            self.metadata = metadata
        return context.task_name == "epoch" and context.task_id == self.stop_at


@pytest.fixture
def recorder():
    versions.needs("callbacks")
    return Recorder()


def test_without_support_there_are_no_callbacks():
    has = versions.scikit_learn_has("callbacks")
    assert hasattr(fastbp.MLPClassifier, "set_callbacks") == has
    assert hasattr(fastbp.MLPRegressor(), "set_callbacks") == has


@pytest.mark.smoke
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("task", ["binary", "multi-output"])
def test_callbacks_hear_of_the_fit_and_every_epoch(task, solver, recorder):
    model, X, y = small(task, solver=solver, max_iter=3)
    assert model.set_callbacks(recorder) is model
    weight = np.ones(len(X))
    model.fit(X, y, weight)
    epochs = [(what, "epoch", i) for i in range(3) for what in ("begin", "end")]
    inside = [("begin", "fit", 0), *epochs, ("end", "fit", 0)]
    assert recorder.heard == [("setup", "fit"), *inside, ("teardown", "fit")]
    assert recorder.metadata["sample_weight"] is weight
    assert [n_iter for n_iter, _ in recorder.scores] == [1, 2, 3, 3]
    for n_epochs, (_, predicted) in enumerate(recorder.scores[:3], 1):
        stopped = small(task, solver=solver, max_iter=n_epochs)[0].fit(X, y, weight)
        np.testing.assert_array_equal(predicted, stopped.predict(X))
    np.testing.assert_array_equal(recorder.scores[-1][1], model.predict(X))
    assert not {"_callback_fit_ctx", "_skl_callbacks_to_teardown"} & {*vars(model)}
    plain = small(task, solver=solver, max_iter=3)[0].fit(X, y, weight)
    np.testing.assert_array_equal(weights(model), weights(plain))


def test_an_estimator_of_an_epoch_stays_as_it_is(recorder):
    """Training goes on, and with it its curves, but not those of the estimator handed out."""
    found = []

    def keep(estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            found.append((fitted_estimator, weights(fitted_estimator).copy()))

    recorder.on_fit_task_end = keep
    model, X, y = small("single", early_stopping=True, scoring=["r2", "loss"])
    model.set_callbacks(recorder).fit(X, y)
    for n_epochs, (estimator, before) in enumerate(found, 1):
        curves = estimator.validation_metrics_.values()
        assert {len(estimator.loss_curve_), *map(len, curves)} == {n_epochs}
        np.testing.assert_array_equal(weights(estimator), before)


def test_an_iteration_of_lbfgs_that_does_not_come_has_an_end(recorder):
    """SciPy says after an iteration only that it was one, and not that it was the last."""
    model, X, y = small("single", solver="lbfgs", max_iter=100, tol=1.0)
    model.set_callbacks(recorder).fit(X, y)
    n_iter = model.n_iter_
    assert n_iter < 100
    last = [("begin", "epoch", n_iter), ("end", "epoch", n_iter), ("end", "fit", 0)]
    assert recorder.heard[-4:] == [*last, ("teardown", "fit")]
    assert len(recorder.scores) == n_iter + 1


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_of_scikit_learn_stops_training(solver, recorder):
    recorder.stop_at = 1
    model, X, y = small("single", solver=solver)
    assert model.set_callbacks(recorder).fit(X, y).n_iter_ == 2
    assert recorder.heard[-1] == ("teardown", "fit")


def test_an_error_in_a_callback_tears_down_and_changes_nothing(recorder):
    model, X, y = small("single")
    before = weights(model.fit(X, y)).copy()
    for task in ("epoch", "fit"):

        def fail(estimator, context, task=task):
            if context.task_name == task:
                raise ZeroDivisionError

        recorder.on_fit_task_end = fail
        model.set_callbacks(recorder).set_params(random_state=7)
        with pytest.raises(ZeroDivisionError):
            model.fit(X, y)
        assert recorder.heard[-1] == ("teardown", "fit")
        np.testing.assert_array_equal(weights(model), before)
        assert "_callback_fit_ctx" not in vars(model)


def test_callbacks_are_cloned_copied_and_pickled_with_the_estimator(recorder):
    model, X, y = small("single")
    model.set_callbacks(recorder).fit(X, y)
    assert clone(model)._skl_callbacks == [recorder]
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert len(copied._skl_callbacks[0].heard) == len(recorder.heard)
        np.testing.assert_array_equal(copied.predict(X), model.predict(X))
    assert "_skl_callbacks" not in vars(model.set_callbacks())
    n_heard = len(recorder.heard)
    model.fit(X, y)
    assert len(recorder.heard) == n_heard


@pytest.mark.parametrize("through", ["pipeline", "search", "fit_many"])
def test_a_scoring_monitor_scores_every_epoch(through):
    versions.needs("callbacks")
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="neg_log_loss")
    model, X, y = small("binary", max_iter=4)
    model.set_callbacks(monitor)
    if through == "pipeline":
        pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
        fits, X, y, model = 1, pipeline[0].transform(X), y, pipeline[-1]
    elif through == "search":
        search = GridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
        fits, model = 5, search.best_estimator_
    else:
        other = clone(model).set_params(random_state=1)
        fastbp.fit_many([other, model], X, y)
        fits = 2
    logs = monitor.get_logs("all")
    rows = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(rows) == 4 * fits
    from sklearn.metrics import log_loss

    score = -log_loss(y, model.predict_proba(X))
    assert min(abs(row["neg_log_loss"] - score) for row in rows) < 1e-12
    curve = [row["neg_log_loss"] for row in rows[:4]]
    assert curve == sorted(curve)


@pytest.mark.parametrize("through", ["alone", "pipeline", "search"])
def test_a_progress_bar_comes_from_outside(through, capsys):
    """It is set on the outermost estimator, which hands it on."""
    versions.needs("callbacks")
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    model, X, y = small("binary", max_iter=4)
    if through == "pipeline":
        model = make_pipeline(StandardScaler(), model)
    elif through == "search":
        model = GridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2)
    with config_context(enable_metadata_routing=False):
        model.set_callbacks(ProgressBar()).fit(X, y)
    assert "MLPClassifier" in capsys.readouterr().out


def test_callbacks_go_with_early_stopping_and_own_rows(recorder):
    model, X, y = small("binary", early_stopping=True, max_iter=30)
    model.set_callbacks(recorder).fit(X, y, X_val=X[:20], y_val=y[:20])
    n_epochs = sum(what[:2] == ("end", "epoch") for what in recorder.heard)
    assert n_epochs == model.n_iter_ == len(model.validation_scores_)
