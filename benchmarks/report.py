"""What was measured, as records, Markdown tables and a dated file."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN = "<!-- figures: begin, written by `python -m benchmarks.figures` -->"
END = "<!-- figures: end -->"
PACKAGES = ("fastbp", "numpy", "numba", "scikit-learn", "jax", "torch")


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


def machine(n_threads):
    """CPU, cores and load of this machine."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_used": n_threads,
        "load_average_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
    }


def cpu_model():
    """The CPU's name, as Linux tells it where it can."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    family = f"family {names.get('cpu family', '?')}, model {names.get('model', '?')}"
    return f"{names.get('model name', platform.processor())} ({family})"


def versions():
    """Python's and the packages' versions; None for what is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if found["fastbp"] is None:
        import fastbp

        found["fastbp"] = fastbp.__version__
    return found


def figures_table(figures):
    """The table what | required | measured | met?."""
    answers = {True: "yes", False: "**no**", None: "not shown"}
    return table(
        ("what", "required", "measured", "met?"),
        [(f.what, f.required, f.measured, answers[f.met]) for f in figures],
    )


def race_table(case, entries):
    """One network's table, a row a contender."""
    reference = entries[0].median
    rows = []
    for entry in entries:
        if not entry.seconds:
            rows.append((entry.contender, *[""] * 6, entry.remark))
            continue
        low, high = entry.quartiles
        rows.append(
            (
                entry.contender,
                milliseconds(entry.median),
                f"{milliseconds(low)} – {milliseconds(high)}",
                f"{case.n_rows / entry.median:,.0f}",
                f"{entry.median / reference:.2f}",
                f"{entry.first_epoch:.2f}",
                f"{entry.losses[-1]:.5f}",
                entry.remark,
            )
        )
    head = (
        "", "median ms/epoch", "quartiles", "samples/s", "time / fastbp's", "first epoch s",
        "loss", "remark",
    )  # fmt: skip
    title = (
        f"**{case.name}**, {case.activation}, batch {case.batch_size}, {case.n_rows:,} rows, "
        f"{len(entries[0].seconds)} rounds"
    )
    return f"{title}\n\n{table(head, rows)}"


def milliseconds(seconds):
    """Seconds as milliseconds in three digits or, from 1000 on, whole ones."""
    number = 1e3 * seconds
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(figures, races, machine, versions):
    """All tables with date, machine and versions, as Markdown."""
    packages = ", ".join(f"{name} {number or '(missing)'}" for name, number in versions.items())
    parts = [
        f"{date.today()}, {machine['cpu']}, {machine['cores_used']} of {machine['cores']} cores, "
        f"load {machine['load_average_before']} before; {packages}.",
        figures_table(figures),
    ]
    parts += [race_table(case, entries) for case, entries in races]
    return "\n\n".join(parts) + "\n"


def write(figures, races, machine, versions):
    """Write the dated result file and the tables of benchmarks/README.md; return both paths."""
    results = HERE / "results" / f"cpu-{date.today()}.json"
    results.parent.mkdir(exist_ok=True)
    record = {
        "date": str(date.today()),
        "machine": machine,
        "versions": versions,
        "figures": [asdict(figure) for figure in figures],
        "races": [
            {"case": asdict(case) | {"name": case.name}, "entries": [asdict(e) for e in entries]}
            for case, entries in races
        ],
    }
    results.write_text(json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    text = readme.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    tables = document(figures, races, machine, versions)
    readme.write_text(f"{before}{BEGIN}\n\n{tables}\n{after}")
    return results, readme
