"""The record of a run: everything measured, with machine, versions and date, as JSON."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np

import fastbp
from fastbp.bench.calls import Timed
from fastbp.bench.cases import Case, Heat
from fastbp.bench.ceiling import Ceiling
from fastbp.bench.contenders import CONTENDERS
from fastbp.bench.race import Entry

FILE_NAME = "bench.json"
PACKAGES = ("numpy", "numba", "llvmlite", "scikit-learn", "torch", "jax", "jaxlib", "matplotlib")
GPU_PACKAGES = ("numba-cuda", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "triton")


@dataclass
class Race:
    """A heat, how its contenders did, and what the machine could do just before and after."""

    heat: Heat
    entries: list
    ceiling: Ceiling

    @property
    def ours(self):
        """fastbp's entry; where it trains on both devices, the CPU's."""
        return next(entry for entry in self.entries if CONTENDERS[entry.contender].is_ours)

    @property
    def peers(self):
        """The entries of peers that were timed and proved to compute the same."""
        return [
            entry
            for entry in self.entries
            if not CONTENDERS[entry.contender].is_ours and entry.seconds and not entry.remark
        ]

    @property
    def fastest_peer(self):
        """The peer of the smallest median; None where there is none."""
        return min(self.peers, key=lambda entry: entry.median, default=None)

    @property
    def ratio(self):
        """The fastest peer's time over fastbp's; NaN where either has none."""
        if not self.peers or self.ours.remark:
            return float("nan")
        return self.fastest_peer.median / self.ours.median

    def on(self, device):
        """The same race with the contenders on one device only."""
        entries = [e for e in self.entries if CONTENDERS[e.contender].device == device]
        return Race(self.heat, entries, self.ceiling)

    @property
    def speedup(self):
        """How much faster fastbp's engine is on the GPU; NaN where either has no valid time."""
        cpu, gpu = self.on("cpu").ours, self.on("cuda").ours
        return float("nan") if cpu.remark or gpu.remark else cpu.median / gpu.median


@dataclass
class Results:
    """One run of the benchmark.

    Parameters
    ----------
    date : str
        When it began, in ISO 8601.
    quick : bool
    machine, versions : dict
        The machine's "gpu" only where a GPU takes part.
    missing : dict
        Contender -> why it could not take part.
    races : list of Race
    starts : dict
        Of `cold_starts`.
    mnist_command, bench_mnist, sizes : dict
        Of the functions of these names in `processes`.
    calls : list of fastbp.bench.calls.Timed
    problems : list of str
        Measurements that failed, and why.
    seconds : float
        The whole run's.
    """

    date: str = ""
    quick: bool = False
    machine: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    missing: dict = field(default_factory=dict)
    races: list = field(default_factory=list)
    starts: dict = field(default_factory=dict)
    mnist_command: dict = field(default_factory=dict)
    bench_mnist: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def begin(cls, n_threads, quick, device="cpu"):
        """An empty record of this machine, now."""
        now = datetime.now().isoformat(" ", "seconds")
        return cls(now, quick, machine(n_threads, device), versions(device))

    def series(self, *names):
        """The races of some series, in their order."""
        return [race for race in self.races if race.heat.series in names]

    def ceilings(self):
        """The highest ceilings seen, one for each number of threads."""
        highest = {}
        for ceiling in (race.ceiling for race in self.races):
            before = highest.get(ceiling.n_threads, ceiling)
            highest[ceiling.n_threads] = ceiling.better_of(before)
        return [highest[n_threads] for n_threads in sorted(highest)]

    def write(self, path):
        """Write the record as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path):
        """Read what `write` has written."""
        fields = json.loads(Path(path).read_text())
        fields["races"] = [_race(**race) for race in fields["races"]]
        fields["calls"] = [Timed(**call) for call in fields.get("calls", ())]
        return cls(**fields)


def _race(heat, entries, ceiling):
    case = heat["case"] | {"layer_sizes": tuple(heat["case"]["layer_sizes"])}
    return Race(
        Heat(**heat | {"case": Case(**case)}),
        [Entry(**entry) for entry in entries],
        Ceiling(**ceiling),
    )


def machine(n_threads, device="cpu"):
    """CPU, cores and load of this machine, and its GPU."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    found = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": n_threads,
        "load_average_before": round(load, 2),
        "system": platform.platform(),
    }
    if device != "cpu":
        from fastbp.info import describe_gpu

        found["gpu"] = describe_gpu()
    return found


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


def versions(device="cpu"):
    """The versions of what takes part, NumPy's BLAS included; None for what is not installed."""
    found = {"python": platform.python_version(), "fastbp": fastbp.__version__}
    for package in (*PACKAGES, *(GPU_PACKAGES if device != "cpu" else ())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    found["NumPy's BLAS"] = " ".join(filter(None, [blas.get("name"), blas.get("version")])) or None
    return found
