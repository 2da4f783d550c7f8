"""A few files of the trial of mutated files: see `tests.trials.mutated_files` for many."""

import pytest

from tests.trials import mutated_files


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "n_files"),
    [(mutated_files.Models, 150), (mutated_files.Checkpoints, 60), (mutated_files.Idx, 150)],
)
def test_mutated_files_are_refused_or_change_nothing(make, n_files, tmp_path, capsys):
    kind = make(tmp_path)
    found = [mutated_files.use_one(kind, number, "a few") for number in range(n_files)]
    assert mutated_files.FOUND not in found, capsys.readouterr().out
    assert mutated_files.REFUSED in found
