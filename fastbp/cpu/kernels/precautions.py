"""What a compilation must not do to the process that it runs in, nor the process to it."""

import contextlib
import functools
import gc
import os
from threading import get_ident

from numba.core import errors
from numba.core.compiler_lock import global_compiler_lock

from fastbp.apart import call_apart, is_apart
from fastbp.cpu.kernels import jit_enabled


def with_precautions(compile_kernel):
    """Wrap a dispatcher's way to compile: in any case, to its end, and without wasting time.

    Parameters
    ----------
    compile_kernel : callable
        Takes a signature.
    """
    return _completed(_in_any_case(_sparing_the_collector(compile_kernel)))


def _completed(compile_kernel):
    """Wrap a compilation so that it is completed even if its caller is interrupted."""

    @functools.wraps(compile_kernel)
    def compile_apart(signature):
        if global_compiler_lock.is_locked():  # by this thread: it compiles what calls this kernel
            return compile_kernel(signature)
        return call_apart(compile_kernel, signature)

    return compile_apart


def _in_any_case(compile_kernel):
    """Wrap a compilation so that NUMBA_DISABLE_JIT does not stop it."""

    @functools.wraps(compile_kernel)
    def compile_enabled(signature):
        with jit_enabled():
            return compile_kernel(signature)

    return compile_enabled


def _sparing_the_filters(catch_warnings):
    """Wrap numba's way to catch warnings: not while compiling apart.

    It exchanges the filters of the whole process. If the thread that waits is interrupted, and
    leaves a `with catch_warnings()` of its own meanwhile, then each restores what it found: all
    later warnings of the process went into a list that nobody reads.
    """

    @contextlib.contextmanager
    def catch(self, filename=None, lineno=None):
        if is_apart():
            yield
        else:
            with catch_warnings(self, filename, lineno):
                yield

    return catch


errors.WarningsFixer.catch_warnings = _sparing_the_filters(errors.WarningsFixer.catch_warnings)

# Arguments of gc.set_threshold while kernels are compiled.
_COLLECTOR_THRESHOLDS = 1000, 3, 2
_spared = []  # the thread that compiles, and the user's thresholds


def _sparing_the_collector(compile_kernel):
    """Wrap a compilation so that the cycle collector visits only the objects that it creates.

    Visiting all that had been imported, again and again, took a sixth of the time; no collection at
    all took 30 MB more.
    """

    @functools.wraps(compile_kernel)
    def compile_and_restore(signature):
        if gc.get_freeze_count():  # the user's, or another thread's compilation; Python 3.12's own
            return compile_kernel(signature)
        _spared.append((get_ident(), gc.get_threshold()))
        gc.freeze()
        if gc.get_threshold()[0]:
            gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        try:
            return compile_kernel(signature)
        finally:
            _restore_the_collector()

    return compile_and_restore


def _restore_the_collector():
    gc.set_threshold(*_spared.pop()[1])
    gc.unfreeze()


def _restore_in_a_child():
    """After a fork that has not waited for a compilation any longer."""
    if _spared and _spared[0][0] != get_ident():
        _restore_the_collector()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore_in_a_child)
