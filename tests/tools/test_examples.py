"""Every example, run as the script that it is; its figures against their sources."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.neural_network
from numpy.testing import assert_allclose
from scipy.special import expit
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

EXAMPLES = Path(__file__).parents[2] / "examples"
MNIST = Path(
    os.environ.get("FASTBP_DATA") or Path(__file__).parents[3] / "shared" / "data" / "mnist"
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run an example in an empty folder; return its variables and what it printed.

    Where matplotlib is installed it draws, and must leave a picture of a size to commit.
    """

    def run(name, plot=True, data="nowhere"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FASTBP_DATA", str(data))
        monkeypatch.setenv("MPLBACKEND", "Agg")
        plot = plot and _has_matplotlib()
        monkeypatch.setattr(sys, "argv", [name, *([] if plot else ["--no-plot"])])
        variables = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        pictures = [path.name for path in tmp_path.glob("*.png")]
        assert pictures == ([f"{name}.png"] if plot else [])
        assert all(4_000 < (tmp_path / picture).stat().st_size < 100_000 for picture in pictures)
        return variables, capsys.readouterr().out

    yield run
    if _has_matplotlib():
        import matplotlib.pyplot as plt

        plt.close("all")


def _has_matplotlib():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def test_gradient_descent(run):
    found, printed = run("gradient_descent")
    for path in found["paths"].values():
        assert_allclose(path[0], [1, 4])
        assert_allclose(path[4000], [-1, 0], atol=1e-12)
        assert found["f"](path[4000]) == pytest.approx(1, abs=1e-15)
    # In closed form a plain step multiplies the distance by 1 − 0.01 · 2.
    assert_allclose(found["paths"]["plain"][100], [-1 + 2 * 0.98**100, 4 * 0.98**100], rtol=1e-12)
    assert "4000  -1.00000   0.00000   1.00000" in printed


# Matt Mazur's worked example, to the digits that are printed everywhere.
WORKED = {
    "w1": 0.149780716, "w2": 0.19956143, "w3": 0.24975114, "w4": 0.29950229,
    "w5": 0.35891648, "w6": 0.408666186, "w7": 0.511301270, "w8": 0.561370121,
}  # fmt: skip


def test_backprop_by_hand(run):
    found, printed = run("backprop_by_hand")
    assert found["trace"].loss == pytest.approx(0.298371109, abs=5e-10)
    assert found["after"].loss == pytest.approx(0.291027774, abs=5e-10)
    assert len(found["errors"]) == 10_001
    assert found["errors"][-1] == pytest.approx(3.5102e-05, abs=5e-10)
    assert_allclose(found["now"], list(WORKED.values()), atol=6e-9)
    assert_allclose(found["trace"].pre_activations[0], [[0.3775, 0.3925]], rtol=1e-14)
    assert_allclose(found["trace"].activations[1], [[0.593269992, 0.596884378]], atol=5e-10)
    assert_allclose(found["trace"].activations[2], [[0.751365070, 0.772928465]], atol=5e-10)
    assert_allclose(found["trace"].deltas[1], [[0.138498562, -0.038098236]], atol=1e-9)
    assert found["trace"].coef_gradients[1][0, 0] == pytest.approx(0.082167041, abs=5e-10)
    assert found["trace"].coef_gradients[0][0, 0] == pytest.approx(0.000438568, abs=5e-10)
    for text in ("0.298371109", "0.291027774", "0.0000351019", "w5: δ(o1) h1 = +0.082167041"):
        assert text in printed
    for name, value in WORKED.items():
        (line,) = (line for line in printed.splitlines() if line.strip().startswith(f"{name}: "))
        assert float(line.split("→")[1]) == pytest.approx(value, abs=6e-9)


def test_single_neuron(run):
    """The listing itself stands here, in NumPy."""
    found, _ = run("single_neuron")
    X, y = found["X"], np.array([[0, 1, 1, 0]]).T
    np.random.seed(1)  # noqa: NPY002 (the listing's own draws)
    weights = np.random.normal(size=(3, 1))  # noqa: NPY002
    for step in range(10_001):
        assert_allclose(found["history"][step], weights[:, 0], rtol=0, atol=1e-10)
        output = 1 / (1 + np.exp(-X @ weights))
        weights = weights - 0.1 * X.T @ ((output - y) * output * (1 - output))
    assert_allclose(output, 0.5, atol=1e-9)  # all that one line can say of XOR
    assert_allclose(found["probabilities"], [0, 1, 1, 0], atol=0.1)


@pytest.mark.smoke
def test_sigmoid_stack(run):
    """The same 500 epochs in NumPy. PyTorch checks the gradients in test_torch."""
    found, _ = run("sigmoid_stack")
    model, X, y = found["model"], found["X"], found["y"]
    coefs, intercepts = found["network"].views(found["start"].copy())
    losses = []
    for _ in range(500):
        layers = [X]
        for weights, bias in zip(coefs, intercepts, strict=True):
            layers.append(expit(layers[-1] @ weights + bias))
        losses.append(((layers[-1] - y) ** 2).mean() / 2)
        delta = (layers[-1] - y) * layers[-1] * (1 - layers[-1]) / 3
        for i in (2, 1, 0):
            slopes = layers[i].T @ delta, delta.sum(axis=0)
            delta = (delta @ coefs[i].T) * layers[i] * (1 - layers[i])
            coefs[i] -= 0.01 * slopes[0]
            intercepts[i] -= 0.01 * slopes[1]
    assert model.out_activation_ == "logistic"
    assert_allclose(model.loss_curve_, losses, rtol=1e-12)
    for mine, expected in zip(model.coefs_, coefs, strict=True):
        assert_allclose(mine, expected, rtol=1e-9)


def test_mnist_one_layer_on_the_bundled_digits(run):
    found, printed = run("mnist_one_layer")
    assert "training the bundled digits instead" in printed
    assert "1437 images from scikit-learn's bundled 8x8 digits" in printed
    squared, crossed = found["errors"]["squared error"], found["errors"]["cross-entropy"]
    assert squared[0] == crossed[0]  # from the same weights
    assert crossed[1] < 0.25 < 0.5 < squared[1]
    assert crossed[-1] < 0.06
    assert found["first_deltas"]["squared error"] < 0.2
    assert found["first_deltas"]["cross-entropy"] > 0.9


def test_mnist_hidden_layer_on_the_bundled_digits(run):
    found, printed = run("mnist_hidden_layer")
    assert "training the bundled digits instead" in printed
    last = {name: of_epochs[-1] for name, of_epochs in found["errors"].items()}
    assert last["128 ReLU, cross-entropy"] < 4
    assert last["no hidden layer"] < 6
    assert last["128 sigmoids, squared error"] < 8
    assert found["confusion"].sum() == 360


@pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST at hand")
def test_mnist_examples_on_mnist(run):
    """LeCun et al. (1998) give 12.0 % for a linear classifier and 4.7 % for 300 sigmoids."""
    found, printed = run("mnist_one_layer", plot=False, data=MNIST)
    assert f"60000 images from {MNIST}" in printed
    squared, crossed = found["errors"]["squared error"], found["errors"]["cross-entropy"]
    assert crossed[5] < 0.12 < 0.2 < squared[5]
    assert found["found"].min() < 0.5  # a digit that is learnt late or never
    found, _ = run("mnist_hidden_layer", plot=False, data=MNIST)
    last = {name: of_epochs[-1] for name, of_epochs in found["errors"].items()}
    assert last["128 ReLU, cross-entropy"] < 2.5
    assert last["128 sigmoids, squared error"] < 4.7
    assert 6.5 < last["no hidden layer"] < 9
    assert found["confusion"].trace() > 9_750


def test_pipeline(run):
    found, _ = run("pipeline")
    theirs, ours = found["searches"].values()
    assert "sklearn" in type(theirs.best_estimator_[-1]).__module__
    assert ours.best_params_ == theirs.best_params_
    assert_allclose(found["ours"], found["theirs"], rtol=1e-12)
    assert_allclose(*found["curves"], rtol=1e-9)
    assert set(found["seconds"]) == {"sklearn.neural_network", "fastbp"}


def test_regression(run):
    """scikit-learn stops in the same epoch at the same scores."""
    found, printed = run("regression")
    stopped = found["stopped"]
    settings = {
        name: value
        for name, value in stopped.get_params().items()
        if name in sklearn.neural_network.MLPRegressor().get_params()
    }
    X = StandardScaler().fit_transform(found["X_train"])
    y = (found["y_train"] - found["centre"]) / found["scale"]
    original = sklearn.neural_network.MLPRegressor(**settings).fit(X, y)
    assert_allclose(stopped.validation_scores_, original.validation_scores_, rtol=1e-7)
    assert_allclose(stopped.loss_curve_, original.loss_curve_, rtol=1e-9)
    assert f"epoch {found['best_epoch']}: R² {original.best_validation_score_:.3f}" in printed
    X, y = found["X_test"], (found["y_test"] - found["centre"]) / found["scale"]
    scores = {name: model.score(X, y) for name, model in found["models"].items()}
    assert scores["early stopping"] > 0.2 > scores["to the end"]


def test_imbalanced(run):
    """The accuracy stops at "all negative"; the loss costs nothing of the area under the curve."""
    found, printed = run("imbalanced")
    areas, positives = found["areas"], found["found"]
    assert found["y"].mean() == pytest.approx(0.015, abs=1e-3)
    assert areas["stopped by the loss"] > areas["without early stopping"] - 0.01
    assert areas["stopped by the loss"] > areas["stopped by the accuracy"] + 0.2
    assert positives["stopped by the accuracy"] == 0 < positives["stopped by the loss"]
    assert "stopped by the accuracy: 12 epochs" in printed
    metrics = found["models"]["stopped by the loss"].validation_metrics_
    assert metrics["roc_auc"][-1] > metrics["roc_auc"][0] + 0.2


def test_table(run):
    """Close to the formula that made the table, which no model can beat but by chance."""
    found, printed = run("table")
    best = r2_score(found["y_test"], found["expected"][found["y_test"].index])
    score = found["model"].score(found["X_test"], found["y_test"])
    assert best - 0.03 < score < best + 0.01
    assert f"{score:.3f}, of the formula itself {best:.3f}" in printed
    importances = dict(zip(found["X"].columns, found["importances"], strict=True))
    assert max(importances, key=importances.get) == "area"
    assert abs(importances["rooms"]) < 0.02  # which the formula does not use
    assert min(importances[name] for name in ("district", "floor", "lift", "let on")) > 0.03
    np.testing.assert_array_equal(
        found["loaded"].predict(found["X_test"]), found["model"].predict(found["X_test"])
    )
    formula = 22 * 64.5**0.85 * 1.3 * 0.97**3 * 1.03 ** (3408 / 365)
    assert found["rent"][0] == pytest.approx(formula, rel=0.06)


def test_cpu_vs_gpu(run):
    found, printed = run("cpu_vs_gpu")
    for device, speeds in found["throughput"].items():
        assert len(speeds) == len(found["widths"])
        assert min(speeds) > 0
        assert f"{device:5s} " in printed
    assert ("cuda" in found["throughput"]) != ("No GPU: nothing is measured" in printed)


@pytest.mark.parametrize("name", ["gradient_descent", "sigmoid_stack", "regression"])
def test_without_plots_matplotlib_is_not_needed(name, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    run(name, plot=False)


def test_the_page_shows_every_example():
    page = (EXAMPLES / "README.md").read_text()
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {path.stem for path in (EXAMPLES / "images").glob("*.png")}
    for name in names:
        assert f"]({name}.py)" in page
        assert f"](images/{name}.png)" in page
        assert (EXAMPLES / "images" / f"{name}.png").stat().st_size < 100_000
