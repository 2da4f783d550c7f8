"""One live line of a fit, or of `fit_many`: verbose="progress"."""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from math import isfinite
from threading import Lock

from fastbp.late import imported
from fastbp.progress import short, who_waits

INTERVAL = 0.1  # seconds from one drawing of the line to the next
PRINT_INTERVAL = 10.0  # the same where lines cannot be drawn over
WIDTH = 24  # of a bar of characters


def is_notebook():
    """Whether IPython runs in a notebook's kernel, which is no terminal but can draw."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_ipython is None else get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class Printed:
    """A line in plain text: drawn over itself in a terminal, else printed now and then.

    Parameters
    ----------
    total : int
    what : str
        What is counted.
    draws : bool
        Whether the output takes a carriage return.
    """

    def __init__(self, total, what, draws):
        self.total, self.what, self.draws = total, what, draws
        self.interval = INTERVAL if draws else PRINT_INTERVAL
        self.stream, self.length, self.began = sys.stdout, 0, time.perf_counter()

    def show(self, done, facts, *, ended=False):
        """Draw or print the line."""
        passed = time.perf_counter() - self.began
        left = passed / done * (self.total - done) if done else 0.0
        parts = [f"{done}/{self.total} {self.what}", *facts, f"{_clock(passed)} passed"]
        if not ended:
            parts.append(f"{_clock(left)} left")
        filled = WIDTH * done // self.total
        bar = f"[{'#' * filled}{'.' * (WIDTH - filled)}] " if self.draws else ""
        line = bar + ", ".join(parts)
        if self.draws:
            start, end = "\r", "\n" if ended else ""
            line, self.length = line.ljust(self.length), len(line)
        else:
            start, end = "", "\n"
        self.stream.write(start + line + end)
        self.stream.flush()


class DrawnByTqdm:
    """The same by tqdm, which is a widget in notebooks."""

    interval = INTERVAL

    def __init__(self, total, what):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of widgets that are not there
            tqdm = imported("tqdm.auto").tqdm
            self.bar = tqdm(total=total, unit=f" {what}", file=sys.stdout, leave=True)

    def show(self, done, facts, *, ended=False):
        """Draw the line."""
        self.bar.n = done
        self.bar.set_postfix_str(", ".join(facts), refresh=True)
        if ended:
            self.bar.close()


class DrawnByRich:
    """The same by rich."""

    interval = INTERVAL

    def __init__(self, total, what):
        progress = imported("rich.progress")
        self.progress = progress.Progress(
            progress.BarColumn(WIDTH),
            progress.MofNCompleteColumn(),
            progress.TextColumn(what + " {task.fields[facts]}"),
            progress.TimeRemainingColumn(),
            console=imported("rich.console").Console(file=sys.stdout),
            auto_refresh=False,
        )
        self.task = self.progress.add_task("", total=total, facts="")
        self.progress.start()

    def show(self, done, facts, *, ended=False):
        """Draw the line."""
        self.progress.update(self.task, completed=done, facts=", ".join(facts), refresh=True)
        if ended:
            self.progress.stop()


def make_line(total, what):
    """The line that the output can show, by the best of the packages that are there."""
    draws = (sys.stdout is not None and sys.stdout.isatty()) or is_notebook()
    if draws:
        if find_spec("tqdm") is not None:
            return DrawnByTqdm(total, what)
        if find_spec("rich") is not None:
            return DrawnByRich(total, what)
    return Printed(total, what, draws)


class ProgressLine:
    """A watcher of one fit.

    Parameters
    ----------
    max_iter : int
        Epochs at most.
    """

    def __init__(self, max_iter):
        self.line = make_line(max_iter, "epochs")
        self.shown, self.last, self.epochs = time.perf_counter(), None, []

    def before_epoch(self):
        """Do nothing."""

    def after_epoch(self, report):
        """Draw the line, if it is time: a short epoch must not wait for it."""
        self.last = report
        self.epochs.append((report.n_samples, report.seconds))
        now = time.perf_counter()
        if now - self.shown >= self.line.interval:
            self.shown = now
            self.line.show(report.n_iter, self._facts())

    def finish(self, fit):
        """Do nothing."""

    def close(self):
        """Leave the line as it is at the end."""
        if self.last is not None:
            self.line.show(self.last.n_iter, self._facts(), ended=True)

    def _facts(self):
        report = self.last
        facts = [f"loss {report.loss:.4g}"]
        if report.validation_score is not None:
            facts.append(f"score {report.validation_score:.4g}")
        rows, seconds = map(sum, zip(*self.epochs, strict=True))
        if seconds > 0:
            facts.append(f"{short(rows / seconds)} rows/s")
        if report.seconds_waiting is not None:
            facts.append(who_waits(report.seconds_waiting, report.seconds))
        self.epochs = self.epochs[-1:]  # those since the last drawing
        return facts


@contextmanager
def line_of_fits(members):
    """One line for all fits of `fit_many` whose estimators have verbose="progress"."""
    shown = [member for member in members if isinstance(member.estimator.verbose, str)]
    if not shown:
        yield
        return
    line, lock, ended, drawn = make_line(len(shown), "fits"), Lock(), 0, time.perf_counter()

    def count():
        nonlocal ended, drawn
        with lock:  # they end in several threads
            ended, now = ended + 1, time.perf_counter()
            if now - drawn >= line.interval:
                drawn = now
                line.show(ended, [])

    for member in shown:
        member.after.append(count)
    try:
        yield
    finally:
        line.show(ended, [], ended=True)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds) if isfinite(seconds) else 0, 60)
    return f"{minutes}:{seconds:02d}"
