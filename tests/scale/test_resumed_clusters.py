"""Checkpoints of fits on a cluster: whatever the driver is lost to, and wherever it goes on."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Crash, crash_after, result
from processes import kill_alone, kill_this_process
from scipy.sparse import csr_array
from sklearn.utils._param_validation import InvalidParameterError

import fastbp
from fastbp import sources

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")

from fastbp.dask import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
random = np.random.default_rng(0)
X = random.normal(size=(600, 5))
Y = (X @ random.normal(size=(5, 3))).argmax(axis=1)
WEIGHT = random.integers(0, 3, len(X)) / 2
QUICK = {
    "hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "batch_size": 40, "n_shards": 3,
    "rounds": 2,
}  # fmt: skip


def make_client(n_workers):
    return distributed.Client(
        n_workers=n_workers, threads_per_worker=1, processes=False, dashboard_address=":0"
    )


@pytest.fixture(scope="module")
def clients():
    """Of clusters of two workers, where fits begin, and of one, where they go on."""
    with make_client(2) as two, make_client(1) as one:
        yield two, one


SETTINGS = {
    "arrays": {"early_stopping": True, "validation_fraction": 0.2},
    "sparse": {"precision": "float32", "solver": "lion"},
    "collections": {"early_stopping": True, "dropout": 0.2, "ema_decay": 0.9, "ties": "last"},
    "source": {"early_stopping": True, "solver": "adamw", "learning_rate": "cosine"},
    "blocks": {"checkpoint_every": 2, "random_state": np.random.RandomState(3)},
    "numbers": {"scale_targets": True, "solver": "sgd", "learning_rate": "adaptive", "tol": 0.1},
}


def make_data(kind, folder, chunks=100):
    """X, y and weights as `fit` takes them."""
    if kind == "sparse":
        return csr_array(np.where(X > 0, X, 0)), Y
    if kind in ("collections", "numbers"):
        y = Y if kind == "collections" else X[:, :2] ** 2
        return [da.from_array(each, chunks=chunks) for each in (X, y, WEIGHT)]
    if kind == "source":
        if not (folder / "x.npy").exists():
            np.save(folder / "x.npy", X)
        return (sources.from_npy(folder / "x.npy", Y, WEIGHT, buffer=20_000),)
    if kind == "blocks":
        blocks = list(zip(np.array_split(X, 20), np.array_split(Y, 20), strict=True))
        return (sources.from_blocks(20, blocks.__getitem__, buffer=10_000),)
    return X, Y, WEIGHT


def make_model(kind, folder, **changes):
    settings = QUICK | {"checkpoint": folder / "state"} | copy.deepcopy(SETTINGS[kind]) | changes
    return (MLPRegressor if kind == "numbers" else MLPClassifier)(**settings)


@pytest.mark.parametrize("n_epochs", [1, 2, 4])
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_resumed_fit_is_the_uninterrupted_one(clients, kind, n_epochs, tmp_path):
    """On another cluster, from other partitions, with another number of workers."""
    first, second = clients
    expected = make_model(kind, tmp_path, checkpoint=None, client=second)
    expected.fit(*make_data(kind, tmp_path))
    crashing = make_model(kind, tmp_path, client=first, callback=crash_after(n_epochs))
    with pytest.raises(Crash):
        crashing.fit(*make_data(kind, tmp_path))
    for client in (second, None):  # and again from the file that the first has finished
        resumed = make_model(kind, tmp_path, client=client)
        with second.as_current():
            resumed.fit(*make_data(kind, tmp_path, chunks=70), resume=True)
        assert result(resumed) == result(expected)
    assert result(resumed.to_local()) == result(expected)


@pytest.mark.parametrize("kind", ["arrays", "collections", "source"])
def test_resuming_needs_no_seed(clients, kind, tmp_path):
    """The shards, the order of rows, and those held out are what the file says."""
    first, second = clients
    data = make_data(kind, tmp_path)
    random_states = [np.random.RandomState(seed) for seed in (0, 0, 1)]
    expected, crashing, resumed = (
        make_model(kind, tmp_path, client=first, random_state=each) for each in random_states
    )
    expected.set_params(checkpoint=None).fit(*data)
    with pytest.raises(Crash):
        crashing.set_params(callback=crash_after(3)).fit(*data)
    resumed.set_params(client=second).fit(*data, resume=True)
    assert result(resumed) == result(expected)


def train_until_killed(folder):
    """Fit on a cluster of this process; the report of the third epoch is its last deed."""

    def kill(report):
        if report.n_iter == 3:
            kill_this_process()

    folder = Path(folder)
    with make_client(3) as client:
        model = make_model("source", folder, client=client, callback=kill)
        model.fit(*make_data("source", folder))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_driver_is_killed(clients, tmp_path):
    data, seen = make_data("source", tmp_path), []
    expected = make_model("source", tmp_path, checkpoint=None, client=clients[0]).fit(*data)
    kill_alone(train_until_killed, str(tmp_path))
    model = make_model("source", tmp_path, client=clients[0])
    model.set_params(callback=lambda report: seen.append(report.n_iter)).fit(*data, resume=True)
    assert result(model) == result(expected)
    assert seen == [3, 4, 5]


def test_other_settings_and_data_are_refused(clients, tmp_path):
    given = {"client": clients[0], "checkpoint": tmp_path / "state"}
    rows = da.from_array(X, chunks=100)
    MLPClassifier(**QUICK, **given).fit(rows, Y, WEIGHT)
    for changes, says in (
        ({"n_shards": 2}, "written with n_shards=3, but the estimator has n_shards=2"),
        ({"rounds": 3}, "written with rounds=2, but the estimator has rounds=3"),
    ):
        with pytest.raises(ValueError, match=says):
            MLPClassifier(**QUICK | changes, **given).fit(rows, Y, WEIGHT, resume=True)
    other = X.copy()
    other[-1] += 1
    for data, differs in (
        ((rows * 2, Y, WEIGHT), "X"),
        ((rows[::-1], Y, WEIGHT), "X"),
        ((da.from_array(other, chunks=100), Y, WEIGHT), "X"),
        ((rows, Y[::-1], WEIGHT), "y"),
        ((rows, Y, None), "sample_weight"),
    ):
        with pytest.raises(ValueError, match=f"written with other data: {differs} differ"):
            MLPClassifier(**QUICK, **given).fit(*data, resume=True)
    local = MLPClassifier(**QUICK, **given).to_local()
    with pytest.raises(ValueError, match=r"written with n_shards=3, but .* has no n_shards"):
        local.fit(X, Y, WEIGHT, resume=True)
    local.fit(X, Y, WEIGHT)
    with pytest.raises(ValueError, match=r"written with no n_shards, but .* has n_shards=3"):
        MLPClassifier(**QUICK, **given).fit(X, Y, WEIGHT, resume=True)


def test_other_shards_are_refused(clients, monkeypatch, tmp_path):
    """Where 'auto' has come to mean another number."""
    model = make_model("arrays", tmp_path, n_shards="auto", client=clients[0]).fit(X, Y)
    monkeypatch.setattr("fastbp.dask.given.choose_n_shards", lambda *_: 2)
    with pytest.raises(ValueError, match="other data: the number of shards differ"):
        model.fit(X, Y, resume=True)


def test_lbfgs_is_refused_as_on_one_machine(clients, tmp_path):
    for model in (
        MLPClassifier(solver="lbfgs", checkpoint=tmp_path / "state", client=clients[0]),
        fastbp.MLPClassifier(solver="lbfgs", checkpoint=tmp_path / "state"),
    ):
        with pytest.raises(InvalidParameterError, match=r"checkpoint=.*stochastic solver"):
            model.fit(X, Y)
