"""All PTX instructions that the kernels use besides plain Python, one function each.

Global memory is addressed by int64 addresses in bytes, shared memory by uint32 addresses within the
shared window (`shared_address`). "ISA" in a docstring is NVIDIA's "PTX ISA", chapter "Instruction
Set"; the section meant bears the instruction's name.

Fragments
---------
In `mma.sync` the 32 lanes of a warp hold parts of A (16 × k), B (k × 8) and C (16 × 8). With
g = lane // 4 and t = lane % 4, register by register (row, column), as the ISA has it under "Matrix
Fragments for mma.m16n8k8" and "… mma.m16n8k16":

====  =======================  ==================================================
      tf32, k = 8              bfloat16, k = 16: two numbers a register, low first
====  =======================  ==================================================
a0    (g, t)                   (g, 2t), (g, 2t+1)
a1    (g+8, t)                 (g+8, 2t), (g+8, 2t+1)
a2    (g, t+4)                 (g, 2t+8), (g, 2t+9)
a3    (g+8, t+4)               (g+8, 2t+8), (g+8, 2t+9)
b0    (t, g)                   (2t, g), (2t+1, g)
b1    (t+4, g)                 (2t+8, g), (2t+9, g)
c0…3  (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1), float32
====  =======================  ==================================================

`ldmatrix` reads four 8 × 16-byte matrices; lane 8i + r brings the address of row r of matrix i.
Lane (g, t) receives of each the 4 bytes t of row g: of tf32 and bfloat16 alike the registers above,
where k runs along the rows. With `.trans` (2-byte numbers only) it receives the numbers g of the
rows 2t and 2t+1: the same, where k runs across the rows.
"""

import inspect
import struct

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.cuda.extending import intrinsic

U16, U32, I64 = types.uint16, types.uint32, types.int64
F32, F64 = types.float32, types.float64
_KINDS = {"u16": U16, "u32": U32, "f32": F32, "f64": F64}
_ADDRESSES = {"global": I64, "shared": U32}
_LLVM = {
    U16: (ir.IntType(16), "h"),
    U32: (ir.IntType(32), "r"),
    I64: (ir.IntType(64), "l"),
    F32: (ir.FloatType(), "f"),
    F64: (ir.DoubleType(), "d"),
}


def _call_assembly(context, builder, signature, arguments, template, memory, collective):
    """Emit one inline-assembly call and return its result, a tuple where it has several."""
    result = signature.return_type
    results = [] if result is types.void else list(getattr(result, "types", (result,)))
    outputs = [_LLVM[kind][0] for kind in results]
    if len(outputs) > 1:
        returned = ir.LiteralStructType(outputs)
    else:
        returned = outputs[0] if outputs else ir.VoidType()
    constraints = ["=" + _LLVM[kind][1] for kind in results]
    constraints += [_LLVM[kind][1] for kind in signature.args]
    constraints += ["~{memory}"] if memory else []
    kind = ir.FunctionType(returned, [argument.type for argument in arguments])
    # What the warp does together must neither move into a branch nor be doubled.
    assembly = ir.InlineAsm(kind, template, ",".join(constraints), memory or collective)
    value = builder.call(assembly, arguments, attrs=("convergent",) if collective else ())
    if not outputs:
        return context.get_dummy_value()
    if len(outputs) == 1:
        return value
    parts = [builder.extract_value(value, i) for i in range(len(outputs))]
    return context.make_tuple(builder, result, parts)


def _instruction(template, *, memory=False, collective=False):
    """Decorate a function whose annotations are the instruction's operands.

    `memory`: it reads or writes memory, or orders such accesses. `collective`: all lanes of a warp
    execute it together. In the simulator the function's own body runs.
    """

    def decorate(function):
        if config.ENABLE_CUDASIM:
            return function
        annotations = dict(function.__annotations__)
        result = annotations.pop("return", types.void)
        if isinstance(result, tuple):
            result = types.Tuple(result)
        operands = tuple(annotations.values())

        def define(typing_context, *arguments):
            def generate(context, builder, signature, values):
                return _call_assembly(
                    context, builder, signature, values, template, memory, collective
                )

            return result(*operands), generate

        own = inspect.signature(function)
        first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        define.__signature__ = inspect.Signature([first, *own.parameters.values()])
        define.__name__, define.__doc__ = function.__name__, function.__doc__
        compiled = intrinsic(define)
        compiled.in_python = function  # for tests
        return compiled

    return decorate


def _in_simulator(name):
    raise NotImplementedError(f"ptx.{name} has no counterpart in numba's CUDA simulator")


# ---- addresses -------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.ptrtoint(builder.gep(data, [index]), ir.IntType(64))


if config.ENABLE_CUDASIM:

    def global_address(array, index):
        """Address in bytes of an element; the simulator has none."""
        _in_simulator("global_address")

    def shared_address(array, index):
        """Address in the shared window; the simulator has none."""
        _in_simulator("shared_address")

else:

    @intrinsic
    def global_address(typing_context, array, index):
        """Address in bytes of an element, counted from the array's first along its memory."""

        def generate(context, builder, signature, values):
            return _pointer(context, builder, signature.args[0], *values)

        return I64(array, I64), generate

    @intrinsic
    def shared_address(typing_context, array, index):
        """cvta.to.shared: address of an element of a shared array (ISA: Data Movement)."""

        def generate(context, builder, signature, values):
            pointer = _pointer(context, builder, signature.args[0], *values)
            assembly = ir.InlineAsm(
                ir.FunctionType(ir.IntType(32), [ir.IntType(64)]),
                "{ .reg .u64 a; cvta.to.shared.u64 a, $1; cvt.u32.u64 $0, a; }",
                "=r,l",
            )
            return builder.call(assembly, [pointer])

        return U32(array, I64), generate


# ---- numbers ---------------------------------------------------------------------------------


@_instruction("cvt.rna.tf32.f32 $0, $1;")
def round_tf32(value: F32) -> U32:
    """cvt.rna.tf32.f32: float32 to tf32, 10 bits of mantissa, ties away from zero (ISA: cvt)."""
    bits = int(np.float32(value).view(np.uint32))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return np.uint32(0x7FFFFFFF)
    return np.uint32((bits + 0x1000) & 0xFFFFE000)


@_instruction("cvt.rn.bf16x2.f32 $0, $2, $1;")
def pack_bf16(low: F32, high: F32) -> U32:
    """cvt.rn.bf16x2.f32: two float32 to bfloat16 in one register, ties to even (ISA: cvt)."""
    packed = 0
    for shift, value in ((0, low), (16, high)):
        bits = struct.unpack("<I", np.float32(value).tobytes())[0]
        is_nan = bits & 0x7FFFFFFF > 0x7F800000
        half = 0x7FFF if is_nan else (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        packed |= half << shift
    return np.uint32(packed)


@_instruction("shl.b32 $0, $1, 16;")
def low_bf16(packed: U32) -> F32:
    """shl.b32: the lower bfloat16 of a register as float32, exactly (ISA: shl)."""
    return np.uint32((int(packed) << 16) & 0xFFFFFFFF).view(np.float32)


@_instruction("and.b32 $0, $1, 0xffff0000;")
def high_bf16(packed: U32) -> F32:
    """and.b32: the upper bfloat16 of a register as float32, exactly (ISA: and)."""
    return np.uint32(int(packed) & 0xFFFF0000).view(np.float32)


# ---- loads and stores ------------------------------------------------------------------------


def _spell(operation, space, kind, count, first):
    """An access as PTX has it and as it is called here, and its numbers' operands, from a first."""
    width, places = f"v{count}", ",".join(f"${first + i}" for i in range(count))
    parts = [operation, space, width, kind] if count > 1 else [operation, space, kind]
    return ".".join(parts), "_".join(parts), "{" + places + "}" if count > 1 else places


def _load(space, kind, count=1):
    """ld: numbers of a kind from global or shared memory, at a multiple of their size (ISA: ld)."""
    instruction, name, numbers = _spell("ld", space, kind, count, 0)
    result = _KINDS[kind] if count == 1 else (_KINDS[kind],) * count

    def load(address: _ADDRESSES[space]) -> result:
        _in_simulator(name)

    load.__name__, load.__doc__ = name, f"{instruction}: {_load.__doc__}"
    return _instruction(f"{instruction} {numbers}, [${count}];", memory=True)(load)


def _store(space, kind, count=1):
    """st: numbers of a kind to global or shared memory, at a multiple of their size (ISA: st)."""
    instruction, name, numbers = _spell("st", space, kind, count, 1)
    address, value = _ADDRESSES[space], _KINDS[kind]

    def store_1(address: address, v0: value):
        _in_simulator(name)

    def store_2(address: address, v0: value, v1: value):
        _in_simulator(name)

    def store_4(address: address, v0: value, v1: value, v2: value, v3: value):
        _in_simulator(name)

    store = {1: store_1, 2: store_2, 4: store_4}[count]
    store.__name__, store.__doc__ = name, f"{instruction}: {_store.__doc__}"
    return _instruction(f"{instruction} [$0], {numbers};", memory=True)(store)


ld_global_u32, ld_global_v2_u32, ld_global_v4_u32 = (_load("global", "u32", n) for n in (1, 2, 4))
ld_global_f32, ld_global_v4_f32 = (_load("global", "f32", n) for n in (1, 4))
ld_global_f64 = _load("global", "f64")
st_global_u16 = _store("global", "u16")
st_global_u32, st_global_v2_u32, st_global_v4_u32 = (_store("global", "u32", n) for n in (1, 2, 4))
st_global_f32, st_global_v4_f32 = (_store("global", "f32", n) for n in (1, 4))
st_global_f64 = _store("global", "f64")
ld_shared_u32, ld_shared_v2_u32 = (_load("shared", "u32", n) for n in (1, 2))
ld_shared_v4_f32 = _load("shared", "f32", 4)
st_shared_v2_f32, st_shared_v4_f32 = (_store("shared", "f32", n) for n in (2, 4))


# ---- asynchronous copies: sm_80 and later ----------------------------------------------------


@_instruction("cp.async.ca.shared.global [$0], [$1], 4;", memory=True)
def cp_async_4(shared: U32, address: I64):
    """cp.async.ca: copy 4 bytes from global to shared memory in the background (ISA: cp.async)."""
    _in_simulator("cp_async_4")


@_instruction("cp.async.cg.shared.global [$0], [$1], 16;", memory=True)
def cp_async_16(shared: U32, address: I64):
    """cp.async.cg: copy 16 bytes past L1, both addresses multiples of 16 (ISA: cp.async)."""
    _in_simulator("cp_async_16")


@_instruction("cp.async.commit_group;", memory=True)
def cp_async_commit():
    """cp.async.commit_group: this thread's copies so far are a group (ISA: cp.async)."""
    _in_simulator("cp_async_commit")


@_instruction("cp.async.wait_group 0;", memory=True)
def cp_async_wait_0():
    """cp.async.wait_group 0: wait for all of this thread's groups (ISA: cp.async)."""
    _in_simulator("cp_async_wait_0")


@_instruction("cp.async.wait_group 1;", memory=True)
def cp_async_wait_1():
    """cp.async.wait_group 1: wait for all groups but the last (ISA: cp.async)."""
    _in_simulator("cp_async_wait_1")


@_instruction("cp.async.wait_group 2;", memory=True)
def cp_async_wait_2():
    """cp.async.wait_group 2: wait for all groups but the last two (ISA: cp.async)."""
    _in_simulator("cp_async_wait_2")


# ---- tensor cores ----------------------------------------------------------------------------


@_instruction(
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];", memory=True, collective=True
)
def ldmatrix_x4(address: U32) -> (U32, U32, U32, U32):
    """ldmatrix.x4: four 8 × 16-byte matrices to fragments (ISA: ldmatrix)."""
    _in_simulator("ldmatrix_x4")


@_instruction(
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];",
    memory=True,
    collective=True,
)
def ldmatrix_x4_trans(address: U32) -> (U32, U32, U32, U32):
    """ldmatrix.x4.trans: four 8 × 8 matrices of 2-byte numbers, transposed (ISA: ldmatrix)."""
    _in_simulator("ldmatrix_x4_trans")


@_instruction(
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
    "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
    collective=True,
)
def mma_tf32(
    a0: U32, a1: U32, a2: U32, a3: U32, b0: U32, b1: U32, c0: F32, c1: F32, c2: F32, c3: F32
) -> (F32, F32, F32, F32):
    """mma.m16n8k8 tf32: C + A B in float32 (ISA: mma, "Matrix Fragments for mma.m16n8k8")."""
    _in_simulator("mma_tf32")


@_instruction(
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
    "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
    collective=True,
)
def mma_bf16(
    a0: U32, a1: U32, a2: U32, a3: U32, b0: U32, b1: U32, c0: F32, c1: F32, c2: F32, c3: F32
) -> (F32, F32, F32, F32):
    """mma.m16n8k16 bf16: C + A B in float32 (ISA: mma, "Matrix Fragments for mma.m16n8k16")."""
    _in_simulator("mma_bf16")
