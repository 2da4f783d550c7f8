"""The cache of machine code on disk: nothing damaged, stale or foreign is ever run.

One file for each kernel and signature, sealed by a digest that is checked before anything is
unpickled. Numba's own cache has an index besides, no digest, and follows only one source file.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
from pathlib import Path

import llvmlite
import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from fastbp import cache, sealed
from fastbp.cache import is_trusted
from fastbp.cpu.libraries import fingerprint_of, source_names

SUFFIX = ".kernel"  # of the files


@functools.cache
def source_digest():
    """Fingerprint of all source that is compiled to machine code, and of the compilers.

    None where the sources are not on disk: then nothing tells what machine code was made from.

    Numba keys a cached function on its own file alone; an edit of a formula in another file would
    leave the old machine code in use.
    """
    fingerprint = fingerprint_of(source_names())
    versions = f"{numba.__version__} {llvmlite.__version__}"
    return fingerprint and hashlib.sha256(f"{fingerprint} {versions}".encode()).hexdigest()[:16]


@functools.cache
def _folder_name():
    return f"kernels-{source_digest()}"


def kernel_folder():
    """Path of the folder for this source's machine code; None where there is none to be used."""
    return next(iter(kernel_folders()), None)


def kernel_folders():
    """Paths of the folders to look for machine code; only the last may be written to."""
    return cache.cache_folders(_folder_name()) if source_digest() else ()


def warn_of_refused_folders():
    """Warn, once, of a folder that was asked for by name and is not used."""
    if source_digest():
        cache.warn_of_refused_folders(_folder_name())


class KernelCache:
    """What numba's dispatcher asks for machine code; its failures cost time and nothing else.

    Parameters
    ----------
    function : function
        The kernel. One with a closure is not kept: what it closes over has no lasting name.

    Attributes
    ----------
    n_compiled : int
        Kernels that this process has compiled, since the cache did not have them; of the class.
    """

    n_compiled = 0

    def __init__(self, function):
        code = function.__code__
        self.name = f"{Path(code.co_filename).stem}.{function.__qualname__}"
        self._source = repr((code.co_code, code.co_names, code.co_consts))
        self._is_enabled = function.__closure__ is None

    # ---- the interface that numba's dispatcher uses -------------------------------------------

    @property
    def cache_path(self):
        return kernel_folder()

    def enable(self):
        self._is_enabled = True

    def disable(self):
        self._is_enabled = False

    def flush(self):
        """Forget what is kept, as before numba's `recompile`."""
        for folder in kernel_folders():
            for path in Path(folder).glob(f"{self._file_stem()}-*{SUFFIX}"):
                _remove(path)

    def load_overload(self, sig, target_context):
        """Load machine code that was kept for a signature; None where there is none to be trusted.

        Numba's own method first prepares to compile, which takes three times as long and 30 MB.
        """
        if not self._is_enabled:
            return None
        label = self.label(sig, target_context.codegen())
        for folder in kernel_folders():
            path = os.path.join(folder, self.file_name(label))
            try:
                content = sealed.unseal(sealed.read(path, is_trusted), label)
                payload = pickle.loads(content)
                result = CompileResult._rebuild(target_context, *payload)
            except OSError:
                continue  # mostly because there is none
            except Exception:  # damaged; or, where the digest is right, numba's refusal
                _remove(path)
                continue
            if tuple(result.signature.args) == tuple(sig):
                return result
        return None

    def save_overload(self, sig, data):
        """Keep machine code, unless the disk is full, or the folder is gone or cannot be written.

        Parameters
        ----------
        sig : tuple of numba type
        data : numba.core.compiler.CompileResult
        """
        KernelCache.n_compiled += 1
        if not self._is_enabled or data.lifted or data.library.has_dynamic_globals:
            return
        label = self.label(sig, data.codegen)
        content = None
        for folder in reversed(kernel_folders()):
            with contextlib.suppress(OSError):
                sealed.remove_abandoned(folder)
                content = content or sealed.seal(dumps(data._reduce()), label)
                sealed.write(os.path.join(folder, self.file_name(label)), content)
                return

    # ---- files --------------------------------------------------------------------------------

    def label(self, sig, codegen):
        """All that machine code depends on, which its digest covers.

        Returns
        -------
        label : str
            Names the kernel, its source, its arguments' types, the versions and the CPU.
        """
        parts = (
            self.name, self._source, source_digest(), sys.implementation.cache_tag,
            numba.__version__, llvmlite.__version__, str(sig), *codegen.magic_tuple(),
        )  # fmt: skip
        return "\n".join(map(str, parts))

    def file_name(self, label):
        """The name of a label's file, by which no two are confused."""
        return f"{self._file_stem()}-{hashlib.sha256(label.encode()).hexdigest()[:24]}{SUFFIX}"

    def _file_stem(self):
        return "".join(c for c in self.name if c.isalnum() or c in "._")


def _remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)
