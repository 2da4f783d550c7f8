"""What must be measured in fresh processes: imports, first fits, the command line, memory."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.cases import ROOT, mnist, mnist_folder

IMPORT = """
import json, sys, time
started = time.perf_counter()
__import__(sys.argv[1])
print(json.dumps(time.perf_counter() - started))
"""

FIRST_FIT = """
import json, sys, time
import numpy as np
import fastbp
X = np.random.default_rng(0).standard_normal((1000, 64)).astype(sys.argv[1])
y = np.arange(1000) % 10
started = time.perf_counter()
fastbp.MLPClassifier((32,), max_iter=1).fit(X, y)
print(json.dumps(time.perf_counter() - started))
"""

# The kernel keeps a process's peak (VmHWM) apart from its parent's, which getrusage does not.
MEMORY = """
import json, re, sys
import numpy as np
import fastbp
def megabytes(field):
    status = open("/proc/self/status").read()
    return int(re.search(field + r":\\s+(\\d+) kB", status)[1]) * 1024 / 1e6
imported = megabytes("VmRSS")
X, y = np.load(sys.argv[1]), np.load(sys.argv[2])
fastbp.MLPClassifier(
    (128,), "logistic", solver="sgd", batch_size=64, learning_rate_init=0.1, max_iter=1,
    precision="float32", input_scale=1 / 255,
).fit(X, y)
print(json.dumps(megabytes("VmHWM") - imported - (X.nbytes + y.nbytes) / 1e6))
"""

COMMAND_LINE = "import sys; from fastbp.cli import main; sys.exit(main())"


def fresh(program, *arguments, cache):
    """Run a program in a fresh process and return what it printed.

    Parameters
    ----------
    program : str
        Python source.
    *arguments : str
        Its command line.
    cache : str
        The folder for fastbp's compiled kernels.
    """
    environment = os.environ | {"FASTBP_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


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
    """Seconds of the first fit, from after the import, with an empty and with a warm cache.

    Returns
    -------
    seconds : dict
        "empty" and "warm", each a list of float.
    """
    seconds = {"empty": [], "warm": []}
    for _ in range(n_processes):
        with tempfile.TemporaryDirectory() as cache:
            for measured in seconds.values():
                measured.append(json.loads(fresh(FIRST_FIT, dtype, cache=cache)))
    return seconds


def mnist_command():
    """Run `fastbp mnist` with its default recipe, with an empty and then with a warm cache.

    Returns
    -------
    runs : dict
        "empty" and "warm", each (wall seconds, test accuracy as a fraction); None without MNIST.
    """
    folder = mnist_folder()
    if folder is None:
        return None
    runs = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty", "warm"):
            started = time.perf_counter()
            output = fresh(COMMAND_LINE, "mnist", "--data", folder, cache=cache)
            runs[name] = time.perf_counter() - started, accuracy_in(output)
    return runs


def accuracy_in(output):
    """The accuracy that a run printed, as a fraction."""
    found = re.findall(r"accuracy\D*(\d+(?:\.\d+)?)\s*(%?)", output, re.IGNORECASE)
    if not found:
        raise RuntimeError(f"no accuracy in the output: {output[-500:]}")
    number, percent = found[-1]
    return float(number) / (100 if percent else 1)


def memory_megabytes(n_processes):
    """Peak memory of a fit on MNIST's bytes, less the data and the process after its import.

    Returns
    -------
    megabytes : dict
        "empty" and "warm", by the state of the kernel cache, each a list of float.
    """
    folder = mnist_folder()
    megabytes = {"empty": [], "warm": []}
    with tempfile.TemporaryDirectory() as files:
        X, y = (
            mnist(folder) if folder else (np.zeros((60_000, 784), np.uint8), np.arange(60_000) % 10)
        )
        paths = Path(files) / "X.npy", Path(files) / "y.npy"
        for path, array in zip(paths, (X, y), strict=True):
            np.save(path, array)
        for _ in range(n_processes):
            with tempfile.TemporaryDirectory() as cache:
                for measured in megabytes.values():
                    measured.append(json.loads(fresh(MEMORY, *paths, cache=cache)))
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
