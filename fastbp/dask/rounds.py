"""The rules of training on shards: how many there are, and what each does in a round.

A round of local training: each shard's replica starts from the same parameters, trains on a part of
its rows, and the replicas are averaged. That is an approximation. With unchanged batches K replicas
make about 1/K of the progress of one machine, as their differences average out; hence smaller
batches, of which there are as many as one machine would make, and for some rules a larger step. The
study behind it: `python -m benchmarks.scale.averaging`.
"""

from dataclasses import dataclass
from math import sqrt

ROWS_PER_SHARD = 100_000  # at least, where nobody asks for a number of shards
MOST_AVERAGED, MOST_SUMMED = 8, 64  # of these: replicas to average, gradients to sum
LEAST_BATCH = 25  # rows of a local batch


@dataclass(frozen=True)
class LocalPlan:
    """How a shard trains.

    Parameters
    ----------
    batch_size : int
        Rows of its batches.
    rate_factor : float
        By which learning rates are multiplied.
    alpha : float
        Strength of the L2 penalty, such that it weighs as much beside the loss as in the ordinary
        batches: α / (2 rows of the batch) ‖W‖².
    """

    batch_size: int
    rate_factor: float
    alpha: float


def local_plan(n_shards, batch_size, alpha, is_linear):
    """The plan of each of `n_shards` shards in the place of batches of `batch_size` rows.

    In a rule whose step does not grow with the gradient, the noise of small batches makes the way
    shorter, and a larger step makes up for it. Plain gradient descent goes as far as before, and
    diverges with a larger step.

    Parameters
    ----------
    n_shards, batch_size : int
    alpha : float
    is_linear : bool
        Of the update rule: see `fastbp.optimizers.UpdateRule`.

    Examples
    --------
    >>> local_plan(1, 200, 1e-4, is_linear=False) == LocalPlan(200, 1.0, 1e-4)
    True
    >>> local_plan(4, 200, 1.0, is_linear=False)
    LocalPlan(batch_size=50, rate_factor=2.0, alpha=0.25)
    >>> local_plan(32, 200, 1.0, is_linear=True)
    LocalPlan(batch_size=25, rate_factor=1.0, alpha=0.125)
    """
    local = min(batch_size, max(LEAST_BATCH, batch_size // n_shards))
    factor = 1.0 if is_linear else sqrt(n_shards)
    return LocalPlan(local, factor, alpha * local / batch_size)


def choose_n_shards(n_rows, solver):
    """What `n_shards="auto"` means: a number that depends on the rows, not on the cluster.

    Examples
    --------
    >>> [choose_n_shards(n_rows, "adam") for n_rows in (1000, 300_000, 10**8)]
    [1, 3, 8]
    """
    most = MOST_SUMMED if solver == "lbfgs" else MOST_AVERAGED
    return min(max(1, n_rows // ROWS_PER_SHARD), most)


@dataclass(frozen=True)
class Round:
    """Which rows the shards train on in a round: a part of each one's order of an epoch.

    Parameters
    ----------
    epoch : int
        Counted over all calls that go on from each other.
    start, stop : int
        Places in each shard's order; a shard with fewer rows has a shorter part, or none.
    """

    epoch: int
    start: int
    stop: int


def rounds_of(epoch, n_updates, n_rounds, batch_size):
    """Yield the updates and the `Round` of each of an epoch's rounds: whole batches of all shards.

    Examples
    --------
    >>> [(part, each.start, each.stop) for part, each in rounds_of(0, 5, 2, 10)]
    [(slice(0, 2, None), 0, 20), (slice(2, 5, None), 20, 50)]
    """
    n_rounds = min(n_rounds, n_updates)
    for index in range(n_rounds):
        first, last = (n_updates * each // n_rounds for each in (index, index + 1))
        yield slice(first, last), Round(epoch, first * batch_size, last * batch_size)
