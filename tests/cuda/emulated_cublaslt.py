"""cuBLASLt for the emulated device: what nvmath's bindings offer of it, computed by NumPy.

Products are computed from the descriptors as cuBLASLt's documentation says: matrices lie column by
column, the leading dimension apart; the epilogue's bias goes along D's columns. Everything that
cuBLASLt demands or that must not happen is checked: sizes, types, alignments, addresses within the
device's arrays, the algorithm that was found for these descriptors, the workspace, the stream.
"""

import ctypes
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
from emulated_wide import round_to

TYPES = {  # of A and B, and of D and the biases
    ("CUDA_R_16BF", "CUDA_R_16BF"), ("CUDA_R_16BF", "CUDA_R_32F"), ("CUDA_R_32F", "CUDA_R_32F"),
}  # fmt: skip


class CudaDataType(IntEnum):
    CUDA_R_32F = 0
    CUDA_R_16BF = 14


class ComputeType(IntEnum):
    COMPUTE_32F = 68
    COMPUTE_32F_FAST_TF32 = 77


class Operation(IntEnum):
    N = 0
    T = 1


class Epilogue(IntEnum):
    DEFAULT = 1
    BIAS = 4
    RELU_BIAS = 6


class MatmulDescAttribute(IntEnum):
    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8


class MatmulPreferenceAttribute(IntEnum):
    MAX_WORKSPACE_BYTES = 1
    REDUCTION_SCHEME_MASK = 3


class ReductionScheme(IntEnum):
    NONE = 0


ATTRIBUTE_TYPES = {  # by name: members of two enumerations may be equal numbers
    "TRANSA": np.int32,
    "TRANSB": np.int32,
    "EPILOGUE": np.uint32,
    "BIAS_POINTER": np.int64,
    "MAX_WORKSPACE_BYTES": np.uint64,
    "REDUCTION_SCHEME_MASK": np.uint32,
}


class cuBLASLtError(Exception):  # noqa: N801
    """As nvmath names it."""


class MatmulHeuristicResult:
    """As nvmath's: one record of `cublasLtMatmulHeuristicResult_t`."""

    dtype = np.dtype(
        [("algo", np.uint64, 8), ("workspace_size", np.uint64), ("state", np.int32),
         ("waves_count", np.float32), ("reserved", np.int32, 4)]
    )  # fmt: skip

    def __init__(self, size=1):
        assert size == 1
        self._data = np.zeros(size, self.dtype)
        self._data["state"] = -1

    @property
    def ptr(self):
        return self._data.ctypes.data

    @property
    def state(self):
        return int(self._data["state"][0])


def read_memory(address, dtype, count=1):
    """Numbers at an address of this process; a view."""
    n_bytes = int(count) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * n_bytes).from_address(address), dtype)


class EmulatedCublasLt:
    """The functions of `nvmath.bindings.cublasLt` that fastbp calls, with their parameters.

    Parameters
    ----------
    device : EmulatedDevice
    """

    Epilogue, ReductionScheme = Epilogue, ReductionScheme
    MatmulDescAttribute = MatmulDescAttribute
    MatmulPreferenceAttribute = MatmulPreferenceAttribute
    MatmulHeuristicResult = MatmulHeuristicResult

    def __init__(self, device):
        self.device = device
        self.objects = {}
        self.calls = []  # (m, n, k, epilogue)
        self.failing = None  # name of a function that fails

    def _new(self, **fields):
        number = 1000 + len(self.objects)
        self.objects[number] = SimpleNamespace(**fields)
        return number

    def _destroy(self, number):
        assert self.objects[number] is not None
        self.objects[number] = None

    def _fail_if_told(self, name):
        if self.failing == name:
            raise cuBLASLtError("CUBLAS_STATUS_EXECUTION_FAILED (13)")

    # ---- descriptors --------------------------------------------------------------------------

    def create(self):
        self._fail_if_told("create")
        return self._new(is_handle=True)

    def matmul_desc_create(self, compute_type, scale_type):
        assert scale_type == CudaDataType.CUDA_R_32F
        return self._new(
            compute=ComputeType(compute_type), TRANSA=Operation.N, TRANSB=Operation.N,
            EPILOGUE=Epilogue.DEFAULT, BIAS_POINTER=0,
        )  # fmt: skip

    def matmul_desc_destroy(self, matmul_desc):
        self._destroy(matmul_desc)

    def matmul_desc_set_attribute(self, matmul_desc, attr, buf, size_in_bytes):
        self._set(matmul_desc, MatmulDescAttribute(attr), buf, size_in_bytes)

    def get_matmul_desc_attribute_dtype(self, attr):
        return ATTRIBUTE_TYPES[MatmulDescAttribute(attr).name]

    def matrix_layout_create(self, type, rows, cols, ld):
        return self._new(type=CudaDataType(type), rows=rows, cols=cols, ld=ld)

    def matrix_layout_destroy(self, mat_layout):
        self._destroy(mat_layout)

    def matmul_preference_create(self):
        return self._new(MAX_WORKSPACE_BYTES=0, REDUCTION_SCHEME_MASK=7)

    def matmul_preference_destroy(self, pref):
        self._destroy(pref)

    def matmul_preference_set_attribute(self, pref, attr, buf, size_in_bytes):
        self._set(pref, MatmulPreferenceAttribute(attr), buf, size_in_bytes)

    def get_matmul_preference_attribute_dtype(self, attr):
        return ATTRIBUTE_TYPES[MatmulPreferenceAttribute(attr).name]

    def _set(self, number, attribute, address, n_bytes):
        dtype = np.dtype(ATTRIBUTE_TYPES[attribute.name])
        assert n_bytes == dtype.itemsize
        setattr(self.objects[number], attribute.name, int(read_memory(address, dtype)[0]))

    # ---- products -----------------------------------------------------------------------------

    def matmul_algo_get_heuristic(
        self, light_handle, operation_desc, adesc, bdesc, cdesc, ddesc, preference,
        requested_algo_count, heuristic_results_array, return_algo_count,
    ):  # fmt: skip
        self._fail_if_told("matmul_algo_get_heuristic")
        assert self.objects[light_handle].is_handle
        wanted = self.objects[preference]
        assert wanted.REDUCTION_SCHEME_MASK == ReductionScheme.NONE  # sums must repeat
        assert requested_algo_count == 1
        self._check_sizes(operation_desc, adesc, bdesc, cdesc, ddesc)
        found = read_memory(heuristic_results_array, MatmulHeuristicResult.dtype)
        found["algo"][0, :5] = operation_desc, adesc, bdesc, cdesc, ddesc
        found["workspace_size"], found["state"] = wanted.MAX_WORKSPACE_BYTES, 0
        read_memory(return_algo_count, np.int32)[0] = self.failing != "no algorithm"

    def matmul(
        self, light_handle, compute_desc, alpha, a, adesc, b, bdesc, beta, c, cdesc, d, ddesc, algo,
        workspace, workspace_size_in_bytes, stream,
    ):  # fmt: skip
        self._fail_if_told("matmul")
        assert self.objects[light_handle].is_handle
        assert stream == self.device.stream_handle
        assert (c, cdesc) == (d, ddesc)
        assert read_memory(alpha, np.float32)[0] == 1
        assert read_memory(beta, np.float32)[0] == 0
        layouts = compute_desc, adesc, bdesc, cdesc, ddesc
        assert tuple(read_memory(algo, np.uint64, 8)[:5]) == layouts
        assert workspace % 256 == 0
        self._bytes(workspace, workspace_size_in_bytes)[:] = 0xFF
        product, epilogue = self.objects[compute_desc], self.objects[compute_desc].EPILOGUE
        m, n, k = self._check_sizes(*layouts)
        self.calls.append((m, n, k, Epilogue(epilogue).name))
        left = self._read(a, adesc, product.compute)
        right = self._read(b, bdesc, product.compute)
        left = left.T if product.TRANSA == Operation.T else left
        right = right.T if product.TRANSB == Operation.T else right
        with np.errstate(all="ignore"):
            result = left.astype(float) @ right
            if epilogue in (Epilogue.BIAS, Epilogue.RELU_BIAS):
                kind = self.objects[ddesc].type
                result += self._numbers(product.BIAS_POINTER, kind, m)[:, None]
            if epilogue == Epilogue.RELU_BIAS:
                result = np.maximum(result, 0)
            self._write(d, ddesc, result.astype(np.float32))

    def _check_sizes(self, operation_desc, adesc, bdesc, cdesc, ddesc):
        product = self.objects[operation_desc]
        a, b, d = (self.objects[one] for one in (adesc, bdesc, ddesc))
        m, k = (a.cols, a.rows) if product.TRANSA == Operation.T else (a.rows, a.cols)
        inner, n = (b.cols, b.rows) if product.TRANSB == Operation.T else (b.rows, b.cols)
        assert cdesc == ddesc
        assert (inner, d.rows, d.cols) == (k, m, n)
        assert a.type == b.type
        assert (a.type.name, d.type.name) in TYPES
        is_tf32 = product.compute == ComputeType.COMPUTE_32F_FAST_TF32
        assert not is_tf32 or a.type == CudaDataType.CUDA_R_32F
        has_bias = product.EPILOGUE in (Epilogue.BIAS, Epilogue.RELU_BIAS)
        assert has_bias == bool(product.BIAS_POINTER)
        for one in (a, b, d):
            size = 2 if one.type == CudaDataType.CUDA_R_16BF else 4
            assert one.ld >= one.rows
            # So that no slower algorithm must be taken.
            assert one.ld * size % 16 == one.rows * size % 16 == 0
        return m, n, k

    # ---- memory -------------------------------------------------------------------------------

    def _bytes(self, address, count):
        """Memory of one of the device's arrays."""
        for array in self.device.arrays:
            start = array.__array_interface__["data"][0]
            if start <= address and address + count <= start + array.nbytes:
                return read_memory(address, np.uint8, count)
        raise AssertionError(f"{count} bytes at {address:#x} lie in no array of the device")

    def _numbers(self, address, kind, count):
        """So many numbers of a type in a row, as float32."""
        assert address % 16 == 0
        if kind == CudaDataType.CUDA_R_32F:
            return self._bytes(address, 4 * count).view(np.float32)
        halves = self._bytes(address, 2 * count).view(np.uint16)
        return (halves.astype(np.uint32) << 16).view(np.float32)

    def _read(self, address, number, compute):
        """A matrix as a product reads it."""
        one = self.objects[number]
        step = one.ld * (2 if one.type == CudaDataType.CUDA_R_16BF else 4)
        columns = [self._numbers(address + j * step, one.type, one.rows) for j in range(one.cols)]
        matrix = np.stack(columns, axis=1)
        if compute == ComputeType.COMPUTE_32F_FAST_TF32:  # tensor cores do not look at the rest
            return (matrix.view(np.uint32) & 0xFFFFE000).view(np.float32)
        return matrix

    def _write(self, address, number, matrix):
        one = self.objects[number]
        for j in range(one.cols):
            column = np.ascontiguousarray(matrix[:, j])
            if one.type == CudaDataType.CUDA_R_32F:
                self._bytes(address + j * one.ld * 4, 4 * one.rows).view(np.float32)[:] = column
                continue
            _, halves = round_to("bfloat16", column)
            self._bytes(address + j * one.ld * 2, 2 * one.rows).view(np.uint16)[:] = halves


def bindings_for(device):
    """What `fastbp.cuda.wide.library.bindings` returns, for an emulated device."""
    cublas = SimpleNamespace(ComputeType=ComputeType, Operation=Operation)
    return EmulatedCublasLt(device), cublas, CudaDataType
