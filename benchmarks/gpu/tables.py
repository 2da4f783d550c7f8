"""A record for people: Markdown tables."""

import numpy as np

from benchmarks.gpu.checks import N_EPOCHS
from benchmarks.gpu.races import TOLERANCES
from fastbp.bench.race import Entry
from fastbp.bench.report import number, table
from fastbp.bench.until_accurate import TARGETS

HOW_CHECKED = (
    f"The same fits of {N_EPOCHS} epochs by both engines. `off by` is the largest relative "
    "difference of a loss from the CPU engine's, `rounding` that of the CPU engine's own float32 "
    "from its float64. A second fit on the GPU must repeat the first to the bit."
)
HOW_TIMED = (
    "Medians of the rounds with their quartiles, by the wall clock, from before the first launch "
    "until the last loss has come back. Contenders take turns, each in a process of its own. What "
    "the data and orders take to the GPU is in fastbp's time for the orders (it takes them up "
    "epoch by epoch), and in nobody's for the data. `first run` is the first epoch, compilation "
    "included, while all others compile at the same time. A time is shown only of who had the CPU "
    "engine's losses, from the same weights in the same orders (within "
    + ", ".join(f"{bound:.0%} in {name}" for name, bound in TOLERANCES.items())
    + ")."
)
HOW_MANY = (
    "A time is that of all networks over all epochs. PyTorch's is multiplied up from a few "
    "networks. JAX's networks all see the same batches, fastbp's each its own. With "
    "`device_shuffle` the orders are others, so no loss can be compared."
)
HOW_SIZES = "Both engines' medians of an epoch by turns, and the CPU's over the GPU's."


def seconds_for_people(seconds):
    """A time in its unit, in three digits."""
    if seconds is None or not np.isfinite(seconds):
        return ""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            value = seconds * factor
            return f"{value:,.0f} {unit}" if value >= 999.5 else f"{value:.3g} {unit}"
    return ""


def check_table(rows):
    """Every check, a row."""
    lines = [
        (
            row["group"],
            row["check"],
            number(row.get("difference"), ".1e"),
            f"{row['bound']:g}",
            number(row.get("rounding"), ".1e"),
            {True: "yes", False: "**no**", None: ""}[row.get("repeats")],
            number(row.get("seconds"), ".1f"),
            row["problem"] or "passed",
        )
        for row in rows
    ]
    head = "program", "fit", "off by", "bound", "rounding", "repeats", "first fit s", ""
    return table(head, lines)


def race_table(row):
    """One race, a row a contender."""
    steps = row["n_steps"] if row["unit"] == "step" else 1
    entries = [Entry(**entry) for entry in row["entries"]]
    proven = [entry for entry in entries if entry.seconds and not entry.remark]
    fastest = min(
        (e.median for e in proven if e.contender.startswith("fastbp")), default=float("nan")
    )
    lines = []
    for entry in entries:
        shown = entry in proven
        low, high = (seconds_for_people(quartile / steps) for quartile in entry.quartiles)
        lines.append(
            (
                entry.contender,
                seconds_for_people(entry.median / steps) if shown else "",
                f"{low} – {high}" if shown else "",
                number(entry.median / fastest, ".2f") if shown else "",
                number(entry.first_epoch, ".2f"),
                f"{entry.losses[-1]:.5f}" if entry.losses else "",
                entry.remark,
            )
        )
    head = "", f"a{'n' * row['unit'].startswith('e')} {row['unit']}", "quartiles", "× fastbp"
    title = f"**{row['race']}**, {row['n_rows']:,} rows"
    return f"{title}\n\n{table((*head, 'first run s', 'loss', 'remark'), lines)}"


def accuracy_table(rows):
    """Mean seconds over the seeds to each target, by program."""
    lines = []
    for row in rows:
        cells = []
        for target in map(str, TARGETS):
            reached = [s["reached"][target] for s in row["seeds"] if target in s["reached"]]
            times = [seconds for seconds, _ in reached]
            mean, epochs = "", ""
            if reached:
                mean = " ± ".join(map(seconds_for_people, (np.mean(times), np.std(times))))
                epochs = f"{np.mean([n_epochs for _, n_epochs in reached]):.1f}"
            cells += [mean, epochs, f"{len(reached)} of {len(row['seeds'])}"]
        lines.append((f"fastbp {row['program']}", *cells, row["problem"]))
    head = [text for t in TARGETS for text in (f"to {t} %", "epochs", "seeds")]
    return table(("", *head, "remark"), lines)


def size_table(rows):
    """CPU against GPU, a row a size."""
    lines = []
    for row in rows:
        times = [np.median(row[device]) if row.get(device) else None for device in ("cpu", "gpu")]
        shown = all(times) and not row["problem"]
        rates = [f"{row['n_rows'] / t:,.0f}" if shown else "" for t in times]
        ratio = number(times[0] / times[1], ".2f") if shown else ""
        lines.append((row["case"], row["program"], *rates, ratio, row["problem"]))
    return table(("network", "program", "CPU rows/s", "GPU rows/s", "GPU ÷ CPU", ""), lines)


def probe_table(rows):
    """Costs in microseconds."""
    lines = [(r["probe"], number(r["microseconds"], ".3f"), r["problem"]) for r in rows]
    return table(("", "µs", ""), lines)


def heading(record):
    """Date, machine and versions."""
    gpu = ", ".join(f"{name} {value}" for name, value in record.gpu.items() if name != "name")
    packages = ", ".join(f"{name} {v or '(missing)'}" for name, v in record.versions.items())
    return (
        f"{record.date}, {record.gpu.get('name', 'no GPU')} ({gpu}), {record.cpu}, "
        f"{record.system}; {packages}.\n\nMNIST: {record.mnist or 'not here; made-up images'}."
    )


def document(record):
    """Everything as Markdown."""
    parts = [f"# {record.gpu.get('name', 'No GPU')}, {record.date[:10]}", heading(record)]
    if record.checks:
        failed = sum(bool(row["problem"]) for row in record.checks)
        parts += ["## Is it right?", HOW_CHECKED, check_table(record.checks)]
        parts += [f"{failed} of {len(record.checks)} checks failed."]
    races = [row for row in record.races if row["section"] != "fit_many"]
    together = [row for row in record.races if row["section"] == "fit_many"]
    if races:
        parts += ["## Races", HOW_TIMED, *map(race_table, races)]
    if record.accuracy:
        recipe = f"{record.accuracy[0]['recipe']}; mean and spread of the seeds."
        parts += ["## MNIST until accurate", recipe, accuracy_table(record.accuracy)]
    if together:
        parts += ["## Many networks", HOW_MANY, *map(race_table, together)]
    if record.probes:
        parts += ["## What the machine costs", probe_table(record.probes)]
    if record.sizes:
        parts += ["## From which size on a GPU pays", HOW_SIZES, size_table(record.sizes)]
    failures = [f"- {text}" for text in record.problems]
    failures += [f"- {name} was skipped: {why}" for name, why in record.skipped.items()]
    parts += ["## What failed", "\n".join(failures) or "Nothing."]
    taken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in record.seconds.items())
    return "\n\n".join([*parts, f"Time taken: {taken}."]) + "\n"
