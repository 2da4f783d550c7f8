"""The picture: quality against time, and table by table; losses are shown like wins.

matplotlib is imported where it is used: the benchmark runs without.
"""

from benchmarks.tabular.sets import MOST_TRAINING_ROWS
from benchmarks.tabular.summary import geometric_mean

COLORS = {
    "fastbp small": "#d1495b",
    "fastbp full": "#8c1c2f",
    "fastbp": "#e8a0a8",
    "pytabkit": "#30638e",
    "LightGBM": "#66a182",
    "HistGradientBoosting": "#7d5ba6",
    "scikit-learn": "#edae49",
    "linear": "#8d96a3",
}
TREES = "LightGBM", "HistGradientBoosting"
STEPS = (1, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 7, 8, 9)  # of ratios' axes
COMPARED = ("fastbp small", "fastbp full", "LightGBM", "HistGradientBoosting", "pytabkit TD-S")


def color_of(model):
    """The colour of the longest name above that the model's begins with."""
    fitting = [name for name in COLORS if model.startswith(name)]
    return COLORS[max(fitting, key=len)] if fitting else "0.5"


def marker_of(model):
    """Trees are squares, linear models diamonds, networks dots."""
    return "s" if model in TREES else "D" if model.startswith("linear") else "o"


def draw(summary, header):
    """Draw both panels.

    Parameters
    ----------
    summary : Summary
    header : dict
        Of the results.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    height = max(4.8, 2 + 0.24 * len(summary.errors))
    figure = Figure(figsize=(11, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    _draw_times(left, summary)
    _draw_tables(right, summary)
    n_tables, most = len(summary.errors), summary.n_splits.max()
    figure.supxlabel(
        f"{n_tables} tables, up to {MOST_TRAINING_ROWS:,} rows to train on, {most} splits; left: "
        f"geometric means and standard errors over the tables\n{header['machine']['cpu']}, "
        f"{header['threads']} thread{'s' if header['threads'] > 1 else ''}, {header['date'][:10]}",
        fontsize=8, color="0.35",
    )  # fmt: skip
    return figure


def _draw_times(axes, summary):
    """Error over the reference's against the seconds of a fit."""
    seconds = {model: geometric_mean(summary.cpu_seconds[model])[0] for model in summary.models}
    for position, model in enumerate(sorted(seconds, key=seconds.get)):
        ratio, error = geometric_mean(summary.error_ratios(model, summary.reference))
        color = color_of(model)
        axes.errorbar(
            seconds[model], ratio, yerr=error, fmt=marker_of(model), markersize=7, capsize=3,
            color=color, elinewidth=1,
        )  # fmt: skip
        axes.annotate(
            model, (seconds[model], ratio), xytext=(7, (5, -13)[position % 2]),
            textcoords="offset points", fontsize=9, color=color,
        )  # fmt: skip
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis, (1, 2, 5))
    _plain_numbers(axes.yaxis, STEPS)
    axes.margins(x=0.25)
    axes.set_xlabel("CPU seconds of a fit")
    axes.set_ylabel(f"error / {summary.reference}'s  (below is better)")
    axes.set_title("Quality against time", fontsize=11)


def _draw_tables(axes, summary):
    """Each table's error over the reference's, of the contenders that matter most."""
    models = [each for each in COMPARED if each in summary.models and each != summary.reference]
    ratios = {model: summary.error_ratios(model, summary.reference) for model in models}
    names = list(summary.errors.index)
    if models:  # by the first one's ratio, the worst on top
        names.sort(key=lambda name: ratios[models[0]][name])
    positions = range(len(names))
    for model in models:
        axes.plot(
            [ratios[model][name] for name in names], positions, marker_of(model), markersize=5,
            alpha=0.85, color=color_of(model), label=model, markeredgewidth=0,
        )  # fmt: skip
    for position in positions:
        axes.axhline(position, color="0.93", linewidth=0.8, zorder=0)
    axes.axvline(1, color="0.4", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis, STEPS)
    axes.set_yticks(positions, names, fontsize=8)
    axes.set_xlabel(f"error / {summary.reference}'s  (left is better)")
    axes.set_title("Table by table", fontsize=11)
    if models:
        axes.legend(fontsize=8, loc="upper right")


def _plain_numbers(axis, steps):
    """A logarithmic axis with numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
