"""Hold fastbp to its figures and renew README.md: `python -m benchmarks.figures`.

Speeds are taken from results/bench.json, which `fastbp bench --output benchmarks/results` writes;
agreement, bits, memory and the like are measured here. Exit status 1: a figure was missed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from benchmarks import agreement, resources
from fastbp.bench import report
from fastbp.bench.cases import TABLE, batch_sweep
from fastbp.bench.draws import find_mnist
from fastbp.bench.processes import WARM, medians_of
from fastbp.bench.race import limited_to, prepared
from fastbp.bench.results import FILE_NAME, Results
from fastbp.bench.tables import milliseconds, table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# Network -> (least ratio of the fastest peer's time to fastbp's, least share of the peak).
FLOORS = dict(
    zip(
        (case.shape for case in TABLE),
        ((6, None), (3, 0.18), (2.5, 0.45), (2, 0.45), (1.8, 0.57), (1.35, 0.63), (1.15, 0.73)),
        strict=True,
    )
)
SINGLE_ROWS = {"PyTorch": 20, "scikit-learn": 10}  # their times over fastbp's at batch size 1
BEGIN = "<!-- {}: begin, written by `python -m benchmarks.figures` -->"
END = "<!-- {}: end -->"


@dataclass(frozen=True)
class Figure:
    """One line of the table of figures.

    Parameters
    ----------
    what, required, measured : str
        For people to read.
    met : bool or None
        None where it could not be measured, or not against everything that it is about.
    numbers : dict
        The same for programs to read.
    """

    what: str
    required: str
    measured: str
    met: bool | None
    numbers: dict


# ---- from the last run of `fastbp bench` ----------------------------------------------------


def speed_figures(results):
    """The figures of speed.

    Parameters
    ----------
    results : Results

    Returns
    -------
    figures : list of Figure
    """
    figures = []
    dense = [race for race in results.series("float64") if race.heat.case.dtype == "float32"]
    for race in [*results.series("table"), *dense]:
        ratio, share = FLOORS[race.heat.case.shape]
        figures.append(compare(race, ratio))
        if share is not None:
            measured = race.ceiling.share_of_peak(race.heat.case, race.ours.median)
            figures.append(at_least(f"{race.heat.case.name}: share of the peak", share, measured))
    figures += [figure for race in results.series("batch") for figure in single_rows(race)]
    figures += scaling(results)
    medians = medians_of(results.starts)
    if all("98 %" in medians.get(name, ()) for name in (f"fastbp, {WARM}", "PyTorch")):
        ratio = medians["PyTorch"]["98 %"] / medians[f"fastbp, {WARM}"]["98 %"]
        what = "MNIST to 98 %, whole process, warm cache: PyTorch's time / fastbp's"
        figures.append(at_least(what, 2, ratio, ".2f"))
    return figures


def at_least(what, required, measured, form=".0%"):
    """A figure that should not be lower than required."""
    return Figure(
        what, f"≥ {required:{form}}", f"{measured:{form}}", bool(measured >= required),
        {"measured": measured},
    )  # fmt: skip


def compare(race, required):
    """The figure of a race; not shown to be met unless every peer came to the same loss."""
    what = f"{race.heat.case.name}: fastest peer's time / fastbp's"
    absent = "; ".join(
        f"{entry.contender} {entry.remark}"
        for entry in race.entries
        if entry.remark and entry.contender != "fastbp"
    )
    if race.ours.remark or not race.peers:
        measured = race.ours.remark or f"no peer to compare with: {absent}"
        met = False if race.ours.remark else None
        return Figure(what, f"≥ {required:g}", measured, met, {})
    fastest = race.fastest_peer
    measured = (
        f"{race.ratio:.2f} ({milliseconds(race.ours.median)} ms; "
        f"{fastest.contender} {milliseconds(fastest.median)} ms)"
    )
    met = race.ratio >= required
    if absent:
        measured, met = f"{measured}; not compared: {absent}", None if met else False
    return Figure(what, f"≥ {required:g}", measured, met, {"ratio": race.ratio})


def single_rows(race):
    """Figures of training row by row."""
    if race.heat.case != batch_sweep(1):
        return []
    return [
        at_least(
            f"{race.heat.case.name}: {entry.contender}'s time / fastbp's",
            SINGLE_ROWS[entry.contender],
            entry.median / race.ours.median,
            ".1f",
        )
        for entry in race.peers
        if entry.contender in SINGLE_ROWS
    ]


def scaling(results):
    """Figures of two threads against one, and of float64 against float32."""
    figures, floors = [], {"784-128-10": 1.5, "784-512-512-10": 1.8}
    for gain in report.gains(results):
        if gain.series == "float64":
            figures.append(at_least(f"{gain.shape}: {gain.what}", 0.85 * 0.5, gain.factor, ".2f"))
        elif gain.value == 2:
            floor = floors.get(gain.shape, 1)
            figures.append(at_least(f"{gain.shape}: {gain.what}", floor, gain.factor, ".2f"))
    return figures


# ---- measured here --------------------------------------------------------------------------


def measure_first_fit(options):
    """A fresh process's first fit, the slower of the two dtypes."""
    seconds = {
        dtype: resources.first_fit_seconds(dtype, 1 if options.quick else 3)
        for dtype in ("float32", "float64")
    }
    figures = []
    for cache, limit in zip(seconds["float32"], (4.0, 0.5), strict=True):
        medians = {dtype: median(measured[cache]) for dtype, measured in seconds.items()}
        measured = ", ".join(f"{value:.2f} s in {dtype}" for dtype, value in medians.items())
        figures.append(
            Figure(f"first fit in a fresh process by numba's kernels, over import, {cache}",
                   f"≤ {limit:g} s", measured, max(medians.values()) <= limit, medians)
        )  # fmt: skip
    return figures


def measure_import(options):
    """The import's time over that of what it builds on."""
    seconds = resources.import_seconds(3 if options.quick else 9)
    medians = {module: median(measured) for module, measured in seconds.items()}
    base, ours = medians["sklearn.neural_network"], medians["fastbp"]
    measured = f"{ours - base:+.3f} s ({ours:.3f} over {base:.3f})"
    what = "import of `MLPClassifier` from fastbp over that from scikit-learn"
    return [Figure(what, "≤ 0.1 s", measured, ours - base <= 0.1, seconds)]


def measure_curves(options):
    """Loss curves against scikit-learn's."""
    differences = agreement.curve_differences()
    what = f"loss curve: worst difference to scikit-learn, 20 epochs, {len(differences)} fits"
    return [worst_of(differences, what, 1e-7)]


def measure_lbfgs(options):
    """Final losses of lbfgs against scikit-learn's."""
    differences = agreement.lbfgs_differences()
    what = f"lbfgs: worst loss difference to scikit-learn, 50 iterations, {len(differences)} fits"
    return [worst_of(differences, what, 1e-6)]


def worst_of(differences, what, limit):
    """The figure of the largest difference."""
    worst, value = max(differences.items(), key=lambda item: item[1])
    measured = f"{value:.1e} ({', '.join(worst)})"
    numbers = {" ".join(key): value for key, value in differences.items()}
    return Figure(what, f"≤ {limit:.0e}", measured, value <= limit, numbers)


def measure_bits(options):
    """Weights over numbers of threads."""
    unequal, n_fits = agreement.unequal_thread_counts()
    measured = f"differ: {'; '.join(unequal)}" if unequal else f"equal in {n_fits} fits"
    what = "weights for `n_threads` 1, 2, 3, 4"
    return [Figure(what, "equal to the bit", measured, not unequal, {"unequal": unequal})]


def measure_busy(options):
    """An epoch's time while another process uses one core fully."""
    case, n_epochs = TABLE[2], 3 if options.quick else 9
    n_threads = len(os.sched_getaffinity(0))
    with limited_to(n_threads), prepared(case, 2 * n_epochs + 2, n_threads, find_mnist()) as start:
        worker = start("fastbp")
        for awaited in (worker.answer, worker.go, worker.go):
            awaited()
        quiet = median(worker.go()[0] for _ in range(n_epochs))
        with resources.busy_core():
            time.sleep(0.5)
            busy = median(worker.go()[0] for _ in range(n_epochs))
    measured = f"{busy / quiet:.2f} × ({1e3 * quiet:.0f} ms → {1e3 * busy:.0f} ms)"
    what = f"one epoch of {case.name} next to a process that uses one core fully"
    return [Figure(what, "≤ 3 ×", measured, busy <= 3 * quiet, {"quiet": quiet, "busy": busy})]


def measure_memory(options):
    """Peak memory of a fit, also while it compiles, the worst of some runs."""
    megabytes = resources.memory_megabytes(1 if options.quick else 3, find_mnist())
    what = "peak memory of a fit on MNIST as uint8 by numba's kernels, over data and imports"
    return [
        Figure(f"{what}, {cache}", "≤ 150 MB", f"{max(values):.0f} MB", max(values) <= 150,
               {"megabytes": values})
        for cache, values in megabytes.items()
    ]  # fmt: skip


def read_speeds(options):
    """The figures of speed from the stored results."""
    return speed_figures(Results.read(RESULTS / FILE_NAME))


MEASUREMENTS = {
    "speed": read_speeds,
    "first-fit": measure_first_fit,
    "import": measure_import,
    "curves": measure_curves,
    "lbfgs": measure_lbfgs,
    "bits": measure_bits,
    "busy": measure_busy,
    "memory": measure_memory,
}


# ---- the program ----------------------------------------------------------------------------


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; writes nothing")
    parser.add_argument(
        "--only", action="append", choices=list(MEASUREMENTS), metavar="NAME",
        help=f"one figure, may be repeated; writes nothing: {', '.join(MEASUREMENTS)}",
    )  # fmt: skip
    return parser.parse_args(arguments)


def run(options):
    """Measure what the options name; a measurement that fails is a figure not met."""
    figures = []
    for name, measure in MEASUREMENTS.items():
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


def figures_table(figures):
    """The table what | required | measured | met?."""
    answers = {True: "yes", False: "**no**", None: "not shown"}
    return table(
        ("what", "required", "measured", "met?"),
        [(f.what, f.required, f.measured, answers[f.met]) for f in figures],
    )


def renew(readme, **blocks):
    """Replace the text between the marks of some blocks in a file."""
    text = readme.read_text()
    for name, content in blocks.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, after = text[: text.index(begin)], text[text.index(end) :]
        text = f"{before}{begin}\n\n{content}\n\n{after}"
    readme.write_text(text)


def main(arguments=None):
    """Run the program; return its exit status."""
    options = parse(arguments)
    shared = HERE.parents[1] / "shared" / "data" / "mnist"
    if find_mnist() is None and shared.is_dir():
        os.environ["FASTBP_DATA"] = str(shared)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FASTBP_CACHE_DIR"] = cache
        figures = run(options)
    print(figures_table(figures))
    if not (options.quick or options.only):
        record = {"date": str(date.today()), "figures": [asdict(figure) for figure in figures]}
        (RESULTS / "figures.json").write_text(json.dumps(record, indent=1) + "\n")
        bench = report.document(Results.read(RESULTS / FILE_NAME)).strip()
        renew(HERE / "README.md", figures=figures_table(figures), bench=bench)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
