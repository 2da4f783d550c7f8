"""Damage the files of shipped machine code in random ways: none of it may be loaded.

python -m fastbp.cpu.kernels.ahead --levels all
python -m tests.trials.damaged_libraries --n 1000 --seed 0
"""

import tempfile
from pathlib import Path

from fastbp.cpu import libraries, shipped
from fastbp.cpu.levels import levels_of_machine, with_those_below
from tests.trials import children
from tests.trials.children import RIGHT, WRONG, Trial
from tests.trials.damaged_caches import DAMAGES


def load(folder, level):
    """Load the library for a level; return the exit code that says whether that was right."""
    libraries.FOLDER = folder
    try:
        shipped.load_shipped([level])
    except shipped.NotShippedError:
        return WRONG
    return RIGHT


def main():
    trial = Trial("damaged_libraries", 1000)
    random = trial.random
    whole = {path.name: path.read_bytes() for path in sorted(libraries.FOLDER.glob("*.kernels"))}
    levels = [level for level in levels_of_machine() if libraries.library_path(level).name in whole]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        for level in levels:
            assert children.in_a_child(load, folder, level) == RIGHT, f"{level} was not loaded"
        for number in range(trial.options.n):
            level = levels[random.integers(len(levels))]
            name = f"{with_those_below(level)[-1]}{libraries.SUFFIX}"
            damage = DAMAGES[random.integers(len(DAMAGES))]
            others = [content for other, content in whole.items() if other != name]
            damaged = bytes(damage(random, whole[name], others or [b"\0" * len(whole[name])]))
            if damaged == whole[name]:
                trial.note("changed nothing")
                continue
            (folder / name).write_bytes(damaged)
            code = children.in_a_child(load, folder, level)
            what = f"{damage.__name__} of {name}, number {number}"
            trial.add({WRONG: RIGHT, RIGHT: WRONG}.get(code, code), f"{what}: for {level}")
            (folder / name).write_bytes(whole[name])
    trial.finish()


if __name__ == "__main__":
    main()
