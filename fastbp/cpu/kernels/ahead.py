"""Machine code made ahead, for a wheel: one library for each level of CPU, compressed in files.

    python -m fastbp.cpu.kernels.ahead --levels all --folder fastbp/cpu/libraries

Numba's front end and LLVM run, the kernels do not: a level may be one that this machine lacks. All
kernels of a library are one module, in which they share their parts. The library has no other
libraries: what it calls of the system (`SYSTEM_FUNCTIONS`) every process has.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastbp.cpu.levels import LEVELS, levels_of_machine, with_those_below
from fastbp.cpu.libraries import FOLDER, describe_sources, join, library_path, lzma
from fastbp.cpu.records import SPECIALISATIONS

SYSTEM_FUNCTIONS = {"memset", "memcpy", "memmove", "sched_yield"}
# What is a call in LLVM's language, and an instruction in the end.
INSTRUCTIONS = {"sqrt", "sqrtf"}
ARM64 = "aarch64-unknown-linux-gnu"
MERGING_ROUNDS = 4  # after each of which more callers are equal
LINKERS = "ld", "ld.lld", "ld.gold", "ld.bfd"
LINKER_OPTIONS = (
    "-shared", "-s", "--build-id=none", "--hash-style=gnu", "-z", "relro", "-z", "now",
    "-z", "noexecstack",
)  # fmt: skip


class BuildError(Exception):
    """Why no library can be made."""


def link_kernels(specialisations=SPECIALISATIONS):
    """Link kernels, compiled for the CPU that numba's variables name, into one module.

    Parameters
    ----------
    specialisations : tuple of fastbp.cpu.records.Specialisation, default=SPECIALISATIONS

    Returns
    -------
    module : llvmlite.binding.ModuleRef
        Not optimised. Only the kernels' C functions are external.
    """
    from llvmlite import binding

    from fastbp.cpu.kernels.exports import EXPORTS, signature_of

    module = None
    for each in specialisations:
        bitcode = EXPORTS[each.name].bitcode(signature_of(each), each.symbol)
        part = binding.parse_bitcode(bitcode)
        if module is None:
            module = part
        else:
            module.link_in(part)
    symbols = {each.symbol for each in specialisations}
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name not in symbols:
            value.linkage = binding.Linkage.internal
    module.name = "fastbp"
    return module


def optimise(module):
    """Run the passes that the JIT would run."""
    from numba.core.registry import cpu_target

    from fastbp.cpu.kernels.subnormals import link_modes

    link_modes(module)
    passes, builder = cpu_target.target_context.codegen()._module_pass_manager()
    passes.run(module, builder)
    merge_equal_functions(module, builder)
    module.verify()
    declared = {function.name for function in module.functions if function.is_declaration}
    called = {name for name in declared if not name.startswith("llvm.")}
    unknown = called - SYSTEM_FUNCTIONS - INSTRUCTIONS
    if unknown:
        raise BuildError(f"the kernels call {', '.join(sorted(unknown))}")


def merge_equal_functions(module, builder):
    """Keep what is the same for several precisions or kinds of rows once: a third of the code."""
    from llvmlite import binding

    merging = binding.create_new_module_pass_manager()
    for _ in range(MERGING_ROUNDS):
        merging.add_merge_functions_pass()
    merging.add_global_dead_code_eliminate_pass()
    merging.add_constant_merge_pass()
    merging.run(module, builder)


def emit_object(module, triple, cpu, features):
    """Machine code that may lie anywhere in memory."""
    from llvmlite import binding

    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(cpu, features, opt=3, reloc="pic", codemodel="small")
    return machine.emit_object(module)


def link_library(content):
    """Turn object code into a shared library, by the first linker that is found."""
    linker = next(filter(None, map(shutil.which, LINKERS)), None)
    if linker is None:
        raise BuildError(f"there is no linker ({', '.join(LINKERS)}); install binutils")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        source.write_bytes(content)
        done = subprocess.run(
            [linker, *LINKER_OPTIONS, "-o", library, source], capture_output=True, text=True
        )
        if done.returncode:
            raise BuildError(f"{linker} failed: {done.stderr.strip()}")
        return library.read_bytes()


def build(level, folder):
    """Make the library for a level of CPU, in a process whose numba compiles for it.

    Parameters
    ----------
    level : fastbp.cpu.levels.Level
    folder : path-like
        Where a shared library of its name comes.
    """
    from fastbp.cpu.kernels import simd

    if level.vector_bits != simd.VECTOR_BITS:
        raise BuildError(f"numba compiles for vectors of {simd.VECTOR_BITS} bits")
    # Without some, kernels would be made of what takes their instructions' place.
    missing = {f"+{feature}" for feature in level.features.values()} - simd.FEATURES
    if missing:
        raise BuildError(f"numba compiles without {', '.join(sorted(missing))}")
    module = link_kernels(level.kernels)
    optimise(module)
    content = emit_object(module, level.triple, level.cpu, level.llvm_features)
    Path(folder, level.name).write_bytes(link_library(content))


def build_for_arm64(path):
    """Make the object code of all kernels for arm64, in a process that compiles for x86-64-v2.

    Vectors have 128 bits on both. It is not part of any wheel, as nobody has run it: it shows that
    the kernels can be compiled for that machine.
    """
    from llvmlite import binding

    from fastbp.cpu.kernels.subnormals import link_modes

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(ARM64)
    machine = target.create_target_machine("generic", "", opt=3, reloc="pic", codemodel="small")
    text = str(link_kernels()).replace("@llvm.x86.sse2.pause()", "@llvm.aarch64.hint(i32 1)")
    text = text.replace(
        "declare void @llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"
    )
    text = re.sub('^target (triple|datalayout) = ".*"$', "", text, flags=re.MULTILINE)
    module = binding.parse_assembly(text)
    module.triple, module.data_layout = ARM64, str(machine.target_data)
    link_modes(module)
    tuning = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    Path(path).write_bytes(machine.emit_object(module))


def run_apart(level, *arguments):
    """Run this program in a process whose numba compiles for a level of CPU."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": level.cpu,
        "NUMBA_CPU_FEATURES": level.llvm_features,
        "NUMBA_DISABLE_JIT": "0",
    }
    root = str(Path(__file__).parents[3])
    paths = filter(None, [root, os.environ.get("PYTHONPATH")])
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", __spec__.name, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{level.name}: {done.stderr.strip()}")


def build_files(levels, folder):
    """Make libraries, and the files of those that need each other.

    Parameters
    ----------
    levels : list of fastbp.cpu.levels.Level
        The best first, with those that they need.
    folder : pathlib.Path

    Returns
    -------
    paths : list of pathlib.Path
    """
    import llvmlite
    import numba

    if lzma is None:
        raise BuildError("this Python was built without lzma, which compresses them")
    description = describe_sources(  # before any of them can be edited
        python=platform.python_version(), numba=numba.__version__, llvmlite=llvmlite.__version__
    )
    # Each in a process of its own, which takes one core and 600 MB.
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(n_cores) as pool:
        for _ in pool.map(
            lambda level: run_apart(level, "--here", level.name, "--folder", made), levels
        ):
            pass
        files = {}
        for level in reversed(levels):  # those that are needed first
            libraries = files.setdefault(library_path(level.name).name, {})
            libraries[level.name] = Path(made, level.name).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, libraries in files.items():
        (folder / name).write_bytes(join(libraries, description))
    return [folder / name for name in files]


def main(arguments=None):
    """Make the libraries that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--levels", default="host", help=f"host, all, or some of {', '.join(LEVELS)}, with commas"
    )
    parser.add_argument("--folder", default=FOLDER, type=Path)
    parser.add_argument(
        "--arm64", metavar="FILE", help="only the object code for arm64, which nobody has run"
    )
    parser.add_argument("--here", choices=LEVELS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.here and options.arm64:
            build_for_arm64(options.arm64)
        elif options.here:
            build(LEVELS[options.here], options.folder)
        elif options.arm64:
            level = LEVELS["x86-64-v2"]
            run_apart(level, "--here", level.name, "--arm64", os.path.abspath(options.arm64))
        if options.here or options.arm64:
            return
        for path in build_files(levels_named(options.levels), options.folder):
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
    except (BuildError, ImportError) as error:
        sys.exit(f"no kernels: {error}")


def levels_named(names):
    """The levels that a command line or variable names, and those that these need, the best first.

    Raises
    ------
    BuildError
        If there is none of that name, or none for this machine.
    """
    if names == "all":
        return list(LEVELS.values())
    if names == "host":
        names = ",".join(levels_of_machine()[:1])
        if not names:
            raise BuildError("there is no level for this kind of machine")
    unknown = set(names.split(",")) - LEVELS.keys()
    if unknown:
        raise BuildError(f"levels must be host, all or some of {', '.join(LEVELS)}, got {names!r}")
    needed = {each for name in names.split(",") for each in with_those_below(name)}
    return [level for name, level in LEVELS.items() if name in needed]


if __name__ == "__main__":
    main()
