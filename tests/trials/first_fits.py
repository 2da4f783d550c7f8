"""First fits of many processes at once, from an empty cache.

python -m tests.trials.first_fits --n 2 --processes 12
"""

import os
import tempfile
from pathlib import Path

from fastbp import sealed
from tests.trials import children
from tests.trials.children import RIGHT, WRONG, Trial


def fit(expected):
    return RIGHT if children.are_same(children.outcome(), expected) else WRONG


def main():
    trial = Trial("first_fits", 1, processes=12)
    with tempfile.TemporaryDirectory() as folder:
        _, expected = children.reference(Path(folder) / "reference")
        names = {path.name for path in children.kernel_files(Path(folder) / "reference")}
        for number in range(trial.options.n):
            cache = Path(folder) / f"cache{number}"
            os.environ["FASTBP_CACHE_DIR"] = str(cache)
            started = [
                children.start_child(fit, expected, seconds=600)
                for _ in range(trial.options.processes)
            ]
            for child in started:
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                trial.add(code, f"round {number}")
            found = {path.name for path in children.kernel_files(cache)}
            left = list(cache.rglob(f"*{sealed.TEMPORARY}"))
            trial.add(RIGHT if found == names and not left else WRONG, f"left {found}, {left}")
            trial.note("caches looked at")
    trial.finish()


if __name__ == "__main__":
    main()
