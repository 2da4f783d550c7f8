"""The number of threads available, and running jobs in threads such that Ctrl-C stops them."""

import ctypes
from _thread import allocate_lock, start_new_thread
from collections import deque
from contextvars import copy_context
from threading import get_ident

from joblib import cpu_count
from sklearn import config_context, get_config
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from fastbp.apart import wait_whatever_comes

_LOOK_SECONDS = 0.01  # how often an interrupted caller checks whether threads have ended
# How often one that waits runs the handlers of signals: the system may give a signal to any thread
# of a process, and then nothing wakes the main one.
LISTEN_SECONDS = 0.05


def cores_at_hand():
    """Number of cores that the system lets this process use, whatever it is asked for.

    Respects CPU affinity and the container's quota, of which a part of a core counts as one.
    """
    return max(1, cpu_count())


def available_threads():
    """Number of threads that this process may use now, where nobody asks for a number.

    At most the cores at hand, OMP_NUM_THREADS, and the limits that joblib and threadpoolctl set.
    """
    return max(1, min(cores_at_hand(), _openmp_effective_n_threads()))


def run_jobs(jobs, n_workers):
    """Call all jobs in order, in `n_workers` threads.

    Ctrl-C is raised in the main thread only, which therefore waits and passes it on to the others.

    Parameters
    ----------
    jobs : iterable of callable
        Called without arguments; what they return is ignored.
    n_workers : int

    Raises
    ------
    KeyboardInterrupt
        After all threads have ended; jobs that had not begun are dropped.
    BaseException
        The first that a job has raised, after all other jobs have ended.
    """
    jobs, config, failures = deque(jobs), get_config(), []

    def work():
        try:
            with config_context(**config):
                while True:
                    jobs.popleft()()
        except (IndexError, KeyboardInterrupt):  # no jobs left, or interrupted
            pass
        except BaseException as error:  # raised in the caller
            failures.append(error)

    def enter(end):
        try:
            at_work.add(get_ident())
            try:
                work()
            finally:
                at_work.discard(get_ident())
        finally:  # again, because Ctrl-C may come just then, but only once
            at_work.discard(get_ident())
            end.release()

    # Not threading.Thread: an interrupt in its start or join leaves it in an undefined state.
    at_work, ends = set(), [allocate_lock() for _ in range(n_workers)]
    try:
        for end in ends:
            end.acquire()
            start_new_thread(copy_context().run, (enter, end))
        for end in ends:
            wait_for(end)
    except BaseException:
        _interrupt(jobs, at_work)
        raise
    for error in failures:
        raise error


def wait_for(lock):
    """Acquire a lock that another thread will release, and listen to signals meanwhile."""
    while not lock.acquire(timeout=LISTEN_SECONDS):
        pass


def _interrupt(jobs, at_work):
    """Raise KeyboardInterrupt in threads, as Ctrl-C does in the main one, and wait for their end.

    Each receives it when its kernel returns to Python, which happens several times a second.
    """
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    told = set()

    def is_over():
        jobs.clear()  # threads that have not begun find nothing to do
        for identifier in list(at_work):
            if identifier not in told:
                told.add(identifier)
                raise_in(ctypes.c_ulong(identifier), ctypes.py_object(KeyboardInterrupt))
        return not at_work

    wait_whatever_comes(is_over, _LOOK_SECONDS)
