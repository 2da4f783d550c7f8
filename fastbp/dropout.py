"""Dropout: which units of which rows leave an update, as a function of a counter.

Srivastava and others (2014), inverted: what stays is scaled up, so that predictions need nothing.
Masks come from Philox4x32-10 (Salmon and others, "Parallel Random Numbers: As Easy as 1, 2, 3",
2011): the number of a unit, row, layer and update is a function of these and of the fit's seed. It
does not depend on how many threads, or on what device, compute it. A counter gives four words of 32
bits: those of four rows, of which two neighbouring units take a half each. So a probability is
a multiple of 2⁻¹⁶, and the factor of what stays is that of the very multiple.
"""

from dataclasses import dataclass

import numpy as np

HALF = 2**16  # halves of random words are from 0 to this, exclusive
GROUP_ROWS, GROUP_UNITS = 4, 2  # rows of a batch, and units, that share a counter


@dataclass(frozen=True)
class Dropout:
    """What is left out of the updates of a fit.

    Parameters
    ----------
    seed : int
        From 0 to 2⁶³, exclusive: Philox's key.
    thresholds : tuple of int
        Of the inputs, then of each hidden layer's outputs: units are left out whose number is
        below.

    Examples
    --------
    >>> dropout = Dropout.of((0.0, 0.5), seed=1)
    >>> dropout.thresholds, dropout.scales
    ((0, 32768), (1.0, 2.0))
    """

    seed: int
    thresholds: tuple[int, ...]

    @classmethod
    def of(cls, rates, seed):
        """From the probability of each to be left out, at least 0 and below 1."""
        return cls(seed, tuple(min(round(rate * HALF), HALF - 1) for rate in rates))

    def check(self):
        """See that it is what kernels may be given.

        Raises
        ------
        ValueError
            It names the field, as in a damaged pickle.
        """
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ValueError(f"The seed of dropout must be from 0 to 2**63, got {self.seed!r}.")
        if not isinstance(self.thresholds, tuple) or not all(
            type(threshold) is int and 0 <= threshold < HALF for threshold in self.thresholds
        ):
            raise ValueError(
                f"The thresholds of dropout must be whole numbers from 0 to {HALF}, got "
                f"{self.thresholds!r:.100}."
            )

    @property
    def scales(self):
        """What the numbers that stay are multiplied by, so that the mean remains."""
        return tuple(HALF / (HALF - threshold) for threshold in self.thresholds)


def draw_seed(random_state):
    """Draw a seed from a generator, which is moved on by it."""
    return int(random_state.randint(2**63 - 1, dtype=np.int64))


# The constants of Philox4x32, for four words at a time.
_MULTIPLY_FIRST, _MULTIPLY_THIRD = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_FIRST, _KEY_SECOND = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_HALF_BITS, _LOW_HALF = np.uint64(16), np.uint64(0xFFFF)
_ROUNDS, _BITS, _LOW = 10, np.uint64(32), np.uint64(0xFFFFFFFF)


def random_words(first, second, third, fourth, seed):
    """Philox4x32-10 of a counter of four words with a key of two, as a plain scalar function.

    All are uint64; those of the counter are below 2³².

    Returns
    -------
    words : tuple of four uint64, below 2³²
    """
    key_first, key_second = seed & _LOW, seed >> _BITS
    for _ in range(_ROUNDS):
        one, two = _MULTIPLY_FIRST * first, _MULTIPLY_THIRD * third
        first = (two >> _BITS) ^ second ^ key_first
        third = (one >> _BITS) ^ fourth ^ key_second
        second, fourth = two & _LOW, one & _LOW
        key_first, key_second = (key_first + _KEY_FIRST) & _LOW, (key_second + _KEY_SECOND) & _LOW
    return first, second, third, fourth


def counter_of(layer, update):
    """The third and fourth word of a counter: the layer (0 for the inputs), and the update.

    Both are uint64; updates beyond 2³² count on in the upper half of the layer's word.
    """
    return layer | ((update >> _BITS) << _HALF_BITS) & _LOW, update & _LOW


def number_of(words, row, unit):
    """The number of a row and a unit, below HALF, from the words of their counter."""
    word = words[row % GROUP_ROWS]
    return word >> _HALF_BITS if unit % GROUP_UNITS else word & _LOW_HALF
