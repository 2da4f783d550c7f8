"""Mutated files: each is refused with a clear error, or gives what it gave before.

    python -m tests.trials.mutated_files --models 100000 --checkpoints 3000 --idx 10000 --seed 0

Bytes are changed, cut, moved and filled in; or what a file says is, and its digest made right
again, as a forger would. `fastbp.load`, `fit(resume=True)` and `load_mnist` must then raise a
ValueError or an OSError, or go on: with the right bits where only bytes were changed, which a
digest guards, and else with finite numbers or an error. Memory is limited in the workers, and one
that stands still for 20 seconds hangs. `--only models/17` tries one file again and shows what comes
of it.
"""

import argparse
import copy
import gzip
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

import fastbp
from fastbp import container, datasets
from tests.trials import mutations

REFUSED, SAME, OTHER, FOUND = range(1, 5)  # counts of a worker, after the number of its file
SECONDS, MEMORY = 20, 2**30
ERRORS = ValueError, OSError


class FindingError(Exception):
    """A file had an effect that it must not have."""


# ---- models -------------------------------------------------------------------------------------


class Models:
    """Files of `save`, read by `load`."""

    name = "models"

    def __init__(self, folder):
        self.path, self.bases = Path(folder, "model"), []
        generator = np.random.default_rng(0)
        X, numbers = generator.normal(size=(40, 6)), generator.integers(0, 4, 40)
        kinds = (
            (fastbp.MLPClassifier, {}, numbers),
            (
                fastbp.MLPClassifier,
                {"solver": "sgd"},
                np.array(["a", "b\u20ac", "c", "d"])[numbers],
            ),
            (fastbp.MLPClassifier, {"activation": "tanh"}, numbers > 1),
            (fastbp.MLPClassifier, {"precision": "float32"}, generator.integers(0, 2, (40, 3))),
            (fastbp.MLPClassifier, {"early_stopping": True, "validation_fraction": 0.3}, numbers),
            (fastbp.MLPClassifier, {"random_state": np.random.RandomState(1)}, numbers),
            (fastbp.MLPRegressor, {"solver": "lbfgs"}, generator.normal(size=40)),
            (fastbp.MLPRegressor, {"solver": "adamw"}, generator.normal(size=(40, 3))),
            (fastbp.MLPRegressor, {"loss": "poisson"}, numbers),
        )
        for kind, parameters, y in kinds:
            for sizes in ((5,), (4, 3), ()):
                given = {"hidden_layer_sizes": sizes, "max_iter": 2, "random_state": 0}
                model = kind(**given | parameters).fit(X, y)
                model.save(self.path)
                content = self.path.read_bytes()
                self.bases.append((content, X, model.predict(X), y))

    def use(self, dice, show):
        content, X, expected, y = dice.choice(self.bases)
        forged = dice.random() < 0.6
        if forged:
            mutated, how = mutations.mutate_content(dice, content)
        else:
            mutated, how = mutations.mutate_bytes(dice, content, [base[0] for base in self.bases])
        show(how)
        self.path.write_bytes(mutated)
        try:
            model = fastbp.load(self.path)
        except ERRORS as error:
            show(error)
            check_error(error, self.path)
            return REFUSED
        if not forged:
            return self._check_same(model, mutated, content, X, expected)
        try:
            self._check_use(model, dice, y)
        except ERRORS as error:
            show(error)
        return OTHER

    def _check_same(self, model, mutated, content, X, expected):
        whole = [base for base in self.bases if base[0] == mutated]  # spliced at the first byte
        if whole:
            content, X, expected, _ = whole[0]
        arrays, description = container.read(self.path)
        entries, described, data = mutations.take_apart(content)
        if description != described or arrays.keys() != entries.keys():
            raise FindingError("another description")
        for name, array in arrays.items():
            if array.tobytes() != data[slice(*entries[name]["data_offsets"])]:
                raise FindingError(f"another {name}")
        if not np.array_equal(model.predict(X), expected):
            raise FindingError("another prediction")
        return SAME

    def _check_use(self, model, dice, y):
        """Use a model that a forger has made."""
        X = np.random.default_rng(1).normal(size=(40, model.n_features_in_))
        check_outputs(model.predict(X), 40)
        if hasattr(model, "predict_proba"):
            check_outputs(model.predict_proba(X), 40)
        if dice.random() < 0.05:
            model.save(self.path)
            found = fastbp.load(self.path).predict(X)
            if not np.array_equal(found, model.predict(X)):
                raise FindingError("another prediction after it was saved again")
        if dice.random() < 0.05 and hasattr(model, "partial_fit"):
            model.partial_fit(X[:10], y[:10])
            check_outputs(np.concatenate([array.ravel() for array in model.coefs_]))


def check_outputs(outputs, n_rows=None):
    if n_rows is not None and len(outputs) != n_rows:
        raise FindingError(f"{len(outputs)} outputs")
    if outputs.dtype.kind == "f" and not np.isfinite(outputs).all():
        raise FindingError("outputs that are not finite")


def check_error(error, path):
    """See that an error says which file is meant, in a few words."""
    said = str(error)
    if str(path.parent) not in said or len(said) > 2000:
        raise FindingError(f"an unclear error of {len(said)} characters: {said[:200]}")


# ---- checkpoints --------------------------------------------------------------------------------


class Crash(Exception):  # noqa: N818
    """What stands for the end of a process."""


def crash(report):
    if report.n_iter == 2:
        raise Crash


class Checkpoints:
    """Files of `checkpoint=`, from which `fit(resume=True)` goes on."""

    name = "checkpoints"

    def __init__(self, folder):
        self.path, self.bases = Path(folder, "checkpoint"), []
        generator = np.random.default_rng(0)
        X, y = generator.normal(size=(40, 6)), generator.integers(0, 4, 40)
        blocks = [(X[first : first + 2], y[first : first + 2]) for first in range(0, 40, 2)]
        source = fastbp.sources.from_blocks(20, blocks.__getitem__, buffer=1000)
        stopping = {"early_stopping": True, "validation_fraction": 0.3}
        for kind, parameters, *data in (
            (fastbp.MLPClassifier, {}, X, y),
            (fastbp.MLPClassifier, stopping, X, y),
            (fastbp.MLPClassifier, {"solver": "sgd", "learning_rate": "adaptive"}, X, y),
            (fastbp.MLPClassifier, {"random_state": np.random.RandomState(1)}, X, y),
            (fastbp.MLPClassifier, stopping | {"batch_size": 8}, source),
            (fastbp.MLPRegressor, {"precision": "float32", "shuffle": False}, X, y),
        ):
            given = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0}
            make = lambda kind=kind, given=given | parameters: kind(  # noqa: E731
                **copy.deepcopy(given), checkpoint=self.path
            )
            expected = weights(make().fit(*data))
            try:
                make().set_params(callback=crash).fit(*data)
            except Crash:
                self.bases.append((self.path.read_bytes(), make, data, expected))

    def use(self, dice, show):
        content, make, data, expected = dice.choice(self.bases)
        forged = dice.random() < 0.6
        if forged:
            mutated, how = mutations.mutate_content(dice, content)
        else:
            mutated, how = mutations.mutate_bytes(dice, content, [base[0] for base in self.bases])
        show(how)
        self.path.write_bytes(mutated)
        model = make()
        try:
            model.fit(*data, resume=True)
        except ERRORS as error:
            show(error)
            if len(str(error)) > 2000:
                raise FindingError("a long error") from error
            if hasattr(model, "coefs_"):
                raise FindingError("fitted by a call that failed") from error
            return REFUSED
        found = weights(model)
        if not np.isfinite(np.frombuffer(found, model.coefs_[0].dtype)).all():
            raise FindingError("weights that are not finite")
        if forged:
            return OTHER
        if found != expected:
            raise FindingError("another model")
        return SAME


def weights(model):
    return b"".join(array.tobytes() for array in (*model.coefs_, *model.intercepts_))


# ---- IDX ----------------------------------------------------------------------------------------


class Idx:
    """MNIST's files, read by `load_mnist`."""

    name = "idx"

    def __init__(self, folder):
        self.folder, generator = Path(folder, "mnist"), np.random.default_rng(0)
        self.folder.mkdir()
        self.contents, self.arrays = {}, {}
        for key, (name, n_dimensions) in datasets._MNIST_FILES.items():
            n_images = 20 if "train" in key else 10
            shape = (n_images, 28, 28)[:n_dimensions]
            array = generator.integers(0, 256 if n_dimensions == 3 else 10, shape, np.uint8)
            header = struct.pack(f">{1 + n_dimensions}I", 0x0800 + n_dimensions, *shape)
            self.contents[name] = header + array.tobytes()
            self.arrays[key] = array.reshape(n_images, -1) if n_dimensions == 3 else array
            (self.folder / name).write_bytes(self.contents[name])

    def use(self, dice, show):
        name = dice.choice(sorted(self.contents))
        content, others = self.contents[name], sorted(self.contents.values())
        how = dice.choice(("plain", "packed and mutated", "mutated and packed"))
        packed = how.startswith("packed")
        if packed:
            level, members = dice.randrange(10), dice.choice((1, 1, 2))
            half = len(content) // members
            content = b"".join(
                gzip.compress(content[start : start + half], level, mtime=0)
                for start in range(0, len(content), half)
            )
            others = [gzip.compress(other) for other in others]
        mutated, mutation = mutations.mutate_bytes(dice, content, others)
        if how.startswith("mutated"):
            mutated = gzip.compress(mutated, mtime=0)
        show(f"{how} {name}: {mutation}")
        path = self.folder / (name if how == "plain" else f"{name}.gz")
        path.write_bytes(mutated)
        if how != "plain":
            (self.folder / name).unlink()
        try:
            data = datasets.load_mnist(self.folder)
        except ERRORS as error:
            show(error)
            check_error(error, self.folder / name)
            return REFUSED
        finally:
            path.unlink()
            (self.folder / name).write_bytes(self.contents[name])
        same = all(np.array_equal(data[key], array) for key, array in self.arrays.items())
        if not same and packed and mutated not in others:
            raise FindingError("other numbers, whose checksum is right")
        for part in ("train", "test"):
            X, y = data[f"X_{part}"], data[f"y_{part}"]
            fits = len(X) == len(y) > 0 and y.min() >= 0 and y.max() <= 9
            if not fits or X.shape[1:] != (784,) or X.dtype != np.uint8:
                raise FindingError(f"data of shapes {X.shape} and {y.shape}")
        return SAME if same else OTHER


# ---- workers ------------------------------------------------------------------------------------


def use_one(kind, number, seed, show=lambda said: None):
    """Use one mutated file; return what came of it, and print what must not be."""
    said = []

    def keep(what):
        said.append(f"{type(what).__name__}: {what}" if isinstance(what, Exception) else what)
        show(said[-1][:2000])

    try:
        return kind.use(random.Random(f"{seed}/{kind.name}/{number}"), keep)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"mutated_files: {kind.name}/{number} seed={seed} ({', '.join(said)[:300]}): "
            f"{type(error).__name__}: {str(error)[:300]} "
            f"[{Path(place.filename).name}:{place.lineno}]",
            file=sys.__stdout__,
            flush=True,
        )
        return FOUND


def work(make, first, last, step, seed, counts):
    """A worker's life: all files of one kind from `first` on."""
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with temporary_folder() as folder, open(os.devnull, "w") as sys.stdout:  # `verbose` may be on
        kind = make(folder)
        for number in range(first, last, step):
            counts[0] = number
            counts[use_one(kind, number, seed)] += 1
        counts[0] = last


def temporary_folder():
    """A folder in memory where there is one: disks are slow to create files."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class Worker:
    """A forked process that tries files, and its number of the current one.

    Parameters
    ----------
    make : class
        Of the kind of files.
    first, last, step : int
        Numbers of files.
    seed : int
    """

    def __init__(self, make, first, last, step, seed):
        self.make, self.last, self.step, self.seed = make, last, step, seed
        self.counts = np.frombuffer(mmap.mmap(-1, 8 * 5), np.int64)
        self.start(first)

    def start(self, first):
        self.counts[0], self.seen, self.since = first, -1, time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work(self.make, first, self.last, self.step, self.seed, self.counts)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def look(self):
        """See to it that the worker goes on; return whether it is at its end."""
        number = int(self.counts[0])
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if number != self.seen:
                self.seen, self.since = number, time.monotonic()
            elif time.monotonic() - self.since > SECONDS:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.found(f"no answer in {SECONDS} s")
            return False
        if number >= self.last:
            return True
        self.found(f"the process ended with {os.waitstatus_to_exitcode(status)}")
        return number + self.step >= self.last

    def found(self, what):
        """Count a crash or a hang, and go on behind it."""
        number = int(self.counts[0])
        print(f"mutated_files: {self.make.name}/{number} seed={self.seed}: {what}", flush=True)
        self.counts[FOUND] += 1
        if number + self.step < self.last:
            self.start(number + self.step)


def try_all(make, n_files, seed, n_jobs):
    """Try all files of one kind; return the counts and the seconds."""
    started = time.monotonic()
    workers = [Worker(make, first, n_files, n_jobs, seed) for first in range(min(n_jobs, n_files))]
    total = workers[:]
    while workers:
        time.sleep(0.05)
        workers = [worker for worker in workers if not worker.look()]
    return sum(worker.counts[1:] for worker in total), time.monotonic() - started


def warm_up():
    """Compile all kernels that a file can ask for, so that no worker has to."""
    from fastbp.cpu import code

    code.warm_up()
    for make in (Models, Checkpoints):
        with temporary_folder() as folder:
            make(folder)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.trials.mutated_files")
    for make, n_files in ((Models, 100_000), (Checkpoints, 3_000), (Idx, 10_000)):
        parser.add_argument(f"--{make.name}", type=int, default=n_files)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="one file, as models/17")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = {make.name: make for make in (Models, Checkpoints, Idx)}
    if options.only:
        name, number = options.only.split("/")
        with temporary_folder() as folder:
            sys.exit(use_one(kinds[name](folder), int(number), options.seed, print) == FOUND)
    warm_up()
    said, all_found = [], 0
    for name, make in kinds.items():
        n_files = getattr(options, name)
        if not n_files:
            continue
        counts, seconds = try_all(make, n_files, options.seed, options.jobs)
        refused, same, other, found = map(int, counts)
        all_found += found + (refused + same + other + found != n_files)
        said.append(
            f"{n_files} {name}: {refused} refused, {same} unchanged, {other} read as forged, "
            f"{found} findings, {n_files / seconds:.0f} a second"
        )
    print(f"mutated_files seed={options.seed} jobs={options.jobs}: " + "; ".join(said))
    sys.exit(bool(all_found))


if __name__ == "__main__":
    main()
