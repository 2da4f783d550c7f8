"""Measure training beyond memory: speed, memory under a limit, accuracy by blocks, a cluster.

    python -m benchmarks.scale                       # all, some 20 minutes; 2 GB of disk
    python -m benchmarks.scale speed --rows 4000000 --folder /ssd
    python -m benchmarks.scale memory accuracy --rows 200000

Run it on a quiet machine: each line says what must be and what was measured.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.scale import accuracy, cluster, memory, speed

STUDIES = {
    "speed": speed.measure,
    "memory": memory.measure,
    "accuracy": accuracy.measure,
    "cluster": cluster.measure,
}


def main(arguments=None):
    """Print a table of the chosen studies' figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("studies", nargs="*", help=f"some of {', '.join(STUDIES)}; all by default")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of 100 float32 columns")
    parser.add_argument("--epochs", type=int, default=4, help="of which the fastest counts")
    parser.add_argument("--folder", type=Path, help="of the files, on the disk to be measured")
    options = parser.parse_args(arguments)
    unknown = {*options.studies} - {*STUDIES}
    if unknown:
        parser.error(f"{sorted(unknown)} are not among the studies {[*STUDIES]}")
    print("| what | must be | measured | met? |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in options.studies or STUDIES:
            for what, bound, measured, is_met in STUDIES[name](Path(folder), options):
                print(f"| {what} | {bound} | {measured} | {'yes' if is_met else '**no**'} |")


if __name__ == "__main__":
    main()
