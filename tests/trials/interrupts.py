"""SIGINT, and handlers of SIGALRM that raise, at random moments: heard at once, later calls right.

    python -m tests.trials.interrupts --n 200 --seed 0

So many of each kind. A fit takes KeyboardInterrupt as the wish to end it, and returns.
"""

import contextlib
import os
import signal
import tempfile
import time
import warnings

import numpy as np
from sklearn.base import clone

from tests.trials import children
from tests.trials.children import RIGHT, WRONG, Trial

LATE = 65  # exit code: it took longer than this until the call had ended
LATEST_SECONDS = 1.0
FIRST_FIT, FIT, PREDICT, MANY = "first fit", "fit", "predict", "fit_many"


class LateError(Exception):
    """What the handler of SIGALRM raises."""


def fit(model):
    children.task()[0].set_params(max_iter=10**6, n_iter_no_change=10**6, n_threads=2).fit(
        *children.task()[1:]
    )


def predict(model):
    _, X, _ = children.task()
    while True:
        model.predict(np.tile(X, (200, 1)))  # freed at once if it is interrupted


def fit_many(model):
    import fastbp

    model, X, y = children.task()
    model.set_params(max_iter=50)
    while True:
        fastbp.fit_many([clone(model) for _ in range(20)], X, y)


CALLS = {FIRST_FIT: fit, FIT: fit, PREDICT: predict, MANY: fit_many}


def be_interrupted(what, with_alarm, delay, again, expected):
    """Call what never ends, until the signal comes; then call again, twice."""
    came = []

    def hear(number, frame):
        while frame and frame.f_code is not CALLS[what].__code__:
            frame = frame.f_back
        if frame:  # not in the trial itself
            came.append(time.monotonic())
            raise LateError if with_alarm else KeyboardInterrupt

    warnings.simplefilter("ignore")
    wide = None
    if what != FIRST_FIT:
        children.outcome()
        model, X, y = children.task()
        wide = model.set_params(hidden_layer_sizes=(600, 600), max_iter=1, n_threads=2).fit(X, y)
    for kind in (signal.SIGINT, signal.SIGALRM):
        signal.signal(kind, hear)
    parent = os.getpid()
    try:
        if with_alarm:
            signal.setitimer(signal.ITIMER_REAL, delay, again or 0.5)
        elif os.fork() == 0:
            while os.getppid() == parent:  # the first may come before the call
                time.sleep(delay)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(parent, signal.SIGINT)
                delay = 0.5
            os._exit(0)
        CALLS[what](wide)
    except (LateError, KeyboardInterrupt):
        pass
    ended = time.monotonic()
    for kind in (signal.SIGINT, signal.SIGALRM):
        signal.signal(kind, signal.SIG_IGN)
    if ended - came[0] > LATEST_SECONDS:
        print(f"{what}: heard after {ended - came[0]:.2f} s, {len(came)} signals")
        return LATE
    for _ in range(2):
        if not children.are_same(children.outcome(), expected):
            return WRONG
    return RIGHT


def main():
    trial = Trial("interrupts", 200, calls=",".join(CALLS))
    calls = trial.options.calls.split(",")
    with tempfile.TemporaryDirectory() as cache:
        _, expected = children.reference(cache)
        for number in range(2 * trial.options.n):
            with_alarm = number % 2 == 1
            what = calls[trial.random.integers(len(calls))]
            delay = trial.random.uniform(0.001, 1.2)
            # A watchdog that barks again and again, in a third of the cases.
            again = 0.001 if with_alarm and trial.random.integers(3) == 0 else 0.0
            code = children.in_a_child(be_interrupted, what, with_alarm, delay, again, expected)
            trial.note(f"of a {what}")
            trial.add(code, f"{what}, {'alarm' if with_alarm else 'SIGINT'} at {delay:.3f} s")
    trial.finish()


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
