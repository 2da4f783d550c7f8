"""fastbp inside scikit-learn's tools: with the same seed in float64, scikit-learn's own results."""

import re

import joblib
import numpy as np
import pytest
import sklearn.neural_network
import versions
from sklearn import set_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.inspection import (
    DecisionBoundaryDisplay,
    PartialDependenceDisplay,
    partial_dependence,
    permutation_importance,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import fastbp
from benchmarks import grid_search
from fastbp.cpu import engine
from fastbp.cpu.engine import Engine
from fastbp.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
X = X - X.mean(axis=0)
PACKAGES = fastbp, sklearn.neural_network


def classifiers(**parameters):
    """The same unfitted classifier from fastbp and from scikit-learn."""
    given = {"hidden_layer_sizes": (6,), "max_iter": 30, "learning_rate_init": 0.02}
    given |= {"random_state": 0} | parameters
    return [package.MLPClassifier(**given) for package in PACKAGES]


def regressors(**parameters):
    """The same unfitted regressor from fastbp and from scikit-learn."""
    given = {"hidden_layer_sizes": (6,), "max_iter": 30, "learning_rate_init": 0.02}
    given |= {"random_state": 0} | parameters
    return [package.MLPRegressor(**given) for package in PACKAGES]


def assert_same(results):
    """Hold fastbp's result against scikit-learn's."""
    ours, theirs = results
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


# ---- scikit-learn's tools around a classifier, and what to compare ------------------------------

TOOLS = {
    "pipeline": lambda model: make_pipeline(StandardScaler(), model),
    "bagging": lambda model: BaggingClassifier(model, n_estimators=3, random_state=1),
    "bagging of features": lambda model: BaggingClassifier(
        model, n_estimators=3, max_features=0.5, bootstrap=False, random_state=1
    ),
    "boosting": lambda model: AdaBoostClassifier(model, n_estimators=4, random_state=1),
    "calibration": lambda model: CalibratedClassifierCV(model, cv=3),
    "calibration, isotonic": lambda model: CalibratedClassifierCV(model, method="isotonic", cv=2),
    "stacking": lambda model: StackingClassifier(
        [("mlp", model), ("linear", LogisticRegression())], cv=3
    ),
    "voting": lambda model: VotingClassifier(
        [("mlp", model), ("linear", LogisticRegression())], voting="soft"
    ),
    "grid search": lambda model: GridSearchCV(model, {"alpha": [1e-4, 1.0, 100.0]}, cv=3),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_give_scikit_learns_probabilities(tool):
    if tool == "boosting":
        versions.needs("sample weights of MLPs")
    assert_same([TOOLS[tool](model).fit(X, y).predict_proba(X) for model in classifiers()])


def test_boosting_uses_the_weights():
    """The members differ, which they would not if their weights were left out."""
    model = AdaBoostClassifier(classifiers()[0], n_estimators=3, random_state=1).fit(X, y)
    first, second = (member.coefs_[0] for member in model.estimators_[:2])
    unweighted = clone(model.estimators_[1]).fit(X, y)
    assert not np.allclose(first, second)
    assert not np.allclose(unweighted.coefs_[0], second)


@pytest.mark.parametrize("tool", [MultiOutputClassifier, ClassifierChain])
def test_several_outputs(tool):
    labels = np.column_stack([y > 0, y > 1]).astype(int)
    results = [tool(model).fit(X, labels).predict_proba(X) for model in classifiers()]
    for ours, theirs in zip(*results, strict=True):
        assert_same((ours, theirs))


def test_transformed_target():
    target = X[:, 3] * 100 + 500
    results = [
        TransformedTargetRegressor(model, transformer=MinMaxScaler()).fit(X[:, :3], target)
        for model in regressors()
    ]
    assert_same([model.predict(X[:, :3]) for model in results])
    assert results[0].predict(X[:, :3]).min() > 300  # in the units of the target


# ---- searches and scores ------------------------------------------------------------------------

GRID = {"hidden_layer_sizes": [(4,), (6, 3)], "alpha": [1e-4, 1.0], "solver": ["adam", "lbfgs"]}


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_searches_rank_the_same(backend):
    found = []
    for model in classifiers(max_iter=15):
        search = GridSearchCV(model, GRID, cv=3, n_jobs=2, scoring="neg_log_loss")
        with joblib.parallel_config(backend=backend):
            found.append(search.fit(X, y))
    ours, theirs = found
    np.testing.assert_array_equal(
        ours.cv_results_["rank_test_score"], theirs.cv_results_["rank_test_score"]
    )
    # Past a few iterations of lbfgs rounding decides which way the iterates take.
    batches = ours.cv_results_["param_solver"] == "adam"
    assert_same([s.cv_results_["mean_test_score"][batches] for s in found])
    assert ours.best_params_ == theirs.best_params_
    fresh = clone(ours.best_estimator_)
    assert fresh.get_params() == ours.best_estimator_.get_params()
    assert not hasattr(fresh, "coefs_")


def test_benchmark_of_a_search(monkeypatch):
    monkeypatch.setattr(grid_search, "GRID", {"hidden_layer_sizes": [(4,), (8,)]})
    seconds, same, difference = grid_search.compare("float64", n_rounds=1, max_iter=2)
    assert set(seconds) == {"fastbp", "scikit-learn"}
    assert same
    assert difference == 0


def test_halving_and_random_searches():
    found = []
    for model in classifiers(max_iter=10):
        grid = {"alpha": [1e-4, 1e-2, 1.0, 100.0]}
        halving = HalvingGridSearchCV(model, grid, cv=2, random_state=0).fit(X, y)
        resource = HalvingGridSearchCV(
            model, grid, cv=2, resource="max_iter", max_resources=20, random_state=0
        ).fit(X, y)
        drawn = RandomizedSearchCV(model, grid, n_iter=2, cv=2, random_state=0).fit(X, y)
        found.append([s.cv_results_["mean_test_score"] for s in (halving, resource, drawn)])
    for results in zip(*found, strict=True):
        assert_same(results)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_cross_validation(backend):
    def scored(model):
        with joblib.parallel_config(backend=backend):
            return np.concatenate(
                [
                    cross_val_score(make_pipeline(StandardScaler(), model), X, y, n_jobs=2),
                    cross_val_predict(model, X, y, method="predict_proba", n_jobs=2).ravel(),
                    cross_validate(model, X, y, scoring=["roc_auc_ovr", "f1_macro"], n_jobs=2)[
                        "test_roc_auc_ovr"
                    ],
                ]
            )

    assert_same([scored(model) for model in classifiers(max_iter=10)])


@pytest.mark.parametrize("incremental", [False, True])
def test_curves(incremental):
    def curve(model):
        return learning_curve(
            model, X, y, cv=3, exploit_incremental_learning=incremental, shuffle=True,
            random_state=0, train_sizes=[0.2, 0.6, 1.0],
        )[2]  # fmt: skip

    assert_same([curve(model) for model in classifiers()])
    results = [
        validation_curve(model, X, X[:, 0], param_name="alpha", param_range=[1e-4, 10.0], cv=3)[1]
        for model in regressors()
    ]
    assert_same(results)


def test_feature_selection():
    results = [
        SequentialFeatureSelector(model, n_features_to_select=2, cv=2).fit(X, y).support_
        for model in classifiers(max_iter=10)
    ]
    assert_same(results)


# ---- inspection ---------------------------------------------------------------------------------


def test_inspection():
    results = []
    for model in classifiers():
        model.fit(X, y)
        importance = permutation_importance(model, X, y, n_repeats=3, random_state=0)
        average = partial_dependence(model, X, [2], grid_resolution=5)["average"]
        results.append(np.concatenate([importance.importances.ravel(), average.ravel()]))
    assert_same(results)
    results = []
    for model in regressors():
        dependence = partial_dependence(model.fit(X[:, :3], X[:, 3]), X[:, :3], [(0, 2)])
        results.append(dependence["average"])
    assert_same(results)


def test_displays():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    model = classifiers()[0].fit(X[:, :2], y > 0)
    DecisionBoundaryDisplay.from_estimator(model, X[:, :2], grid_resolution=5)
    PartialDependenceDisplay.from_estimator(model, X[:, :2], [0], grid_resolution=5)


# ---- frames, metadata, representation -----------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output_reaches_the_model_as_a_frame(library):
    frames = pytest.importorskip(library)
    if library == "polars" and not hasattr(frames.DataFrame, "__dataframe__"):
        versions.needs("names of columns in polars 2")
    frame = frames.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    pipeline = make_pipeline(StandardScaler(), classifiers()[0]).set_output(transform=library)
    pipeline.fit(frame, y)
    assert list(pipeline[-1].feature_names_in_) == list("abcd")
    plain = make_pipeline(StandardScaler(), classifiers()[0]).fit(X, y)
    # Not to the bit: the scaler adds columns up in another order.
    assert_same((pipeline.predict_proba(frame), plain.predict_proba(X)))


@pytest.fixture
def metadata_routing():
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


@pytest.mark.usefixtures("metadata_routing")
def test_sample_weight_is_routed():
    versions.needs("routing to a pipeline's score")
    weight = np.resize([1.0, 3.0, 0.0], len(X))

    def scored(model, weight):
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        model.set_partial_fit_request(sample_weight=True, classes=True)
        search = GridSearchCV(
            make_pipeline(MinMaxScaler(), model), {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=3
        ).fit(X, y, sample_weight=weight)
        bagging = BaggingClassifier(model, n_estimators=2, random_state=0)
        bagging.fit(X, y, sample_weight=weight)
        return np.append(search.cv_results_["mean_test_score"], bagging.predict_proba(X).ravel())

    results = [scored(model, weight) for model in classifiers()]
    assert_same(results)
    assert not np.allclose(results[0][:2], scored(classifiers()[0], np.ones(len(X)))[:2])


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("make", [classifiers, regressors])
def test_representation(make, fitted):
    versions.needs("parameters in HTML")

    def shown(model):
        model = model.fit(X, y) if fitted else model
        bundle = model._repr_mimebundle_()
        assert bundle["text/plain"] == repr(model)
        # Links, identifiers, and the documentation and extra parameters of the two differ.
        words = re.sub(r"<[^>]*>", " ", bundle["text/html"][bundle["text/html"].find("</style>") :])
        return set(re.findall(r"[A-Za-z]\w{3,}", words))

    ours, theirs = map(shown, make())
    assert {name for name in make()[1].get_params() if len(name) > 3} <= ours & theirs
    assert ("Fitted" in ours) == ("Fitted" in theirs)
    pipeline = make_pipeline(StandardScaler(), make()[0])
    assert "MLP" in pipeline._repr_html_()


# ---- side by side -------------------------------------------------------------------------------


def test_fits_side_by_side_share_the_cores(monkeypatch):
    """Else a search by threads runs as many teams of all cores as it has jobs, and all wait."""
    monkeypatch.setattr(engine, "available_threads", lambda: 6)
    network = Network((400, 400, 10), ("relu",), "softmax", "log_loss")

    def team_sizes(count, n_threads=None):
        engines = [Engine(network, np.float64, n_threads) for _ in range(count)]
        for entered in engines:
            entered.__enter__()
        sizes = {entered._team_size(10_000) for entered in engines}
        for entered in engines:
            entered.__exit__(None, None, None)
        return sizes

    assert [team_sizes(count) for count in (1, 2, 3, 6, 9)] == [{6}, {3}, {2}, {1}, {1}]
    assert [team_sizes(count, 2) for count in (1, 3, 4)] == [{2}, {2}, {1}]
    with pytest.raises(ValueError, match="not finite"), Engine(network, np.float64):
        raise ValueError("not finite")
    assert team_sizes(1) == {6}
