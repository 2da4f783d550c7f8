"""States of random generators, taken apart for files, and checked before NumPy trusts them."""

import reprlib
from math import isfinite

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from sklearn.utils import check_random_state

_NAME, _N_KEYS = "MT19937", 624
_NUMBERS = "position", "has_gauss", "cached_gaussian"


class _AnyNumbers(ISeedSequence):
    """What a generator is made of that is seeded afterwards."""

    _numbers = np.arange(_N_KEYS, dtype=np.uint32)

    def generate_state(self, n_words, dtype=np.uint32):
        """The numbers."""
        return self._numbers[:n_words]


def random_state_of(seed):
    """The generator that a parameter `random_state` means, as of scikit-learn's function.

    ``numpy.random.RandomState(seed)`` draws 624 numbers that it replaces by others at once, which
    may take as long as an epoch.

    Parameters
    ----------
    seed : None, int or RandomState

    Returns
    -------
    random_state : numpy.random.RandomState

    Examples
    --------
    >>> random_state_of(3).randint(1000) == np.random.RandomState(3).randint(1000)
    True
    """
    if type(seed) is not int:
        return check_random_state(seed)
    random_state = np.random.RandomState(np.random.MT19937(_AnyNumbers()))
    random_state.seed(seed)
    return random_state


def take_apart(random_state):
    """Split a generator's state into an array and what JSON can say.

    Parameters
    ----------
    random_state : RandomState, or a state as `get_state` returns it

    Returns
    -------
    keys : ndarray of shape (624,), dtype uint32
    numbers : dict

    Raises
    ------
    ValueError
        If the generator is not MT19937, as those of `numpy.random.RandomState(seed)` are.

    Examples
    --------
    >>> keys, numbers = take_apart(np.random.RandomState(0))
    >>> numbers
    {'position': 624, 'has_gauss': 0, 'cached_gaussian': 0.0}
    >>> put_together(keys, numbers)[2]
    624
    """
    state = random_state
    if isinstance(state, np.random.RandomState):
        name = state.get_state(legacy=False)["bit_generator"]
        if name != _NAME:
            raise ValueError(f"A random generator must be {_NAME}, got {name}.")
        state = state.get_state()
    check_state(state)
    _, keys, position, has_gauss, cached = state
    numbers = int(position), int(has_gauss), float(cached)
    return np.array(keys), dict(zip(_NUMBERS, numbers, strict=True))


def put_together(keys, numbers):
    """Rebuild the state from what `take_apart` has returned and anybody may have changed.

    Returns
    -------
    state : tuple
        As `numpy.random.RandomState.set_state` takes it.

    Raises
    ------
    ValueError
        If it is the state of no generator.
    """
    if not isinstance(numbers, dict) or numbers.keys() != {*_NUMBERS}:
        raise ValueError(f"The state of a random generator cannot be {reprlib.repr(numbers)}.")
    state = _NAME, keys, *(numbers[name] for name in _NUMBERS)
    check_state(state)
    return state


def are_equal(state, other):
    """Whether two states, as `get_state` returns them, are of the same draws."""
    return np.array_equal(state[1], other[1]) and state[2:] == other[2:]


def check_state(state):
    """See that a state is one of MT19937. NumPy's own check lets it read outside of the keys.

    Raises
    ------
    ValueError
        It says what does not fit.
    """
    if not isinstance(state, tuple) or len(state) != 5 or state[0] != _NAME:
        raise ValueError(
            f"The state of a random generator must be that of a RandomState of {_NAME}, got "
            f"{type(state).__name__} {state[0] if isinstance(state, tuple) and state else ''!r}."
        )
    _, keys, position, has_gauss, cached = state
    if not isinstance(keys, np.ndarray) or keys.shape != (_N_KEYS,) or keys.dtype != np.uint32:
        found = f"{keys.shape} {keys.dtype}" if isinstance(keys, np.ndarray) else reprlib.repr(keys)
        raise ValueError(f"The keys of a random generator must be {_N_KEYS} uint32, got {found}.")
    if not _is_count(position, _N_KEYS) or not _is_count(has_gauss, 1):
        raise ValueError(
            f"The position of a random generator must be 0 to {_N_KEYS}, and has_gauss 0 or 1; got "
            f"{reprlib.repr(position)} and {reprlib.repr(has_gauss)}."
        )
    if isinstance(cached, bool) or not isinstance(cached, float | int) or not isfinite(cached):
        raise ValueError(
            f"A random generator cannot have cached the number {reprlib.repr(cached)}."
        )


def _is_count(value, most):
    return type(value) is int and 0 <= value <= most
