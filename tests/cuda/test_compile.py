"""Every kernel compiles for two generations of GPUs, within its registers and without spills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "compile_kernels.py"


@pytest.mark.parametrize("target", ["8.0", "9.0"])
def test_kernels_compile_without_spills(target):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, str(PROGRAM), target, "kernel_list"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert len(report) >= 30
    spilled = {name: found for name, found in report.items() if found["spills"] or found["stack"]}
    assert not spilled
    too_many = {k: found for k, found in report.items() if found["registers"] > found["limit"]}
    assert not too_many


def test_few_blocks_are_no_reason_to_warn():
    """numba-cuda warned, at every size of launch, that the grid of a small network is small."""
    program = (
        "from fastbp.cuda.toolkit import cuda; from numba.cuda.core import config;"
        " print(config.CUDA_LOW_OCCUPANCY_WARNINGS)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.stdout == "0\n", run.stderr
