"""Random generators that are made for a fit."""

import pickle

import numpy as np
import pytest

from fastbp.generators import random_state_of


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_a_seed_makes_numpys_generator(seed):
    found, expected = random_state_of(seed), np.random.RandomState(seed)
    assert pickle.dumps(found.get_state()) == pickle.dumps(expected.get_state())
    assert found.standard_normal(9).tobytes() == expected.standard_normal(9).tobytes()
    copied = pickle.loads(pickle.dumps(found))
    assert copied.randint(2**31) == expected.randint(2**31)


def test_each_has_a_state_of_its_own():
    one, other = random_state_of(3), random_state_of(3)
    one.random_sample(1000)
    assert other.randint(2**31) == np.random.RandomState(3).randint(2**31)


def test_what_is_no_plain_number_is_scikit_learns_matter():
    source = np.random.RandomState(0)
    assert random_state_of(source) is source
    assert random_state_of(None) is np.random.mtrand._rand
    assert random_state_of(np.int64(5)).randint(99) == np.random.RandomState(5).randint(99)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="Seed must be between 0"):
            random_state_of(seed)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        random_state_of("3")
