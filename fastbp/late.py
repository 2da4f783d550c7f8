"""Modules that most processes never need, imported at their first use."""

from functools import cache
from importlib import import_module

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
