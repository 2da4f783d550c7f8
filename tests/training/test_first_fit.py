"""The first fit of a process, which imports and compiles: interrupts and forks in its midst."""

import gc
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings

import numpy as np
import pytest
from conftest import small, weights
from processes import call_alone

from fastbp import apart

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and POSIX signals"),
]
PATIENCE = 120  # seconds after which a child is taken to wait for ever


def in_a_child(function, *arguments):
    """Call a function in a forked child; return its exit code, or minus its signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(PATIENCE)
            code = function(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fit_and_compare(expected=None):
    """0 if a fit gives the weights that are expected."""
    model, X, y = small("multiclass", n_threads=1)
    found = weights(model.fit(X, y))
    return int(expected is not None and not np.array_equal(found, expected))


class OnImport:
    """A finder that calls a function once, while a module of numba is being imported."""

    def __init__(self, number, function):
        self.left, self.function = number, function
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path, target=None):
        if name.startswith("numba"):
            self.left -= 1
            if self.left == 0:
                self.function()


# ---- interrupts ---------------------------------------------------------------------------------


def interrupt_import(number):
    """Ctrl-C during the import of the n-th module; then fit twice."""
    assert "numba" not in sys.modules
    heard, threads = threading.Event(), []

    def interrupt():
        threads.append(threading.current_thread())
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.wait(PATIENCE)  # it is raised before the import ends

    OnImport(number, interrupt)
    try:
        fit_and_compare()
        return 1
    except KeyboardInterrupt:
        heard.set()
    assert not threads[0].daemon  # the interpreter waits for it at its end
    return number


def interrupt_imports(numbers):
    """Each in a child, as a process imports only once; with what each comes to, then and later."""

    def interrupt_and_fit(number, expected):
        assert interrupt_import(number) == number
        return fit_and_compare(expected) + fit_and_compare(expected)

    expected = np.array(call_alone(fit_alone))
    return [in_a_child(interrupt_and_fit, number, expected) for number in numbers]


def fit_alone():
    model, X, y = small("multiclass", n_threads=1)
    return weights(model.fit(X, y)).tolist()


def test_an_interrupted_import_of_numba_is_completed():
    """Ctrl-C in the first half second left numba half imported, for good."""
    assert call_alone(interrupt_imports, [1, 2, 5, 40, 90, 150]) == [0] * 6


def interrupt_compilation_of_a_team():
    """Ctrl-C while the kernels of a fit on three threads are compiled."""
    from numba.core.compiler_machinery import PassManager

    from fastbp.cpu import engine, work

    engine.available_threads, work.WORK_PER_THREAD = lambda: 64, 1
    run_pass, heard, passes = PassManager._runPass, threading.Event(), []

    def interrupt(*arguments):
        passes.append(threading.current_thread())
        if len(passes) == 10:
            os.kill(os.getpid(), signal.SIGINT)
            assert heard.wait(PATIENCE)  # the caller is not kept until the end of the compilation
        return run_pass(*arguments)

    PassManager._runPass = interrupt
    model, X, y = small("multiclass", n_threads=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = warnings.filters
        model.fit(X, y)
        heard.set()
        told = [str(each.message) for each in caught]
    for thread in set(passes):
        thread.join()
    # numba exchanges the filters while it compiles; those of this thread were lost.
    restored = warnings.filters is not filters and warnings.showwarning.__module__ == "warnings"
    return told, restored, weights(model.fit(X, y)).tolist()


def test_an_interrupted_compilation_is_completed(tmp_path):
    """A team that compiled could only be interrupted afterwards."""
    told, restored, found = call_alone(
        interrupt_compilation_of_a_team, FASTBP_CACHE_DIR=str(tmp_path)
    )
    assert told == ["Training interrupted by user."]
    assert restored
    model, X, y = small("multiclass", n_threads=1)
    np.testing.assert_array_equal(found, weights(model.fit(X, y)))


def test_what_the_function_raises_and_returns():
    def fail():
        raise LookupError("nothing")

    with pytest.raises(LookupError, match="nothing"):
        apart.call_apart(fail)
    assert apart.call_apart(divmod, 7, 3) == (2, 1)
    assert apart.call_apart(lambda: apart.call_apart(apart.is_apart))  # within itself
    assert not apart.is_apart()


@pytest.mark.parametrize("starts", [0, 1])
def test_without_a_further_thread_the_caller_itself_does_it(monkeypatch, starts):
    """As at a limit of threads, or when the interpreter ends."""

    def refuse(*arguments, **keywords):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(apart.Thread, "start", refuse)
    if not starts:
        monkeypatch.setattr(apart, "start_new_thread", refuse)
    assert apart.call_apart(divmod, 7, 3) == (2, 1)


# ---- forks --------------------------------------------------------------------------------------


def fork_while(start_at):
    """Fork in the midst of another thread's first fit; what the child's fit comes to."""
    begun = threading.Event()
    start_at(begun.set)
    expected, failures = [], []

    def fit():
        try:
            model, X, y = small("multiclass", n_threads=1)
            expected.append(weights(model.fit(X, y)))
        except BaseException as error:
            failures.append(repr(error))

    thread = threading.Thread(target=fit)
    thread.start()
    assert begun.wait(PATIENCE)
    code = in_a_child(fit_and_compare)
    thread.join()
    return code, in_a_child(fit_and_compare, expected[0]), failures


def fork_while_importing():
    return fork_while(lambda begun: OnImport(20, begun))


def fork_while_compiling():
    from numba.core.compiler_machinery import PassManager

    def start_at(begun):
        run_pass, passes = PassManager._runPass, []

        def run(*arguments):
            passes.append(1)
            if len(passes) == 10:
                begun()
            return run_pass(*arguments)

        PassManager._runPass = run

    return fork_while(start_at)


@pytest.mark.parametrize("fork", [fork_while_importing, fork_while_compiling])
def test_a_fork_during_the_first_fit_of_another_thread(fork, tmp_path):
    """The child waited for ever for the lock of a thread that it does not have."""
    assert call_alone(fork, FASTBP_CACHE_DIR=str(tmp_path)) == [0, 0, []]


def fork_while_the_user_imports_numba():
    begun = threading.Event()
    OnImport(20, begun.set)
    thread = threading.Thread(target=importlib.import_module, args=("numba",))
    thread.start()
    assert begun.wait(PATIENCE)
    code = in_a_child(fit_and_compare)
    thread.join()
    return code


def test_a_fork_while_the_user_imports_numba():
    assert call_alone(fork_while_the_user_imports_numba) == 0


def fork_in_spite_of_a_lock():
    """Fork when a lock has not come free in time, from within a compilation."""
    from numba.core.compiler_lock import global_compiler_lock

    from fastbp.cpu.kernels import precautions

    apart._FORK_SECONDS = 0.01
    taken, release, thresholds = threading.Event(), threading.Event(), gc.get_threshold()
    frozen = gc.get_freeze_count()  # in Python 3.12 the interpreter's own objects

    def compile_for_ever(signature):
        with global_compiler_lock:
            taken.set()
            release.wait(PATIENCE)

    def see():
        code = fit_and_compare()
        return code + 2 * (gc.get_threshold() != thresholds) + 4 * (gc.get_freeze_count() > frozen)

    kernel = precautions.with_precautions(compile_for_ever)
    thread = threading.Thread(target=kernel, args=(None,))
    thread.start()
    taken.wait(PATIENCE)
    code = in_a_child(see)
    release.set()
    thread.join()
    return code, in_a_child(see)


def test_a_fork_that_waits_no_longer_gives_the_child_locks_of_its_own():
    assert call_alone(fork_in_spite_of_a_lock) == [0, 0]


def fork_during_a_fit():
    """The engines that a child believes to be at work, and the interrupt that came meanwhile."""
    from fastbp.cpu import engine

    fits, goes_on = threading.Event(), threading.Event()

    def stay(report):
        fits.set()
        goes_on.wait(PATIENCE)

    model, X, y = small("multiclass", n_threads=1, max_iter=1, callback=stay)
    thread = threading.Thread(target=model.fit, args=(X, y))
    thread.start()
    fits.wait(PATIENCE)
    code, here = in_a_child(lambda: len(engine._active)), len(engine._active)
    goes_on.set()
    thread.join()
    return code, here


def test_a_child_does_not_count_the_engines_of_its_parent():
    """Its teams were half as large, for life."""
    assert call_alone(fork_during_a_fit) == [0, 1]


def interrupt_a_waiting_fork():
    """Ctrl-C while a fork waits for a compilation: it was ignored."""
    begun, waits, heard = threading.Event(), threading.Event(), threading.Event()
    lock, acquire = apart._locks["preparation"], apart._acquire

    def hold():
        with lock:
            begun.set()
            waits.wait(PATIENCE)
            os.kill(os.getpid(), signal.SIGINT)
            heard.wait(PATIENCE)

    def acquire_and_tell(*arguments):
        waits.set()
        return acquire(*arguments)

    def hear(*arguments):
        heard.set()
        signal.default_int_handler(*arguments)

    apart._acquire = acquire_and_tell
    signal.signal(signal.SIGINT, hear)
    threading.Thread(target=hold).start()
    begun.wait(PATIENCE)
    try:
        in_a_child(lambda: 0)
        while True:  # it comes a moment later, from another thread
            heard.wait(0.01)
    except KeyboardInterrupt:
        return "heard"


def test_an_interrupt_of_a_fork_that_waits_is_raised_afterwards():
    assert call_alone(interrupt_a_waiting_fork) == "heard"
