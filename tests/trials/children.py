"""Forked children, what became of them, and the line that a trial prints."""

import argparse
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

# Whatever libraries this checkout has: it is compilations and their cache that are tried.
os.environ.setdefault("FASTBP_KERNELS", "compiled")
ROOT = Path(__file__).parents[2]
RIGHT, WRONG, ERROR = 0, 1, 2  # exit codes of children
HANG_SECONDS = 20

# A process of its own fills the cache and says what is right, so that the trial's has no kernels.
REFERENCE = """
import pickle, sys
from tests.trials import children
with open(sys.argv[1], "wb") as file:
    pickle.dump(children.make_reference(), file)
"""


class Trial:
    """Counts of one program.

    Parameters
    ----------
    name : str
    n : int
        Default number of trials.
    **options : dict
        Further numbers of the command line, with their defaults.
    """

    def __init__(self, name, n, **options):
        parser = argparse.ArgumentParser(prog=f"python -m tests.trials.{name}")
        parser.add_argument("--seed", type=int, default=0)
        for option, default in {"n": n, **options}.items():
            parser.add_argument(f"--{option}", type=type(default), default=default)
        self.options = parser.parse_args()
        self.name, self.counts, self.notes = name, Counter(), Counter()
        self.random, self.started = np.random.default_rng(self.options.seed), time.monotonic()

    def add(self, code, what=""):
        """Count a child's exit code; a failure is printed with what was tried."""
        kind = {RIGHT: "right", WRONG: "wrong", -signal.SIGTERM: "hang"}.get(
            code, "error" if code > 0 else "crash"
        )
        self.counts[kind] += 1
        if kind != "right":
            print(f"{self.name}: {kind} (exit code {code}): {what}", flush=True)

    def note(self, what):
        """Count something that is no failure."""
        self.notes[what] += 1

    def finish(self):
        """Print the line of counts, and exit."""
        given = " ".join(f"{name}={value}" for name, value in vars(self.options).items())
        found = ", ".join(
            f"{self.counts[kind]} {word}"
            for kind, word in (
                ("crash", "crashes"),
                ("hang", "hangs"),
                ("wrong", "wrong results"),
                ("error", "errors"),
            )
        )
        notes = "".join(f", {count} {what}" for what, count in sorted(self.notes.items()))
        seconds = time.monotonic() - self.started
        print(f"{self.name} {given}: {self.counts.total()} tried, {found}{notes}; {seconds:.0f} s")
        sys.exit(int(self.counts.total() != self.counts["right"] or not self.counts.total()))


def in_a_child(function, *arguments, seconds=HANG_SECONDS):
    """Call a function in a forked child; return its exit code, or minus the signal that ended it.

    SIGTERM, which ends a child after `seconds`, means a hang.
    """
    sys.stdout.flush()
    child = start_child(function, *arguments, seconds=seconds)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start_child(function, *arguments, seconds=HANG_SECONDS):
    """Fork a child that calls a function, and return its number."""
    child = os.fork()
    if child:
        return child
    code = ERROR
    try:
        limit(seconds)
        code = function(*arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def limit(seconds):
    """Let another process end this one by SIGTERM after so many seconds, which means a hang.

    Timers of its own are what some trials use.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    target = os.getpid()
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end = time.monotonic() + seconds
        while time.monotonic() < end and os.getppid() == target:
            time.sleep(0.05)
        if os.getppid() == target:
            print(f"no answer in {seconds} s", flush=True)
            os.kill(target, signal.SIGTERM)
        os._exit(0)


def task():
    """The data and the model of all trials."""
    import fastbp

    random = np.random.default_rng(0)
    X = random.normal(size=(300, 20))
    y = (X[:, :3].sum(axis=1) > 0).astype(int) + (X[:, 3] > 1)
    return fastbp.MLPClassifier((30, 10), max_iter=3, random_state=0, batch_size=20), X, y


def outcome():
    """What a fit and its predictions come to, of one row and of all."""
    model, X, y = task()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    weights = np.concatenate([a.ravel() for a in [*model.coefs_, *model.intercepts_]])
    return weights, model.predict_proba(X[:1]), model.predict_proba(X)


def make_reference():
    model, X, y = task()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    return model, outcome()


def reference(cache):
    """Fill a cache, in another process; return a fitted model and what is right of `outcome`."""
    os.environ["FASTBP_CACHE_DIR"] = str(cache)
    os.environ.pop("NUMBA_CACHE_DIR", None)
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(
            [sys.executable, "-c", REFERENCE, file.name],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return pickle.loads(Path(file.name).read_bytes())


def are_same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def kernel_files(cache):
    return sorted(Path(cache).glob("*/*.kernel"))
