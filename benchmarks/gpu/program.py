"""What a run on a GPU does, in which order, and in which time.

Every section is independent: one that fails is noted, one for which no time is left is skipped and
named, and the record is written behind each.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import accuracy, races, together
from benchmarks.gpu.checks import check_group, make_checks
from benchmarks.gpu.record import Record
from benchmarks.gpu.workers import Deadline, Worker, one_line
from fastbp.bench.draws import find_mnist
from fastbp.bench.race import WorkerError

BUDGET = 400.0  # seconds
SECTIONS = ("correctness", "mnist", "accuracy", "wide", "higgs", "fit_many", "probes", "sizes")
RACE_SECTIONS = ("mnist", "wide", "higgs", "fit_many")
PREPARATION = 0.5  # of the budget: what is not compiled then takes no part
# Section -> seconds that it takes at least, and may take at most.
LIMITS = {
    "correctness": (10, 150),
    "preparation": (1, 200),
    "mnist": (10, 60),
    "accuracy": (10, 60),
    "wide": (5, 45),
    "higgs": (5, 45),
    "fit_many": (10, 70),
    "probes": (5, 40),
    "sizes": (10, 60),
}
NEARBY_MNIST = "../shared/data/mnist", "shared/data/mnist"


@dataclass
class Options:
    """What the command was asked for.

    Parameters
    ----------
    only : tuple of str, default=SECTIONS
    budget : float, default=BUDGET
        Seconds for all.
    output : Path, default="benchmarks/results"
    n_seeds : int, default=accuracy.N_SEEDS
    """

    only: tuple = SECTIONS
    budget: float = BUDGET
    output: Path = Path("benchmarks/results")
    n_seeds: int = accuracy.N_SEEDS


def locate_mnist():
    """MNIST's folder: FASTBP_DATA, the user's cache, or beside the checkout; None if nowhere."""
    if folder := find_mnist():
        return folder
    for folder in map(Path, NEARBY_MNIST):
        if list(folder.glob("train-images-idx3-ubyte*")):
            return folder
    return None


def run_sections(sections, record, budget, save, limits=LIMITS):
    """Run sections one by one within a time.

    Parameters
    ----------
    sections : dict
        Name -> function of a `Deadline`.
    record : Record
    budget : Deadline
    save : callable
        Called behind each.
    limits : dict
        Name -> (least, most) seconds.
    """
    for name, run in sections.items():
        least, most = limits[name]
        if budget.left < least:
            record.skipped[name] = f"{budget.left:.0f} s were left, and it takes {least} s or more"
            continue
        started = time.perf_counter()
        try:
            run(budget.within(most))
        except Exception as error:
            record.problems.append(f"{name}: {one_line(error)}")
        record.seconds[name] = time.perf_counter() - started
        print(f"{name}: {record.seconds[name]:.0f} s", flush=True)
        save()


class Run:
    """One run: its record, the processes that are being prepared, and the sections' work.

    Parameters
    ----------
    options : Options
    record : Record
    budget : Deadline
    folder : Path
        For the draws.
    """

    def __init__(self, options, record, budget, folder):
        self.options, self.record, self.budget = options, record, budget
        self.mnist = locate_mnist()
        record.mnist = "" if self.mnist is None else "the files of Yann LeCun's MNIST"
        self.pool = ThreadPoolExecutor(max(4, os.cpu_count() or 1))
        self.checks = {}
        if "correctness" in options.only:
            deadline = budget.within(LIMITS["correctness"][1])
            self.checks = {
                group: (checks, self.pool.submit(check_group, group, checks, deadline))
                for group, checks in make_checks().items()
            }
        self.races = [
            race
            for race in (*races.make_races(), together.make_race())
            if race.section in options.only
        ]
        deadline = budget.within(PREPARATION * budget.left)
        self.preparation = races.Preparation(self.pool, self.races, folder, self.mnist, deadline)

    def sections(self):
        """The sections that were asked for: name -> function of a deadline."""
        found = {
            "correctness": self.correctness,
            "preparation": lambda deadline: self.preparation.wait(),
            "accuracy": self.accuracy,
            "probes": lambda deadline: self.collect("probes", "probes:probe_all", deadline),
            "sizes": lambda deadline: self.collect("sizes", "sizes:compare_sizes", deadline),
        }
        for name in RACE_SECTIONS:
            found[name] = lambda deadline, name=name: self.race(name, deadline)
        order = "correctness", "preparation", *SECTIONS[1:]
        wanted = {"preparation", *self.options.only}
        return {name: found[name] for name in order if name in wanted}

    def correctness(self, deadline):
        """Gather what the checks have found; they began when the run did."""
        for group, (_, future) in self.checks.items():
            for row in future.result():
                self.record.checks.append(row)
                if row["problem"]:
                    self.note(f"{group}, {row['check']}: {row['problem']}")

    def race(self, section, deadline):
        """Time the races of a section, once nothing else uses the machine."""
        mine = [race for race in self.races if race.section == section]
        for row in races.race_all(mine, self.preparation, deadline):
            self.record.races.append({"section": section} | row)
            for entry in row["entries"]:
                if entry["remark"]:
                    self.note(f"{row['race']}, {entry['contender']}: {entry['remark']}")

    def accuracy(self, deadline):
        """Train until accurate."""
        if self.mnist is None:
            self.record.skipped["accuracy"] = "MNIST is not here (FASTBP_DATA names its folder)"
            return
        self.preparation.wait()
        found = accuracy.time_to_accuracy(self.mnist, deadline, self.options.n_seeds)
        self.record.accuracy += found
        for row in found:
            if row["problem"]:
                self.note(f"until accurate, {row['program']}: {row['problem']}")

    def collect(self, name, target, deadline):
        """Take rows from a worker as long as there are any."""
        self.preparation.wait()
        worker, rows = Worker(f"benchmarks.gpu.{target}"), getattr(self.record, name)
        try:
            while found := worker.go(deadline):
                rows.append(found)
                if found["problem"]:
                    self.note(
                        f"{name}, {found.get('case', found.get('probe'))}: {found['problem']}"
                    )
        finally:
            worker.close()

    def note(self, problem):
        """Note a failure, and say it at once."""
        self.record.problems.append(problem)
        print(problem, flush=True)

    def close(self):
        """End everything that is still at work."""
        self.preparation.close()
        self.pool.shutdown()


def run(options):
    """Check, time, and write the record.

    Returns
    -------
    record : Record
    paths : tuple of Path
    """
    started = time.perf_counter()
    budget = Deadline(options.budget)
    worker = Worker("benchmarks.gpu.record:describe_gpu")
    try:
        record = Record.begin(worker.go(budget.within(60)))
    except WorkerError as error:
        record = Record.begin({})
        record.problems.append(f"the GPU: {error}")
    worker.close()
    with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"] = folder
        job = Run(options, record, budget, Path(folder))
        try:
            run_sections(job.sections(), record, budget, lambda: record.write(options.output))
        finally:
            job.close()
            record.seconds["all"] = time.perf_counter() - started
            paths = record.write(options.output)
    return record, paths
