"""Files of users: opened only if they are plain files, and replaced in one step or not at all."""

import errno
import os
import shutil
import stat
from contextlib import contextmanager, suppress

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Opening must neither wait for a writer nor make a terminal ours, whatever takes the file's place.
_READ_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_WRITE_FLAGS = os.O_RDWR | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))
_NEW_FLAGS = _WRITE_FLAGS | os.O_CREAT | os.O_EXCL


def open_regular(path):
    """Open a regular file to read bytes; refuse everything else, which may never end.

    Parameters
    ----------
    path : str or path-like
        A link to a regular file is one.

    Returns
    -------
    file : binary file object
    size : int
        Its bytes, of which no more than these are to be read.

    Raises
    ------
    ValueError
        If it is a FIFO, a socket or a device.
    OSError
        As from `open`: FileNotFoundError, IsADirectoryError, PermissionError …
    """
    _check_regular(path, os.stat(path))  # before opening, which has effects on some devices
    descriptor = os.open(path, _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)
        return open(descriptor, "rb"), status.st_size
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise


def _check_regular(path, status):
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise ValueError(f"{os.fsdecode(path)}: must be a regular file, but is {kind}")


@contextmanager
def replacing(path):
    """Write a file in one step: others see the old file, or none, until the new one is whole.

    It is written beside its place, forced to the disk and renamed. After an exception the old file
    is there unchanged, and nothing else. If the process is killed or the power fails there is the
    old file or the new one; on Linux the unfinished one has no name and vanishes, elsewhere it may
    be left as `.fastbp-….tmp`.

    Where `path` is a symbolic link, the file that it leads to is replaced and the link stays. The
    permissions are those of the file that is replaced, otherwise those that `open` gives.

    Parameters
    ----------
    path : str or path-like
        A regular file, or nothing yet; its folder must be writable.

    Yields
    ------
    file : binary file object

    Raises
    ------
    ValueError
        If there is a FIFO, a socket or a device.
    OSError
        As from `open` and `write`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "greeting")
    >>> with replacing(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_bytes()
    b'hello'
    """
    path = os.fsdecode(path)
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    target = os.path.realpath(path)
    replaced = _status_of(path, target)
    folder = os.path.dirname(target)
    unfinished = os.path.join(folder, f".fastbp-{os.urandom(16).hex()}.tmp")
    mode = 0o666 if replaced is None else 0o600  # until it has the permissions of the other
    try:
        descriptor, has_name = _create(folder, unfinished, mode)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if replaced is not None:
                _set_permissions(descriptor, unfinished, replaced)
            os.fsync(descriptor)
            if not has_name:
                _give_name(descriptor, unfinished)
        os.replace(unfinished, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def _status_of(path, target):
    """What is to be replaced, which must be a regular file that we may write to; or None."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    _check_regular(path, status)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return status


def _create(folder, unfinished, mode):
    """Create the unfinished file, on Linux without a name; return whether it has one."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        with suppress(OSError):  # not on every file system
            return os.open(folder, _WRITE_FLAGS | os.O_TMPFILE, mode), False
    return os.open(unfinished, _NEW_FLAGS, mode), True


def _give_name(descriptor, unfinished):
    """Give a file without a name one."""
    try:
        # With a folder given, a link in /proc is followed; that folder is not used.
        source = f"/proc/self/fd/{descriptor}"
        os.link(source, unfinished, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:  # some sandboxes forbid it
        with (
            open(descriptor, "rb", closefd=False) as source,
            open(os.open(unfinished, _NEW_FLAGS, 0o600), "wb") as copied,
        ):
            source.seek(0)
            shutil.copyfileobj(source, copied, 2**20)
            copied.flush()
            _set_permissions(copied.fileno(), unfinished, os.fstat(descriptor))
            os.fsync(copied.fileno())


def _set_permissions(descriptor, unfinished, replaced):
    """Give the unfinished file the owner, if we may, and the permissions of the replaced one."""
    if not hasattr(os, "fchmod"):
        os.chmod(unfinished, stat.S_IMODE(replaced.st_mode))
        return
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (replaced.st_uid, replaced.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode) & 0o777)


def _sync_folder(folder):
    """Force a rename to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def expand_home(path):
    """Replace a leading `~` by the user's home folder.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    path : str or None
        None where there is no such home: a folder with the name `~` is never meant.
    """
    expanded = os.path.expanduser(os.fsdecode(path))
    return None if expanded.startswith("~") else expanded
