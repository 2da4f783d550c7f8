"""Work on a cluster of dask: tasks without side effects, which any worker can run again.

Data are sent to the workers once. Work comes in chunks, whose length the driver decides from the
speed of those before, keeping two for each thread of the cluster on their way (`Chunks`); or as
some tasks of which all are needed before it goes on (`run_together`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass

from sklearn import config_context, get_config

from fastbp.late import imported

CHUNK_SECONDS = 0.5  # at least, or the way to a worker and back would count
MOST_SECONDS = 10.0  # what the loss of a worker may cost
ASSUMED_RATE = 2e9  # multiplications a second of a thread, until the first chunk is back
RETRIES = 3
ALONE_LOSSES = 2  # after which a task is blamed for the loss of all workers
MOST_LOSSES = 5  # of what a task needs, until it is given up
PATIENCE = 60.0  # seconds without any worker until the work is given up
LOOK_SECONDS = 1.0  # how often workers are counted while nothing ends


class NoWorkersError(RuntimeError):
    """The cluster has had no workers, or none that takes tasks, for a minute."""


class WorkersLostError(RuntimeError):
    """A task has cost all workers, several times."""


def check_client(client):
    """Raise unless it is a client of dask that waits for its results."""
    distributed = sys.modules.get("distributed")  # where it is not imported, there is no client
    if distributed is None or not isinstance(client, distributed.Client) or client.asynchronous:
        raise TypeError(
            "client must be a dask.distributed.Client that is not asynchronous, or None to work "
            f"here, got {client!r}."
        )


@dataclass
class Shipped:
    """A value on the workers: sent once, and again if all workers that had it are gone.

    Parameters
    ----------
    client : distributed.Client
    value : object
    """

    client: object
    value: object
    future: object = None

    def ship(self):
        """Send it to a worker, from which the others fetch it.

        Sent to all by dask (`broadcast`), it waits for ever for one that is lost meanwhile.
        """
        self.future = _scatter(self.client, self.value)

    def give_up_wish(self, running):
        """Nothing is wished: see `Computed`."""

    def forget(self):
        """Let the workers drop it."""
        future, self.future = self.future, None
        if future is not None:
            future.release()

    def current(self):
        """Its future."""
        if self.future is None or self.future.status != "finished":
            self.ship()
        return self.future


def _scatter(client, value, **where):
    try:
        (future,) = client.scatter([value], hash=False, **where)
    except KeyError as error:  # so dask says it
        raise ConnectionError(f"A worker was lost while it was sent data: {error}.") from error
    return future


@dataclass
class ShippedPart(Shipped):
    """A part of what is here, for one worker: `value` is a function that makes it when it is sent.

    So no part is here twice for longer than that takes.

    Parameters
    ----------
    place : int
        Parts with the same one go to the same worker.
    """

    place: int = 0

    def ship(self):
        """Send it to a worker."""
        worker = worker_for(self.client, self.place)
        self.future = _scatter(self.client, self.value(), workers=[worker])


@dataclass
class Computed(Shipped):
    """A value that workers compute from a recipe of dask's: `value` is a `dask.delayed.Delayed`.

    If it is lost they compute it again, without being asked.

    Parameters
    ----------
    wish : str or None
        The address of the worker that is to have it, if that can be.
    """

    wish: str | None = None

    @classmethod
    def together(cls, client, recipes):
        """Have several computed at once, such that what is common to them is computed once."""
        futures = client.compute(recipes, retries=RETRIES)
        return [cls(client, *each) for each in zip(recipes, futures, strict=True)]

    @classmethod
    def spread(cls, client, recipes):
        """Likewise, the values on different workers.

        Each is moved by a task of its own: a worker that is wished for all that it takes to compute
        them would bind what others share, too.
        """
        values = cls.together(client, recipes)
        for place, each in enumerate(values):
            each.wish = worker_for(client, place)
            each.future = client.submit(
                _itself, each.future, workers=[each.wish], allow_other_workers=True, pure=False
            )
        return values

    def ship(self):
        """Have it computed."""
        self.future, self.wish = self.client.compute(self.value, retries=RETRIES), None

    def current(self):
        """Its future, perhaps one that is pending or has failed."""
        if self.future is None or self.future.status == "cancelled":
            self.ship()
        return self.future

    def give_up_wish(self, running):
        """Have it computed anywhere if the wished worker is gone: dask may wait for it for ever."""
        if self.wish and self.wish not in running and not _has_ended(self.future):
            self.future.cancel()
            self.ship()


def _itself(value):
    return value


def running_workers(client):
    """The threads of each worker that takes tasks, by address; and of how many in all."""
    workers = client.scheduler_info()["workers"]
    running = {
        address: each["nthreads"]
        for address, each in sorted(workers.items())
        if each["status"] == "running"
    }
    return running, len(workers)


def worker_for(client, place):
    """The address of a worker, another one for the next place."""
    wait_for_threads(client)
    running, _ = running_workers(client)
    if not running:
        raise TimeoutError("All workers are lost or paused.")
    return [*running][place % len(running)]


def wait_for_threads(client, is_over=lambda: False):
    """Wait for workers that take tasks, unless it is over meanwhile; return their threads.

    Raises
    ------
    NoWorkersError
        If there are none for `PATIENCE`.
    """
    probe, began = None, time.monotonic()
    while True:
        running, n_workers = running_workers(client)
        if running or is_over():
            return sum(running.values())
        if time.monotonic() - began > PATIENCE:
            raise NoWorkersError(
                f"All workers have been paused for {PATIENCE:.0f} seconds, because their memory is "
                "full. Use more or larger workers."
                if n_workers
                else f"The cluster has had no workers for {PATIENCE:.0f} seconds. Start some, and "
                "wait for them by client.wait_for_workers(1)."
            )
        if probe is None:  # lets an adaptive cluster begin to grow
            probe = client.submit(int, pure=False)
        time.sleep(0.1)


def run_together(client, starts, look=None):
    """Run some tasks, and wait for all of them.

    Parameters
    ----------
    client : distributed.Client
    starts : list of callable
        Each submits a task and returns its future. It is called again if the task was lost with
        something that it needs and dask cannot compute.
    look : callable or None, default=None
        Called now and then while tasks run, with the threads of the workers by address.

    Returns
    -------
    results : list
        In the order of `starts`.

    Raises
    ------
    Exception
        What a task has raised, with its traceback.
    NoWorkersError
    WorkersLostError
        If a task was lost `MOST_LOSSES` times.
    """
    distributed = imported("distributed")
    futures, losses = [None] * len(starts), Counter()
    try:
        while True:
            wait_for_threads(
                client, lambda: all(future and _has_ended(future) for future in futures)
            )
            for place, future in enumerate(futures):
                if future is None or future.status == "cancelled":
                    futures[place] = _begin(starts[place], place, losses)
            begun = [future for future in futures if future]
            with contextlib.suppress(TimeoutError, *_cancelled()):
                distributed.wait(begun, timeout=LOOK_SECONDS)
            for future in begun:
                if future.status == "error":
                    future.result()  # raises
            if look is not None and not all(map(_has_ended, begun)):
                look(running_workers(client)[0])
            if all(future and future.status == "finished" for future in futures):
                with contextlib.suppress(*_cancelled()):  # even now a worker may die
                    return client.gather(futures)
    finally:
        begun = [future for future in futures if future]
        client.cancel([future for future in begun if not _has_ended(future)])
        for future in begun:  # an error's traceback may hold them
            future.release()


def _cancelled():
    """What dask raises where something was lost; the second is no Exception."""
    return imported("distributed").CancelledError, asyncio.CancelledError


def _begin(start, place, losses):
    """The future of a task; None where a worker is lost while it is sent what it needs."""
    losses[place] += 1
    if losses[place] > 1 + MOST_LOSSES:
        raise WorkersLostError(_ALL_LOST)
    with contextlib.suppress(OSError, *_cancelled()):
        return start()
    return None


def run_task(task, values, items, config):
    """Call a task on a worker; return what it returns, and the seconds that it took."""
    began = time.perf_counter()
    with config_context(**config):
        result = task(*values, items)
    return result, time.perf_counter() - began


_ALL_LOST = (
    "All workers were lost whenever they had this to do; it may need more memory than they have."
)


def _has_ended(future):
    """Whether a future has a result, an error, or was lost for good."""
    return future.status not in ("pending", "lost")


class Chunks:
    """Items of work on their way through a cluster.

    Parameters
    ----------
    client : distributed.Client
    task : callable
        Of the shipped values and a list of items; it has no side effects.
    shipped : list of Shipped
    items : list
    works : list of float
        How much each is, in multiplications.
    """

    def __init__(self, client, task, shipped, items, works):
        self.client, self.task, self.shipped, self.items = client, task, shipped, items
        self.works = [max(1.0, float(work)) for work in works]
        order = sorted(range(len(items)), key=lambda place: -self.works[place])
        self.waiting, self.running = deque(order), {}
        self.suspects, self.losses, self.is_alone = deque(), Counter(), False
        self.left, self.done, self.seconds = sum(self.works), 0.0, 0.0
        self.config = get_config()

    def __iter__(self):
        """Yield the places of some items, and their task's result or the error that ended it."""
        try:
            while self.waiting or self.suspects or self.running:
                self._submit_more(self._slots())
                for future in self._ended():
                    places = self.running.pop(future)
                    is_lost, outcome = self._outcome(future, places)
                    if not is_lost:
                        yield places, outcome
                    elif self.is_alone and self.losses[places[0]] >= ALONE_LOSSES:
                        if len(places) == 1:
                            yield places, WorkersLostError(_ALL_LOST)
                        else:  # one of them is to blame: the halves come next
                            del self.losses[places[0]]
                            half = len(places) // 2
                            self.suspects += [places[:half], places[half:]]
                    else:  # the last copy of the data was lost, by this chunk or by another
                        self.suspects.append(places)
        finally:
            if self.running:
                self.client.cancel(list(self.running))

    def _submit_more(self, slots):
        """Keep the cluster busy; chunks that were lost with all workers are tried one by one."""
        if self.suspects:
            if not self.running:
                places = self.suspects.popleft()
                self.losses[places[0]] += 1
                self.is_alone = True
                self._submit(places)
            return
        if self.is_alone and self.running:
            return
        self.is_alone = False
        while self.waiting and len(self.running) < 2 * slots:
            self._submit(self._next_chunk(slots))

    def _slots(self):
        """Threads of the cluster; waits for workers."""
        return wait_for_threads(self.client, lambda: any(map(_has_ended, self.running)))

    def _next_chunk(self, slots):
        """Places of the largest items that wait: half of what is left to a thread, within limits.

        Chunks become shorter towards the end, so that all threads end at the same time.
        """
        rate = self.done / self.seconds if self.seconds else ASSUMED_RATE
        share = self.left / slots / 2 / rate
        wanted = min(max(share, CHUNK_SECONDS), MOST_SECONDS) * rate
        places, work = [], 0.0
        while self.waiting and (not places or work < wanted):
            places.append(self.waiting.popleft())
            work += self.works[places[-1]]
        self.left -= work
        return places

    def _values(self):
        """Futures of what is shipped; it is sent again where a worker is lost meanwhile."""
        for _ in range(MOST_LOSSES):
            with contextlib.suppress(OSError, *_cancelled()):
                return [each.current() for each in self.shipped]
            self._slots()  # raises if there are none
        raise WorkersLostError(_ALL_LOST)

    def _submit(self, places):
        values = self._values()
        items = [self.items[place] for place in places]
        future = self.client.submit(
            run_task, self.task, values, items, self.config, pure=False, retries=RETRIES
        )
        self.running[future] = places

    def _ended(self):
        """Futures that have ended, at least one; those whose workers are gone among them."""
        distributed = imported("distributed")
        while True:
            with contextlib.suppress(TimeoutError, distributed.CancelledError):
                distributed.wait(
                    list(self.running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED"
                )
            ended = [future for future in self.running if _has_ended(future)]
            if ended:
                return ended
            self._slots()  # raises if there are none

    def _outcome(self, future, places):
        """Whether a chunk was lost with the data, and otherwise its result or error."""
        distributed = imported("distributed")
        try:
            error = future.exception()
            if isinstance(error, distributed.KilledWorker) and len(places) > 1:
                return True, None  # by one of them
            if error is not None:
                return isinstance(error, distributed.CancelledError), error
            result, seconds = future.result()
        except distributed.CancelledError:  # even now its worker may die
            return True, None
        except Exception as error:  # what has come back cannot be unpickled here
            return False, error
        self.done += sum(self.works[place] for place in places)
        self.seconds += seconds
        return False, result
