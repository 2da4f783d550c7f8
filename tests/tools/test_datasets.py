"""Data sets: where MNIST is looked for, what a damaged file says, and how a download fails."""

import gzip
import http.client
import os
import socket
import threading
import urllib.error
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from sklearn.utils import Bunch

from fastbp import datasets

NAMES = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
REAL_MNIST = Path(
    os.environ.get("FASTBP_DATA") or Path(__file__).parents[3] / "shared" / "data" / "mnist"
)


def idx(array, magic=None):
    """An array of bytes as the IDX format writes it."""
    header = [0x0800 + array.ndim if magic is None else magic, *array.shape]
    return b"".join(number.to_bytes(4, "big") for number in header) + array.tobytes()


@pytest.fixture(autouse=True)
def _no_network_no_home(monkeypatch, tmp_path):
    """Keep the tests off the user's cache folders and off the network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError(OSError("network is unreachable"))

    monkeypatch.delenv("FASTBP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "scikit-learn"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", refuse)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "X_train": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "y_train": np.array([3, 1, 4, 1, 9], np.uint8),
        "X_test": rng.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        "y_test": np.array([2, 0, 7], np.uint8),
    }


@pytest.fixture
def folder(tmp_path, arrays):
    """A folder of four sound files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for key, name in NAMES.items():
        (folder / name).write_bytes(idx(arrays[key]))
    return folder


def assert_holds(data, arrays):
    for part in ("train", "test"):
        X, y = data[f"X_{part}"], data[f"y_{part}"]
        np.testing.assert_array_equal(X, arrays[f"X_{part}"].reshape(len(X), 784))
        np.testing.assert_array_equal(y, arrays[f"y_{part}"])
        assert (X.dtype, y.dtype) == (np.uint8, np.int64)
        assert X.flags.writeable
        assert X.flags.c_contiguous
    assert data.input_scale == 1 / 255


# ---- files ----------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("zipped", [(), ("X_train", "y_test"), tuple(NAMES)])
def test_reads_files_compressed_or_not(folder, arrays, kind, zipped):
    for key in zipped:
        path = folder / NAMES[key]
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    data = datasets.load_mnist(kind(folder))
    assert_holds(data, arrays)
    assert data.source == str(folder)


def test_environment_variable_names_the_folder_unless_path_does(
    folder, arrays, monkeypatch, tmp_path
):
    monkeypatch.setenv("FASTBP_DATA", str(folder))
    assert_holds(datasets.load_mnist(), arrays)
    with pytest.raises(FileNotFoundError, match=r"path: there is no folder .*elsewhere"):
        datasets.load_mnist(tmp_path / "elsewhere")
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"FASTBP_DATA: there is no folder .*nowhere"):
        datasets.load_mnist()


@pytest.mark.parametrize("key", NAMES)
def test_missing_file_is_named(folder, key):
    (folder / NAMES[key]).unlink()
    with pytest.raises(FileNotFoundError, match=f"no file {NAMES[key]} or .*gz"):
        datasets.load_mnist(folder)


def damaged(content):
    """Flip bits in the middle of a gzip file."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle:])


IMAGES = np.zeros((5, 28, 28), np.uint8)
LABELS = np.arange(5, dtype=np.uint8)
# No time in it: a test is named by its bytes, and processes that share tests must agree on names.
ZIPPED = gzip.compress(idx(np.arange(5 * 784).astype(np.uint8).reshape(5, 28, 28)), mtime=0)


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("X_train", b"", "0 bytes, too short for an IDX header"),
        ("y_test", idx(LABELS)[:6], "6 bytes, too short for an IDX header"),
        ("X_train", idx(IMAGES, magic=2049), "magic number 2049, where 2051 should be"),
        ("y_train", idx(LABELS, magic=0x0D01), "magic number 3329, where 2049 should be"),
        ("X_train", idx(LABELS).ljust(16, b"\0"), "magic number 2049, where 2051 should be"),
        ("X_train", idx(IMAGES)[:-1], r"truncated; .* 5 x 28 x 28 = 3920 bytes, 3919 follow"),
        ("X_test", idx(IMAGES) + b"\0\0", "trailing bytes; .* = 3920 bytes, 3922 follow"),
        ("y_train", idx(LABELS)[:-2], "truncated; .* 5 = 5 bytes, 3 follow"),
        ("X_train", b"\0\0\x08\x03" + b"\xff" * 12, "truncated"),
        ("X_train", idx(IMAGES[:, :14]), r"images of shape \(14, 28\), not \(28, 28\)"),
        ("X_train", idx(IMAGES[:0]), "no images"),
        ("y_train", idx(LABELS[:4]), "4 labels for the 5 images in train-images"),
        ("y_train", idx(LABELS + 6), "label 10, above 9"),
        ("X_train", ZIPPED[: len(ZIPPED) // 2], "truncated or corrupt gzip file"),
        ("X_train", ZIPPED[:5], "truncated or corrupt gzip file"),
        ("X_train", damaged(ZIPPED), "truncated or corrupt gzip file"),
        ("X_train", ZIPPED[:-8] + bytes(8), "truncated or corrupt gzip file"),
        ("X_train", ZIPPED + b"junk", "truncated or corrupt gzip file"),
    ],
)
def test_damaged_file_is_named_with_what_is_wrong(folder, key, content, message):
    path = folder / NAMES[key]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load_mnist(folder)
    assert str(path) in str(caught.value)


# ---- download and cache ---------------------------------------------------------------------


@pytest.fixture
def openml(monkeypatch, arrays):
    """A server that answers; returns the keyword arguments that fetch_openml was called with."""
    calls = []

    def fetch_openml(name, **kwargs):
        calls.append({"timeout": socket.getdefaulttimeout(), **kwargs})
        images = np.concatenate([arrays["X_train"], arrays["X_test"]]).reshape(-1, 784)
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
        return Bunch(data=images.astype(float), target=labels.astype(str).astype(object))

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Bunch(close=lambda: None))
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    monkeypatch.setattr(datasets, "_N_TRAIN", 5)
    monkeypatch.setattr(datasets, "_N_TEST", 3)
    return calls


def test_download_is_made_once(openml, arrays, tmp_path, capsys):
    assert_holds(datasets.load_mnist(verbose=True), arrays)
    assert "Downloading MNIST" in capsys.readouterr().err
    data = datasets.load_mnist(verbose=True)
    assert_holds(data, arrays)
    assert data.source == str(tmp_path / "cache" / "fastbp" / "mnist")
    assert sorted(os.listdir(data.source)) == sorted(NAMES.values())
    assert capsys.readouterr() == ("", "")
    assert len(openml) == 1
    assert 0 < 2 * openml[0]["timeout"] < 10  # it asks twice
    assert openml[0]["n_retries"] == 0
    assert openml[0]["cache"] is False
    assert socket.getdefaulttimeout() is None


def test_damaged_cache_is_downloaded_anew(openml, arrays, tmp_path):
    path = tmp_path / "cache" / "fastbp" / "mnist" / NAMES["y_train"]
    datasets.load_mnist()
    path.write_bytes(path.read_bytes()[:-1])
    assert_holds(datasets.load_mnist(), arrays)
    assert_holds(datasets.load_mnist(), arrays)
    assert len(openml) == 2


def test_unwritable_cache_only_warns(openml, arrays, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"MNIST could not be kept in .*file"):
        assert_holds(datasets.load_mnist(), arrays)


def test_copy_in_scikit_learns_cache_needs_no_server(openml, arrays, monkeypatch, tmp_path):
    copy = tmp_path / "scikit-learn/openml/openml.org/data/v1/download/52667/mnist_784.arff.gz"
    copy.parent.mkdir(parents=True)
    copy.touch()
    monkeypatch.setattr(datasets, "_probe", pytest.fail)
    assert_holds(datasets.load_mnist(), arrays)
    assert openml[0]["cache"] is True


def test_no_network_says_what_was_tried_and_what_helps(tmp_path):
    with pytest.raises(ConnectionError) as caught:
        datasets.load_mnist()
    for part in ("network is unreachable", "openml.org", str(tmp_path / "cache"), "FASTBP_DATA"):
        assert part in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_hanging_name_lookup_is_abandoned(monkeypatch):
    released = threading.Event()

    def hang(url, timeout):
        released.wait()
        raise urllib.error.URLError("the lookup gave up")

    monkeypatch.setattr("urllib.request.urlopen", hang)
    monkeypatch.setattr(datasets, "_PROBE_SECONDS", 0.01)
    with pytest.raises(ConnectionError, match="no answer within"):
        datasets.load_mnist()
    released.set()


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        urllib.error.HTTPError("https://www.openml.org", 504, "Gateway Time-out", None, None),
        http.client.IncompleteRead(b""),
        EOFError("ended before the end-of-stream marker"),
        zlib.error("invalid block type"),
        ValueError("md5 checksum does not match"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_download_is_a_connection_error(openml, monkeypatch, error, tmp_path):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fail)
    with pytest.raises(ConnectionError, match="could not be downloaded") as caught:
        datasets.load_mnist()
    assert caught.value.__cause__ is error
    assert socket.getdefaulttimeout() is None
    assert not (tmp_path / "cache").exists()


def test_download_of_another_shape_is_refused(openml, monkeypatch):
    monkeypatch.setattr(datasets, "_N_TRAIN", 6)
    with pytest.raises(ConnectionError, match=r"shape \(8, 784\), not \(9, 784\)"):
        datasets.load_mnist()


# ---- the real data --------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="MNIST is not at hand: set FASTBP_DATA")
def test_real_mnist():
    data = datasets.load_mnist(REAL_MNIST)
    assert data.X_train.shape == (60000, 784)
    assert data.X_test.shape == (10000, 784)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(data.y_train), counts)
    assert len(data.y_test) == 10000
    assert data.X_train.mean() * data.input_scale == pytest.approx(0.1307, abs=1e-4)


def test_digits_are_split_evenly_and_always_alike():
    data, again = datasets.load_digits(), datasets.load_digits()
    everything = sklearn.datasets.load_digits()
    X = np.concatenate([data.X_train, data.X_test])
    assert sorted(map(bytes, X)) == sorted(map(bytes, everything.data.astype(np.uint8)))
    shares = np.bincount(data.y_test) / np.bincount(everything.target)
    np.testing.assert_allclose(shares, 360 / 1797, atol=0.005)
    assert X.max() * data.input_scale == 1.0
    for key in NAMES:
        np.testing.assert_array_equal(data[key], again[key])
    assert (data.X_train.dtype, data.y_train.dtype) == (np.uint8, np.int64)


def test_the_caller_allows_no_more_images(tmp_path):
    for kind, shape in (("images-idx3", (3, 28, 28)), ("labels-idx1", (3,))):
        for part in ("train", "t10k"):
            header = np.array([0x0800 + len(shape), *shape], ">u4").tobytes()
            path = tmp_path / f"{part}-{kind}-ubyte"
            path.write_bytes(header + bytes(int(np.prod(shape))))
    assert datasets.load_mnist(tmp_path, most_images=3).X_train.shape == (3, 784)
    with pytest.raises(ValueError, match=r"3 x 28 x 28.*more than 2 items are not read"):
        datasets.load_mnist(tmp_path, most_images=2)
