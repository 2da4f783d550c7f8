"""Measure every figure that fastbp is held to: `python -m benchmarks.figures`.

A full run prints the tables, writes results/cpu-<date>.json and renews the tables of README.md.
With --quick (fewer rounds) or --only it only prints. Exit status 1: a figure was missed.
"""

import argparse
import os
import sys
import time
import traceback
from statistics import median

from benchmarks import agreement, processes, report
from benchmarks.cases import CASES
from benchmarks.race import prepared, race
from benchmarks.report import Figure


def measure_mnist(options):
    """Accuracy and time of the command line's main job."""
    what = "`fastbp mnist`, default recipe: "
    limits = {"empty": 10.0, "warm": 5.0}
    runs = processes.mnist_command()
    if runs is None:
        return [Figure(what + "accuracy and time", "", "MNIST is not here", None, {})]
    accuracy = min(accuracy for _, accuracy in runs.values())
    figures = [
        Figure(what + "test accuracy", "≥ 98.0 %", f"{accuracy:.2%}", accuracy >= 0.98,
               {"accuracy": accuracy})
    ]  # fmt: skip
    for cache, (seconds, _) in runs.items():
        limit = limits[cache]
        figures.append(
            Figure(f"{what}wall time, {cache} cache", f"≤ {limit:g} s", f"{seconds:.2f} s",
                   seconds <= limit, {"seconds": seconds})
        )  # fmt: skip
    return figures


def measure_race(case, options):
    """fastbp's epoch against the fastest peer's; the entries go into a table of their own."""
    rounds = 3 if options.quick else case.n_rounds
    entries = race(case, rounds, options.threads)
    options.races.append((case, entries))
    what = (
        f"{case.name} {case.activation}, batch {case.batch_size}, {options.threads} threads: "
        "fastest peer's time / fastbp's"
    )
    return [compare(what, case.required, *entries)]


def compare(what, required, ours, *others):
    """The figure of a race; not shown to be met unless every peer came to the same loss."""
    peers = [entry for entry in others if not entry.remark]
    absent = "; ".join(f"{e.contender} {e.remark}" for e in others if e.remark)
    if ours.remark or not peers:
        measured = ours.remark or f"no peer to compare with: {absent}"
        return Figure(what, f"≥ {required:g}", measured, False if ours.remark else None, {})
    fastest = min(peers, key=lambda entry: entry.median)
    ratio = fastest.median / ours.median
    measured = (
        f"{ratio:.2f} ({report.milliseconds(ours.median)} ms; "
        f"{fastest.contender} {report.milliseconds(fastest.median)} ms)"
    )
    met = ratio >= required
    if absent:
        measured, met = f"{measured}; not compared: {absent}", None if met else False
    return Figure(what, f"≥ {required:g}", measured, met, {"ratio": ratio})


def measure_first_fit(options):
    """A fresh process's first fit, the slower of the two dtypes."""
    seconds = {
        dtype: processes.first_fit_seconds(dtype, 1 if options.quick else 3)
        for dtype in ("float32", "float64")
    }
    figures = []
    for cache, limit in (("empty", 4.0), ("warm", 0.5)):
        medians = {dtype: median(measured[cache]) for dtype, measured in seconds.items()}
        measured = ", ".join(f"{value:.2f} s in {dtype}" for dtype, value in medians.items())
        figures.append(
            Figure(f"first fit in a fresh process, over import, {cache} cache", f"≤ {limit:g} s",
                   measured, max(medians.values()) <= limit, medians)
        )  # fmt: skip
    return figures


def measure_import(options):
    """The import's time over that of what it builds on."""
    seconds = processes.import_seconds(3 if options.quick else 9)
    medians = {module: median(measured) for module, measured in seconds.items()}
    base, ours = medians["sklearn.neural_network"], medians["fastbp"]
    measured = f"{ours - base:+.3f} s ({ours:.3f} over {base:.3f})"
    what = "`import fastbp` over `import sklearn.neural_network`"
    return [Figure(what, "≤ 0.1 s", measured, ours - base <= 0.1, seconds)]


def measure_curves(options):
    """Loss curves against scikit-learn's."""
    differences = agreement.curve_differences()
    worst, value = max(differences.items(), key=lambda item: item[1])
    measured = f"{value:.1e} ({', '.join(worst)})"
    numbers = {" ".join(key): value for key, value in differences.items()}
    what = f"loss curve: worst difference to scikit-learn, 20 epochs, {len(differences)} fits"
    return [Figure(what, "≤ 1e-7", measured, value <= 1e-7, numbers)]


def measure_lbfgs(options):
    """Final losses of lbfgs against scikit-learn's."""
    differences = agreement.lbfgs_differences()
    worst, value = max(differences.items(), key=lambda item: item[1])
    measured = f"{value:.1e} ({', '.join(worst)})"
    numbers = {" ".join(key): value for key, value in differences.items()}
    what = f"lbfgs: worst loss difference to scikit-learn, 50 iterations, {len(differences)} fits"
    return [Figure(what, "≤ 1e-6", measured, value <= 1e-6, numbers)]


def measure_bits(options):
    """Weights over numbers of threads."""
    unequal, n_fits = agreement.unequal_thread_counts()
    measured = f"differ: {'; '.join(unequal)}" if unequal else f"equal in {n_fits} fits"
    what = "weights for `n_threads` 1, 2, 3, 4"
    return [Figure(what, "equal to the bit", measured, not unequal, {"unequal": unequal})]


def measure_busy(options):
    """An epoch's time while another process uses one core fully."""
    case, n_epochs = CASES[0], 3 if options.quick else 9
    with prepared(case, 2 * n_epochs + 1) as start:
        worker = start("fastbp", options.threads)
        worker.epoch()
        quiet = median(worker.epoch()[0] for _ in range(n_epochs))
        with processes.busy_core():
            time.sleep(0.5)
            busy = median(worker.epoch()[0] for _ in range(n_epochs))
    measured = f"{busy / quiet:.2f} × ({1e3 * quiet:.0f} ms → {1e3 * busy:.0f} ms)"
    what = f"one epoch of {case.name} beside a process that uses one core fully"
    return [Figure(what, "≤ 3 ×", measured, busy <= 3 * quiet, {"quiet": quiet, "busy": busy})]


def measure_memory(options):
    """Peak memory of a fit, also while it compiles, the worst of some runs."""
    megabytes = processes.memory_megabytes(1 if options.quick else 3)
    what = "peak memory of a fit on MNIST as uint8, over the data and the process after import"
    return [
        Figure(f"{what}, {cache} cache", "≤ 150 MB", f"{max(values):.0f} MB", max(values) <= 150,
               {"megabytes": values})
        for cache, values in megabytes.items()
    ]  # fmt: skip


def measurements():
    """Everything that is measured: functions of the options, by name, in the table's order."""
    races = {case.name: (lambda options, case=case: measure_race(case, options)) for case in CASES}
    return {
        "mnist": measure_mnist,
        **races,
        "first-fit": measure_first_fit,
        "import": measure_import,
        "curves": measure_curves,
        "lbfgs": measure_lbfgs,
        "bits": measure_bits,
        "busy": measure_busy,
        "memory": measure_memory,
    }


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; writes nothing")
    parser.add_argument(
        "--only", action="append", choices=list(measurements()), metavar="NAME",
        help=f"one figure, may be repeated; writes nothing: {', '.join(measurements())}",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=None, help="default: all cores at hand")
    options = parser.parse_args(arguments)
    options.races = []
    return options


def use_cores(n_threads):
    """Keep this process and all that it starts to the first cores at hand; return their number."""
    cores = sorted(os.sched_getaffinity(0))[:n_threads]
    os.sched_setaffinity(0, cores)
    return len(cores)


def run(options):
    """Measure what the options name; a measurement that fails is a figure not met."""
    figures = []
    for name, measure in measurements().items():
        if options.only and name not in options.only:
            continue
        started = time.perf_counter()
        try:
            figures += measure(options)
        except Exception as error:
            traceback.print_exc()
            figures.append(Figure(name, "", f"failed: {type(error).__name__}", False, {}))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return figures


def main(arguments=None):
    """Run the program; return its exit status."""
    options = parse(arguments)
    options.threads = use_cores(options.threads)
    machine, versions = report.machine(options.threads), report.versions()
    figures = run(options)
    print(report.document(figures, options.races, machine, versions))
    if not (options.quick or options.only):
        for path in report.write(figures, options.races, machine, versions):
            print(f"written: {path}", file=sys.stderr)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
