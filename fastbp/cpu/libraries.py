"""Libraries of machine code that come with the package: their files, and what they are made from.

A file is the shared libraries of one level of CPU and of those that take their other kernels from
it, compressed as one, followed by a description, the length of the description, and the SHA-256
digest of all that. The digest is checked before anything is expanded, let alone run; the
description says which levels these are, and of which sources this is the machine code.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

try:
    import lzma
except ImportError:  # Python can be built without
    lzma = None

from fastbp import __version__, cache
from fastbp.cpu.levels import with_those_below
from fastbp.sealed import DIGEST_SIZE, DamagedFileError, digest

FOLDER = Path(__file__).parent / "libraries"
SUFFIX = ".kernels"  # not .so: tools that strip or patch libraries would damage it
_LABEL = "fastbp kernels"
_LENGTH = struct.Struct("<Q")
_PACKAGE = Path(__file__).parents[1]
_LARGEST = 1 << 21  # of the libraries of a file together: memory that expanding takes


def library_path(level):
    """Path of the file that has the library for a level of CPU, and those that it needs."""
    return FOLDER / f"{with_those_below(level)[-1]}{SUFFIX}"


def read_bytes(path):
    """Read a file of the package, which may lie in an archive.

    Raises
    ------
    OSError
        If there is no such file.
    """
    loader = getattr(__spec__, "loader", None)
    if hasattr(loader, "get_data"):
        return loader.get_data(os.fspath(path))
    return Path(path).read_bytes()


def source_names():
    """The sources of the machine code, relative to the package; none where they are not on disk.

    Returns
    -------
    names : list of str
    """
    found = [*_PACKAGE.glob("cpu/kernels/*.py"), *_PACKAGE.glob("cpu/levels.py")]
    found += _PACKAGE.glob("cpu/records.py")
    found += (_PACKAGE / f"{name}.py" for name in cache.FORMULA_MODULES)
    return sorted(path.relative_to(_PACKAGE).as_posix() for path in found)


def fingerprint_of(names):
    """A fingerprint of sources.

    Parameters
    ----------
    names : list of str

    Returns
    -------
    fingerprint : str or None
        64 hexadecimal digits; None where there are no sources at all.

    Raises
    ------
    OSError
        If only some of them are missing.
    """
    found, missing, total = 0, None, hashlib.sha256()
    for name in names:
        try:
            content = read_bytes(_PACKAGE / name)
        except OSError as error:
            missing = error
            continue
        found += 1
        total.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    if found and missing:
        raise missing
    return total.hexdigest() if found else None


def describe_sources(**more):
    """The description of libraries that are made now.

    Returns
    -------
    description : dict
    """
    names = source_names()
    return {
        "version": __version__,
        "sources": names,
        "fingerprint": fingerprint_of(names),
        **more,
    }


def join(libraries, description):
    """The content of a file.

    Parameters
    ----------
    libraries : dict of bytes
        By the names of their levels; each may need those before it.
    description : dict

    Returns
    -------
    content : bytes
    """
    how = {
        "id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": _LARGEST,
        "lc": 4, "lp": 0, "pb": 0,  # instructions of x86 start anywhere
    }  # fmt: skip
    stream = lzma.compress(b"".join(libraries.values()), check=lzma.CHECK_NONE, filters=[how])
    sizes = [[name, len(library)] for name, library in libraries.items()]
    text = json.dumps(description | {"libraries": sizes}, sort_keys=True).encode()
    content = stream + text + _LENGTH.pack(len(text))
    return content + digest(content, _LABEL)


def split(content):
    """The compressed libraries and their description, from the content of a file.

    Raises
    ------
    DamagedFileError
        If a bit differs from what was joined.
    """
    content, found = memoryview(content)[:-DIGEST_SIZE], content[-DIGEST_SIZE:]
    if len(content) < _LENGTH.size or digest(content, _LABEL) != found:
        raise DamagedFileError("the file is damaged")
    end = len(content) - _LENGTH.size
    (length,) = _LENGTH.unpack(content[end:])
    return content[: end - length], json.loads(bytes(content[end - length : end]))


def expand(stream, description, names):
    """Some of the shared libraries of a file. What comes after the last of them is not expanded.

    Parameters
    ----------
    stream : bytes-like
    description : dict
    names : list of str
        Of their levels.

    Returns
    -------
    libraries : dict of memoryview
    """
    places, end = {}, 0
    for name, size in description["libraries"]:
        places[name] = slice(end, end + size)
        end += size
    needed = max(places[name].stop for name in names)
    content = memoryview(lzma.LZMADecompressor().decompress(stream, needed))
    return {name: content[places[name]] for name in names}


def problem_of(description):
    """Why libraries are not the machine code of this package; None where they are.

    Parameters
    ----------
    description : dict

    Returns
    -------
    problem : str or None
    """
    found = {name: description.get(name) for name in ("version", "sources")}
    if found["version"] != __version__:
        return f"is of version {found['version']}, not {__version__}"
    if not found["sources"]:
        return "is of unknown sources"
    try:
        fingerprint = fingerprint_of(found["sources"])
    except OSError:
        return "is of other sources"
    if fingerprint is None:  # without sources, as in a tree of bytecode, nobody has edited them
        return None
    # A file that was added is imported by one that was edited.
    return None if fingerprint == description.get("fingerprint") else "is of other sources"
