"""The work of a batch, and the team that does it fastest: estimated first, then measured."""

import math
from collections import deque

from fastbp.cpu.code import TILE_ROWS
from fastbp.cpu.layout import round_up

# Multiply-adds of a batch that each further thread must get to be worth its barriers.
WORK_PER_THREAD = 250_000
# Starting the threads takes 0.1 ms: an epoch must have at least this multiple of WORK_PER_THREAD.
WORK_PER_START = 200
# Multiply-adds of one kernel call: a tenth of a second, after which Ctrl-C is heard, and less than
# one where several processes want the core.
WORK_PER_CALL = 4_000_000_000
# A batch of at least this multiple of it, and so many rows, can be broken off: what its update
# changes is copied before, which takes as long as 30 rows.
BREAKABLE_WORK, BREAKABLE_ROWS = 5, 2_000
# The rest of a batch's time, in multiply-adds: small nets and small batches do little else.
WORK_PER_UPDATE = 50  # per parameter
WORK_PER_FEATURE, WORK_PER_ROW, WORK_PER_BATCH = 50, 2_000, 50_000
# Below this multiple of WORK_PER_THREAD for each thread a smaller team may be faster.
CLEARLY_ENOUGH = 5

# Calls of a trial, of which the fastest counts: other processes only make times longer.
TRIAL_CALLS = 3
# Calls after which a team of another size is tried again. Smaller teams wait less for each other,
# and their times change less. A trial of more threads that fails doubles the time to the next, up
# to that for fewer.
CALLS_TO_MORE, CALLS_TO_FEWER = 32, 128
# A team this much slower than its best makes fewer threads worth a trial, and ends its own.
SUSPICION = 1.5
# Threads that were at work for less than this share of a call had to wait for their cores.
WORKING_SHARE = 0.9


class Work:
    """The cost of a network's batches, in multiply-adds.

    Parameters
    ----------
    network : Network
    """

    def __init__(self, network):
        self._first, *others = (fan_in * fan_out for fan_in, fan_out in network.shapes)
        self._others, self._n_parameters = sum(others), network.n_parameters
        self._n_features = network.layer_sizes[0]

    def _multiply_adds(self, density):
        """Of one row, once through all layers; the first uses the share `density` of its inputs."""
        return self._first * density + self._others

    def of_rows(self, rows, density=1.0):
        """Of `rows` rows, forward."""
        return rows * self._multiply_adds(density)

    def of_batch(self, rows, density=1.0):
        """Of `rows` rows, forward and backward; all weights are updated, even of sparse rows."""
        return rows * self._multiply_adds(min(1.0, density + 1 / rows)) * 3

    def useful_threads(self, rows, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches of `rows`: as many as have enough work for a barrier."""
        work = self.of_batch(rows, density)
        if work * (n_rows / rows) < WORK_PER_START * WORK_PER_THREAD:
            return 1
        return max(1, int(work // WORK_PER_THREAD))

    def may_favour_fewer(self, rows, size, density=1.0):
        """Whether fewer than `size` threads may be faster with batches of `rows` rows."""
        return self.of_batch(rows, density) < CLEARLY_ENOUGH * WORK_PER_THREAD * size

    def batches_per_call(self, rows, density, learns=True):
        """Batches of `rows` rows that one call of a kernel runs."""
        return 1 + int(WORK_PER_CALL // self._whole_batch(rows, density, learns))

    def is_breakable(self, rows, density):
        """Whether a batch of `rows` rows takes so long that Ctrl-C should end it in its midst."""
        work = self._whole_batch(rows, density, learns=True)
        return rows >= BREAKABLE_ROWS and work >= BREAKABLE_WORK * WORK_PER_CALL

    def _whole_batch(self, rows, density, learns):
        """All work of a batch, in multiply-adds."""
        passes = 3 if learns else 1
        gather = WORK_PER_FEATURE * self._n_features * density
        row = passes * self._multiply_adds(density) + gather + WORK_PER_ROW
        batch = round_up(rows, TILE_ROWS) * row + WORK_PER_BATCH
        return batch + WORK_PER_UPDATE * self._n_parameters * learns


class Trials:
    """Chooses the size of a team by how long calls with this and other sizes took.

    What a further thread gains depends on more than the work: on other processes that want its
    core, and on how near each other a virtual machine's cores are (a barrier took 50 ns in some
    minutes and 250 in others). Results do not depend on it, and so it can be tried.

    Parameters
    ----------
    max_size : int
        Threads for which there is enough work, by estimate.
    may_favour_fewer : bool
        Whether fewer threads may be faster even on a quiet machine.
    """

    def __init__(self, max_size, may_favour_fewer):
        self.max_size = self.size = max_size
        self._sizes = [max_size >> halvings for halvings in range(max_size.bit_length())]
        self._may_favour_fewer = may_favour_fewer
        # By size: seconds per row of recent calls, the last call's number, the least of all times.
        self._times = {max_size: deque(maxlen=TRIAL_CALLS)}
        self._last_calls, self._best = {}, {}
        self._calls, self._calls_to_more = 0, CALLS_TO_MORE
        self._before = max_size  # the size from which the team came to its present one
        self._is_crowded = False

    def choose(self):
        """The team's size for the next call: the fastest so far, or one that is worth a trial."""
        if len(self._times[self.size]) < TRIAL_CALLS and not self._has_seen_enough():
            return self.size
        at = self._sizes.index(self.size)
        # Of equals, as long as nothing is known, the largest.
        chosen = min(self._sizes[max(0, at - 1) : at + 2], key=self._expected)
        if self.size > self._before:  # after a trial of more threads
            longer = min(2 * self._calls_to_more, CALLS_TO_FEWER)
            self._calls_to_more = longer if chosen < self.size else CALLS_TO_MORE
        if not self._is_recent(chosen):
            self._times[chosen] = deque(maxlen=TRIAL_CALLS)
        self._before, self.size = self.size, chosen
        return chosen

    def _has_seen_enough(self):
        """Whether one call tells to look for another size: a team collapses where cores lack."""
        now, before = self._times[self.size], self._times[self._before]
        if not now or self._before == self.size:
            return bool(now) and self._is_crowded and self.size > 1
        return bool(before) and min(now) > SUSPICION * min(before)

    def _is_recent(self, size):
        """Whether the times of a size are recent enough to rely on."""
        calls = self._calls_to_more if size > self.size else CALLS_TO_FEWER
        return size in self._last_calls and self._calls - self._last_calls[size] <= calls

    def _expected(self, size):
        """Seconds per row as measured or, where that is long ago, an optimistic guess."""
        if self._is_recent(size):
            return min(self._times[size])
        if size > self.size or self._may_favour_fewer or self._is_crowded:
            return 0.0
        return SUSPICION * self._best[self.size]

    def record(self, rows, seconds, working_share=1.0):
        """Record how long a call with the chosen size took.

        Parameters
        ----------
        rows : int
        seconds : float
        working_share : float, default=1.0
            The part of this time that the process's threads had a core.
        """
        self._calls += 1
        self._is_crowded = working_share < WORKING_SHARE
        if self._calls == 1:  # it may have compiled or loaded the kernel
            return
        size, time = self.size, seconds / rows
        self._times[size].append(time)
        self._last_calls[size] = self._calls
        self._best[size] = min(time, self._best.get(size, time))
