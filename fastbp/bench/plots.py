"""Pictures of a run: ratios to the peers, how cost grows, and the roofline.

matplotlib is imported where it is used: the benchmark runs without.
"""

import numpy as np

from fastbp.bench.cases import SWEEPS
from fastbp.bench.processes import medians_of

COLORS = {
    "fastbp": "#d1495b",
    "NumPy": "#8d96a3",
    "scikit-learn": "#edae49",
    "PyTorch": "#30638e",
    "torch.compile": "#66a182",
    "JAX": "#7d5ba6",
}
# On a GPU the line is dashed.
GPU_COLORS = {
    "fastbp on GPU": COLORS["fastbp"],
    "PyTorch on GPU": COLORS["PyTorch"],
    "PyTorch, CUDA graphs": "#00798c",
    "torch.compile, CUDA graphs": COLORS["torch.compile"],
    "JAX on GPU": COLORS["JAX"],
}


def draw_all(results, folder):
    """Draw every picture that the results have numbers for.

    Parameters
    ----------
    results : Results
    folder : Path

    Returns
    -------
    names : list of str
        The files written.
    """
    pictures = {
        "ratios.png": draw_ratios,
        "sweeps.png": draw_sweeps,
        "roofline.png": draw_roofline,
        "cold.png": draw_cold,
        "devices.png": draw_devices,
    }
    names = []
    for name, draw in pictures.items():
        figure = draw(results)
        if figure is not None:
            figure.savefig(folder / name, dpi=120)
            names.append(name)
    return names


def _figure(*size):
    """A figure that no display and no global state know."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _plain_numbers(*axes):
    """Let logarithmic axes count 1, 2, 5, 10, and show 10 as 10 and not as 10¹."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _caption(figure, results, text):
    machine = results.machine
    line = f"{text}\n{machine['cpu']}, {machine['threads']} threads, {results.date[:10]}"
    figure.supxlabel(line, fontsize=8, color="0.35")


def draw_ratios(results):
    """Bars: each peer's time over fastbp's, network by network."""
    races = [race.on("cpu") for race in results.series("table", "unlisted")]
    races = [race for race in races if race.peers and not race.ours.remark]
    if not races:
        return None
    names = [name for name in COLORS if any(name == e.contender for r in races for e in r.peers)]
    height = 0.8 / len(names)
    figure = _figure(8, 1.2 + 0.16 * (len(names) + 1) * len(races))
    axes = figure.subplots()
    for at, name in enumerate(names):
        found = [
            (row, entry.median / race.ours.median)
            for row, race in enumerate(races)
            for entry in race.peers
            if entry.contender == name
        ]
        rows, ratios = map(np.array, zip(*found, strict=True))
        bars = axes.barh(
            rows - 0.4 + (at + 0.5) * height, ratios, height, label=name, color=COLORS[name]
        )
        axes.bar_label(bars, [f"{ratio:.2g}" for ratio in ratios], fontsize=7, padding=2)
    axes.axvline(1, color=COLORS["fastbp"], label="fastbp")
    axes.set(xscale="log", xlabel="time an epoch over fastbp's (more than 1: fastbp is faster)")
    axes.set_yticks(range(len(races)), [race.heat.case.name for race in races], fontsize=8)
    _plain_numbers(axes.xaxis)
    axes.margins(x=0.1, y=0.02)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    _caption(figure, results, "Medians of whole epochs, equal training loss, compilation apart.")
    return figure


def draw_sweeps(results):
    """Curves: the time a sample over what each sweep varies, and throughput over threads."""
    present = [name for name in (*SWEEPS, "threads") if len(results.series(name)) > 1]
    if not present:
        return None
    n_rows = -(-len(present) // 2)
    figure = _figure(10, 3.4 * n_rows)
    axes_of = list(np.ravel(figure.subplots(n_rows, 2)))
    for axes, name in zip(axes_of, present, strict=False):
        (_draw_threads if name == "threads" else _draw_sweep)(axes, results, name)
    for axes in axes_of[len(present) :]:
        axes.set_axis_off()
    figure.legend(*_contenders_in(axes_of), loc="outside upper center", ncols=6, frameon=False)
    _caption(figure, results, "Medians; contenders of another training loss are left out.")
    return figure


def _contenders_in(axes_of):
    """Handles and labels of the contenders in all axes, each once."""
    found = {}
    for axes in axes_of:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = [name for name in (*COLORS, *GPU_COLORS) if name in found]
    return [found[name] for name in names], names


def _draw_sweep(axes, results, series):
    races = results.series(series)
    for name, color in COLORS.items():
        points = [
            (race.heat.value, 1e6 * entry.median / race.heat.case.n_rows)
            for race in races
            for entry in race.entries
            if entry.contender == name and entry.seconds and not entry.remark
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", ms=4, color=color, label=name)
    axes.set(xscale="log", yscale="log", xlabel=SWEEPS[series][0], ylabel="µs a sample")
    _plain_numbers(axes.xaxis, axes.yaxis)
    axes.set_xticks([race.heat.value for race in races])
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(alpha=0.3)


def _draw_threads(axes, results, series):
    """Throughput on some threads over that on one, fastbp's networks and the ideal."""
    shapes = {}
    for race in results.series(series):
        if race.ours.seconds:
            shapes.setdefault(race.heat.case.shape, []).append(race)
    styles = ("o-", "s--", "^:", "d-.")
    for (shape, races), style in zip(shapes.items(), styles, strict=False):
        counts = [race.heat.n_threads for race in races]
        gains = [races[0].ours.median / race.ours.median for race in races]
        axes.plot(counts, gains, style, ms=4, color=COLORS["fastbp"], label=shape)
    most = max(race.heat.n_threads for races in shapes.values() for race in races)
    axes.plot([1, most], [1, most], color="0.7", lw=1)
    axes.set(xlabel="threads", ylabel="throughput over one thread's", ylim=(0, None))
    axes.legend(fontsize=8, loc="lower right")
    axes.set_xticks(sorted({race.heat.n_threads for races in shapes.values() for race in races}))
    axes.grid(alpha=0.3)


def draw_roofline(results):
    """Points: operations a second over operations a byte, under the machine's two ceilings."""
    n_threads = results.machine["threads"]
    ceiling = next((c for c in results.ceilings() if c.n_threads == n_threads), None)
    races = [race.on("cpu") for race in results.series("table", "unlisted")]
    races = [r for r in races if r.ours.seconds and r.heat.case.dtype == "float32"]
    if ceiling is None or not races:
        return None
    figure = _figure(9, 5)
    axes = figure.subplots()
    intensities = [race.heat.case.operations / race.heat.case.touched_bytes for race in races]
    edge = np.array([min(intensities) / 2, max(*intensities, ceiling.float32 / ceiling.bandwidth)])
    edge[1] *= 3
    grid = np.geomspace(*edge, 200)
    roof = np.minimum(ceiling.float32, grid * ceiling.bandwidth) / 1e9
    axes.plot(grid, roof, color="0.2")
    for number, (race, intensity) in enumerate(zip(races, intensities, strict=True), 1):
        operations = race.heat.case.operations / 1e9
        for entry in (race.fastest_peer, race.ours):
            if entry is None:
                continue
            ours = entry.contender == "fastbp"
            axes.plot(
                intensity, operations / entry.median, "o" if ours else "x", ms=7 if ours else 5,
                color=COLORS[entry.contender], ls="none",
                label=entry.contender,
            )  # fmt: skip
        axes.annotate(
            str(number), (intensity, operations / race.ours.median), xytext=(6, 3), fontsize=8,
            textcoords="offset points",
        )  # fmt: skip
    handles, names = _contenders_in([axes])
    handles += [axes.plot([], [], " ")[0] for _ in races]
    names += [f"{number} {race.heat.case.name}" for number, race in enumerate(races, 1)]
    figure.legend(handles, names, loc="outside right center", fontsize=7, frameon=False)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s", xlim=edge,
             xlabel="operations a byte touched (rows once; weights and moments read and written "
             "every step)")  # fmt: skip
    _plain_numbers(axes.xaxis, axes.yaxis)
    axes.grid(alpha=0.3)
    axes.set_title("fastbp, the fastest peer, and the machine's ceiling in float32", fontsize=10)
    _caption(figure, results, "Above the roof: weights that stay in the caches.")
    return figure


def draw_cold(results):
    """Bars: import, first epoch, 97 % and 98 % of the test set, from the process's start."""
    medians = {name: found for name, found in medians_of(results.starts).items() if "98 %" in found}
    if not medians:
        return None
    figure = _figure(8, 1.6 + 0.5 * len(medians))
    axes = figure.subplots()
    stages = ("imported", "first epoch", "97 %", "98 %")
    shades = (0.35, 0.55, 0.75, 1.0)
    for row, (name, found) in enumerate(medians.items()):
        color, before = (COLORS | GPU_COLORS)[name.split(",")[0]], 0.0
        for stage, shade in zip(stages, shades, strict=True):
            axes.barh(row, found[stage] - before, left=before, color=color, alpha=shade)
            before = found[stage]
        axes.text(before, row, f" {before:.1f} s", va="center", fontsize=9)
    axes.set_yticks(range(len(medians)), list(medians))
    axes.set(xlabel="seconds from the start of the process")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    text = "From pale to full: imported, first epoch, 97 % and 98 % of MNIST's test set."
    _caption(figure, results, text)
    return figure


def draw_devices(results):
    """Curves: rows a second over the width, on the CPU and dashed on the GPU, by batch size."""
    by_batch = {}
    for race in results.series("sizes"):
        by_batch.setdefault(race.heat.case.batch_size, []).append(race)
    if not by_batch:
        return None
    figure = _figure(5 * len(by_batch), 4.2)
    axes_of = np.ravel(figure.subplots(1, len(by_batch), sharey=True))
    for axes, (batch_size, races) in zip(axes_of, by_batch.items(), strict=True):
        for name, color in (COLORS | GPU_COLORS).items():
            points = [
                (race.heat.value, race.heat.case.n_samples / entry.median)
                for race in races
                for entry in race.entries
                if entry.contender == name and entry.seconds and not entry.remark
            ]
            if points:
                style, width = ("o--" if name in GPU_COLORS else "o-"), 1 + ("fastbp" in name)
                axes.plot(*zip(*points, strict=True), style, ms=4, lw=width, color=color,
                          label=name)  # fmt: skip
        axes.set(xscale="log", yscale="log", ylabel="rows a second", title=f"batch {batch_size}",
                 xlabel="units of both hidden layers")  # fmt: skip
        _plain_numbers(axes.xaxis)
        axes.set_xticks([race.heat.value for race in races])
        axes.grid(alpha=0.3)
    figure.legend(*_contenders_in(axes_of), loc="outside upper center", ncols=4, frameon=False)
    _caption(figure, results, f"Medians, equal training loss. {results.machine.get('gpu', '')}")
    return figure
