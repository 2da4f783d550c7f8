"""What the machine itself costs: launches, nodes of a graph, and barriers.

Each cost is the difference between many and few of a kind, divided by how many more there were; so
what comes once cancels. By the wall clock, from before the launch until the GPU is idle again.
"""

import re
import time

import numpy as np

from benchmarks.gpu.workers import one_line

FEW, MANY = 100, 2_100
N_ROUNDS = 10
N_LAUNCHES = 2_000
THREADS = 256
BLOCK_SIZES = 256, 1_024


def median_seconds(run, device, rounds=N_ROUNDS):
    """Median time of `run()` until the GPU is idle."""
    found = []
    for _ in range(rounds):
        device.synchronize()
        started = time.perf_counter()
        run()
        device.synchronize()
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def cost_of_one(run, device):
    """Microseconds that one more takes, `run(n)` having n of them."""
    run(FEW)  # compiles
    few, many = (median_seconds(lambda n=n: run(n), device) for n in (FEW, MANY))
    return 1e6 * (many - few) / (MANY - FEW)


# ---- kernels ---------------------------------------------------------------------------------


def make_kernels():
    """The kernels by name, as Python functions; importing CUDA is left until here."""
    from numba import uint32

    from fastbp.cuda import ptx
    from fastbp.cuda.toolkit import cuda

    def nothing():
        pass

    def one_array(a):
        pass

    def four_arrays(a, b, c, d):
        pass

    def grid_barrier(counter, n):
        # The count only grows, so nobody needs to set it back.
        target = uint32(0)
        for _ in range(n):
            target += uint32(cuda.gridDim.x)
            cuda.syncthreads()
            if cuda.threadIdx.x == 0:
                ptx.red_release_add(counter, uint32(1))
                while ptx.ld_acquire(counter) < target:
                    pass
            cuda.syncthreads()

    def cooperative_barrier(n):
        grid = cuda.cg.this_grid()
        for _ in range(n):
            grid.sync()

    def cluster_barrier(n):
        for _ in range(n):
            ptx.cluster_arrive()
            ptx.cluster_wait()

    return {
        function.__name__: function
        for function in (
            nothing, one_array, four_arrays, grid_barrier, cooperative_barrier, cluster_barrier
        )
    }  # fmt: skip


def probe_launches(device, kernels):
    """Host time of a launch, while the GPU keeps up or a queue fills."""
    from fastbp.cuda.device import compiled

    array = device.zeros(16, np.float32)
    for name, arguments in (("nothing", 0), ("one_array", 1), ("four_arrays", 4)):
        launch = compiled(kernels[name])[1, 32, device.stream]
        launch(*[array] * arguments)
        device.synchronize()
        started = time.perf_counter()
        for _ in range(N_LAUNCHES):
            launch(*[array] * arguments)
        seconds = time.perf_counter() - started
        device.synchronize()
        yield f"launch, {arguments} arrays, host time", 1e6 * seconds / N_LAUNCHES


def probe_graph(device, kernels):
    """One more kernel in a graph, each behind the last."""
    from fastbp.cuda.device import compiled

    array, kernel = device.zeros(16, np.float32), compiled(kernels["one_array"])
    graphs = {}

    def run(n):
        if n not in graphs:
            device.launch(kernel, device.n_multiprocessors, 128, array)
            graphs[n] = device.record(
                lambda: [
                    device.launch(kernel, device.n_multiprocessors, 128, array) for _ in range(n)
                ]
            )
        graphs[n]()

    run(MANY)
    yield "node of a graph", cost_of_one(run, device)


def probe_grid_barriers(device, kernels):
    """A barrier of all blocks, one a multiprocessor: by own instructions, and CUDA's."""
    from fastbp.cuda.device import compiled

    counter = device.zeros(1, np.uint32)
    address = counter.__cuda_array_interface__["data"][0]
    own, cooperative = (compiled(kernels[f"{name}_barrier"]) for name in ("grid", "cooperative"))
    for size in BLOCK_SIZES:
        grid = device.n_multiprocessors

        def run_own(n, grid=grid, size=size):
            device.write(counter, np.zeros(1, np.uint32))
            device.launch(own, grid, size, address, n)

        def run_cooperative(n, grid=grid, size=size):
            device.launch(cooperative, grid, size, n)

        yield f"own grid barrier, {grid} × {size} threads", cost_of_one(run_own, device)
        yield f"cooperative grid barrier, {grid} × {size}", cost_of_one(run_cooperative, device)


def probe_clusters(device, kernels):
    """A barrier of a cluster's blocks."""
    from numba import types

    from fastbp.cuda.clusters.launch import ClusterKernel, link
    from fastbp.cuda.toolkit import cuda

    text, _ = cuda.compile_ptx(
        kernels["cluster_barrier"], types.void(types.int64), cc=device.capability
    )
    name = re.search(r"\.visible \.entry (\w+)", text)[1]
    code = link(text, device.capability, 255)
    for size in (2, 8, 16):
        kernel = ClusterKernel(device, code, name, size, THREADS, 0)
        if not kernel.fits:
            yield f"barrier of a cluster of {size}", None
            continue
        yield f"barrier of a cluster of {size}", cost_of_one(kernel, device)


PROBES = probe_launches, probe_graph, probe_clusters, probe_grid_barriers  # what may hang is last


def probe_all():
    """Yield the costs, a row each; a probe that fails is a row that says so."""
    from fastbp.cuda.device import Device

    device, kernels = Device(), make_kernels()
    for probe in PROBES:
        try:
            for name, microseconds in probe(device, kernels):
                yield {"probe": name, "microseconds": microseconds, "problem": ""}
        except Exception as error:
            yield {"probe": probe.__name__, "microseconds": None, "problem": one_line(error)}
