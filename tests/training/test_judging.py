"""Validation rows, scores, and the loss of held-out rows."""

import copy
import pickle

import numpy as np
import pytest
import versions
from conftest import TASKS, make_task, small, weights
from naive import NaiveEngine
from naive import row_losses as naive_row_losses
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import get_scorer, log_loss, make_scorer, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp import MLPClassifier
from fastbp.loss_values import evaluate, row_losses
from fastbp.losses import LOSSES
from fastbp.network import Network
from fastbp.scoring import r2

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CURVES = "loss_curve_", "validation_scores_", "validation_loss_curve_", "validation_metrics_"


def parts(X, y, n=60):
    """Rows to learn from and rows of one's own."""
    return (X[:n], y[:n]), {"X_val": X[n:], "y_val": y[n:]}


def result(model):
    """All of a fit that must be the same to the bit."""
    curves = {name: getattr(model, name) for name in (*CURVES, "best_iter_", "n_iter_")}
    return weights(model).tobytes(), pickle.dumps(curves)


# ---- the loss of outputs ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name} {loss.outputs}")
def test_formulas_on_arrays_are_the_scalar_ones(loss):
    """Bit for bit, as far as NumPy's functions are math's: every branch is taken somewhere."""
    random, eps = np.random.default_rng(0), 1e-3
    targets = random.choice([0.0, 1.0, 0.3], 300)
    targets = targets if loss.takes_zero else targets + 0.1
    outputs = np.concatenate([random.uniform(0.001, 1.5, 297), [1e-9, 1.0, 2.0]])
    given = [] if getattr(loss, "coefficient", None) is None else [0.7]
    expected = [
        loss.share(t, o, eps, *given)
        for t, o in zip(targets.tolist(), outputs.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        evaluate(loss.share, targets, outputs, eps, *given), expected, rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize(
    "network",
    [
        Network((3, 4), (), "softmax", "log_loss"),
        Network((3, 4), (), "logistic", "log_loss"),
        Network((3, 4), (), "logistic", "squared_error"),
        Network((3, 4), (), "identity", "squared_error", average_outputs=True),
        Network((3, 4), (), "exp", "poisson"),
        Network((3, 4), (), "softmax", "focal", False, (2.0,) * 4),
        Network((3, 4), (), "logistic", "focal", False, (0.5,) * 4),
        Network((3, 4), (), "identity", "huber", True, (0.1, 0.2, 0.3, 0.4)),
        Network((3, 4), (), "identity", "quantile", True, (0.1, 0.5, 0.7, 0.9)),
    ],
    ids=lambda network: f"{network.loss} of {network.output_activation}",
)
def test_losses_of_rows_are_the_oracles(network):
    random = np.random.default_rng(0)
    outputs = random.uniform(0.01, 1, (30, 4))
    outputs /= outputs.sum(axis=1, keepdims=True)
    is_class = network.output_activation == "softmax"
    targets = random.integers(0, 4, 30) if is_class else random.integers(0, 2, (30, 4)) * 1.0
    expected = naive_row_losses(network, np.eye(4)[targets] if is_class else targets, outputs)
    np.testing.assert_allclose(row_losses(network, targets, outputs), expected, rtol=1e-12)
    if network.loss != "poisson":
        outputs[:2] = [0, 1, 0, 0]
        assert np.isfinite(row_losses(network, targets, outputs)).all()


def test_classes_that_are_no_softmax_count_in_every_output():
    network = Network((3, 4), (), "logistic", "squared_error")
    outputs = np.full((1, 4), 0.5)
    assert row_losses(network, np.array([2]), outputs) == pytest.approx([0.5])


@pytest.mark.parametrize("task", TASKS)
def test_the_validation_loss_is_the_training_loss_of_these_rows(task):
    """Training on them alone, in one batch, at a rate of nothing reports the same loss."""
    still = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1, "batch_size": 999}
    model, X, y = small(task, alpha=0.0, **still)
    weight = np.random.default_rng(0).integers(1, 5, len(X)) / 2
    with pytest.warns(UserWarning, match="batch_size"):
        model.fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
    assert model.validation_loss_curve_ == pytest.approx(model.loss_curve_, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_r2_is_scikit_learns(dtype):
    random = np.random.default_rng(0)
    for n_outputs in (1, 3):
        targets = random.normal(size=(50, n_outputs)).astype(dtype)
        outputs = (targets + random.normal(size=targets.shape)).astype(dtype)
        for weight in (None, random.random(50)):
            expected = r2_score(targets, outputs, sample_weight=weight)
            assert r2(targets, outputs, weight) == pytest.approx(expected, rel=1e-12)
            same = np.full_like(targets, 2)
            assert r2(same, same, weight) == 1.0 == r2_score(same, same, sample_weight=weight)
            assert r2(same, same + 1, weight) == 0.0


# ---- rows of one's own --------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("task", TASKS)
def test_own_rows_stop_training_as_rows_that_were_split_off(task):
    """The rows that early stopping would hold out, given as one's own, make the same model."""
    settings = dict(early_stopping=True, validation_fraction=0.3, max_iter=40, shuffle=False)
    model, X, y = small(task, **settings)
    expected = small(task, **settings)[0].fit(X, y)
    random = np.random.RandomState(0)
    random.uniform(size=weights(expected).size)  # the initial weights
    labels = y if task == "binary" else None
    train, held_out = train_test_split(
        np.arange(len(X)), test_size=0.3, random_state=random, stratify=labels
    )
    model.fit(X[train], y[train], X_val=X[held_out], y_val=y[held_out])
    assert result(model) == result(expected)
    assert model.best_validation_score_ == max(model.validation_scores_)
    best = model.validation_scores_.index(model.best_validation_score_)
    assert model.best_iter_ == best + 1
    assert model.score(X[held_out], y[held_out]) == pytest.approx(model.best_validation_score_)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_own_rows_decide_nothing_without_early_stopping(task, solver):
    plain, X, y = small(task, solver=solver, max_iter=7)
    (X, y), own = parts(X, y)
    plain.fit(X, y)
    scored = small(task, solver=solver, max_iter=7)[0].fit(X, y, **own)
    np.testing.assert_array_equal(weights(scored), weights(plain))
    assert scored.loss_curve_ == plain.loss_curve_
    assert scored.best_loss_ == plain.best_loss_ == min(plain.loss_curve_)
    assert scored.best_iter_ == plain.best_iter_ == np.argmin(plain.loss_curve_) + 1
    assert scored.best_validation_score_ is None
    assert len(scored.validation_scores_) == len(scored.validation_loss_curve_) == scored.n_iter_
    assert plain.validation_scores_ is plain.validation_loss_curve_ is None
    score = scored.score(own["X_val"], own["y_val"])
    assert scored.validation_scores_[-1] == pytest.approx(score)


def test_a_plateau_of_the_loss_is_called_so_beside_own_rows(capsys):
    model, X, y = small("single", tol=1.0, n_iter_no_change=1, verbose=True, max_iter=9)
    (X, y), own = parts(X, y)
    model.fit(X, y, **own)
    assert "Training loss did not improve" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["multiclass", "single"])
def test_own_sparse_rows_are_the_dense_ones(task):
    model, X, y = small(task, early_stopping=True)
    X = np.where(np.abs(X) > 0.7, X, 0)
    (X, y), own = parts(X, y)
    expected = result(model.fit(X, y, **own))
    own["X_val"] = csr_array(own["X_val"])
    assert result(model.fit(csr_array(X), y, **own)) == expected


def test_own_rows_in_frames():
    pd = pytest.importorskip("pandas")
    model, X, y = small("binary", early_stopping=True, scoring=["roc_auc", "accuracy"])
    names = list("abcde")
    (X, y), own = parts(X, y)
    frame = pd.DataFrame(X, columns=names)
    own["X_val"] = pd.DataFrame(own["X_val"], columns=names)
    expected = result(model.fit(X, y, X_val=own["X_val"].to_numpy(), y_val=own["y_val"]))
    assert result(model.fit(frame, y, **own)) == expected
    assert len(model.fit(frame, y).validation_scores_) == model.n_iter_  # rows of the frame itself
    own["X_val"] = own["X_val"][names[::-1]]
    with pytest.raises(ValueError, match=r"(?s)X_val.*feature names should match"):
        model.fit(frame, y, **own)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("binary", {"y_val": None}, "X_val is provided, but y_val was not provided"),
        ("binary", {"X_val": None}, "y_val is provided, but X_val was not provided"),
        (
            "binary",
            {"X_val": None, "y_val": None, "sample_weight_val": np.ones(30)},
            "sample_weight_val is provided, but X_val and y_val",
        ),
        ("binary", {"X_val": np.ones((30, 4))}, "X_val.*4 features.*expecting 5"),
        ("binary", {"y_val": np.array(["no"] * 29)}, "X_val.*inconsistent numbers of samples"),
        ("binary", {"y_val": np.array(["no", "perhaps"] * 15)}, r"y_val.*perhaps.*classes_"),
        ("binary", {"y_val": np.ones((30, 2), int)}, "y_val.*binary labels"),
        ("multilabel", {"y_val": np.ones((30, 2), int)}, "y_val.*3 columns"),
        ("multiclass", {"y_val": np.arange(30) % 3 + 7}, "y_val.*labels"),
        ("multi-output", {"y_val": np.ones((30, 2))}, "y_val.*2 columns.* 3"),
        ("single", {"y_val": np.full(30, np.nan)}, "y_val.*NaN"),
        ("single", {"X_val": np.full((30, 5), np.inf)}, "X_val.*infinity"),
        ("poisson", {"y_val": np.full(30, -1.0)}, "y_val.*needs y >= 0"),
        ("single", {"sample_weight_val": np.full(30, -1.0)}, "sample_weight_val.*negative"),
        ("single", {"sample_weight_val": np.zeros(30)}, "sample_weight_val.*zero"),
        ("single", {"X_val": np.ones((1, 5)), "y_val": np.ones(1)}, "at least two rows"),
    ],
)
def test_own_rows_that_make_no_sense(task, change, says, early_stopping):
    model, X, y = small(task, early_stopping=early_stopping)
    (X, y), own = parts(X, y)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        model.fit(X, y, **own | change)
    assert not hasattr(model, "coefs_")


def test_own_rows_need_no_fraction_and_draw_nothing():
    """All rows are learned from, and the same random numbers drawn as without early stopping."""
    model, X, y = small("single", early_stopping=True, validation_fraction=0.0, tol=0.0)
    (X, y), own = parts(X, y)
    model.set_params(random_state=np.random.RandomState(1), n_iter_no_change=99).fit(X, y, **own)
    plain = small("single", random_state=np.random.RandomState(1), tol=0.0)[0].fit(X, y)
    assert model.loss_curve_ == plain.loss_curve_
    assert model.t_ == plain.t_ == 5 * 60
    assert model.random_state.randint(2**31) == plain.random_state.randint(2**31)


@pytest.mark.parametrize("input_scale", [1.0, 1 / 16])
def test_integers_are_scaled_in_own_rows_too(input_scale):
    model, X, y = small("single", input_scale=input_scale, early_stopping=True)
    X = np.round(X * 16).astype(np.int16)
    (X, y), own = parts(X, y)
    model.fit(X, y, **own)
    assert model.best_validation_score_ == pytest.approx(model.score(own["X_val"], own["y_val"]))


def test_a_warm_start_judges_by_the_present_own_rows():
    model, X, y = small("single", early_stopping=True, warm_start=True, max_iter=20)
    (X, y), own = parts(X, y)
    model.fit(X, y, **own)
    before, n_scores = weights(model), len(model.validation_scores_)
    model.set_params(learning_rate_init=50.0, max_iter=2).fit(X, y, **own)
    np.testing.assert_array_equal(weights(model), before)  # nothing was better
    assert model.best_iter_ == 0
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == n_scores + 2


def test_histogram_boosting_takes_the_same_names():
    versions.needs("validation rows of HistGradientBoosting")
    (X, y), own = parts(*make_task("binary")[1:])
    HistGradientBoostingClassifier(early_stopping=True, max_iter=2).fit(
        X, y, **own, sample_weight_val=np.ones(30)
    )
    small("binary", early_stopping=True)[0].fit(X, y, **own, sample_weight_val=np.ones(30))


# ---- through what scikit-learn has around estimators --------------------------------------------


def test_own_rows_pass_through_a_pipeline():
    (X, y), own = parts(*make_task("binary")[1:])
    model = small("binary", early_stopping=True, max_iter=20)[0]
    scaler = StandardScaler().fit(X)
    expected = result(
        copy.deepcopy(model).fit(
            scaler.transform(X), y, X_val=scaler.transform(own["X_val"]), y_val=own["y_val"]
        )
    )
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), model, transform_input=["X_val"])
        assert result(pipeline.fit(X, y, **own)[-1]) == expected


def test_own_rows_pass_through_a_search():
    (X, y), own = parts(*make_task("binary")[1:])
    model = small("binary", early_stopping=True, scoring="loss", max_iter=20)[0]
    search = GridSearchCV(model, {"alpha": [1e-4, 1.0]}, cv=2).fit(X, y, **own)
    assert result(search.best_estimator_) == result(
        copy.deepcopy(model).set_params(**search.best_params_).fit(X, y, **own)
    )


def test_fit_many_shares_own_rows():
    (X, y), own = parts(*make_task("single")[1:])
    settings = [dict(early_stopping=s, scoring=c) for s in (False, True) for c in (None, "loss")]
    weight = np.random.default_rng(0).integers(1, 5, 30) / 2
    made = fastbp.fit_many(
        [small("single", **each)[0] for each in settings], X, y, **own, sample_weight_val=weight
    )
    for each, model in zip(settings, made, strict=True):
        alone = small("single", **each)[0].fit(X, y, **own, sample_weight_val=weight)
        assert result(model) == result(alone)
    mixed = [small("single")[0], fastbp.MLPClassifier((3,), max_iter=2)]
    labels, labels_val = (y > 0).astype(int), (own["y_val"] > 0).astype(int)
    fastbp.fit_many(mixed, X, labels, X_val=own["X_val"], y_val=labels_val)
    assert [len(model.validation_scores_) for model in mixed] == [5, 2]
    with pytest.raises(ValueError, match="y_val was not provided"):
        fastbp.fit_many(mixed, X, labels, X_val=own["X_val"])


def test_fit_many_holds_out_rows_of_a_bootstrap_for_scorers():
    """Scorers see the rows of X that are held out, wherever they lie."""
    _, X, y = small("binary")
    rows = np.random.default_rng(0).integers(0, 90, 70)
    settings = dict(early_stopping=True, scoring="roc_auc", max_iter=8)
    (model,) = fastbp.fit_many([small("binary", **settings)[0]], X, y, rows=[rows])
    assert result(model) == result(small("binary", **settings)[0].fit(X[rows], y[rows]))


# ---- scorers ------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("task", "scoring"),
    [
        ("binary", "roc_auc"),
        ("binary", "average_precision"),
        ("binary", "neg_log_loss"),
        ("binary", "balanced_accuracy"),
        ("multiclass", "roc_auc_ovr"),
        ("multiclass", "neg_log_loss"),
        ("multilabel", "roc_auc"),
        ("multilabel", "f1_macro"),
        ("single", "neg_mean_absolute_error"),
        ("single", "neg_max_error"),
        ("multi-output", "r2"),
        ("poisson", "neg_mean_poisson_deviance"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_the_scorers(task, scoring, weighted):
    model, X, y = small(task, early_stopping=True, scoring=scoring, max_iter=12)
    if task == "binary":
        y = (y == "yes").astype(int)
    (X, y), own = parts(X, y)
    given = {"sample_weight": np.random.default_rng(0).integers(1, 5, 30) / 2} if weighted else {}
    weight_val = {"sample_weight_val": given["sample_weight"]} if weighted else {}
    model.fit(X, y, **own, **weight_val)
    if "max_error" in scoring:  # which takes no weights
        given = {}
    score = get_scorer(scoring)(model, own["X_val"], own["y_val"], **given)
    assert model.best_validation_score_ == pytest.approx(score, rel=1e-12)
    assert model.validation_scores_[model.best_iter_ - 1] == model.best_validation_score_
    assert model.validation_metrics_ is None


def test_the_loss_as_score_is_minus_the_curve():
    model, X, y = small("multiclass", early_stopping=True, scoring="loss", max_iter=30)
    model.fit(X, y)
    assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]
    assert model.best_iter_ == np.argmin(model.validation_loss_curve_) + 1


def predicted_share(estimator, X, y):
    return estimator.predict_proba(X)[:, 1].mean()


@pytest.mark.parametrize(
    "scoring",
    [
        ["roc_auc", "loss", "accuracy"],
        ("roc_auc", "loss", "accuracy"),
        {"roc_auc": make_scorer(roc_auc_score, response_method="predict_proba"), "loss": "loss",
         "accuracy": "accuracy"},
    ],
    ids=type,
)  # fmt: skip
def test_the_first_of_several_scorers_decides(scoring):
    model, X, y = small("binary", early_stopping=True, scoring=scoring, max_iter=30)
    model.fit(X, y)
    alone = small("binary", early_stopping=True, scoring="roc_auc", max_iter=30)[0].fit(X, y)
    np.testing.assert_array_equal(weights(model), weights(alone))
    assert model.validation_scores_ == alone.validation_scores_
    assert list(model.validation_metrics_) == ["roc_auc", "loss", "accuracy"]
    assert model.validation_metrics_["roc_auc"] == model.validation_scores_
    assert model.validation_metrics_["loss"] == [-loss for loss in model.validation_loss_curve_]
    plain = small("binary", early_stopping=True, max_iter=30, tol=0.0, n_iter_no_change=99)[0]
    n = model.n_iter_
    assert plain.fit(X, y).validation_scores_[:n] == model.validation_metrics_["accuracy"]


def test_a_scorer_sees_the_model_of_the_epoch():
    """Its predictions, classes and tags; any rows, and those held out without another pass."""
    seen = []

    def scorer(estimator, X, y):
        seen.append((estimator.n_iter_, estimator.predict_proba(X), estimator.predict(X[:3])))
        assert X.shape == (30, 5)
        assert estimator.classes_.tolist() == ["no", "yes"]
        assert set(y) == {"no", "yes"}
        assert estimator.predict_proba(X[::-1]) == pytest.approx(seen[-1][1][::-1], rel=1e-12)
        return estimator.score(X, y)

    model, X, y = small("binary", scoring=scorer)
    (X, y), own = parts(X, y)
    model.fit(X, y, **own)
    assert [n_iter for n_iter, *_ in seen] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(seen[-1][1], model.predict_proba(own["X_val"]), rtol=1e-12)
    assert seen[-1][2].tolist() == model.predict(own["X_val"][:3]).tolist()
    for n_epochs in (1, 3):
        stopped = small("binary", max_iter=n_epochs)[0].fit(X, y)
        expected = stopped.predict_proba(own["X_val"])
        np.testing.assert_allclose(seen[n_epochs - 1][1], expected, rtol=1e-12)


def test_held_out_rows_are_passed_once_an_epoch(spied_engine):
    """However many scorers look at them: each epoch costs one pass of these rows."""
    scoring = ["roc_auc", "average_precision", "neg_log_loss", "accuracy", "loss"]
    model, X, y = small("binary", scoring=scoring)
    (X, y), own = parts(X, (y == "yes").astype(int))
    calls, predict = [], NaiveEngine.predict

    def counting(self, data, rows=None, activation=None):
        calls.append(data.n_samples if rows is None else len(rows))
        return predict(self, data, rows, activation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NaiveEngine, "predict", counting)
        model.fit(X, y, **own)
    assert calls == [30] * 5
    assert len(spied_engine) == 1


@pytest.mark.parametrize(
    ("scoring", "says"),
    [
        ("accuraci", "'accuraci' is neither 'loss' nor the name of a scorer"),
        ([], "at least one score"),
        (["loss", "loss"], "a name of its own"),
        ({1: "loss"}, "a name of its own"),
        (["loss", 3], "names and functions"),
        (roc_auc_score, "is a metric"),
        (3, "The 'scoring' parameter"),
    ],
)
def test_scoring_that_makes_no_sense(scoring, says):
    model, X, y = small("binary", scoring=scoring)
    with pytest.raises(ValueError, match=says):
        model.fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_error_in_a_scorer_reaches_the_user(solver):
    def scorer(estimator, X, y):
        if estimator.n_iter_ == 2:
            raise ZeroDivisionError("of mine")
        return 0.5

    model, X, y = small("binary", scoring=scorer, solver=solver)
    (X, y), own = parts(X, y)
    with pytest.raises(ZeroDivisionError, match="of mine") as raised:
        model.fit(X, y, **own)
    assert "scoring='scorer'" in raised.value.__notes__[0]
    assert not hasattr(model, "coefs_")
    model.set_params(scoring=lambda *arguments: "good")
    with pytest.raises(ValueError, match="must return a number, got 'good'"):
        model.fit(X, y, **own)


def test_a_score_of_nan_is_no_best_one():
    model, X, y = small("binary", early_stopping=True, max_iter=6, n_iter_no_change=99)
    model.scoring = lambda estimator, X, y: np.nan if estimator.n_iter_ < 4 else -estimator.n_iter_
    assert model.fit(X, y).best_iter_ == 4


# ---- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
def test_curves_are_saved_and_pickled(early_stopping, tmp_path):
    scoring = {"area": "roc_auc", "loss": "loss", "a": "accuracy"}
    model, X, y = small("binary", early_stopping=early_stopping, scoring=scoring)
    (X, y), own = parts(X, y)
    model.fit(X, y, **own)
    model.save(tmp_path / "model")
    for loaded in (fastbp.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert result(loaded) == result(model)
        assert list(loaded.scoring.items()) == list(scoring.items())
    model.validation_metrics_ = {"loss": 3}
    with pytest.raises(ValueError, match="validation_metrics_"):
        model.save(tmp_path / "model")
    model = small("binary", scoring=predicted_share)[0].fit(X, y)
    with pytest.raises(ValueError, match=r"scoring=.*set_params\(scoring=None\)"):
        model.save(tmp_path / "model")


@pytest.mark.parametrize("scoring", [None, "loss", ["roc_auc", "loss"]])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("has_own", [False, True])
def test_a_resumed_fit_has_the_curves_of_the_uninterrupted_one(
    scoring, early_stopping, has_own, tmp_path
):
    settings = dict(early_stopping=early_stopping, scoring=scoring, max_iter=9)
    expected, X, y = small("binary", **settings)
    (X, y), own = parts(X, y)
    own = own if has_own else {}
    expected.fit(X, y, **own)
    settings["checkpoint"] = tmp_path / "state"

    def crash(report):
        if report.n_iter == 4:
            raise MemoryError

    with pytest.raises(MemoryError):
        small("binary", **settings, callback=crash)[0].fit(X, y, **own)
    resumed = small("binary", **settings)[0].fit(X, y, **own, resume=True)
    assert result(resumed) == result(expected)
    assert resumed.best_validation_score_ == expected.best_validation_score_
    with pytest.raises(ValueError, match="scoring"):
        small("binary", **settings | {"scoring": "accuracy"})[0].fit(X, y, **own, resume=True)
    if has_own:
        own["X_val"] = own["X_val"] + 1
        with pytest.raises(ValueError, match="other data"):
            small("binary", **settings)[0].fit(X, y, **own, resume=True)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_do_not_change_what_is_judged(n_threads):
    settings = dict(early_stopping=True, scoring=["loss", "accuracy"], hidden_layer_sizes=(70, 40))
    model, X, y = small("multiclass", n_threads=n_threads, **settings)
    assert result(model.fit(X, y)) == result(small("multiclass", **settings)[0].fit(X, y))


def test_the_last_checkpoint_has_whole_curves(tmp_path):
    """Losses of few rows are computed for several epochs at once; a file must not be without."""
    settings = dict(early_stopping=True, checkpoint=tmp_path / "state", max_iter=9)
    model, X, y = small("binary", **settings)
    expected = result(model.fit(X, y))
    assert np.isfinite(model.validation_loss_curve_).all()
    assert result(small("binary", **settings)[0].fit(X, y, resume=True)) == expected


@pytest.mark.parametrize("n_rows", [10, 3000, 5000])
def test_losses_that_wait_are_those_computed_at_once(n_rows):
    """However many rows make a batch of them; a callback has them computed every epoch."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(50, 3)), random.integers(0, 3, 50)
    own = {"X_val": random.normal(size=(n_rows, 3)), "y_val": random.integers(0, 3, n_rows)}
    own["sample_weight_val"] = random.uniform(0, 2, n_rows)
    model = fastbp.MLPClassifier((4,), max_iter=7, random_state=0).fit(X, y, **own)
    reported = []
    model.set_params(callback=lambda report: reported.append(report.validation_loss))
    waited = model.validation_loss_curve_
    assert waited == model.fit(X, y, **own).validation_loss_curve_ == reported


def test_what_a_scorer_does_to_its_arrays_is_its_own_affair():
    seen = []

    def scorer(estimator, X, y):
        probabilities = estimator.predict_proba(X)
        seen.append(probabilities.copy())
        probabilities[...] = 0
        np.testing.assert_array_equal(estimator.predict_proba(X), seen[-1])
        return 0.5

    model, X, y = small("multiclass", scoring=scorer, early_stopping=True)
    model.fit(X, y)
    assert len(seen) == 5


def test_rows_of_ones_own_have_no_class_weights():
    """As in scikit-learn's HistGradientBoostingClassifier."""
    X, y = make_classification(120, 6, weights=[0.8], random_state=0)
    heavy = MLPClassifier((5,), class_weight={0: 1, 1: 50}, max_iter=2, random_state=0)
    heavy.fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    expected = log_loss(y[80:], heavy.predict_proba(X[80:]))
    assert heavy.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)
