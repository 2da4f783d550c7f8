"""Processes of their own for everything that touches the GPU, and how long they may take.

A kernel that hangs, or a context that is lost, then costs one process and no more.
"""

import multiprocessing
import os
import time
import warnings
from importlib import import_module

from fastbp.bench.race import WorkerError

LONGEST_MESSAGE = 500


class Deadline:
    """A time by which something must have ended.

    Parameters
    ----------
    seconds : float
        From now on.
    clock : callable, default=time.monotonic
    """

    def __init__(self, seconds, clock=time.monotonic):
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self):
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    def within(self, seconds):
        """A deadline in so many seconds, or this one where it comes first."""
        return Deadline(min(seconds, self.left), self._clock)


def one_line(error):
    """An error's type and message in one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …"


class Worker:
    """A process that goes through a generator, a step whenever it is told to.

    Parameters
    ----------
    target : str
        "module:generator function".
    **arguments
        To the function.
    """

    def __init__(self, target, **arguments):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, target, arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        self._begun = False

    def go(self, deadline):
        """Let the process take its next step.

        Returns
        -------
        found : object
            What the generator yielded; None behind its end.

        Raises
        ------
        WorkerError
            Where it failed, with its own message, or took too long; then the process has ended.
        """
        try:
            if self._begun:
                self._connection.send("go")
            self._begun = True
            if not self._connection.poll(deadline.left):
                self.close()
                raise WorkerError("no answer in the time that was left, so it was ended")
            found, error = self._connection.recv()
        except (EOFError, OSError) as problem:
            self._process.join(1)
            raise WorkerError(f"exit status {self._process.exitcode}") from problem
        if error is not None:
            self.close()
            raise WorkerError(error)
        return found

    def close(self):
        """End the process, whatever it does."""
        self._connection.close()
        if self._process.is_alive():
            self._process.join(0.2)
            self._process.kill()
        self._process.join(2)


def _serve(connection, target, arguments):
    """A worker process's whole life."""
    warnings.simplefilter("ignore")  # reaching max_iter is what we want
    try:
        module, name = target.split(":")
        for found in getattr(import_module(module), name)(**arguments):
            connection.send((found, None))
            connection.recv()
        connection.send((None, None))
        connection.recv()
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # nobody waits any more
    except BaseException as error:
        connection.send((None, one_line(error)))
    connection.close()
    os._exit(0)  # libraries' threads need no farewell
