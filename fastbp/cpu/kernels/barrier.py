"""The barrier at which the threads of a team wait for each other."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.spans import address_of
from fastbp.cpu.records import ABORTED, ARRIVALS

# How often to look before yielding the core. A barrier that only spins collapses when another
# process wants the core; one that yields at once is slow when none does.
SPINS_BEFORE_YIELD = 2000


@intrinsic
def _yield_core(typing_context):
    """Let another thread run. Called by name: a kernel with a pointer could not be cached."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if "windows" in builder.module.triple else "sched_yield"
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
def is_aborted(control):
    """Whether the team is to leave off, in the midst of a batch."""
    return _atomic_load(control, ABORTED) != 0


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
