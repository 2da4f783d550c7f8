"""What the machine itself costs: launches and nodes of a graph.

Each cost is the difference between many and few of a kind, divided by how many more there were; so
what comes once cancels. By the wall clock, from before the launch until the GPU is idle again.
"""

import time

import numpy as np

from benchmarks.gpu.workers import one_line

FEW, MANY = 100, 2_100
N_ROUNDS = 10
N_LAUNCHES = 2_000


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
    """The kernels by name, as Python functions."""

    def nothing():
        pass

    def one_array(a):
        pass

    def four_arrays(a, b, c, d):
        pass

    return {function.__name__: function for function in (nothing, one_array, four_arrays)}


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


PROBES = probe_launches, probe_graph


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
