"""Losses, class weights, smoothed labels, scaled and missing targets, as users meet them."""

import pickle
from inspect import signature

import numpy as np
import pytest
from conftest import weights
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad
from scipy.sparse import csr_matrix
from sklearn import _loss
from sklearn.base import clone
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

import fastbp
from fastbp import MLPClassifier, MLPRegressor, fit_many, load
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.losses import LOSSES, names_for
from fastbp.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SETTINGS = dict(hidden_layer_sizes=(8,), max_iter=4, batch_size=16, random_state=0)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 5))
Y = X[:, 0] + np.sin(X[:, 1]) + RANDOM.normal(scale=0.3, size=120)
SEVERAL = np.column_stack([Y, 3 * X[:, 1] + 1, -Y])
CLASSES = np.digitize(Y, [-0.5, 0.4, 1.5])  # of unlike numbers of rows
BINARY = np.where(Y > 1, "yes", "no")
LABELS = np.column_stack([Y > 1, X[:, 1] > 0, X[:, 2] > -1]).astype(int)
WEIGHT = RANDOM.uniform(0.2, 2, 120)
HOLES = SEVERAL.copy()
HOLES[RANDOM.random(HOLES.shape) < 0.3] = np.nan
HOLES[5] = np.nan


def assert_same_fit(one, other):
    np.testing.assert_array_equal(weights(one), weights(other))
    assert one.loss_curve_ == other.loss_curve_


# ---- losses -------------------------------------------------------------------------------------

SCIKIT_LEARNS = {
    "absolute_error": (_loss.AbsoluteError(), ()),
    "huber": (_loss.HuberLoss(delta=0.7), (0.7,)),
    "quantile": (_loss.PinballLoss(quantile=0.2), (0.2,)),
    "gamma": (_loss.HalfGammaLoss(), ()),
}


@pytest.mark.parametrize("name", SCIKIT_LEARNS)
def test_values_are_scikit_learns(name):
    loss, coefficients = SCIKIT_LEARNS[name]
    if name == "huber":
        loss.closs.delta = 0.7  # the constructor's is a quantile
    activation = "exp" if name == "gamma" else "identity"
    network = Network((1, 1), (), activation, name, loss_coefficients=coefficients)
    targets = np.exp(Y) if name == "gamma" else Y
    engine = Engine(network, np.float64)
    engine.load_parameters(np.array([1.0, 0.0]))
    raw = np.ascontiguousarray(X[:, 0])
    found = [
        engine.loss_and_gradient(Data(raw[i : i + 1, None], targets[i : i + 1, None]))
        for i in range(len(raw))
    ]
    expected, gradient = loss.loss_gradient(targets, raw)
    expected = expected + loss.constant_to_optimal_zero(targets)
    np.testing.assert_allclose([each[0] for each in found], expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose([each[1][1] for each in found], gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name} {loss.outputs}")
def test_gradients_are_central_differences(loss):
    activation = loss.outputs[0] if loss.outputs else "identity"
    coefficients = () if loss.coefficient is None else (0.6, 0.3)
    network = Network((5, 4, 2), ("tanh",), activation, loss.name, loss_coefficients=coefficients)
    targets = np.abs(SEVERAL[:, :2]) + 0.1
    targets = targets if "regression" in loss.tasks else (targets > 0.8).astype(float)
    targets = targets[:, 0].astype(np.int64) if activation == "softmax" else targets
    engine = Engine(network, np.float64)

    def of(parameters):
        engine.load_parameters(parameters)
        return engine.loss_and_gradient(Data(X, targets))

    start = np.random.default_rng(1).normal(scale=0.4, size=network.n_parameters)
    assert check_grad(lambda p: of(p)[0], lambda p: of(p)[1], start) < 1e-5


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", names_for("regression"))
def test_every_loss_learns_with_every_solver(loss, solver):
    y = np.exp(Y) if loss in ("poisson", "gamma") else Y
    model = MLPRegressor(loss, solver=solver, random_state=0, max_iter=300).fit(X, y)
    assert model.score(X, y) > 0.4
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize(
    ("model", "y"),
    [
        (MLPClassifier(loss="focal", label_smoothing=0.1), CLASSES),
        (MLPClassifier(label_smoothing=0.1, class_weight="balanced"), CLASSES),
        (MLPClassifier(loss="focal"), LABELS),
        (MLPRegressor("huber", missing_targets="ignore", scale_targets=True), HOLES),
        (MLPRegressor("quantile", quantile=[0.1, 0.5, 0.9]), Y),
        (MLPRegressor("log_cosh"), SEVERAL),
    ],
    ids=["focal", "smoothed", "focal labels", "huber", "quantiles", "log_cosh"],
)
def test_threads_change_no_bit(model, y, kind):
    rows = csr_matrix(np.where(X > 0, X, 0)) if kind == "sparse" else X
    model.set_params(hidden_layer_sizes=(150, 90), max_iter=2, batch_size=100, random_state=0)
    alone = clone(model).set_params(n_threads=1).fit(rows, y)
    assert_same_fit(clone(model).set_params(n_threads=3).fit(rows, y), alone)


def test_huber_delta_counts_in_standard_deviations():
    model = MLPRegressor("huber", huber_delta=0.5, **SETTINGS).fit(X, SEVERAL, WEIGHT)
    means = np.average(SEVERAL, axis=0, weights=WEIGHT)
    deviations = np.sqrt(np.average((SEVERAL - means) ** 2, axis=0, weights=WEIGHT))
    np.testing.assert_allclose(model._model.network.loss_coefficients, 0.5 * deviations)
    before = model._model.network
    model.partial_fit(X[:16], 100 * SEVERAL[:16])
    assert model._model.network == before  # the deviations are those of the first rows
    model.set_params(warm_start=True).fit(X, SEVERAL + 5)
    assert model._model.network == before
    with pytest.raises(ValueError, match="cannot go on: the model was fitted with loss_coeff"):
        model.set_params(huber_delta=0.6).fit(X, SEVERAL)


def test_gamma_needs_positive_targets():
    for y in (np.abs(Y) * (np.arange(120) > 0), Y):
        with pytest.raises(ValueError, match="loss='gamma' needs y > 0, got y with"):
            MLPRegressor("gamma", **SETTINGS).fit(X, y)


# ---- quantiles ----------------------------------------------------------------------------------


def test_several_quantiles():
    quantiles = [0.9, 0.1, 0.5]
    model = MLPRegressor("quantile", quantile=quantiles, solver="lbfgs", random_state=0)
    predicted = model.fit(X, Y).predict(X)
    assert predicted.shape == (120, 3)
    # Those of larger quantiles are never smaller, whatever their order in the list.
    assert (np.diff(predicted[:, [1, 2, 0]], axis=1) >= 0).all()
    raw = model._outputs(model._model, X)
    assert (np.diff(raw[:, [1, 2, 0]], axis=1) < 0).any()
    scores = [d2_pinball_score(Y, predicted[:, i], alpha=quantiles[i]) for i in range(3)]
    assert model.score(X, Y) == pytest.approx(np.mean(scores))
    weighted = [
        d2_pinball_score(Y, predicted[:, i], alpha=quantiles[i], sample_weight=WEIGHT)
        for i in range(3)
    ]
    assert model.score(X, Y, WEIGHT) == pytest.approx(np.mean(weighted))


def test_a_quantile_covers_its_share():
    model = MLPRegressor(
        "quantile", (), quantile=[0.1, 0.5, 0.9], learning_rate_init=0.01, max_iter=2000,
        n_iter_no_change=50, random_state=0,
    ).fit(X, Y)  # fmt: skip
    below = (Y[:, None] <= model.predict(X)).mean(axis=0)
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.05)


def test_a_single_quantile():
    one = MLPRegressor("quantile", quantile=0.3, **SETTINGS).fit(X, Y)
    listed = MLPRegressor("quantile", quantile=[0.3], **SETTINGS).fit(X, Y)
    assert_same_fit(one, listed)
    np.testing.assert_array_equal(one.predict(X)[:, None], listed.predict(X))
    assert one.score(X, Y) == r2_score(Y, one.predict(X))
    columns = MLPRegressor("quantile", quantile=0.3, **SETTINGS).fit(X, SEVERAL)
    assert columns.predict(X).shape == (120, 3)


@pytest.mark.parametrize("quantile", [[], [0.1, 1.5], ["x"], [[0.1]], 1.5, "all", [np.nan]])
def test_no_quantiles(quantile):
    with pytest.raises(ValueError, match="quantile"):
        MLPRegressor("quantile", quantile=quantile, **SETTINGS).fit(X, Y)


def test_several_quantiles_of_several_columns():
    with pytest.raises(ValueError, match="needs y of one column, got 3"):
        MLPRegressor("quantile", quantile=[0.1, 0.9], **SETTINGS).fit(X, SEVERAL)


def test_early_stopping_scores_quantiles_in_order():
    model = MLPRegressor("quantile", quantile=[0.1, 0.9], early_stopping=True, **SETTINGS)
    model.fit(X, Y)
    assert model.best_validation_score_ == max(model.validation_scores_)


# ---- label smoothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("y", [CLASSES, BINARY, LABELS], ids=["classes", "binary", "labels"])
@pytest.mark.parametrize("loss", names_for("classification"))
def test_smoothing_goes_with_every_loss(loss, y):
    model = MLPClassifier(loss=loss, solver="lbfgs", max_iter=300, random_state=0)
    plain = clone(model).fit(X, y).predict_proba(X)
    smoothed = clone(model).set_params(label_smoothing=0.3).fit(X, y)
    assert smoothed.predict_proba(X).max() < plain.max()
    assert smoothed.score(X, y) > 0.8  # counts labels that are not smoothed
    stopped = clone(model).set_params(solver="adam", early_stopping=True, label_smoothing=0.3)
    assert stopped.fit(X, y).best_validation_score_ > 0.3


def test_focal_without_focus_is_the_log_loss():
    log_loss = MLPClassifier(**SETTINGS).fit(X, CLASSES)
    focal = MLPClassifier(loss="focal", focal_gamma=0, **SETTINGS).fit(X, CLASSES)
    np.testing.assert_allclose(weights(focal), weights(log_loss), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(focal.loss_curve_, log_loss.loss_curve_, rtol=1e-12)


# ---- class weights ------------------------------------------------------------------------------

WEIGHTS = {
    "dict": ({0: 2.0, 1: 0.5, 2: 1, 3: 4}, CLASSES),
    "some": ({3: 5}, CLASSES),
    "strings": ({"yes": 3.0, "no": 0.25}, BINARY),
    "balanced": ("balanced", CLASSES),
    "balanced binary": ("balanced", BINARY),
    "labels": ([{0: 1, 1: 3}, {1: 2}, "balanced"], LABELS),
    "balanced labels": ("balanced", LABELS),
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("class_weight", "y"), WEIGHTS.values(), ids=WEIGHTS)
def test_class_weights_are_sample_weights(class_weight, y, solver):
    model = MLPClassifier(solver=solver, **SETTINGS)
    expected = clone(model).fit(X, y, compute_sample_weight(class_weight, y))
    assert_same_fit(model.set_params(class_weight=class_weight).fit(X, y), expected)


def test_class_weights_times_sample_weights():
    model = MLPClassifier(class_weight={"yes": 3.0}, **SETTINGS).fit(X, BINARY, WEIGHT)
    expected = MLPClassifier(**SETTINGS).fit(X, BINARY, WEIGHT * np.where(BINARY == "yes", 3, 1))
    assert_same_fit(model, expected)


def test_balanced_weights_count_sample_weights():
    """As scikit-learn's LogisticRegression from version 1.9 on does."""
    is_yes = (BINARY == "yes").astype(int)
    balance = WEIGHT.sum() / (2 * np.bincount(is_yes, WEIGHT))
    if "sample_weight" in signature(compute_class_weight).parameters:
        theirs = compute_class_weight(
            "balanced", classes=np.unique(BINARY), y=BINARY, sample_weight=WEIGHT
        )
        np.testing.assert_allclose(balance, theirs)
    model = MLPClassifier(class_weight="balanced", **SETTINGS).fit(X, BINARY, WEIGHT)
    expected = MLPClassifier(**SETTINGS).fit(X, BINARY, WEIGHT * balance[is_yes])
    assert_same_fit(model, expected)


def test_class_weights_in_batches():
    model = MLPClassifier(class_weight={"yes": 3.0}, **SETTINGS)
    expected = MLPClassifier(**SETTINGS)
    for rows in (slice(0, 60), slice(60, 120)):
        model.partial_fit(X[rows], BINARY[rows], classes=["no", "yes"])
        weight = np.where(BINARY[rows] == "yes", 3.0, 1.0)
        expected.partial_fit(X[rows], BINARY[rows], weight, classes=["no", "yes"])
    np.testing.assert_array_equal(weights(model), weights(expected))
    for class_weight in ("balanced", ["balanced", {0: 1}]):
        with pytest.raises(ValueError, match=r"not supported for partial_fit.*compute_class_w"):
            model.set_params(class_weight=class_weight).partial_fit(X, BINARY)


def test_early_stopping_scores_with_class_weights():
    """As scikit-learn's HistGradientBoostingClassifier, which multiplies before it splits."""
    model = MLPClassifier(early_stopping=True, **SETTINGS)
    expected = clone(model).fit(X, BINARY, np.where(BINARY == "yes", 3.0, 1.0))
    model.set_params(class_weight={"yes": 3.0}).fit(X, BINARY)
    assert model.validation_scores_ == expected.validation_scores_


@pytest.mark.parametrize(
    ("class_weight", "y", "message"),
    [
        ({"yes": 1, "maybe": 2}, BINARY, r"classes, \['no'\], are not in class_weight"),
        ({"yes": -1, "no": 1}, BINARY, "negative or not finite"),
        ({"yes": np.nan, "no": 1}, BINARY, "negative or not finite"),
        ({"yes": "much"}, BINARY, "must hold numbers, got 'much' for class 'yes'"),
        ({"yes": 0, "no": 0}, BINARY, "leave no row a weight"),
        ([{0: 1}, {1: 1}], BINARY, "is a list, which is for label indicators"),
        ({0: 1}, LABELS, "must be a list of 3 dicts"),
        ([{0: 1}], LABELS, "must be a list of 3 dicts"),
        ([{0: 1}, 2, {1: 1}], LABELS, "for each label, got 2"),
        ("even", BINARY, "class_weight"),
    ],
)
def test_class_weights_that_are_none(class_weight, y, message):
    model = MLPClassifier(class_weight=class_weight, **SETTINGS)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")


def test_fit_many_keeps_what_differs_apart():
    """Labels are encoded once for all, weights and units are not."""
    plain = MLPClassifier(**SETTINGS)
    several = [
        clone(plain).set_params(class_weight=given) for given in (None, {3: 9}, "balanced", {3: 9})
    ]
    rows = np.arange(120) % 3 > 0
    expected = [clone(each).fit(X[rows], CLASSES[rows]) for each in several]
    for one, other in zip(fit_many(several, X, CLASSES, rows=[rows] * 4), expected, strict=True):
        assert_same_fit(one, other)
    several = [
        MLPRegressor(loss, **SETTINGS, **parameters)
        for loss in ("squared_error", "huber")
        for parameters in ({}, {"scale_targets": True}, {"missing_targets": "ignore"})
    ]
    expected = [clone(each).fit(X[rows], SEVERAL[rows]) for each in several]
    for one, other in zip(fit_many(several, X, SEVERAL, rows=[rows] * 6), expected, strict=True):
        assert_same_fit(one, other)
        np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_fit_many_scales_targets_before_they_lose_digits():
    """Targets that are shared are float32 for models of float32, but not where they are scaled."""
    large, single = 1e8 + Y, X.astype(np.float32)
    several = [MLPRegressor(scale_targets=scaled, **SETTINGS) for scaled in (False, True)]
    expected = clone(several[1]).fit(single, large)
    assert_same_fit(fit_many(several, single, large)[1], expected)


# ---- scaled targets -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("y", [Y, SEVERAL], ids=["one", "several"])
def test_scaled_targets_are_those_of_a_user_who_scales(y, precision):
    large = 1e6 + 1e3 * y
    means = np.average(large, axis=0, weights=WEIGHT)
    deviations = np.sqrt(np.average((large - means) ** 2, axis=0, weights=WEIGHT))
    by_hand = MLPRegressor(precision=precision, early_stopping=True, **SETTINGS)
    model = clone(by_hand).set_params(scale_targets=True).fit(X, large, WEIGHT)
    by_hand.fit(X, (large - means) / deviations, WEIGHT)
    np.testing.assert_allclose(weights(model), weights(by_hand), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.loss_curve_, by_hand.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(model.validation_scores_, by_hand.validation_scores_, rtol=1e-3)
    predicted = model.predict(X)
    assert predicted.dtype == precision
    np.testing.assert_allclose(predicted, by_hand.predict(X) * deviations + means, rtol=1e-5)


def test_large_targets_need_scaling():
    model = MLPRegressor(random_state=0, max_iter=300)
    assert clone(model).fit(X, 1e6 + 1e3 * Y).score(X, 1e6 + 1e3 * Y) < 0
    model.set_params(scale_targets=True).fit(X, 1e6 + 1e3 * Y)
    assert model.score(X, 1e6 + 1e3 * Y) > 0.8


def test_units_stay_those_of_the_first_call():
    model = MLPRegressor(scale_targets=True, **SETTINGS).partial_fit(X, SEVERAL)
    before = model._model.targets
    model.partial_fit(X, 10 * SEVERAL)
    assert model._model.targets == before
    model.set_params(warm_start=True).fit(X, SEVERAL - 7)
    assert model._model.targets == before
    with pytest.raises(ValueError, match="fitted with scale_targets=True, but the estimator has"):
        model.set_params(scale_targets=False).partial_fit(X, SEVERAL)


def test_constant_targets():
    y = np.column_stack([np.full(120, 1e6), Y])
    predicted = MLPRegressor(scale_targets=True, **SETTINGS).fit(X, y).predict(X)
    np.testing.assert_allclose(predicted[:, 0], 1e6, atol=5)


def test_scaling_that_is_refused():
    for loss in ("poisson", "gamma"):
        with pytest.raises(ValueError, match=f"does not go with loss='{loss}'"):
            MLPRegressor(loss, scale_targets=True, **SETTINGS).fit(X, np.exp(Y))
    with pytest.raises(ValueError, match="Column 0 of y is too large"):
        MLPRegressor(scale_targets=True, **SETTINGS).fit(X, np.where(Y > 0, 1e300, -1e300))


# ---- missing targets ----------------------------------------------------------------------------


def test_missing_targets_are_refused_unless_asked_for():
    with pytest.raises(ValueError, match="contains NaN"):
        MLPRegressor(**SETTINGS).fit(X, HOLES)
    infinite = np.where(np.isnan(HOLES), np.inf, HOLES)
    with pytest.raises(ValueError, match="infinity"):
        MLPRegressor(missing_targets="ignore", **SETTINGS).fit(X, infinite)
    with pytest.raises(ValueError, match="no target in a row with weight: all are NaN"):
        MLPRegressor(missing_targets="ignore", **SETTINGS).fit(X, np.full((120, 2), np.nan))


def test_nothing_changes_where_nothing_is_missing():
    for y in (Y, SEVERAL, np.arange(120)):
        one = MLPRegressor(missing_targets="ignore", **SETTINGS).fit(X, y)
        assert_same_fit(one, MLPRegressor(**SETTINGS).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_missing_row_is_one_without_weight(solver):
    y = np.where(np.arange(120) % 5 == 2, np.nan, Y)
    model = MLPRegressor(solver=solver, missing_targets="ignore", **SETTINGS).fit(X, y)
    there = (~np.isnan(y)).astype(float)
    expected = MLPRegressor(solver=solver, **SETTINGS).fit(X, Y, there)
    assert_same_fit(model, expected)
    score = r2_score(Y, model.predict(X), sample_weight=there)
    assert model.score(X, y) == pytest.approx(score)


def test_a_batch_without_targets():
    y = HOLES.copy()
    y[:32] = np.nan  # two batches
    model = MLPRegressor(missing_targets="ignore", shuffle=False, **SETTINGS).fit(X, y)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_scores_of_what_is_there(loss):
    y = np.abs(HOLES) if loss == "poisson" else HOLES
    model = MLPRegressor(loss, missing_targets="ignore", early_stopping=True, **SETTINGS)
    model.fit(X, y, WEIGHT)
    assert np.isfinite(model.validation_scores_).all()
    predicted = model.predict(X)
    scores = []
    for column in range(3):
        there = ~np.isnan(y[:, column])
        pair = y[there, column], predicted[there, column]
        scores.append(r2_score(*pair, sample_weight=WEIGHT[there]))
    assert model.score(X, y, WEIGHT) == pytest.approx(np.mean(scores))


def test_units_of_what_is_there():
    model = MLPRegressor("huber", missing_targets="ignore", scale_targets=True, **SETTINGS)
    targets = model.fit(X, HOLES)._model.targets
    np.testing.assert_allclose(targets.means, np.nanmean(HOLES, axis=0))
    np.testing.assert_allclose(targets.deviations, np.nanstd(HOLES, axis=0))
    empty = np.column_stack([Y, np.full(120, np.nan)])
    with pytest.raises(ValueError, match="Column 1 of y has no target in a row with weight"):
        clone(model).fit(X, empty)


# ---- kept models --------------------------------------------------------------------------------

KEPT = {
    "huber": (MLPRegressor("huber", scale_targets=True, **SETTINGS), SEVERAL),
    "quantiles": (MLPRegressor("quantile", quantile=[0.9, 0.1], **SETTINGS), Y),
    "missing": (MLPRegressor(missing_targets="ignore", scale_targets=True, **SETTINGS), HOLES),
    "focal": (MLPClassifier(loss="focal", label_smoothing=0.1, **SETTINGS), CLASSES),
    "class weights": (MLPClassifier(class_weight={"yes": 2.0, "no": 1}, **SETTINGS), BINARY),
    "label weights": (
        MLPClassifier(class_weight=[{0: 1, 1: 2}, {0: 1}, {1: 0.5}], **SETTINGS), LABELS
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "y"), KEPT.values(), ids=KEPT)
def test_kept_models_go_on(model, y, tmp_path):
    model = clone(model).fit(X, y)
    model.save(tmp_path / "model")
    others = [fastbp.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))]
    for other in others:
        assert other.get_params() == model.get_params()
        np.testing.assert_array_equal(other.predict(X), model.predict(X))
        assert other._model.targets == model._model.targets
    model.partial_fit(X, y)
    for other in others:
        assert_same_fit(other.partial_fit(X, y), model)


@pytest.mark.parametrize(("model", "y"), KEPT.values(), ids=KEPT)
def test_fits_that_are_resumed(model, y, tmp_path):
    expected = clone(model).fit(X, y)

    def interrupt(report):
        if report.n_iter == 2:
            raise RuntimeError

    model = clone(model).set_params(checkpoint=tmp_path / "state", callback=interrupt)
    with pytest.raises(RuntimeError):
        model.fit(X, y)
    model.set_params(callback=None).fit(X, y, resume=True)
    assert_same_fit(model, expected)


@pytest.mark.parametrize("own", [False, True], ids=["held out", "own"])
@pytest.mark.parametrize(("model", "y"), KEPT.values(), ids=KEPT)
def test_validation_is_in_the_units_of_training(model, y, own):
    predictions = []
    model = clone(model).set_params(
        alpha=0, callback=lambda report: predictions.append(report.predict(X))
    )
    if not own:
        model.set_params(early_stopping=True).fit(X, y)
        assert np.isfinite(model.validation_scores_).all()
        assert model.validation_loss_curve_[-1] < 3 * model.loss_
        return
    model.fit(X, y, X_val=X, y_val=y)
    np.testing.assert_array_equal(predictions[-1], model.predict(X))
    assert model.validation_scores_[-1] == pytest.approx(model.score(X, y))
    if getattr(model, "class_weight", None) is None:  # which counts in training alone
        trace = fastbp.inspect.backprop_trace(model, X, y)
        assert model.validation_loss_curve_[-1] == pytest.approx(trace.loss)


def test_a_checkpoint_of_other_class_weights(tmp_path):
    """All dicts were written as the same word."""
    model = MLPClassifier(class_weight={0: 1, 3: 2}, checkpoint=tmp_path / "state", **SETTINGS)
    model.fit(X, CLASSES)
    with pytest.raises(ValueError, match="was written with class_weight="):
        model.set_params(class_weight={0: 2, 3: 4}).fit(X, CLASSES, resume=True)


@pytest.mark.parametrize(("model", "y"), KEPT.values(), ids=KEPT)
def test_what_scikit_learn_gets(model, y):
    """The units of y become part of the weights; what it cannot train with is said."""
    model = clone(model).fit(X, y)
    if isinstance(getattr(model, "quantile", None), list):
        with pytest.raises(ValueError, match="the outputs are sorted, which no layer does"):
            model.to_sklearn()
        return
    with pytest.warns(UserWarning, match=r"scikit-learn has no .*further training would start"):
        theirs = model.to_sklearn()
    outputs = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    np.testing.assert_allclose(
        getattr(theirs, outputs)(X), getattr(model, outputs)(X), rtol=1e-9, atol=1e-12
    )
    if outputs == "predict":
        model.set_params(out_activation="tanh", warm_start=False).fit(X, y)
        with pytest.raises(ValueError, match="scale_targets=True with out_activation='tanh'"):
            model.to_sklearn()


def test_a_trace_is_in_the_units_of_training():
    model = MLPRegressor("huber", scale_targets=True, **SETTINGS).fit(X, 1e6 + SEVERAL)
    trace = fastbp.inspect.backprop_trace(model, X, 1e6 + SEVERAL)
    assert trace.loss < 10
    assert trace.deltas[-1].shape == (120, 3)
    smoothed = MLPClassifier(label_smoothing=0.1, **SETTINGS).fit(X, CLASSES)
    assert fastbp.inspect.backprop_trace(smoothed, X, CLASSES).loss > 0.1


# ---- bounds of the predictions ------------------------------------------------------------------


@pytest.mark.parametrize("scale_targets", [False, True])
def test_predictions_stay_within_the_targets(scale_targets, tmp_path):
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 2))
    Y = np.c_[X[:, 0], 100 * X[:, 1]] + 5
    parameters = {"hidden_layer_sizes": (), "solver": "lbfgs", "random_state": 0}
    parameters["scale_targets"] = scale_targets
    free = MLPRegressor(**parameters).fit(X, Y)
    bounded = MLPRegressor(clip_predictions=True, **parameters).fit(X, Y)
    far = 10 * X
    expected = np.clip(free.predict(far), Y.min(axis=0), Y.max(axis=0))
    assert_allclose(bounded.predict(far), expected)
    assert (bounded.predict(far) != free.predict(far)).any()
    bounded.save(tmp_path / "model")
    assert_array_equal(load(tmp_path / "model").predict(far), bounded.predict(far))
    with pytest.raises(ValueError, match="clip_predictions=True cannot be converted"):
        bounded.to_sklearn()


def test_validation_rows_are_scored_within_the_targets():
    """A network that runs away was scored by what nobody is told."""
    random = np.random.default_rng(0)
    X = random.normal(size=(80, 3))
    y, parameters = X.sum(axis=1), {"learning_rate_init": 3.0, "max_iter": 3, "random_state": 0}
    X_val, y_val = 5 * X[:20], y[:20]
    models = [
        MLPRegressor(clip_predictions=clips, scoring=scoring, **parameters).fit(
            X, y, X_val=X_val, y_val=y_val
        )
        for clips in (False, True)
        for scoring in (None, "r2")
    ]
    free, free_by_name, bounded, bounded_by_name = (m.validation_scores_ for m in models)
    assert_allclose(bounded, bounded_by_name)
    assert_allclose(free, free_by_name)
    assert max(free) < min(bounded)
    assert_allclose(bounded[-1], models[2].score(X_val, y_val))


def test_later_batches_widen_the_range():
    X = np.linspace(0, 1, 20)[:, None]
    model = MLPRegressor(hidden_layer_sizes=(), clip_predictions=True, random_state=0)
    model.partial_fit(X, X.ravel())
    model.coefs_, model.intercepts_ = [np.array([[100.0]])], [np.array([0.0])]
    assert model.predict([[1.0]]) == 1.0
    model.partial_fit(X, 2 * X.ravel())
    model.coefs_, model.intercepts_ = [np.array([[100.0]])], [np.array([0.0])]
    assert model.predict([[1.0]]) == 2.0
