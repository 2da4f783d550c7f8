"""A kernel that executes every function of fastbp.cuda.ptx once, for compile_kernels.py."""

from kernel_list import Listed
from numba import types

from fastbp.cuda import ptx
from fastbp.cuda.toolkit import cuda

_VALUES = {
    types.uint16: "uint16(i)",
    types.uint32: "uint32(i)",
    types.int64: "address",
    types.float32: "float32(i)",
    types.float64: "float64(i)",
}


def names():
    """Every instruction of the module."""
    return [name for name, function in vars(ptx).items() if hasattr(function, "in_python")]


def make_kernel(chosen):
    """A kernel that calls these, one after the other, and uses what they return."""
    lines = ["def kernel(out, address):", "    i = cuda.threadIdx.x"]
    lines.append("    shared = cuda.shared.array(64, float32)")
    lines.append("    out[i] = ptx.shared_address(shared, i) + ptx.global_address(out, i)")
    for name in chosen:
        operands = dict(getattr(ptx, name).in_python.__annotations__)
        result = operands.pop("return", None)
        call = f"ptx.{name}({', '.join(_VALUES[kind] for kind in operands.values())})"
        if isinstance(result, tuple):
            lines += [f"    for value in {call}:", "        out[i] += float32(value)"]
        else:
            lines.append(f"    out[i] += float32({call})" if result else f"    {call}")
    kinds = {kind: getattr(types, kind) for kind in ("uint16", "uint32", "float32", "float64")}
    namespace = {"cuda": cuda, "ptx": ptx, **kinds}
    exec("\n".join(lines), namespace)
    return namespace["kernel"]


_SIGNATURE = types.float32[::1], types.int64
KERNELS = {"all": Listed(make_kernel(names()), _SIGNATURE, 64)}
