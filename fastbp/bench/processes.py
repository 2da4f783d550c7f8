"""What must be measured in fresh processes: the way from nothing to a trained network."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np

import fastbp
from fastbp import recipes

ROOT = Path(fastbp.__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("until_accurate.py")
# Who runs the script, its module, and the distribution whose size is taken.
COLD_CONTENDERS = {
    "fastbp": ("fastbp", "fastbp"),
    "scikit-learn": ("sklearn", "scikit-learn"),
    "PyTorch": ("torch", "torch"),
}
ON_GPU = " on GPU"  # is added to the name
EMPTY, WARM = "empty cache", "warm cache"

# The settings of scikit-learn's benchmarks/bench_mnist.py.
BENCH_MNIST = """
import importlib, json, sys, time, warnings
import numpy as np
from fastbp.datasets import load_mnist
package, solver, rate, folder = sys.argv[1:]
data = load_mnist(folder)
X, X_test = (array.astype(np.float32) / 255 for array in (data.X_train, data.X_test))
estimator = importlib.import_module(package).MLPClassifier
settings = dict(solver=solver, learning_rate_init=float(rate), momentum=0.9, random_state=1)
warnings.simplefilter("ignore")

def seconds_of(model, n_rows):
    started = time.perf_counter()
    model.fit(X[:n_rows], data.y_train[:n_rows])
    return time.perf_counter() - started

compile_seconds = seconds_of(estimator((2,), max_iter=1, **settings), 100)
model = estimator((100, 100), max_iter=400, alpha=1e-4, tol=1e-4, **settings)
seconds = seconds_of(model, None)
error = float(np.mean(model.predict(X_test) != data.y_test))
print(json.dumps({
    "compile_seconds": compile_seconds, "seconds": seconds, "epochs": model.n_iter_,
    "test_error": error,
}))
"""


def environment(cache, **variables):
    """This process's environment, for others that import this fastbp with that kernel cache."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"FASTBP_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(paths)}
    return os.environ | own | variables


def fresh(program, *arguments, cache, **variables):
    """Run a program in a fresh process and return what it printed.

    Parameters
    ----------
    program : str
        Python source.
    *arguments : str
        Its command line.
    cache : str
        The folder for fastbp's compiled kernels.
    **variables : str
        Of its environment, besides this process's.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(cache, **variables),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def milestones(command, cache):
    """Run a program and note when each line of its output comes.

    Returns
    -------
    seconds : dict
        By line, from the start of the process; "exit" is its end.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-P", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(cache),
    ) as process:
        seconds = {line.strip(): time.perf_counter() - started for line in process.stdout}
        problem = process.stderr.read()
    seconds["exit"] = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(problem.strip().splitlines()[-1][:200])
    return seconds


def accuracy_command(contender, mnist, seed):
    """The command line, without the interpreter, that trains on MNIST until it is accurate."""
    recipe = recipes.FAST
    progress = np.arange(recipe["max_iter"]) / recipe["max_iter"]
    described = {
        "HIDDEN": recipe["hidden_layer_sizes"],
        "BATCH_SIZE": recipe["batch_size"],
        "MOMENTUM": recipe["momentum"],
        "RATES": (recipe["learning_rate_init"] * recipe["learning_rate"](progress)).tolist(),
    }
    return SCRIPT, contender, mnist or "", seed, json.dumps(described)


def cold_starts(n_rounds, mnist=None, device="cpu"):
    """Take every contender from nothing to 98 % of MNIST's test set, in whole processes, by turns.

    Parameters
    ----------
    n_rounds : int
        Each with a seed of its own, which all contenders share.
    mnist : path-like or None, default=None
        Folder of MNIST's files; without it processes end after their first epoch.
    device : {"cpu", "cuda", "both"}, default="cpu"
        With a GPU, fastbp and PyTorch train there, too.

    Returns
    -------
    starts : dict
        By contender, fastbp with an empty and with a warm kernel cache: milestone -> list of
        seconds, or "remark" -> why there are none.
    """
    starts = {}
    modules = {name: module for name, (module, _) in COLD_CONTENDERS.items()}
    if device != "cpu":
        modules |= {name + ON_GPU: modules[name] for name in ("fastbp", "PyTorch")}
    for seed in range(n_rounds):
        for contender, module in modules.items():
            if importlib.util.find_spec(module) is None:
                starts[contender] = {"remark": "not installed"}
                continue
            with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as cache:
                for state in (EMPTY, WARM) if module == "fastbp" else ("",):
                    label = f"{contender}, {state}" if state else contender
                    try:
                        found = milestones(accuracy_command(contender, mnist, seed), cache)
                    except RuntimeError as error:
                        starts[label] = {"remark": f"failed: {error}"}
                        continue
                    for name, seconds in found.items():
                        starts.setdefault(label, {}).setdefault(name, []).append(seconds)
    return starts


def mnist_command(mnist):
    """Run `fastbp mnist` with its default recipe, with an empty and then with a warm cache.

    Returns
    -------
    runs : dict
        By the cache's state, {"seconds": wall time, "test_accuracy": fraction}.
    """
    command = "import sys; from fastbp.cli import main; sys.exit(main())"
    runs = {}
    with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as cache:
        for state in (EMPTY, WARM):
            started = time.perf_counter()
            output = fresh(command, "mnist", "--data", mnist, cache=cache)
            seconds = time.perf_counter() - started
            accuracy = float(re.search(r"accuracy\D*([\d.]+)\s*%", output)[1]) / 100
            runs[state] = {"seconds": seconds, "test_accuracy": accuracy}
    return runs


def bench_mnist(mnist):
    """Train fastbp and scikit-learn to convergence with the settings of `bench_mnist.py`.

    Returns
    -------
    fits : dict
        By solver and contender, {"compile_seconds", "seconds", "epochs", "test_error"} of one fit;
        the compilation, from an empty cache, is not in the fit's seconds.
    """
    fits = {}
    packages = {"fastbp": "fastbp", "scikit-learn": "sklearn.neural_network"}
    for solver, rate in (("adam", 0.001), ("sgd", 0.2)):
        fits[solver] = {}
        for name, package in packages.items():
            with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as cache:
                output = fresh(BENCH_MNIST, package, solver, rate, mnist, cache=cache)
            fits[solver][name] = json.loads(output)
    return fits


# ---- size -----------------------------------------------------------------------------------


def installed_bytes(distribution):
    """Bytes of a distribution and all that it needs, if installed.

    Returns
    -------
    size : int or None
        None where it is not installed.
    """
    found, waiting = {}, [distribution]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name != "fastbp":
                continue
            # Run from a checkout.
            found[name] = sum(path.stat().st_size for path in (ROOT / "fastbp").rglob("*.py"))
            waiting += ["numpy", "numba", "scikit-learn"]
            continue
        paths = (Path(installed.locate_file(file)) for file in installed.files or ())
        found[name] = sum(path.stat().st_size for path in paths if path.is_file())
        for requirement in installed.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.match(r"[\w.-]+", requirement)[0])
    return sum(found.values()) or None


def installed_sizes():
    """Bytes of each contender of the cold start, with all that it needs."""
    return {name: installed_bytes(package) for name, (_, package) in COLD_CONTENDERS.items()}


def medians_of(starts):
    """The median of every milestone, by contender; those that failed are left out."""
    return {
        name: {milestone: median(seconds) for milestone, seconds in found.items()}
        for name, found in starts.items()
        if "remark" not in found
    }
