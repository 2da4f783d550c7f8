"""Subnormal numbers count as zero while a kernel runs: processors are slow with them.

On Intel's a product with one takes 150 cycles. They come up by themselves: the moments of a unit
that has died decay through them for thousands of updates. Nothing that they could add is within
rounding of anything else.

The mode is the thread's, and the caller's is put back when the kernel returns. It has no other
way out.
"""

from llvmlite import binding

BEGIN_FLUSHING, END_FLUSHING = "fastbp.begin_flushing", "fastbp.end_flushing"

# Bits of the control words: flush to zero, and denormals are zero (x86); flush both (arm64).
_MXCSR_BITS = 0x8000 | 0x0040
_FPCR_BITS = 1 << 24

# Bodies of a function that returns the caller's mode, and of one that takes it, `%mode`.
_X86 = (
    "declare void @llvm.x86.sse.stmxcsr(ptr) declare void @llvm.x86.sse.ldmxcsr(ptr)",
    f"""
        %place = alloca i32
        call void @llvm.x86.sse.stmxcsr(ptr %place)
        %before = load i32, ptr %place
        %flushing = or i32 %before, {_MXCSR_BITS}
        store i32 %flushing, ptr %place
        call void @llvm.x86.sse.ldmxcsr(ptr %place)
        %mode = zext i32 %before to i64
        ret i64 %mode""",
    """
        %place = alloca i32
        %before = trunc i64 %mode to i32
        store i32 %before, ptr %place
        call void @llvm.x86.sse.ldmxcsr(ptr %place)
        ret void""",
)
_ARM64 = (
    "declare i64 @llvm.aarch64.get.fpcr() declare void @llvm.aarch64.set.fpcr(i64)",
    f"""
        %mode = call i64 @llvm.aarch64.get.fpcr()
        %flushing = or i64 %mode, {_FPCR_BITS}
        call void @llvm.aarch64.set.fpcr(i64 %flushing)
        ret i64 %mode""",
    """
        call void @llvm.aarch64.set.fpcr(i64 %mode)
        ret void""",
)
_OTHERS = "", "ret i64 0", "ret void"
_BODIES = {"x86": _X86, "i386": _X86, "i686": _X86, "aarch64": _ARM64, "arm64": _ARM64}


def link_modes(module):
    """Give a module the functions that begin and end the mode of its kind of processor.

    Parameters
    ----------
    module : llvmlite.binding.ModuleRef
        Its kernels call them by the names above.
    """
    family = next(filter(module.triple.startswith, _BODIES), None)
    declarations, begin, end = _BODIES.get(family, _OTHERS)
    functions = f"""
        target triple = "{module.triple}"
        target datalayout = "{module.data_layout}"
        {declarations}
        define linkonce_odr i64 @"{BEGIN_FLUSHING}"() alwaysinline {{ {begin} }}
        define linkonce_odr void @"{END_FLUSHING}"(i64 %mode) alwaysinline {{ {end} }}
    """
    module.link_in(binding.parse_assembly(functions))
