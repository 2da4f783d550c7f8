"""What was measured, for people: Markdown tables; and for programs: JSON."""

import json
from math import isnan

import numpy as np

from benchmarks.tabular.sets import MOST_TEST_ROWS, MOST_TRAINING_ROWS
from benchmarks.tabular.summary import FEWEST_ERRORS, OFFSET, geometric_mean
from fastbp.bench.tables import number, table


def markdown(header, summary, tables, missing):
    """The whole report.

    Parameters
    ----------
    header : dict
        Of the results.
    summary : Summary
    tables : dict of Table
        By name, at least those with results.
    missing : dict
        Contender -> why it does not take part.

    Returns
    -------
    text : str
    """
    n_tables = len(summary.errors)
    versions = ", ".join(f"{name} {value}" for name, value in header["versions"].items() if value)
    plural = "s" if header["threads"] > 1 else ""
    parts = [
        f"{header['machine']['cpu']}, {header['machine']['cores']} cores; every contender on "
        f"{header['threads']} thread{plural}; {header['date']}.\n\n{versions}.",
        f"{n_tables} tables, {_splits(summary)}, the same rows for all: up to "
        f"{MOST_TRAINING_ROWS:,} to train on (each contender takes its validation rows from them), "
        f"up to {MOST_TEST_ROWS:,} others to test on. The error is 1 - accuracy, or the root mean "
        "squared error over y's standard deviation; a ratio over tables is the geometric mean of "
        f"(error + {OFFSET}) / (error of {summary.reference} + {OFFSET}), ± its standard error "
        "over the tables.",
        overall_table(summary),
        f"Score: 1 for a table's best of these contenders, 0 for its worst. {summary.reference} is "
        "what the ratios refer to. Seconds are those of a fit, geometric means over the tables.",
    ]
    if summary.duels():
        parts += ["### One against one", duels_table(summary), DUELS_NOTE]
    parts += ["### Errors", means_table(summary, summary.errors, ".3f", counts=True)]
    if not summary.log_losses.empty:
        parts += ["### Log losses", means_table(summary, summary.log_losses, ".3f")]
    parts += ["### CPU seconds of a fit", means_table(summary, summary.cpu_seconds, ".3g")]
    parts += ["### Data", data_table(summary, tables)]
    remarks = [f"- {name} takes no part: {why}" for name, why in missing.items()]
    remarks += failures(summary.records)
    if summary.n_left_out:
        remarks.append(
            f"- {summary.n_left_out} pairs of table and split are left out above, since not all "
            "contenders have a result of them"
        )
    return "\n\n".join([*parts, *(["### Missing", "\n".join(remarks)] if remarks else [])]) + "\n"


def _splits(summary):
    fewest, most = summary.n_splits.min(), summary.n_splits.max()
    number_of = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{number_of} random split{'s' if most > 1 else ''} each"


def _with_error(ratios):
    """A geometric mean with its standard error; nothing where there are no ratios."""
    mean, error = geometric_mean(ratios)
    if isnan(mean):
        return ""
    return f"{mean:.3f}" if isnan(error) else f"{mean:.3f} ± {error:.3f}"


def overall_table(summary):
    """A row a contender, the best ratio first."""
    ranks, scores, reference = summary.mean_ranks(), summary.normalised_scores(), summary.reference
    rows = []
    for model in summary.models:
        everywhere = summary.error_ratios(model, reference)
        by_task = [
            number(geometric_mean(summary.error_ratios(model, reference, task))[0], ".3f")
            for task in ("classification", "regression")
        ]
        losses = number(geometric_mean(summary.log_loss_ratios(model, reference))[0], ".3f")
        seconds = [geometric_mean(each[model])[0]
                   for each in (summary.cpu_seconds, summary.wall_seconds)]  # fmt: skip
        row = [
            model, _with_error(everywhere), *by_task, losses, f"{ranks[model]:.2f}",
            f"{scores[model]:.2f}", f"{summary.wins(model, reference)} of {len(everywhere)}",
            *(f"{each:.3g}" for each in seconds),
            f"{geometric_mean(summary.time_ratios(model, reference))[0]:.3g}",
        ]  # fmt: skip
        rows.append((geometric_mean(everywhere)[0], row))
    head = (
        "", "error ratio", "classes", "regression", "log loss ratio", "mean rank", "score",
        "better on", "CPU s", "wall s", "CPU time ratio",
    )  # fmt: skip
    return table(head, [row for _, row in sorted(rows, key=lambda pair: pair[0])])


DUELS_NOTE = (
    "Ratios are the first one's over the second's. The last column is the table of the largest "
    f"ratio of errors, of those with {FEWEST_ERRORS} wrong predictions or more (all splits "
    "together; the reference's). A required value that is not met says so."
)


def duels_table(summary):
    """A row a pair that something is promised of."""
    rows = []
    for duel, theirs in summary.duels():
        ratios = summary.error_ratios(duel.ours, theirs)
        times = {
            clock: geometric_mean(summary.time_ratios(duel.ours, theirs, clock))[0]
            for clock in ("cpu", "wall")
        }
        wins, n_tables = summary.wins(duel.ours, theirs), len(ratios)
        required = [
            _required("error", geometric_mean(ratios)[0], duel.most_error),
            _required(f"{duel.clock} time", times[duel.clock], duel.most_time),
        ]
        if duel.fewest_wins is not None:
            is_met = wins >= duel.fewest_wins * n_tables
            required.append(f"better on {duel.fewest_wins:.0%}{'' if is_met else ' (**not met**)'}")
        counted = ratios[summary.test_errors >= FEWEST_ERRORS]
        worst = "" if counted.empty else f"{counted.idxmax()} {counted.max():.3f}"
        rows.append([
            f"{duel.ours} / {theirs}", _with_error(ratios), f"{wins} of {n_tables}",
            f"{times['cpu']:.3g}", f"{times['wall']:.3g}", ", ".join(filter(None, required)), worst,
        ])  # fmt: skip
    head = ("", "error ratio", "better on", "CPU time", "wall time", "required", "worst table")
    return table(head, rows)


def _required(what, measured, most):
    if most is None:
        return ""
    return f"{what} ≤ {most:g}{'' if measured <= most else ' (**not met**)'}"


def means_table(summary, values, form, counts=False):
    """A row a table: means over the splits, the least in bold."""
    rows = []
    for name, row in values.iterrows():
        least = row.min()
        cells = [
            f"**{format(value, form)}**" if value == least else format(value, form) for value in row
        ]
        rows.append([name, *cells, *([f"{summary.test_errors[name]:,}"] if counts else [])])
    head = ["", *summary.models, *(["wrong"] if counts else [])]
    text = table(head, rows)
    if counts:
        text += (
            f"\n\nWrong: {summary.reference}'s wrong predictions in all splits; of a regression, "
            "all test rows."
        )
    return text


def data_table(summary, tables):
    """What the tables are, where they come from and under which licence."""
    sizes = {record["table"]: record for record in summary.records if "failed" not in record}
    rows = []
    for name in summary.errors.index:
        package, size = tables[name].package, sizes[name]
        source = f"{package.name} {package.version}".strip()
        rows.append([name, summary.tasks[name], source, package.licence,
                     f"{size['n_train']:,}", f"{size['n_test']:,}"])  # fmt: skip
    return table(["", "task", "package", "its licence", "rows to train", "rows to test"], rows)


def failures(records):
    """A line a contender and table that failed and has not succeeded since."""
    done = {(each["table"], each["split"], each["model"])
            for each in records if "failed" not in each}  # fmt: skip
    failed = {}
    for each in records:
        key = each["table"], each["split"], each["model"]
        if "failed" in each and key not in done:
            failed.setdefault((each["model"], each["table"]), each["failed"])
    return [f"- {model} failed on {name}: {why}" for (model, name), why in failed.items()]


def as_json(header, summary, missing):
    """All that was measured and what follows from it, a result a line.

    Returns
    -------
    text : str
    """
    ranks, scores = summary.mean_ranks(), summary.normalised_scores()
    contenders = {}
    for model in summary.models:
        mean, error = geometric_mean(summary.error_ratios(model, summary.reference))
        contenders[model] = {
            "error_ratio": mean,
            "standard_error": None if np.isnan(error) else error,
            "mean_rank": float(ranks[model]),
            "normalised_score": float(scores[model]),
            "cpu_seconds": geometric_mean(summary.cpu_seconds[model])[0],
            "wall_seconds": geometric_mean(summary.wall_seconds[model])[0],
        }
    head = header | {
        "reference": summary.reference, "missing": missing, "contenders": contenders,
    }  # fmt: skip
    lines = ",\n".join("  " + json.dumps(record) for record in summary.records)
    return json.dumps(head, indent=1)[:-2] + f',\n "results": [\n{lines}\n ]\n}}\n'
