"""The folder where compiled code and other results are cached between processes."""

import functools
import hashlib
import os
import stat
import tempfile
from pathlib import Path

# Modules next to this one that kernels are made of, on every device.
FORMULA_MODULES = "activations", "losses", "optimizers", "schedules", "switches"


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


@functools.cache
def cache_folder(name):
    """Find a folder for cached files, which later processes execute.

    It is in the first usable of FASTBP_CACHE_DIR, NUMBA_CACHE_DIR, the user's cache folder and a
    private folder for temporary files. A folder that already has files, as in a container image,
    need not be writable.

    Parameters
    ----------
    name : str
        Name of the folder, which contains a fingerprint of what its files are made from.

    Returns
    -------
    folder : str or None
        None where no folder can be used.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    user = getattr(os, "getuid", lambda: "user")()
    for root in (
        os.environ.get("FASTBP_CACHE_DIR"),
        os.environ.get("NUMBA_CACHE_DIR"),
        os.path.join(user_cache, "fastbp"),
        os.path.join(tempfile.gettempdir(), f"fastbp-{user}"),
    ):
        if not root:
            continue
        root = os.path.abspath(os.path.expanduser(root))
        folder = os.path.join(root, name)
        try:
            os.makedirs(root, exist_ok=True)
            if not os.path.isdir(folder):
                os.mkdir(folder, mode=0o700)
            if not (_is_ours(root) and _is_ours(folder)):
                continue
            if not os.listdir(folder):
                tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _is_ours(folder):
    """Whether nobody but this user and the administrator can put files there: they are executed."""
    if not hasattr(os, "getuid"):
        return True
    status = os.lstat(folder)
    guarded = not status.st_mode & stat.S_IWOTH or status.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.getuid()) and bool(guarded)
