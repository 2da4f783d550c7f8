"""Shuffling against NumPy's own, to the bit."""

import numpy as np
import pytest
from conftest import make_task, weights

from fastbp.cpu import shuffling
from fastbp.cpu.shuffling import shuffle

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def always_compiled(monkeypatch):
    monkeypatch.setattr(shuffling, "FEW", 0)
    monkeypatch.setattr(shuffling, "WORTH_COMPILING", 0)
    monkeypatch.setattr(shuffling, "_CHUNK", 100)


def generators(bit_generator):
    return [np.random.RandomState(bit_generator(7)) for _ in range(2)]


@pytest.mark.parametrize("bit_generator", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize(
    "n_rows", [0, 1, 2, 3, 4, 5, 7, 8, 9, 99, 100, 101, 255, 256, 257, 4097, 70_000]
)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_the_same_orders_and_the_same_state_after(n_rows, bit_generator, dtype):
    ours, numpys = generators(bit_generator)
    for generator in (ours, numpys):
        generator.standard_normal()  # keeps a second one for later
    rows, expected = np.arange(n_rows, dtype=dtype), np.arange(n_rows)
    for _ in range(3):
        shuffle(ours, rows)
        numpys.shuffle(expected)
        np.testing.assert_array_equal(rows, expected)
    assert ours.standard_normal() == numpys.standard_normal()
    assert ours.randint(2**31) == numpys.randint(2**31)


def test_a_fit_leaves_its_generator_as_numpys_shuffle_does(monkeypatch):
    def fitted(few):
        monkeypatch.setattr(shuffling, "FEW", few)
        random_state = np.random.RandomState(3)
        model, X, y = make_task(
            "multiclass", random_state=random_state, max_iter=4, hidden_layer_sizes=(5,)
        )
        return weights(model.fit(X, y)), random_state.randint(2**31)

    (ours, next_one), (expected, next_expected) = fitted(0), fitted(10**9)
    np.testing.assert_array_equal(ours, expected)
    assert next_one == next_expected


def test_little_is_left_to_numpy(monkeypatch):
    """Compiling would take longer than it saves."""
    monkeypatch.setattr(shuffling, "WORTH_COMPILING", 1000)
    monkeypatch.setattr(shuffling, "kernel_of", None)
    shuffle(np.random.RandomState(0), np.arange(99), times=10)
    with pytest.raises(TypeError):
        shuffle(np.random.RandomState(0), np.arange(100), times=10)
