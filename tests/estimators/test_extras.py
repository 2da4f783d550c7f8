"""Scales, slopes, embeddings and groups of parameters on the estimators: whatever goes on."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.utils._param_validation import InvalidParameterError

import fastbp
from fastbp import MLPClassifier, MLPRegressor, fit_many
from fastbp.inspect import activations
from fastbp.preparing import draw_sample

FULL = {
    "scaling_layer": True, "parametric_activation": True, "numerical_embedding": "pbld",
    "embedded_features": 2, "parametrization": "neural_tangent", "solver": "adamw",
    "learning_rate_factors": {"intercepts": 0.1, "scales": 6.0, "slopes": 0.5, "embedding": 0.1},
    "initialization": "data_driven",
}  # fmt: skip
SCALES_ONLY = {"scaling_layer": True, "parametrization": "neural_tangent"}
KINDS = pytest.mark.parametrize("kind", [FULL, SCALES_ONLY], ids=["full", "scales"])


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(90, 4))
    return X, X[:, 0] * X[:, 1] + X[:, 2]


def regressor(kind, **parameters):
    own = {"hidden_layer_sizes": (11, 7), "shuffle": False, "random_state": 0, "max_iter": 3}
    return MLPRegressor(**own | kind | parameters)


def trained(model, X, y, n_epochs):
    for _ in range(n_epochs):
        model.partial_fit(X, y)
    return model


def state_of(model):
    return [*model.coefs_, *model.intercepts_, *model._model.extras, model.feature_scales_]


def assert_same(one, other):
    for ours, theirs in zip(state_of(one), state_of(other), strict=True):
        assert_array_equal(ours, theirs)


@KINDS
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_partial_fits_are_one_fit(kind, rows, tmp_path):
    """The scales are apart from the weights only in training, which must find them again."""
    X, y = rows
    whole = regressor(kind).fit(X, y)
    assert_same(trained(regressor(kind), X, y, 3), whole)
    pickled = pickle.loads(pickle.dumps(trained(regressor(kind), X, y, 1)))
    assert_same(trained(pickled, X, y, 2), whole)
    trained(regressor(kind), X, y, 2).save(tmp_path / "model")
    loaded = fastbp.load(tmp_path / "model")
    assert_same(trained(loaded, X, y, 1), whole)
    assert_array_equal(loaded.predict(X), whole.predict(X))


@KINDS
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_checkpoints_and_many(kind, rows, tmp_path):
    X, y = rows
    kind = kind | {"shuffle": True}
    whole = regressor(kind, max_iter=5).fit(X, y)
    stopping = regressor(
        kind, max_iter=5, checkpoint=tmp_path / "state",
        callback=lambda report: report.n_iter == 2 and 1 / 0,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        stopping.fit(X, y)
    stopping.set_params(callback=None).fit(X, y, resume=True)
    assert_same(stopping, whole)
    together = [regressor(kind, max_iter=5, random_state=seed) for seed in (0, 1)]
    fit_many(together, X, y)
    assert_same(together[0], whole)
    parts = np.arange(60)
    alone = regressor(kind, max_iter=2).fit(X[parts], y[parts])
    (partly,) = fit_many([regressor(kind, max_iter=2)], X, y, rows=[parts])
    assert_same(partly, alone)


@KINDS
def test_averages_and_assigned_weights(kind, rows):
    X, y = rows
    averaged = trained(regressor(kind, ema_decay=0.5), X, y, 1)
    before = averaged.coefs_[0].copy()
    trained(averaged, X, y, 1)
    assert not np.allclose(before, averaged.coefs_[0])
    changed = trained(regressor(kind), X, y, 1)
    changed.coefs_ = [weights * 0 for weights in changed.coefs_]
    assert np.ptp(changed.predict(X)) == 0
    trained(changed, X, y, 1)
    assert np.isfinite(changed.loss_)


@pytest.mark.parametrize("max_grad_norm", [None, 1e9])
def test_a_bound_that_is_never_reached_changes_little(rows, max_grad_norm):
    X, y = rows
    model = trained(regressor(FULL, max_grad_norm=max_grad_norm), X, y, 3)
    expected = trained(regressor(FULL), X, y, 3)
    for ours, theirs in zip(state_of(model), state_of(expected), strict=True):
        assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_the_bound_counts_all_parameters(rows):
    """By gradient descent, an update's length is the bound, of the extras as well."""
    X, y = rows
    kind = dict(FULL, learning_rate_factors=None, parametrization="standard", solver="sgd")
    kind |= {"momentum": 0.0, "alpha": 0.0, "batch_size": 90, "nesterovs_momentum": False}
    lengths = []
    for n_epochs in (1, 2):
        model = regressor(kind, max_grad_norm=0.25, learning_rate_init=1e-3)
        trained(model, X, y, n_epochs)
        lengths.append(model._optimizer.parameters)
    assert_allclose(np.linalg.norm(lengths[1] - lengths[0]), 0.25e-3, rtol=1e-4)


def test_layers_can_be_looked_at(rows):
    X, y = rows
    model = trained(regressor(FULL), X, y, 2)
    first, second, outputs = activations(model, X)
    assert_allclose(outputs[:, 0], model.predict(X))
    assert first.shape, second.shape == ((90, 11), (90, 7))
    frequencies, phases, weights, biases = model.embedding_
    waves = np.cos(2 * np.pi * X[:, :2, None] * frequencies + phases)
    numbers = np.einsum("nfk,fkj->nfj", waves, weights) + biases
    inputs = np.hstack([numbers.reshape(90, -1), X])
    z = inputs @ model.coefs_[0] + model.intercepts_[0]
    assert_allclose(first, z + model.activation_slopes_[0] * (np.maximum(z, 0) - z))


def test_exported_predictions(rows):
    onnxruntime = pytest.importorskip("onnxruntime")
    from fastbp.onnx import to_onnx

    X, y = rows
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 2e-6)):
        model = trained(regressor(FULL, precision="float64"), X, y, 2)
        exported = to_onnx(model, X[:1].astype(dtype)).SerializeToString()
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: X.astype(dtype)})
        assert_allclose(found[:, 0], model.predict(X), rtol=tolerance, atol=tolerance)


def test_what_does_not_go_together(rows):
    X, y = rows
    for parameters, message in (
        ({"learning_rate_factors": {"biases": 0.1}}, "'biases' is not known"),
        ({"learning_rate_factors": {"scales": 0.0}}, "must be a positive number, got 0.0"),
        ({"numerical_embedding": "pbld", "embedded_features": 5}, "at most 4"),
        ({"solver": "lbfgs", "parametrization": "neural_tangent"}, "mini-batches"),
        ({"solver": "lbfgs", "learning_rate_factors": {"scales": 2.0}}, "mini-batches"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            MLPRegressor(**parameters).fit(X, y)
    model = MLPRegressor(hidden_layer_sizes=(3,), numerical_embedding="pbld", max_iter=1)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(TypeError, match="numerical_embedding needs dense data"):
            method(csr_array(X), y)
    model.partial_fit(X, y)
    with pytest.raises(TypeError, match="numerical_embedding needs dense data"):
        model.predict(csr_array(X))
    with pytest.raises(ValueError, match="numerical_embedding cannot be converted"):
        model.to_sklearn()
    with pytest.raises(AttributeError, match="feature_scales_"):
        _ = model.feature_scales_


def test_scales_of_sparse_rows_are_those_of_dense_ones(rows):
    X, y = rows
    X = X * (np.random.default_rng(1).random(X.shape) < 0.3)
    dense, sparse = (trained(regressor(SCALES_ONLY), data, y, 3) for data in (X, csr_array(X)))
    for ours, theirs in zip(state_of(sparse), state_of(dense), strict=True):
        assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_lbfgs_trains_the_extras(rows):
    X, y = rows
    kind = {name: FULL[name] for name in FULL if name not in ("learning_rate_factors", "solver")}
    kind = dict(kind, parametrization="standard", solver="lbfgs", max_iter=200)
    model = regressor(kind).fit(X, y)
    assert model.loss_ < 0.01 * model.loss_curve_[0]
    assert np.ptp(model.feature_scales_) > 0
    assert np.ptp(model.activation_slopes_[1]) > 0


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_two_classes_have_one_unit(rows):
    X, y = rows
    model = MLPClassifier((8,), **FULL, max_iter=5, early_stopping=True, random_state=0)
    model.fit(X, y > 0)
    assert model.coefs_[-1].shape == (8, 1)
    assert model.predict_proba(X).shape == (90, 2)


@pytest.mark.parametrize("parameters", [{}, {"scaling_layer": True, "numerical_embedding": "pbld"}])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_units_that_are_the_same_for_all_rows_are_not_scaled(parameters):
    """Divided by a deviation that was but rounding, weights became 1e28."""
    for X in (np.ones((20, 6)), np.zeros((20, 6)), np.eye(20)[:, :6] * 1e-9 + 3):
        model = MLPRegressor(
            hidden_layer_sizes=(8, 8, 8), initialization="data_driven", max_iter=1, random_state=0,
            **parameters,
        ).fit(X, np.arange(20.0) / 20)  # fmt: skip
        assert max(np.abs(weights).max() for weights in model.coefs_) < 10
        assert model.loss_ < 10


def test_an_epoch_without_weight_says_so():
    """It was a loss of NaN, and scaling X was advised."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(150, 3)), random.normal(size=150)
    model = MLPRegressor(batch_size=100, drop_last=True, random_state=0, max_iter=50)
    with pytest.raises(ValueError, match=r"No row of epoch .* has a weight.*drop_last=False"):
        model.fit(X, y, np.r_[1.0, np.zeros(149)])


def test_a_warm_start_names_the_parameter_that_has_changed(rows):
    X, y = rows
    model = trained(regressor(FULL), X, y, 1).set_params(warm_start=True)
    with pytest.raises(ValueError, match="parametric_activation=True"):
        model.set_params(parametric_activation=False).fit(X, y)
    with pytest.raises(ValueError, match="embedded_features=2"):
        model.set_params(parametric_activation=True, embedded_features=1).fit(X, y)


def test_a_sample_is_of_the_listed_rows(rows):
    """Every one of many fits copied all of its rows of X, also where no draw looks at them."""
    X = rows[0]
    listed, state = np.array([3, 7, 20]), np.random.RandomState(0)
    assert draw_sample("glorot", object(), listed, 1.0, state) is None
    assert_array_equal(draw_sample("data_driven", X, listed, 2.0, state), 2 * X[listed])
    assert_array_equal(draw_sample("data_driven", csr_array(X), None, 1.0, state), X)
