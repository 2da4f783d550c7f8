"""The PTX instructions: each compiles, and the conversions' Python rounds as the ISA says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbp.cuda import ptx

HERE = Path(__file__).parent


@pytest.mark.parametrize("target", ["8.0", "9.0"])
def test_every_instruction_compiles(target):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *sys.path])
    run = subprocess.run(
        [sys.executable, str(HERE / "compile_kernels.py"), target, "every_instruction"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert not report["all"]["spills"]


def in_python(name):
    """An instruction's Python body: in the simulator it is all there is."""
    function = getattr(ptx, name)
    return getattr(function, "in_python", function)


def float_of(bits):
    return np.uint32(bits).view(np.float32)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F80),
        (0x3F808000, 0x3F80),  # a tie, to even: down
        (0x3F818000, 0x3F82),  # a tie, to even: up
        (0x3F808001, 0x3F81),
        (0xBF80FFFF, 0xBF81),
        (0x7F7FFFFF, 0x7F80),  # the largest float32 becomes infinite
        (0x7F800000, 0x7F80),
        (0x7FC00000, 0x7FFF),
        (0xFF800001, 0x7FFF),  # a NaN never becomes infinite
    ],
)
def test_pack_bf16_rounds_to_even(bits, rounded):
    packed = in_python("pack_bf16")(float_of(bits), np.float32(-2))
    assert packed & 0xFFFF == rounded
    assert packed >> 16 == 0xC000
    assert in_python("high_bf16")(packed) == -2
    assert in_python("low_bf16")(packed).view(np.uint32) == rounded << 16


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F800000),
        (0x3F800FFF, 0x3F800000),
        (0x3F801000, 0x3F802000),  # a tie, away from zero
        (0xBF801000, 0xBF802000),
        (0x3F803000, 0x3F804000),
        (0x7F7FFFFF, 0x7F800000),
        (0xFF800000, 0xFF800000),
        (0xFFC00000, 0x7FFFFFFF),
    ],
)
def test_round_tf32_rounds_ties_away_from_zero(bits, rounded):
    assert in_python("round_tf32")(float_of(bits)) == rounded
