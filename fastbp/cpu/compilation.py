"""How kernels are compiled and cached: numba's options, and a cache that cannot be stale."""

import contextlib
import functools
import gc
from pathlib import Path

import llvmlite
import numba
from llvmlite.binding import Linkage
from numba import njit, types
from numba.core import typed_passes, untyped_passes
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from fastbp.cache import cache_folder, digest_of

# All flags that speed up sums, except those that would delete checks for NaN and infinity.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


class _PartLibrary(JITCodeLibrary):
    """Code to be linked into kernels, neither optimised nor turned into machine code itself.

    Python never calls it: it has neither an address nor an environment.
    """

    stays_apart = False  # whether it may not be inlined

    def finalize(self):
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"
                if self.stays_apart:
                    function.add_function_attribute("noinline")
        self._finalized = True

    def _get_module_for_linking(self):
        return self._final_module

    @property
    def codegen(self):
        return self

    def set_env(self, env_name, env):
        pass

    def get_pointer_to_function(self, name):
        return 0


class _PhaseLibrary(_PartLibrary):
    stays_apart = True


class _KernelLibrary(JITCodeLibrary):
    """A kernel with all its parts, linked, optimised and turned into machine code once."""

    def add_linking_library(self, library):
        super().add_linking_library(library)
        if isinstance(library, _PartLibrary):
            for part in library._linking_libraries:
                if part not in self._linking_libraries:
                    self.add_linking_library(part)

    def _optimize_final_module(self):
        # Nothing outside calls a part: the optimiser may inline it, or drop arguments from its
        # calls. The arrays of a `Memory` alone are 70 arguments.
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr and not function.is_declaration:
                function.linkage = Linkage.internal
        # Numba's first round of passes prunes reference counts, and kernels have none.
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


# Annotations are for people, and keep all of numba's intermediate code in memory. The other passes
# handle closures, array expressions, `with`, exceptions and the like, which kernels do not use.
_NEEDLESS_PASSES = {
    typed_passes.AnnotateTypes,
    typed_passes.DumpParforDiagnostics,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
    typed_passes.NoPythonSupportedFeatureValidation,
    untyped_passes.FindLiterallyCalls,
    untyped_passes.InlineClosureLikes,
    untyped_passes.InlineInlinables,
    untyped_passes.LiteralPropagationSubPipelinePass,
    untyped_passes.LiteralUnroll,
    untyped_passes.MakeFunctionToJitFunction,
    untyped_passes.RewriteDynamicRaises,
    untyped_passes.WithLifting,
}


class _RememberingTyper:
    """Numba's typing context with a cache: each function is resolved once for given types.

    Numba itself tries a function's definitions again at each use: addition's at 160 uses, for only
    ten pairs of types.
    """

    _known = {}  # noqa: RUF012 (one for all kernels)

    def __init__(self, typing_context):
        self._context = typing_context

    def __getattr__(self, name):
        return getattr(self._context, name)

    def resolve_function_type(self, function, arguments, keywords):
        if keywords or isinstance(function, types.Dispatcher):
            return self._context.resolve_function_type(function, arguments, keywords)
        use = function, tuple(arguments)
        if use not in self._known:
            self._known[use] = self._context.resolve_function_type(function, arguments, keywords)
        return self._known[use]


class _PartCompiler(CompilerBase):
    """Numba's usual pipeline, without needless passes and into another kind of library.

    Numba itself optimises and assembles every function on its own, and again in each of its
    callers, level by level: the cold start took three times as long.
    """

    library_class = _PartLibrary

    def define_pipelines(self):
        codegen, name = self.state.targetctx.codegen(), self.state.func_id.func_qualname
        self.state.library = self.library_class(codegen, name)
        self.state.typingctx = _RememberingTyper(self.state.typingctx)
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [step for step in pipeline.passes if step[0] not in _NEEDLESS_PASSES]
        pipeline.finalize()
        return [pipeline]


class _PhaseCompiler(_PartCompiler):
    library_class = _PhaseLibrary


class _KernelCompiler(_PartCompiler):
    library_class = _KernelLibrary

    def define_pipelines(self):
        pipelines = super().define_pipelines()
        self.state.library.enable_object_caching()
        return pipelines


PART_OPTIONS = {
    "pipeline_class": _PartCompiler,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    "error_model": "numpy",
}
# For functions that only other kernels call.
kernel = njit(nogil=True, fastmath=FASTMATH, **PART_OPTIONS)
# The same, for what is called once per tile: LLVM itself would inline it in some places only.
inlined = njit(nogil=True, fastmath=FASTMATH, forceinline=True, **PART_OPTIONS)
# The same, for what is called a few times per batch: with all of it inlined, LLVM takes twice as
# long over a kernel.
phase = njit(nogil=True, fastmath=FASTMATH, **{**PART_OPTIONS, "pipeline_class": _PhaseCompiler})


@functools.cache
def source_digest():
    """Fingerprint of all source that is compiled to machine code, and of the compilers.

    Numba keys a cached function on its own file alone; an edit of a formula in another file would
    leave the old machine code in use.
    """
    folder = Path(__file__).parent
    return digest_of(folder.glob("*.py"), f"{numba.__version__} {llvmlite.__version__}")


@functools.cache
def kernel_folder():
    """Path of the folder for this source's machine code; None where nothing can be written."""
    return cache_folder(f"kernels-{source_digest()}")


class _Locator(_CacheLocator):
    """Puts a function's machine code into `kernel_folder`."""

    def __init__(self, py_func, py_file):
        self._name = py_func.__name__
        self._py_file = py_file  # for numba's warnings

    def get_cache_path(self):
        return kernel_folder()

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
    """Numba's cache, except that its failures cost time and nothing else."""

    _impl_class = _KernelCacheImpl

    def load_overload(self, sig, target_context):
        """Load, unless the files are damaged or were mixed up by processes that wrote at once.

        Numba's own method first prepares to compile, which takes three times as long and 30 MB.
        """
        try:
            with self._guard_against_spurious_io_errors():
                result = self._load_overload(sig, target_context)
        except Exception:  # a damaged pickle may raise anything
            with contextlib.suppress(OSError):
                self.flush()
            return None
        return result if result and tuple(result.signature.args) == tuple(sig) else None

    def save_overload(self, sig, data):
        """Save, unless the disk is full, or the folder has gone or cannot be written to."""
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def cached_kernel(function):
    """Compile a function that Python calls, and keep its machine code on disk."""
    options = {**PART_OPTIONS, "pipeline_class": _KernelCompiler, "no_cpython_wrapper": False}
    dispatcher = njit(nogil=True, fastmath=FASTMATH, **options)(function)
    dispatcher.compile = _sparing_the_collector(dispatcher.compile)
    if kernel_folder() is not None:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    return dispatcher


# Arguments of gc.set_threshold while kernels are compiled.
_COLLECTOR_THRESHOLDS = 1000, 3, 2


def _sparing_the_collector(compile_kernel):
    """Wrap a compilation so that the cycle collector visits only the objects that it creates.

    Visiting all that had been imported, again and again, took a sixth of the time; no collection at
    all took 30 MB more.
    """

    @functools.wraps(compile_kernel)
    def compile_and_restore(signature):
        if gc.get_freeze_count():  # the user's, or another thread's compilation
            return compile_kernel(signature)
        thresholds = gc.get_threshold()
        gc.freeze()
        if thresholds[0]:
            gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        try:
            return compile_kernel(signature)
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    return compile_and_restore
