"""Damage the files of a cache in random ways: none of it may be run, and all of it be mended.

    python -m tests.trials.damaged_caches --n 1000 --seed 0

A child that asks for the compiler has found the damage; every `--mended`-th compiles in earnest.
"""

import os
import shutil
import tempfile
from pathlib import Path

from tests.trials import children
from tests.trials.children import RIGHT, WRONG, Trial

FOUND = 64  # exit code of a child that asks for the compiler


class AskedError(BaseException):
    """The compiler was asked for."""


def flip(random, content, others):
    damaged = bytearray(content)
    damaged[random.integers(len(content))] ^= 1 << random.integers(8)
    return damaged


def overwrite(random, content, others):
    size = int(random.integers(1, 513))
    start = int(random.integers(max(1, len(content) - size)))
    filling = bytes(size) if random.integers(2) else random.bytes(size)
    return content[:start] + filling + content[start + size :]


def cut(random, content, others):
    return content[: random.integers(len(content))]


def extend(random, content, others):
    return content + random.bytes(int(random.integers(1, 100)))


def shift(random, content, others):
    start, size = int(random.integers(len(content))), int(random.integers(1, 65))
    return content[:start] + bytes(size) + content[start:]


def exchange(random, content, others):
    return others[random.integers(len(others))]


def join(random, content, others):
    """The beginning of one file and the end of another, as after a crash of a file system."""
    block = 4096 * int(random.integers(1 + len(content) // 4096))
    return content[:block] + others[random.integers(len(others))][block:]


DAMAGES = flip, flip, flip, flip, overwrite, cut, extend, shift, exchange, join


def use(name, model, expected, compiles):
    """Use the kernel of a file; say whether its results are right, or that it is not there."""
    if not compiles:
        from numba.core.dispatcher import _FunctionCompiler

        def refuse(self, *arguments):
            raise AskedError

        _FunctionCompiler.compile = refuse
    try:
        if compiles or "train" in name:
            return RIGHT if children.are_same(children.outcome(), expected) else WRONG
        _, X, _ = children.task()
        found = model.predict_proba(X[:1]), model.predict_proba(X)
        return RIGHT if children.are_same(found, expected[1:]) else WRONG
    except AskedError:
        return FOUND


def main():
    trial = Trial("damaged_caches", 1000, mended=100)
    random = trial.random
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        model, expected = children.reference(cache)
        from fastbp.cpu import engine  # so that children need not

        assert engine
        whole = {path: path.read_bytes() for path in children.kernel_files(cache)}
        paths = sorted(whole)
        for path in paths:
            code = children.in_a_child(use, path.name, model, expected, False)
            assert code == RIGHT, "undamaged kernels were not loaded"
        for number in range(trial.options.n):
            path = paths[random.integers(len(paths))]
            damage = DAMAGES[random.integers(len(DAMAGES))]
            others = [content for other, content in whole.items() if other != path]
            damaged = bytes(damage(random, whole[path], others))
            if damaged == whole[path]:
                trial.note("changed nothing")
                continue
            path.write_bytes(damaged)
            compiles = number % trial.options.mended == 0
            code = children.in_a_child(use, path.name, model, expected, compiles, seconds=120)
            what = f"{damage.__name__} of {path.name}, number {number}"
            if compiles:
                trial.note("compiled anew" if path.exists() else "not mended")
                trial.add(code, what)
            elif code == FOUND:
                trial.add(RIGHT if not path.exists() else WRONG, f"{what}: left in place")
            else:
                trial.add(code or WRONG, f"{what}: it was run")
            path.write_bytes(whole[path])
        shutil.rmtree(cache)
    trial.finish()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
