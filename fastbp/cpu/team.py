"""A team of Python threads that run one kernel together, without the GIL."""

import contextlib
import os
from _thread import allocate_lock, start_new_thread

from fastbp.apart import wait_whatever_comes
from fastbp.cpu.records import ABORTED

_LISTEN_SECONDS = 0.1  # how often the caller of a long kernel is back in Python
_POLL_SECONDS = 0.001  # how often an interrupted caller checks whether all ranks have returned


def _spread_out(rank, cores):
    """Move this thread to a core of its own, from which the system may move it on.

    Now and then new threads start on the same core although another is idle. Waiting for each
    other they are slower than one thread, for about 20 ms until the system balances the load.
    """
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cores[rank]})
        os.sched_setaffinity(0, cores)


def run_team(size, member, control, at_work=None, is_breakable=False):
    """Call ``member(rank)`` for every rank of a team concurrently, each in a thread of its own.

    The calling thread starts the others and waits. Ctrl-C may interrupt the main thread between any
    two bytecodes: if it took part, it could leave the others at a barrier for ever.

    Parameters
    ----------
    size : int
        A team of one runs in the calling thread.
    member : callable
        Takes the rank, and releases the GIL while it computes. It must hold all that it reads and
        writes: exceptions may come so fast that the caller is left before the ranks have returned.
    control : ndarray of shape (CONTROL_SIZE,), dtype int64
        The team's, for `barrier`. It is zeroed.
    at_work : list or None, default=None
        The team is in it from before its start until its end, so that `end_teams` finds it.
    is_breakable : bool, default=False
        Whether an exception in the caller makes the kernel leave off where it is. A team of one
        then has a thread of its own, too.

    Raises
    ------
    RuntimeError
        If the system cannot start another thread.
    KeyboardInterrupt
        After all ranks have returned.
    BaseException
        The first that a rank, or the handler of a signal, has raised; the other ranks are released
        from their barriers.
    """
    at_work = [] if at_work is None else at_work
    end_teams(at_work)  # whose control it may be, too
    control[:] = 0
    if size == 1 and not is_breakable:
        member(0)
        return
    team = _Team(size, member, control, is_breakable)
    at_work.append(team)
    try:
        team.start()
        team.wait()
    except BaseException:
        team.end()
        raise
    finally:
        if team.has_ended():
            at_work.clear()
    for error in team.failures:
        raise error


def end_teams(at_work):
    """Release the ranks of teams that were left at work, and wait until they have returned."""
    while at_work:
        at_work[-1].end()
        at_work.pop()


class _Team:
    """The threads of `run_team`.

    Attributes
    ----------
    failures : list of BaseException
        What ranks have raised.
    """

    def __init__(self, size, member, control, is_breakable=False):
        self.size, self.member, self.control = size, member, control
        self.is_breakable = is_breakable
        self.failures = []
        self._begun, self._ended, self._is_abandoned = [], [], False
        self._entry, self._running = allocate_lock(), [allocate_lock() for _ in range(size)]
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
        # With a core to spare the system spreads threads itself.
        self._cores = cores if size == len(cores) else None

    def start(self):
        # Not threading.Thread: an interrupt in its start or join leaves it in an undefined state.
        for rank in range(self.size):
            self._running[rank].acquire()
            start_new_thread(self._enter, (rank,))

    def wait(self):
        # What another thread raises in this one is raised between two waits.
        seconds = _LISTEN_SECONDS if self.is_breakable else -1
        for lock in self._running:
            while not lock.acquire(timeout=seconds):
                pass

    def end(self):
        """Let no further rank begin, and wait for those that have, whatever interrupts arrive."""
        wait_whatever_comes(self._is_over, _POLL_SECONDS)

    def has_ended(self):
        """Whether no rank is at work nor will be."""
        with self._entry:
            return len(self._ended) == (len(self._begun) if self._is_abandoned else self.size)

    def _is_over(self):
        with self._entry:
            if self.is_breakable:
                self.control[ABORTED] = 1
            if len(self._begun) < self.size:
                self._is_abandoned = True
                self.control[ABORTED] = 1  # the ranks that run get no further than a barrier
            return len(self._ended) == len(self._begun)

    def _enter(self, rank):
        with self._entry:
            begins = not self._is_abandoned
            if begins:
                self._begun.append(rank)
        try:
            if begins:
                if self._cores:
                    _spread_out(rank, self._cores)
                self.member(rank)
        except BaseException as error:  # raised in the caller
            self.failures.append(error)
            self.control[ABORTED] = 1
        finally:
            if begins:
                self._ended.append(rank)
            self._running[rank].release()
