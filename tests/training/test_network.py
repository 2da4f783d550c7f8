"""The flat parameter vector, its views, and the initial draws."""

import pickle

import numpy as np
import pytest

from fastbp.network import Network

NETWORK = Network((4, 8, 3), ("relu",), "softmax", "log_loss")


def test_views_share_memory_and_cover_everything():
    parameters = np.arange(NETWORK.n_parameters, dtype=np.float32)
    coefs, intercepts = NETWORK.views(parameters)
    assert [w.shape for w in coefs] == NETWORK.shapes == [(4, 8), (8, 3)]
    assert [b.shape for b in intercepts] == [(8,), (3,)]
    in_order = [part.ravel() for pair in zip(coefs, intercepts, strict=True) for part in pair]
    np.testing.assert_array_equal(np.concatenate(in_order), parameters)
    coefs[1][2, 1] = -1
    assert parameters[4 * 8 + 8 + 2 * 3 + 1] == -1


def test_flatten_copies():
    coefs, intercepts = NETWORK.views(np.random.default_rng(0).normal(size=NETWORK.n_parameters))
    flat = NETWORK.flatten([w.tolist() for w in coefs], intercepts, np.float32)
    assert flat.dtype == np.float32
    flat_coefs, _ = NETWORK.views(flat)
    np.testing.assert_array_equal(flat_coefs[0], coefs[0].astype(np.float32))
    flat[:] = 0
    assert coefs[0].any()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("sizes", "names", "default", "factors"),
    [
        ((4, 8, 3), ("relu",), "relu", (6, 6)),
        ((4, 8, 5, 3), ("relu", "logistic"), "relu", (6, 2, 2)),
        ((4, 3), (), "logistic", (2,)),
        ((4, 3), (), "tanh", (6,)),
    ],
)
def test_initialise(sizes, names, default, factors):
    network = Network(sizes, names, "softmax", "log_loss")
    drawn = network.initialise(np.random.RandomState(7), np.float32, default_activation=default)
    random, expected = np.random.RandomState(7), []
    for (fan_in, fan_out), factor in zip(network.shapes, factors, strict=True):
        bound = np.sqrt(factor / (fan_in + fan_out))
        expected += [random.uniform(-bound, bound, fan_in * fan_out)]
        expected += [random.uniform(-bound, bound, fan_out)]
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, np.concatenate(expected).astype(np.float32))


def test_as_flat_copies_only_what_is_not_the_views_of_one_vector():
    vector = np.arange(float(NETWORK.n_parameters))
    coefs, intercepts = NETWORK.views(vector)
    assert NETWORK.as_flat(coefs, intercepts, np.float64) is vector
    for others in (
        ([array.copy() for array in coefs], intercepts),
        ([coefs[0], np.asfortranarray(coefs[1])], intercepts),
        (coefs, [intercepts[0], intercepts[1].copy()]),
        pickle.loads(pickle.dumps((coefs, intercepts))),  # whose memory may be bytes
    ):
        flat = NETWORK.as_flat(*others, np.float64)
        assert flat is not vector
        np.testing.assert_array_equal(flat, vector)
    assert NETWORK.as_flat(coefs, intercepts, np.float32).dtype == np.float32
