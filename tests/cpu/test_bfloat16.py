"""Products of bfloat16 on the CPU: rounding, and training, against NumPy that rounds its operands.

The same sums in another order differ by some 1e-7, which now and then turns the rounding of one
operand to 8 bits. Errors are therefore compared with those of not rounding at all.
"""

from dataclasses import replace

import numpy as np
import pytest
from amx import reason_to_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import NaiveEngine, round_to_bfloat16
from scipy.sparse import csr_matrix
from test_engine import OBJECTIVES, WIDTHS, make_data, make_network, train

from fastbp.cpu import code, rows
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.dropout import Dropout
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.schedules import StepPlanner

BFLOAT16 = "bfloat16"


@pytest.fixture(scope="module", autouse=True, params=["vectors", "amx"])
def products(request):
    """What makes products: vectors of pairs, or AMX, whose registers may be emulated."""
    says = "vectors are tested" if request.param == "vectors" else reason_to_skip()
    if request.param == "amx" and says:
        pytest.skip(says)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "why_no_amx", lambda: says)
        yield


def make(network, precision=BFLOAT16, n_threads=None, kind=Engine):
    engine = kind(network, np.float32, n_threads, precision)
    parameters = network.initialise(np.random.RandomState(0), np.float32, default_activation="tanh")
    engine.load_parameters(parameters)
    return engine


def one_update(engine, data, batch_size=None, **parameters):
    """The change of the parameters in one epoch of plain gradient descent, and the loss."""
    before = engine.store_parameters()
    parameters = {"learning_rate_init": 1.0, **parameters}
    optimizer = Optimizer(solver="sgd", momentum=0.0, **parameters)
    optimizer.reset(engine.network.n_parameters, engine.dtype)
    engine.load_moments(optimizer.moments)
    batch_size = batch_size or data.n_samples
    planner = StepPlanner(optimizer, data.n_samples, batch_size, data.sample_weight, 0.0, 1)
    order = np.arange(data.n_samples)
    loss = engine.train_epoch(data, order, planner.next_epoch(order))
    return engine.store_parameters() - before, loss


def assert_rounds_like_the_oracle(network, data, share=0.1):
    """By a share of the error that not rounding would make."""
    found, loss = one_update(make(network), data)
    expected, its_loss = one_update(make(network, kind=NaiveEngine), data)
    exact, _ = one_update(make(network, None, kind=NaiveEngine), data)
    scale = np.linalg.norm(exact)
    error, rounding = np.linalg.norm(found - expected), np.linalg.norm(exact - expected)
    assert error <= share * rounding + 1e-5 * scale
    assert loss == pytest.approx(its_loss, rel=1e-3)


@pytest.mark.smoke
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sizes", [(7, 33, 5, 4), (20, 100, 64, 16), (40, 3)])
def test_a_gradient_is_that_of_rounded_operands(objective, sizes):
    network = make_network(sizes, objective, ("tanh", "gelu", "relu"))
    assert_rounds_like_the_oracle(network, make_data(network, 53, 1, weighted=True))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=5),
    n_samples=st.integers(1, 70),
)
def test_any_shape_rounds_like_the_oracle(sizes, n_samples):
    """Odd numbers of inputs, units and rows end in half a pair."""
    network = make_network(sizes, "squared", ("tanh",))
    assert_rounds_like_the_oracle(network, make_data(network, n_samples, 2), share=0.5)


def test_training_goes_on_from_the_updated_weights():
    """They are rounded anew by each update, of each batch of each epoch."""
    network = make_network((20, 70, 33, 5), "softmax")
    data = make_data(network, 103, 3)
    ours, oracle, exact = (
        train(make(network, precision, kind=kind), data, "sgd", 10, 0.1, n_epochs=3)
        for precision, kind in ((BFLOAT16, Engine), (BFLOAT16, NaiveEngine), (None, NaiveEngine))
    )
    np.testing.assert_allclose(ours[0], oracle[0], rtol=1e-4)
    # Weights that differ by little are rounded to others now and then.
    assert np.abs(ours[1] - oracle[1]).mean() < np.abs(exact[1] - oracle[1]).mean()
    assert np.abs(exact[1] - oracle[1]).mean() < 0.01 * np.abs(oracle[1]).mean()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((20, 300, 90, 7), 101), ((784, 128, 10), 64), ((9, 700, 3), 33)]
)
def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch, sizes, batch_size):
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    network = make_network(sizes, "softmax")
    data = make_data(network, 250, 6)
    found = []
    for n_threads in (1, 2, 3, 7):
        engine = make(network, n_threads=n_threads)
        found.append(train(engine, data, "adam", batch_size, 0.01)[:2])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_zeros_that_are_left_out_change_no_bit(monkeypatch):
    network = make_network((101, 40, 3), "softmax", ("relu",))
    data = make_data(network, 1031, 7)
    data.X[np.random.default_rng(8).random(data.X.shape) < 0.9] = 0
    found = []
    for pays in (True, False):
        monkeypatch.setattr(rows, "pays_to_skip_zeros", lambda *given, pays=pays: pays)
        for batch_size in (50, 1031):  # of one block of sums, and of several
            found.append(train(make(network), data, "nesterov", batch_size, 0.0)[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_a_long_batch_is_summed_in_blocks():
    network = make_network((6, 20, 3), "softmax")
    assert_rounds_like_the_oracle(network, make_data(network, 1001, 9))


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_sparse_rows_train_like_dense_ones(density):
    """Their first layer sums entries in float32, unless they are almost dense."""
    network = make_network((50, 33, 20, 3), "softmax")
    data = make_data(network, 90, 12)
    data.X[np.random.default_rng(13).random(data.X.shape) > density] = 0
    dense, sparse = (
        one_update(make(network), replace(data, X=X))[0] for X in (data.X, csr_matrix(data.X))
    )
    if density == 0.5:
        np.testing.assert_array_equal(sparse, dense)
    else:
        np.testing.assert_allclose(sparse, dense, atol=1e-2 * np.abs(dense).max())
        assert not np.array_equal(sparse, dense)


EXTRAS = {
    "scales": dict(has_scales=True),
    "slopes": dict(has_slopes=True),
    "embedding": dict(n_embedded=3),
    "all": dict(has_scales=True, has_slopes=True, n_embedded=3),
}


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("extra", EXTRAS)
def test_other_parameters_follow_float32(extra, clips):
    """Scales are in the weights that are rounded; slopes and embeddings stay in float32."""
    network = Network((7, 40, 20, 3), ("selu", "selu"), "softmax", "log_loss", **EXTRAS[extra])
    data, found = make_data(network, 61, 1), []
    for precision in (None, BFLOAT16):
        engine = make(network, precision)
        parameters = dict(learning_rate_init=0.02, max_grad_norm=0.5 if clips else None)
        found.append([one_update(engine, data, 8, **parameters) for _ in range(3)])
    (exact, exact_losses), (rounded, losses) = (zip(*each, strict=True) for each in found)
    # As they would not if something were rounded once in an epoch of eight updates.
    way = exact_losses[0] - exact_losses[-1]
    assert way > 0
    np.testing.assert_allclose(losses, exact_losses, atol=0.03 * way)
    assert not np.array_equal(rounded[0], exact[0])
    for part in network.extras(rounded[0]).values():
        assert all(np.abs(each).max() > 0 for each in part)
    assert np.linalg.norm(rounded[0] - exact[0]) < 0.03 * np.linalg.norm(exact[0])


def test_dropout_leaves_out_what_it_does_in_float32():
    network = make_network((30, 40, 33, 4), "softmax", ("relu",))
    data, found = make_data(network, 64, 1), []
    for precision, kind in ((BFLOAT16, Engine), (BFLOAT16, NaiveEngine), (None, NaiveEngine)):
        engine = make(network, precision, kind=kind)
        optimizer = Optimizer(solver="sgd", learning_rate_init=1.0, momentum=0.0)
        optimizer.dropout = Dropout.of((0.2, 0.4, 0.3), 5)
        optimizer.reset(network.n_parameters, np.float32)
        engine.load_moments(optimizer.moments)
        before, order = engine.store_parameters(), np.arange(64)
        planner = StepPlanner(optimizer, 64, 64, None, 0.0, 1)
        engine.train_epoch(data, order, planner.next_epoch(order))
        found.append(engine.store_parameters() - before)
    ours, oracle, exact = found
    assert np.linalg.norm(ours - oracle) < 0.1 * np.linalg.norm(exact - oracle)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_noticed(number):
    """Rounding must not turn NaN into a number."""
    network = make_network((5, 8, 3), "softmax", ("relu",))
    data = make_data(network, 40, 1)
    data.X[7, 2] = number
    _, loss = one_update(make(network), data)
    assert not np.isfinite(loss)


def test_an_engine_that_predicts_does_it_in_float32():
    network = make_network((30, 40, 3), "softmax")
    data = make_data(network, 300, 1)
    np.testing.assert_array_equal(make(network).predict(data), make(network, None).predict(data))


def test_parameters_that_are_loaded_anew_are_rounded_anew():
    network, found = make_network((30, 40, 3), "softmax"), []
    data = make_data(network, 100, 1)
    engine, other = make(network), make(network)
    one_update(engine, data)
    engine.load_parameters(other.store_parameters())
    for each in (engine, other):
        found.append(one_update(each, data)[0])
    np.testing.assert_array_equal(*found)


@pytest.mark.smoke
def test_rounding_is_to_the_nearest_even():
    """A network of one weight of 1 shows what its input was rounded to, in its gradient."""
    numbers = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9, 3.14159265, 1e-3, 1e30]
    network = Network((1, 1), (), "identity", "squared_error")
    for number in numbers:
        engine = Engine(network, np.float32, 1, BFLOAT16)
        engine.load_parameters(np.zeros(2, np.float32))
        data = Data(np.array([[number]], np.float32), np.array([[-1.0]]))
        change, _ = one_update(engine, data)
        assert change[0] == -round_to_bfloat16(np.float32(number))


def test_rows_of_an_earlier_batch_are_in_no_pair():
    """With an infinite output there, an odd batch made all weights NaN, at a finite loss."""
    network = Network((2, 4, 1), ("relu",), "identity", "squared_error")
    X = np.zeros((9, 2), np.float32)
    X[:, 0], X[1, 1] = 1, 1e25
    engine = Engine(network, np.float32, 1, BFLOAT16)
    parameters = np.zeros(network.n_parameters, np.float32)
    weights, _ = network.views(parameters)
    weights[0][0], weights[1][:] = 0.5, 0.25
    engine.load_parameters(parameters)
    data = Data(X, np.ones((9, 1), np.float32))
    _, loss = one_update(engine, data, 8, learning_rate_init=0.1)  # of 8 rows, and of 1
    assert np.isfinite(loss)
    assert np.isfinite(engine.store_parameters()).all()
