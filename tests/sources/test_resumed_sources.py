"""Checkpoints of fits from sources: the bits of the uninterrupted fit, or a refusal."""

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Crash, crash_after, result
from processes import kill_alone, kill_this_process
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import MLPClassifier, MLPRegressor, container, sources

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks"),
]

SMALL = "8kB"  # of which the rows below need several
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 6, "random_state": 0, "batch_size": 64}


def make_rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(1200, 4)).astype(np.float32)
    return X, np.where(X[:, 0] > X[:, 1], "up", "down"), random.integers(0, 3, 1200) / 2


def cut(X, y, weight=None, size=37):
    """What `from_blocks` takes."""

    def read(block):
        part = slice(block * size, (block + 1) * size)
        return (X[part], y[part], *(() if weight is None else (weight[part],)))

    return -(-len(X) // size), read


def open_source(kind, folder, buffer=SMALL):
    X, y, weight = make_rows()
    if kind == "npy":
        if not (folder / "x.npy").exists():
            np.save(folder / "x.npy", X)
        return sources.from_npy(folder / "x.npy", y, buffer=buffer)
    if kind == "parquet":
        if not (folder / "x.parquet").exists():
            table = pd.DataFrame(X, columns=[*"abcd"]).assign(y=y, weight=weight)
            table.to_parquet(folder / "x.parquet")
        return sources.from_parquet(
            folder / "x.parquet", "y", [*"abcd"], sample_weight="weight", buffer=buffer
        )
    if kind == "batches":
        n_blocks, read = cut(X, y)
        return sources.from_batches([read(block) for block in range(n_blocks)], buffer=buffer)
    given = {"blocks": (X, y), "weighted": (X, y, weight), "numbers": (X, X[:, :2] ** 2)}[kind]
    return sources.from_blocks(*cut(*given), buffer=buffer)


SETTINGS = {
    "npy": {},
    "parquet": {"early_stopping": True, "validation_fraction": 0.2},
    "batches": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.1},
    "blocks": {"early_stopping": True, "dropout": 0.2, "ema_decay": 0.9, "checkpoint_every": 2},
    "weighted": {"drop_last": True, "random_state": np.random.RandomState(3), "warmup": 0.4},
    "numbers": {"scale_targets": True, "learning_rate": "cosine", "solver": "adamw"},
}


def make_model(kind, folder, **changes):
    settings = QUICK | {"checkpoint": folder / "state"} | copy.deepcopy(SETTINGS[kind]) | changes
    return (MLPRegressor if kind == "numbers" else MLPClassifier)(**settings)


def crash(model, source, n_iter, **given):
    """Fit up to the report of an epoch, whose checkpoint is not written any more."""
    with pytest.raises(Crash):
        model.set_params(callback=crash_after(n_iter)).fit(source, **given)


@pytest.mark.parametrize("n_epochs", [1, 2, 5])
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_resumed_fit_is_the_uninterrupted_one(kind, n_epochs, tmp_path):
    source = open_source(kind, tmp_path)
    assert not source.fits
    expected = make_model(kind, tmp_path, checkpoint=None).fit(source)
    crash(make_model(kind, tmp_path), source, n_epochs)
    for _ in range(2):  # and again from the file that the first has finished
        source = open_source(kind, tmp_path)
        resumed = make_model(kind, tmp_path, n_threads=1).fit(source, resume=True)
        assert result(resumed) == result(expected)
    if not expected.early_stopping:
        assert result(resumed.partial_fit(source)) == result(expected.partial_fit(source))


def test_resuming_needs_no_seed(tmp_path):
    """The order of rows, and those held out, are what the file says."""
    source = open_source("blocks", tmp_path)
    np.random.seed(0)  # noqa: NPY002
    expected = make_model("blocks", tmp_path, random_state=None, checkpoint=None).fit(source)
    np.random.seed(0)  # noqa: NPY002
    crash(make_model("blocks", tmp_path, random_state=None), source, 4)
    np.random.seed(1)  # noqa: NPY002
    resumed = make_model("blocks", tmp_path, random_state=None).fit(source, resume=True)
    assert result(resumed) == result(expected)


def test_a_warm_start_is_resumed(tmp_path):
    """Where the last epoch before the crash is not the best: its weights are not adopted."""
    source = open_source("blocks", tmp_path)
    settings = {"warm_start": True, "learning_rate_init": 0.3, "checkpoint_every": 1}
    first = make_model("blocks", tmp_path, **settings, checkpoint=None).fit(source)
    expected = copy.deepcopy(first).fit(source)
    assert len({*expected.validation_scores_[6:]}) > 1
    for n_epochs in (2, 3, 4, 5):
        again = copy.deepcopy(first).set_params(checkpoint=tmp_path / "state")
        crash(copy.deepcopy(again), source, n_epochs)
        assert result(again.fit(source, resume=True)) == result(expected)


def train_until_killed(folder, n_iter):
    """Fit Parquet files without a cache; the report of an epoch is the process's last deed."""
    folder = Path(folder)
    killing = {n_iter: kill_this_process}
    model = make_model("parquet", folder)
    model.set_params(callback=lambda report: killing.get(report.n_iter, id)(report))
    model.fit(open_source("parquet", folder), resume=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_is_killed_twice(tmp_path):
    """Rows are decoded anew, to another file, by each of three processes."""
    expected = make_model("parquet", tmp_path, checkpoint=None)
    expected.fit(open_source("parquet", tmp_path))
    for n_iter in (3, 5):
        kill_alone(train_until_killed, str(tmp_path), n_iter)
    seen = []
    model = make_model("parquet", tmp_path, callback=lambda report: seen.append(report.n_iter))
    model.fit(open_source("parquet", tmp_path), resume=True)
    assert result(model) == result(expected)
    assert seen == [5, 6]


def test_a_file_may_be_elsewhere(tmp_path):
    expected = make_model("npy", tmp_path, checkpoint=None).fit(open_source("npy", tmp_path))
    crash(make_model("npy", tmp_path), open_source("npy", tmp_path), 3)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy2(tmp_path / "x.npy", other / "x.npy")
    (tmp_path / "x.npy").unlink()
    resumed = make_model("npy", tmp_path).fit(open_source("npy", other), resume=True)
    assert result(resumed) == result(expected)


def refused(kind, folder, source, differs, **given):
    with pytest.raises(ValueError, match=f"written with other data: .*{differs}.* differ"):
        make_model(kind, folder).fit(source, resume=True, **given)


def test_other_rows_of_files_are_refused(tmp_path):
    for kind, name, differs in (
        ("npy", "x.npy", "the time of X's file"),
        ("parquet", "x.parquet", "the time of a Parquet file"),
    ):
        make_model(kind, tmp_path).fit(open_source(kind, tmp_path))
        refused(kind, tmp_path, open_source(kind, tmp_path, "7kB"), "buffer")
        refused(kind, tmp_path, open_source(kind, tmp_path, "1MB"), "X")  # an array, then
        os.utime(tmp_path / name, (1, 1))
        refused(kind, tmp_path, open_source(kind, tmp_path), differs)
    columns = sources.from_parquet(
        tmp_path / "x.parquet", "y", [*"abdc"], sample_weight="weight", buffer=SMALL
    )
    refused("parquet", tmp_path, columns, "the columns of X")
    X, y, _ = make_rows()
    make_model("npy", tmp_path).fit(open_source("npy", tmp_path))
    refused("npy", tmp_path, sources.from_npy(tmp_path / "x.npy", y[::-1], buffer=SMALL), "y")
    weighted = sources.from_npy(tmp_path / "x.npy", y, np.full(len(y), 2.0), buffer=SMALL)
    refused("npy", tmp_path, weighted, "sample_weight")
    np.save(tmp_path / "x.npy", X[:-1])
    shorter = sources.from_npy(tmp_path / "x.npy", y[:-1], buffer=SMALL)
    refused("npy", tmp_path, shorter, "the shape of X")


def test_other_blocks_are_refused(tmp_path):
    X, y, _ = make_rows()
    make_model("blocks", tmp_path).fit(open_source("blocks", tmp_path))
    scaled = sources.from_blocks(*cut(2 * X, y), buffer=SMALL)
    refused("blocks", tmp_path, scaled, "the rows of X at the ends of blocks")
    smaller = sources.from_blocks(*cut(X, y, size=36), buffer=SMALL)
    refused("blocks", tmp_path, smaller, "the blocks of X")
    refused("blocks", tmp_path, open_source("weighted", tmp_path), "sample_weight")
    refused("blocks", tmp_path, sources.from_blocks(*cut(X, y[::-1]), buffer=SMALL), "y")


class Worked(sources.Source):
    """A source of the user's own, whose rows are multiples of `factor`."""

    def __init__(self, factor):
        super().__init__(SMALL)
        self.factor, (self.X, self.y, self.sample_weight) = factor, make_rows()
        self.n_features, self.dtype = 4, self.X.dtype
        self.block_rows = np.full(40, 30)

    def open(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def read(self, block, out):
        out[...] = self.factor * self.X[30 * block : 30 * block + 30]


class Known(Worked):
    def fingerprint(self):
        return super().fingerprint() | {"factor": str(self.factor)}


def test_a_source_of_ones_own_may_say_more(tmp_path):
    make_model("blocks", tmp_path).fit(Worked(1))
    make_model("blocks", tmp_path).fit(Worked(2), resume=True)
    refused("blocks", tmp_path, Known(1), "factor")
    make_model("blocks", tmp_path).fit(Known(1))
    make_model("blocks", tmp_path).fit(Known(1), resume=True)
    refused("blocks", tmp_path, Known(2), "factor")
    refused("blocks", tmp_path, Worked(1), "'factor'")


def test_other_validation_rows_are_refused(tmp_path):
    source, (X, y, _) = open_source("npy", tmp_path), make_rows()
    own = {"X_val": X[:50], "y_val": y[:50]}
    expected = make_model("npy", tmp_path, checkpoint=None).fit(source, **own)
    crash(make_model("npy", tmp_path), source, 3, **own)
    refused("npy", tmp_path, source, "X_val", X_val=X[1:51], y_val=y[:50])
    refused("npy", tmp_path, source, "y_val")
    resumed = make_model("npy", tmp_path).fit(source, resume=True, **own)
    assert result(resumed) == result(expected)


@pytest.mark.parametrize(
    "numbers", [{}, {"seed": -1}, {"seed": "1"}, {"seed": True}, {"seed": 2**31}, None], ids=str
)
def test_forged_seeds_are_refused(numbers, tmp_path):
    source = open_source("npy", tmp_path)
    make_model("npy", tmp_path).fit(source)
    arrays, description = container.read(tmp_path / "state")
    assert not {"order", "train", "validation"} & {*arrays}
    container.write(tmp_path / "state", arrays, description | {"rows": numbers})
    with pytest.raises(ValueError, match="state is damaged"):
        make_model("npy", tmp_path).fit(source, resume=True)


def test_a_file_without_held_out_rows_is_refused(tmp_path):
    source = open_source("blocks", tmp_path)
    make_model("blocks", tmp_path).fit(source)
    arrays, description = container.read(tmp_path / "state")
    del arrays["holdout"]
    container.write(tmp_path / "state", arrays, description)
    with pytest.raises(ValueError, match="state is damaged: it has no 'holdout'"):
        make_model("blocks", tmp_path).fit(source, resume=True)


def test_lbfgs_is_refused_as_in_memory(tmp_path):
    with pytest.raises(InvalidParameterError, match=r"checkpoint=.*stochastic solver"):
        make_model("npy", tmp_path, solver="lbfgs").fit(open_source("npy", tmp_path))
