"""A team of Python threads that run one nogil kernel together, and their barrier."""

import os
import threading

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.compilation import kernel

# How often to look before giving the core away. A barrier that only spins collapses when another
# process wants the core; one that yields at once is slow when none does.
SPINS_BEFORE_YIELD = 2000
# The barrier counts arrivals in its first element; kernels may use the others, a cache line away.
CONTROL_SIZE = 32
STOPPED = 16


@intrinsic
def _yield_core(typing_context):
    """Let another thread run. Called by name: a pointer would keep the kernel out of the cache."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if os.name == "nt" else "sched_yield"
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _element(context, builder, signature, arguments):
    data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def _atomic_add(typing_context, array, index, value):
    def codegen(context, builder, signature, arguments):
        pointer = _element(context, builder, signature, arguments)
        return builder.atomic_rmw("add", pointer, arguments[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def _atomic_load(typing_context, array, index):
    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_element(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.intp), codegen


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
    """Wait until all threads of the team have come here.

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
    _atomic_add(control, 0, 1)
    spins = 0
    while _atomic_load(control, 0) < passed * size:
        _pause()
        spins += 1
        if spins == SPINS_BEFORE_YIELD:
            _yield_core()
            spins = 0
    return passed


def run_team(size, member):
    """Call ``member(rank)`` for every rank of a team at once, each in a thread of its own.

    The calling thread only waits: so Ctrl-C, which Python raises in the main thread, cannot end one
    rank while the others wait for it in a barrier. It is raised when all have returned.

    Parameters
    ----------
    size : int
        A team of one works in the calling thread.
    member : callable
        Takes the rank; releases the GIL while it works.

    Raises
    ------
    RuntimeError
        When the system has no thread left; no rank has run then.
    """
    if size == 1:
        member(0)
        return
    # No rank may start before all can.
    gate, cancelled, failures = threading.Event(), threading.Event(), []

    def enter(rank):
        gate.wait()
        if cancelled.is_set():
            return
        try:
            member(rank)
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    threads = []
    try:
        for rank in range(size):
            thread = threading.Thread(target=enter, args=(rank,), daemon=True)
            thread.start()
            threads.append(thread)
    except BaseException:
        cancelled.set()
        raise
    finally:
        gate.set()
        try:
            wait_for(threads)
        except BaseException:
            wait_for(threads)
            raise
    if failures:
        raise failures[0]


def wait_for(threads):
    """Wait until all threads have ended."""
    for thread in threads:
        thread.join()
