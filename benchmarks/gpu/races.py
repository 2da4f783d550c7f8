"""The races: who trains what, in processes that take turns on the GPU.

All processes of all races prepare themselves side by side, and train their first epoch, before
anything is timed: most of that is compilation. A race is then some rounds, each of one turn of
every contender, each beginning with another one. The losses of all turns must be those of the CPU
engine from the same weights in the same orders; a contender whose are not counts as failed.
"""

import dataclasses
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.gpu.trainers import draw_for_gpu
from benchmarks.gpu.workers import Worker
from fastbp.bench.cases import Case
from fastbp.bench.race import Entry, WorkerError, loss_difference

PAUSE = 0.05  # before a turn
# Of the losses, at the end and on average: rounding may lead many steps of float32 this far apart.
TOLERANCES = {"float32": 0.02, "tf32": 0.02, "bfloat16": 0.05}
REFERENCE = "fastbp on the CPU"
TRAINERS = "benchmarks.gpu.trainers:train_fastbp"
ON_CPU = {"device": "cpu", "n_threads": 4}  # others compile at the same time
TORCH = "benchmarks.gpu.torch_trainer:train_torch"
PEERS = {
    "PyTorch eager": (TORCH, {"form": "eager"}),
    "PyTorch, CUDA graphs": (TORCH, {"form": "graphs"}),
    "torch.compile, CUDA graphs": (TORCH, {"form": "compile"}),
    "JAX, lax.scan": ("benchmarks.gpu.trainers:train_jax", {}),
}
MNIST = Case((784, 128, 10), "logistic", "sgd", 64, 60_000, 0.1)
WIDE = Case((784, 2048, 2048, 10), "relu", "sgd", 4_096, 57_344, 0.02)
HIGGS = Case((28, *[300] * 5, 1), "tanh", "sgd", 100, 50_000, 0.01)


@dataclass(frozen=True)
class Race:
    """A case and who trains it.

    Parameters
    ----------
    section : str
    case : Case
    contenders : dict
        Name -> (target of a `Worker`, its arguments).
    precision : str
    epochs, rounds : int
        Epochs a turn; turns.
    unit : str
        What times are given for: "epoch", "step", or whatever the trainers time.
    reference : tuple
        Who proves the losses, like a contender.
    """

    section: str
    case: Case
    contenders: dict = field(hash=False)
    precision: str = "float32"
    epochs: int = 5
    rounds: int = 5
    unit: str = "epoch"
    reference: tuple = field(default=(TRAINERS, ON_CPU), hash=False)

    @property
    def name(self):
        """Its case and precision."""
        return f"{self.case.name} {self.precision}"


def contenders_of(precision, peers):
    """fastbp and peers, in a precision, which decides fastbp's program."""
    program = "general" if precision == "float32" else "wide"
    ours = {f"fastbp {program}": (TRAINERS, {"device": "cuda", "program": program})}
    theirs = {name: PEERS[name] for name in peers}
    return {
        name: (target, arguments | {"precision": precision})
        for name, (target, arguments) in (ours | theirs).items()
    }


def make_races():
    """All races, those first that matter most."""
    graphs = "PyTorch, CUDA graphs", "torch.compile, CUDA graphs"
    races = [Race("mnist", MNIST, contenders_of("float32", PEERS))]
    for precision in ("bfloat16", "tf32", "float32"):
        contenders = contenders_of(precision, graphs)
        races.append(Race("wide", WIDE, contenders, precision, 2, 4, "step"))
    for batch_size in (100, 1_024):
        case = dataclasses.replace(HIGGS, batch_size=batch_size)
        contenders = contenders_of("float32", graphs)
        races.append(Race("higgs", case, contenders, epochs=2))
    return races


class Preparation:
    """The workers of some races: each prepared by a thread of a pool, ready to be timed.

    Parameters
    ----------
    pool : concurrent.futures.Executor
    races : list of Race
    folder : Path
        For the draws.
    mnist : Path or None
    deadline : Deadline
    """

    def __init__(self, pool, races, folder, mnist, deadline):
        self._drawn, self._references, self._started = {}, {}, {}
        for number, race in enumerate(races):
            path = folder / f"draws-{number}.npz"
            drawn = pool.submit(self._draw, race, path, mnist)
            if race.case not in self._references:
                self._references[race.case] = pool.submit(self._refer, race, drawn, path, deadline)
            self._started[race] = {
                name: pool.submit(self._prepare, race, contender, drawn, path, deadline)
                for name, contender in race.contenders.items()
            }

    @staticmethod
    def _draw(race, path, mnist):
        draw_for_gpu(race.case, 1 + race.rounds * race.epochs, mnist).save(path)

    @staticmethod
    def _prepare(race, contender, drawn, path, deadline):
        """Start a worker and let it train its first epoch: (worker, what it found)."""
        drawn.result()
        target, arguments = contender
        worker = Worker(target, case=race.case, path=path, epochs=race.epochs, **arguments)
        return worker, worker.go(deadline)

    @staticmethod
    def _refer(race, drawn, path, deadline):
        """The losses of the CPU engine at the end of every turn."""
        worker, found = Preparation._prepare(race, race.reference, drawn, path, deadline)
        losses = []
        while found:
            losses.append(found["loss"])
            found = worker.go(deadline)
        worker.close()
        return losses

    def wait(self):
        """Wait until nothing is being prepared any more."""
        for future in (*self._references.values(), *self._all()):
            future.exception()

    def _all(self):
        return [future for started in self._started.values() for future in started.values()]

    def reference(self, race):
        """The losses that a race must show."""
        return self._references[race.case].result()

    def take(self, race):
        """A race's workers and entries, the first epochs in them."""
        entries, workers = [], {}
        for name, future in self._started.pop(race).items():
            entry = Entry(name)
            try:
                workers[name], found = future.result()
                entry.first_epoch, entry.losses = found["seconds"], _losses(found)
            except Exception as error:
                entry.remark = f"failed: {error}"
            entries.append(entry)
        return workers, entries

    def close(self):
        """End all workers that were not taken."""
        for future in self._all():
            if not future.cancel() and future.exception() is None:
                future.result()[0].close()


def _losses(found):
    """The loss of a turn, in a list; none where it has nothing to be compared with."""
    return [found["loss"]] if found.get("comparable", True) else []


def run_race(race, workers, entries, deadline):
    """Time the contenders in turns, until the rounds are done or the time is up."""
    for number in range(race.rounds):
        first = number % max(1, len(entries))
        for entry in entries[first:] + entries[:first]:
            if entry.remark:
                continue
            time.sleep(PAUSE)
            try:
                found = workers[entry.contender].go(deadline)
                entry.seconds.append(found["seconds"])
                entry.losses += _losses(found)
            except WorkerError as error:
                entry.remark = f"failed: {error}"
    for worker in workers.values():
        worker.close()


def judge(entries, expected, precision):
    """Mark entries whose losses are not those of the CPU engine."""
    for entry in entries:
        if entry.remark or not entry.losses:
            continue
        if not np.isfinite(entry.losses).all():
            entry.remark = "computes something else: a loss is not finite"
            continue
        off = loss_difference(entry.losses, expected[: len(entry.losses)])
        if off > TOLERANCES[precision]:
            entry.remark = f"computes something else: loss off by {off:.1%}"


def race_all(races, preparation, deadline):
    """Run a section's races.

    Returns
    -------
    rows : list of dict
        For the record: a race's name, unit, and entries.
    """
    preparation.wait()
    rows = []
    for race in races:
        workers, entries = preparation.take(race)
        run_race(race, workers, entries, deadline)
        row = {"race": race.name, "precision": race.precision, "unit": race.unit,
               "n_steps": race.case.n_steps, "n_rows": race.case.n_rows}  # fmt: skip
        try:
            expected = preparation.reference(race)
        except Exception as error:  # without proof no speed
            for entry in entries:
                entry.remark = entry.remark or f"not proven: {REFERENCE} failed: {error}"
        else:
            judge(entries, expected, race.precision)
            row["reference_loss"] = expected[-1]
        rows.append(row | {"entries": [dataclasses.asdict(entry) for entry in entries]})
    return rows
