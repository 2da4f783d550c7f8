"""A program other than the general one is tried on the user's GPU before it is trusted.

It trains a few small batches next to the general program. A difference beyond rounding, a failed
launch or a repetition with other bits, and the general program takes its place, with one warning.
The verdict outlives the process, in the cache folder, for this GPU, driver and source.
"""

import contextlib
import functools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastbp import cache, sealed
from fastbp.cache import cache_folder, digest_of
from fastbp.cuda import toolkit
from fastbp.cuda.choice import choose
from fastbp.cuda.data import DeviceData, Epoch
from fastbp.cuda.small.fits import batch_rows, plan_for, train_together
from fastbp.cuda.task import Task
from fastbp.cuda.toolkit import DeviceError, DeviceMemoryError, is_simulated
from fastbp.cuda.wide.layer_products import choose_tiles
from fastbp.data import Data
from fastbp.optimizers import optimizer_of
from fastbp.schedules import StepPlanner
from fastbp.training import Progress, Split
from fastbp.warned import warn

# Largest relative differences: of an epoch's loss, and of what was learnt, in the root mean square.
# Adam steps by a gradient's sign where it is no more than rounding.
BOUNDS = {"float32": (1e-4, 0.02), "tf32": (2e-3, 0.2), "bfloat16": (1e-2, 0.5)}
N_EPOCHS, MOST_UNITS, MOST_BATCH = 2, 512, 256
RATE, ALPHA = 0.005, 1e-4
_verdicts, _warned = {}, set()  # of this process


class Trial:
    """A small training that two programs repeat, on random rows.

    Parameters
    ----------
    task : Task
        Its network's layers are cut to MOST_UNITS units, and its batches to MOST_BATCH rows; the
        tiles of its products stay.
    """

    def __init__(self, task):
        sizes = tuple(min(size, MOST_UNITS) for size in task.network.layer_sizes)
        self.task, self.network = task, replace(task.network, layer_sizes=sizes)
        self.batch_size, random = min(task.batch_size, MOST_BATCH), np.random.RandomState(0)
        n_rows = 2 * self.batch_size + max(1, self.batch_size // 2)
        targets = random.random_sample((n_rows, sizes[-1]))
        if self.network.output_activation == "softmax":
            targets = targets.argmax(axis=1)
        self.data = Data(random.normal(size=(n_rows, sizes[0])).astype(np.float32), targets)
        self.start = self.network.initialise(random, np.float32, default_activation="relu")

    def _make_optimizer(self):
        optimizer = optimizer_of(self.task.rule, RATE)
        optimizer.reset(self.network.n_parameters, np.float32)
        return optimizer

    def run(self, device, precision):
        """Train by the program for single networks that this precision takes.

        Returns
        -------
        losses : list of float
        parameters : ndarray of shape (n_parameters,)
        """
        task = replace(
            self.task, network=self.network, precision=precision, batch_size=self.batch_size,
            stands_for=self.task,
        )  # fmt: skip
        program, optimizer = choose(task, device).load()(device, task), self._make_optimizer()
        program.load_parameters(self.start)
        program.load_moments(optimizer.moments)
        data, order = DeviceData.upload(device, self.data, task.dtype), np.arange(len(self.data.X))
        rows, losses = device.upload(order.astype(np.int32)), []
        planner = StepPlanner(optimizer, len(order), self.batch_size, None, ALPHA, N_EPOCHS)
        for _ in range(N_EPOCHS):
            table = planner.next_epoch(order).table
            result = program.train(data, Epoch(rows, device.upload(table), table, ALPHA))
            optimizer.step += result.updates
            losses.append(result.loss / result.weight)
        return losses, program.store_parameters()

    def run_small(self, device, training):
        """Likewise by the program for many small networks; a training lends its settings."""
        settings = replace(
            training.settings, max_iter=N_EPOCHS, n_iter_no_change=np.inf, shuffle=False,
            alpha=ALPHA, batch_size=self.batch_size,
        )  # fmt: skip
        training = replace(
            training, data=self.data, settings=settings, progress=Progress(), start=self.start,
            split=Split(np.arange(len(self.data.X))), optimizer=self._make_optimizer(),
        )  # fmt: skip
        plan = plan_for(self.network, training, device)
        (trained,) = train_together(device, [(self.network, training, plan)])
        return list(trained.engine.losses), trained.engine.parameters

    def compare(self, found, repeated, expected, precision):
        """Say what is wrong with a program's results; an empty string where nothing is."""
        if found[0] != repeated[0] or not np.array_equal(found[1], repeated[1]):
            return "a repetition gave other bits"
        learnt = np.linalg.norm(expected[1] - self.start)
        differences = {
            "losses": np.abs(np.divide(found[0], expected[0]) - 1).max(),
            "parameters": np.linalg.norm(found[1] - expected[1]) / learnt,
        }
        for (name, off), bound in zip(differences.items(), BOUNDS[precision], strict=True):
            if not off <= bound:
                return f"{name} are off by {off:.1e}, more than {bound:g}"
        return ""


def trusted_task(device, task):
    """The task itself, or the same in float32 where its program is not to be trusted."""
    name = choose(task, device).name
    if name == "general" or is_simulated():
        return task
    kind = sorted({*task.network.activations, task.network.loss})
    tiles = {
        f"{product} {tile.rows}x{tile.columns}x{tile.stages}"
        for product, some in choose_tiles(task, device).items()
        for tile in some
    }
    kind = ", ".join([task.precision, task.rule.name, *kind, *sorted(tiles)])
    name, trial = f"{name} ({kind})", Trial(task)
    if is_trusted(device, name, trial, task.precision, lambda: trial.run(device, task.precision)):
        return task
    return replace(task, precision=task.dtype.name)


def trusts_small(device, network, training):
    """Whether many small networks may train in one launch; one like this is tried."""
    if is_simulated():
        return True
    rule, batch_size = training.optimizer.rule, batch_rows(training)
    trial = Trial(Task(network, np.dtype(np.float32), "float32", batch_size, rule))
    return is_trusted(device, "small", trial, "float32", lambda: trial.run_small(device, training))


def is_trusted(device, name, trial, precision, attempt):
    """Find the verdict on a program, by a trial if there is none yet; warn once if it is bad.

    Raises
    ------
    DeviceError
        Where the trial has cost this process the GPU.
    """
    verdicts = _verdicts.setdefault(fingerprint(device), _read(device))
    if name not in verdicts:
        expected = trial.run(device, "float32")  # what fails here is not the program's fault
        try:
            verdicts[name] = trial.compare(attempt(), attempt(), expected, precision)
        except DeviceMemoryError:
            raise
        except Exception as error:
            verdicts[name] = f"{type(error).__name__}: {error}"
        _write(device, verdicts)
        try:
            device.synchronize()
        except DeviceError as error:
            raise DeviceError(
                f"device='cuda': the program {name} failed when it was tried, and the GPU is lost "
                "to this process. Restart Python: the general program will take its place."
            ) from error
    if verdicts[name] and name not in _warned:
        _warned.add(name)
        warn(
            f"The CUDA program {name} is not to be trusted on this GPU ({verdicts[name]}). The "
            "general program trains instead, in float32. Please report it, with the table that "
            "`fastbp check --device cuda` prints."
        )
    return not verdicts[name]


def describe(device):
    """What `fastbp info` says of the programs that have been tried on this GPU."""
    verdicts = _verdicts.get(fingerprint(device)) or _read(device)
    said = [
        f"{name}: {f'not trusted, {bad}' if bad else 'trusted'}"
        for name, bad in sorted(verdicts.items())
    ]
    tried = {name.split(" ")[0] for name in verdicts}
    said += [f"{name}: not tried yet" for name in ("small", "wide") if name not in tried]
    return "; ".join(said)


@functools.cache
def _source_digest():
    return digest_of(Path(__file__).parent.rglob("*.py"), "")


def fingerprint(device):
    """What a verdict holds for: the GPU, its driver, numba-cuda and the source of the kernels."""
    found = toolkit.look_around()
    versions = found.driver_version, found.numba_cuda, _source_digest()
    return " ".join(map(str, (device.name, device.capability, *versions)))


def _file():
    folder = cache_folder("gpu-programs")
    if folder is None:
        raise FileNotFoundError("There is no folder to keep verdicts in.")
    return os.path.join(folder, "verdicts.json")


def _read(device):
    """The verdicts that were kept; none where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        verdicts = json.loads(sealed.read(_file(), cache.is_trusted))[fingerprint(device)]
        return {str(name): str(bad) for name, bad in verdicts.items()}
    return {}


def _write(device, verdicts):
    """Keep verdicts, those for other GPUs too, if there is a folder to keep them in."""
    with contextlib.suppress(OSError, TypeError):
        path, kept = _file(), {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            kept = dict(json.loads(sealed.read(path, cache.is_trusted)))
        kept[fingerprint(device)] = verdicts
        sealed.write(path, json.dumps(kept, indent=1).encode())
