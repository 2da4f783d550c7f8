"""The choice of an engine, CPU or CUDA, by the estimators' `device` and `precision`."""

import functools

from sklearn.utils._param_validation import InvalidParameterError

from fastbp.apart import call_apart
from fastbp.precisions import TF32

DEVICES = "cpu", "cuda", "auto"


def resolve(device):
    """Find out what a `device` means on this machine.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}

    Returns
    -------
    resolved : {"cpu", "cuda"}
    reason : str or None
        Why "auto" means the CPU, and the remedy.

    Raises
    ------
    InvalidParameterError
        A ValueError, for an unknown device.
    fastbp.cuda.toolkit.DeviceError
        A RuntimeError, for "cuda" without a usable GPU; it says what is missing and the remedy.

    Examples
    --------
    >>> resolve("cpu")
    ('cpu', None)
    """
    if device == "cpu":
        return "cpu", None
    if device not in DEVICES:
        raise InvalidParameterError(f"device must be 'cpu', 'cuda' or 'auto', got {device!r}.")
    from fastbp.cuda import toolkit

    if device == "cuda":
        toolkit.require_gpu()
        return "cuda", None
    problem = toolkit.problem()
    return ("cuda", None) if problem is None else ("cpu", problem)


def make_engine(network, dtype, n_threads, device, precision=None):
    """Make the engine of a device, whose kernels are imported only now.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
    n_threads : int or None
        Threads of the CPU.
    device : {"cpu", "cuda", "auto"}
    precision : {"tf32", "bfloat16"} or None, default=None
        Of matrix products; None means `dtype`.

    Raises
    ------
    InvalidParameterError
        A ValueError, for tf32 on the CPU, which does not have it.
    """
    asked = device
    device, reason = resolve(device)
    if device == "cuda" and network.extra_shapes:
        if asked != "auto":
            raise InvalidParameterError(
                "device='cuda' does not compute slopes of activations or embeddings, which this "
                "model has. Use device='cpu'."
            )
        device = "cpu"
    if device == "cuda":
        return cuda_engine()(network, dtype, precision)
    if precision == TF32:
        why = "set device='cuda'" if reason is None else f"no GPU can be used here ({reason})"
        raise InvalidParameterError(
            f"precision={precision!r} is one of a GPU's tensor cores: {why}, or set "
            "precision='float32' or 'bfloat16'."
        )
    return cpu_engine()(network, dtype, n_threads, precision)


@functools.cache
def cpu_engine():
    """The class of the CPU engine, imported with all that a fit needs, even if interrupted."""
    engine, code = call_apart(_import_cpu_engine)
    code.warn()  # here, as a warning names the line that called the estimator
    return engine


@functools.cache
def cuda_engine():
    """The class of the CUDA engine, likewise."""
    return call_apart(_import_cuda_engine)


def _import_cpu_engine():
    """All modules that are imported at the first fit only; numba if kernels are not shipped."""
    import fastbp.cpu.shuffling  # noqa: F401 (for `fastbp.training`)
    from fastbp.cpu.code import CODE
    from fastbp.cpu.engine import Engine

    return Engine, CODE


def _import_cuda_engine():
    import fastbp.cpu.shuffling  # noqa: F401 (for `fastbp.training`)
    from fastbp.cuda.engine import Engine

    return Engine
