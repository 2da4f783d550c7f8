"""IDX files that promise too much, never end or are no files: refused at once, in little memory."""

import gzip
import os
import re
import socket
import struct
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import call_alone

from fastbp import datasets, idx

# Without the time: names of tests contain what it packs, and all workers must have the same.
pack_up = partial(gzip.compress, mtime=0)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
CONTENT = struct.pack(">4I", 2051, *IMAGES.shape) + IMAGES.tobytes()
MEMORY = 3 * 2**20  # bytes: what small files may take, pieces that are read and unpacked included


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images"


def header(*shape):
    return struct.pack(">I", 0x0800 + len(shape)) + struct.pack(f">{len(shape)}I", *shape)


def read(path, content=None, shape=(28, 28)):
    """Write a file, if there is a content; read it within `MEMORY`."""
    if content is not None:
        path.write_bytes(content)
    tracemalloc.start()
    try:
        return idx.read(path, 3, shape)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY


def bomb(n_bytes, start=b""):
    """A gzip file of `start` and so many zeros, made without their memory."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(start)]
    pieces += [packer.compress(bytes(2**20)) for _ in range(n_bytes >> 20)]
    return b"".join([*pieces, packer.flush()])


# ---- sound files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        pack_up(CONTENT),
        pack_up(CONTENT, 0),  # stored: longer than its content
        pack_up(CONTENT[:7]) + pack_up(b"") + pack_up(CONTENT[7:]),
        pack_up(CONTENT) + bytes(1000),  # padding, which gzip allows
    ],
    ids=["plain", "gzip", "stored", "members", "padded"],
)
def test_sound_files(content, path):
    array = read(path, content)
    np.testing.assert_array_equal(array, IMAGES)
    assert array.flags.writeable
    assert array.flags.c_contiguous


def test_gzip_names_and_comments(path):
    """Headers of gzip may carry fields of any length."""
    packed = pack_up(CONTENT)
    start = packed[:3] + b"\x1c" + packed[4:10]  # with an extra field, a name and a comment
    fields = struct.pack("<H", 5000) + bytes(5000) + b"n" * 70_000 + b"\0" + b"c" * 70_000 + b"\0"
    np.testing.assert_array_equal(read(path, start + fields + packed[10:]), IMAGES)


def test_pieces_of_every_size(path, monkeypatch):
    """A member's end, its checksum and zlib's pending output fall between the pieces read."""
    packed = pack_up(CONTENT) + pack_up(b"") + bytes(3)
    for n_read, n_unpack in ((1, 1), (1, 2**20), (3, 5), (7, 2**20), (2**16, 1)):
        monkeypatch.setattr(idx, "_READ_BYTES", n_read)
        monkeypatch.setattr(idx, "_UNPACK_BYTES", n_unpack)
        np.testing.assert_array_equal(read(path, packed), IMAGES)


def test_other_shapes_where_the_caller_asks_for_none(path):
    assert read(path, header(2, 3, 4) + bytes(24), shape=None).shape == (2, 3, 4)
    assert read(path, header(0, 28, 28)).shape == (0, 28, 28)


# ---- files that promise too much --------------------------------------------------------------


def test_a_bomb_is_not_unpacked(path):
    """A file of 2 MB took 4.2 GB: all was unpacked before its header was looked at."""
    with pytest.raises(ValueError, match=r"trailing bytes; .* = 784 bytes, more follow"):
        read(path, bomb(2**26, header(1, 28, 28)))
    with pytest.raises(ValueError, match=r"magic number 0, where 2051 should be"):
        read(path, bomb(2**26))


@pytest.mark.parametrize("pack", [bytes, pack_up])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2**20, 2**20, 2**20), "truncated; its header says .* = 1152921504606846976 bytes"),
        ((2**32 - 1,) * 3, "truncated; its header says"),
        ((10**6, 28, 28), "truncated; its header says"),
    ],
)
def test_a_header_that_promises_more_than_the_file_holds(pack, shape, message, path):
    with pytest.raises(ValueError, match=message):
        read(path, pack(header(*shape) + bytes(100)), shape=None)


def test_a_bomb_that_its_header_allows_takes_that_much(path):
    """What a header promises and deflate can hold is the most that is taken."""
    content = bomb(2**20, header(1338, 28, 28))  # one MiB and nearly half a KiB
    with pytest.raises(ValueError, match=r"truncated; .* = 1048992 bytes, 1048576 follow"):
        read(path, content)


def test_other_images_are_refused_before_their_pixels_are_read(path):
    """From the header alone: pixels that are damaged are not noticed."""
    content = header(2, 1000, 1000) + bytes(2 * 10**6)
    for damaged in (content, pack_up(content, 0)[:-100]):
        with pytest.raises(ValueError, match=r"images of shape \(1000, 1000\), not \(28, 28\)"):
            read(path, damaged)


def test_too_many_images_are_refused_before_they_are_read(path):
    with open(path, "wb") as file:  # sparse
        file.write(header(10**6 + 1, 28, 28))
        file.truncate(16 + (10**6 + 1) * 784)
    with pytest.raises(ValueError, match="more than 1000000 items are not read"):
        read(path)


@pytest.mark.parametrize("start", [header(1, 28, 28), header(2**32 - 1, 28, 28), b""])
def test_a_large_sparse_file_is_not_read(start, path):
    """All 3 GiB of it were read, and then found to be too many."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(3 * 2**30)
    with pytest.raises(ValueError, match=r"trailing bytes|truncated|magic"):
        read(path)


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (pack_up(CONTENT), 2**40, "trailing bytes; .* the compressed file has 1099511627776"),
        (pack_up(b""), 2**40, "compressed bytes hold hardly anything"),
        (pack_up(b"")[:3] + b"\x10" + b"c" * 2**20, 2**21, "hold hardly anything"),
        (pack_up(b"") * 50_000, None, "more than 10000 gzip files in one"),
        # Empty blocks, each of 5 bytes.
        (pack_up(b"")[:10] + b"\0\0\0\xff\xff" * 2**18, None, "hold hardly anything"),
    ],
    ids=["padding", "padding of nothing", "comment", "empty members", "empty blocks"],
)
def test_compressed_files_that_hold_next_to_nothing(content, size, message, path):
    """They end, but only after the whole disk was read."""
    path.write_bytes(content)
    if size is not None:
        os.truncate(path, size)  # sparse
    with pytest.raises(ValueError, match=message):
        read(path)


# ---- damage -----------------------------------------------------------------------------------


def with_wrong(part):
    packed = bytearray(pack_up(CONTENT))
    packed[{"CRC": -8, "length": -4}[part]] ^= 1
    return bytes(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_wrong("CRC"), "truncated or corrupt gzip file: .*incorrect data check"),
        (with_wrong("length"), "truncated or corrupt gzip file: .*incorrect length check"),
        (pack_up(CONTENT)[:-1], "truncated or corrupt gzip file: it ends too early"),
        (pack_up(CONTENT[:10]), "10 bytes, too short for an IDX header"),
        (pack_up(CONTENT[:10])[:-9], "truncated or corrupt gzip file"),
        (pack_up(CONTENT[:-1]), "truncated; .* = 15680 bytes, 15679 follow"),
        (pack_up(CONTENT + b"\0"), "trailing bytes; .* = 15680 bytes, more follow"),
        (pack_up(CONTENT) + pack_up(b"\0"), "trailing bytes"),
        (pack_up(CONTENT) + with_wrong("CRC"), "trailing bytes"),
        (pack_up(CONTENT) + b"\x1f\x8b", "truncated or corrupt gzip file"),
        (pack_up(pack_up(CONTENT)), "magic number"),
        (b"\x1f\x8b", "truncated or corrupt gzip file"),
        (b"", "0 bytes, too short for an IDX header"),
    ],
)
def test_damaged_files_are_named(content, message, path):
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        read(path, content)


@pytest.mark.parametrize("pack", [bytes, pack_up])
def test_every_truncation_is_noticed(pack, path):
    content = pack(header(1, 5, 5) + bytes(range(25)))
    for n_bytes in range(len(content)):
        with pytest.raises(ValueError, match="images: "):
            read(path, content[:n_bytes], shape=None)


def test_every_flipped_bit_of_a_compressed_file_is_noticed(path):
    """Or it says nothing about the content: flags, time, system, level, padding bits."""
    array = np.arange(25, dtype=np.uint8).reshape(1, 5, 5)
    content = bytearray(pack_up(header(1, 5, 5) + array.tobytes()))
    for i in range(8 * len(content)):
        content[i // 8] ^= 1 << i % 8
        path.write_bytes(content)
        content[i // 8] ^= 1 << i % 8
        try:
            found = idx.read(path, 3)
        except ValueError:
            continue
        assert 3 <= i // 8 < 10 or i // 8 == len(content) - 9, i
        np.testing.assert_array_equal(found, array)


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    """The size may be another one by the time that the content is read."""
    open_regular, change = idx.open_regular, None

    def open_and_change(path):
        opened = open_regular(path)
        change()
        return opened

    monkeypatch.setattr(idx, "open_regular", open_and_change)
    for n_bytes, message in ((-1, "truncated"), (1, "trailing bytes")):
        path.write_bytes(CONTENT)
        change = lambda: os.truncate(path, len(CONTENT) + n_bytes)  # noqa: B023, E731
        with pytest.raises(ValueError, match=message):
            idx.read(path, 3)


# ---- what is no file --------------------------------------------------------------------------


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # absolute paths may be too long


def make_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
@pytest.mark.parametrize("make", [make_fifo, make_socket, make_device, os.mkdir])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_no_file_is_refused_at_once(make, suffix, tmp_path, monkeypatch):
    """A FIFO was waited for without an end, and /dev/zero read until the memory was full."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / f"train-images-idx3-ubyte{suffix}")
    with pytest.raises((ValueError, IsADirectoryError), match="train-images-idx3-ubyte"):
        datasets.load_mnist(tmp_path)


# ---- the cache's folder -----------------------------------------------------------------------


def load_without_home(folder):
    """In a process whose user has no home: what is found, and what was made."""
    os.chdir(folder)
    os.environ.pop("HOME", None)
    os.environ.pop("XDG_CACHE_HOME", None)
    os.getuid = lambda: 2**31 - 7  # no user of the system
    from fastbp.bench import draws

    found = [str(datasets.cache_folder()), str(draws.find_mnist())]
    urls = []
    datasets._download = lambda verbose: urls.append(verbose) or "data"
    found.append(datasets.load_mnist())

    def fail(verbose):
        raise OSError("no network")

    datasets._download = fail
    try:
        datasets.load_mnist()
    except ConnectionError as error:
        found.append(str(error))
    try:
        datasets.load_mnist("~/mnist")
    except FileNotFoundError as error:
        found.append(str(error))
    return [*found, os.listdir(folder)]


def test_no_folder_with_the_name_of_the_home(tmp_path):
    """Without HOME, for a user whom the system does not know, MNIST was kept in a folder `~`."""
    folder, mnist, data, error, named, made = call_alone(
        load_without_home, str(tmp_path), FASTBP_DATA=""
    )
    assert (folder, mnist, data, made) == ("None", "None", "data", [])
    assert "nobody knows the user's home folder" in error
    assert named == "path: nobody knows the home folder that ~/mnist begins with"


@pytest.mark.parametrize("value", ["~/cache", "cache", ""])
def test_a_cache_folder_that_is_not_absolute_is_ignored(value, monkeypatch):
    """XDG_CACHE_HOME=~/.cache, where no shell replaces the `~`, made a folder `~`."""
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert datasets.cache_folder() == Path("/home/somebody/.cache/fastbp/mnist")


def test_a_copy_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """The folder for what was unfinished is gone, and files keep what they had."""
    data = {
        "X_train": IMAGES.reshape(20, 784),
        "y_train": np.arange(20) % 10,
        "X_test": IMAGES[:5].reshape(5, 784),
        "y_test": np.arange(5),
    }
    datasets._write_folder(data, tmp_path)
    assert len(os.listdir(tmp_path)) == 4
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded = datasets.load_mnist(tmp_path)
    for name, array in data.items():
        np.testing.assert_array_equal(loaded[name], array)

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        datasets._write_folder({**data, "X_train": data["X_train"][::-1]}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
