"""From nothing to a first fit, and to MNIST: `python -m benchmarks.start`.

Every number is from a process of its own. The contenders take turns in one run; kernels that numba
has to compile find an empty cache, unless the line says "warm". fastbp must have been installed
from a wheel, or from a checkout with kernels.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from fastbp.bench.draws import find_mnist
from fastbp.bench.processes import accuracy_command, environment, milestones
from fastbp.bench.results import machine, versions
from fastbp.bench.tables import table

SHIPPED, EMPTY, WARM = "fastbp, shipped kernels", "fastbp, numba, empty", "fastbp, numba, warm"
SKLEARN, TORCH = "scikit-learn", "PyTorch"
MODULES = {SHIPPED: "fastbp", EMPTY: "fastbp", WARM: "fastbp", SKLEARN: "sklearn.neural_network"}

# Seconds of the first fit and prediction after the import, of the whole process, and peak memory
# over the process after scikit-learn's import and the data.
FIT = """
import importlib, json, re, sys, time, warnings
warnings.simplefilter("ignore")
def megabytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1e3
MLPClassifier = getattr(importlib.import_module(sys.argv[1]), "MLPClassifier")
import numpy as np
import sklearn.neural_network
X = np.random.default_rng(0).standard_normal((2000, 784), np.float32)
y = np.arange(2000) % 10
before, started = megabytes("VmRSS"), time.perf_counter()
model = MLPClassifier((100,), max_iter=1, random_state=0).fit(X, y)
seconds = time.perf_counter() - started
model.predict(X[:1])
print(json.dumps([seconds, megabytes("VmHWM") - before]))
"""
# The same as users write it, for the time of the whole process.
WHOLE = """
import warnings
warnings.simplefilter("ignore")
from {module} import MLPClassifier
import numpy as np
X = np.random.default_rng(0).standard_normal((2000, 784), np.float32)
MLPClassifier((100,), max_iter=1, random_state=0).fit(X, np.arange(2000) % 10).predict(X[:1])
"""
COMMAND = """
import sys
from fastbp.cli import main
sys.argv[1:] = ["mnist", "--data", sys.argv[1]]
sys.exit(main())
"""


class Processes:
    """Runs programs of each contender, with a cache that only "warm" shares among processes."""

    def __init__(self, folder):
        self._folder, self._count = Path(folder), 0

    def environment(self, way):
        self._count += 1
        cache = self._folder / ("warm" if way == WARM else str(self._count))
        cache.mkdir(exist_ok=True)
        return environment(cache, FASTBP_KERNELS="" if way == SHIPPED else "compiled")

    def run(self, way, program, *arguments):
        """Return seconds of the process, and what it printed."""
        command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
        variables, started = self.environment(way), time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, check=True, cwd=self._folder
        )
        return time.perf_counter() - started, done.stdout


def measure_round(processes, seed, mnist, found):
    """One number of each kind for each contender."""

    def add(what, way, value):
        found.setdefault(what, {}).setdefault(way, []).append(value)

    for way, module in MODULES.items():
        seconds, memory = json.loads(processes.run(way, FIT, module)[1])
        add("first fit, import excluded, s", way, seconds)
        add("peak memory over data and imports, MB", way, memory)
        add(
            "import, fit, predict: process, s",
            way,
            processes.run(way, WHOLE.format(module=module))[0],
        )
    if mnist is None:
        return
    for way, contender in ((SHIPPED, "fastbp"), (SKLEARN, SKLEARN), (TORCH, TORCH)):
        reached = milestones(accuracy_command(contender, mnist, seed), processes._folder / "none")
        add("MNIST to 98 %, script: process, s", way, reached["98 %"])
    for way in (SHIPPED, EMPTY, WARM):
        seconds, printed = processes.run(way, COMMAND, mnist)
        accuracy = float(re.search(r"accuracy\D*([\d.]+)", printed)[1])
        if accuracy < 98:
            raise RuntimeError(f"`fastbp mnist` came to {accuracy} % only")
        add("`fastbp mnist`: process, s", way, seconds)


def summary(values):
    """Median and quartiles."""
    first, _, third = quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return f"{median(values):.3g} ({first:.3g} – {third:.3g})"


def results_table(found):
    """A line for each kind of number, a column for each contender."""
    ways = [*MODULES, TORCH]
    rows = [
        (what, *(summary(by_way[way]) if way in by_way else "" for way in ways))
        for what, by_way in found.items()
    ]
    return table(("median (quartiles)", *ways), rows)


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found, mnist, before = {}, find_mnist(), machine(os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(folder)
        for number in range(options.rounds + 1):
            # The first round fills the disk's cache, and the warm one.
            measure_round(processes, number, mnist, found if number else {})
    print(json.dumps(before | versions()))
    print(results_table(found))


if __name__ == "__main__":
    main()
