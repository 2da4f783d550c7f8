"""The command `fastbp info`: versions, this machine, its GPU, and how it would train a network."""

import platform
from importlib import metadata

import numpy as np

from fastbp import __version__
from fastbp.cache import refused_folders
from fastbp.cuda import toolkit
from fastbp.cuda.choice import Gpu, choose
from fastbp.cuda.task import Task
from fastbp.network import Network
from fastbp.optimizers import Optimizer


def describe(task=None):
    """All rows of `fastbp info`.

    Parameters
    ----------
    task : fastbp.cuda.task.Task or None, default=None
        A network whose way on a GPU is to be explained.

    Returns
    -------
    rows : dict of str
    """
    from fastbp.cpu import code

    found = code.describe()
    lanes = " or ".join(f"{count} {dtype}" for dtype, count in found["lanes"].items())
    rows = {
        "fastbp": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")},
        **{name: describe_version(name) for name in ("numba", "llvmlite")},
        "CPU": found["cpu"],
        "kernels": found["kernels"],
        "vectors": f"{found['vector_bits']} bits ({lanes})",
        "bfloat16": describe_bfloat16(found),
        "threads": found["n_threads"],
        "cache": describe_cache(found["cache_folder"], code.IS_COMPILED_HERE),
        "GPU": describe_gpu(),
    }
    if toolkit.problem() is None:
        from fastbp.cuda import proof
        from fastbp.cuda.device import Device

        rows["GPU programs"] = proof.describe(Device())
    if task is not None:
        rows["network"] = "-".join(map(str, task.network.layer_sizes))
        rows["on a GPU"] = explain(task)
    return rows


def describe_version(package):
    """The version of a package that need not be installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe_bfloat16(found):
    """Say what makes products of bfloat16 on the CPU, and why not what its kernels are made for.

    Parameters
    ----------
    found : dict
        As from `fastbp.cpu.code.describe`.
    """
    if not found["why_no_amx"]:
        return "multiplied by AMX"
    line = "multiplied by AVX512-BF16" if found["has_bfloat16"] else "computed in float32"
    return f"{line}, not by AMX: {found['why_no_amx']}" if found["has_amx"] else line


def describe_cache(folder, is_needed=True):
    """Say where compiled kernels are kept, and why not in a folder that comes before."""
    if not is_needed:
        return "not needed"
    found = folder or "no folder can be used; set FASTBP_CACHE_DIR to one that you can write to"
    return "; ".join([found, *refused_folders()])


def describe_gpu():
    """Say which GPU device="auto" uses here, or why none; with numba-cuda's version."""
    problem = toolkit.problem()
    if problem is not None:
        return f"none, device='auto' is the CPU: {problem}"
    if toolkit.is_simulated():
        return "simulated"
    found = toolkit.look_around()
    (name, capability), driver = found.gpus[0], found.driver_version
    return (
        f"{name} (compute capability {capability[0]}.{capability[1]}), driver for CUDA "
        f"{driver // 1000}.{driver % 1000 // 10}, numba-cuda {found.numba_cuda}"
    )


def make_task(layer_sizes, batch_size, precision, solver):
    """The task that the CUDA engine would be given for a classifier."""
    hidden, n_outputs = layer_sizes[1:-1], layer_sizes[-1]
    network = Network(
        layer_sizes, ("relu",) * len(hidden), "softmax" if n_outputs > 1 else "logistic", "log_loss"
    )
    dtype = np.dtype("float64" if precision == "float64" else "float32")
    return Task(network, dtype, precision, batch_size, Optimizer(solver, 0.0).rule)


def explain(task):
    """Say which program would run a task, and why: on this machine's GPU, or else on an H200."""
    gpu, where = Gpu(), "supposing an H200"
    if toolkit.problem() is None:
        from fastbp.cuda.device import Device

        gpu = Device()
        where = gpu.name
    try:
        choice = choose(task, gpu)
    except ValueError as error:
        return f"{error} ({where})"
    return f"{choice.name}: {choice.reason} ({where})"
