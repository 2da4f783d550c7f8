"""`fit_many` and `search_many` on a cluster of dask: the bits of this process, whatever is lost."""

import os
import signal
import threading
import warnings

import numpy as np
import pytest
from conftest import TASKS, small, weights
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbp import MLPClassifier, MLPRegressor, clusters, fit_many, sources
from fastbp.model_selection import search_many
from fastbp.training import NonFiniteLossError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = TASKS["multiclass"][2:]
CLASSIFIER = MLPClassifier((5,), max_iter=4, random_state=0)


@pytest.fixture(scope="module")
def client(worker_processes):
    return worker_processes


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of one item."""
    monkeypatch.setattr(clusters, "CHUNK_SECONDS", 0)
    monkeypatch.setattr(clusters, "MOST_SECONDS", 0)
    monkeypatch.setattr(clusters, "ASSUMED_RATE", 1)


def everything(model):
    """What a fit has learned."""
    attributes = vars(model) if hasattr(model, "loss_") else {}
    learned = [weights(model), model.loss_curve_, model.t_] if attributes else []
    return {*attributes}, [np.asarray(each).tolist() for each in learned]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert everything(one) == everything(other)


@pytest.mark.parametrize("task", ["binary", "multilabel", "single"])
def test_the_bits_of_fits_here(client, short_chunks, task):
    settings = [
        {},
        {"early_stopping": True, "scoring": "loss", "max_iter": 9},
        {"solver": "lbfgs", "activation": "tanh"},
        {"learning_rate": lambda progress: 1 - progress},
        {"warm_start": True, "hidden_layer_sizes": (4, 3)},
    ]
    made = [small(task, **given) for given in settings]
    (_, X, y), models = made[0], [model for model, _, _ in made]
    expected = [clone(model) for model in models]
    weight, rows = np.linspace(0, 2, len(X)), [None, range(5, 80), None, [*range(60)] * 2, None]
    for _ in range(2):  # and once more from where the warm one is
        fit_many(models, X, y, weight, rows=rows, client=client)
        fit_many(expected, X, y, weight, rows=rows)
        assert_same(models, expected)
    assert_same([models[0].partial_fit(X, y)], [expected[0].partial_fit(X, y)])


def test_sources_of_random_numbers_and_own_rows(client, short_chunks):
    def make():
        source = np.random.RandomState(0)
        shared = [clone(CLASSIFIER).set_params(max_iter=1 + i) for i in range(4)]
        for model in shared[::2]:
            model.random_state = source
        return shared, source

    (models, source), (expected, other) = make(), make()
    own = {"X_val": X[:9], "y_val": Y[:9]}
    assert fit_many(models, X, Y, **own, client=client) == models
    assert_same(models, fit_many(expected, X, Y, **own))
    assert models[0].validation_loss_curve_ == expected[0].validation_loss_curve_
    assert source.randint(1000) == other.randint(1000)
    assert models[0].random_state is source


def test_paths_are_opened_by_the_workers(client, short_chunks, tmp_path, monkeypatch):
    paths = {name: tmp_path / f"{name}.npy" for name in ("X", "y", "weight")}
    weight, sent = np.linspace(0, 2, len(X)), []
    for name, values in zip(paths, (X, Y, weight), strict=True):
        np.save(paths[name], values)
    expected = fit_many([clone(CLASSIFIER), clone(CLASSIFIER)], X, Y, weight)
    here = fit_many([clone(CLASSIFIER)], paths["X"], str(paths["y"]), paths["weight"])
    assert_same(here, expected[:1])
    ship = clusters.Shipped.ship
    monkeypatch.setattr(
        clusters.Shipped, "ship", lambda self: (sent.append(self.value), ship(self))
    )
    there = [clone(CLASSIFIER), clone(CLASSIFIER)]
    fit_many(there, paths["X"], paths["y"], paths["weight"], client=client)
    assert_same(there, expected)
    assert sent[0][0].given == tuple(map(str, paths.values()))
    grid = {"alpha": [1e-4, 1]}
    found = search_many(CLASSIFIER, grid, paths["X"], paths["y"], client=client)
    assert sent[1][:2] == (str(paths["X"]), str(paths["y"]))
    expected = GridSearchCV(CLASSIFIER, grid).fit(X, Y)
    assert (found.cv_results_["mean_test_score"] == expected.cv_results_["mean_test_score"]).all()


def test_failures_are_named_and_warnings_come_from_here(client, short_chunks):
    X, y = TASKS["single"][2:]
    model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2, random_state=0)
    bad = {"solver": "sgd", "learning_rate_init": 1e30, "precision": "float32"}
    models = [clone(model), clone(model).set_params(**bad), clone(model)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NonFiniteLossError) as error:
            fit_many(models, X, y, client=client)
    assert "Failed and left as before: estimators[1]; all others" in error.value.__notes__[-1]
    assert [hasattr(each, "coefs_") for each in models] == [True, False, True]
    assert [(w.category, w.filename) for w in caught] == [(ConvergenceWarning, __file__)] * 2


class Deadly(MLPClassifier):
    """Ends the process that fits it, so often as a file has bytes."""

    def __init__(self, path=None, hidden_layer_sizes=(5,), max_iter=4, random_state=0):
        super().__init__(hidden_layer_sizes, max_iter=max_iter, random_state=random_state)
        self.path = path

    def _encode(self, *arguments):
        left = os.path.getsize(self.path)
        if left and threading.current_thread() is not threading.main_thread():
            os.truncate(self.path, left - 1)
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._encode(*arguments)


def kills(tmp_path, number):
    path = tmp_path / "kills"
    path.write_bytes(bytes(number))
    return str(path)


def only_on_workers(monkeypatch):
    """Let this process fit a deadly estimator unharmed."""
    monkeypatch.setattr(Deadly, "_encode", MLPClassifier._encode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_worker_costs_its_chunk(client, short_chunks, tmp_path):
    models = [clone(CLASSIFIER).set_params(max_iter=40 + i) for i in range(6)]
    models.insert(3, Deadly(kills(tmp_path, 1)))
    expected = fit_many([clone(model) for model in models[:3] + models[4:]], X, Y)
    fit_many(models, X, Y, client=client)
    assert os.path.getsize(tmp_path / "kills") == 0
    assert_same(models[:3] + models[4:], expected)
    assert hasattr(models[3], "coefs_")
    found = search_many(
        Deadly(kills(tmp_path, 1)), {"max_iter": [2, 5]}, X, Y, client=client, refit=False
    )
    model = MLPClassifier((5,), random_state=0)
    expected = GridSearchCV(model, {"max_iter": [2, 5]}, refit=False).fit(X, Y)
    for name in ("mean_test_score", "std_test_score", "split3_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], expected.cv_results_[name])
    assert os.path.getsize(tmp_path / "kills") == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_one_that_kills_every_worker_fails_alone(client, short_chunks, tmp_path):
    models = [clone(CLASSIFIER), Deadly(kills(tmp_path, 99)), clone(CLASSIFIER)]
    lost = distributed.scheduler.KilledWorker, clusters.WorkersLostError
    with pytest.raises(lost) as error:
        fit_many(models, X, Y, client=client)
    assert "Failed and left as before: estimators[1]; all others" in error.value.__notes__[-1]
    assert [hasattr(each, "coefs_") for each in models] == [True, False, True]


def test_one_that_kills_every_worker_is_found_in_its_chunk(client, monkeypatch, tmp_path):
    """All others of the chunk failed with it."""
    monkeypatch.setattr(clusters, "ALONE_LOSSES", 1)
    models = [clone(CLASSIFIER), Deadly(kills(tmp_path, 99)), clone(CLASSIFIER)]
    with pytest.raises(clusters.WorkersLostError) as caught:
        fit_many(models, X, Y, client=client)
    assert "estimators[1]" in "".join(caught.value.__notes__)
    assert [hasattr(model, "coefs_") for model in models] == [True, False, True]


class TwoArgumentsError(Exception):
    """Pickle makes it of one."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def raise_two(*given):
    raise TwoArgumentsError(1, 2)


def test_an_error_that_pickle_cannot_bring_back_fails_alone(client):
    """It ended all fits, and nobody was named."""
    models = [clone(CLASSIFIER).set_params(solver="sgd") for _ in range(3)]
    models[1].set_params(learning_rate=raise_two)
    with pytest.raises(RuntimeError, match="TwoArgumentsError: 1 and 2"):
        fit_many(models, X, Y, client=client)
    assert [hasattr(model, "coefs_") for model in models] == [True, False, True]


def test_paths_are_those_of_this_folder(client, tmp_path, monkeypatch):
    """Workers have another one."""
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    models = [clone(CLASSIFIER) for _ in range(2)]
    expected = fit_many([clone(model) for model in models], X, Y)
    assert_same(fit_many(models, "x.npy", Y, client=client), expected)


@pytest.mark.parametrize("kind", ["npy", "blocks", "fits"])
@pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks")
def test_a_source_is_read_by_the_workers(client, short_chunks, tmp_path, monkeypatch, kind):
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    monkeypatch.chdir(tmp_path)  # workers have another folder
    weight, path = np.linspace(0, 2, len(X)), str(tmp_path / "x.npy")

    def read(block):
        part = slice(5 * block, 5 * block + 5)
        return np.load(path)[part], Y[part], weight[part]

    source = {
        "npy": lambda: sources.from_npy("x.npy", Y, weight, buffer="1kB"),
        "blocks": lambda: sources.from_blocks(len(X) // 5, read, buffer="1kB"),
        "fits": lambda: sources.from_npy("x.npy", Y, weight),
    }[kind]()
    assert source.fits == (kind == "fits")

    def make():
        parts = {"batch_size": 20}  # of a buffer
        return [
            clone(CLASSIFIER).set_params(**parts),
            clone(CLASSIFIER).set_params(**parts, early_stopping=True),
            clone(CLASSIFIER).set_params(solver="lbfgs", warm_start=True),
            MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0, **parts),
        ]

    models, expected = make(), make()
    for _ in range(2):  # and once more from where the warm one is
        fit_many(models, source, X_val=X[:9], y_val=Y[:9], client=client)
        fit_many(expected, source, X_val=X[:9], y_val=Y[:9])
        assert_same(models, expected)
    assert models[0].validation_loss_curve_ == expected[0].validation_loss_curve_


def test_a_source_that_cannot_be_sent_is_refused(client, tmp_path):
    lock = threading.Lock()

    def read(block):
        with lock:
            return X[5 * block : 5 * block + 5], Y[5 * block : 5 * block + 5]

    source = sources.from_blocks(len(X) // 5, read, buffer="1kB")
    model = clone(CLASSIFIER)
    with pytest.raises(TypeError, match="The source cannot be sent to the workers of client"):
        fit_many([model], source, client=client)
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    pd.DataFrame(X, columns=[*"abcde"]).to_parquet(tmp_path / "x.parquet")
    source = sources.from_parquet(tmp_path / "x.parquet", "e", buffer="1kB")
    with pytest.raises(TypeError, match="Give from_parquet a cache that the other process"):
        fit_many([model], source, client=client)
    assert not hasattr(model, "coefs_")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_data_that_no_worker_has_any_longer_are_sent_again(client, short_chunks, monkeypatch):
    submit, ship = clusters.Chunks._submit, clusters.Shipped.ship
    sent, shipped, pids = [], [], client.run(os.getpid).values()

    def submit_and_kill(self, places):
        submit(self, places)
        sent.append(places)
        if len(sent) == 1:  # all others need the data, too
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(clusters.Chunks, "_submit", submit_and_kill)
    monkeypatch.setattr(clusters.Shipped, "ship", lambda self: (shipped.append(self), ship(self)))
    models = [clone(CLASSIFIER).set_params(max_iter=50, alpha=i) for i in range(8)]
    expected = fit_many([clone(model) for model in models], X, Y)
    assert_same(fit_many(models, X, Y, client=client), expected)
    assert len(shipped) > 1


@pytest.mark.parametrize("n_losses", [2, 99])
def test_a_worker_that_is_lost_while_it_is_sent_the_data(client, monkeypatch, n_losses):
    """The error of the connection ended all fits."""
    scatter, losses = client.scatter, []

    def lose(*arguments, **named):
        if len(losses) < n_losses:
            losses.append(arguments)
            raise KeyError("tcp://127.0.0.1:1")  # so dask says it
        return scatter(*arguments, **named)

    monkeypatch.setattr(client, "scatter", lose)
    models = [clone(CLASSIFIER), clone(CLASSIFIER).set_params(alpha=1)]
    if n_losses < clusters.MOST_LOSSES:
        expected = fit_many([clone(model) for model in models], X, Y)
        assert_same(fit_many(models, X, Y, client=client), expected)
    else:
        with pytest.raises(clusters.WorkersLostError):
            fit_many(models, X, Y, client=client)


def test_ctrl_c_keeps_what_has_come_and_cancels_the_rest(client, short_chunks, monkeypatch):
    outcome, seen = clusters.Chunks._outcome, []

    def interrupt(self, future, places):
        seen.append(places)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return outcome(self, future, places)

    monkeypatch.setattr(clusters.Chunks, "_outcome", interrupt)
    models = [clone(CLASSIFIER) for _ in range(8)]
    with pytest.raises(KeyboardInterrupt):
        fit_many(models, X, Y, client=client)
    fitted = [place for place, model in enumerate(models) if hasattr(model, "coefs_")]
    assert fitted == sorted(place for places in seen[:2] for place in places)
    monkeypatch.undo()
    assert_same(fit_many([clone(CLASSIFIER)], X, Y, client=client), models[fitted[0] :][:1])


def test_without_workers_there_is_an_error_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "PATIENCE", 0.2)
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(clusters.NoWorkersError, match="no workers for"),
    ):
        fit_many([clone(CLASSIFIER)], X, Y, client=client)


def test_a_search_on_the_cluster(client, short_chunks):
    pipeline = make_pipeline(StandardScaler(), CLASSIFIER)
    scaler = [{"standardscaler__with_mean": [True, False], "mlpclassifier__alpha": [0, 1, -1]}]
    weight = {"mlpclassifier__sample_weight": np.linspace(0, 2, len(Y))}
    grid = {"alpha": loguniform(1e-5, 1)}
    for arguments, options in (
        ((CLASSIFIER, {"alpha": [0, 1, -1]}), {"return_train_score": True}),
        ((pipeline, scaler), weight),
        ((CLASSIFIER, grid), {"n_iter": 5, "random_state": 0, "halving": {"factor": 2}}),
        ((CLASSIFIER, {"alpha": [0, 1]}), {"scoring": ["accuracy", "f1_macro"], "refit": False}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = search_many(*arguments, X, Y, **options, client=client)
            expected = search_many(*arguments, X, Y, **options)
        assert [*found.cv_results_] == [*expected.cv_results_]
        for name, values in expected.cv_results_.items():
            if not name.endswith("_time"):
                np.testing.assert_array_equal(found.cv_results_[name], values, err_msg=name)
        assert repr(getattr(found, "best_params_", 0)) == repr(getattr(expected, "best_params_", 0))


def no_score(model, X, y):
    if model.alpha == 1:
        raise RuntimeError("mine")
    return model.score(X, y)


@pytest.mark.parametrize("scoring", [no_score, {"bad": no_score, "good": "accuracy"}])
def test_scores_that_fail_are_warned_of_here(client, short_chunks, scoring):
    """The warnings stayed on the workers."""
    outcomes = []
    for place in (client, None):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = search_many(
                CLASSIFIER, {"alpha": [0, 1]}, X, Y, scoring=scoring, refit=False,
                return_train_score=True, client=place,
            )  # fmt: skip
        scores = [v for k, v in found.cv_results_.items() if k.startswith("mean_t")]
        said = [str(each.message) for each in caught if each.category is UserWarning]
        said = [" ".join(text.split("Traceback")[0].split()) for text in said]
        outcomes.append((np.array(scores).tolist(), sorted(said)))
        assert sum("Scoring failed" in text for text in said) == 10
    np.testing.assert_array_equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    with pytest.raises(RuntimeError, match="mine"):
        search_many(
            CLASSIFIER, {"alpha": [1]}, X, Y, scoring=no_score, error_score="raise", client=client
        )


def test_what_makes_no_sense(client):
    model = clone(CLASSIFIER).set_params(callback=print)
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client"):
        fit_many([clone(CLASSIFIER)], X, Y, client="127.0.0.1:8786")
    with pytest.raises(ValueError, match=r"estimators\[1\] has a callback"):
        fit_many([clone(CLASSIFIER), model], X, Y, client=client)
    with pytest.raises(ValueError, match="estimator has a callback"):
        search_many(model, {"alpha": [1]}, X, Y, client=client)
    # These were called on the workers.
    with pytest.raises(ValueError, match="estimator has a callback"):
        search_many(CLASSIFIER, {"callback": [None, print]}, X, Y, client=client)
    pipeline = make_pipeline(StandardScaler(), CLASSIFIER)
    with pytest.raises(ValueError, match="estimator has a callback"):
        search_many(pipeline, {"mlpclassifier__callback": [print]}, X, Y, client=client)
    with pytest.raises(ValueError, match="device_shuffle=True"):
        fit_many([clone(CLASSIFIER)], X, Y, client=client, device_shuffle=True)


def test_chunks_are_long_and_become_shorter_towards_the_end():
    """Half a second to ten, by the speed that was measured."""
    chunks = clusters.Chunks(None, None, [], [None] * 9000, [1e6] * 9000)
    first = chunks._next_chunk(2)
    assert len(first) == 2250  # by the speed that is assumed: half of what is left to a thread
    chunks.done, chunks.seconds = 1e9, 10.0  # 100 items a second
    lengths = [len(first)]
    while chunks.waiting:
        lengths.append(len(chunks._next_chunk(2)))
    assert sum(lengths) == 9000
    assert lengths[1] == 1000
    assert lengths[1:-1] == sorted(lengths[1:-1], reverse=True)
    assert lengths[-2] == 50
    large = clusters.Chunks(None, None, [], [None] * 3, [1e12, 3e12, 0])
    assert [large._next_chunk(4) for _ in range(3)] == [[1], [0], [2]]
