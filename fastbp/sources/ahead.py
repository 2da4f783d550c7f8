"""One thread that reads blocks into two buffers, ahead of who uses them."""

import contextlib
import weakref
from _thread import allocate_lock, start_new_thread
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NamedTuple

import numpy as np

from fastbp.threads import LISTEN_SECONDS, wait_for

N_BUFFERS = 2
PAGE = 4096


class Filled(NamedTuple):
    """A buffer with the rows of a job's blocks, one after the other.

    Parameters
    ----------
    job : object
    rows : ndarray of shape (n_rows, n_features)
    room : ndarray of shape (n_head + n_rows, n_features)
        The same behind `n_head` rows that are free.
    """

    job: object
    rows: np.ndarray
    room: np.ndarray


class _State:
    """What the two threads share: the reader must not keep a `ReadAhead` that is lost alive."""

    def __init__(self):
        self.free, self.ready = SimpleQueue(), SimpleQueue()
        self.began = self.stopped = False
        self.lock, self.ended = allocate_lock(), allocate_lock()
        self.ended.acquire()

    def begin(self):
        """Return whether the reader is to begin."""
        with self.lock:
            self.began = not self.stopped
            return self.began

    def stop(self):
        """Let the reader end; return whether it has begun."""
        with self.lock:
            self.stopped = True
        self.free.put(None)
        return self.began


class ReadAhead:
    """Reads the blocks of jobs in a thread of its own; a context, which ends it.

    Parameters
    ----------
    source : fastbp.sources.source.Source
    jobs : iterable of (ndarray of int, object)
        The blocks of each buffer, and what is to be known of it.
    most_rows : int
        Rows of the largest job.
    n_head : int, default=0
        Rows left free at the start of each buffer.

    Attributes
    ----------
    seconds_waiting : float
        That the user of the rows has waited for them.
    """

    def __init__(self, source, jobs, most_rows, n_head=0):
        self._state = _State()
        self._arguments = source, jobs, most_rows, n_head
        self._taken = None
        self.seconds_waiting = 0.0

    def __enter__(self):
        # Not threading.Thread: an interrupt in its start or join leaves it in an undefined state.
        weakref.finalize(self, self._state.stop)
        start_new_thread(_read, (self._state, *self._arguments))
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the thread, after the block that it reads, and let go of the buffers."""
        state = self._state
        if state is not None and state.stop():
            wait_for(state.ended)
        self._state = self._arguments = self._taken = None

    def take(self):
        """Wait for the next buffer, and give the one before back; None after the last.

        Raises
        ------
        BaseException
            That the source has raised.
        """
        if self._taken is not None:
            buffer, self._taken = self._taken, None
            self._state.free.put(buffer)
        began = perf_counter()
        outcome = self._wait_for_rows()
        self.seconds_waiting += perf_counter() - began
        if outcome is None:
            return None
        if isinstance(outcome, BaseException):
            raise outcome
        filled, self._taken = outcome
        return filled

    def _wait_for_rows(self):
        while True:
            with contextlib.suppress(Empty):
                return self._state.ready.get(timeout=LISTEN_SECONDS)

    def __iter__(self):
        while (filled := self.take()) is not None:
            yield filled


def _read(state, source, jobs, most_rows, n_head):
    """What the thread does."""
    if not state.begin():
        return
    try:
        for _ in range(N_BUFFERS):
            state.free.put(_make_buffer(n_head + most_rows, source))
        with source.open() as reader:
            for blocks, job in jobs:
                buffer = state.free.get()
                end = n_head
                for block in blocks:
                    if state.stopped:
                        return
                    n_rows = int(source.block_rows[block])
                    reader.read(int(block), buffer[end : end + n_rows])
                    end += n_rows
                if state.stopped:
                    return
                state.ready.put((Filled(job, buffer[n_head:end], buffer[:end]), buffer))
        state.ready.put(None)
    except BaseException as error:  # raised where the rows are waited for
        state.ready.put(error)
    finally:
        state.ended.release()


def _make_buffer(n_rows, source):
    """Memory for rows, from the start of a page on."""
    n_bytes = n_rows * source.row_bytes
    memory = np.empty(n_bytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    rows = memory[start : start + n_bytes].view(source.dtype)
    return rows.reshape(n_rows, source.n_features)
