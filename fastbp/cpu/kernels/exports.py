"""All kernels that Python calls, with the types of their arguments."""

from numba import types

from fastbp.cpu.kernels.amx_products import multiply_by_amx
from fastbp.cpu.kernels.epochs import train_epochs
from fastbp.cpu.kernels.prediction import predict, predict_few
from fastbp.cpu.kernels.shuffling import shuffle_rows
from fastbp.cpu.kernels.spans import Reference, record_type
from fastbp.cpu.kernels.training import train
from fastbp.cpu.records import KERNELS, RANKED

EXPORTS = {
    kernel.function.__name__: kernel
    for kernel in (train, train_epochs, predict, predict_few, shuffle_rows, multiply_by_amx)
}


def signature_of(specialisation):
    """Numba's types of a kernel's arguments.

    Parameters
    ----------
    specialisation : fastbp.cpu.records.Specialisation

    Returns
    -------
    signature : tuple of numba type
    """
    name, real, is_sparse = specialisation
    records = (Reference(record_type(each, real, is_sparse)) for each in KERNELS[name])
    return (*records, types.int64) if name in RANKED else tuple(records)


def compiled_address(specialisation):
    """Compile a kernel, or load it from the cache; return its C function's address."""
    return EXPORTS[specialisation.name].address(signature_of(specialisation))
