"""All that is compiled to machine code, by numba: on the user's machine, or ahead for a wheel."""

import contextlib


@contextlib.contextmanager
def jit_enabled():
    """Let numba compile in spite of NUMBA_DISABLE_JIT, by which users debug functions of theirs.

    Kernels are no Python that could be run: they consist of vector instructions.
    """
    from numba import config

    before = config.DISABLE_JIT
    config.DISABLE_JIT = 0
    try:
        yield
    finally:
        config.DISABLE_JIT = before
