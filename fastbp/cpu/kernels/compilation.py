"""How kernels are compiled: numba's options and passes, and what is made of its code."""

from llvmlite import binding
from llvmlite.binding import Linkage
from numba import njit, types
from numba.core import typed_passes, untyped_passes
from numba.core.callconv import RETCODE_NONE, RETCODE_OK
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from fastbp.cpu.kernels.kernel_cache import KernelCache
from fastbp.cpu.kernels.precautions import with_precautions
from fastbp.cpu.kernels.subnormals import BEGIN_FLUSHING, END_FLUSHING, link_modes

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
        for constant in self._final_module.global_variables:
            # Pickled exceptions: where each part has its own, equal parts are not equal.
            if constant.name.startswith(".const.pickle") and not constant.is_declaration:
                constant.linkage = "linkonce_odr"
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

    def _link_missing(self):
        """Link again what nobody called when its turn came, for LLVM then leaves it out.

        Raises
        ------
        RuntimeError
            If there are functions that no part defines: a call would go to address 0.
        """
        missing = set()
        while True:
            functions = self._final_module.functions
            found = {f.name for f in functions if f.is_declaration and f.name.startswith("_ZN")}
            if not found:
                return
            if found == missing:
                raise RuntimeError(f"numba has not linked {', '.join(sorted(missing))}")
            missing = found
            for library in self._linking_libraries:
                module = library._get_module_for_linking()
                defined = {f.name for f in module.functions if not f.is_declaration}
                if missing & defined:
                    self._final_module.link_in(module, preserve=True)

    def _optimize_final_module(self):
        self._link_missing()
        # Nothing outside calls a part: the optimiser may inline it, or drop arguments from its
        # calls. The arrays of a `Memory` alone are 70 arguments.
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr and not function.is_declaration:
                function.linkage = Linkage.internal
        # Numba's first round of passes prunes reference counts, and kernels have none.
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class _ExportedLibrary(_KernelLibrary):
    """A kernel with one C function, by whose address it is called.

    It takes what the kernel takes, addresses and int64, and returns the kernel's int64, 0 for None,
    or -1 where numba would raise an exception. Around the kernel, the thread flushes subnormal
    numbers: see `fastbp.cpu.kernels.subnormals`.
    """

    _FUNCTION = """
        target triple = "{triple}"
        target datalayout = "{layout}"
        declare i32 @"{kernel}"(ptr, ptr, {types})
        declare i64 @"{begin}"()
        declare void @"{end}"(i64)
        define i64 @"{name}"({parameters}) {{
            %result = alloca i64
            %exception = alloca ptr
            %mode = call i64 @"{begin}"()
            %status = call i32 @"{kernel}"(ptr %result, ptr %exception, {parameters})
            call void @"{end}"(i64 %mode)
            %value = load i64, ptr %result
            %with_value = icmp eq i32 %status, {ok}
            %with_none = icmp eq i32 %status, {none}
            %is_right = or i1 %with_value, %with_none
            %returned = select i1 %is_right, i64 %value, i64 -1
            ret i64 %returned
        }}"""

    def _optimize_final_module(self):
        self._export()
        link_modes(self._final_module)
        super()._optimize_final_module()

    def _export(self):
        module = self._final_module
        (kernel,) = (
            function
            for function in module.functions
            if function.linkage == Linkage.external and not function.is_declaration
        )
        types = [str(argument.type) for argument in kernel.arguments][2:]
        function = self._FUNCTION.format(
            triple=module.triple,
            layout=module.data_layout,
            kernel=kernel.name,
            name=exported_name(kernel.name),
            types=", ".join(types),
            parameters=", ".join(f"{kind} %{i}" for i, kind in enumerate(types)),
            ok=RETCODE_OK.constant,
            none=RETCODE_NONE.constant,
            begin=BEGIN_FLUSHING,
            end=END_FLUSHING,
        )
        module.link_in(binding.parse_assembly(function))
        kernel = module.get_function(kernel.name)
        kernel.linkage = Linkage.internal
        # Inlined, its arithmetic could move to where the thread does not flush.
        kernel.add_function_attribute("noinline")


class _LinkedLibrary(_ExportedLibrary):
    """A kernel with all its parts that is neither optimised nor run: for another machine.

    Attributes
    ----------
    bitcode : bytes
    """

    def _optimize_final_module(self):
        self._export()
        self._link_missing()
        self.bitcode = self._final_module.as_bitcode()

    def _finalize_final_module(self):
        self._finalized = True

    @property
    def codegen(self):
        return self

    def set_env(self, env_name, env):
        pass

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0


def exported_name(mangled_name):
    """The name of a kernel's C function, from numba's name of the kernel."""
    return f"fastbp.{mangled_name}"


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


class KernelCompiler(_PartCompiler):
    """Compiles a kernel to machine code."""

    library_class = _KernelLibrary

    def define_pipelines(self):
        pipelines = super().define_pipelines()
        self.state.library.enable_object_caching()
        return pipelines


class ExportingCompiler(KernelCompiler):
    """Compiles a kernel that is called by its address."""

    library_class = _ExportedLibrary


class LinkingCompiler(KernelCompiler):
    """Goes half the way: the kernel's code is linked, and not yet that of a machine."""

    library_class = _LinkedLibrary


PART_OPTIONS = {
    "forceinline": False,  # else inherited from the first caller that is compiled
    "pipeline_class": _PartCompiler,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    "error_model": "numpy",
}
# For functions that only other kernels call.
kernel = njit(nogil=True, fastmath=FASTMATH, **PART_OPTIONS)
# The same, for decisions that Python takes, too: its arithmetic has the bits of Python's.
exact = njit(nogil=True, **PART_OPTIONS)
# The same as `kernel`, for what is called once per tile: LLVM itself would inline it in some places
# only.
inlined = njit(nogil=True, fastmath=FASTMATH, **{**PART_OPTIONS, "forceinline": True})
# The same, for what is called a few times per batch: with all of it inlined, LLVM takes twice as
# long over a kernel.
phase = njit(nogil=True, fastmath=FASTMATH, **{**PART_OPTIONS, "pipeline_class": _PhaseCompiler})


class Exported:
    """A kernel that Python calls, by its address.

    Parameters
    ----------
    function : function
        It takes addresses of records and int64, and returns an int64 that is not negative, or None.

    Attributes
    ----------
    dispatcher : numba dispatcher
        It keeps machine code on disk.
    """

    def __init__(self, function):
        self.function = function
        self.dispatcher = self.dispatcher_of(ExportingCompiler)
        self.dispatcher.compile = with_precautions(self.dispatcher.compile)
        self.dispatcher._cache = KernelCache(function)

    def dispatcher_of(self, compiler):
        """A dispatcher that compiles the kernel in a certain way."""
        options = {**PART_OPTIONS, "pipeline_class": compiler}
        return njit(nogil=True, fastmath=FASTMATH, **options)(self.function)

    def bitcode(self, signature, symbol):
        """The kernel with all its parts for arguments of these types, not optimised.

        Parameters
        ----------
        signature : tuple of numba type
        symbol : str
            The name of its C function.

        Returns
        -------
        bitcode : bytes
            LLVM's, of a module with one external function.
        """
        dispatcher = self.dispatcher_of(LinkingCompiler)
        dispatcher.compile(signature)
        result = dispatcher.overloads[signature]
        module = binding.parse_bitcode(result.library.bitcode)
        module.get_function(exported_name(result.fndesc.mangled_name)).name = symbol
        return module.as_bitcode()

    def address(self, signature):
        """Compile the kernel for arguments of these types, or load it from the cache.

        Parameters
        ----------
        signature : tuple of numba type

        Returns
        -------
        address : int
            Of its C function, valid as long as the process.
        """
        if signature not in self.dispatcher.overloads:
            self.dispatcher.compile(signature)
        result = self.dispatcher.overloads[signature]
        name = exported_name(result.fndesc.mangled_name)
        return result.library.get_pointer_to_function(name)
