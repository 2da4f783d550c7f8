"""`activations` and `backprop_trace` against the engine and the plain oracle.

test_torch has autograd's δ.
"""

import numpy as np
import pytest
from conftest import TASKS, small
from naive import NaiveEngine, forward
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.special import ndtr
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

import fastbp
from fastbp.activations import ACTIVATIONS, HIDDEN_ACTIVATIONS
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.inspect import activations, backprop_trace
from fastbp.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Output activation, loss, hidden activations.
NETWORKS = [
    ("softmax", "log_loss", ("relu", "tanh")),
    ("logistic", "log_loss", ("logistic",)),
    ("logistic", "squared_error", ("logistic", "logistic")),
    ("tanh", "squared_error", ("relu",)),
    ("exp", "poisson", ("tanh", "identity")),
    ("identity", "squared_error", ()),
]


def make_problem(output_activation, loss, hidden_activations):
    """A network with three outputs, its parameters, and seven rows with targets."""
    sizes = (4, *(6, 5)[: len(hidden_activations)], 3)
    network = Network(sizes, hidden_activations, output_activation, loss)
    rng = np.random.default_rng(0)
    parameters = rng.normal(scale=0.5, size=network.n_parameters)
    X = rng.normal(size=(7, 4))
    softmax = output_activation == "softmax"
    y = rng.integers(3, size=7) if softmax else rng.random((7, 3))
    return network, parameters, X, y


def assert_consistent(trace, weight):
    """The gradients are those that activations and deltas make."""
    shares = weight / weight.sum()
    for h, delta, of_coefs, of_intercepts in zip(
        trace.activations[:-1],
        trace.deltas,
        trace.coef_gradients,
        trace.intercept_gradients,
        strict=True,
    ):
        assert_allclose(of_coefs, (h * shares[:, None]).T @ delta, rtol=1e-9, atol=1e-14)
        assert_allclose(of_intercepts, shares @ delta, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("problem", NETWORKS, ids=lambda p: "-".join(p[:2]))
def test_a_network_against_the_engine_and_the_oracle(problem):
    network, parameters, X, y = make_problem(*problem)
    weight = np.arange(7.0)
    trace = backprop_trace(network, X, y, parameters=parameters, sample_weight=weight)
    data = Data(X, y, weight)
    for engine in (Engine(network, np.float64), NaiveEngine(network, np.float64)):
        engine.load_parameters(parameters)
        loss, gradient = engine.loss_and_gradient(data)
        gradients = network.flatten(trace.coef_gradients, trace.intercept_gradients, np.float64)
        assert trace.loss == pytest.approx(loss, rel=1e-12)
        assert_allclose(gradients, gradient, rtol=1e-9, atol=1e-14)
        assert_allclose(trace.activations[-1], engine.predict(data), rtol=1e-12)
    inputs, logits, _ = forward(network, parameters, X)
    for mine, expected in zip(trace.activations, inputs, strict=False):
        assert_allclose(mine, expected, rtol=1e-12, atol=1e-15)
    assert_allclose(trace.pre_activations[-1], logits[-1], rtol=1e-11)
    assert_consistent(trace, weight)


@pytest.mark.smoke
@pytest.mark.parametrize("task", TASKS)
def test_a_fitted_estimator(task):
    model, X, y = small(task, hidden_layer_sizes=(6, 4), alpha=0.0, input_scale=0.5)
    before = dict(vars(model.fit(X, y)))
    trace = backprop_trace(model, X[:9], y[:9])
    assert vars(model) == before
    assert_allclose(trace.activations[0], X[:9] / 2)
    assert [h.shape[1] for h in trace.activations] == [5, 6, 4, model.n_outputs_]
    outputs = getattr(model, "predict_proba", model.predict)(X[:9])
    columns = trace.activations[-1].shape[1]
    assert_allclose(trace.activations[-1], outputs.reshape(9, -1)[:, -columns:], rtol=1e-12)
    assert_consistent(trace, np.ones(9))

    sparse = backprop_trace(model, csr_array(X[:9]), y[:9])
    assert_allclose(sparse.deltas[0], trace.deltas[0], rtol=1e-12)
    single = small(task, precision="float32")[0].fit(X, y)
    assert backprop_trace(single, X[:9], y[:9]).deltas[0].dtype == np.float32


def test_the_penalty_is_in_loss_and_gradients():
    model, X, y = small("single", alpha=3.0)
    model.fit(X, y)
    with_penalty = backprop_trace(model, X, y)
    without = backprop_trace(model.set_params(alpha=0.0), X, y)
    squares = sum((weights**2).sum() for weights in model.coefs_)
    assert with_penalty.loss == pytest.approx(without.loss + 1.5 * squares / len(X))
    assert_allclose(
        with_penalty.coef_gradients[0],
        without.coef_gradients[0] + 3.0 * model.coefs_[0] / len(X),
    )


def test_what_does_not_fit_is_refused():
    network, parameters, X, y = make_problem(*NETWORKS[0])
    for wrong, says in [
        (dict(parameters=None), r"shape \(83,\).* got none"),
        (dict(parameters=parameters[1:]), r"got \(82,\)"),
        (dict(X=X[:, 1:]), r"4 columns .* \(7, 3\)"),
        (dict(X=X[1:]), "inconsistent numbers of samples"),
        (dict(y=y[:, None]), r"y of shape \(7,\).* \(7, 1\)"),
        (dict(y=y + 1), "class indices from 0 to 2"),
        (dict(y=y / 2), "class indices"),
        (dict(sample_weight=-np.ones(7)), "must not be negative"),
    ]:
        arguments = dict(X=X, y=y, parameters=parameters) | wrong
        with pytest.raises(ValueError, match=says):
            backprop_trace(network, **arguments)
    with pytest.raises(NotFittedError):
        backprop_trace(fastbp.MLPRegressor(), X, y)
    model, X, y = small("multi-output")
    model.fit(X, y)
    with pytest.raises(ValueError, match="y has 1 outputs, but the model 3"):
        backprop_trace(model, X, y[:, 0])
    with pytest.raises(ValueError, match="its own in coefs_"):
        backprop_trace(model, X, y, parameters=parameters)


def test_hidden_activations_that_no_output_has():
    """gelu is for hidden layers alone."""
    X = np.linspace(-3, 3, 20)[:, None]
    model = fastbp.MLPRegressor(hidden_layer_sizes=(4,), activation="gelu", max_iter=1)
    trace = backprop_trace(model.fit(X, X[:, 0]), X, X[:, 0])
    z = trace.pre_activations[0]
    assert_allclose(trace.activations[1], z * ndtr(z), rtol=1e-12)


# ---- without targets ----------------------------------------------------------------------------


def network_outputs(model, X):
    """What `activations` ends with, by the estimator's own prediction."""
    found = getattr(model, "predict_proba", model.predict)(X)
    return found.reshape(len(X), -1)[:, -model.n_outputs_ :]


@pytest.mark.smoke
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("task", TASKS)
def test_activations_end_with_the_prediction(task, precision):
    model, X, y = small(task, hidden_layer_sizes=(6, 4), input_scale=0.5, precision=precision)
    before = dict(vars(model.fit(X, y)))
    outputs = activations(model, X)
    assert vars(model) == before
    assert [h.shape for h in outputs] == [(len(X), 6), (len(X), 4), (len(X), model.n_outputs_)]
    assert {h.dtype for h in outputs} == {np.dtype(precision)}
    tolerance = 1e-12 if precision == "float64" else 1e-6
    assert_allclose(outputs[-1], network_outputs(model, X), rtol=tolerance)
    logits = outputs[-2] @ model.coefs_[-1] + model.intercepts_[-1]
    if model.out_activation_ == "identity":
        assert_allclose(outputs[-1], logits, rtol=tolerance, atol=tolerance)
    for again in (activations(model, csr_array(X)), activations(FrozenEstimator(model), X)):
        for found, expected in zip(again, outputs, strict=True):
            np.testing.assert_array_equal(found, expected)
    trace = backprop_trace(model, X, y)
    for found, expected in zip(trace.activations[1:], outputs, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_activations_are_the_records_formulas(name):
    """Also far from zero, where a formula of another kind would overflow."""
    X = np.linspace(-40, 40, 41)[:, None]
    model = fastbp.MLPRegressor(hidden_layer_sizes=(3, 2), activation=name, max_iter=1)
    model.fit(X, X[:, 0])
    inputs = X
    formula = np.vectorize(lambda z: ACTIVATIONS[name].forward(float(z)), otypes=[float])
    for layer, found in enumerate(activations(model, X)[:-1]):
        logits = inputs @ model.coefs_[layer] + model.intercepts_[layer]
        assert_allclose(found, formula(logits), rtol=1e-11, atol=1e-13)
        inputs = found


def test_activations_of_many_rows_on_a_team(monkeypatch):
    """A layer alone must have the bits that it has among others, whatever the batches."""
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_START", 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 70)).astype(np.float32)
    model = fastbp.MLPRegressor(hidden_layer_sizes=(90, 33), max_iter=1, n_threads=3)
    model.fit(X, X[:, :2])
    several = activations(model, X)
    np.testing.assert_array_equal(several[-1], model.predict(X))
    for found, expected in zip(several, activations(model.set_params(n_threads=1), X), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_activations_refuse():
    pandas = pytest.importorskip("pandas")
    model, X, y = small("single")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    with pytest.raises(NotFittedError):
        activations(model, X)
    model.fit(frame, y)
    assert activations(model, frame)[0].shape == (len(X), 6)
    for wrong, says in [
        (frame[list("edcba")], "feature names"),
        (frame.iloc[:, 1:], "feature names"),
        (frame.to_numpy()[:, 1:], "4 features"),
        (frame * np.nan, "NaN"),
        (frame.to_numpy() * 1e308 * 10, "infinity"),
    ]:
        with pytest.raises(ValueError, match=says), np.errstate(over="ignore"):
            activations(model, wrong)
    model.coefs_ = [model.coefs_[0] * 1e300, model.coefs_[1]]
    with pytest.raises(ValueError, match="outputs of a layer are not finite"):
        activations(model, frame * 1e10)
    for wrong in (Engine, None, "model"):
        with pytest.raises(TypeError, match="must be an MLPClassifier or MLPRegressor of fastbp"):
            activations(wrong, X)
