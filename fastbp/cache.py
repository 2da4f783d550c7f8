"""The folder where compiled code and other results are cached between processes.

What is found there is executed. Nobody but this user and the administrator may therefore have been
able to put it there: every folder on the way is looked at, as OpenSSH does with its keys.
"""

import contextlib
import errno
import functools
import hashlib
import os
import stat
import tempfile
from collections import deque
from pathlib import Path

from fastbp.warned import warn

# Modules next to this one that kernels are made of, on every device.
FORMULA_MODULES = (
    "activations", "dropout", "embedding", "losses", "optimizers", "parameter_groups", "schedules",
    "switches",
)  # fmt: skip
_VARIABLES = "FASTBP_CACHE_DIR", "NUMBA_CACHE_DIR"  # those that name a folder
_FOLDER_MODE = 0o755  # others may read what an administrator has filled
_MOST_LINKS = 40  # symbolic links that are followed, as in Linux

_refused = {}  # folder -> (the variable that names it, if any, and why it is not used)
_said = set()  # those of `_refused` that a warning has told of


class _RefusedError(Exception):
    """Why a folder cannot be used."""


def digest_of(paths, versions):
    """A fingerprint of kernels: of their source files, the formulas, and their compilers.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Without the formulas' modules.
    versions : str

    Returns
    -------
    digest : str
        16 hexadecimal digits.
    """
    digest, folder = hashlib.sha256(versions.encode()), Path(__file__).parent
    for path in sorted([*paths, *(folder / f"{name}.py" for name in FORMULA_MODULES)]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder(name):
    """The first of `cache_folders`; None where no folder can be used."""
    return next(iter(cache_folders(name)), None)


@functools.cache
def cache_folders(name):
    """Find the folders for cached files, which later processes execute.

    They are taken from FASTBP_CACHE_DIR, NUMBA_CACHE_DIR, the user's cache folder and a private
    folder for temporary files, up to the first that can be written to. One that has files already,
    as in a container image, need not be writable; what it lacks is kept in the next.

    Parameters
    ----------
    name : str
        Name of the folder, which contains a fingerprint of what its files are made from.

    Returns
    -------
    folders : tuple of str
        Real paths, to be read in this order; only the last may be writable.
    """
    found = []
    for variable, root in _candidates():
        try:
            folder, is_writable = _prepare(root, name)
        except _RefusedError as error:
            _refused[root] = variable, str(error)
            continue
        except OSError as error:
            _refused[root] = variable, f"{error.filename or root}: {error.strerror or error}"
            continue
        found.append(folder)
        if is_writable:
            break
    return tuple(found)


def refused_folders():
    """Say of each folder that came before the one in use why it is not used.

    Returns
    -------
    lines : list of str
    """
    return [_line(*item) for item in list(_refused.items())]


def warn_of_refused_folders(name):
    """Warn, once, of a folder that was asked for by name and is not used."""
    folders = cache_folders(name)
    instead = (
        f"{folders[-1]} is used instead."
        if folders
        else "No other folder can be used: every process compiles its kernels anew."
    )
    for root, (variable, reason) in list(_refused.items()):
        if variable and root not in _said:
            _said.add(root)
            warn(f"{_line(root, (variable, reason))}. {instead}")


def _line(root, refusal):
    variable, reason = refusal
    return f"{f'{variable}={root!r}' if variable else root} is not used: {reason}"


def is_trusted(status, is_parent=False):
    """Whether nobody but this user and the administrator could have changed a file or folder.

    Parameters
    ----------
    status : os.stat_result
    is_parent : bool, default=False
        Whether it is a folder of which only one entry matters. Others may make further ones if they
        cannot rename this: the sticky bit, as of /tmp.
    """
    return not _distrust(status, is_parent)


def _candidates():
    """Yield the variable that names a folder, or None, and the folder."""
    for variable in _VARIABLES:
        if os.environ.get(variable):
            yield variable, os.environ[variable]
    user_cache, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")
    if os.path.isabs(user_cache):  # as the standard says; others are to be ignored
        yield None, os.path.join(user_cache, "fastbp")
    elif os.path.isabs(home) and os.path.isdir(home):  # "~" where nobody knows the home
        yield None, os.path.join(home, ".cache", "fastbp")
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    with contextlib.suppress(OSError):
        yield None, os.path.join(tempfile.gettempdir(), f"fastbp-{user}")


def _prepare(root, name):
    """Make the folder `name` in `root`; return its real path and whether it can be written to."""
    expanded = os.path.expanduser(root)
    if expanded.startswith("~"):
        raise _RefusedError("nobody knows the home folder that it begins with")
    path = Path(os.getcwd(), expanded, name)
    if hasattr(os, "geteuid"):
        folder = _follow(path)
    else:
        os.makedirs(path, exist_ok=True)
        folder = str(path)
    with os.scandir(folder) as entries:
        is_filled = any(entries)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if not is_filled:
            why = f"{folder} is empty and cannot be written to ({error.strerror or error})"
            raise _RefusedError(why) from error
        return folder, False
    return folder, True


def _follow(path):
    """Follow a path link by link, and make what is missing.

    Returns
    -------
    folder : str
        The real path.

    Raises
    ------
    _RefusedError
        If somebody else could have changed what is found there.
    OSError
    """
    real, parts, n_links = path.anchor, deque(path.parts[1:]), 0
    _check(real, os.lstat(real), is_parent=True)
    while parts:
        part = parts.popleft()
        if part == "..":
            real = os.path.dirname(real)
            continue
        step = os.path.join(real, part)
        status = _make_if_missing(step)
        if stat.S_ISLNK(status.st_mode):
            n_links += 1
            if n_links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), step)
            if status.st_uid not in _trusted_users(is_parent=True):
                raise _RefusedError(f"{step} is another user's link")
            target = Path(os.readlink(step))
            parts.extendleft(reversed(target.parts[target.is_absolute() :]))
            real = target.anchor or real
            continue
        _check(step, status, is_parent=bool(parts))
        real = step
    return real


def _make_if_missing(folder):
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(folder)
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.mkdir(folder, _FOLDER_MODE)
    return os.lstat(folder)


def _check(folder, status, is_parent):
    if not stat.S_ISDIR(status.st_mode):
        raise _RefusedError(f"{folder} is not a folder")
    problem = _distrust(status, is_parent, folder)
    if problem:
        raise _RefusedError(f"{folder} {problem}")


def _distrust(status, is_parent, path=None):
    """What others may have done to a file or folder; None where they cannot."""
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in _trusted_users(is_parent):
        return f"belongs to another user (number {status.st_uid})"
    mode = status.st_mode
    if is_parent and mode & stat.S_ISVTX:
        return None
    if mode & stat.S_IWOTH:
        return f"can be written to by everybody (mode {stat.S_IMODE(mode):04o})"
    if mode & stat.S_IWGRP and not _is_private_group(status.st_gid, path):
        return f"can be written to by a group (mode {stat.S_IMODE(mode):04o})"
    return None


def _trusted_users(is_parent):
    """The administrator and this user; of parents whoever owns /, in user namespaces nobody."""
    trusted = {0, os.geteuid()}
    return trusted | {os.stat("/").st_uid} if is_parent else trusted


def _is_private_group(group, path):
    """Whether a group is this user's own, without other members, as many systems give to each."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    if user.pw_gid != group or found.gr_name != user.pw_name or {*found.gr_mem} - {user.pw_name}:
        return False
    # With access control lists the group's bits are those of all that are listed.
    try:
        return path is not None and not os.getxattr(path, "system.posix_acl_access")
    except (OSError, AttributeError):  # there is no list, or no system with lists
        return True
