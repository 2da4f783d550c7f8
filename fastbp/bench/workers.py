"""Processes that do their work step by step: a crash or a hang costs one and no more."""

import multiprocessing

# Seconds after which a silent process, while it compiles for instance, is given up.
PATIENCE = 180


class WorkerError(RuntimeError):
    """A worker's process failed; the message is its own."""


class Worker:
    """A process of its own.

    Parameters
    ----------
    work : callable
        Of a module; gets a connection and the arguments. It sends what it finds, or an exception.
    *arguments
    """

    def __init__(self, work, *arguments):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self, patience=None):
        """Wait for the process's next message; give up after `PATIENCE` or these seconds."""
        patience = PATIENCE if patience is None else patience
        try:
            if not self.connection.poll(patience):
                raise WorkerError(f"no answer in {patience} s")
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise WorkerError(f"exit status {self.process.exitcode}") from error
        if isinstance(answer, Exception):
            raise WorkerError(str(answer))
        return answer

    def go(self):
        """Tell the process to go on, and wait for its answer."""
        try:
            self.connection.send("go")
        except OSError as error:
            raise WorkerError(f"exit status {self.process.exitcode}") from error
        return self.answer()

    def close(self):
        """End the process."""
        self.connection.close()
        self.process.join(timeout=2)
        self.process.kill()


def one_line(error, longest=300):
    """An error's type and message in one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= longest else f"{text[:longest]} …"
