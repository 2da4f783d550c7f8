"""The record of a run on a GPU: everything measured and everything that failed, as JSON."""

import json
import platform
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from fastbp.bench.results import cpu_model, versions_of

PACKAGES = (
    "numpy", "scipy", "scikit-learn", "numba", "llvmlite", "numba-cuda", "cuda-core",
    "cuda-bindings", "nvidia-cuda-nvrtc", "torch", "triton",
    "jax", "jaxlib",
)  # fmt: skip


@dataclass
class Record:
    """One run.

    Parameters
    ----------
    date : str
        When it began, in ISO 8601.
    gpu : dict
        Name, compute capability, memory, multiprocessors, driver.
    cpu, system : str
    versions : dict
        None for what is not installed.
    mnist : str
        Where it came from; empty for made-up images.
    checks, races, accuracy, probes, sizes : list of dict
        What the modules of these names found.
    problems : list of str
        Everything that failed.
    skipped : dict
        Section -> why.
    seconds : dict
        Of the sections and "all".
    """

    date: str = ""
    gpu: dict = field(default_factory=dict)
    cpu: str = ""
    system: str = ""
    versions: dict = field(default_factory=dict)
    mnist: str = ""
    checks: list = field(default_factory=list)
    races: list = field(default_factory=list)
    accuracy: list = field(default_factory=list)
    probes: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    skipped: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)

    @classmethod
    def begin(cls, gpu):
        """An empty record of this machine, now."""
        return cls(
            datetime.now().isoformat(" ", "seconds"), gpu, cpu_model(), platform.platform(),
            versions_of(PACKAGES),
        )  # fmt: skip

    @property
    def stem(self):
        """The name of its files without what follows the dot: GPU and date."""
        name = re.sub(r"[^a-z0-9]+", "-", self.gpu.get("name", "gpu").lower()).strip("-")
        return f"{name}-{self.date[:10]}"

    def write(self, folder):
        """Write the record and its tables; return the paths."""
        from benchmarks.gpu.tables import document

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{self.stem}.json", folder / f"{self.stem}.md"
        paths[0].write_text(json.dumps(asdict(self), indent=1) + "\n")
        paths[1].write_text(document(self))
        return paths

    @classmethod
    def read(cls, path):
        """Read what `write` has written."""
        return cls(**json.loads(Path(path).read_text()))


def describe_gpu():
    """Yield what the GPU is, for a `Worker`: the benchmark's own process makes no context."""
    from fastbp.cuda.device import Device
    from fastbp.cuda.toolkit import look_around

    device, version = Device(), look_around().driver_version
    yield {
        "name": device.name,
        "capability": ".".join(map(str, device.capability)),
        "multiprocessors": device.n_multiprocessors,
        "shared_memory_bytes": device.shared_memory,
        "memory_bytes": device.memory,
        "cuda_driver_version": f"{version // 1000}.{version % 1000 // 10}",
        "kernel_driver": _kernel_driver(),
    }


def _kernel_driver():
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    release = re.search(r"(\d+\.\d+(?:\.\d+)?)\s", text)
    return release[1] if release else None
