"""Machine code that comes with the package, loaded without numba or a compiler."""

import ctypes
import os
from contextlib import ExitStack
from functools import cached_property

from fastbp.cpu.levels import (
    AMX_FEATURES,
    BFLOAT16_FEATURE,
    LEVELS,
    levels_of_machine,
    with_those_below,
)
from fastbp.cpu.libraries import library_path, problem_of, read_bytes, split
from fastbp.sealed import DamagedFileError


class NotShippedError(Exception):
    """Why no machine code of the package can be used."""


class _NoLibraryError(NotShippedError):
    """There is no library for a level."""


class Shipped:
    """The kernels of one level, some of which may be those of a level below.

    Parameters
    ----------
    level : fastbp.cpu.levels.Level
    libraries : dict of ctypes.CDLL
        By the names of their levels.
    """

    is_compiled_here = False
    n_compiled = 0
    cache_folder = None

    def __init__(self, level, libraries):
        self._level, self._libraries = level, libraries
        self.vector_bits = level.vector_bits
        self.has_bfloat16 = BFLOAT16_FEATURE in level.features
        self.has_amx = AMX_FEATURES.keys() <= level.features.keys()

    @cached_property
    def description(self):
        """One line for people."""
        return f"shipped with fastbp, for {self._level.name}"

    def warn(self):
        """There is nothing to warn of."""

    def address(self, specialisation):
        """Address of a kernel's C function."""
        library = next(
            library
            for name, library in self._libraries.items()
            if specialisation in LEVELS[name].kernels
        )
        function = getattr(library, specialisation.symbol)
        return ctypes.cast(function, ctypes.c_void_p).value


def load_shipped(levels=None):
    """Load the library for the best level that this machine has and the package brings.

    One that is damaged, stale or cannot be loaded is not replaced by that of a lower level: numba's
    code is faster.

    Parameters
    ----------
    levels : list of str or None, default=None
        The levels to try; None for all that this machine has.

    Returns
    -------
    shipped : Shipped

    Raises
    ------
    NotShippedError
        It says why not.
    """
    has = levels_of_machine()
    problems = []
    for name in has if levels is None else levels:
        if name not in has:
            raise NotShippedError(f"this machine's CPU is not {name}")
        try:
            return Shipped(LEVELS[name], _open_all(with_those_below(name)))
        except _NoLibraryError as error:
            problems.append(str(error))
    raise NotShippedError("; ".join(problems) or "none are shipped for this kind of machine")


def _open_all(names):
    with ExitStack() as descriptors:
        return {name: _open(name, descriptors) for name in names}


def _open(level, descriptors):
    path = library_path(level)
    try:
        content = read_bytes(path)
    except OSError:
        raise _NoLibraryError(f"there is no {path.name}") from None
    try:
        library, description = split(content)
    except DamagedFileError as error:
        raise NotShippedError(f"{path.name}: {error}") from None
    problem = problem_of(description, level)
    if problem:
        raise NotShippedError(f"{path.name} {problem}")
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:  # the folder is in an archive, or nothing there may be executed
        try:
            return _load_from_memory(level, library, descriptors)
        except (OSError, AttributeError):
            raise NotShippedError(f"{path.name} cannot be loaded ({error})") from None


def _load_from_memory(level, library, descriptors):
    """Load a library from memory that looks like a file. Linux keeps it as long as it is in use.

    Its descriptor is closed with the stack of `descriptors`, when all libraries are loaded: two of
    the same path would be taken for one.
    """
    descriptor = os.memfd_create(f"fastbp-{level}", os.MFD_CLOEXEC)
    descriptors.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(library)
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
