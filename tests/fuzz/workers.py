"""Processes that run sequences, watched: a crash or a hang is a finding, not the end."""

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field

from tests.fuzz.oracles import Finding
from tests.fuzz.runner import Unusable, run_script

SECONDS_TO_START = 600  # with an empty cache all kernels are compiled


def serve(connection, log, prepare):
    """A worker's whole life: run the scripts that come, and answer what was found."""
    faulthandler.enable(open(log, "w"))  # noqa: SIM115, open as long as the process lives
    try:
        from fastbp.cpu.code import warm_up

        warm_up()
        if prepare is not None:
            prepare()
        connection.send("ready")
        while True:
            script = connection.recv()
            connection.send(answer_to(script, connection))
    except (EOFError, OSError, KeyboardInterrupt):
        os._exit(0)


def answer_to(script, connection):
    """Run a script; return None, "unusable", or a finding's fields and the call's number."""
    try:
        found = run_script(script, connection.send)
    except Unusable:
        return "unusable"
    except Exception:
        lines = traceback.format_exc().splitlines()
        return "error in the fuzz program", "\n# ".join(lines[-8:]), "", lines[-1], 0
    return None if found is None else (*found.args, found.call)


@dataclass
class Worker:
    """One process.

    Parameters
    ----------
    seconds : float
        A script that takes longer hangs.
    prepare : callable or None
        Called in the process before the first script.
    """

    seconds: float = 20.0
    prepare: object = None
    job: object = field(init=False, default=None)  # whatever the script belongs to

    def __post_init__(self):
        self._start()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        handle, self._log = tempfile.mkstemp(prefix="fastbp-fuzz-", suffix=".log")
        os.close(handle)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._log, self.prepare), daemon=True
        )
        self._process.start()
        theirs.close()
        self._call, self.is_ready, self._began = None, False, time.monotonic()

    def submit(self, script, job=None):
        """Let the process run a script."""
        self.job, self._call, self._began = job, 0, time.monotonic()
        self.connection.send(script)

    def collect(self):
        """What has come: "ready", "waiting", None, "unusable" or a Finding, once each."""
        limit = self.seconds if self.is_ready else SECONDS_TO_START
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, int):
                    self._call = message
                    continue
                if message == "ready":
                    self.is_ready = True
                    return message
                if isinstance(message, tuple):
                    *arguments, call = message
                    message = Finding(*arguments)
                    message.call = call
                return message
        except (EOFError, OSError):
            self._process.join(5)
            return self._ended("crash", f"the process ended with {self._process.exitcode}")
        if time.monotonic() - self._began > limit:
            if hasattr(signal, "SIGABRT"):  # it writes where it hangs
                os.kill(self._process.pid, signal.SIGABRT)
                self._process.join(5)
            return self._ended("hang", f"no answer within {limit:g} s")
        return "waiting"

    def _ended(self, oracle, what):
        """Start a new process in place of one that crashed or hangs."""
        was_ready, call = self.is_ready, self._call
        self.close()
        with open(self._log) as log:
            frames = [line.strip() for line in log if "fastbp/" in line and "tests/" not in line]
        os.remove(self._log)
        if not was_ready:
            raise RuntimeError(f"A worker could not start: {what}.")
        finding = Finding(oracle, f"{what}; {frames[0] if frames else 'no trace'}", place="")
        finding.call = call or 0
        self._start()
        return finding

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def run_alone(worker, script):
    """Run one script in a worker and wait for what is found."""
    while not worker.is_ready:
        worker.connection.poll(0.1)
        worker.collect()
    worker.submit(script)
    while True:
        worker.connection.poll(0.1)
        answer = worker.collect()
        if answer not in ("waiting", "ready"):
            return answer
