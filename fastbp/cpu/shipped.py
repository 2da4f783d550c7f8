"""Machine code that comes with the package, loaded without numba or a compiler.

It is expanded into memory and loaded from there: what runs are the bytes whose digest was checked.
"""

import ctypes
import os
import tempfile
from functools import cached_property
from itertools import count

from fastbp.cpu.levels import (
    AMX_FEATURES,
    BFLOAT16_FEATURE,
    LEVELS,
    levels_of_machine,
    with_those_below,
)
from fastbp.cpu.libraries import expand, library_path, lzma, problem_of, read_bytes, split
from fastbp.sealed import DamagedFileError

# Of Linux on x86-64: the call that makes a file in memory, to be closed by exec and to be sealed
# against sealing, shrinking, growing and writing.
_MEMFD_CREATE, _CLOSED_AND_SEALABLE = 319, 1 | 2
_F_ADD_SEALS, _ALL_SEALS = 1033, 1 | 2 | 4 | 8
_loads = count(1)


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
    """Load the libraries of a level and of those that it needs: they are in one file."""
    path = library_path(names[0])
    try:
        content = read_bytes(path)
    except OSError:
        raise _NoLibraryError(f"there is no {path.name}") from None
    try:
        stream, description = split(content)
    except DamagedFileError as error:
        raise NotShippedError(f"{path.name}: {error}") from None
    problem = problem_of(description)
    if problem:
        raise NotShippedError(f"{path.name} {problem}")
    missing = set(names) - {name for name, _ in description["libraries"]}
    if missing:
        raise _NoLibraryError(f"{path.name} has no {', '.join(sorted(missing))}")
    if lzma is None:
        raise NotShippedError(f"{path.name} cannot be expanded, as this Python has no lzma")
    return {
        name: _load(name, library) for name, library in expand(stream, description, names).items()
    }


def _load(name, library):
    """Load a library from a file without a name, which Linux keeps as long as it is in use.

    Where the system has no such file in memory, it is one on disk.
    """
    for make in (_memory_file, tempfile.TemporaryFile):
        try:
            with make() as file:
                file.write(library)
                file.flush()
                if make is _memory_file:
                    _seal(file)
                return ctypes.CDLL(_path_of(file))
        except OSError as error:
            problem = error
    raise NotShippedError(f"{name} cannot be loaded ({problem})")


def _memory_file():
    """A file in memory.

    The system is called by number: Python has a function only if it was built for a new one.
    """
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    descriptor = system_call(_MEMFD_CREATE, b"fastbp", _CLOSED_AND_SEALABLE)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return os.fdopen(descriptor, "wb")


def _seal(file):
    """Let nobody change a file in memory any more."""
    import fcntl  # which Windows lacks

    fcntl.fcntl(file, _F_ADD_SEALS, _ALL_SEALS)


def _path_of(file):
    """A path of an open file that no other had: by its path the loader knows a library again."""
    return f"/proc/self{'/.' * next(_loads)}/fd/{file.fileno()}"
