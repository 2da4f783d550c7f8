"""How kernels are compiled and cached: numba's options, and a cache that cannot be stale."""

import functools
import hashlib
import os
import tempfile
from pathlib import Path
from types import FunctionType

import llvmlite
import numba
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from fastbp.cpu import elementary

# Everything that speeds sums up without deleting the checks for NaN and infinity.
OPTIONS = {
    "nogil": True,
    "_nrt": False,
    "error_model": "numpy",
    "fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"},
}


class _PartLibrary(JITCodeLibrary):
    """Code to be linked into a kernel, neither optimised nor turned into machine code."""

    def finalize(self):
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    # Python never calls the code: it has neither an address nor an environment.

    @property
    def codegen(self):
        return self

    def set_env(self, env_name, env):
        pass

    def get_pointer_to_function(self, name):
        return 0


class _PartCompiler(CompilerBase):
    """Numba's usual pipeline, into a `_PartLibrary`.

    Otherwise numba optimises and assembles every function on its own and again in each of its
    callers, level by level, which made the cold start three times as long.
    """

    def define_pipelines(self):
        codegen = self.state.targetctx.codegen()
        self.state.library = _PartLibrary(codegen, self.state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


_WITHOUT_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# Called by other kernels only.
kernel = njit(pipeline_class=_PartCompiler, **_WITHOUT_WRAPPERS, **OPTIONS)


def compile_formula(function, **callees):
    """Compile a scalar formula with exp and tanh that turn into vector instructions.

    `callees` are the compiled versions of the formulas that it calls.
    """
    names = {name: getattr(elementary, name) for name in ("exp", "tanh")}
    names = {**function.__globals__, **names, **callees}
    return kernel(FunctionType(function.__code__, names, function.__name__))


@functools.cache
def source_digest():
    """Fingerprint of all source that machine code is made of.

    Numba keys a cached function on its own file alone; an edit of a formula in another file would
    leave the old machine code in use.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).parent.parent
    for path in sorted([*package.glob("*.py"), *package.glob("cpu/*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder():
    """Where machine code is kept: the first writable folder of these, with the fingerprint added.

    FASTBP_CACHE_DIR, NUMBA_CACHE_DIR, the user's cache folder, a private folder among the temporary
    files.

    Returns
    -------
    folder : str or None
        None where nothing can be written; kernels are compiled in every process then.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    user = getattr(os, "getuid", lambda: "user")()
    for root in (
        os.environ.get("FASTBP_CACHE_DIR"),
        os.environ.get("NUMBA_CACHE_DIR"),
        os.path.join(user_cache, "fastbp"),
        os.path.join(tempfile.gettempdir(), f"fastbp-{user}"),
    ):
        if not root:
            continue
        folder = os.path.join(root, f"kernels-{source_digest()}")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            # Machine code is executed: never take it from a folder that is someone else's.
            if hasattr(os, "getuid") and os.stat(folder).st_uid != os.getuid():
                continue
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


class _Locator(_CacheLocator):
    """Puts a function's machine code into `cache_folder`."""

    def __init__(self, py_func, py_file):
        self._name = py_func.__name__
        self._py_file = py_file  # for numba's warnings

    def get_cache_path(self):
        return cache_folder()

    def get_source_stamp(self):
        return source_digest()

    def get_disambiguator(self):
        return self._name

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _KernelCacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (numba's own name)


class _KernelCache(FunctionCache):
    _impl_class = _KernelCacheImpl

    def save_overload(self, sig, data):
        """Save, unless the disk is full or the folder has gone: that must not stop a fit."""
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def cached_kernel(function):
    """Compile a function that Python calls, and keep its machine code on disk."""
    dispatcher = njit(no_cfunc_wrapper=True, **OPTIONS)(function)
    if cache_folder() is not None:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    return dispatcher
