"""The command `fastbp bench`: what is measured, in which order, and where it goes."""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fastbp.bench import calls, processes, report
from fastbp.bench.cases import GPU_SERIES, SERIES, make_heats
from fastbp.bench.ceiling import measure_ceiling
from fastbp.bench.contenders import CONTENDERS, contenders_on
from fastbp.bench.draws import find_mnist
from fastbp.bench.race import Pace, environment, limited_to, race
from fastbp.bench.results import FILE_NAME, Race, Results
from fastbp.bench.workers import Worker
from fastbp.cuda import toolkit
from fastbp.threads import available_threads

# Seconds of rounds: in the table, in sweeps, and where everything must be quick.
TABLE_PACE, SWEEP_PACE, QUICK_PACE = Pace(8.0, 5), Pace(2.0), Pace(2.5)
LISTED = ("table", "unlisted", "large", "bfloat16")


@dataclass
class Options:
    """What the command was asked for.

    Parameters
    ----------
    quick : bool, default=False
    device : {"cpu", "cuda", "both"}, default="cpu"
    only : sequence of str, default=()
        Names of parts, or beginnings of networks' names; none for everything.
    peers : sequence of str, default=()
        Beginnings of names of other contenders than fastbp; none for all.
    n_threads : int or None, default=None
        None takes the cores at hand.
    output : Path or None, default=None
        Folder for the results, tables and pictures; None keeps nothing.
    mnist : Path or None, default=None
        Folder of MNIST's files; None looks where `find_mnist` says.
    """

    quick: bool = False
    device: str = "cpu"
    only: tuple = ()
    peers: tuple = ()
    n_threads: int | None = None
    output: Path | None = None
    mnist: Path | None = None

    @property
    def parts(self):
        """The parts that there are."""
        if self.device == "cpu":
            return (*SERIES, "calls", "cold", "bench_mnist")
        return (*GPU_SERIES, "cold")

    @property
    def contenders(self):
        """Names of those who take part."""
        return [
            name
            for name in contenders_on(self.device)
            if CONTENDERS[name].is_ours or not self.peers or name.startswith(self.peers)
        ]

    def wants(self, part, case_name=""):
        """Whether a part of the run, or a network in it, was asked for."""
        return not self.only or any(
            part == name or (case_name and case_name.startswith(name)) for name in self.only
        )


def run(options):
    """Measure, print, and write what the options ask for.

    After Ctrl-C, too, what has been measured is reported and written.

    Returns
    -------
    results : Results

    Raises
    ------
    ValueError
        On names that do not exist, or a GPU that cannot be used.
    """
    require_device(options.device)
    started = time.perf_counter()
    at_hand = available_threads()
    n_threads = min(options.n_threads or at_hand, at_hand)
    results = Results.begin(n_threads, options.quick, options.device)
    heats = [
        heat
        for heat in make_heats(n_threads, options.quick, options.device)
        if options.wants(heat.series, heat.case.name)
    ]
    check_names(options, heats)
    mnist = options.mnist or find_mnist()
    if mnist is None:
        results.problems.append(
            "MNIST is not here (see FASTBP_DATA): made-up rows of its shape are trained instead."
        )
    try:
        with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as cache:
            measure(options, results, heats, mnist, cache)
    except KeyboardInterrupt:
        results.problems.append("The run was interrupted.")
        raise
    finally:
        results.seconds = time.perf_counter() - started
        finish(options, results)
    return results


def require_device(device):
    """Raise ValueError where a GPU is asked for and none can be used."""
    problem = None if device == "cpu" else toolkit.problem()
    if problem is not None:
        raise ValueError(f"--device {device} cannot be used: {problem}")


def check_names(options, heats):
    """Raise ValueError for a part, network or peer that does not exist."""
    for name in options.only:
        if name not in options.parts and not any(h.case.name.startswith(name) for h in heats):
            raise ValueError(
                f"nothing is called {name!r}; --only takes {', '.join(options.parts)}, or the "
                "beginning of a network's name such as 784-128-10"
            )
    peers = [name for name in contenders_on(options.device) if not CONTENDERS[name].is_ours]
    for name in options.peers:
        if not any(peer.startswith(name) for peer in peers):
            raise ValueError(f"there is no peer {name!r}; --peer takes {', '.join(peers)}")


def measure(options, results, heats, mnist, cache):
    """Fill the record, part by part."""
    contenders = options.contenders
    for name in contenders:
        if why := CONTENDERS[name].missing():
            results.missing[name] = why
    contenders = [name for name in contenders if name not in results.missing]
    print(f"{report.heading(results)}\n", flush=True)
    for heat in heats:
        run_heat(options, results, heat, contenders, mnist, cache)
    if options.device == "cpu" and options.wants("calls"):
        attempt(results, "calls", lambda: short_calls(options, results, cache))
    if options.wants("cold"):
        attempt(results, "cold", lambda: cold(options, results, mnist))
    is_whole = not options.quick and options.device == "cpu"
    if mnist and is_whole and options.wants("bench_mnist"):
        attempt(
            results,
            "bench_mnist",
            lambda: setattr(results, "bench_mnist", processes.bench_mnist(mnist)),
        )


def run_heat(options, results, heat, contenders, mnist, cache):
    """Race, and print the table at once: a full run takes many minutes."""
    listed = heat.series in LISTED
    pace = QUICK_PACE if options.quick else TABLE_PACE if listed else SWEEP_PACE
    contenders = [name for name in contenders if takes_part(CONTENDERS[name], heat, options.quick)]
    # In the table every contender compiles; else fastbp keeps what it has compiled.
    if listed and not options.quick:
        cache = tempfile.mkdtemp(dir=cache)

    def run_race():
        for done in results.races:
            if not listed and (done.heat.case, done.heat.n_threads) == (heat.case, heat.n_threads):
                results.races.append(Race(heat, done.entries, done.ceiling))
                return
        with limited_to(heat.n_threads):
            before = measure_ceiling(heat.n_threads)
            entries = race(heat, contenders, pace, cache, mnist)
            after = measure_ceiling(heat.n_threads)
        results.races.append(Race(heat, entries, before.better_of(after)))
        print(f"{report.race_table(results.races[-1])}\n", flush=True)

    attempt(results, heat.case.name, run_race)


def takes_part(contender, heat, quick):
    """Whether a contender is in a race."""
    if contender.name not in contenders_on(heat.device):
        return False
    if contender.starts_slowly and (quick or heat.series not in ("table", "large")):
        return False
    return contender.trains_many or heat.case.n_networks == 1


def short_calls(options, results, cache):
    """Calls against scikit-learn, in a process of their own."""
    with limited_to(results.machine["threads"]), environment(FASTBP_CACHE_DIR=str(cache)):
        worker = Worker(calls.serve, options.quick)
    try:
        results.calls += [calls.Timed(**worker.go()) for _ in calls.chosen(options.quick)]
    finally:
        worker.close()
    print(f"{report.calls_table(results.calls)}\n", flush=True)


def cold(options, results, mnist):
    """The way from nothing to a trained network, in whole processes."""
    results.sizes = processes.installed_sizes()
    results.starts = processes.cold_starts(1 if options.quick else 3, mnist, options.device)
    if mnist and not options.quick and options.device == "cpu":
        results.mnist_command = processes.mnist_command(mnist)
    print(f"{report.cold_table(results)}\n", flush=True)


def attempt(results, name, work):
    """Do a part of the run; one that fails is noted, and the others go on."""
    started = time.perf_counter()
    try:
        work()
    except Exception as error:
        problem = f"{name} failed: {type(error).__name__}: {error}"
        results.problems.append(problem)
        print(problem, file=sys.stderr, flush=True)
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def finish(options, results):
    """Print the summaries and write the results' folder."""
    print(report.document(results, details=False), flush=True)
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    results.write(options.output / FILE_NAME)
    (options.output / "bench.md").write_text(report.document(results))
    written = [FILE_NAME, "bench.md"]
    try:
        from fastbp.bench import plots

        written += plots.draw_all(results, options.output)
    except ImportError:
        print("no pictures: matplotlib is not installed (pip install matplotlib)")
    print(f"written to {options.output}: {', '.join(written)}; {results.seconds:.0f} s in all")
