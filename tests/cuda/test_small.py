"""Small networks in a block each: the simulated kernel through `fit_many`, against the CPU."""

import os
import sys
from itertools import pairwise

import emulated_small
import numpy as np
import pytest
from conftest import small as make_small
from conftest import weights
from processes import call_alone
from simulation import speed_up
from sklearn.base import clone

from fastbp import fit_many
from fastbp.cuda.small import fits as small
from fastbp.cuda.small import placement
from fastbp.cuda.small.block_rows import make_permute, scramble
from fastbp.network import Network
from fastbp.optimizers import RULES
from fastbp.training import NonFiniteLossError

speed_up()
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::RuntimeWarning"
)
QUICK = dict(hidden_layer_sizes=(5,), max_iter=2, batch_size=12, precision="float32")
N_ROWS = 30


@pytest.fixture(autouse=True)
def trained_together(monkeypatch):
    """Small chunks, so that batches have several; and how many networks each call has trained."""
    calls, train_together = [], small.train_together

    def count(device, fits, device_shuffle):
        calls.append(len(fits))
        return train_together(device, fits, device_shuffle)

    monkeypatch.setattr(placement, "CHUNKS", (8,))
    monkeypatch.setattr(small, "train_together", count)
    small.make_plan.cache_clear()
    yield calls
    small.make_plan.cache_clear()


def make(task, device="cuda", **parameters):
    model, X, y = make_small(task, **QUICK | {"device": device} | parameters)
    return model, X[:N_ROWS], y[:N_ROWS]


def assert_close(found, expected):
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(weights(found), weights(expected), rtol=1e-3, atol=1e-5)
    assert (found.n_iter_, found.t_) == (expected.n_iter_, expected.t_)


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("multiclass", {}),
        ("multiclass", {"loss": "squared_error", "activation": "tanh", "input_scale": 0.5}),
        ("binary", {"hidden_layer_sizes": (6, 3), "solver": "sgd", "activation": "logistic"}),
        ("multilabel", {"hidden_layer_sizes": (), "solver": "sgd", "nesterovs_momentum": False}),
        ("multiclass", {"solver": "adamw", "weight_decay": 5.0, "hidden_layer_sizes": (6, 3)}),
        ("single", {"batch_size": 30, "activation": ("identity",), "alpha": 0.3}),
        ("multi-output", {"shuffle": False, "out_activation": "tanh", "batch_size": 7}),
        ("poisson", {"solver": "sgd", "learning_rate": "invscaling", "hidden_layer_sizes": (9, 2)}),
        ("multiclass", {"solver": "nadam", "hidden_layer_sizes": (6, 3), "activation": "elu"}),
        ("single", {"solver": "rmsprop", "activation": ("selu",), "out_activation": "leaky_relu"}),
        ("binary", {"solver": "lion", "activation": "softplus", "learning_rate": "invscaling"}),
    ],
)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_fits_agree(task, parameters, is_weighted, trained_together):
    on_gpu, X, y = make(task, **parameters)
    weight = np.arange(N_ROWS) % 4 / 2.0 if is_weighted else None
    (on_gpu,) = fit_many([on_gpu], X, y, weight)
    assert trained_together == [1]
    on_cpu = clone(on_gpu).set_params(device="cpu").fit(X, y, weight)
    assert_close(on_gpu, on_cpu)
    on_cpu, on_gpu = (
        model.set_params(device="cpu").partial_fit(X, y) for model in (on_cpu, on_gpu)
    )
    assert on_gpu._optimizer.step == on_cpu._optimizer.step
    assert_close(on_gpu, on_cpu)


SWEEP = [
    {"tol": 0.1, "n_iter_no_change": 1, "max_iter": 9},
    {"tol": 0.1, "n_iter_no_change": 1, "max_iter": 9, "solver": "sgd", "learning_rate": "adaptive",
     "learning_rate_init": 3e-6},
    {"max_iter": 3, "random_state": 5},
    {"max_iter": 1, "hidden_layer_sizes": (3, 2)},
]  # fmt: skip


@pytest.mark.parametrize("order_bytes", [2**28, 4 * 2 * N_ROWS * len(SWEEP)])
def test_stopping_in_one_launch_or_in_several(order_bytes, monkeypatch):
    monkeypatch.setattr(small, "ORDER_BYTES", order_bytes)
    models = [make("multiclass", **given)[0] for given in SWEEP]
    _, X, y = make("multiclass")
    fit_many(models, X, y)
    for model in models:
        assert_close(model, clone(model).set_params(device="cpu").fit(X, y))
        alone = fit_many([clone(model)], X, y)[0]  # to the bit, whoever else is on the device
        np.testing.assert_array_equal(weights(alone), weights(model))
    assert models[0].n_iter_ < 9
    assert models[1]._optimizer.learning_rate < 1e-6


def test_folds_a_warm_start_and_a_random_state_of_the_users():
    source = np.random.RandomState(3)
    models = [make("multiclass", warm_start=True, **given)[0]
              for given in ({}, {"random_state": source, **SWEEP[0]})]  # fmt: skip
    _, X, y = make("multiclass")
    rows = [np.arange(20), np.arange(29, 4, -1)]
    twins = [clone(model).set_params(device="cpu") for model in models]
    for _ in range(2):
        fit_many(models, X, y, rows=rows)
        for model, twin, part in zip(models, twins, rows, strict=True):
            assert_close(model, twin.fit(X[part], y[part]))
    assert source.randint(10**6) == twins[1].random_state.randint(10**6)


def test_others_go_one_after_the_other_and_failures_alone(trained_together):
    settings = [{"early_stopping": True}, {"precision": "float64"}, {},
                {"solver": "sgd", "learning_rate_init": 1e30}, {"device": "cpu"}]  # fmt: skip
    models = [make("single", **given)[0] for given in settings]
    _, X, y = make("single")
    with pytest.raises(NonFiniteLossError) as caught:
        fit_many(models, X, y)
    assert "left as before: estimators[3];" in caught.value.__notes__[0]
    assert not hasattr(models[3], "coefs_")
    assert trained_together == [2]
    for model in [*models[:3], models[4]]:
        assert_close(model, clone(model).set_params(device="cpu").fit(X, y))


# ---- orders drawn by the device -----------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 2, 5, 64, 1000])
def test_the_devices_orders_are_permutations(n_rows):
    half_bits = -(-max(1, (n_rows - 1).bit_length()) // 2)
    permute = make_permute(scramble)
    orders = [
        [permute(i, n_rows, half_bits, 7, epoch) for i in range(n_rows)] for epoch in range(3)
    ]
    for order in orders:
        assert sorted(order) == list(range(n_rows))
    if n_rows >= 64:
        first, second, _ = map(np.array, orders)
        assert (first == second).mean() < 0.1
        assert abs(np.corrcoef(first, np.arange(n_rows))[0, 1]) < 0.3
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.3


def test_device_shuffle_learns_and_repeats():
    model, X, y = make("single", max_iter=4, learning_rate_init=0.03)
    found = [fit_many([clone(model)], X, y, device_shuffle=True)[0] for _ in range(2)]
    np.testing.assert_array_equal(*map(weights, found))
    assert found[0].loss_curve_[-1] < found[0].loss_curve_[0]
    assert found[0].loss_curve_ != fit_many([clone(model)], X, y)[0].loss_curve_
    with pytest.raises(ValueError, match="device_shuffle=True is for estimators"):
        fit_many([clone(model).set_params(device="cpu")], X, y, device_shuffle=True)


# ---- the layout ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(30, 64, 2), (1, 1), (5, 33, 17, 3), (100, 100, 10)])
@pytest.mark.parametrize("batch_size", [1, 20, 64, 200])
def test_nothing_overlaps_and_every_row_begins_a_vector(sizes, batch_size, monkeypatch):
    monkeypatch.setattr(placement, "CHUNKS", (64, 32, 16))
    network = Network(sizes, ("relu",) * (len(sizes) - 2), "softmax", "log_loss")
    plan = small.make_plan(network, batch_size, RULES["adam"], 2, 227 * 1024)
    table = np.array(plan.table)
    chunk = table[placement.CHUNK]
    assert chunk <= plan.n_threads <= placement.MOST_THREADS
    used = [(placement.N_SHARED + placement.LAYER_WIDTH * placement.MOST_LAYERS, 2 * chunk)]
    used.append((2 * table[placement.SCALARS], 2 * (placement.N_SCALARS + plan.n_threads)))
    used.append((table[placement.FLOATS], placement.STEP + placement.STEP_WIDTH))
    vectors = 4 if batch_size > chunk else 3
    width = placement.LAYER_WIDTH
    layers = [
        placement.BlockLayer(*table[placement.LAYERS + index * width :][:width])
        for index in range(len(sizes) - 1)
    ]
    used.append((layers[0].weights, vectors * table[placement.PARAMETERS]))
    for index, layer in enumerate(layers):
        for stride in (layer.input_stride, layer.weight_stride, layer.delta_stride):
            assert stride % 8 == 4  # an odd number of vectors
        for start in (layer.inputs, layer.weights, layer.deltas):
            assert start % 4 == 0
        used.append((layer.inputs, (2 if index == 0 else 1) * chunk * layer.input_stride))
        used.append((layer.deltas, chunk * layer.delta_stride))
        assert layer.input_stride > layer.fan_in
        assert layer.weight_stride >= layer.fan_out <= layer.delta_stride
    used.append((table[placement.TARGETS], 2 * chunk * 2))
    used.sort()
    for (first, size), (following, _) in pairwise(used):
        assert first + size <= following
    assert sum(used[-1]) <= table[placement.MEMORY_WORDS]
    assert plan.n_bytes == 4 * table[placement.MEMORY_WORDS] <= 227 * 1024


@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "learning_rate": "adaptive"},
        {"learning_rate": lambda progress: 1 - progress},
        {"learning_rate": "cosine"},
        {"warmup": 0.5},
        {"drop_last": True},
        {"solver": "adamw", "weight_decay_schedule": "linear"},
        {"activation": "gelu"},
        {"activation": "silu"},
        {"activation": "mish"},
    ],
    ids=lambda parameters: "/".join(
        getattr(each, "__name__", str(each)) for each in parameters.values()
    ),
)
def test_others_train_by_the_general_program(parameters, trained_together):
    on_gpu, X, y = make("multiclass", **parameters)
    fit_many([on_gpu], X, y)
    assert trained_together in ([], [0])
    assert_close(on_gpu, clone(on_gpu).set_params(device="cpu").fit(X, y))


def test_what_does_not_fit_has_no_plan():
    wide = Network((784, 128, 10), ("relu",), "softmax", "log_loss")
    deep = Network((4,) * 12, ("relu",) * 10, "softmax", "log_loss")
    for network in (wide, deep):
        assert small.make_plan(network, 64, RULES["adam"], 1, 227 * 1024) is None


@pytest.mark.parametrize("seed", [None, 0])
def test_threads_do_not_race(seed):
    """Without the simulator, so that the kernel takes its way through PTX."""
    pytest.importorskip("emulator")
    differences = call_alone(
        emulated_small.fit, seed, NUMBA_ENABLE_CUDASIM="0", PYTHONPATH=os.pathsep.join(sys.path)
    )
    assert max(differences) < 1e-5
