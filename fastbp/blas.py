"""SciPy's linear algebra on one thread, where its arrays are tiny."""

import os
from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

# Held by the thread whose limit it is. In a dict, as a forked child needs another one.
_locks = {"limit": Lock()}


@contextmanager
def one_blas_thread():
    """Let BLAS and LAPACK use one thread meanwhile, in the whole process.

    L-BFGS-B multiplies matrices of twenty rows. Threads that are woken for these, spin and are
    waited for take longer than the rest of an iteration: on busy cores 10 ms instead of 0.4.

    The limit is the process's. Of threads that overlap only the first sets it, and takes it back
    when it is done: each for itself, the second would find one thread, and leave that behind.

    Examples
    --------
    >>> with one_blas_thread():
    ...     pass
    """
    lock = _locks["limit"]
    if not lock.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        lock.release()


@cache
def _controller():
    """The libraries that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()


def _renew():
    _locks["limit"] = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
