"""The team of threads that works on one network: its start, its barrier and its end."""

import contextlib
import gc
import os
import signal
from _thread import allocate_lock, start_new_thread
from threading import get_ident

import numpy as np
import pytest

from fastbp.cpu import team
from fastbp.cpu.kernels.barrier import barrier
from fastbp.cpu.records import ABORTED, CONTROL_SIZE
from fastbp.cpu.team import end_teams, run_team
from tests.cpu.callable import Callable


@pytest.fixture
def no_finalizers():
    """Let no finalizer of another test's garbage run in a team, where it would be interrupted.

    Python loses what is raised in one, and pytest failed the test for that.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@Callable
def meet(control, seen, rank, size):
    """Meet at barriers; count the times when another had not come."""
    passed, missed = np.int64(0), 0
    for i in range(seen.size // size):
        seen[i * size + rank] = i + 1
        passed = barrier(control, passed, size)
        for other in range(size):
            missed += seen[i * size + other] != i + 1
        if control[ABORTED]:
            break
    return missed


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_thread_passes_a_barrier_before_all_have_come(size):
    control, seen = np.zeros(CONTROL_SIZE, np.int64), np.zeros((2000, size), np.int64)
    missed = []
    run_team(size, lambda rank: missed.append(meet(control, seen, rank, size)), control)
    assert missed == [0] * size
    assert seen.min() == 1


def test_a_team_that_cannot_start_releases_those_who_have(monkeypatch):
    start, started, left = team.start_new_thread, [], []
    control, seen = np.zeros(CONTROL_SIZE, np.int64), np.zeros((5, 5), np.int64)

    def fail_at_third(function, arguments):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(function)
        start(function, arguments)

    def member(rank):
        meet(control, seen, rank, 5)
        left.append(rank)

    monkeypatch.setattr(team, "start_new_thread", fail_at_third)
    with pytest.raises(RuntimeError, match="can't start"):
        run_team(5, member, control)
    assert set(left) <= {0, 1}  # they came back, or saw in time that they need not begin


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_releases_the_others(failing):
    """The others waited for it in their barrier for ever."""
    control, seen = np.zeros(CONTROL_SIZE, np.int64), np.zeros((5, 3), np.int64)

    def member(rank):
        if rank == failing:
            raise MemoryError("no room")
        meet(control, seen, rank, 3)

    with pytest.raises(MemoryError, match="no room"):
        run_team(3, member, control)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ctrl_c_never_splits_a_team(no_finalizers):
    """A rank was left spinning in its barrier when the interrupt hit the start of the others."""
    control, seen = np.zeros(CONTROL_SIZE, np.int64), np.zeros((20, 2), np.int64)
    calls = []

    def member(rank):
        meet(control, seen, rank, 2)
        if not control[ABORTED]:
            calls.append(rank)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    meet(control, seen, 0, 1)  # compile
    before = signal.signal(signal.SIGALRM, interrupt)
    random = np.random.default_rng(0)
    try:
        for _ in range(300):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
                while True:
                    run_team(2, member, control)
            assert calls.count(0) == calls.count(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_handler_that_raises_again_and_again(no_finalizers):
    """Only the first exception was waited out: ranks went on with memory that was freed."""
    control, seen = np.zeros(CONTROL_SIZE, np.int64), np.zeros((20, 3), np.int64)
    inside, at_work, kinds = [], [], set()

    class LateError(Exception):
        pass

    def member(rank):
        inside.append(rank)
        meet(control, seen, rank, 3)
        inside.remove(rank)

    def interrupt(number, frame):
        while frame and frame.f_code is not run_team.__code__:
            frame = frame.f_back
        if frame:  # not in the test itself
            raise (LateError, KeyboardInterrupt, SystemExit)[len(kinds) % 3]

    meet(control, seen, 0, 1)  # compile
    before = signal.signal(signal.SIGALRM, interrupt)
    random = np.random.default_rng(0)
    try:
        for _ in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3), 2e-4)
                while True:
                    run_team(3, member, control, at_work)
            except BaseException as error:
                kinds.add(type(error))
            signal.setitimer(signal.ITIMER_REAL, 0)
            end_teams(at_work)
            assert not inside
            assert not at_work
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert LateError in kinds


def test_a_team_that_was_left_at_work_ends_before_the_next_begins():
    """Its ranks would write to the memory of the next."""
    control, order, at_work = np.zeros(CONTROL_SIZE, np.int64), [], []
    released = allocate_lock()
    released.acquire()

    def stay(rank):
        released.acquire()
        order.append("first")
        released.release()

    left = team._Team(2, stay, control)
    at_work.append(left)
    left.start()
    start_new_thread(released.release, ())
    run_team(2, lambda rank: order.append("second"), control, at_work)
    assert order == sorted(order)
    assert order.count("second") == 2
    assert not at_work


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_team_of_all_cores_has_each_for_itself(monkeypatch):
    """Two threads lay on one core beside an idle one: up to twice as slow, in half the epochs."""
    cores, moves = os.sched_getaffinity(0), {}
    move = os.sched_setaffinity

    def note(process, allowed):
        moves.setdefault(get_ident(), []).append(set(allowed))
        move(process, allowed)

    monkeypatch.setattr(os, "sched_setaffinity", note)
    seen, control = [], np.zeros(CONTROL_SIZE, np.int64)
    run_team(len(cores) + 1, seen.append, control)
    assert not moves
    run_team(len(cores), lambda rank: seen.append(os.sched_getaffinity(0)), control)
    first = [given[0] for given in moves.values()]
    assert sorted(first, key=min) == [{core} for core in sorted(cores)][: len(first)]
    assert len(first) == (len(cores) if len(cores) > 1 else 0)
    assert all(given[1:] == [cores] for given in moves.values())
    assert seen[-1] == os.sched_getaffinity(0) == cores  # and may be moved on from there
