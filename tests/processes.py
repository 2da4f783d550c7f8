"""Functions of the tests that must run in a process of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def call_alone(function, *arguments, **environment):
    """Call a test module's function in a fresh process.

    Parameters
    ----------
    function : callable
        At the top of its module; returns what JSON can say.
    *arguments : object
        What `repr` can say.
    **environment : str
        Environment variables.

    Returns
    -------
    result : object
    """
    done = _run(function, arguments, environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kill_alone(function, *arguments):
    """Call a function that ends its own, fresh process by `kill_this_process`."""
    done = _run(function, arguments, {})
    assert done.returncode == -signal.SIGKILL, done.stderr


def kill_this_process(*_):
    """Nothing after it is run: no clean-up, and no thread goes on."""
    os.kill(os.getpid(), signal.SIGKILL)


def _run(function, arguments, environment):
    module, name = function.__module__, function.__name__
    program = f"import json, {module}; print(json.dumps({module}.{name}(*{arguments!r})))"
    home = Path(function.__code__.co_filename).parent
    path = os.pathsep.join(map(str, [TESTS.parent, TESTS, home]))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
