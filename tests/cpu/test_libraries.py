"""Which machine code runs: what is shipped, if it is the right one, and what the user asks for."""

import subprocess

import numpy as np
import pytest

from fastbp.cpu import code, levels, libraries, shipped
from fastbp.cpu.kernels import ahead
from fastbp.cpu.records import SPECIALISATIONS
from fastbp.cpu.shipped import NotShippedError, load_shipped

HAS = levels.levels_of_machine()
pytestmark = pytest.mark.skipif(not HAS, reason="no kernels are shipped for this kind of machine")


# ---- the right code or none ---------------------------------------------------------------------


def test_all_kernels_are_there(library):
    found = load_shipped()
    assert found.vector_bits == levels.LEVELS[HAS[0]].vector_bits
    addresses = {found.address(each) for each in SPECIALISATIONS}
    assert len(addresses) == len(SPECIALISATIONS)


def test_the_system_is_asked_for_little(library, tmp_path):
    """A symbol of a certain C library's version would tie the wheel to it."""
    content, _ = libraries.split(library.read_bytes())
    (tmp_path / "library.so").write_bytes(content)
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", "-P", tmp_path / "library.so"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {line.split()[0] for line in done.stdout.splitlines()} <= ahead.SYSTEM_FUNCTIONS


def flip(content):
    position = len(content) // 3
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
        lambda content: bytes(len(content)),
    ],
)
def test_damaged_code_is_not_run(library, damage, monkeypatch):
    """A flipped bit in machine code may end the process, or train another model."""
    monkeypatch.setattr(shipped.ctypes, "CDLL", None)
    library.write_bytes(damage(library.read_bytes()))
    with pytest.raises(NotShippedError, match="damaged"):
        load_shipped()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"level": "another"}, "is for another"),
        ({"version": "0.0.9"}, "is of version 0.0.9"),
        ({"fingerprint": "0" * 64}, "is of other sources"),
        ({"sources": ["cpu/records.py"]}, "is of other sources"),
        ({"sources": []}, "is of unknown sources"),
        ({"sources": None, "fingerprint": None}, "is of unknown sources"),
        ({"sources": ["cpu/records.py", "cpu/kernels/gone.py"]}, "is of other sources"),
    ],
)
def test_code_of_something_else_is_not_run(library, changed, says, monkeypatch):
    monkeypatch.setattr(shipped.ctypes, "CDLL", None)
    content, description = libraries.split(library.read_bytes())
    library.write_bytes(libraries.join(bytes(content), description | changed))
    with pytest.raises(NotShippedError, match=says):
        load_shipped()


def test_a_file_that_may_not_be_executed_is_run_from_memory(library, monkeypatch):
    """As on a file system that is mounted with noexec."""
    load = shipped.ctypes.CDLL

    def refuse(path):
        if not path.startswith("/proc/"):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(shipped.ctypes, "CDLL", refuse)
    assert all(load_shipped().address(each) for each in SPECIALISATIONS)
    monkeypatch.delattr(shipped.os, "memfd_create")
    with pytest.raises(NotShippedError, match=r"cannot be loaded.*map segment"):
        load_shipped()


# ---- the choice ---------------------------------------------------------------------------------


def test_a_library_that_cannot_be_used_is_not_replaced_by_a_lower_levels(library, monkeypatch):
    """It would round in another way, and be slower than numba's; one that is not there may be."""
    content, description = libraries.split(library.read_bytes())
    lower = "x86-64-lower"
    monkeypatch.setitem(shipped.LEVELS, lower, levels.LEVELS[HAS[0]]._replace(name=lower))
    monkeypatch.setattr(shipped, "levels_of_machine", lambda: [HAS[0], lower])
    path = libraries.library_path(lower)
    path.write_bytes(libraries.join(bytes(content), description | {"level": lower}))
    library.write_bytes(flip(library.read_bytes()))
    with pytest.raises(NotShippedError, match="damaged"):
        load_shipped()
    library.unlink()
    assert load_shipped().description.endswith(lower)


@pytest.mark.skipif(len(levels.with_those_below(HAS[0])) == 1, reason="the level needs no other")
def test_a_library_without_the_one_below_it_is_as_good_as_none(library):
    below = libraries.library_path(levels.with_those_below(HAS[0])[1])
    below.unlink()
    with pytest.raises(NotShippedError, match=f"there is no {below.name}"):
        load_shipped()


class Compiled:
    """In place of numba's kernels, to tell why they were chosen."""

    def __init__(self, reason):
        self.reason = reason


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FASTBP_KERNELS": "compiled"}, "FASTBP_KERNELS=compiled is set"),
        ({"NUMBA_CPU_NAME": "haswell"}, "NUMBA_CPU_NAME is set"),
        (
            {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx"},
            "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are set",
        ),
    ],
)
def test_what_asks_for_numba_gets_it(library, environment, says, monkeypatch):
    """Another CPU than this machine's was asked for, and not what is shipped."""
    monkeypatch.setattr(code, "CompiledHere", Compiled)
    assert code.choose(environment).reason == says
    assert code.choose(environment | {"FASTBP_KERNELS": HAS[0]}).vector_bits


def test_a_level_that_was_asked_for_is_that_or_an_error(library, monkeypatch):
    assert code.choose({"FASTBP_KERNELS": HAS[0]}).description.endswith(HAS[0])
    library.unlink()
    with pytest.raises(code.NoKernelsError, match=f"{HAS[0]}: there is no {library.name}"):
        code.choose({"FASTBP_KERNELS": HAS[0]})
    monkeypatch.setattr(shipped, "levels_of_machine", lambda: ["x86-64-v2"])
    with pytest.raises(code.NoKernelsError, match="this machine's CPU is not x86-64-v4"):
        code.choose({"FASTBP_KERNELS": "x86-64-v4"})
    with pytest.raises(ValueError, match=r"must be one of compiled, x86-64-v4.*got 'avx'"):
        code.choose({"FASTBP_KERNELS": "avx"})


INFORMATION = {
    "x86-64-v4-amx": "amx_tile amx_bf16",
    "x86-64-v4-bf16": "avx512_bf16",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v2": "cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2",
}


@pytest.mark.parametrize("best", INFORMATION)
def test_a_level_needs_all_features_of_it_and_of_those_below(best, tmp_path, monkeypatch):
    names = list(INFORMATION)
    flags = [flag for name in names[names.index(best) :] for flag in INFORMATION[name].split()]
    monkeypatch.setattr(levels, "CPU_INFORMATION", tmp_path / "cpuinfo")

    def found(flags):
        text = f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu {' '.join(flags)}\n\n"
        (tmp_path / "cpuinfo").write_text(text * 64)
        return levels.levels_of_machine()

    assert found(flags) == names[names.index(best) :]
    for missing in INFORMATION[best].split():
        assert best not in found([flag for flag in flags if flag != missing])
    assert levels.cpu_information("model name") == "A CPU"
    (tmp_path / "cpuinfo").unlink()
    assert levels.levels_of_machine() == []


# ---- the builder --------------------------------------------------------------------------------


def test_what_cannot_be_built_is_said(monkeypatch, capsys):
    for names, says in (("x86-64-v9", "levels must be host, all or some of"), ("", "levels must")):
        with pytest.raises(SystemExit, match=says):
            ahead.main(["--levels", names])
    monkeypatch.setattr(ahead, "levels_of_machine", list)
    with pytest.raises(SystemExit, match="no level for this kind of machine"):
        ahead.main(["--levels", "host"])
    monkeypatch.setattr(ahead.shutil, "which", lambda name: None)
    with pytest.raises(ahead.BuildError, match="install binutils"):
        ahead.link_library(b"")


@pytest.mark.skipif("x86-64-v4-amx" in HAS, reason="numba's features are this machine's")
def test_a_library_has_the_instructions_of_its_level(tmp_path):
    """AMX's would have been those that are emulated."""
    with pytest.raises(SystemExit, match=r"numba compiles (without .*\+amx-bf16|for vectors)"):
        ahead.main(["--here", "x86-64-v4-amx", "--folder", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_records_of_libraries_are_joined_and_split():
    description = {"level": "x86-64-v3", "fingerprint": "0", "sources": ["a"], "version": "1"}
    library = np.random.default_rng(0).bytes(1000)
    content, found = libraries.split(libraries.join(library, description))
    assert bytes(content) == library
    assert found == description


def test_object_code_for_arm64(tmp_path):
    """It is made, for that machine and with all kernels; nobody has run it."""
    path = tmp_path / "kernels.o"
    ahead.main(["--arm64", str(path)])
    content = path.read_bytes()
    machine, aarch64 = int.from_bytes(content[18:20], "little"), 183
    assert content.startswith(b"\x7fELF")
    assert machine == aarch64
    assert all(b"\0" + each.symbol.encode() + b"\0" in content for each in SPECIALISATIONS)
    # Every kernel reads FPCR, to flush subnormal numbers, and writes it before and after.
    instructions = np.frombuffer(content, "<u4", len(content) // 4) & ~np.uint32(0x1F)
    reads, writes = (int((instructions == each).sum()) for each in (0xD53B4400, 0xD51B4400))
    assert (reads, writes) == (len(SPECIALISATIONS), 2 * len(SPECIALISATIONS))
