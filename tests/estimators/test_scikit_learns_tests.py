"""scikit-learn's own tests of its MLP, word for word but for the import line."""

from pathlib import Path

import numpy as np
import pytest
import sklearn
import versions

import fastbp
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.lbfgs import PenalisedLoss

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

THEIR_TESTS = Path(sklearn.__file__).parent / "neural_network" / "tests" / "test_mlp.py"
THEIR_IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
OUR_IMPORT = "from fastbp import MLPClassifier, MLPRegressor\n"

_source = THEIR_TESTS.read_text(encoding="utf-8")
assert _source.count(THEIR_IMPORT) == 1
exec(compile(_source.replace(THEIR_IMPORT, OUR_IMPORT), str(THEIR_TESTS), "exec"), globals())


@pytest.fixture
def global_random_seed():
    """What scikit-learn's configuration of pytest provides."""
    return 42


def loss_and_gradient(model, packed, X, y, *rest):
    """The one private method that the tests call, `_loss_grad_lbfgs`, by fastbp's engine.

    scikit-learn packs all weights and then all biases. The rest is the sample weight, in versions
    that have it, and buffers.
    """
    sample_weight = rest[0] if versions.scikit_learn_has("sample weights of MLPs") else None
    network = model._model.network
    parameters = np.empty(network.n_parameters)
    coefs, intercepts = network.views(parameters)
    stops = np.cumsum([array.size for array in coefs + intercepts])[:-1]
    for array, part in zip(coefs + intercepts, np.split(packed, stops), strict=True):
        array.flat = part
    engine = Engine(network, np.float64)
    targets = y.argmax(axis=1) if network.output_activation == "softmax" else y
    data = Data(X, targets, sample_weight)
    loss, gradient = PenalisedLoss(engine, data, model.alpha)(parameters)
    coefs, intercepts = network.views(gradient)
    return loss, np.concatenate([array.ravel() for array in coefs + intercepts])


@pytest.fixture(autouse=True)
def private_method(monkeypatch):
    monkeypatch.setattr(fastbp.MLPClassifier, "_loss_grad_lbfgs", loss_and_gradient, raising=False)
