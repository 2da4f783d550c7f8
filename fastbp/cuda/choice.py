"""Which program serves a task, and why, in a sentence. Pure Python: imports no CUDA.

Each regime has one rule: a function of the task and the GPU that returns whether the program takes
the task, and a sentence that says why or why not. `PROGRAMS` asks them in the order of preference;
the last one takes everything in float32 and float64. The wide program's large products have a
choice of their own, `choose_products`.
"""

import os
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise

from fastbp.cuda.clusters.layout import takes_clusters
from fastbp.cuda.steps.pass_layout import pass_layout_for
from fastbp.cuda.task import GRADIENT
from fastbp.cuda.toolkit import DeviceError
from fastbp.cuda.wide import library


@dataclass(frozen=True)
class Gpu:
    """What the rules know of a GPU: attributes of `fastbp.cuda.device.Device`, or a supposed one.

    The defaults are an H200's, with the packages that are installed here.
    """

    name: str = "NVIDIA H200"
    capability: tuple = (9, 0)
    n_multiprocessors: int = 132
    shared_memory: int = 232_448
    memory: int = 150_000_000_000
    largest_cluster: int = 16
    cublaslt_problem: str | None = field(default_factory=library.missing_package)


@dataclass(frozen=True)
class Choice:
    """A program and why it was chosen.

    Parameters
    ----------
    name : str
        A key of `PROGRAMS`.
    reason : str
    """

    name: str
    reason: str

    def load(self):
        """Import the program's class; this imports CUDA."""
        module, class_name, _ = PROGRAMS[self.name]
        return getattr(import_module(module), class_name)


HEAD_OUTPUTS = 16  # so few output units take one kernel from their inputs to δ


def takes_steps(task, gpu):
    """Generic kernels: everything in float32 and float64."""
    if task.precision not in ("float32", "float64"):
        return False, "generic kernels compute in float32 and float64 only"
    if pass_layout_for(task, gpu) is not None:
        return True, (
            "2 generic float32 kernels a step, one that takes clusters of 8 blocks through all "
            "layers and back and one that updates them, many steps in a graph"
        )
    n_hidden = len(task.network.hidden_activations)
    has_head = task.network.layer_sizes[-1] <= HEAD_OUTPUTS
    forward_and_back = n_hidden + max(0, n_hidden - has_head)
    n_kernels = forward_and_back + (1 if has_head else 2) + 1
    return True, f"{n_kernels} generic {task.precision} kernels a step, many steps in a graph"


# Who computes the wide program's products: name -> (module, class).
PRODUCTS = {
    "cublaslt": ("fastbp.cuda.wide.cublaslt", "CublasLtProducts"),
    "own": ("fastbp.cuda.wide.own", "OwnProducts"),
}
PRODUCTS_VARIABLE = "FASTBP_CUDA_PRODUCTS"


def choose_products(gpu):
    """Choose who computes the wide program's products: cuBLASLt where it can be used.

    The environment variable FASTBP_CUDA_PRODUCTS, "own" or "cublaslt", asks for one of them.

    Parameters
    ----------
    gpu : Gpu or fastbp.cuda.device.Device

    Returns
    -------
    name : str
        A key of `PRODUCTS`.
    reason : str

    Raises
    ------
    ValueError
        Where the variable is something else.
    DeviceError
        Where it asks for cuBLASLt, and that cannot be used.
    """
    asked = os.environ.get(PRODUCTS_VARIABLE)
    if asked not in (None, *PRODUCTS):
        raise ValueError(f"{PRODUCTS_VARIABLE} must be 'own' or 'cublaslt', got {asked!r}")
    if asked == "own":
        return "own", f"by fastbp's own kernels ({PRODUCTS_VARIABLE}=own)"
    if gpu.cublaslt_problem is None:
        return "cublaslt", "by cuBLASLt, through nvmath-python"
    if asked == "cublaslt":
        raise DeviceError(
            f"{PRODUCTS_VARIABLE}=cublaslt, but cuBLASLt cannot be used: {gpu.cublaslt_problem}"
        )
    return "own", f"by fastbp's own kernels (not cuBLASLt: {gpu.cublaslt_problem})"


TENSOR_CORES = (8, 0)  # the first GPUs whose tensor cores take tf32 and bfloat16
SMALLEST_TILE = 68_000  # bytes of shared memory
# Multiplications in the largest product of a step of float32 from which cuBLASLt is taken: the
# steps program needs fewer launches. A guess, until it is measured.
LARGE_PRODUCT = 2**28


def takes_wide(task, gpu):
    """Large products: everything in tf32 and bfloat16, and by cuBLASLt large nets in float32."""
    if task.precision not in ("tf32", "bfloat16"):
        return _takes_wide_float32(task, gpu)
    if gpu.capability < TENSOR_CORES:
        return (
            False,
            f"{task.precision} needs an Ampere GPU (compute capability 8.0) or a later one",
        )
    if gpu.shared_memory < SMALLEST_TILE:
        return False, f"a block needs {SMALLEST_TILE} bytes of shared memory"
    _, by_whom = choose_products(gpu)
    kind = "bfloat16" if task.precision == "bfloat16" else "float32 rounded to tf32"
    return True, (
        f"products on tensor cores in {kind} {by_whom}, float32 master weights, a graph for a step"
    )


def _takes_wide_float32(task, gpu):
    if task.precision != "float32" or task.rule == GRADIENT:
        return False, "large products are made to train in float32, tf32 or bfloat16 only"
    largest = max(task.batch_size * m * n for m, n in pairwise(task.network.layer_sizes))
    if largest < LARGE_PRODUCT:
        return False, "no product is large enough for cuBLASLt"
    name, by_whom = choose_products(gpu)
    if name != "cublaslt":
        return False, f"float32 products {by_whom}"
    return True, f"float32 products {by_whom}, a graph for a step"


# Name -> (module, class, rule), in the order of preference.
PROGRAMS = {
    "clusters": ("fastbp.cuda.clusters.program", "ClustersProgram", takes_clusters),
    "wide": ("fastbp.cuda.wide.program", "WideProgram", takes_wide),
    "steps": ("fastbp.cuda.steps.program", "StepsProgram", takes_steps),
}


def choose(task, gpu):
    """Choose the program for a task.

    Parameters
    ----------
    task : fastbp.cuda.task.Task
    gpu : Gpu or fastbp.cuda.device.Device

    Returns
    -------
    choice : Choice

    Raises
    ------
    ValueError
        Where no program takes it; the message holds every rule's sentence.
    """
    refusals = []
    for name, (_, _, rule) in PROGRAMS.items():
        takes, reason = rule(task, gpu)
        if takes:
            return Choice(name, reason)
        refusals.append(f"{name}: {reason}")
    raise ValueError(
        f"precision={task.precision!r} cannot be used here ({'; '.join(refusals)}). "
        "Use precision='float32'."
    )
