"""Which machine code runs: what is shipped, if it is the right one, and what the user asks for."""

import subprocess
import sys

import numpy as np
import pytest

from fastbp.cpu import code, levels, libraries, shipped
from fastbp.cpu.kernels import ahead
from fastbp.cpu.records import SPECIALISATIONS
from fastbp.cpu.shipped import NotShippedError, load_shipped

HAS = levels.levels_of_machine()
BASE = levels.LEVELS[levels.with_those_below(HAS[0])[-1]] if HAS else None
pytestmark = pytest.mark.skipif(not HAS, reason="no kernels are shipped for this kind of machine")


# ---- the right code or none ---------------------------------------------------------------------


def test_all_kernels_are_there(library):
    found = load_shipped()
    assert found.vector_bits == levels.LEVELS[HAS[0]].vector_bits
    addresses = {found.address(each) for each in SPECIALISATIONS}
    assert len(addresses) == len(SPECIALISATIONS)


def test_the_system_is_asked_for_little(library, tmp_path):
    """A symbol of a certain C library's version would tie the wheel to it."""
    content = libraries.expand(*libraries.split(library.read_bytes()), [HAS[0]])[HAS[0]]
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
    monkeypatch.setattr(shipped, "expand", None)
    library.write_bytes(damage(library.read_bytes()))
    with pytest.raises(NotShippedError, match="damaged"):
        load_shipped()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": "0.0.9"}, "is of version 0.0.9"),
        ({"fingerprint": "0" * 64}, "is of other sources"),
        ({"sources": ["cpu/records.py"]}, "is of other sources"),
        ({"sources": []}, "is of unknown sources"),
        ({"sources": None, "fingerprint": None}, "is of unknown sources"),
        ({"sources": ["cpu/records.py", "cpu/kernels/gone.py"]}, "is of other sources"),
    ],
)
def test_code_of_something_else_is_not_run(library, changed, says, monkeypatch):
    monkeypatch.setattr(shipped, "expand", None)
    found, description = contents(library)
    library.write_bytes(libraries.join(found, description | changed))
    with pytest.raises(NotShippedError, match=says):
        load_shipped()


def contents(path):
    """All shared libraries of a file, and its description."""
    stream, description = libraries.split(path.read_bytes())
    names = [name for name, _ in description["libraries"]]
    return libraries.expand(stream, description, names), description


# ---- from where it runs -------------------------------------------------------------------------


def mapped():
    """The files whose code this process can run."""
    with open("/proc/self/maps") as lines:
        found = (line.strip().split(maxsplit=5) for line in lines if " r-xp " in line)
        return {fields[5] for fields in found if len(fields) > 5}


def test_what_was_checked_runs_and_no_file_of_the_package_does(library, nothing_is_left):
    """Whatever becomes of that file, and whether or not its file system allows code."""
    before = mapped()
    found = load_shipped()
    library.write_bytes(b"")
    assert all(found.address(each) for each in SPECIALISATIONS)
    assert mapped() - before <= {"/memfd:fastbp (deleted)"}


def test_nobody_changes_code_in_memory(library, monkeypatch):
    """Not by another descriptor of it either."""
    load, refused = shipped.ctypes.CDLL, []

    def try_to_write(path, **options):
        if path:
            with open(path, "r+b", buffering=0) as file, pytest.raises(PermissionError):
                file.write(b"another")
            refused.append(path)
        return load(path, **options)

    monkeypatch.setattr(shipped.ctypes, "CDLL", try_to_write)
    load_shipped()
    assert len(refused) == len(levels.with_those_below(HAS[0]))


def refuse(system_call):
    """A call of the system that fails, as under a filter of calls or on an old system."""
    return lambda *arguments: -1 if arguments[0] == 319 else system_call(*arguments)


def test_without_files_in_memory_there_are_temporary_ones(library, monkeypatch, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(shipped.tempfile, "tempdir", str(folder))
    load = shipped.ctypes.CDLL

    class Refusing:
        def __init__(self, system):
            self.syscall = refuse(system.syscall)

    monkeypatch.setattr(
        shipped.ctypes, "CDLL",
        lambda path, **options: load(path, **options) if path else Refusing(load(path, **options)),
    )  # fmt: skip
    found = load_shipped()
    assert all(found.address(each) for each in SPECIALISATIONS)
    assert any(path.startswith(str(folder)) for path in mapped())
    assert not list(folder.iterdir())
    folder.rmdir()
    with pytest.raises(NotShippedError, match=rf"{HAS[0]}.* cannot be loaded \(.*No such file"):
        load_shipped()


def test_libraries_of_the_same_descriptor_are_not_taken_for_one(library):
    """The loader knows a library by its path, and numbers of descriptors come again."""
    found = [load_shipped() for _ in range(3)]
    addresses = {each.address(SPECIALISATIONS[0]) for each in found}
    assert len(addresses) == 3


def test_a_python_without_lzma_says_so(library, monkeypatch):
    monkeypatch.setattr(shipped, "lzma", None)
    with pytest.raises(NotShippedError, match=f"{library.name} cannot be expanded.*no lzma"):
        load_shipped()
    monkeypatch.setattr(ahead, "lzma", None)
    with pytest.raises(SystemExit, match="no kernels: this Python was built without lzma"):
        ahead.main(["--levels", HAS[-1]])


# ---- the choice ---------------------------------------------------------------------------------


def test_a_library_that_cannot_be_used_is_not_replaced_by_a_lower_levels(library, monkeypatch):
    """It would round in another way, and be slower than numba's; one that is not there may be."""
    found, description = contents(library)
    lower = "x86-64-lower"
    monkeypatch.setitem(shipped.LEVELS, lower, BASE._replace(name=lower))
    monkeypatch.setattr(shipped, "levels_of_machine", lambda: [HAS[0], lower])
    path = libraries.library_path(lower)
    path.write_bytes(libraries.join({lower: found[BASE.name]}, description))
    library.write_bytes(flip(library.read_bytes()))
    with pytest.raises(NotShippedError, match="damaged"):
        load_shipped()
    library.unlink()
    assert load_shipped().description.endswith(lower)


@pytest.mark.skipif(BASE.name == HAS[0], reason="the level needs no other")
def test_a_file_may_lack_the_levels_that_need_others(library):
    """As one does that was built for some levels only."""
    found, description = contents(library)
    library.write_bytes(libraries.join({BASE.name: found[BASE.name]}, description))
    with pytest.raises(NotShippedError, match=f"{library.name} has no {HAS[0]}"):
        load_shipped(HAS[:1])
    assert load_shipped().description.endswith(BASE.name)


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
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(SystemExit, match="no kernels: import of numba"):
        ahead.main(["--levels", HAS[-1]])
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


def test_libraries_are_joined_split_and_expanded():
    draw = np.random.default_rng(0)
    made = {name: draw.bytes(size) for name, size in (("z", 1000), ("a", 3000), ("m", 10))}
    content = libraries.join(made, {"sources": ["a"], "version": "1"})
    stream, description = libraries.split(content)
    assert description["sources"] == ["a"]
    for names in (["z"], ["a", "z"], ["m", "a", "z"], ["m"]):
        found = libraries.expand(stream, description, names)
        assert {name: bytes(part) for name, part in found.items()} == {
            name: made[name] for name in names
        }


def test_no_more_is_expanded_than_is_asked_for():
    """A CPU without AMX need not wait for what only AMX needs."""
    made = {"z": bytes(range(256)) * 40, "a": np.random.default_rng(0).bytes(100_000)}
    stream, description = libraries.split(libraries.join(made, {}))
    (found,) = libraries.expand(stream, description, ["z"]).values()
    assert found.obj == made["z"]


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
