"""The CPU engine against the oracle in plain NumPy, over shapes, dtypes, strides and weights."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive import NaiveEngine
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix

from fastbp.activations import HIDDEN_ACTIVATIONS
from fastbp.cpu import code
from fastbp.cpu.engine import Engine
from fastbp.cpu.layout import Layout
from fastbp.data import READABLE_DTYPES, Data
from fastbp.lbfgs import PenalisedLoss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

OBJECTIVES = {
    "softmax": ("softmax", "log_loss", False),
    "logistic": ("logistic", "log_loss", False),
    "squared": ("identity", "squared_error", True),
    "textbook": ("logistic", "squared_error", False),
    "squared tanh": ("tanh", "squared_error", True),
    "squared relu": ("relu", "squared_error", True),
    "squared exp": ("exp", "squared_error", True),
    "squared softplus": ("softplus", "squared_error", True),
    "squared elu": ("elu", "squared_error", True),
    "poisson": ("exp", "poisson", False),
}
OPTIMIZERS = {
    "sgd": dict(solver="sgd", learning_rate_init=0.05, momentum=0.0),
    "momentum": dict(solver="sgd", learning_rate_init=0.002, nesterovs_momentum=False),
    "nesterov": dict(solver="sgd", learning_rate_init=0.05),
    "adam": dict(solver="adam", learning_rate_init=0.01),
    "adamw": dict(solver="adamw", learning_rate_init=0.01, weight_decay=0.5),
    "nadam": dict(solver="nadam", learning_rate_init=0.01),
    "rmsprop": dict(solver="rmsprop", learning_rate_init=0.01, beta_2=0.9),
    "lion": dict(solver="lion", learning_rate_init=0.01, beta_2=0.99, weight_decay=0.5),
}


WIDTHS = [1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 65]  # around tiles of every vector length


def make_network(sizes, objective, activations=("tanh",)):
    hidden = tuple(activations[i % len(activations)] for i in range(len(sizes) - 2))
    output, loss, average = OBJECTIVES[objective]
    return Network(tuple(sizes), hidden, output, loss, average)


def make_data(network, n_samples, seed, weighted=False):
    rng = np.random.default_rng(seed)
    n_outputs = network.layer_sizes[-1]
    if network.output_activation == "softmax":
        targets = rng.integers(0, n_outputs, n_samples)
    elif network.loss == "log_loss":
        targets = rng.integers(0, 2, (n_samples, n_outputs)).astype(bool)
    else:
        targets = rng.random((n_samples, n_outputs))
    weight = rng.integers(0, 3, n_samples) / 2.0 if weighted else None
    return Data(rng.normal(size=(n_samples, network.layer_sizes[0])), targets, weight)


def make_engines(network, dtype=np.float64, seed=0, n_threads=None):
    random_state = np.random.RandomState(seed)
    parameters = network.initialise(random_state, dtype, default_activation="tanh")
    engines = Engine(network, dtype, n_threads), NaiveEngine(network, dtype)
    for engine in engines:
        engine.load_parameters(parameters)
    return engines


def train(engine, data, optimizer, batch_size, alpha, n_epochs=2):
    """Train with a given order of rows; return losses, parameters and moments."""
    optimizer = Optimizer(**OPTIMIZERS[optimizer])
    optimizer.reset(engine.network.n_parameters, engine.dtype)
    engine.load_moments(optimizer.moments)
    rng = np.random.default_rng(5)
    losses, weight = [], data.sample_weight
    planner = StepPlanner(optimizer, data.n_samples, batch_size, weight, alpha, n_epochs)
    for _ in range(n_epochs):
        order = rng.permutation(data.n_samples)
        steps = planner.next_epoch(order)
        losses.append(engine.train_epoch(data, order, steps))
        optimizer.step += steps.made
        if not np.isfinite(losses[-1]):  # the end of every fit
            break
    return losses, engine.store_parameters(), engine.store_moments(), optimizer.step


def assert_same_training(network, data, optimizer, batch_size, alpha, dtype=np.float64):
    tolerance = dict(rtol=1e-9, atol=1e-11) if dtype == np.float64 else dict(rtol=2e-3, atol=2e-5)
    ours, oracle = (
        train(engine, data, optimizer, batch_size, alpha) for engine in make_engines(network, dtype)
    )
    assert_allclose(ours[0], oracle[0], **tolerance)
    # Not where training diverges, and rounding errors with it; at a loss that is not finite the
    # oracle has stopped before its update, we after it.
    if np.abs(oracle[0]).max() < 1e9:
        for actual, expected in zip(ours[1:], oracle[1:], strict=True):
            # Weights of a million beside one of 0.01 have passed their rounding on to it.
            atol = tolerance["atol"] * max(1.0, np.abs(expected).max())
            assert_allclose(actual, expected, rtol=tolerance["rtol"], atol=atol)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_follows_the_oracle(objective, optimizer, dtype):
    network = make_network((7, 33, 5, 4), objective, tuple(HIDDEN_ACTIVATIONS))
    data = make_data(network, 53, 1, weighted=True)
    assert_same_training(network, data, optimizer, 10, 0.1, dtype)


@settings(max_examples=60, deadline=None)
@example([65, 33, 32, 65, 8], "squared exp", "selu", 1, 1, 0.0)  # weights of a million
@given(
    sizes=st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=5),
    objective=st.sampled_from(list(OBJECTIVES)),
    activation=st.sampled_from(list(HIDDEN_ACTIVATIONS)),
    n_samples=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    alpha=st.sampled_from([0.0, 0.3]),
)
def test_any_shape_follows_the_oracle(sizes, objective, activation, n_samples, batch_size, alpha):
    network = make_network(sizes, objective, (activation,))
    data = make_data(network, n_samples, 2)
    assert_same_training(network, data, "momentum", batch_size, alpha)


@pytest.mark.smoke
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n_hidden", [0, 1, 3])
def test_gradient_is_that_of_central_differences(objective, activation, n_hidden):
    network = make_network((5, *[6] * n_hidden, 3), objective, (activation,))
    data = make_data(network, 9, 3, weighted=True)
    engine, oracle = make_engines(network, seed=4)
    parameters = engine.store_parameters()
    loss, gradient = PenalisedLoss(engine, data, 0.2)(parameters)
    X, targets, weight = oracle.gather(data, np.arange(9))
    expected = naive.loss_and_gradient(network, parameters, X, targets, weight, 0.2)
    assert_allclose(loss, expected[0], rtol=1e-12)
    assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-13)

    # The averaged squared error's gradient is that of the sum over the outputs, without penalty.
    scale = 3 if network.average_outputs else 1
    _, gradient = engine.loss_and_gradient(data)
    step, slopes = 1e-6, []
    for i in range(network.n_parameters):
        losses = []
        for sign in (1, -1):
            moved = parameters.copy()
            moved[i] += sign * step
            engine.load_parameters(moved)
            losses.append(engine.loss_and_gradient(data)[0])
        slopes.append(scale * (losses[0] - losses[1]) / (2 * step))
    assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(9, 40, 21, 7), (5, 33, 1), (784, 3)])
def test_a_few_rows_have_the_bits_of_many(sizes, dtype):
    """They are predicted from the flat parameters, the others from the packed ones."""
    network = make_network(sizes, "softmax" if sizes[-1] > 1 else "logistic")
    engine, _ = make_engines(network, dtype)
    data = make_data(network, 50, 8)
    parameters = engine.store_parameters()
    together = engine.predict(data)
    for count in (1, 2):
        engine.load_parameters(parameters)
        rows = np.arange(20, 20 + count)
        np.testing.assert_array_equal(engine.predict(data, rows), together[rows])
    assert engine.inputs_were_finite
    data.X[21, -1] = np.inf
    engine.load_parameters(parameters)
    engine.predict(data, np.array([21]))
    assert not engine.inputs_were_finite
    engine.store_parameters()  # packs them
    engine.predict(data)
    assert not engine.inputs_were_finite


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((20, 300, 90, 7), 100), ((784, 128, 10), 64), ((9, 700, 3), 33)]
)
def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch, sizes, batch_size, dtype):
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    network = make_network(sizes, "softmax")
    data = make_data(network, 250, 6)
    results = []
    for n_threads in (1, 2, 3, 4, 7):
        engine, _ = make_engines(network, dtype, n_threads=n_threads)
        assert engine._team_size(batch_size) == n_threads
        trained = train(engine, data, "adam", batch_size, 0.01)
        results.append((*trained[:2], engine.predict(data), engine.loss_and_gradient(data)[1]))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)


def test_read_only_parameters_take_no_kernels_of_their_own():
    """As unpickled from another process's memory; the first prediction took seconds."""
    engine, _ = make_engines(make_network((5, 4, 3), "softmax"))
    parameters, data = engine.store_parameters(), Data(np.ones((300, 5)))
    found = []
    for is_writeable in (True, False):
        parameters.flags.writeable = is_writeable
        for rows in (np.arange(1), None):
            engine.load_parameters(parameters)
            found.append(engine.predict(data, rows))
        found.append(code.kernel_of.cache_info().currsize)
    for one, other in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(one, other)


def views_of(matrix):
    """The same numbers in several memory layouts."""
    wide = np.zeros((matrix.shape[0] * 2, matrix.shape[1] * 3), matrix.dtype)
    wide[::2, ::3] = matrix
    frozen = matrix.copy()
    frozen.flags.writeable = False
    return {
        "C": matrix,
        "Fortran": np.asfortranarray(matrix),
        "reversed": matrix[::-1, ::-1].copy()[::-1, ::-1],
        "strided": wide[::2, ::3],
        "read-only": frozen,
    }


@pytest.mark.parametrize("dtype", READABLE_DTYPES, ids=str)
def test_every_dtype_and_layout_is_read_in_place(dtype):
    network = make_network((21, 6, 3), "softmax")
    engine, oracle = make_engines(network)
    rng = np.random.default_rng(7)
    matrix = (rng.random((30, 21)) * 3).astype(dtype)
    if dtype.kind == "i":
        matrix -= 1
    rows = rng.permutation(30)[:17]
    expected = oracle.predict(Data(matrix, input_scale=0.5), rows)
    for name, view in views_of(matrix).items():
        actual = engine.predict(Data(view, input_scale=0.5), rows)
        assert_allclose(actual, expected, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("density", [0.1, 0.3])  # more than a fifth is made dense batch by batch
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", READABLE_DTYPES, ids=str)
def test_sparse_rows_are_those_of_the_dense_matrix(dtype, index_dtype, density):
    network = make_network((300, 6, 3), "softmax")
    engine, oracle = make_engines(network)
    rng = np.random.default_rng(8)
    dense = ((rng.random((30, 300)) < density) * rng.integers(1, 9, (30, 300))).astype(dtype)
    dense[3] = 0
    dense[4] = 1
    sparse = csr_matrix(dense)
    sparse.indices, sparse.indptr = (a.astype(index_dtype) for a in (sparse.indices, sparse.indptr))
    assert_allclose(engine.predict(Data(sparse)), oracle.predict(Data(dense)), rtol=1e-12)


def test_duplicate_sparse_entries_add_up():
    network = make_network((4, 3), "softmax")
    engine, oracle = make_engines(network)
    sparse = csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([1, 1, 3]), np.array([0, 3])), (1, 4))
    dense = np.array([[0.0, 3.0, 0.0, 3.0]])
    assert_allclose(engine.predict(Data(sparse)), oracle.predict(Data(dense)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("density", [0.1, 0.3])
@pytest.mark.parametrize("sizes", [(300, 33, 5), (41, 65, 17, 3), (37, 20), (19, 2)])
def test_sparse_rows_have_the_dense_bits(monkeypatch, sizes, density, optimizer, dtype):
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    network = make_network(sizes, "softmax")
    data = make_data(network, 70, 12, weighted=True)
    data.X[np.random.default_rng(13).random(data.X.shape) > density] = 0
    data.X[3] = data.X[:, 1] = 0
    data.X[4] = 1
    results = []
    for X, n_threads in ((data.X, 1), (csr_matrix(data.X), 1), (csr_matrix(data.X), 3)):
        engine, _ = make_engines(network, dtype, n_threads=n_threads)
        given = replace(data, X=X, input_scale=0.5)
        few = engine.predict(given, np.array([4, 3, 9]))
        losses, parameters, moments, _ = train(engine, given, optimizer, 16, 0.1)
        _, gradient = engine.loss_and_gradient(given)
        results.append((few, losses, parameters, moments, engine.predict(given), gradient))
    for sparse in results[1:]:
        for found, expected in zip(sparse, results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_is_not_stored_is_zero_whatever_its_weight():
    """As in scikit-learn; a dense zero times infinity is NaN."""
    engine, _ = make_engines(make_network((9, 4, 2), "softmax"))
    parameters = engine.store_parameters()
    parameters[:4] = np.nan  # from the first feature
    data = Data(csr_matrix(np.tile(np.eye(9)[[1, 0]], (10, 1))))
    for rows in (np.arange(2), None):
        engine.load_parameters(parameters)
        outputs = engine.predict(data, rows)
        assert np.isfinite(outputs[0::2]).all()
        assert np.isnan(outputs[1::2]).any()
    data.X.data[-1] = np.nan
    engine.predict(data)
    assert not engine.inputs_were_finite


def test_bytes_train_the_model_of_scaled_floats():
    network = make_network((30, 8, 3), "softmax")
    rng = np.random.default_rng(9)
    pixels, y = rng.integers(0, 256, (50, 30), np.uint8), rng.integers(0, 3, 50)
    scaled = [
        train(make_engines(network)[0], data, "adam", 16, 0.0)[1]
        for data in (Data(pixels, y, None, 1 / 255), Data(pixels / 255, y))
    ]
    assert_allclose(*scaled, rtol=1e-10)


def test_a_batch_without_weight_is_skipped():
    network = make_network((4, 5, 2), "softmax")
    data = make_data(network, 12, 10)
    weight = np.ones(12)
    weight[4:8] = 0
    data = Data(data.X, data.targets, weight)
    order = np.arange(12)
    steps = []
    for rows, batch in ((order, 4), (order[weight > 0], 4)):
        engine, _ = make_engines(network)
        optimizer = Optimizer(**OPTIMIZERS["adam"])
        optimizer.reset(network.n_parameters, np.float64)
        engine.load_moments(optimizer.moments)
        plan = StepPlanner(optimizer, len(rows), batch, weight, 0.1, 1).next_epoch(rows)
        loss = engine.train_epoch(data, rows, plan)
        steps.append((plan.made, loss, *engine.store_parameters()))
    assert steps[0] == steps[1]
    assert steps[0][0] == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_epoch(bad):
    network = make_network((3, 4, 1), "squared")
    X = np.ones((40, 3))
    X[6] = bad
    engine, _ = make_engines(network)
    optimizer = Optimizer(**OPTIMIZERS["sgd"])
    optimizer.reset(network.n_parameters, np.float64)
    engine.load_moments(optimizer.moments)
    data, order = Data(X, np.zeros((40, 1))), np.arange(40)
    steps = StepPlanner(optimizer, 40, 5, None, 0.0, 1).next_epoch(order)
    assert not np.isfinite(engine.train_epoch(data, order, steps))
    assert steps.made == 2


def test_what_an_epoch_leaves_serves_only_its_like():
    # Arrays are kept from epoch to epoch: other data, batches or moments must not meet them.
    network, order, results = make_network((5, 7, 3), "softmax"), np.arange(20), []
    first, second = (make_data(network, 20, seed, weighted=seed == 2) for seed in (1, 2))
    steps = [(first, 8), (second, 8), (second, 5), None, (second, 5), (first, 5), (first, 17)]
    for keeps in (True, False):
        engine, _ = make_engines(network)
        optimizer = Optimizer("sgd", 0.1)
        optimizer.reset(network.n_parameters, np.float64)
        engine.load_moments(optimizer.moments)
        for step in steps:
            if step is None:
                engine.load_moments(engine.store_moments())
                continue
            if not keeps:
                engine._buffers = None
            data, batch_size = step
            planner = StepPlanner(optimizer, 20, batch_size, data.sample_weight, 0.01, 1)
            engine.train_epoch(data, order, planner.next_epoch(order))
        results.append(np.concatenate([engine.store_parameters(), *engine.store_moments()]))
    assert np.array_equal(*results)


def test_probabilities_of_huge_logits_stay_probabilities():
    for dtype in (np.float32, np.float64):
        for objective in ("softmax", "logistic"):
            network = make_network((1, 3), objective)
            engine = Engine(network, dtype)
            engine.load_parameters(np.array([1, -1, 0.5, 0, 0, 0], dtype))
            outputs = engine.predict(Data(np.array([[1e4], [-1e4], [0.0]])))
            assert np.isfinite(outputs).all()
            assert outputs.min() >= 0
            assert outputs.max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 1), (784, 100, 10), (5, 16, 17, 33, 2)])
def test_parameters_survive_packing_and_padding_stays_zero(sizes, dtype):
    network = make_network(sizes, "softmax")
    layout = Layout(network, dtype)
    flat = np.arange(1, network.n_parameters + 1).astype(dtype)
    padded = np.zeros(layout.n_weights, dtype)
    layout.pack(flat, padded)
    np.testing.assert_array_equal(layout.unpack(padded), flat)
    assert np.count_nonzero(padded) == network.n_parameters

    data = make_data(network, 20, 11)
    engine, _ = make_engines(network, dtype)
    train(engine, data, "adam", 18, 0.1)  # the last batch is smaller, also in tiles
    repacked = np.zeros_like(engine.weights)
    engine.layout.pack(engine.store_parameters(), repacked)
    np.testing.assert_array_equal(engine.weights, repacked)


@pytest.mark.parametrize("kind", [{}, {"has_slopes": True, "has_scales": True}, {"n_embedded": 2}])
def test_small_networks_are_packed_by_places_as_others_by_pieces(kind, monkeypatch):
    network = replace(make_network((5, 16, 17, 3), "softmax"), **kind)
    found = []
    for most in (network.n_parameters, network.n_parameters - 1):
        monkeypatch.setattr("fastbp.cpu.layout.MOST_PLACES", most)
        layout = Layout(network, np.float32)
        flat = np.random.default_rng(0).normal(size=network.n_parameters)  # of float64
        flat[:2] = -0.0, np.nan
        padded = np.full(layout.n_weights, 7.0, np.float32)
        layout.pack(flat, padded)
        found.append((padded.tobytes(), layout.unpack(padded).tobytes()))
        assert found[-1][1] == flat.astype(np.float32).tobytes()
    assert found[0] == found[1]


def test_no_rows_give_no_outputs():
    engine, _ = make_engines(make_network((3, 4, 2), "softmax"))
    assert engine.predict(Data(np.zeros((5, 3))), np.zeros(0, np.int64)).shape == (0, 2)
    assert engine.inputs_were_finite
    assert engine.outputs_were_finite


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 300])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("bad", ["input", "overflow", "weights"])
def test_outputs_that_are_not_finite_are_noticed(monkeypatch, dtype, n_rows, is_sparse, bad):
    """A float64 model whose outputs overflowed gave NaN or infinity without a word."""
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_START", 0)
    network = make_network((30, 4, 2), "squared", ("relu",))
    parameters = np.ones(network.n_parameters, dtype)
    X = np.zeros((n_rows, 30), dtype)
    X[-1, 29] = 1
    engine = Engine(network, dtype, n_threads=3)

    def flags(parameters, X):
        engine.load_parameters(parameters)
        if n_rows > 1:
            engine.store_parameters()  # packs them
        engine.predict(Data(csr_matrix(X) if is_sparse else X))
        return engine.inputs_were_finite, engine.outputs_were_finite

    assert flags(parameters, X) == (True, True)
    if bad == "input":
        assert flags(parameters, np.where(X == 1, dtype(np.inf), X)) == (False, False)
        return
    value = np.nan if bad == "weights" else np.finfo(dtype).max
    assert flags(parameters * dtype(value), X) == (True, False)
    assert flags(parameters, X) == (True, True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 1e-41), (np.float64, 1e-311)])
@pytest.mark.parametrize("where", ["inputs", "weights", "sample weights"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_subnormal_numbers_train_and_predict_as_in_numpy(where, dtype, tiny, optimizer, is_sparse):
    network = make_network((12, 9, 3), "squared")
    data, parameters = make_data(network, 40, 14), None
    engines = make_engines(network, dtype)
    if where == "inputs":
        X = data.X.astype(dtype) * dtype(tiny)
        assert 0 < np.abs(X).min() < np.abs(X).max() < np.finfo(dtype).tiny
        data = replace(data, X=X)
    elif where == "weights":
        parameters = engines[0].store_parameters() * dtype(tiny)
    else:
        weight = np.where(np.arange(40) % 2, 1.0, 1e-311)
        data = replace(data, sample_weight=weight)
    X = data.X
    found = []
    for engine in engines:
        if parameters is not None:
            engine.load_parameters(parameters)
        if is_sparse:
            data = replace(data, X=csr_matrix(X))
        rows = np.array([7])
        few = engine.predict(data, rows)
        outputs = engine.predict(data)
        losses, learned, moments, _ = train(engine, data, optimizer, 16, 0.01)
        found.append((few, outputs, losses, learned, *moments))
    tolerance = dict(rtol=1e-9, atol=1e-11) if dtype == np.float64 else dict(rtol=2e-3, atol=2e-5)
    for ours, expected in zip(*found, strict=True):
        assert_allclose(ours, expected, **tolerance)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_sizes", (3,)),
        ("layer_sizes", (3, 4, 5, 2)),
        ("layer_sizes", [3, 4, 2]),
        ("layer_sizes", (3, 0, 2)),
        ("layer_sizes", (3, -4, 2)),
        ("layer_sizes", (3, 4.0, 2)),
        ("layer_sizes", (3, True, 2)),
        ("layer_sizes", (3, 2**31, 2)),
        ("layer_sizes", (2**31 - 1, 2**31 - 1, 2)),
        ("layer_sizes", (np.int32(70_000), np.int32(70_000), 2)),
        ("hidden_activations", ()),
        ("hidden_activations", ("relu", "relu")),
        ("hidden_activations", ("swish",)),
        ("hidden_activations", ("softmax",)),
        ("output_activation", "gelu"),
        ("output_activation", None),
        ("loss", "hinge"),
        ("loss", "poisson"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_network_that_kernels_cannot_compute_is_refused(field, value):
    """Sizes of NumPy's int32 wrapped around, and made arrays too small for the kernels."""
    network = replace(make_network((3, 4, 2), "softmax"), **{field: value})
    named = "hidden_activations" if value == (3, 4, 5, 2) else field
    with pytest.raises(ValueError, match=named):
        Layout(network, np.float64)


def test_engines_take_the_network_that_was_checked():
    """Layouts are kept, and found by networks that are equal, if of other types."""
    network = make_network((3, 4, 2), "softmax")
    assert Engine(network, np.float64).network == network
    sizes = Engine(replace(network, layer_sizes=(3, 4.0, np.int8(2))), np.float64).network
    assert [type(size) for size in sizes.layer_sizes] == [int, int, int]
