"""Work that must not be left half done, although Ctrl-C or a fork may come at any time.

A module that is half imported stays so for the rest of the process, and so does what a compiler has
half registered. Imports and compilations are therefore done in a thread of their own, where no
signal's handler runs; and a fork waits for them, since its child would have their locks, but not
the threads that release them.
"""

import contextlib
import ctypes
import importlib
import os
import sys
import time
from _thread import allocate_lock, start_new_thread
from contextvars import copy_context
from threading import RLock, Thread, get_ident, local

_LOOK_SECONDS = 0.05  # how often a thread that waits listens to exceptions from other threads
_FORK_SECONDS = 120.0  # how long a fork waits for each lock at most
_DELIVERY_SECONDS = 0.01

_state = local()
# Held during each import and compilation. In a dict, as a child may need another one.
_locks = {"preparation": RLock()}


def call_apart(function, *arguments):
    """Call a function in another thread, which completes it even if this one is interrupted.

    Parameters
    ----------
    function : callable
        Only one at a time runs, in the caller's `contextvars.Context`.
    *arguments : object

    Returns
    -------
    result : object

    Raises
    ------
    BaseException
        What the function has raised or, at once, what a signal's handler raises in this thread.
    """
    if is_apart():
        return function(*arguments)  # a preparation of a preparation
    outcome, end, context = [], allocate_lock(), copy_context()

    def work():
        _state.prepares = True
        try:
            with _locks["preparation"]:
                outcome.append((context.run(function, *arguments), None))
        except BaseException as error:  # raised in the caller
            outcome.append((None, error))
        finally:
            _state.prepares = False
            end.release()

    def enter():
        # At its end the interpreter waits for such threads: LLVM must not be torn down at work.
        try:
            Thread(target=work, name="fastbp-preparation", daemon=False).start()
        except RuntimeError:  # no more threads, or the interpreter is at its end
            work()

    end.acquire()
    try:
        start_new_thread(enter, ())  # where no signal's handler can interrupt Thread.start
    except RuntimeError:
        work()
    while not end.acquire(timeout=_LOOK_SECONDS):
        pass
    result, error = outcome.pop()
    if error is not None:
        raise error
    return result


def is_apart():
    """Whether this is a thread of `call_apart`."""
    return getattr(_state, "prepares", False)


def wait_whatever_comes(is_over, seconds):
    """Wait until a condition holds, whatever exceptions the handlers of signals raise meanwhile.

    The loops are nested because a further signal may come while an exception is being handled.

    Parameters
    ----------
    is_over : callable
    seconds : float
        How often to look.
    """
    while True:
        try:
            while True:
                try:
                    while True:
                        try:
                            while not is_over():
                                time.sleep(seconds)
                            return
                        except BaseException:
                            continue
                except BaseException:
                    continue
        except BaseException:
            continue


# ---- forks --------------------------------------------------------------------------------------


def _owners_of_locks():
    """Who has a lock that preparations need, outermost first: (object, name of the attribute)."""
    yield _locks, "preparation"
    compiler = sys.modules.get("numba.core.compiler_lock")
    compiler_lock = getattr(compiler, "global_compiler_lock", None)
    if hasattr(compiler_lock, "_lock"):
        yield compiler_lock, "_lock"
    llvm = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    llvm_lock = getattr(llvm, "_lock", None) if llvm is not None else None
    if hasattr(llvm_lock, "_lock"):
        yield llvm_lock, "_lock"


def _get(owner, name):
    return owner[name] if isinstance(owner, dict) else getattr(owner, name)


def _replace(owner, name):
    if isinstance(owner, dict):
        owner[name] = RLock()
    else:
        setattr(owner, name, RLock())


def _before_fork():
    """Wait until no other thread imports numba or compiles.

    Exceptions that come meanwhile, as from Ctrl-C, would be lost here: they are raised afterwards.
    """
    _state.held, _state.raised = [], []
    for package in ("llvmlite", "numba"):
        _persist(_finish_import, package)
    for owner, name in _owners_of_locks():
        lock = _get(owner, name)
        if _persist(_acquire, lock, time.monotonic() + _FORK_SECONDS):
            _state.held.append(lock)


def _persist(function, *arguments):
    """Call again until no exception interrupts it."""
    while True:
        try:
            return function(*arguments)
        except ImportError:  # its importing thread's to tell
            return None
        except BaseException as error:
            _state.raised.append(type(error))


def _acquire(lock, deadline):
    return lock.acquire(timeout=max(0, deadline - time.monotonic()))


def _finish_import(package):
    """Wait for another thread that is importing a package."""
    module = sys.modules.get(package)
    if getattr(getattr(module, "__spec__", None), "_initializing", False):
        importlib.import_module(package)  # waits, unless this very thread imports it


def _release():
    held, _state.held = getattr(_state, "held", []), []
    for lock in reversed(held):
        with contextlib.suppress(RuntimeError):
            lock.release()
    return held


def _after_fork_in_parent():
    _release()
    raised, _state.raised = getattr(_state, "raised", []), []
    if raised:
        # From another thread and a little later: what is raised in here is ignored.
        with contextlib.suppress(RuntimeError):
            start_new_thread(_raise_in, (get_ident(), raised[0]))


def _raise_in(thread, exception):
    time.sleep(_DELIVERY_SECONDS)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


def _after_fork_in_child():
    """Release the locks, or make new ones for those that a thread holds that is not here."""
    held = {id(lock) for lock in _release()}
    for owner, name in _owners_of_locks():
        if id(_get(owner, name)) not in held:
            _replace(owner, name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
