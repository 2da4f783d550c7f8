"""Which program serves a task, and why, in a sentence. Pure Python: imports no CUDA.

The general program takes everything in float32 and float64. The wide one is taken where the user
asks for the precision of tensor cores. (Many small networks in one launch are no task of an
engine: `fastbp.cuda.small`.)
"""

from dataclasses import dataclass
from importlib import import_module

from fastbp.activations import ACTIVATIONS
from fastbp.precisions import LOW_PRECISIONS


@dataclass(frozen=True)
class Gpu:
    """What the choice needs of a GPU: attributes of `fastbp.cuda.device.Device`, or a supposed one.

    The defaults are an H200's.
    """

    name: str = "NVIDIA H200"
    capability: tuple = (9, 0)
    shared_memory: int = 232_448
    n_multiprocessors: int = 132


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
        module, class_name = PROGRAMS[self.name]
        return getattr(import_module(module), class_name)


# Name -> (module, class).
PROGRAMS = {
    "general": ("fastbp.cuda.generic.generic_program", "GenericProgram"),
    "wide": ("fastbp.cuda.wide.wide_program", "WideProgram"),
}
TENSOR_CORES = (8, 0)  # the first GPUs whose tensor cores take tf32 and bfloat16
SMALLEST_TILE = 68_000  # bytes of shared memory


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
        Where the GPU has no tensor cores for the precision, or an activation, the loss, dropout or
        an average of the weights is not for them.
    """
    if task.precision not in LOW_PRECISIONS:
        return Choice("general", f"general {task.precision} kernels, many steps in a graph")
    if gpu.capability < TENSOR_CORES or gpu.shared_memory < SMALLEST_TILE:
        raise ValueError(
            f"precision={task.precision!r} needs an Ampere GPU (compute capability 8.0) or a later "
            f"one, with {SMALLEST_TILE} bytes of shared memory a block. Use precision='float32'."
        )
    if task.dropout is not None or task.averages:
        parameter = "ema_decay" if task.dropout is None else "dropout"
        raise ValueError(
            f"precision={task.precision!r} does not go with {parameter}. Use precision='float32'."
        )
    for name in task.network.activations:
        if ACTIVATIONS[name].needs == "pre_activation":
            raise ValueError(
                f"precision={task.precision!r} does not go with activation={name!r}, whose "
                "derivative needs more than its rounded output. Use precision='float32'."
            )
    network = task.network
    if network.loss_coefficients or network.label_smoothing:
        what = "label_smoothing" if network.label_smoothing else f"loss={network.loss!r}"
        raise ValueError(
            f"precision={task.precision!r} does not go with {what}, which the program for tensor "
            "cores does not compute. Use precision='float32'."
        )
    kind = "bfloat16" if task.precision == "bfloat16" else "float32 rounded to tf32"
    return Choice(
        "wide", f"products on tensor cores in {kind}, float32 master weights, a graph for a step"
    )
