"""SIGKILL at random moments; afterwards everything recovers by itself.

    python -m tests.trials.kills --n 100 --seed 0

A kind of trial is a function in `KINDS`: it takes a `Trial`, what is right, and a folder, kills a
child once and says what came of it.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from fastbp import sealed
from tests.trials import children
from tests.trials.children import RIGHT, WRONG, Trial
from tests.trials.killed_fits import in_fits, in_saves, kill_after


def fit(expected):
    return RIGHT if children.are_same(children.outcome(), expected) else WRONG


def in_compilation(trial, expected, folder):
    """Kill the first fit from an empty cache; the next compiles what it has not kept."""
    os.environ["FASTBP_CACHE_DIR"] = folder
    if kill_after(trial.random.uniform(0, 8), fit, expected):
        trial.note("killed in compilations")
    return children.in_a_child(fit, expected, seconds=120)


def write_for_ever(cache):
    """Write all files of a cache again and again."""
    whole = {path: path.read_bytes() for path in children.kernel_files(cache)}
    while True:
        for path, content in whole.items():
            sealed.write(str(path), content)


def in_cache_writes(trial, expected, folder):
    """Kill a process that writes to a filled cache; the next finds whole files only."""
    os.environ["FASTBP_CACHE_DIR"] = in_cache_writes.filled
    if kill_after(trial.random.uniform(0.02, 0.2), write_for_ever, in_cache_writes.filled):
        trial.note("killed in cache writes")
    code = children.in_a_child(fit_without_compiler, expected)
    left = list(Path(in_cache_writes.filled).rglob(f"*{sealed.TEMPORARY}"))
    if left:
        trial.note("temporary files left")
        for path in left:  # as if a minute had passed
            os.utime(path, (path.stat().st_mtime - 60,) * 2)
            sealed.remove_abandoned(path.parent)
            if path.exists():
                return WRONG
    return code


def fit_without_compiler(expected):
    from fastbp.cpu.kernels.kernel_cache import KernelCache

    code = fit(expected)
    return code or (WRONG if KernelCache.n_compiled else RIGHT)


KINDS = {  # and their shares
    "compilation": (in_compilation, 0.05),
    "cache": (in_cache_writes, 0.25),
    "fits": (in_fits, 0.45),
    "saves": (in_saves, 0.25),
}


def main():
    trial = Trial("kills", 100, kinds=",".join(KINDS))
    with tempfile.TemporaryDirectory() as folder:
        in_cache_writes.filled = os.path.join(folder, "filled")
        in_fits.filled = in_cache_writes.filled
        _, expected = children.reference(in_cache_writes.filled)
        chosen = [KINDS[name] for name in trial.options.kinds.split(",")]
        shares = np.array([share for _, share in chosen])
        for number in range(trial.options.n):
            function, _ = chosen[
                trial.random.choice(len(chosen), p=[s / sum(shares) for s in shares])
            ]
            code = function(trial, expected, os.path.join(folder, str(number)))
            trial.add(code, f"{function.__name__}, number {number}")
    trial.finish()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
