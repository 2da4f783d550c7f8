"""What a program is made for. Imports no CUDA."""

from dataclasses import dataclass

import numpy as np

from fastbp.dropout import Dropout
from fastbp.network import Network
from fastbp.optimizers import UpdateRule


@dataclass(frozen=True)
class Task:
    """What a program is made for; it never changes in a program's life.

    Parameters
    ----------
    network : Network
    dtype : numpy dtype, float32 or float64
        Of the parameters and moments as the host sees them, and of master weights.
    precision : {"float32", "float64", "tf32", "bfloat16"}
        Of the products; the first two name `dtype`.
    batch_size : int
        Rows a step at most, never more than an epoch has.
    rule : UpdateRule
        With SUM_GRADIENTS (the general program only) nothing is updated, and the gradients of all
        steps add up in the first moment.
    dropout : Dropout or None, default=None
    averages : bool, default=False
        Whether there is an average of the parameters, the last of the moments.
    stands_for : Task or None, default=None
        In a trial, the larger task whose kernels are tried.
    """

    network: Network
    dtype: np.dtype
    precision: str
    batch_size: int
    rule: UpdateRule
    dropout: Dropout | None = None
    averages: bool = False
    stands_for: "Task | None" = None
