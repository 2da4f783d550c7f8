"""How much there is to do, and how many threads do it fastest: estimated first, then measured."""

import math
from collections import deque

from fastbp.cpu.layout import round_up
from fastbp.cpu.simd import TILE_ROWS

# Multiply-adds of a batch that a further thread must have for itself to be worth its barriers.
WORK_PER_THREAD = 250_000
# Starting the threads takes 0.1 ms: a whole epoch must have so many times that work.
WORK_PER_START = 200
# Work of one call into a kernel, in multiply-adds, a quarter of a second: then Ctrl-C is heard.
WORK_PER_CALL = 10_000_000_000
# What else a batch takes, in multiply-adds: small nets and small batches do little but this.
WORK_PER_UPDATE = 50  # of a parameter
WORK_PER_FEATURE, WORK_PER_ROW, WORK_PER_BATCH = 50, 2_000, 50_000
# Threads with less than so many times `WORK_PER_THREAD` may be slower than fewer.
CLEARLY_ENOUGH = 5

# Calls of a trial. The least of their times counts: others' work makes times longer only.
TRIAL_CALLS = 3
# Calls after which a team of another size is tried again. What fewer threads take, and so wait less
# for each other, changes less.
CALLS_TO_MORE, CALLS_TO_FEWER = 32, 128
SUSPICION = 1.5  # how far above its best a team's time makes fewer threads worth a trial


class Work:
    """What batches of a network cost, in multiply-adds.

    Parameters
    ----------
    network : Network
    """

    def __init__(self, network):
        self._network = network

    def _multiply_adds(self, density):
        """Of one row, once through all layers; the first reads only so much of its inputs."""
        first, *others = (fan_in * fan_out for fan_in, fan_out in self._network.shapes)
        return first * density + sum(others)

    def of_batch(self, rows, density=1.0):
        """Of so many rows, there and back; every weight is updated, however sparse its rows."""
        return rows * self._multiply_adds(min(1.0, density + 1 / rows)) * 3

    def useful_threads(self, rows, n_rows=math.inf, density=1.0):
        """Threads for `n_rows` in batches of so many: as many as have work enough for a barrier."""
        work = self.of_batch(rows, density)
        if work * (n_rows / rows) < WORK_PER_START * WORK_PER_THREAD:
            return 1
        return max(1, int(work // WORK_PER_THREAD))

    def is_doubtful(self, rows, size, density=1.0):
        """Whether fewer than `size` threads may be faster with batches of so many rows."""
        return self.of_batch(rows, density) < CLEARLY_ENOUGH * WORK_PER_THREAD * size

    def batches_per_call(self, rows, density, learns=True):
        """Batches of so many rows that one call into a kernel runs."""
        passes = 3 if learns else 1
        gather = WORK_PER_FEATURE * self._network.layer_sizes[0] * density
        row = passes * self._multiply_adds(density) + gather + WORK_PER_ROW
        batch = round_up(rows, TILE_ROWS) * row + WORK_PER_BATCH
        update = WORK_PER_UPDATE * self._network.n_parameters * learns
        return 1 + int(WORK_PER_CALL // (batch + update))


class Trials:
    """The size of a team, by what calls with this and other sizes took.

    What a further thread gains depends on more than the work: on whether another process wants its
    core, and on how near to each other a virtual machine's cores are (a barrier took 50 ns in some
    minutes and 250 in others). Results do not depend on it, so it can be tried.

    Parameters
    ----------
    most : int
        Threads that there is enough work for, as far as can be told.
    is_doubtful : bool
        Whether fewer threads may be faster on a quiet machine, too.
    """

    def __init__(self, most, is_doubtful):
        self.most, self.size = most, most
        self._sizes = [most >> halvings for halvings in range(most.bit_length())]
        self._is_doubtful = is_doubtful
        # By size: seconds a row of recent calls, when the last of them was, the least of all calls.
        self._times = {most: deque(maxlen=TRIAL_CALLS)}
        self._noted, self._least = {}, {}
        self._calls = 0

    def choose(self):
        """Threads for the next call: those that went fastest, or some that are worth a trial."""
        if len(self._times[self.size]) < TRIAL_CALLS:
            return self.size
        at = self._sizes.index(self.size)
        # Of equal ones, as before anything is known, the largest.
        chosen = min(self._sizes[max(0, at - 1) : at + 2], key=self._expected)
        if not self._remembers(chosen):
            self._times[chosen] = deque(maxlen=TRIAL_CALLS)
        self.size = chosen
        return chosen

    def _remembers(self, size):
        calls = CALLS_TO_MORE if size > self.size else CALLS_TO_FEWER
        return size in self._noted and self._calls - self._noted[size] <= calls

    def _expected(self, size):
        """Seconds a row, as they were or, where that is long ago, in good hope."""
        if self._remembers(size):
            return min(self._times[size])
        if size > self.size or self._is_doubtful:
            return 0.0
        return SUSPICION * self._least[self.size]

    def note(self, rows, seconds):
        """Remember what a call with the chosen size took."""
        self._calls += 1
        if self._calls == 1:  # may have compiled the kernel, or loaded it
            return
        size, time = self.size, seconds / rows
        self._times[size].append(time)
        self._noted[size] = self._calls
        self._least[size] = min(time, self._least.get(size, time))
