"""Data sets to try the networks on: MNIST and scikit-learn's small digits.

Images are bytes: give the data set's `input_scale` to an estimator instead of dividing them.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastbp import idx
from fastbp.files import expand_home, replacing

if TYPE_CHECKING:
    from sklearn.utils import Bunch

    from fastbp import hints

# The file that each array is kept in, and its number of dimensions.
_MNIST_FILES = {
    "X_train": ("train-images-idx3-ubyte", 3),
    "y_train": ("train-labels-idx1-ubyte", 1),
    "X_test": ("t10k-images-idx3-ubyte", 3),
    "y_test": ("t10k-labels-idx1-ubyte", 1),
}
_IMAGE_SHAPE = (28, 28)
_N_CLASSES = 10
_N_TRAIN, _N_TEST = 60_000, 10_000

_SERVER = "www.openml.org"
_PROBE_URL = f"https://{_SERVER}/api/v1/json/data/554"  # the description of mnist_784
# Seconds without an answer before the download counts as failed. scikit-learn asks twice.
_PROBE_SECONDS = 8
_SOCKET_SECONDS = 4


def load_mnist(
    path: hints.Path | None = None, *, verbose: bool = False, most_images: int = idx.MOST_ITEMS
) -> Bunch:
    """Load the MNIST handwritten digits as bytes.

    They come from the first of these: `path`; the folder that the environment variable
    FASTBP_DATA names; a copy in the user's cache folder (`$XDG_CACHE_HOME` or ~/.cache, then
    fastbp/mnist); openml.org, through `sklearn.datasets.fetch_openml` (15 MB, and about ten
    seconds to parse), and then the copy is made.

    Parameters
    ----------
    path : str or path-like, default=None
        Folder of the four IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte,
        t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each gzip-compressed (.gz) or not. Other
        data of the same format, such as Fashion-MNIST, works, too.
    verbose : bool, default=False
        Say on stderr when a download begins.
    most_images : int, default=1000000
        A file of more is refused. Sizes are checked before anything is read: no file takes more
        memory than this, its header and its own size allow.

    Returns
    -------
    data : sklearn.utils.Bunch
        X_train : ndarray of shape (60000, 784), dtype uint8
            Each row an image of 28 x 28 pixels, 0 to 255.
        y_train : ndarray of shape (60000,), dtype int64
            The digits, 0 to 9.
        X_test, y_test : ndarray of shape (10000, 784) and (10000,)
        input_scale : float
            1/255, which scales the pixels to [0, 1].
        source : str
            Where the data came from.

    Raises
    ------
    FileNotFoundError
        If a folder is named and it, or one of the four files, does not exist.
    NotADirectoryError
        If a file is named instead of a folder.
    ValueError
        If a file is damaged, is not what its name says, or has more than `most_images`.
    ConnectionError
        If there is no copy and the download fails, at most 10 seconds after the server's last
        response.

    Examples
    --------
    >>> data = load_mnist()  # doctest: +SKIP
    >>> data.X_train.shape, data.X_train.dtype  # doctest: +SKIP
    ((60000, 784), dtype('uint8'))
    """
    return _load(*_try_to_read(path, most_images), verbose)


class ReadAhead:
    """MNIST, read in a thread while this one does something else, such as importing.

    Only a copy at hand is read ahead; a download waits for `load`.

    Parameters
    ----------
    path : str or path-like, default=None
        As that of `load_mnist`.
    most_images : int, default=1000000
    """

    def __init__(self, path: hints.Path | None = None, most_images: int = idx.MOST_ITEMS) -> None:
        self._outcomes = []

        def read():
            self._outcomes.append(_try_to_read(path, most_images))

        self._thread = threading.Thread(target=read, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            read()
            self._thread = None

    def load(self, *, verbose: bool = False) -> Bunch:
        """What `load_mnist` returns, or raises."""
        if self._thread is not None:
            self._thread.join()
        return _load(*self._outcomes[0], verbose)


def load_digits() -> Bunch:
    """Load the 8x8 digits bundled with scikit-learn, as bytes, split for training and test.

    The split is always the same, with every digit's share equal in both parts.

    Returns
    -------
    data : sklearn.utils.Bunch
        X_train, X_test : ndarray of shape (1437, 64) and (360, 64), dtype uint8
            Each row an image, 0 to 16.
        y_train, y_test : ndarray of shape (1437,) and (360,), dtype int64
        input_scale : float
            1/16, which scales the pixels to [0, 1].
        source : str

    Examples
    --------
    >>> data = load_digits()
    >>> data.X_train.shape, data.X_train.dtype, data.input_scale
    ((1437, 64), dtype('uint8'), 0.0625)
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.utils import Bunch

    X, y = datasets.load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X.astype(np.uint8), y.astype(np.int64), test_size=360, stratify=y, random_state=0
    )
    return Bunch(
        X_train=X_train,
        y_train=y_train,
        X_test=X_test,
        y_test=y_test,
        input_scale=1 / 16,
        source="scikit-learn's bundled 8x8 digits",
    )


# ---- files ----------------------------------------------------------------------------------


class _NoCopyError(Exception):
    """Why MNIST has to be downloaded."""


def _try_to_read(path, most_images):
    """What `_read_copy` returns, and None; or None, and what it raises.

    Nothing is imported here: another thread may be importing what this would wait for.
    """
    try:
        return _read_copy(path, most_images), None
    except Exception as error:  # raised by `_load`
        return None, error


def _load(data, error, verbose):
    """Make the data set of what `_try_to_read` returns, or download it."""
    from sklearn.utils import Bunch

    if isinstance(error, _NoCopyError):
        return _download_and_keep(error, verbose)
    if error is not None:
        raise error
    return Bunch(**data)


def _read_copy(path, most_images):
    """Read MNIST from the folder that is named, or from the user's cache."""
    if path is not None:
        return _read_folder(Path(path), "path", most_images)
    if os.environ.get("FASTBP_DATA"):
        return _read_folder(Path(os.environ["FASTBP_DATA"]), "FASTBP_DATA", most_images)
    cache = cache_folder()
    if cache is None:
        raise _NoCopyError("nobody knows the user's home folder")
    try:
        return _read_folder(cache, "the user's cache", most_images)
    except (OSError, ValueError) as error:
        raise _NoCopyError(str(error)) from error


def _read_folder(folder, origin, most_images):
    """Read MNIST's four files from a folder; `origin` says in errors who named it."""
    home = expand_home(folder)
    if home is None:
        raise FileNotFoundError(f"{origin}: nobody knows the home folder that {folder} begins with")
    folder = Path(home)
    if not folder.exists():
        raise FileNotFoundError(f"{origin}: there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{origin}: {folder} is not a folder")
    data = {"input_scale": 1 / 255, "source": str(folder)}
    for part in ("train", "test"):
        images_path, images = _read_file(folder, f"X_{part}", most_images)
        labels_path, labels = _read_file(folder, f"y_{part}", most_images)
        if len(images) == 0:
            raise ValueError(f"{images_path}: no images")
        if len(images) != len(labels):
            raise ValueError(
                f"{labels_path}: {len(labels)} labels for the {len(images)} images in "
                f"{images_path.name}"
            )
        if labels.max() >= _N_CLASSES:
            raise ValueError(f"{labels_path}: label {labels.max()}, above {_N_CLASSES - 1}")
        # Labels are widened, so that their differences do not wrap around.
        data[f"X_{part}"] = images.reshape(len(images), -1)
        data[f"y_{part}"] = labels.astype(np.int64)
    return data


def _read_file(folder, key, most_images):
    """Read one of the four files; return its path too."""
    name, n_dimensions = _MNIST_FILES[key]
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            item_shape = _IMAGE_SHAPE if n_dimensions == 3 else None
            return path, idx.read(path, n_dimensions, item_shape, most_images)
    raise FileNotFoundError(f"{folder}: there is no file {name} or {name}.gz")


def _write_folder(data, folder):
    """Write MNIST's four files, each in one step, so that none is ever seen half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, (name, n_dimensions) in _MNIST_FILES.items():
        array = np.ascontiguousarray(data[key], np.uint8)
        shape = (len(array), *_IMAGE_SHAPE)[:n_dimensions]
        header = np.array([idx.MAGIC + n_dimensions, *shape], ">u4")
        with replacing(folder / name) as file:
            file.write(header.tobytes())
            file.write(array.data)


def cache_folder() -> Path | None:
    """Find the folder that the copy of MNIST is kept in.

    Returns
    -------
    folder : Path or None
        None where nobody knows the user's home folder.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(user_cache):  # as the standard says: others are to be ignored
        user_cache = expand_home("~/.cache") or ""
    return Path(user_cache, "fastbp", "mnist") if os.path.isabs(user_cache) else None


# ---- Download -------------------------------------------------------------------------------


def _download_and_keep(no_copy, verbose):
    """Download, and keep a copy in the user's cache where there is one."""
    data, cache = _download_or_explain(no_copy, verbose), cache_folder()
    if cache is not None:
        try:
            _write_folder(data, cache)
        except (OSError, ValueError) as error:
            warnings.warn(f"MNIST could not be kept in {cache}: {error}", stacklevel=4)
    return data


def _download_or_explain(no_copy, verbose):
    """Download; turn every failure into one error that also says why there was no copy."""
    import http.client

    try:
        return _download(verbose)
    except (OSError, ValueError, EOFError, zlib.error, http.client.HTTPException) as error:
        # fetch_openml lets through whatever its sockets, decompressor and parser raise.
        raise ConnectionError(
            f"MNIST could not be downloaded from {_SERVER} ({getattr(error, 'reason', error)}) and "
            f"there is no usable copy ({no_copy}). Name a folder of its four IDX files: path=... "
            "(on the command line --data), or the environment variable FASTBP_DATA."
        ) from error


def _download(verbose):
    """Fetch MNIST from openml.org; fail soon where it cannot be reached."""
    from sklearn.datasets import fetch_openml
    from sklearn.utils import Bunch

    cached = _is_in_scikit_learn_cache()
    if not cached:
        _probe()
    if verbose and not cached:
        print(f"Downloading MNIST from {_SERVER} (15 MB), once ...", file=sys.stderr, flush=True)
    timeout = socket.getdefaulttimeout()
    # The only way to hand fetch_openml a timeout: without one, a stalled server hangs it forever.
    socket.setdefaulttimeout(_SOCKET_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its retries: the outcome is reported here
            # This parser needs no pandas. It gives float64 pixels and digits as strings.
            raw = fetch_openml(
                "mnist_784",
                version=1,
                as_frame=False,
                parser="liac-arff",
                cache=cached,
                n_retries=0,
            )
    finally:
        socket.setdefaulttimeout(timeout)
    X, y = raw.data.astype(np.uint8), raw.target.astype(np.int64)
    expected = (_N_TRAIN + _N_TEST, _IMAGE_SHAPE[0] * _IMAGE_SHAPE[1])
    if X.shape != expected:
        raise ValueError(f"it holds an array of shape {X.shape}, not {expected}")
    return Bunch(
        X_train=X[:_N_TRAIN].copy(),
        y_train=y[:_N_TRAIN].copy(),
        X_test=X[_N_TRAIN:].copy(),
        y_test=y[_N_TRAIN:].copy(),
        input_scale=1 / 255,
        source=_SERVER,
    )


def _is_in_scikit_learn_cache():
    """Whether an earlier fetch_openml left the data in scikit-learn's own data folder."""
    home = expand_home(os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data")
    return home is not None and any(Path(home, "openml").glob("openml.org/**/mnist_784.arff.gz"))


def _probe():
    """Raise an OSError unless the server answers within `_PROBE_SECONDS`.

    It runs in a thread that is abandoned then: a name lookup has no timeout and can take a minute.
    """
    import http.client
    import urllib.request

    outcome = []

    def ask():
        try:
            urllib.request.urlopen(_PROBE_URL, timeout=_PROBE_SECONDS).close()
            outcome.append(None)
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {_PROBE_SECONDS} s")
    if outcome[0] is not None:
        raise outcome[0]
