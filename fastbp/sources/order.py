"""In which order blocks are read, and the rows of a buffer of blocks are used.

Blocks come in random order, as many as fit to a buffer, and the rows in a buffer are shuffled. All
of it is a function of a seed and the number of the epoch, so that the next epoch's first buffer can
be read while this one ends.
"""

import reprlib

import numpy as np

from fastbp.sources.source import LEAST_BLOCKS, MOST_ROWS
from fastbp.warned import warn

MOST_SEED = 2**31 - 1  # above all seeds that are drawn


class OrderedBySeed:
    """Who has the rows of a training whose order is a function of a seed and the epoch.

    What a checkpoint keeps of it is the seed: see `fastbp.epochs.InMemory`, whose methods these
    are.
    """

    _seed = 0

    def seed(self, random_state):
        """Settle the order of all epochs, without a draw: further draws are those in memory."""
        state = np.random.RandomState()
        state.set_state(random_state.get_state())
        self._seed = int(state.randint(MOST_SEED))

    def everything(self, data):
        """All rows to learn from, as `Split.train`: nobody needs their numbers."""
        return None

    def state(self, training):
        """What of a training's state the rows have."""
        return {}, {"seed": self._seed}

    def restore(self, training, arrays, numbers):
        """Take the state back."""
        seed = numbers["seed"]
        if type(seed) is not int or not 0 <= seed < MOST_SEED:
            raise ValueError(f"the seed of the order is {reprlib.repr(seed)}")
        self._seed = seed


class BlockOrder:
    """The order of a source's blocks, epoch by epoch.

    Parameters
    ----------
    source : fastbp.sources.source.Source
    shuffle : bool
        False for the order of the source.
    seed : int, default=0

    Attributes
    ----------
    n_groups : int
        Buffers of an epoch.
    most_rows : int
        Rows of the largest group, at most.

    Raises
    ------
    ValueError
        If a buffer has no room for a block.
    """

    def __init__(self, source, shuffle, seed=0):
        self.source, self.shuffle, self.seed = source, shuffle, seed
        sizes = np.sort(source.block_rows)[::-1]
        n_fitting, n_light = np.searchsorted(
            np.cumsum(sizes), [source.most_rows, MOST_ROWS], side="right"
        ).tolist()
        if n_fitting == 0:
            raise ValueError(
                f"buffer={source.buffer!r} has no room for a block of {sizes[0]} rows of "
                f"{source.row_bytes} bytes. Make blocks smaller, or buffer at least "
                f"{sizes[0] * source.row_bytes} bytes; {2 * LEAST_BLOCKS} times that shuffles well."
            )
        self.n_groups = -(-len(sizes) // min(n_fitting, max(n_light, 2 * LEAST_BLOCKS)))
        n_blocks = -(-len(sizes) // self.n_groups)
        self.most_rows = int(sizes[:n_blocks].sum())
        # The first row of each block.
        self.starts = np.cumsum(source.block_rows) - source.block_rows
        if shuffle and not source.is_sequential and len(sizes) // self.n_groups < LEAST_BLOCKS:
            needed = 2 * LEAST_BLOCKS * sizes[0] * source.row_bytes
            warn(
                f"buffer={source.buffer!r} holds {len(sizes) // self.n_groups} blocks: rows that "
                f"are sorted, by class or time, are shuffled too weakly with fewer than "
                f"{LEAST_BLOCKS}. Make blocks smaller, or buffer {needed} bytes."
            )

    def groups(self, epoch):
        """The blocks of each buffer, as a list of arrays."""
        blocks = np.arange(len(self.source.block_rows))
        if self.shuffle and not self.source.is_sequential:
            self._random(epoch, 0).shuffle(blocks)
        return np.array_split(blocks, self.n_groups)

    def rows(self, blocks):
        """The numbers of the rows of some blocks, one after the other."""
        sizes = self.source.block_rows[blocks]
        first = self.starts[blocks] - (np.cumsum(sizes) - sizes)
        return np.repeat(first, sizes) + np.arange(sizes.sum())

    def shuffle_rows(self, rows, epoch, group):
        """Shuffle the rows of a buffer in place, if rows are to be shuffled."""
        if self.shuffle:
            from fastbp.cpu.shuffling import shuffle  # may import numba, at the first fit

            shuffle(self._random(epoch, 1 + group), rows, self.n_groups)

    def _random(self, epoch, part):
        """A generator whose draws no version of NumPy changes."""
        return np.random.RandomState(
            np.random.MT19937(np.random.SeedSequence([self.seed, epoch, part]))
        )
