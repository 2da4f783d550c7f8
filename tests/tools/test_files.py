"""Files of users: what is not a plain file is refused, and one is replaced whole or not at all."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastbp import files
from fastbp.files import expand_home, open_regular, replacing

OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def replace(path, content=NEW):
    with replacing(path) as file:
        file.write(content[:10])
        file.write(content[10:])


# ---- reading ----------------------------------------------------------------------------------


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # absolute paths may be too long


def make_device_link(path):
    path.symlink_to("/dev/zero")


SPECIAL = {"FIFO": make_fifo, "socket": make_socket, "device": make_device_link}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("use", [open_regular, replace])
def test_what_is_not_a_regular_file_is_refused(use, kind, tmp_path, monkeypatch):
    """A FIFO was waited for without an end, and /dev/zero read until the memory was full."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    SPECIAL[kind](path)
    before = path.lstat()
    with pytest.raises(ValueError, match=rf"file: must be a regular file, but is a {kind}"):
        use(path)
    assert path.lstat().st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("use", [open_regular, replace])
def test_a_folder_is_refused_as_by_the_system(use, tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        use(tmp_path)


def test_what_takes_the_files_place_is_not_waited_for(path, tmp_path, monkeypatch):
    """Between the look at a file and its opening a FIFO can take its place."""
    make_fifo(tmp_path / "fifo")
    regular = os.stat(path)
    monkeypatch.setattr(os, "stat", lambda path: regular)
    with pytest.raises(ValueError, match="is a FIFO"):
        open_regular(tmp_path / "fifo")


def test_a_regular_file_and_its_size(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    for each in (path, str(path), tmp_path / "link"):
        file, size = open_regular(each)
        with file:
            assert (file.read(), size) == (OLD, len(OLD))
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


# ---- replacing --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_writes_new_files_and_replaces_old_ones(kind, path, tmp_path):
    replace(kind(path))
    replace(kind(tmp_path / "another"))
    assert path.read_bytes() == (tmp_path / "another").read_bytes() == NEW
    assert sorted(os.listdir(tmp_path)) == ["another", "file"]


def test_a_file_name_of_any_length(tmp_path):
    replace(tmp_path / ("x" * 255))
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", ["", "file/", "missing/file"])
def test_impossible_places(name, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(OSError, match=r"missing|directory"):
        replace(name)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open_or_of_the_old_file(mask, path, tmp_path):
    path.chmod(0o640)
    before = os.umask(mask)
    try:
        replace(path)
        replace(tmp_path / "new")
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("named", [False, True])
def test_the_process_umask_stays_as_it_is(named, path, tmp_path, monkeypatch):
    """To read it is to change it for a moment, in which other threads make files for everybody."""
    if named:
        without_unnamed_files(monkeypatch)
    (tmp_path / "plain").write_bytes(b"")
    monkeypatch.setattr(os, "umask", pytest.fail)
    replace(path)
    replace(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_and_leads_to_the_new_content(path, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("../file")
    (folder / "dangling").symlink_to("../created")
    replace(folder / "link")
    replace(folder / "dangling")
    assert sorted(os.listdir(folder)) == ["dangling", "link"]
    assert (folder / "link").is_symlink()
    assert path.read_bytes() == (tmp_path / "created").read_bytes() == NEW


def test_a_file_that_is_write_protected_is_not_replaced(path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write always
    with pytest.raises(PermissionError):
        replace(path)
    assert path.read_bytes() == OLD


# ---- faults -----------------------------------------------------------------------------------

# What a replacement calls; it does so in another way where files need a name from the start.
CALLS = ["stat", "open", "fsync", "link", "replace", "fchmod"]


class FaultError(OSError):
    pass


def without_unnamed_files(monkeypatch):
    if hasattr(os, "O_TMPFILE"):
        monkeypatch.delattr(os, "O_TMPFILE")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_nth_call_fails(name, count, exists, named, path, monkeypatch):
    """The old file stays; there is nothing else. What fails after the renaming changes nothing."""
    if named:
        without_unnamed_files(monkeypatch)
    if not exists:
        path.unlink()
    real, calls = getattr(os, name), []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) - 1 == count:
            raise FaultError(f"{name} fails")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        try:
            replace(path)
            failed = False
        except FaultError:
            failed = True
    expected = [path.name] if exists or not failed else []
    assert os.listdir(path.parent) == expected
    if expected:
        assert path.read_bytes() == (OLD if failed else NEW)
    if count == 0 and name in ("stat", "fsync", "replace"):
        assert failed


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
def test_an_exception_while_writing_leaves_the_old_file(error, named, path, monkeypatch):
    if named:
        without_unnamed_files(monkeypatch)

    def write_half():
        with replacing(path) as file:
            file.write(NEW[:10])
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["file"]


def test_a_full_disk(path, monkeypatch):
    """What was buffered is written last, and may fail then."""

    def write():
        with replacing(path) as file:
            file.write(b"x")  # stays in the buffer
            os.close(file.fileno())

    with pytest.raises(OSError, match="descriptor"):
        write()
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["file"]


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
from files import replacing  # without the package, whose import takes long
number = 0
while True:
    number += 1
    with replacing(sys.argv[1]) as file:
        for _ in range(50):
            file.write(bytes([number % 256]) * 20_000)
    print(number, flush=True)
"""


def kill_while_writing(path, count, program=PROGRAM):
    """Kill writers at different moments; yield after each, when the file must be whole."""
    folder = str(Path(files.__file__).parent)
    for attempt in range(count):
        with subprocess.Popen(
            [sys.executable, "-c", program, path, folder], stdout=subprocess.PIPE
        ) as writer:
            for _ in range(1 + attempt % 7):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
        yield attempt


def test_killed_writers_leave_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for _ in kill_while_writing(path, 5):
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert content == content[:1] * len(content)
    if sys.platform == "linux":
        assert os.listdir(tmp_path) == ["file"]


# ---- home -------------------------------------------------------------------------------------


def test_no_folder_with_the_name_of_the_home(monkeypatch):
    """Without HOME, and for a user whom the system does not know, a path kept its `~`."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expand_home("~/x") == "/home/somebody/x"
    assert expand_home(Path("x/~")) == "x/~"
    assert expand_home("~nobody-has-this-name/x") is None
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert expand_home("~/x") is None
