"""`fit_many` on a source: the models of fits one by one, and nothing left of any of them."""

import signal
import threading
import warnings

import numpy as np
import pytest
from conftest import weights
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from fastbp import MLPClassifier, MLPRegressor, fit_many, sources
from fastbp.labels import Labels
from fastbp.model_selection import search_many
from fastbp.sources.ahead import ReadAhead
from fastbp.sources.blocks import BlockSource

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks"),
    pytest.mark.usefixtures("nothing_is_left"),
]
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "batch_size": 64}
N_ROWS = 1500
SMALL = "8kB"


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(N_ROWS, 5)).astype(np.float32)
    y = (X[:, 0] > X[:, 1]).astype(int) + (X[:, 2] > 0.5)
    return X, y, random.integers(0, 3, N_ROWS).astype(float)


def cut(X, y, *weight, size=20):
    """What `from_blocks` takes."""

    def read(block):
        part = slice(block * size, (block + 1) * size)
        return tuple(each[part] for each in (X, y, *weight))

    return -(-len(X) // size), read


def several():
    """Estimators that have as little in common as may be."""
    settings = [
        {},
        {"hidden_layer_sizes": (9, 4), "activation": "tanh", "solver": "sgd", "random_state": 1},
        {"early_stopping": True, "validation_fraction": 0.1, "max_iter": 6},
        {"solver": "lbfgs", "max_iter": 5},
        {"class_weight": "balanced", "precision": "float64", "shuffle": False},
        {"warm_start": True, "drop_last": True, "learning_rate": "cosine"},
    ]
    models = [MLPClassifier(**QUICK | given) for given in settings]
    models += [
        MLPRegressor(**QUICK),
        MLPRegressor(**QUICK, scale_targets=True, early_stopping=True, validation_fraction=0.1),
    ]
    return models


def learned(model):
    """What a fit has learned."""
    names = "loss_curve_", "validation_scores_", "best_validation_score_", "n_iter_", "t_"
    return [weights(model).tolist(), *(getattr(model, name) for name in names)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert learned(one) == learned(other)


# ---- the same as alone --------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("kind", ["npy", "blocks", "batches", "fits"])
def test_the_bits_of_fits_one_by_one(rows, tmp_path, kind, n_threads):
    X, y, weight = rows
    np.save(tmp_path / "x.npy", X)
    n_blocks, read = cut(X, y, weight)
    source = {
        "npy": lambda: sources.from_npy(tmp_path / "x.npy", y, weight, buffer=SMALL),
        "blocks": lambda: sources.from_blocks(n_blocks, read, buffer=SMALL),
        "batches": lambda: sources.from_batches([*map(read, range(n_blocks))], buffer=SMALL),
        "fits": lambda: sources.from_npy(tmp_path / "x.npy", y, weight),
    }[kind]()
    assert source.fits == (kind == "fits")
    expected, models = several(), several()
    for _ in range(2):  # and once more from where the warm one is
        for model in expected:
            model.fit(source)
        assert fit_many(models, source, n_threads=n_threads) == models
        assert_same(models, expected)
    assert_same([models[0].partial_fit(source)], [expected[0].partial_fit(source)])


def test_names_own_rows_and_labels_are_those_of_fits_one_by_one(rows, tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    X, y, _ = rows
    table = pd.DataFrame(X, columns=[*"abcde"])
    table.assign(y=np.array(["x", "y", "z"])[y]).to_parquet(tmp_path / "rows.parquet")
    own = {"X_val": table[:50], "y_val": np.array(["x", "y", "z"])[y[:50]]}
    for buffer in (SMALL, "1MB"):
        source = sources.from_parquet(
            tmp_path / "rows.parquet", "y", cache=tmp_path / "cache.npy", buffer=buffer
        )
        expected = [MLPClassifier(**QUICK | {"random_state": seed}) for seed in range(3)]
        models = [clone(model) for model in expected]
        for model in expected:
            model.fit(source, **own)
        with warnings.catch_warnings():  # of names that validation rows have, and the source not
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit_many(models, source, **own)
        assert_same(models, expected)
        assert models[0].validation_loss_curve_ == expected[0].validation_loss_curve_
        assert models[0].feature_names_in_.tolist() == [*"abcde"]
        assert models[0].classes_.tolist() == ["x", "y", "z"]
        other = MLPClassifier(**QUICK, warm_start=True).fit(table[[*"edcba"]], y)
        with pytest.raises(ValueError, match="The columns of the source must be those of training"):
            fit_many([other], source)


def test_those_that_share_a_source_of_random_numbers_take_turns(rows):
    def make():
        random = np.random.RandomState(0)
        return [MLPClassifier(**QUICK | {"random_state": random}) for _ in range(3)]

    X, y, _ = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    expected, models = make(), make()
    for model in expected:
        model.fit(source)
    assert_same(fit_many(models, source), expected)
    assert models[0].random_state.randint(1000) == expected[0].random_state.randint(1000)


def test_y_is_checked_and_encoded_once_and_never_more_fits_run_than_threads(rows, monkeypatch):
    X, y, _ = rows
    encoded, encode, readers, most = [], Labels.encode, set(), []
    enter, close = ReadAhead.__enter__, ReadAhead.close

    def entered(self):
        readers.add(id(self))
        most.append(len(readers))
        return enter(self)

    def closed(self):
        close(self)
        readers.discard(id(self))

    monkeypatch.setattr(
        Labels, "encode", lambda self, *given: encoded.append(1) or encode(self, *given)
    )
    monkeypatch.setattr(ReadAhead, "__enter__", entered)
    monkeypatch.setattr(ReadAhead, "close", closed)
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    MLPClassifier(**QUICK).fit(source)
    alone = len(encoded)
    fit_many([MLPClassifier(**QUICK) for _ in range(6)], source, n_threads=2)
    assert len(encoded) == 2 * alone
    assert len(most) == 7
    assert max(most) <= 2
    assert not readers


# ---- failures -----------------------------------------------------------------------------------


def test_one_that_fails_is_named_and_left_as_it_was(rows):
    X, y, _ = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    bad = {"solver": "sgd", "learning_rate_init": 1e30}
    models = [MLPClassifier(**QUICK), MLPClassifier(**QUICK | bad), MLPClassifier(**QUICK)]
    before = dict(vars(models[1]))
    with pytest.raises(FloatingPointError) as caught:
        fit_many(models, source)
    assert "Failed and left as before: estimators[1]; all others" in caught.value.__notes__[-1]
    assert vars(models[1]) == before
    assert_same(models[::2], [MLPClassifier(**QUICK).fit(source)] * 2)


def test_what_a_source_cannot_do_fails_alone(rows):
    X, y, _ = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    models = [
        MLPClassifier(**QUICK, initialization="data_driven"),
        MLPClassifier(**QUICK | {"batch_size": 900}),
        MLPClassifier(**QUICK),
        MLPClassifier(**QUICK, warm_start=True).fit(X[:, :4], y),
    ]
    learned_before = learned(models[3])
    with pytest.raises(ValueError, match="initialization='data_driven' is not for s") as caught:
        fit_many(models, source)
    named = "Failed and left as before: estimators[0], estimators[1], estimators[3]; all others"
    assert named in caught.value.__notes__[-1]
    assert [hasattr(model, "coefs_") for model in models] == [False, False, True, True]
    assert learned(models[3]) == learned_before


def test_an_error_of_the_reader_ends_the_fits_that_meet_it(rows):
    X, y, _ = rows
    n_blocks, read = cut(X, y)
    is_down = []

    def read_or_fail(block):
        if is_down:
            raise OSError("the network is down")
        return read(block)

    source = sources.from_blocks(n_blocks, read_or_fail, buffer=SMALL)
    models = [MLPClassifier(**QUICK | {"max_iter": 1000, "tol": 0}) for _ in range(3)]

    def stop_all(report):
        if report.n_iter == 2:
            is_down.append(True)
            report.stop()

    models[0].callback = stop_all
    with pytest.raises(OSError, match="the network is down") as caught:
        fit_many(models, source, n_threads=2)
    notes = "".join(caught.value.__notes__)
    assert "It comes from read(" in notes
    assert "Failed and left as before: estimators[1], estimators[2]; all others" in notes
    assert [hasattr(model, "coefs_") for model in models] == [True, False, False]


def test_arguments_that_make_no_sense_are_refused_and_nothing_is_changed(rows):
    X, y, weight = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    without = sources.from_blocks(*cut(X, y)[:1], lambda block: cut(X, y)[1](block)[0])
    words = sources.from_blocks(*cut(X, np.array(["a", "b", "c"])[y]), buffer=SMALL)
    for arguments, named, message in (
        ((source, y), {}, "y is given beside a source"),
        ((source,), {"sample_weight": weight}, "sample_weight is given beside a source"),
        ((source,), {"rows": [None, None]}, "rows is given beside a source"),
        ((without,), {}, "The source has no y"),
        ((words,), {}, "y must hold numbers, got dtype <U1"),
        ((source,), {"device_shuffle": True}, "device_shuffle=True is for"),
        ((X,), {}, "requires y to be passed"),
    ):
        models = [MLPClassifier(**QUICK), MLPRegressor(**QUICK)]
        with pytest.raises(ValueError, match=message):
            fit_many(models, *arguments, **named)
        assert not any(hasattr(model, "coefs_") for model in models)
    with pytest.raises(TypeError, match=r"X must be an array .* got a source of rows"):
        search_many(MLPClassifier(), {"alpha": [1]}, source, None)


def test_ctrl_c_ends_the_running_fits_and_all_readers(rows):
    """A signal, while two fits wait for rows and others have not begun."""
    X, y, _ = rows
    n_blocks, read = cut(X, y)
    main, calls, lock = threading.main_thread().ident, [], threading.Lock()
    heard = threading.Event()

    def hear(number, frame):
        heard.set()
        raise KeyboardInterrupt

    def read_and_interrupt(block):
        with lock:
            calls.append(block)
            is_time = len(calls) == 5 * n_blocks
        if is_time:
            signal.pthread_kill(main, signal.SIGINT)
        if len(calls) >= 5 * n_blocks:
            heard.wait(30)
        return read(block)

    source = sources.from_blocks(n_blocks, read_and_interrupt, buffer=SMALL)
    models = [MLPClassifier(**QUICK | {"max_iter": 1000, "tol": 0}) for _ in range(5)]
    before = signal.signal(signal.SIGINT, hear)
    try:
        with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
            fit_many(models, source, n_threads=2)
    finally:
        signal.signal(signal.SIGINT, before)
    fitted = [hasattr(model, "coefs_") for model in models]
    assert any(fitted[:2])
    assert not any(fitted[2:])
    assert models[fitted.index(True)].predict(X).shape == y.shape


def test_a_reader_of_a_fit_that_has_ended_is_closed_at_once(rows):
    """Not when the last one of all has ended."""
    X, y, _ = rows
    opened, closed = [], []

    class Watched(BlockSource):
        def __enter__(self):
            opened.append(True)
            assert len(opened) - len(closed) == 1
            return self

        def __exit__(self, *exception):
            closed.append(True)

    source = Watched(*cut(X, y), SMALL)
    models = [MLPClassifier(**QUICK | {"solver": s}) for s in ("adam", "lbfgs", "adam")]
    models[2].learning_rate_init, models[2].solver = 1e30, "sgd"
    with pytest.raises(FloatingPointError):
        fit_many(models, source, n_threads=1)
    assert len(opened) == len(closed) == 3


def test_progress_and_warnings_come_from_here(rows, capsys):
    X, y, _ = rows
    source = sources.from_blocks(*cut(X, y, size=100), buffer=SMALL)
    models = [MLPClassifier(**QUICK, verbose="progress") for _ in range(2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_many(models, source)
    assert {each.filename for each in caught} == {__file__}
    assert sum("holds 3 blocks" in str(each.message) for each in caught) == 2
    assert "2/2 fits" in capsys.readouterr().out
