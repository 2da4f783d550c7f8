"""A team of Python threads that run one nogil kernel together, and their barrier."""

import contextlib
import os
import time
from _thread import allocate_lock, start_new_thread

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.compilation import kernel
from fastbp.cpu.spans import address_of

# How often to look before yielding the core. A barrier that only spins collapses when another
# process wants the core; one that yields at once is slow when none does.
SPINS_BEFORE_YIELD = 2000
_POLL_SECONDS = 0.001  # how often an interrupted caller checks whether all ranks have returned
# Elements of the team's control array: arrivals at barriers, whether a rank has failed, and, on
# another cache line, whether the kernel is to stop.
ARRIVALS, ABORTED, STOPPED = 0, 1, 16
CONTROL_SIZE = 32


@intrinsic
def _yield_core(typing_context):
    """Let another thread run. Called by name: a kernel with a pointer could not be cached."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if os.name == "nt" else "sched_yield"
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _atomic_add(typing_context, span, index, value):
    def codegen(context, builder, signature, arguments):
        pointer = address_of(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", pointer, arguments[2], "acq_rel")

    return types.int64(span, types.intp, types.int64), codegen


@intrinsic
def _atomic_load(typing_context, span, index):
    def codegen(context, builder, signature, arguments):
        pointer = address_of(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(span, types.intp), codegen


@intrinsic
def _pause(typing_context):
    def codegen(context, builder, signature, arguments):
        if "x86" in builder.module.triple:
            function = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def barrier(control, passed, size):
    """Wait until all threads of the team have arrived.

    Parameters
    ----------
    control : ndarray of shape (CONTROL_SIZE,), dtype int64
        Shared by the team, zero at the start of a kernel.
    passed : int
        Barriers that this thread has passed.
    size : int
        Threads in the team.

    Returns
    -------
    passed : int
    """
    passed += 1
    if size == 1:
        return passed
    _atomic_add(control, ARRIVALS, 1)
    spins = 0
    while _atomic_load(control, ARRIVALS) < passed * size:
        if _atomic_load(control, ABORTED):
            break
        _pause()
        spins += 1
        if spins == SPINS_BEFORE_YIELD:
            _yield_core()
            spins = 0
    return passed


def _spread_out(rank, cores):
    """Move this thread to a core of its own, from which the system may move it on.

    Now and then new threads start on the same core although another is idle. Waiting for each
    other they are slower than one thread, for about 20 ms until the system balances the load.
    """
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cores[rank]})
        os.sched_setaffinity(0, cores)


def run_team(size, member, control):
    """Call ``member(rank)`` for every rank of a team concurrently, each in a thread of its own.

    The calling thread starts the others and waits. Ctrl-C may interrupt the main thread between any
    two bytecodes: if it took part, it could leave the others at a barrier for ever.

    Parameters
    ----------
    size : int
        A team of one runs in the calling thread.
    member : callable
        Takes the rank, and releases the GIL while it computes.
    control : ndarray of shape (CONTROL_SIZE,), dtype int64
        The team's, for `barrier`. It is zeroed.

    Raises
    ------
    RuntimeError
        If the system cannot start another thread.
    KeyboardInterrupt
        After all ranks have returned.
    BaseException
        The first that a rank has raised; the other ranks are released from their barriers.
    """
    control[:] = 0
    if size == 1:
        member(0)
        return
    begun, ended, abandoned, failures = [], [], [], []
    entry, running = allocate_lock(), [allocate_lock() for _ in range(size)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
    takes_all_cores = size == len(cores)  # with a core to spare the system spreads threads itself

    def enter(rank):
        with entry:
            begins = not abandoned
            if begins:
                begun.append(rank)
        try:
            if begins:
                if takes_all_cores:
                    _spread_out(rank, cores)
                member(rank)
        except BaseException as error:  # raised in the caller
            failures.append(error)
            control[ABORTED] = 1
        finally:
            if begins:
                ended.append(rank)
            running[rank].release()

    # Not threading.Thread: an interrupt in its start or join leaves it in an undefined state.
    try:
        for rank in range(size):
            running[rank].acquire()
            start_new_thread(enter, (rank,))
        for lock in running:
            lock.acquire()
    except BaseException:
        with entry:
            if len(begun) < size:
                abandoned.append(True)
                control[ABORTED] = 1  # the ranks that run get no further than a barrier
        _wait_for(begun, ended)
        raise
    for error in failures:
        raise error


def _wait_for(begun, ended):
    """Wait until all ranks that have begun have ended, whatever interrupts arrive."""
    while len(ended) < len(begun):
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(_POLL_SECONDS)
