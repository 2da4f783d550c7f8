"""Reading and writing files: none half-written, none endless."""

import contextlib
import errno
import os
import stat
import tempfile


def write_atomically(path, parts):
    """Write a file in one step: a reader finds the old content or the new, whatever happens.

    A link is followed, and the file that it names replaced. The permissions of a file that is
    replaced are kept; a new one gets those that `open` would give.

    Parameters
    ----------
    path : str or path-like
    parts : iterable of bytes-like
        Written one after the other.

    Raises
    ------
    OSError
        The system's. The old file stays, and nothing else.
    """
    target = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    handle, unfinished = tempfile.mkstemp(prefix=f".{name}.", suffix=".unfinished", dir=folder)
    try:
        with open(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, _mode_of(target))
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def _mode_of(path):
    """The permission bits of a file, or those of a new one."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)  # the only way to read it
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder):
    """Make the new name last through a loss of power, where the system can."""
    with contextlib.suppress(OSError):  # not every file system, nor Windows, knows it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_regular(path):
    """Open a file for reading, unless it is a device, a pipe or the like, which may never end.

    Returns
    -------
    file : binary file
    size : int
        In bytes.

    Raises
    ------
    ValueError
        If it is no regular file.
    OSError
        The system's.
    """
    # Without blocking: to open a pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{os.fspath(path)} is no regular file")
        return open(handle, "rb"), status.st_size
    except BaseException:
        os.close(handle)
        raise
