"""What was measured, for people: tables that read well in a terminal and are Markdown."""

from dataclasses import dataclass
from itertools import takewhile
from math import isnan

from fastbp.bench.cases import SWEEPS
from fastbp.bench.contenders import CONTENDERS
from fastbp.bench.processes import ON_GPU, medians_of
from fastbp.bench.race import CPU_TOLERANCES, LOSS_TOLERANCE, TOLERANCES
from fastbp.bench.tables import milliseconds, number, table

CPU_TITLES = {
    "table": "Networks",
    "unlisted": "Other shapes",
    "bfloat16": "Products in bfloat16",
}
GPU_TITLES = {
    "table": "Networks",
    "large": "Large products",
    "sizes": "Where does a GPU start to pay?",
    "together": "Many networks at once, by `fit_many`",
}


# ---- one race -------------------------------------------------------------------------------


def race_table(race):
    """One race, a row a contender; the share is of the CPU's peak."""
    case = race.heat.case
    rows = []
    for entry in race.entries:
        low, high = map(milliseconds, entry.quartiles)
        timed = bool(entry.seconds)
        on_cpu = CONTENDERS[entry.contender].device == "cpu"
        share = race.ceiling.share_of_peak(case, entry.median) if timed and on_cpu else None
        rows.append(
            (
                entry.contender,
                milliseconds(entry.median),
                f"{low} – {high}" if timed else "",
                number(case.n_samples / entry.median, ",.0f"),
                number(entry.median / race.ours.median, ".2f"),
                number(share, ".0%"),
                number(entry.compile_seconds, ".2f"),
                f"{entry.losses[-1]:.5f}" if timed else "",
                entry.remark,
            )
        )
    head = ("", f"ms/{case.unit}", "quartiles", "samples/s", "× fastbp", "of peak", "compile s",
            "loss", "remark")  # fmt: skip
    heat = race.heat
    value = "" if heat.value is None else f" {heat.value}"
    threads = f"{heat.n_threads} thread{'s' if heat.n_threads > 1 else ''}"
    rounds = len(race.ours.seconds)
    title = (
        f"**{case.name}** ({heat.series}{value}): {case.n_rows:,} rows, {threads}, {rounds} rounds"
    )
    return f"{title}\n\n{table(head, rows)}"


# ---- summaries ------------------------------------------------------------------------------


def summary_table(results, *series):
    """A line a race: fastbp, every peer's time as a multiple of it, and the shares."""
    races = [race.on("cpu") for race in results.series(*series)]
    names = list(dict.fromkeys(e.contender for race in races for e in race.entries))[1:]
    rows = []
    for race in races:
        by_name = {entry.contender: entry for entry in race.peers}
        case, ours = race.heat.case, race.ours
        ceiling = race.ceiling
        rows.append(
            (
                case.name,
                milliseconds(ours.median),
                *(
                    number(by_name[name].median / ours.median, ".2f") if name in by_name else "–"
                    for name in names
                ),
                number(race.ratio, ".2f"),
                number(ceiling.share_of_peak(case, ours.median), ".0%"),
                number(ceiling.share_of_roofline(case, ours.median), ".0%"),
            )
        )
    head = ("network", "fastbp ms", *names, "fastest peer", "of peak", "of roofline")
    return table(head, rows)


def device_table(results, *series):
    """A line a race with a GPU: fastbp on both devices, and the fastest peer on each."""
    rows = []
    for race in results.series(*series):
        case, cells = race.heat.case, []
        for found in (race.on("cpu"), race.on("cuda")):
            ours, fastest = found.ours, found.fastest_peer
            valid = bool(ours.seconds) and not ours.remark
            cells.append(number(case.n_samples / ours.median, ",.0f") if valid else "–")
            cells.append(f"{number(found.ratio, '.2f')} {fastest.contender}" if fastest else "–")
        cpu, cpu_peer, gpu, gpu_peer = cells
        rows.append((case.name, cpu, gpu, number(race.speedup, ".2f"), cpu_peer, gpu_peer))
    head = ("network", "fastbp on CPU, rows/s", "on GPU, rows/s", "GPU ÷ CPU",
            "fastest peer on CPU", "fastest peer on GPU")  # fmt: skip
    return table(head, rows)


def pays_lines(results):
    """From which width on the GPU was faster, a line a batch size."""
    found = {}
    for race in results.series("sizes"):
        if not isnan(race.speedup):
            found.setdefault(race.heat.case.batch_size, []).append(race)
    lines = []
    for batch_size, races in found.items():
        races.sort(key=lambda race: race.heat.value)
        # The first width from which on no larger one is faster on the CPU.
        paying = list(takewhile(lambda race: race.speedup > 1, reversed(races)))
        where = f"from {paying[-1].heat.value} units on" if paying else "at no width raced"
        lines.append(f"- batch size {batch_size}: the GPU is faster {where}")
    return "\n".join(lines)


def sweep_table(results, series):
    """A sweep: its values, the time a sample, and how fast the fastest peer is."""
    races = results.series(series)
    several = len({race.heat.case.shape for race in races}) > 1 and series not in SWEEPS
    rows = []
    for race in races:
        case, ours, fastest = race.heat.case, race.ours, race.fastest_peer
        rows.append(
            (
                f"{case.shape} {race.heat.value}" if several else race.heat.value,
                number(1e6 * ours.median / case.n_rows, ".3g"),
                number(case.operations / ours.median / 1e9, ".3g"),
                number(race.ceiling.share_of_peak(case, ours.median), ".0%"),
                number(1e6 * fastest.median / case.n_rows, ".3g") if fastest else "",
                fastest.contender if fastest else "",
                number(race.ratio, ".2f"),
            )
        )
    label = SWEEPS[series][0] if series in SWEEPS else series
    head = (label, "fastbp µs/sample", "GFLOP/s", "of peak", "fastest peer µs/sample", "which",
            "ratio")  # fmt: skip
    return table(head, rows)


@dataclass(frozen=True)
class Gain:
    """One network's throughput over that of its first race in a series."""

    series: str
    shape: str
    value: int | str
    what: str
    factor: float


def gains(results):
    """Two or more threads against one, and float64 against float32.

    Returns
    -------
    gains : list of Gain
    """
    found = []
    for series, unit in (("threads", "threads' throughput"), ("float64", "throughput")):
        by_shape = {}
        for race in results.series(series):
            by_shape.setdefault(race.heat.case.shape, []).append(race)
        for shape, (first, *others) in by_shape.items():
            found += [
                Gain(
                    series, shape, race.heat.value, f"{race.heat.value} {unit} over "
                    f"{first.heat.value}", first.ours.median / race.ours.median,
                )
                for race in others
            ]  # fmt: skip
    return found


def scaling_lines(results):
    """The gains, a line each."""
    return "\n".join(f"- {gain.shape}: {gain.what}: {gain.factor:.2f} ×" for gain in gains(results))


def calls_table(calls):
    """Short calls against scikit-learn, a line each."""
    rows = [
        (
            call.name,
            call.unit,
            number(1e6 * call.ours, ",.4g"),
            number(1e6 * call.theirs, ",.4g"),
            number(call.ratio, ".2f"),
            call.remark,
        )
        for call in calls
    ]
    return table(("", "unit", "fastbp µs", "scikit-learn µs", "ratio", "remark"), rows)


def slower_lines(results):
    """Every race that a peer won, and every call, a line each."""
    lines = [
        f"- {call.name}: scikit-learn takes {call.ratio:.2f} of fastbp's time"
        for call in results.calls
        if call.ratio < 1
    ]
    for whole in results.races:
        devices = {"cpu": ["cpu"]}.get(whole.heat.device, ["cpu", "cuda"])
        for race in map(whole.on, devices):
            if not race.ratio < 1:
                continue
            heat, fastest = race.heat, race.fastest_peer
            value = "" if heat.value is None else f" {heat.value}"
            lines.append(
                f"- {heat.case.name} ({heat.series}{value}, {heat.n_threads} threads): "
                f"{fastest.contender} takes {race.ratio:.2f} of fastbp's time"
            )
    return "\n".join(lines)


def unproved_lines(results):
    """Every contender without a valid time in some race, a line each."""
    lines = {}
    for race in results.races:
        for entry in race.entries:
            if entry.remark and entry.contender not in results.missing:
                lines.setdefault(f"{entry.contender}: {entry.remark}", []).append(race)
    return "\n".join(
        f"- {line} ({', '.join(race.heat.case.name for race in races)})"
        for line, races in lines.items()
    )


# ---- from nothing to a trained network ------------------------------------------------------


def cold_table(results):
    """Milestones of whole processes, in seconds from their start, and installed sizes."""
    rows = []
    medians = medians_of(results.starts)
    for name, found in results.starts.items():
        size = results.sizes.get(name.split(",")[0].removesuffix(ON_GPU))
        size = f"{size / 1e6:,.0f}" if size else ""
        if name not in medians:
            rows.append((name, *[""] * 6, size, found["remark"]))
            continue
        m = medians[name]
        rows.append(
            (
                name,
                number(m["imported"] - m["read"], ".2f"),
                number(m["first epoch"] - m["imported"], ".2f"),
                *(number(m.get(f"{target} %"), ".2f") for target in (97, 98)),
                number(m["exit"], ".2f"),
                len(found["exit"]),
                size,
                "" if "98 %" in m else "98 % was not reached",
            )
        )
    head = ("", "import s", "first epoch s", "97 % after s", "98 % after s", "process s", "rounds",
            "MB installed", "remark")  # fmt: skip
    return table(head, rows)


def bench_mnist_table(results):
    """Whole fits with the settings of scikit-learn's `bench_mnist.py`."""
    rows = [
        (
            f"{solver}, {name}",
            f"{fit['compile_seconds']:.2f}",
            f"{fit['seconds']:.2f}",
            f"{1e3 * fit['seconds'] / fit['epochs']:.0f}",
            fit["epochs"],
            f"{fit['test_error']:.2%}",
        )
        for solver, fits in results.bench_mnist.items()
        for name, fit in fits.items()
    ]
    return table(("", "compile s", "fit s", "ms/epoch", "epochs", "test error"), rows)


# ---- the whole ------------------------------------------------------------------------------


def heading(results):
    """Date, machine, versions, and who is missing."""
    machine, versions = results.machine, results.versions
    packages = ", ".join(f"{name} {number or '(missing)'}" for name, number in versions.items())
    gpu = f" {machine['gpu']};" if "gpu" in machine else ""
    lines = [
        f"{results.date}, {machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"load {machine['load_average_before']} before;{gpu} {packages}.",
    ]
    lines += [f"{name} did not take part: {why}." for name, why in results.missing.items()]
    lines += results.problems
    return "\n\n".join(lines)


def ceiling_table(results):
    """The highest ceilings seen; a race's shares are of what was seen just before and after it."""
    rows = [
        (
            ceiling.n_threads,
            f"{ceiling.float32 / 1e9:.0f}",
            f"{ceiling.float64 / 1e9:.0f}",
            f"{ceiling.bandwidth / 1e9:.1f}",
        )
        for ceiling in results.ceilings()
    ]
    return table(("threads", "float32 GFLOP/s", "float64 GFLOP/s", "memory GB/s"), rows)


def document(results, details=True):
    """Everything as Markdown.

    Parameters
    ----------
    results : Results
    details : bool, default=True
        Whether every race of the tables is shown contender by contender.
    """
    proof = (
        f"Times are medians an epoch; a peer's column is its time over fastbp's. A time is shown "
        f"only of contenders whose training loss after the race is within {LOSS_TOLERANCE:.0%} of "
        "the plain NumPy loop's"
        + "".join(f", {bound:.0%} in {precision}" for precision, bound in CPU_TOLERANCES.items())
        + "."
    )
    parts = [heading(results)]
    if any(race.heat.device != "cpu" for race in results.races):
        return "\n\n".join([*parts, *gpu_parts(results, details), *last_parts(results)]) + "\n"
    if results.races:
        parts += ["### The machine's ceiling", ceiling_table(results)]
    for series, title in CPU_TITLES.items():
        if races := results.series(series):
            parts += [f"### {title}", proof, summary_table(results, series)]
            if details:
                parts += map(race_table, races)
    for series in dict.fromkeys(race.heat.series for race in results.races):
        if series not in CPU_TITLES:
            parts += [f"### Sweep: {series}", sweep_table(results, series)]
    if lines := scaling_lines(results):
        parts += [lines]
    return "\n\n".join([*parts, *last_parts(results)]) + "\n"


def gpu_parts(results, details):
    """The tables of a run with a GPU."""
    tolerance = f"within {LOSS_TOLERANCE:.0%}" + "".join(
        f", {bound:.0%} in {precision}" for precision, bound in TOLERANCES.items()
    )
    parts = [
        "Rows a second by medians; a peer's number is its time over fastbp's on the same device. A "
        "time counts only of who has the losses of the CPU's NumPy loop or, where that takes no "
        f"part, of fastbp on the CPU ({tolerance})."
    ]
    for series, title in GPU_TITLES.items():
        if races := results.series(series):
            parts += [f"### {title}", device_table(results, series)]
            if series == "sizes":
                parts.append(pays_lines(results))
            if details:
                parts += map(race_table, races)
    return parts


def last_parts(results):
    """What comes after the races: calls, cold starts, whole fits, what was lost or not proved."""
    parts = []
    if results.calls:
        parts += ["### Short calls", calls_table(results.calls)]
    if results.starts:
        parts += ["### From nothing to a trained network", cold_table(results)]
    for state, run in results.mnist_command.items():
        parts += [
            f"`fastbp mnist`, {state}: {run['seconds']:.2f} s for the whole process, "
            f"{run['test_accuracy']:.2%} of the test set."
        ]
    if results.bench_mnist:
        parts += ["### scikit-learn's `bench_mnist.py`", bench_mnist_table(results)]
    if results.races or results.calls:
        parts += ["### Slower than a peer", slower_lines(results) or "Nothing in this run."]
        if lines := unproved_lines(results):
            parts += ["### Without a valid time", lines]
    return parts
