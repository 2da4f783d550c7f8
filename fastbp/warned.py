"""Warnings that name the user's line, also of fits in other threads."""

import sys
import warnings
from contextvars import ContextVar

# In the threads of `fit_many` a list of (message, category), which its caller issues.
postponed_warnings = ContextVar("postponed_warnings", default=None)


def warn(message, category=UserWarning):
    """Warn at the line that called the estimator's method."""
    postponed = postponed_warnings.get()
    if postponed is not None:
        postponed.append((message, category))
        return
    stacklevel, frame = 2, sys._getframe(1)
    # In threads nobody calls the method, and code run by exec may have no name.
    while frame and frame.f_globals.get("__name__", "").startswith(("fastbp.", "sklearn.base")):
        stacklevel, frame = stacklevel + 1, frame.f_back
    warnings.warn(message, category, stacklevel=stacklevel)
