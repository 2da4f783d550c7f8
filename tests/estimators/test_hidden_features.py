"""`HiddenFeatures`: a hidden layer as a transformer, inside scikit-learn's tools."""

import pickle

import joblib
import numpy as np
import pytest
from conftest import TASKS, small
from scipy.sparse import csr_array
from sklearn import set_config
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor as TheirMLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp import HiddenFeatures, MLPClassifier, MLPRegressor
from fastbp.inspect import activations

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks(
    [
        HiddenFeatures(MLPClassifier((5, 4), max_iter=20, random_state=0)),
        HiddenFeatures(MLPRegressor("squared_error", (5,), max_iter=20, random_state=0), layer=0),
        HiddenFeatures(
            MLPRegressor(
                hidden_layer_sizes=(5,), solver="lbfgs", precision="float32", random_state=0
            )
        ),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def theirs_hidden(model, X, layer):
    """The outputs of a layer, by scikit-learn's own forward pass."""
    theirs = model.to_sklearn()
    layers = [np.asarray(X), *(np.empty((len(X), w.shape[1])) for w in theirs.coefs_)]
    return theirs._forward_pass(layers)[1 + layer]


@pytest.mark.smoke
@pytest.mark.parametrize(("layer", "expected"), [(-1, 1), (0, 0), (1, 1), (-2, 0)])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "multi-output"])
def test_features_are_a_hidden_layers_outputs(task, layer, expected):
    model, X, y = small(task, hidden_layer_sizes=(6, 4), activation="tanh")
    hidden = HiddenFeatures(model, layer=layer)
    found = hidden.fit_transform(X, y)
    assert not hasattr(model, "coefs_")
    assert type(hidden.estimator_) is type(model)
    np.testing.assert_allclose(found, theirs_hidden(hidden.estimator_, X, expected), rtol=1e-10)
    np.testing.assert_array_equal(found, activations(hidden.estimator_, X)[expected])
    np.testing.assert_array_equal(hidden.transform(csr_array(X)), found)
    assert hidden.n_features_in_ == 5
    names = [f"hiddenfeatures{i}" for i in range((6, 4)[expected])]
    assert hidden.get_feature_names_out().tolist() == names


@pytest.mark.parametrize("task", TASKS)
def test_dtypes_weights_and_copies(task):
    model, X, y = small(task)
    weight = np.resize([1.0, 2.0, 0.0], len(X))
    hidden = HiddenFeatures(model).fit(X.astype(np.float32), y, sample_weight=weight)
    alone = clone(model).fit(X.astype(np.float32), y, weight)
    found = hidden.transform(X.astype(np.float32))
    np.testing.assert_array_equal(found, activations(alone, X.astype(np.float32))[0])
    assert found.dtype == np.float32
    for copy in (pickle.loads(pickle.dumps(hidden)), clone(hidden).fit(X, y)):
        assert copy.transform(X).shape == found.shape
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(hidden)).transform(X), hidden.transform(X)
    )


def test_a_layer_chosen_after_the_fit():
    model, X, y = small("multiclass", hidden_layer_sizes=(6, 4))
    hidden = HiddenFeatures(model).fit(X, y)
    assert hidden.transform(X).shape[1] == 4
    assert hidden.set_params(layer=0).transform(X).shape[1] == len(hidden.get_feature_names_out())


def test_in_a_pipeline_and_a_search(tmp_path):
    X, y = load_iris(return_X_y=True)
    network = MLPClassifier((4,), max_iter=60, learning_rate_init=0.02, random_state=0)
    pipeline = make_pipeline(StandardScaler(), HiddenFeatures(network), LogisticRegression())
    grid = {"hiddenfeatures__estimator__hidden_layer_sizes": [(4,), (16, 8)]}
    with joblib.parallel_config(backend="loky"):
        search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.9
    assert {*search.cv_results_["mean_test_score"]} > {search.best_score_}  # the sizes arrive
    joblib.dump(search, tmp_path / "search")
    again = joblib.load(tmp_path / "search")
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))
    # Trained with the first steps' rows, and used by the last.
    best = search.best_estimator_
    scaled = best[0].transform(X)
    np.testing.assert_allclose(
        best[-1].coef_, clone(best[-1]).fit(clone(best[1]).fit_transform(scaled, y), y).coef_
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    frames = pytest.importorskip(library)
    model, X, y = small("multiclass")
    frame = frames.DataFrame({name: X[:, i] for i, name in enumerate("abcde")})
    hidden = HiddenFeatures(model).set_output(transform=library).fit(frame, y)
    found = hidden.transform(frame)
    assert list(found.columns) == list(hidden.get_feature_names_out())
    np.testing.assert_array_equal(found.to_numpy(), activations(hidden.estimator_, frame)[0])
    assert hidden.feature_names_in_.tolist() == list("abcde")
    union = FeatureUnion([("hidden", HiddenFeatures(model)), ("scaled", StandardScaler())])
    assert union.fit_transform(frame, y).shape == (len(X), 11)
    with pytest.raises(ValueError, match="feature names"):
        hidden.transform(frame[list("edcba")])


def test_a_frozen_estimator_is_used_as_it_is():
    model, X, y = small("multiclass")
    frozen = FrozenEstimator(model.fit(X, y))
    hidden = HiddenFeatures(frozen).fit(X)
    assert hidden.estimator_ is frozen
    np.testing.assert_array_equal(hidden.transform(X), activations(model, X)[0])
    pipeline = make_pipeline(clone(HiddenFeatures(frozen)), LogisticRegression()).fit(X, y)
    assert pipeline[0].estimator_.estimator is model
    with pytest.raises(NotFittedError):
        HiddenFeatures(FrozenEstimator(MLPClassifier())).fit(X, y)


@pytest.fixture
def metadata_routing():
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


@pytest.mark.usefixtures("metadata_routing")
def test_metadata_are_routed():
    model, X, y = small("binary")
    weight = np.resize([1.0, 5.0, 0.0], len(X))
    wants = clone(model).set_fit_request(sample_weight=True)
    pipeline = make_pipeline(HiddenFeatures(wants), LogisticRegression())
    pipeline[-1].set_fit_request(sample_weight=False)
    found = pipeline.fit(X, y, sample_weight=weight)[0].transform(X)
    np.testing.assert_array_equal(found, activations(clone(model).fit(X, y, weight), X)[0])


def test_what_is_refused():
    model, X, y = small("multiclass", hidden_layer_sizes=(6, 4))
    with pytest.raises(NotFittedError):
        HiddenFeatures(model).transform(X)
    for layer in (2, -3):
        with pytest.raises(ValueError, match=f"layer={layer}, .* 2 hidden .* from -2 to 1"):
            HiddenFeatures(model, layer=layer).fit(X, y)
    with pytest.raises(ValueError, match=r"'layer' parameter .* must be an instance of 'int'"):
        HiddenFeatures(model, layer="last").fit(X, y)
    without = small("multiclass", hidden_layer_sizes=())[0]
    for given in (without, FrozenEstimator(clone(without).fit(X, y))):
        with pytest.raises(ValueError, match=r"no hidden layers, as hidden_layer_sizes=\(\)"):
            HiddenFeatures(given).fit(X, y)
    for wrong in (TheirMLPRegressor(), LogisticRegression()):
        with pytest.raises(TypeError, match="of fastbp, alone or in a FrozenEstimator, got"):
            HiddenFeatures(wrong).fit(X, y)
    hidden = HiddenFeatures(model).fit(X, y)
    before = hidden.transform(X)
    with pytest.raises(ValueError, match="NaN"):
        hidden.fit(X * np.nan, y)
    np.testing.assert_array_equal(hidden.transform(X), before)
    with pytest.raises(ValueError, match="4 features, but HiddenFeatures is expecting 5"):
        hidden.transform(X[:, 1:])
