"""Modules that most processes never need, imported at their first use."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from fastbp.apart import call_apart


@cache
def imported(name):
    """Import a module, completely even if Ctrl-C comes meanwhile.

    What stands at the top of a file is paid for by every process. What only some need, such as
    scikit-learn's metrics, is imported by this function where it is used: in the midst of a fit,
    an interrupt must not leave it half imported for the rest of the process.

    Parameters
    ----------
    name : str
        The module's full name.

    Returns
    -------
    module : module

    Examples
    --------
    >>> imported("sklearn.metrics").accuracy_score([1, 1], [1, 0])
    0.5
    """
    return call_apart(import_module, name)


def postpone(name):
    """Let a package be imported when something of it is first used, whoever imports it before.

    Only for programs of our own, since it changes what `import` does in the whole process:
    scikit-learn imports `scipy.stats`, half of its own import's time, for one function that
    training does not call.

    Parameters
    ----------
    name : str
        The package's full name.
    """
    if name in sys.modules:
        return
    stand_in, spec = ModuleType(name), find_spec(name)
    stand_in.__spec__, stand_in.__path__ = spec, spec.submodule_search_locations

    def load(attribute):
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    stand_in.__getattr__ = load
    sys.modules[name] = stand_in
