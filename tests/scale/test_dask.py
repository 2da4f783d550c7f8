"""One net on a cluster of dask: the same bits on any cluster, whatever is lost."""

import os
import pickle
import signal
import threading

import numpy as np
import pytest
from conftest import TASKS, weights
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import fastbp
from fastbp import clusters, sources
from fastbp.classifier import MLPClassifier as LocalClassifier
from fastbp.dask import given as given_rows
from fastbp.dask import rounds, tasks
from fastbp.dask.dealing import PAGE, deal
from fastbp.dask.engine import ClusterEngine
from fastbp.training import NonFiniteLossError

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")

from fastbp.dask import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
random = np.random.default_rng(0)
X = random.normal(size=(600, 5))
SCORES = X @ random.normal(size=(5, 3))
Y = SCORES.argmax(axis=1)
NAMES = np.array(["a", "b", "c"])
WEIGHT = random.integers(0, 3, len(X)) / 2
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "batch_size": 40}


def make_client(n_workers):
    return distributed.Client(
        n_workers=n_workers, threads_per_worker=1, processes=False, dashboard_address=":0"
    )


@pytest.fixture(scope="module")
def threads():
    """Of two workers in this process."""
    with make_client(2) as client:
        yield client


@pytest.fixture
def client(threads):
    """The same, for estimators that have no other."""
    with threads.as_current():
        yield threads


def classifier(**given):
    return MLPClassifier(**QUICK | {"n_shards": 3, "rounds": 2} | given)


def local(model):
    """The ordinary estimator with the same parameters."""
    return clone(model.to_local())


def assert_same(one, other):
    np.testing.assert_array_equal(weights(one), weights(other))
    np.testing.assert_array_equal(one.loss_curve_, other.loss_curve_)
    assert one.t_ == other.t_


def assert_nothing_is_left(client):
    """Releases are on their way to the scheduler for a moment."""
    for _ in range(10_000):
        if not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            return
    raise AssertionError(client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.tasks]))


# ---- lbfgs: exact -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "single", "multi-output"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_lbfgs_is_exact(client, task, weighted):
    name, _, rows, y = TASKS[task]
    weight = WEIGHT[: len(rows)] if weighted else None
    given = {"hidden_layer_sizes": (6,), "solver": "lbfgs", "max_iter": 15, "random_state": 0}
    given |= {"activation": "tanh", "alpha": 0.1}
    estimators = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
    model = estimators[name](**given, n_shards=4).fit(rows, y, weight)
    expected = getattr(fastbp, name)(**given).fit(rows, y, weight)
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-10)
    assert model.n_iter_ == expected.n_iter_ == 15
    assert_nothing_is_left(client)


# ---- rounds -------------------------------------------------------------------------------------


def rounds_by_hand(model, X, y, plan, weight=None):
    """What a fit of sgd without momentum does, with the ordinary estimator for each replica."""
    n_shards, seed = model.n_shards, np.random.RandomState(0).randint(2**31 - 1)
    dealt = deal(0, len(X), n_shards, seed)
    replica = LocalClassifier(
        model.hidden_layer_sizes, solver="sgd", momentum=0, nesterovs_momentum=False, shuffle=False,
        batch_size=plan.batch_size, alpha=plan.alpha, max_iter=1, warm_start=True,
        learning_rate_init=model.learning_rate_init * plan.rate_factor, random_state=0,
    )  # fmt: skip
    start = clone(replica).set_params(learning_rate_init=1e-300).fit(X, y)
    coefs, intercepts = start.coefs_, start.intercepts_
    shards = [np.flatnonzero(dealt == shard) for shard in range(n_shards)]
    most = -(-max(map(len, shards)) // plan.batch_size)
    for _ in range(model.max_iter):
        for _, each in rounds.rounds_of(0, most, model.rounds, plan.batch_size):
            replicas, masses = [], []
            for rows in shards:
                learned = rows[each.start : each.stop]
                mass = np.ones(len(learned)) if weight is None else weight[learned]
                one = pickle.loads(pickle.dumps(start)).set_params(**replica.get_params())
                one.coefs_, one.intercepts_ = coefs, intercepts
                one.partial_fit(X[learned], y[learned], mass)
                replicas.append(one)
                masses.append(mass.sum())
            coefs, intercepts = (
                [np.average(each, axis=0, weights=masses) for each in zip(*arrays, strict=True)]
                for arrays in (
                    [one.coefs_ for one in replicas], [one.intercepts_ for one in replicas],
                )
            )  # fmt: skip
    return coefs, intercepts


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_rounds_are_the_averages_of_ordinary_fits(client, monkeypatch, weight):
    plan = rounds.LocalPlan(40, 1.5, 0.2)
    monkeypatch.setattr(given_rows, "local_plan", lambda *arguments: plan)
    model = classifier(
        solver="sgd", momentum=0.0, nesterovs_momentum=False, shuffle=False, alpha=0.5,
        learning_rate_init=0.05, batch_size=120,
    )  # fmt: skip
    model.fit(X, Y, weight)
    coefs, intercepts = rounds_by_hand(model, X, Y, plan, weight)
    for found, expected in zip(model.coefs_ + model.intercepts_, coefs + intercepts, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_counters_are_those_of_the_updates(client):
    """Adam's correction of the bias goes on from round to round."""
    model = classifier(ema_decay=0.5, dropout=0.2).fit(X, Y)
    assert model._optimizer.step == 3 * -(-200 // 25)
    assert model._optimizer.epochs == 3
    assert model.t_ == 3 * len(X)
    assert len(model._optimizer.moments) == 3


def test_one_shard_in_one_round_is_the_ordinary_fit(client):
    given = {"n_shards": 1, "rounds": 1, "shuffle": False}
    for solver in ("adam", "adamw", "nadam", "lion", "rmsprop", "sgd"):
        model = classifier(**given, solver=solver).fit(X, Y, WEIGHT + 1)
        expected = local(model).fit(X, Y, WEIGHT + 1)
        np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-12)


def test_it_learns(client):
    for n_shards in (1, 2, 8):
        model = classifier(n_shards=n_shards, rounds=20, max_iter=12, tol=0, batch_size=100)
        assert model.set_params(learning_rate_init=0.03).fit(X, Y).score(X, Y) > 0.9


def test_early_stopping_schedules_and_callbacks(client):
    reports = []
    model = classifier(
        early_stopping=True, max_iter=60, tol=0, n_iter_no_change=3, learning_rate="cosine",
        solver="adamw", callback=reports.append, learning_rate_init=0.02,
    ).fit(X, Y)  # fmt: skip
    assert len(reports) == model.n_iter_ == len(model.validation_scores_)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert reports[0].n_samples == 540
    assert reports[0].learning_rate > reports[-1].learning_rate
    own = classifier().fit(X, Y, X_val=X[:50], y_val=Y[:50])
    assert own.validation_scores_[-1] == own.score(X[:50], Y[:50])


def test_training_goes_on(client):
    model = classifier(warm_start=True, max_iter=2, solver="sgd", momentum=0.0).fit(X, Y)
    model.fit(X, Y)
    once = classifier(max_iter=4, solver="sgd", momentum=0.0).fit(X, Y)
    np.testing.assert_allclose(model.loss_curve_, once.loss_curve_, rtol=1e-12)
    part = classifier().partial_fit(X, Y, classes=[0, 1, 2])
    assert part.n_iter_ == 1
    assert len(part.partial_fit(X, Y).loss_curve_) == 2


# ---- the same rows, the same bits ---------------------------------------------------------------


def collections_of(chunks):
    """X, y and weights as arrays with other chunks, and as arrays of unknown chunks."""
    known = [da.from_array(each, chunks=chunks) for each in (X, NAMES[Y], WEIGHT)]
    frame = pd.DataFrame(X, columns=[*"vwxyz"]).assign(kind=NAMES[Y], weight=WEIGHT)
    frame = dd.from_pandas(frame, chunksize=chunks)
    unknown = [frame[[*"vwxyz"]].to_dask_array(), frame.kind, frame.weight]
    return known, unknown, [frame[[*"vwxyz"]], frame.kind, frame.weight]


def test_how_rows_are_cut_and_where_they_are_does_not_matter(client):
    expected = classifier(max_iter=2).fit(X, NAMES[Y], WEIGHT)
    for chunks in (75, 200):
        for given in collections_of(chunks):
            assert_same(classifier(max_iter=2).fit(*given), expected)
    assert_same(classifier(max_iter=2).fit(collections_of(90)[0][0], NAMES[Y], WEIGHT), expected)
    assert_nothing_is_left(client)


def test_the_number_of_workers_does_not_matter(client, worker_processes):
    expected = classifier().fit(X, Y)
    with make_client(1) as single:
        assert_same(classifier(client=single).fit(X, Y), expected)
    assert_same(classifier(client=worker_processes).fit(X, Y), expected)


def test_partitions_may_be_empty(client):
    frame = pd.DataFrame(X.astype(np.float32), columns=[*"vwxyz"]).assign(kind=Y)
    whole = dd.from_pandas(frame, npartitions=2)
    gaps = dd.concat([whole[whole.v > 99], whole, whole[whole.v > 99]])
    assert min(gaps.map_partitions(len).compute()) == 0
    given = [[each[[*"vwxyz"]], each.kind] for each in (whole, gaps)]
    one, other = (classifier(early_stopping=True).fit(*each) for each in given)
    assert_same(one, other)
    assert one.coefs_[0].dtype == np.float32
    assert one.feature_names_in_.tolist() == [*"vwxyz"]
    predicted = one.predict(given[1][0]).compute()
    np.testing.assert_array_equal(predicted, one.predict(frame[[*"vwxyz"]]))
    assert one.score(*given[1]) == one.score(*given[0]) == one.score(frame[[*"vwxyz"]], Y)


def test_shards_are_alike_though_rows_are_sorted():
    dealt = deal(0, 3 * PAGE + 5, 7, seed=1)
    np.testing.assert_array_equal(
        np.concatenate([deal(0, 100, 7, 1), deal(100, 5000, 7, 1), deal(5000, len(dealt), 7, 1)]),
        dealt,
    )
    for part in np.array_split(dealt, 20):
        assert np.ptp(np.bincount(part, minlength=7)) <= 4
    assert (dealt[:7000] != deal(0, 7000, 7, seed=2)).any()
    assert sorted(deal(0, 5, 5, 0)) == [0, 1, 2, 3, 4]


def test_sources_are_opened_by_the_workers(client, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    source = sources.from_npy("x.npy", Y, WEIGHT, buffer=20_000)
    ends = np.cumsum(source.block_rows)[:-1]
    blocks = list(zip(*(np.split(each, ends) for each in (X, Y, WEIGHT)), strict=True))
    read = sources.from_blocks(len(blocks), blocks.__getitem__, buffer=20_000)
    model = classifier(early_stopping=True).fit(source)
    assert_same(model, classifier(early_stopping=True).fit(read))
    exact = MLPClassifier(solver="lbfgs", n_shards=3, random_state=0, max_iter=10)
    expected = local(exact).fit(X, Y, WEIGHT)
    np.testing.assert_allclose(exact.fit(source).loss_curve_, expected.loss_curve_, rtol=1e-10)
    assert exact.score(source) == exact.score(X, Y, WEIGHT)


# ---- what is lost -------------------------------------------------------------------------------


def kill_in_round(monkeypatch, client, number, n_killed):
    """Kill workers in a round, when its tasks are submitted; in the first, shards are loaded."""
    run, rounds = clusters.run_together, []

    def killing(given, starts, look):
        rounds.append(len(starts))
        if len(rounds) == number:
            last, pids = starts[-1], [*client.run(os.getpid).values()]

            def start():
                future = last()
                for pid in pids[:n_killed]:
                    os.kill(pid, signal.SIGKILL)
                pids.clear()  # not once more where it is lost
                return future

            starts = [*starts[:-1], start]
        return run(given, starts, look)

    monkeypatch.setattr("fastbp.dask.engine.run_together", killing)
    return rounds


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("kind", "n_killed", "number"),
    [("arrays", 1, 3), ("arrays", 2, 3), ("collections", 1, 1), ("collections", 1, 3)],
    ids=["arrays", "all", "load", "collections"],
)
def test_killed_workers_change_nothing(
    client, worker_processes, monkeypatch, kind, n_killed, number
):
    given = (X, NAMES[Y]) if kind == "arrays" else collections_of(75)[0][:2]
    expected = classifier().fit(X, NAMES[Y])
    rounds = kill_in_round(monkeypatch, worker_processes, number, n_killed)
    assert_same(classifier(client=worker_processes).fit(*given), expected)
    assert len(rounds) == 6


def test_all_workers_gone(monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(clusters.NoWorkersError, match="no workers for"),
    ):
        classifier(client=client).fit(X, Y)


def test_workers_that_are_paused_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.2)
    with make_client(1) as client:
        model = classifier(client=client)
        client.run(pause)
        with pytest.raises(clusters.NoWorkersError, match="paused for"):
            model.fit(X, Y)
        assert not hasattr(model, "coefs_")


def pause(dask_worker):
    dask_worker.status = distributed.core.Status.paused
    dask_worker.monitor_memory = None
    dask_worker.memory_manager.memory_pause_fraction = False


def test_an_error_of_a_task_is_raised(client, monkeypatch):
    bad = X.copy()
    bad[517, 2] = np.nan
    with pytest.raises(ValueError, match="nan in row 517, column 2"):
        classifier().fit(da.from_array(bad, chunks=100), Y)

    def fail(*_):
        raise ArithmeticError("on purpose")

    monkeypatch.setattr(tasks.Lesson, "data", fail)
    model = classifier()
    with pytest.raises(ArithmeticError, match="on purpose"):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")
    del model
    assert_nothing_is_left(client)


def test_what_diverges(client):
    bad = classifier(solver="sgd", learning_rate_init=1e30)
    with pytest.raises(NonFiniteLossError, match="epoch 1"):
        bad.fit(X, Y)
    assert not hasattr(bad, "coefs_")
    kept = classifier(early_stopping=True, warm_start=True).fit(X, Y)  # so that there are scores
    kept.set_params(solver="sgd", learning_rate_init=1e30)
    with pytest.warns(ConvergenceWarning, match="scored best are restored"):
        kept.fit(X, Y)
    assert np.isfinite(weights(kept)).all()


def test_ctrl_c_ends_with_a_model(client, monkeypatch):
    expected, train = classifier(max_iter=1, rounds=2).fit(X, Y), ClusterEngine.train_epoch
    seen = []

    def interrupted(*arguments):
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(ClusterEngine, "train_epoch", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model = classifier(rounds=2).fit(X, Y)
    np.testing.assert_array_equal(weights(model), weights(expected))
    seen.clear()
    assert_nothing_is_left(client)


def test_two_fits_at_once(client):
    expected = [classifier(random_state=seed).fit(X, Y) for seed in range(2)]
    rows = da.from_array(X, chunks=100)
    models = [classifier(random_state=seed, client=client) for seed in range(2)]
    threads = [threading.Thread(target=model.fit, args=(rows, Y)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, each in zip(models, expected, strict=True):
        assert_same(model, each)


# ---- predictions, copies, errors ----------------------------------------------------------------


def test_predictions_are_lazy(client):
    model = classifier().fit(X, NAMES[Y])
    arrays, _, (frame, kind, _) = collections_of(75)
    rows = arrays[0]
    for name in ("predict", "predict_proba", "predict_log_proba"):
        found, expected = getattr(model, name)(rows), getattr(model.to_local(), name)(X)
        assert isinstance(found, da.Array)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.compute(), expected)
    assert model.score(*arrays[:2]) == model.score(X, NAMES[Y])
    assert model.score(*arrays) == model.score(X, NAMES[Y], WEIGHT)
    named = classifier().fit(frame, kind)
    table = named.predict_proba(frame)
    assert [*table.columns] == ["a", "b", "c"]
    assert (named.predict(frame) == kind).mean().compute() == named.score(frame, kind)
    np.testing.assert_array_equal(table.compute(), named.to_local().predict_proba(frame.compute()))
    y = np.column_stack([SCORES[:, 0], SCORES[:, 1]])
    regressor = MLPRegressor(hidden_layer_sizes=(4,), n_shards=2, max_iter=2, random_state=0)
    regressor.fit(rows, da.from_array(y, chunks=100))
    assert regressor.predict(rows).compute().shape == y.shape
    assert regressor.score(rows, y) == regressor.score(X, y)


def test_to_local(client, tmp_path):
    model = classifier(learning_rate_init=0.02).fit(X, NAMES[Y])
    ordinary = model.to_local()
    assert type(ordinary) is LocalClassifier
    assert ordinary.get_params() == {
        name: value
        for name, value in model.get_params().items()
        if name not in ("client", "n_shards", "rounds")
    }
    ordinary.save(tmp_path / "model")
    assert_same(fastbp.load(tmp_path / "model"), model)
    ordinary.coefs_[0][:] = 0
    assert model.coefs_[0].any()
    with pytest.raises(NotFittedError):
        classifier().to_local().predict(X)


def test_it_is_an_estimator_as_any_other(client):
    model = MLPClassifier((5,), n_shards=2, client=client)
    assert repr(clone(model).set_params(client=None)) == (
        "MLPClassifier(hidden_layer_sizes=(5,), n_shards=2)"
    )
    assert clone(model).client is client
    names = {"client", "n_shards", "rounds"}
    assert {*model.get_params()} == {*fastbp.MLPClassifier().get_params(), *names}
    assert {*MLPRegressor().get_params()} == {*fastbp.MLPRegressor().get_params(), *names}
    model.set_params(max_iter=2).fit(X, Y)
    copied = pickle.loads(pickle.dumps(model))
    assert copied.client is None
    assert_same(copied, model)
    assert clone(copied).set_params(alpha=3).alpha == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'slver'"):
        MLPClassifier(slver="sgd")
    with pytest.raises(ValueError, match="'n_shards' parameter"):
        MLPClassifier(n_shards=0).fit(X, Y)
    with pytest.raises(ValueError, match="'solver' parameter"):
        MLPClassifier(solver="best").fit(X, Y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cuda"}, "device='cuda' is not for a cluster"),
        ({"drop_last": True}, "drop_last=True"),
        ({"initialization": "data_driven"}, "initialization='data_driven' is not for rows on"),
        ({"n_shards": 601}, "n_shards=601 is more than the 600 rows"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_cannot_work_is_refused(client, given, message):
    with pytest.raises(ValueError, match=message):
        classifier(**given).fit(da.from_array(X, chunks=100), Y)


def test_rows_that_do_not_fit_together(client):
    rows = da.from_array(X, chunks=100)
    with pytest.raises(ValueError, match="X has 600 rows, but y has shape"):
        classifier().fit(rows, Y[:-1])
    with pytest.raises(TypeError, match="y is dask's, but X"):
        classifier().fit(X, da.from_array(Y, chunks=100))
    with pytest.raises(ValueError, match="y must be given"):
        classifier().fit(rows)
    frame = dd.from_pandas(pd.DataFrame({"a": NAMES[Y], "b": Y}), npartitions=2)
    with pytest.raises(TypeError, match="Column 'a' of X"):
        classifier().fit(frame, Y)
    with pytest.raises(TypeError, match="cannot be shared out"):
        classifier().fit(sources.from_batches([(X, Y)]))
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client"):
        classifier(client=3).fit(X, Y)


def test_without_a_client_it_says_so(monkeypatch):
    def get_client():
        raise ValueError("No global client found and no address provided")

    monkeypatch.setattr(distributed, "get_client", get_client)
    with pytest.raises(ValueError, match=r"There is no client.*client="):
        classifier().fit(X, Y)


def test_fits_side_by_side_are_of_ordinary_estimators(client):
    with pytest.raises(TypeError, match="to_local"):
        fastbp.fit_many([classifier()], X, Y)
