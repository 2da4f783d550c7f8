"""Which shard each row belongs to: a function of its number, the number of shards, and a seed.

It does not depend on how rows are cut into blocks or on who has them. Of every `n_shards` rows that
follow each other each shard gets one, drawn at random: so shards are alike even where rows are
sorted, by class or by time. Of a source blocks are dealt in the place of rows.
"""

import numpy as np

PAGE = 4096  # rows that are dealt with one generator


def deal(start, stop, n_shards, seed):
    """The shard of each of some rows.

    Parameters
    ----------
    start, stop : int
        The rows from `start` up to `stop`, exclusive.
    n_shards : int
        At most `PAGE`.
    seed : int

    Returns
    -------
    shards : ndarray of shape (stop - start,), dtype int16

    Examples
    --------
    >>> [sorted(deal(first, first + 3, 3, seed=0).tolist()) for first in (0, 3, 6)]
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    >>> bool((deal(0, 9, 3, seed=0)[4:] == deal(4, 9, 3, seed=0)).all())
    True
    """
    pages = range(start // PAGE, -(-stop // PAGE))
    dealt = [_deal_page(page, n_shards, seed) for page in pages]
    if not dealt:
        return np.zeros(0, np.int16)
    first = start - pages[0] * PAGE
    return np.concatenate(dealt)[first : first + stop - start]


def _deal_page(page, n_shards, seed):
    # A generator whose draws no version of NumPy changes.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, page])))
    draws = random.random_sample((-(-PAGE // n_shards), n_shards))
    return draws.argsort(axis=1, kind="stable").ravel()[:PAGE].astype(np.int16)


def order_of(n_rows, seed, epoch, shard):
    """The order of a shard's rows in an epoch."""
    from fastbp.cpu.shuffling import shuffle  # may import numba, at the first fit

    order = np.arange(n_rows)
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch, shard])))
    shuffle(random, order, 1)
    return order
