"""The command `python -m benchmarks.gpu`; its exit status is 0, 1 after failures, 2 without GPU."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.gpu import program
from benchmarks.gpu.tables import document
from fastbp.cuda import toolkit


def main(arguments=None):
    """Check the CUDA engine against the CPU's, then time it against its peers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    option = parser.add_argument
    option("--only", action="append", choices=program.SECTIONS, metavar="SECTION",
           help=f"one of {', '.join(program.SECTIONS)}; may be repeated")  # fmt: skip
    option("--budget", type=float, default=program.BUDGET, metavar="SECONDS",
           help="for everything; what does not fit is skipped (default: %(default)g)")  # fmt: skip
    option("--output", type=Path, default=program.Options.output, metavar="FOLDER",
           help="where the record and its tables go (default: %(default)s)")  # fmt: skip
    given = parser.parse_args(arguments)
    problem = toolkit.problem()
    if problem is not None:
        print(f"No GPU can be used: {problem}", file=sys.stderr)
        return 2
    # The peers' processes share one GPU.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    only = tuple(given.only or program.SECTIONS)
    record, paths = program.run(program.Options(only, given.budget, given.output))
    print(f"\n{document(record)}\nwritten: {', '.join(map(str, paths))}")
    return 1 if record.problems or record.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
