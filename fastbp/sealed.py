"""Files that are written whole or not at all, and read only if not a bit of them has changed.

A file starts with the SHA-256 digest of the rest and of a label, which says what the reader expects
of the file: what was damaged, cut off or mixed up is found before any of it is used. The digest
guards against accidents; against people, the folders in `fastbp.cache` do.
"""

import contextlib
import hashlib
import os
import secrets
import stat
import time

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove a file that another process writes
    fcntl = None

DIGEST_SIZE = hashlib.sha256().digest_size
LARGEST = 1 << 28  # bytes of a file that are read; kernels have less than a million
TEMPORARY = ".tmp"  # how names of files end that are being written
_YOUNG_SECONDS, _OLD_SECONDS = 1, 3600  # never, and always taken for left behind


class DamagedFileError(ValueError):
    """A file is not what was written, or was written for something else."""


def digest(content, label):
    """The digest of bytes and of what they are for.

    Parameters
    ----------
    content : bytes-like
    label : str

    Returns
    -------
    digest : bytes of length DIGEST_SIZE
    """
    found = hashlib.sha256(hashlib.sha256(label.encode()).digest())
    found.update(content)
    return found.digest()


def seal(content, label):
    """Put the digest before bytes."""
    return digest(content, label) + content


def unseal(sealed, label):
    """Take the digest off, after a check.

    Returns
    -------
    content : memoryview

    Raises
    ------
    DamagedFileError
        If a bit differs from what was sealed with the same label.
    """
    content = memoryview(sealed)[DIGEST_SIZE:]
    if digest(content, label) != sealed[:DIGEST_SIZE]:
        raise DamagedFileError("The file is damaged, or was written for something else.")
    return content


def read(path, is_trusted=lambda status: True):
    """Read a file, unless it is a link, no file at all, or was put there by somebody else.

    Parameters
    ----------
    path : str
    is_trusted : callable
        Takes the `os.stat_result` of the opened file.

    Raises
    ------
    OSError
    DamagedFileError
    """
    # Not to follow a link, nor to wait for the other end of a pipe.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | flags)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST or not is_trusted(status):
            raise DamagedFileError(f"{path} is not a file that can be trusted.")
        return file.read()


def write(path, content, mode=0o644):
    """Write a file whole, or leave what was there before, and no temporary file.

    Parameters
    ----------
    path : str
    content : bytes-like
    mode : int, default=0o644
        Permissions, from which the process's umask takes its share.

    Raises
    ------
    OSError
    """
    temporary = f"{path}.{secrets.token_hex(8)}{TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            _lock(descriptor)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_abandoned(folder):
    """Remove the temporary files that processes have left behind that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(TEMPORARY):
                with contextlib.suppress(OSError):
                    if _is_abandoned(entry.path):
                        os.unlink(entry.path)


def _lock(descriptor):
    """Show other processes that this one is alive. Not all file systems can."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(path):
    age = time.time() - os.lstat(path).st_mtime
    if fcntl is None or age > _OLD_SECONDS or 0 <= age < _YOUNG_SECONDS:
        return not 0 <= age < _YOUNG_SECONDS
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
