"""Scales, slopes, embeddings and groups of parameters against PyTorch: gradients and training."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")

from fastbp import MLPClassifier, MLPRegressor  # noqa: E402
from fastbp.cpu.engine import Engine  # noqa: E402
from fastbp.data import Data  # noqa: E402
from fastbp.initialisation import initialise  # noqa: E402
from fastbp.network import Network  # noqa: E402

ACTIVATIONS = {
    "relu": torch.relu,
    "selu": torch.selu,
    "mish": torch.nn.functional.mish,
    "tanh": torch.tanh,
}
KINDS = list(itertools.product([False, True], [False, True], [0, 3]))


def network_of(sizes, activation, output="identity", loss="squared_error", **extras):
    return Network(sizes, (activation,) * (len(sizes) - 2), output, loss, **extras)


def moved(network, seed=0):
    """Initial parameters, all of them moved away from where they start, the extras too."""
    random_state = np.random.RandomState(seed)
    parameters = initialise(network, "glorot", random_state, np.float64, "relu")
    return parameters + 0.1 * random_state.standard_normal(parameters.shape)


def torch_logits(network, arrays, X):
    """A network with its extras, written in PyTorch."""
    coefs, intercepts, extras = arrays
    h = X
    if network.n_embedded:
        frequencies, phases, weights, biases = extras["embedding"]
        x = X[:, : network.n_embedded]
        waves = torch.cos(2 * torch.pi * x[:, :, None] * frequencies + phases)
        numbers = torch.einsum("nfk,fkj->nfj", waves, weights) + biases
        h = torch.cat([numbers.flatten(1), X], dim=1)
    if network.has_scales:
        h = h * extras["scales"][0]
    for layer, (weights, bias) in enumerate(zip(coefs, intercepts, strict=True)):
        z = h @ weights + bias
        if layer == len(coefs) - 1:
            return z
        h = ACTIVATIONS[network.hidden_activations[layer]](z)
        if network.has_slopes:
            h = z + extras["slopes"][layer] * (h - z)
    return h


def leaves_of(network, parameters):
    """A flat vector as a leaf of PyTorch's, and the arrays that are views of it."""
    flat = torch.tensor(parameters, requires_grad=True)
    sizes = [a.shape for pair in zip(*network.views(parameters), strict=True) for a in pair]
    shapes = [*sizes, *(shape for _, shape in network.extra_shapes)]
    parts = torch.split(flat, [int(np.prod(shape)) for shape in shapes])
    views = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    n_layered = 2 * len(network.shapes)
    extras = {}
    for (kind, _), view in zip(network.extra_shapes, views[n_layered:], strict=True):
        extras.setdefault(kind, []).append(view)
    return flat, (views[:n_layered:2], views[1:n_layered:2], extras)


@pytest.mark.parametrize("n_rows", [1, 37, 700])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("has_slopes", "has_scales", "n_embedded"), KINDS)
def test_outputs_and_gradients(activation, has_slopes, has_scales, n_embedded, n_rows):
    network = network_of(
        (5, 19, 8, 3), activation, has_slopes=has_slopes, has_scales=has_scales,
        n_embedded=n_embedded,
    )  # fmt: skip
    random = np.random.default_rng(n_rows)
    X, y = random.normal(size=(n_rows, 5)), random.normal(size=(n_rows, 3))
    parameters = moved(network)
    flat, arrays = leaves_of(network, parameters)
    logits = torch_logits(network, arrays, torch.tensor(X))
    loss = 0.5 * ((logits - torch.tensor(y)) ** 2).sum() / n_rows
    loss.backward()
    for n_threads in (1, 3):
        with Engine(network, np.float64, n_threads) as engine:
            engine.load_parameters(parameters)
            found, gradient = engine.loss_and_gradient(Data(X, y))
            outputs = engine.predict(Data(X))
        assert_allclose(outputs, logits.detach().numpy(), rtol=1e-10, atol=1e-11)
        assert_allclose(found, loss.item(), rtol=1e-11)
        assert_allclose(gradient, flat.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("has_slopes", "has_scales", "n_embedded"), KINDS[1:])
def test_float32_and_any_number_of_threads(has_slopes, has_scales, n_embedded):
    network = network_of(
        (5, 33, 17, 1), "mish", has_slopes=has_slopes, has_scales=has_scales,
        n_embedded=n_embedded,
    )  # fmt: skip
    random = np.random.default_rng(0)
    X, y = random.normal(size=(1000, 5)), random.normal(size=(1000, 1))
    parameters, found = moved(network), {}
    for dtype, n_threads in itertools.product((np.float32, np.float64), (1, 2, 3)):
        with Engine(network, dtype, n_threads) as engine:
            engine.load_parameters(parameters.astype(dtype))
            found[dtype, n_threads] = engine.loss_and_gradient(Data(X, y))[1]
    for dtype, n_threads in found:
        assert np.array_equal(found[dtype, n_threads], found[dtype, 1])
    assert_allclose(found[np.float32, 1], found[np.float64, 1], rtol=2e-4, atol=2e-5)


# ---- the recipe of RealMLP, in its authors' form ------------------------------------------------

RECIPE = {
    "solver": "adamw", "beta_2": 0.95, "alpha": 0.0, "learning_rate": "log_cosine",
    "learning_rate_init": 0.04, "weight_decay": 0.02, "weight_decay_schedule": "flat_cosine",
    "batch_size": 16, "drop_last": True, "shuffle": False, "max_iter": 6, "random_state": 3,
    "parametrization": "neural_tangent", "scaling_layer": True, "parametric_activation": True,
    "numerical_embedding": "pbld", "embedded_features": 2, "initialization": "data_driven",
    "learning_rate_factors": {"intercepts": 0.1, "scales": 6.0, "slopes": 0.1, "embedding": 0.1},
}  # fmt: skip
N_ROWS, SIZES = 50, (12, 9)  # of which the last two rows fill no batch


def in_authors_form(network, parameters):
    """Weights of the order of 1, and for two classes two output units."""
    coefs, intercepts = network.views(parameters)
    coefs = [weights * np.sqrt(len(weights)) for weights in coefs]
    if network.is_pair:
        coefs[-1] = np.hstack([-coefs[-1] / 2, coefs[-1] / 2])
        intercepts[-1] = np.hstack([-intercepts[-1] / 2, intercepts[-1] / 2])
    extras = network.extras(parameters)
    leaf = lambda array: torch.tensor(array, requires_grad=True)  # noqa: E731
    return (
        [leaf(weights) for weights in coefs],
        [leaf(bias) for bias in intercepts],
        {kind: [leaf(array) for array in arrays] for kind, arrays in extras.items()},
    )


def scaled_down(arrays):
    """The weights as a standard network has them."""
    coefs, intercepts, extras = arrays
    return [weights / len(weights) ** 0.5 for weights in coefs], intercepts, extras


def train_in_authors_form(network, parameters, X, y, loss_of, n_epochs):
    arrays = in_authors_form(network, parameters)
    coefs, intercepts, extras = arrays
    groups = [(1.0, 1.0, coefs), (0.1, 0.0, intercepts)]
    factors = RECIPE["learning_rate_factors"]
    groups += [(factors[kind], 1.0, extras[kind]) for kind in ("scales", "slopes", "embedding")]
    optimizer = torch.optim.AdamW(
        [{"params": params} for _, _, params in groups], betas=(0.9, 0.95), eps=1e-8
    )
    n_batches = N_ROWS // 16
    for update in range(n_epochs * n_batches):
        t = update / (n_epochs * n_batches)
        rate = 0.04 * 0.5 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * t)))
        decay = 0.02 * 0.5 * (1 + np.cos(np.pi * (max(1, 2 * t) - 1)))
        for (factor, decays, _), group in zip(groups, optimizer.param_groups, strict=True):
            group["lr"], group["weight_decay"] = rate * factor, decay * factor * decays
        rows = slice(update % n_batches * 16, update % n_batches * 16 + 16)
        logits = torch_logits(network, scaled_down(arrays), torch.tensor(X[rows]))
        loss = loss_of(logits, torch.tensor(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return arrays


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_training_is_that_of_the_authors_form(task):
    """RealMLP's z = xW/√d, its two output units for two classes, and its groups of parameters."""
    random = np.random.default_rng(5)
    X = random.normal(size=(N_ROWS, 4))
    score = X @ random.normal(size=4)
    if task == "regression":
        model, y = MLPRegressor(hidden_layer_sizes=SIZES, activation="mish", **RECIPE), score
        loss_of = lambda z, y: 0.5 * ((z[:, 0] - y) ** 2).mean()  # noqa: E731
        outputs = ("identity", "squared_error", 1)
    else:
        n_classes = 2 if task == "binary" else 3
        y = np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))
        model = MLPClassifier(SIZES, "selu", label_smoothing=0.1, **RECIPE)
        loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        outputs = ("logistic", "log_loss", 1) if task == "binary" else ("softmax", "log_loss", 3)
    model.fit(X, y)
    network = network_of(
        (4, *SIZES, outputs[2]), model.activation, *outputs[:2], has_slopes=True, has_scales=True,
        n_embedded=2,
    )  # fmt: skip
    start = initialise(
        network, "data_driven", np.random.RandomState(3), np.float64, "relu", sample=X
    )
    arrays = train_in_authors_form(network, start, X, y, loss_of, RECIPE["max_iter"])
    logits = torch_logits(network, scaled_down(arrays), torch.tensor(X)).detach()
    if task == "regression":
        assert_allclose(model.predict(X), logits[:, 0], rtol=1e-9, atol=1e-9)
    else:
        expected = torch.softmax(logits, dim=1).numpy()
        assert_allclose(model.predict_proba(X), expected, rtol=1e-9, atol=1e-9)
    assert_allclose(model.feature_scales_, arrays[2]["scales"][0].detach(), rtol=1e-9)
    for ours, theirs in zip(model.activation_slopes_, arrays[2]["slopes"], strict=True):
        assert_allclose(ours, theirs.detach(), rtol=1e-9)
