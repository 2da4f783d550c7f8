"""One epoch on a sparse matrix against scikit-learn: seconds and memory, in fresh processes.

    python -m benchmarks.sparse

20,000 rows, 5,000 columns, 1 % of them not zero, two classes, 64 hidden units; by turns. A process
reads the data, fits ten rows (fastbp then has its kernels, from a cache that the first process has
filled), gives free memory back, and fits: once for the peak, then for the median of the seconds.
The peak is the kernel's `VmHWM` from there on, less the process as it was but for the matrix.
"""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from statistics import median

import numpy as np
from scipy.sparse import load_npz, random_array, save_npz

SHAPE, DENSITY, HIDDEN = (20_000, 5_000), 0.01, 64
ROUNDS, EPOCHS = 3, 5
PACKAGES = ("fastbp", "sklearn.neural_network")


def memory(field):
    """Bytes that this process has (VmRSS) or has had at most (VmHWM)."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(field + r":\s+(\d+) kB", status.read())[1])


def measure(package, solver, file):
    """Fit in this process; return bytes of matrix, weights and peak, and the seconds."""
    warnings.simplefilter("ignore")
    classifier = __import__(package, fromlist=["MLPClassifier"]).MLPClassifier
    X, y = load_npz(file), np.arange(SHAPE[0]) % 2

    def fit(rows=slice(None)):
        model = classifier((HIDDEN,), solver=solver, max_iter=1, random_state=0)
        started = time.perf_counter()
        model.fit(X if rows == slice(None) else X[rows], y[rows])
        return model, time.perf_counter() - started

    fit(slice(10))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # VmHWM starts anew
    before = memory("VmRSS")
    model, _ = fit()
    matrix = sum(array.nbytes for array in (X.data, X.indices, X.indptr))
    return {
        "matrix": matrix,
        "weights": sum(array.nbytes for array in model.coefs_ + model.intercepts_),
        "peak": memory("VmHWM") - before + matrix,
        "seconds": median(fit()[1] for _ in range(EPOCHS)),
    }


def compare(solver, file, environment):
    """Measure the packages by turns and print a line for each."""
    found = {package: [] for package in PACKAGES}
    for _ in range(ROUNDS):
        for package, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.sparse", package, solver, file]
            runs.append(json.loads(subprocess.check_output(command, env=environment)))
    for package, runs in found.items():
        seconds, peak = (median(run[name] for run in runs) for name in ("seconds", "peak"))
        bound = 1.2 * runs[0]["matrix"] + 4 * runs[0]["weights"]
        print(f"{package:24}{solver:8}{seconds:9.3f}{peak / 1e6:9.1f}{bound / 1e6:10.1f}")


def main():
    """Print a table for both precisions and solvers."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"FASTBP_CACHE_DIR": folder} | os.environ
        for dtype in ("float32", "float64"):
            random = np.random.default_rng(0)
            X = random_array(SHAPE, density=DENSITY, format="csr", rng=random, dtype=dtype)
            X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
            save_npz(f"{folder}/{dtype}.npz", X, compressed=False)
            print(f"{dtype:24}{'solver':8}{'seconds':>9}{'peak MB':>9}{'bound MB':>10}")
            for solver in ("adam", "sgd"):
                compare(solver, f"{folder}/{dtype}.npz", environment)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:]))) if len(sys.argv) > 1 else main()
