"""The levels of CPU that kernels are shipped for, and which of them this machine has.

They are those of the System V ABI for AMD64, and two more for products of bfloat16: every CPU of a
level has all features of it and of the levels below. Those two bring kernels for bfloat16 only; all
others are the ones of the level below.
"""

import os
import sys
from typing import NamedTuple

from fastbp.cpu.records import AMX_SPECIALISATIONS, SPECIALISATIONS
from fastbp.precisions import BFLOAT16

CPU_INFORMATION = "/proc/cpuinfo"
_INFORMATION_BYTES = 16384  # enough for the first CPU, and quick where there are hundreds
# Features by their names in Linux -> in LLVM.
_V2 = {
    "cx16": "cx16", "lahf_lm": "sahf", "popcnt": "popcnt", "pni": "sse3", "ssse3": "ssse3",
    "sse4_1": "sse4.1", "sse4_2": "sse4.2",
}  # fmt: skip
_V3 = _V2 | {
    "avx": "avx", "avx2": "avx2", "bmi1": "bmi", "bmi2": "bmi2", "f16c": "f16c", "fma": "fma",
    "abm": "lzcnt", "movbe": "movbe", "xsave": "xsave",
}  # fmt: skip
_V4 = _V3 | {
    name: name for name in ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
}  # fmt: skip


BFLOAT16_FEATURE = "avx512_bf16"
AMX_FEATURES = {"amx_tile": "amx-tile", "amx_bf16": "amx-bf16"}
_V4_BF16 = _V4 | {BFLOAT16_FEATURE: "avx512bf16"}
_V4_AMX = _V4_BF16 | AMX_FEATURES


class Level(NamedTuple):
    """A level of CPU.

    Parameters
    ----------
    name : str
    cpu : str
        LLVM's name of a CPU that has all features but some, for which it tunes.
    triple : str
        LLVM's name of the system.
    vector_bits : int
        Width of the vectors that kernels use.
    features : dict of str
        Names in Linux -> in LLVM.
    kernels : tuple of fastbp.cpu.records.Specialisation
        Those of its library.
    below : str, default=""
        The level that all other kernels are of; empty where there are no others.
    """

    name: str
    cpu: str
    triple: str
    vector_bits: int
    features: dict
    kernels: tuple = SPECIALISATIONS
    below: str = ""

    @property
    def llvm_features(self):
        """What LLVM is told."""
        return ",".join(f"+{feature}" for feature in self.features.values())


_LINUX = "x86_64-unknown-linux-gnu"
_OF_BFLOAT16 = tuple(each for each in SPECIALISATIONS if each.real == BFLOAT16)
# The best first.
LEVELS = {
    level.name: level
    for level in (
        Level(
            "x86-64-v4-amx",
            "x86-64-v4",
            _LINUX,
            512,
            _V4_AMX,
            AMX_SPECIALISATIONS,
            "x86-64-v4-bf16",
        ),
        Level("x86-64-v4-bf16", "x86-64-v4", _LINUX, 512, _V4_BF16, _OF_BFLOAT16, "x86-64-v4"),
        Level("x86-64-v4", "x86-64-v4", _LINUX, 512, _V4),
        Level("x86-64-v3", "x86-64-v3", _LINUX, 256, _V3),
        Level("x86-64-v2", "x86-64-v2", _LINUX, 128, _V2),
    )
}


def with_those_below(name):
    """A level, and those that the kernels are of which its library does not have.

    Returns
    -------
    names : list of str
        The best first.
    """
    names = []
    while name:
        names.append(name)
        name = LEVELS[name].below
    return names


def cpu_information(field):
    """What Linux says of this machine's first CPU.

    Parameters
    ----------
    field : str
        Such as "model name", or "flags" for the features that the system supports.

    Returns
    -------
    value : str
        Empty where the system does not say.
    """
    try:
        with open(CPU_INFORMATION, "rb", buffering=0) as file:
            information = file.read(_INFORMATION_BYTES)
    except OSError:
        return ""
    for line in information.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def levels_of_machine():
    """The levels that this machine has, the best first; none on other systems than Linux.

    Returns
    -------
    names : list of str
    """
    is_known = sys.platform == "linux" and os.uname().machine == "x86_64" and sys.maxsize > 2**32
    features = set(cpu_information("flags").split()) if is_known else set()
    return [name for name, level in LEVELS.items() if level.features.keys() <= features]
