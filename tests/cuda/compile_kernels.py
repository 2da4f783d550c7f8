"""Compile the kernels of some modules for one kind of GPU, without one, and say what they take.

They are optimised at link time, as numba-cuda does for a launch, for all instructions of the very
GPU (sm_90a).

A program, run in its own process for each target: the cache of device functions does not know
them apart. Prints JSON: {kernel: {"registers": ..., "spills": ..., "stack": ..., "limit": ...}}.

    python compile_kernels.py 9.0 kernel_list
"""

import json
import re
import sys
from importlib import import_module
from types import SimpleNamespace


def for_launch(cuda, listed, capability):
    """A kernel's code and the linker's options, as numba-cuda has them for a launch."""
    from cuda.core import ObjectCode

    variant = "a" if capability >= (9, 0) else ""
    code, _ = cuda.compile(
        listed.function, listed.signature, device=False, abi="numba", output="ltoir",
        cc=(*capability, *variant),
    )  # fmt: skip
    arch = "sm_{}{}".format(*capability) + variant
    return ObjectCode.from_ltoir(code), {"arch": arch, "link_time_optimization": True}


def compile_kernel(cuda, listed, capability):
    """Registers, bytes spilled and bytes of stack of one kernel."""
    from cuda.core import Linker, LinkerOptions

    code, options = for_launch(cuda, listed, capability)
    linker = Linker(code, options=LinkerOptions(ptxas_options=["-v"], **options))
    linker.link("cubin")
    log = linker.get_info_log()
    # The log names device functions too; what counts follows the kernel's own name.
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
    """Compile all kernels for a target."""
    capability = tuple(map(int, target.split(".")))
    from fastbp.cuda.toolkit import cuda

    dispatcher = import_module("numba.cuda.dispatcher")
    # To compile a device function, numba-cuda asks the driver for the GPU's capability.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    report = {
        name: compile_kernel(cuda, listed, capability)
        for module in modules
        for name, listed in import_module(module).KERNELS.items()
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
