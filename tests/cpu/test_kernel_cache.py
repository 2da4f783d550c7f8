"""The cache of machine code: nothing damaged or foreign is run, and its failures cost only time."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbp import sealed
from fastbp.cpu.kernels import kernel_cache
from fastbp.cpu.kernels.kernel_cache import SUFFIX, KernelCache
from tests.cpu.callable import Callable

ROOT = Path(__file__).parents[2]


def increment(x):
    return x + 1


def decrement(x):
    return x - 1


def is_compiled_anew(function=increment):
    """Whether a new kernel is not loaded from the folder, but compiled. It works in either case."""
    made = Callable(function)
    assert made(1) == function(1)
    return not sum(made.dispatcher.stats.cache_hits.values())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for kernels."""
    monkeypatch.setattr(kernel_cache, "kernel_folders", lambda: (str(tmp_path),))
    return tmp_path


@pytest.fixture
def kept(folder):
    """The file of a kernel that has been compiled."""
    assert is_compiled_anew()
    assert not is_compiled_anew()
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def unpickled(monkeypatch):
    """What comes to be unpickled, instead of unpickling it."""
    seen = []

    def refuse(content):
        seen.append(bytes(content))
        raise ValueError("not unpickled in this test")

    monkeypatch.setattr(kernel_cache.pickle, "loads", refuse)
    return seen


def load(function=increment):
    """Load a kernel for one integer, without compiling it."""
    made = Callable(function)
    dispatcher = made.dispatcher
    return dispatcher._cache.load_overload(made.signature(1), dispatcher.targetctx)


def test_no_flipped_bit_reaches_the_loader(kept, unpickled):
    """One in ten flipped bits in machine code ended every later process."""
    whole = kept.read_bytes()
    assert load() is None
    assert len(unpickled) == 1  # the whole one
    random = np.random.default_rng(0)
    positions = {*range(64), len(whole) - 1, *random.integers(len(whole), size=200).tolist()}
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.integers(8)
        kept.write_bytes(damaged)
        assert load() is None
        assert not kept.exists()  # nobody tries it again
    assert len(unpickled) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:1],
        lambda whole: whole[: sealed.DIGEST_SIZE],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
        lambda whole: whole[sealed.DIGEST_SIZE :],
        lambda whole: bytes(len(whole)),
    ],
)
def test_other_damage_is_compiled_anew_and_mended(kept, damage):
    kept.write_bytes(damage(kept.read_bytes()))
    assert is_compiled_anew()
    assert not is_compiled_anew()


def test_files_that_were_exchanged_are_not_run(folder, kept):
    """The digest covers what a file is for: kernel A's would be run for B otherwise."""
    before = {*folder.iterdir()}
    assert is_compiled_anew(decrement)
    (other,) = {*folder.iterdir()} - before
    one, two = kept.read_bytes(), other.read_bytes()
    kept.write_bytes(two)
    other.write_bytes(one)
    assert is_compiled_anew(increment)
    assert is_compiled_anew(decrement)
    assert not is_compiled_anew(increment)


def test_the_code_of_another_cpu_is_not_run(folder, kept, monkeypatch):
    """Nor where it stands under the name of this one's: a backup of another machine."""
    label = KernelCache.label

    def label_of_another(self, signature, codegen):
        class Codegen:
            def magic_tuple(self):
                return "x86_64-unknown-linux-gnu", "another", "+avx512f"

        return label(self, signature, Codegen())

    name = kept.name
    with monkeypatch.context() as patch:
        patch.setattr(KernelCache, "label", label_of_another)
        assert is_compiled_anew()
    (foreign,) = {*folder.iterdir()} - {kept}
    assert foreign.name != name
    shutil.copy(foreign, kept)
    assert is_compiled_anew()


def test_what_is_no_file_is_not_read(folder, kept):
    """A pipe would be waited for, and a link leads to files of others."""
    content = kept.read_bytes()
    elsewhere = folder / "elsewhere"
    elsewhere.write_bytes(content)
    for replace in (
        lambda: kept.symlink_to(elsewhere),
        lambda: os.mkfifo(kept),
        lambda: kept.mkdir(),
    ):
        kept.unlink()
        replace()
        assert load() is None
        if kept.is_dir():
            kept.rmdir()
        kept.write_bytes(content)
    assert load() is not None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_that_others_can_write_is_not_run(kept):
    for mode in (0o646, 0o666, 0o777):
        kept.chmod(mode)
        content = kept.read_bytes()
        assert load() is None
        kept.write_bytes(content)
    kept.chmod(0o444)
    assert load() is not None
    if os.geteuid() == 0:
        os.chown(kept, 12345, 12345)
        assert load() is None


def test_others_may_read_what_was_kept(kept):
    """A container's image was filled by root with folders that only root could open."""
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644 & ~umask


def test_kernels_with_closures_are_not_kept(folder):
    number = 3

    def add(x):
        return x + number

    assert is_compiled_anew(add)
    assert not [*folder.iterdir()]


def test_numba_can_forget_and_recompile(kept):
    made = Callable(increment)
    assert made(1) == 2
    made.dispatcher.recompile()
    assert made(1) == 2
    assert kept.exists()


# ---- faults -------------------------------------------------------------------------------------


class FailAt:
    """Let the n-th of all calls of some functions fail, and count them."""

    def __init__(self, monkeypatch, number, error):
        self.number, self.error, self.calls = number, error, 0
        for name in ("open", "write", "close", "replace", "unlink", "scandir", "lstat", "fstat"):
            monkeypatch.setattr(kernel_cache.os, name, self.wrap(getattr(os, name), name))

    def wrap(self, function, name):
        def call(*arguments, **keywords):
            self.calls += 1
            if self.calls != self.number:
                return function(*arguments, **keywords)
            if name == "close":
                function(*arguments)
            if name == "write":  # a disk that has room for one more byte
                function(arguments[0], bytes(arguments[1])[:1])
            raise OSError(self.error, os.strerror(self.error))

        return call


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_any_failing_call_costs_time_and_nothing_else(folder, monkeypatch, error):
    made = Callable(increment)
    signature, dispatcher = made.signature(1), made.dispatcher
    dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    (path,) = folder.iterdir()
    whole, number = path.read_bytes(), 0
    while True:
        number += 1
        for left in folder.iterdir():
            left.unlink()
        (folder / f"left.kernel.1{sealed.TEMPORARY}").write_bytes(b"half")
        os.utime(folder / f"left.kernel.1{sealed.TEMPORARY}", (0, 0))
        with monkeypatch.context() as patch:
            fault = FailAt(patch, number, error)
            dispatcher._cache.save_overload(signature, result)
            calls = fault.calls
        found = [each for each in folder.iterdir() if not each.name.startswith("left")]
        assert found in ([], [path])  # no temporary file but where its removal failed
        for each in found:
            assert each.read_bytes() == whole
        with monkeypatch.context() as patch:
            fault = FailAt(patch, number, error)
            dispatcher._cache.load_overload(signature, dispatcher.targetctx)
            calls = max(calls, fault.calls)
        if calls < number:
            break
    assert number > 5


def test_a_folder_that_vanishes_costs_time(folder):
    shutil.rmtree(folder)
    assert is_compiled_anew()
    assert is_compiled_anew()


def test_without_a_folder_kernels_are_compiled_anew(monkeypatch):
    monkeypatch.setattr(kernel_cache, "kernel_folders", lambda: ())
    assert is_compiled_anew()
    assert is_compiled_anew()


def test_what_a_filled_folder_lacks_is_kept_in_the_next(tmp_path, monkeypatch):
    """An image filled on another CPU, read-only: every process compiled everything anew."""
    folders = [tmp_path / "image", tmp_path / "own"]
    for each in folders:
        each.mkdir()
    monkeypatch.setattr(kernel_cache, "kernel_folders", lambda: tuple(map(str, folders)))
    assert is_compiled_anew(increment)
    (path,) = folders[1].iterdir()
    path.rename(folders[0] / path.name)
    assert not is_compiled_anew(increment)
    assert is_compiled_anew(decrement)
    assert not is_compiled_anew(decrement)
    assert [len([*each.iterdir()]) for each in folders] == [1, 1]


def test_temporary_files_of_killed_processes_are_removed(folder):
    """And those of processes at work are not."""
    dead, alive = (folder / f"{name}{SUFFIX}.0{sealed.TEMPORARY}" for name in ("dead", "alive"))
    dead.write_bytes(b"half")
    with open(alive, "wb") as file:
        sealed._lock(file.fileno())
        for path in (dead, alive):
            os.utime(path, (path.stat().st_mtime - 60,) * 2)
        assert is_compiled_anew()
        assert {path.suffix for path in folder.iterdir()} == {SUFFIX, sealed.TEMPORARY}
        assert not dead.exists()
        assert alive.exists()


WRITE = """
import os, signal, sys
from fastbp import sealed

write = os.write

def write_and_die(descriptor, content):
    write(descriptor, bytes(content)[:100])
    os.kill(os.getpid(), signal.SIGKILL)

os.write = write_and_die
sealed.write(sys.argv[1], bytes(1000))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_process_that_is_killed_while_writing_leaves_the_old_file(kept):
    whole = kept.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WRITE, str(kept)], env=environment)
    assert done.returncode < 0
    (left,) = {*kept.parent.iterdir()} - {kept}
    assert left.stat().st_size == 100
    assert kept.read_bytes() == whole
    os.utime(left, (left.stat().st_mtime - 60,) * 2)
    sealed.remove_abandoned(kept.parent)
    assert not left.exists()
