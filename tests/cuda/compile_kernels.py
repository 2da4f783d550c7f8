"""Compile the kernels of some modules for one kind of GPU, without one, and say what they take.

A program, run in its own process for each target: the cache of device functions does not know
them apart. Prints JSON: {kernel: {"registers": ..., "spills": ..., "stack": ..., "limit": ...}}.

    python compile_kernels.py 9.0 fastbp.cuda.steps.products ...
"""

import json
import re
import sys
from importlib import import_module
from types import SimpleNamespace


def compile_kernel(cuda, listed, capability):
    """Registers, bytes spilled and bytes of stack of one kernel."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    ptx, _ = cuda.compile_ptx(listed.function, listed.signature, cc=capability)
    options = LinkerOptions(arch="sm_{}{}".format(*capability), ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    linker.link("cubin")
    log = linker.get_info_log()
    # The log names device functions too; what counts stands behind the kernel's own name.
    log = log[log.find(re.search(r"\.visible \.entry (\w+)", ptx)[1]) :]
    stack, stores, loads = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    ).groups()
    shared = re.search(r"(\d+) bytes smem", log)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "spills": int(stores) + int(loads),
        "stack": int(stack),
        "shared": int(shared[1]) if shared else 0,
        "limit": listed.registers,
    }


def main(target, modules):
    """Compile all that the target can run."""
    capability = tuple(map(int, target.split(".")))
    from fastbp.cuda.toolkit import cuda

    dispatcher = import_module("numba.cuda.dispatcher")
    # To compile a device function, numba-cuda asks the driver for the GPU's capability.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    report = {
        name: compile_kernel(cuda, listed, capability)
        for module in modules
        for name, listed in import_module(module).KERNELS.items()
        if capability >= listed.capability
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
