"""Where compiled code is kept: only where nobody else could have put it."""

import os
import stat
import sys
import warnings
from pathlib import Path

import pytest
from processes import call_alone

from fastbp import cache, info

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
needs_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give files to others"
)
STRANGER = 12345


@pytest.fixture
def choose(monkeypatch, tmp_path):
    """Choose anew among three folders: two with names, and the user's."""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "first"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "second"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    for name in ("first", "second"):
        (tmp_path / name).mkdir(mode=0o755)
    refused = {}
    monkeypatch.setattr(cache, "_refused", refused)
    monkeypatch.setattr(cache, "_said", set())

    def choose():
        refused.clear()
        return [Path(folder) for folder in cache.cache_folders.__wrapped__("kernels")]

    return choose


def test_the_first_that_is_named_is_used(choose, tmp_path):
    assert choose() == [tmp_path / "first" / "kernels"]
    assert cache.refused_folders() == []
    assert not (tmp_path / "user").exists()


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_everybody_can_write_to_is_not_used(choose, tmp_path, mode):
    leaf = tmp_path / "first" / "kernels"
    choose()
    leaf.chmod(mode)
    assert choose() == [tmp_path / "second" / "kernels"]
    (line,) = cache.refused_folders()
    assert line.startswith(f"FASTBP_CACHE_DIR={str(tmp_path / 'first')!r} is not used: {leaf} can")


def test_nor_one_that_others_could_have_exchanged(choose, tmp_path):
    """Only the folder itself and the one above were looked at."""
    choose()
    (tmp_path / "first").chmod(0o777)
    assert choose() == [tmp_path / "second" / "kernels"]
    (tmp_path / "first").chmod(0o1777)  # as /tmp: others can make more, and rename nothing
    assert choose() == [tmp_path / "first" / "kernels"]
    tmp_path.chmod(0o777)
    assert choose() == []
    assert len(cache.refused_folders()) == 4


@needs_root
def test_a_group_may_write_only_if_it_is_this_users_own(choose, tmp_path):
    """A folder that a group of others can write to was trusted."""
    first = tmp_path / "first"
    os.chown(first, 0, STRANGER)
    first.chmod(0o775)
    assert choose()[0].parent == tmp_path / "second"
    assert "by a group" in cache.refused_folders()[0]
    os.chown(first, 0, 0)
    assert choose()[0].parent == first


def test_a_private_group_has_one_member(monkeypatch):
    import grp
    import pwd
    from types import SimpleNamespace

    user = SimpleNamespace(pw_name="ann", pw_gid=7)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: user)
    folder = os.stat_result((stat.S_IFDIR | 0o775, 0, 0, 1, os.geteuid(), 7, 0, 0, 0, 0))
    for name, members, is_private in (
        ("ann", [], True),
        ("ann", ["ann"], True),
        ("ann", ["ann", "bob"], False),
        ("users", [], False),
    ):
        group = SimpleNamespace(gr_name=name, gr_mem=members)
        monkeypatch.setattr(grp, "getgrgid", lambda number, group=group: group)
        assert (cache._distrust(folder, False, "/nowhere") is None) == is_private
    user.pw_gid = 8
    assert cache._distrust(folder, False, "/nowhere")


@needs_root
def test_a_folder_of_another_user_is_not_used(choose, tmp_path):
    choose()
    for path in (tmp_path / "first" / "kernels", tmp_path / "first"):
        os.chown(path, STRANGER, STRANGER)
        assert choose() == [tmp_path / "second" / "kernels"]
        assert f"belongs to another user (number {STRANGER})" in cache.refused_folders()[0]
        os.chown(path, 0, 0)
    assert choose() == [tmp_path / "first" / "kernels"]


@needs_root
def test_links_are_followed_only_where_no_stranger_made_them(choose, tmp_path):
    (tmp_path / "first").rmdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "first").symlink_to("real")
    assert choose() == [tmp_path / "real" / "kernels"]
    os.chown(tmp_path / "first", STRANGER, STRANGER, follow_symlinks=False)
    assert choose() == [tmp_path / "second" / "kernels"]
    assert "another user's link" in cache.refused_folders()[0]
    (tmp_path / "first").unlink()
    (tmp_path / "first").symlink_to("first")  # for ever
    assert choose() == [tmp_path / "second" / "kernels"]


def test_a_link_to_where_others_write_is_not_used(choose, tmp_path):
    shared = tmp_path / "shared"
    (shared / "kernels").mkdir(parents=True)
    shared.chmod(0o777)
    (tmp_path / "first").rmdir()
    (tmp_path / "first").symlink_to(shared)
    assert choose() == [tmp_path / "second" / "kernels"]


def test_what_is_no_folder_is_told(choose, tmp_path, monkeypatch):
    (tmp_path / "first").rmdir()
    (tmp_path / "first").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "~nobody-of-this-name/cache")
    assert choose() == [tmp_path / "user" / "fastbp" / "kernels"]
    one, two = cache.refused_folders()
    assert one.endswith(f"{tmp_path / 'first'} is not a folder")
    assert two.startswith("NUMBA_CACHE_DIR='~nobody-of-this-name/cache' is not used: nobody knows")


def test_a_named_folder_that_is_not_used_is_said_once(choose, tmp_path, monkeypatch):
    (tmp_path / "first").chmod(0o777)
    (tmp_path / "second").chmod(0o777)
    monkeypatch.setattr(cache, "cache_folders", cache.cache_folders.__wrapped__)
    with pytest.warns(UserWarning, match="_CACHE_DIR=") as caught:
        cache.warn_of_refused_folders("kernels")
    instead = f"{tmp_path / 'user' / 'fastbp' / 'kernels'} is used instead."
    assert [str(w.message).split("=")[0] for w in caught] == ["FASTBP_CACHE_DIR", "NUMBA_CACHE_DIR"]
    assert all(str(w.message).endswith(f"(mode 0777). {instead}") for w in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.warn_of_refused_folders("kernels")


def test_info_says_which_folders_are_not_used(choose, tmp_path):
    (tmp_path / "first").chmod(0o777)
    (folder,) = choose()
    line = info.describe_cache(str(folder))
    assert line.startswith(f"{folder}; FASTBP_CACHE_DIR=")
    assert line.endswith("can be written to by everybody (mode 0777)")
    assert info.describe_cache(None).startswith("no folder can be used; set FASTBP_CACHE_DIR")


def test_a_filled_folder_need_not_be_writable(choose, tmp_path, monkeypatch):
    """The kernels of a container image were not used where its files were read-only."""
    (leaf,) = choose()
    make = cache.tempfile.TemporaryFile

    def refuse(dir):
        if Path(dir).parent == tmp_path / "first":
            raise OSError(30, "Read-only file system")
        return make(dir=dir)

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    assert choose() == [tmp_path / "second" / "kernels"]  # an empty one is of no use
    assert "is empty and cannot be written to" in cache.refused_folders()[0]
    (leaf / "kernels.train.kernel").write_bytes(b"")
    assert choose() == [leaf, tmp_path / "second" / "kernels"]


def test_folders_are_made_for_others_to_read_and_not_to_write(choose, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "new" / "below"))
    before = os.umask(0)
    try:
        (leaf,) = choose()
    finally:
        os.umask(before)
    for folder in (leaf, leaf.parent, leaf.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def folder_of_nobody(directory):
    """What a process without a home uses, and what it leaves in its working directory."""
    import pwd

    os.chdir(directory)

    def unknown(number):
        raise KeyError(number)

    pwd.getpwuid = unknown
    for name in ("HOME", "FASTBP_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    folder = cache.cache_folder("kernels")
    os.environ["XDG_CACHE_HOME"] = "~/relative"
    cache.cache_folder("others")
    return folder, os.listdir(directory)


def test_no_folder_is_named_tilde(tmp_path):
    """Without HOME and without a name, a folder ``~`` came to be in the working directory."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    folder, left = call_alone(
        folder_of_nobody, str(tmp_path / "work"), TMPDIR=str(tmp_path / "temporary")
    )
    assert folder == str(tmp_path / "temporary" / f"fastbp-{os.geteuid()}" / "kernels")
    assert left == []


def fit_as_another_user(user):
    """Fit as a user without rights; tell which folders were used, and what was compiled."""
    import numpy as np

    from fastbp import MLPClassifier
    from fastbp.cpu import engine  # while root may read Python's own files
    from fastbp.cpu.kernels.kernel_cache import KernelCache, kernel_folders

    assert engine
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    MLPClassifier((3,), max_iter=1, n_threads=1).fit(np.eye(4), [0, 1, 0, 1])
    return kernel_folders(), KernelCache.n_compiled


def warnings_of_another_user(user):
    """Likewise, without a fit."""
    from fastbp import training  # while root may read Python's own files

    assert training
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache.warn_of_refused_folders("kernels")
    return cache.cache_folders("kernels"), [str(w.message) for w in caught]


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="the folders of /tmp")
def test_a_folder_that_root_has_filled_serves_everybody(request):
    """An image's kernels were compiled anew by every user but root, without a word."""
    import shutil
    import tempfile

    root = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to others
    request.addfinalizer(lambda: shutil.rmtree(root))
    root.chmod(0o755)
    given = {"FASTBP_CACHE_DIR": str(root / "cache"), "TMPDIR": str(root)}
    folders, compiled = call_alone(fit_as_another_user, None, **given)
    assert compiled > 0
    used, anew = call_alone(fit_as_another_user, STRANGER, **given)
    assert used[0] == folders[0]
    assert anew == 0
    (root / "cache").chmod(0o700)
    root.chmod(0o1777)
    ((used,), (line,)) = call_alone(warnings_of_another_user, STRANGER, **given)
    assert used == f"{root}/fastbp-{STRANGER}/kernels"
    assert "Permission denied" in line
    assert line.endswith(f"{used} is used instead.")
