"""Compile the kernels of some modules for one kind of GPU, without one, and say what they take.

Those that numba-cuda launches are optimised at link time, as it does itself, for all instructions
of the very GPU (sm_90a); kernels of clusters are linked from PTX, as fastbp does.

A program, run in its own process for each target: the cache of device functions does not know
them apart. Prints JSON: {kernel: {"registers": ..., "spills": ..., "stack": ..., "limit": ...}}.

    python compile_kernels.py 9.0 fastbp.cuda.steps.products ...
"""

import json
import re
import sys
from importlib import import_module
from types import SimpleNamespace


def linked_by_numba(cuda, listed, capability):
    """Link a kernel as numba-cuda does for a launch; the linker's log."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    variant = "a" if capability >= (9, 0) else ""
    code, _ = cuda.compile(
        listed.function, listed.signature, device=False, abi="numba", output="ltoir",
        cc=(*capability, *variant),
    )  # fmt: skip
    options = LinkerOptions(
        arch="sm_{}{}".format(*capability) + variant, link_time_optimization=True,
        ptxas_options=["-v"],
    )  # fmt: skip
    linker = Linker(ObjectCode.from_ltoir(code), options=options)
    linker.link("cubin")
    return linker.get_info_log()


def linked_from_ptx(cuda, listed, capability):
    """Link a kernel as `fastbp.cuda.clusters.launch` does; the linker's log."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    ptx, _ = cuda.compile_ptx(listed.function, listed.signature, cc=capability)
    options = LinkerOptions(arch="sm_{}{}".format(*capability), ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    linker.link("cubin")
    return linker.get_info_log()


def compile_kernel(cuda, listed, capability):
    """Registers, bytes spilled and bytes of stack of one kernel."""
    link = linked_from_ptx if listed.capability >= (9, 0) else linked_by_numba
    log = link(cuda, listed, capability)
    # The log names device functions too; what counts stands behind the kernel's own name.
    (kernel,) = set(re.findall(r"Compiling entry function '(\w+)'", log))
    log = log[log.find(f"Function properties for {kernel}") :]
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
