"""The types that the hints of public functions name.

Programs do not import it: hints are read by people, type checkers and editors. Where a parameter
takes the names of records (activations, losses, solvers, schedules), its hint is str: a new record
needs no new hint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[Any]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
Path: TypeAlias = str | os.PathLike[str]
LayerSizes: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]
RandomSource: TypeAlias = int | np.random.RandomState | None
ClassWeight: TypeAlias = dict[Any, float] | str | list[dict[int, float] | str] | None
Schedule: TypeAlias = str | Callable[[NDArray[np.float64]], ArrayLike]
Scorer: TypeAlias = str | Callable[..., float]
Scoring: TypeAlias = Scorer | Sequence[Scorer] | Mapping[str, Scorer] | None


class SparseMatrix(Protocol):
    """What SciPy's sparse matrices and arrays have in common."""

    @property
    def format(self) -> str: ...

    @property
    def nnz(self) -> int: ...


ArrayLikeOrSparse: TypeAlias = ArrayLike | SparseMatrix
