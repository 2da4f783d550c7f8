"""What a fit asks of a process: time for imports and the first fit, memory, a busy neighbour."""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastbp import datasets
from fastbp.bench.processes import EMPTY, WARM, fresh

IMPORT = """
import importlib, json, sys, time
started = time.perf_counter()
getattr(importlib.import_module(sys.argv[1]), "MLPClassifier")  # fastbp's names come when used
print(json.dumps(time.perf_counter() - started))
"""

FIRST_FIT = """
import json, sys, time
import numpy as np
from fastbp import MLPClassifier
X = np.random.default_rng(0).standard_normal((1000, 64)).astype(sys.argv[1])
y = np.arange(1000) % 10
started = time.perf_counter()
MLPClassifier((32,), max_iter=1).fit(X, y)
print(json.dumps(time.perf_counter() - started))
"""

# The kernel keeps a process's peak (VmHWM) apart from its parent's, which getrusage does not.
MEMORY = """
import json, re, sys
import numpy as np
from fastbp import MLPClassifier
def megabytes(field):
    status = open("/proc/self/status").read()
    return int(re.search(field + r":\\s+(\\d+) kB", status)[1]) * 1024 / 1e6
imported = megabytes("VmRSS")
X, y = np.load(sys.argv[1]), np.load(sys.argv[2])
MLPClassifier(
    (128,), "logistic", solver="sgd", batch_size=64, learning_rate_init=0.1, max_iter=1,
    precision="float32", input_scale=1 / 255,
).fit(X, y)
print(json.dumps(megabytes("VmHWM") - imported - (X.nbytes + y.nbytes) / 1e6))
"""


def import_seconds(n_processes):
    """Seconds that two imports take, each in fresh processes, by turns.

    Returns
    -------
    seconds : dict
        By module, a list of float.
    """
    seconds = {"sklearn.neural_network": [], "fastbp": []}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(n_processes + 1):
            for module, measured in seconds.items():
                taken = json.loads(fresh(IMPORT, module, cache=cache))
                if turn:  # the first may compile Python's bytecode and fill the disk's cache
                    measured.append(taken)
    return seconds


def first_fit_seconds(dtype, n_processes):
    """Seconds of the first fit with kernels of numba's, with an empty and with a warm cache.

    Returns
    -------
    seconds : dict
        By the cache's state, a list of float.
    """
    seconds = {EMPTY: [], WARM: []}
    for _ in range(n_processes):
        with tempfile.TemporaryDirectory() as cache:
            for measured in seconds.values():
                printed = fresh(FIRST_FIT, dtype, cache=cache, FASTBP_KERNELS="compiled")
                measured.append(json.loads(printed))
    return seconds


def memory_megabytes(n_processes, mnist):
    """Peak memory of a fit on MNIST's bytes, less the data and the process after its import.

    The kernels are numba's; with those that are shipped it is a tenth (`benchmarks.start`).

    Returns
    -------
    megabytes : dict
        By the state of the kernel cache, a list of float.
    """
    if mnist:
        data = datasets.load_mnist(mnist)
        X, y = data.X_train, data.y_train.astype(np.uint8)
    else:
        X, y = np.zeros((60_000, 784), np.uint8), np.arange(60_000) % 10
    megabytes = {EMPTY: [], WARM: []}
    with tempfile.TemporaryDirectory() as files:
        paths = Path(files) / "X.npy", Path(files) / "y.npy"
        for path, array in zip(paths, (X, y), strict=True):
            np.save(path, array)
        for _ in range(n_processes):
            with tempfile.TemporaryDirectory() as cache:
                for measured in megabytes.values():
                    printed = fresh(MEMORY, *paths, cache=cache, FASTBP_KERNELS="compiled")
                    measured.append(json.loads(printed))
    return megabytes


@contextmanager
def busy_core():
    """Another process that uses one core fully while the context lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
