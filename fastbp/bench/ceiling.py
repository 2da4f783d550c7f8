"""What this machine can do at most: multiply-adds in registers, and memory bandwidth.

Compiled by numba like fastbp's own kernels, for the same vector width.
"""

import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.simd import VECTOR_BITS, lanes

# Independent sums: two units of four cycles' latency need eight. 16 registers hold no more than 12
# next to the two factors, AVX-512's 32 registers some more.
N_CHAINS = 24 if VECTOR_BITS == 512 else 12
SECONDS_PER_PROBE = 0.04
N_PROBES = 5
DEFAULT_CACHE_BYTES = 32 * 2**20
_INT64 = ir.IntType(64)


@dataclass(frozen=True)
class Ceiling:
    """The best of some probes on some number of threads.

    Parameters
    ----------
    n_threads : int
    float32, float64 : float
        Multiply-adds in registers, two floating-point operations each, in operations a second.
    bandwidth : float
        Bytes a second of a ← b + s·c on arrays larger than the last cache, three arrays counted.
    cache_bytes : int
        Size of the last-level cache.
    """

    n_threads: int
    float32: float
    float64: float
    bandwidth: float
    cache_bytes: int

    def better_of(self, other):
        """The higher of each figure: whatever disturbed a probe, the machine can do the other."""
        return Ceiling(*map(max, vars(self).values(), vars(other).values()))

    def share_of_peak(self, case, seconds):
        """A case's operations a second over the multiply-add peak of its dtype."""
        return case.operations / seconds / getattr(self, case.dtype)

    def share_of_roofline(self, case, seconds):
        """The least time that peak and bandwidth allow over the time taken.

        What fits in the last-level cache is taken to come from there, at no cost.
        """
        arithmetic = case.operations / getattr(self, case.dtype)
        memory = case.memory_bytes(self.cache_bytes) / self.bandwidth
        return max(arithmetic, memory) / seconds


@intrinsic
def _multiply_add_chains(typing_context, values, n_steps):
    """Run `n_steps` of x ← x·a + b on `N_CHAINS` vectors at once; a, b and x are from `values`."""
    real = values.dtype
    signature = types.void(values, n_steps)

    def codegen(context, builder, signature, arguments):
        element = ir.FloatType() if real == types.float32 else ir.DoubleType()
        count = VECTOR_BITS // real.bitwidth
        vector = ir.VectorType(element, count)
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        name = f"llvm.fmuladd.v{count}f{real.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), name
        )

        def address(index):
            pointer = builder.gep(array.data, [_INT64(index * count)])
            return builder.bitcast(pointer, vector.as_pointer())

        def load(index):
            return builder.load(address(index), align=real.bitwidth // 8)

        factor, summand = load(0), load(1)
        start = [load(2 + chain) for chain in range(N_CHAINS)]
        entry, loop = builder.block, builder.append_basic_block("chains")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(_INT64)
        step.add_incoming(_INT64(0), entry)
        chains = [builder.phi(vector) for _ in start]
        updated = [builder.call(function, [chain, factor, summand]) for chain in chains]
        for chain, first, value in zip(chains, start, updated, strict=True):
            chain.add_incoming(first, entry)
            chain.add_incoming(value, loop)
        following = builder.add(step, _INT64(1))
        step.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[1]), loop, after)
        builder.position_at_end(after)
        for chain, value in enumerate(updated):
            builder.store(value, address(2 + chain), align=real.bitwidth // 8)
        return context.get_dummy_value()

    return signature, codegen


@njit(nogil=True)
def _multiply_add(values, n_steps):
    _multiply_add_chains(values, n_steps)


@njit(nogil=True, error_model="numpy")
def _triad(out, left, right, factor):
    for i in range(out.size):
        out[i] = left[i] + factor * right[i]


def fastest(work, n_threads, n_probes=N_PROBES):
    """Seconds of the fastest of some runs of `work(rank)` by that many threads at once."""
    seconds = []
    for _ in range(n_probes):
        spans, gate = [], threading.Barrier(n_threads)

        def member(rank, spans=spans, gate=gate):
            gate.wait()
            started = time.perf_counter()
            work(rank)
            spans.append((started, time.perf_counter()))

        members = [threading.Thread(target=member, args=(rank,)) for rank in range(n_threads)]
        for thread in members:
            thread.start()
        for thread in members:
            thread.join()
        begun, ended = zip(*spans, strict=True)
        seconds.append(max(ended) - min(begun))
    return min(seconds)


def multiply_add_peak(n_threads, dtype):
    """Floating-point operations a second of multiply-adds that stay in registers."""
    n_lanes = lanes(dtype)
    arrays = [np.full((2 + N_CHAINS) * n_lanes, 0.5, dtype) for _ in range(n_threads)]

    def probe(n_steps, n_probes):
        return fastest(lambda rank: _multiply_add(arrays[rank], n_steps), n_threads, n_probes)

    n_steps = 1_000
    _multiply_add(arrays[0], n_steps)  # compiles
    # Grow until a probe takes long enough to drown the threads' start.
    while (seconds := probe(n_steps, 1)) < SECONDS_PER_PROBE / 4:
        n_steps *= 4
    n_steps = int(n_steps * SECONDS_PER_PROBE / seconds)
    seconds = probe(n_steps, N_PROBES)
    return 2.0 * n_steps * N_CHAINS * n_lanes * n_threads / seconds


def memory_bandwidth(n_threads, cache_bytes):
    """Bytes a second of McCalpin's triad (STREAM) on three arrays, each twice the cache's size."""
    size = cache_bytes // 2
    arrays = [np.ones(size, np.float32) for _ in range(3)]
    parts = [
        [array[size * rank // n_threads : size * (rank + 1) // n_threads] for array in arrays]
        for rank in range(n_threads)
    ]
    factor = np.float32(0.5)
    _triad(*(part[:1] for part in parts[0]), factor)  # compiles
    seconds = fastest(lambda rank: _triad(*parts[rank], factor), n_threads)
    return 12.0 * size / seconds


def last_cache_bytes():
    """Size of the first core's last-level cache, as Linux tells it; 32 MB where nobody does."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG])", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes, default=DEFAULT_CACHE_BYTES)


def measure_ceiling(n_threads):
    """Measure all ceilings on some threads: half a second, and two more to compile at first.

    Parameters
    ----------
    n_threads : int

    Returns
    -------
    ceiling : Ceiling
    """
    n_threads = min(n_threads, os.cpu_count() or 1)
    cache_bytes = last_cache_bytes()
    return Ceiling(
        n_threads,
        multiply_add_peak(n_threads, "float32"),
        multiply_add_peak(n_threads, "float64"),
        memory_bandwidth(n_threads, cache_bytes),
        cache_bytes,
    )
