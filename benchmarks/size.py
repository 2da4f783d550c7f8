"""What a wheel takes, packed and installed: `python -m benchmarks.size dist/fastbp-….whl`.

The wheel is installed by pip, without what it depends on, into a temporary folder. Counted are the
sizes of files there, as `ls -l` shows them, pip's own records of the installation among them.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from fastbp.bench.tables import table

KINDS = {".kernels": "machine code", ".py": "Python", ".pyc": "bytecode, which pip writes"}
OTHERS = "everything else"


def installed_sizes(wheel):
    """Bytes that a wheel adds to an environment.

    Parameters
    ----------
    wheel : path-like

    Returns
    -------
    sizes : dict of int
        By what the files are.
    """
    sizes = dict.fromkeys([*KINDS.values(), OTHERS], 0)
    with tempfile.TemporaryDirectory() as folder:
        command = "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, str(wheel)
        subprocess.run([sys.executable, *command], check=True)
        for path in Path(folder).rglob("*"):
            if path.is_file():
                sizes[KINDS.get(path.suffix, OTHERS)] += path.stat().st_size
    return sizes


def main(arguments=None):
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.size", description=__doc__)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args(arguments).wheel
    sizes = installed_sizes(wheel)
    total, bytecode = sum(sizes.values()), sizes[KINDS[".pyc"]]
    rows = {
        "the wheel": wheel.stat().st_size,
        **sizes,
        "installed, without bytecode": total - bytecode,
        "installed, with bytecode": total,
    }
    print(table(("what", "MB"), [(what, f"{size / 1e6:.2f}") for what, size in rows.items()]))


if __name__ == "__main__":
    main()
