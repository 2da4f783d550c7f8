"""cuBLASLt by nvmath-python's bindings: whether it can be used, and one product planned with it.

Importing this imports neither; addresses, handles and streams are plain integers, so that numba's
arrays and cuda.core's streams go in as they are. A plan is made once for a product of one size:
descriptors, a workspace that is there beforehand, and the algorithm that cuBLASLt's heuristic
likes best. Calls then allocate nothing and can be recorded in a graph.

Algorithms that split the summed dimension over blocks are not allowed. NVIDIA's users have seen
sums by them that differ from run to run (CUDALibrarySamples, issue 243) and sums that lack terms.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from fastbp.cuda.device import reporting

WORKSPACE_BYTES = 32 * 2**20  # NVIDIA's advice from Hopper on
INSTALL = "pip install 'fastbp[cublas13]' or 'fastbp[cublas12]'"
TYPES = {"bfloat16": "CUDA_R_16BF", "tf32": "CUDA_R_32F", "float32": "CUDA_R_32F"}
COMPUTE_TYPES = {
    "bfloat16": "COMPUTE_32F",
    "tf32": "COMPUTE_32F_FAST_TF32",
    "float32": "COMPUTE_32F",
}


def missing_package():
    """Say that the bindings are not installed; None where they are. Imports nothing."""
    return None if find_spec("nvmath") else f"nvmath-python is not installed, {INSTALL}"


@cache
def problem():
    """Say why cuBLASLt cannot be used on this process's GPU; None where it can.

    The GPU's context must be current.
    """
    reason = missing_package()
    if reason is None:
        try:
            handle()
        except Exception as error:  # whatever it is, fastbp's own products do without
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return reason


@cache
def bindings():
    """The bindings' modules for cuBLASLt, cuBLAS's enumerations, and types of numbers."""
    return (
        import_module("nvmath.bindings.cublasLt"),
        import_module("nvmath.bindings.cublas"),
        import_module("nvmath").CudaDataType,
    )


@cache
def handle():
    """This process's handle to cuBLASLt."""
    return bindings()[0].create()


class Operand:
    """A matrix as cuBLASLt takes it: column by column, what lies row by row being its transpose.

    Parameters
    ----------
    place : (int, int)
        Address, and bytes from one row to the next.
    rows, columns : int
        As it lies.
    kind : str
        The name of its type.
    """

    def __init__(self, place, rows, columns, kind):
        self.address, pitch = place
        self.rows, self.columns, self.kind = rows, columns, kind
        self.leading = pitch // (2 if kind == "CUDA_R_16BF" else 4)


class Plan:
    """One product of matrices that lie row by row, ready to be launched: C = op(A) op(B).

    Parameters
    ----------
    device : Device
    precision : {"bfloat16", "tf32", "float32"}
    a, b, c : Operand
        C's type may be a wider one than that of A and B.
    transposed : (bool, bool), default=(False, False)
        Whether op transposes A, B.
    epilogue : str, default="DEFAULT"
        "BIAS" and "RELU_BIAS" add a row to all rows of C, the latter cuts at zero then.
    bias : int, default=0
        Its address; of C's type.
    workspace : int
        Address of `WORKSPACE_BYTES` bytes.

    Raises
    ------
    DeviceError
        Where cuBLASLt refuses, or knows no algorithm.
    """

    def __init__(
        self, device, precision, a, b, c, workspace, transposed=(False, False),
        epilogue="DEFAULT", bias=0,
    ):  # fmt: skip
        self._made = []  # what is to be destroyed
        self._device, self._workspace = device, workspace
        self._stream = device.stream_handle
        # Cᵀ = op(B)ᵀ op(A)ᵀ, and read column by column every matrix is its own transpose.
        self._operands = b, a, c
        self._scalars = np.array([1.0, 0.0], np.float32)  # C = 1 · product + 0 · C
        with reporting(device):
            self._bindings = bindings()
            self._describe(precision, transposed[::-1], epilogue, bias)
            self._choose(f"{c.rows} x {c.columns} in {precision}, epilogue {epilogue}")

    def _describe(self, precision, transposed, epilogue, bias):
        lt, cublas, types = self._bindings
        compute = getattr(cublas.ComputeType, COMPUTE_TYPES[precision])
        self._description = self._keep(
            lt.matmul_desc_create(compute, types.CUDA_R_32F), lt.matmul_desc_destroy
        )
        attributes = lt.MatmulDescAttribute
        operations = [cublas.Operation.T if flag else cublas.Operation.N for flag in transposed]
        self._set(attributes.TRANSA, operations[0])
        self._set(attributes.TRANSB, operations[1])
        self._set(attributes.EPILOGUE, getattr(lt.Epilogue, epilogue))
        if bias:
            self._set(attributes.BIAS_POINTER, bias)
        self._layouts = [
            self._keep(
                lt.matrix_layout_create(
                    getattr(types, one.kind), one.columns, one.rows, one.leading
                ),
                lt.matrix_layout_destroy,
            )
            for one in self._operands
        ]

    def _keep(self, made, destroy):
        self._made.append((made, destroy))
        return made

    def _set(self, attribute, value):
        """Set an attribute of the product."""
        lt = self._bindings[0]
        number = np.array([value], lt.get_matmul_desc_attribute_dtype(attribute))
        lt.matmul_desc_set_attribute(
            self._description, attribute, number.ctypes.data, number.nbytes
        )

    def _choose(self, what):
        """Ask the heuristic for an algorithm."""
        lt = self._bindings[0]
        attributes = lt.MatmulPreferenceAttribute
        preference = self._keep(lt.matmul_preference_create(), lt.matmul_preference_destroy)
        for attribute, value in (
            (attributes.MAX_WORKSPACE_BYTES, WORKSPACE_BYTES),
            (attributes.REDUCTION_SCHEME_MASK, lt.ReductionScheme.NONE),
        ):
            number = np.array([value], lt.get_matmul_preference_attribute_dtype(attribute))
            lt.matmul_preference_set_attribute(
                preference, attribute, number.ctypes.data, number.nbytes
            )
        self._found, count = lt.MatmulHeuristicResult(1), np.zeros(1, np.int32)
        a, b, c = self._layouts
        lt.matmul_algo_get_heuristic(
            handle(), self._description, a, b, c, c, preference, 1, self._found.ptr,
            count.ctypes.data,
        )  # fmt: skip
        if count[0] < 1 or self._found.state != 0:
            raise RuntimeError(f"CUBLAS_STATUS_NOT_SUPPORTED: no algorithm for {what}")

    def __call__(self):
        """Launch it."""
        (a, b, c), (a_layout, b_layout, c_layout) = self._operands, self._layouts
        one, zero = self._scalars.ctypes.data, self._scalars[1:].ctypes.data
        with reporting(self._device):
            self._bindings[0].matmul(
                handle(), self._description, one, a.address, a_layout, b.address, b_layout, zero,
                c.address, c_layout, c.address, c_layout, self._found.ptr, self._workspace,
                WORKSPACE_BYTES, self._stream,
            )  # fmt: skip

    def __del__(self):
        for made, destroy in self._made:
            destroy(made)
