"""Rows beyond memory: the same training as in memory, whatever the storage and its speed."""

import errno
import fcntl
import os
import pickle
import re
import shutil
import threading
import warnings

import numpy as np
import pytest
from conftest import weights
from sklearn.datasets import make_classification

from fastbp import MLPClassifier, MLPRegressor, sources
from fastbp.sources.ahead import ReadAhead
from fastbp.sources.blocks import BlockSource
from fastbp.sources.flat import FlatSource, RowFile
from fastbp.sources.order import BlockOrder

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks"),
    pytest.mark.usefixtures("nothing_is_left"),
]

N_ROWS, N_FEATURES = 3000, 6
SMALL = "16kB"  # of which an array of float32 as above needs several
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 4, "random_state": 0, "batch_size": 64}


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(
        N_ROWS, N_FEATURES, n_informative=5, n_redundant=0, n_classes=3, random_state=0
    )
    return X.astype(np.float32), np.array(["cat", "dog", "eel"])[y]


@pytest.fixture
def saved(rows, tmp_path):
    """X as a file, and y."""
    np.save(tmp_path / "x.npy", rows[0])
    return tmp_path / "x.npy", rows[1]


def cut(X, y, size=37, sample_weight=None):
    """What `from_blocks` takes: blocks of `size` rows, the last smaller."""

    def read(block):
        part = slice(block * size, (block + 1) * size)
        weight = () if sample_weight is None else (sample_weight[part],)
        return (X[part], y[part], *weight)

    return -(-len(X) // size), read


# ---- the same as in memory ----------------------------------------------------------------------


@pytest.mark.smoke
def test_rows_that_fit_the_buffer_are_trained_on_as_an_array(saved, rows):
    X, y = rows
    expected = MLPClassifier(**QUICK, early_stopping=True).fit(X, y)
    model = MLPClassifier(**QUICK, early_stopping=True).fit(sources.from_npy(*saved))
    assert np.array_equal(weights(model), weights(expected))
    assert model.validation_scores_ == expected.validation_scores_
    assert model.loss_curve_ == expected.loss_curve_


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("kind", ["npy", "blocks", "batches", "float16"])
def test_in_the_order_of_the_source_the_bits_are_those_of_memory(saved, rows, kind, drop_last):
    """All but the order of rows is the same: batches across buffers, steps, penalty, rates."""
    (path, _), (X, y) = saved, rows
    parameters = QUICK | {"shuffle": False, "drop_last": drop_last, "learning_rate": "cosine"}
    n_blocks, read = cut(X, y)
    if kind == "float16":
        X = X.astype(np.float16)
        np.save(path, X)
        X = X.astype(np.float32)
    source = {
        "npy": lambda: sources.from_npy(path, y, buffer=SMALL),
        "float16": lambda: sources.from_npy(path, y, buffer=SMALL),
        "blocks": lambda: sources.from_blocks(n_blocks, read, buffer=SMALL),
        "batches": lambda: sources.from_batches([*map(read, range(n_blocks))], buffer=SMALL),
    }[kind]()
    assert not source.fits
    expected = MLPClassifier(**parameters).fit(X, y)
    model = MLPClassifier(**parameters).fit(source)
    assert np.array_equal(weights(model), weights(expected))
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-12)
    assert model.t_ == expected.t_
    assert list(model.classes_) == list(expected.classes_)


@pytest.mark.parametrize(
    "parameters",
    [
        {"dropout": 0.2, "input_dropout": 0.1, "solver": "adamw", "warmup": 0.3},
        {"ema_decay": 0.9, "scaling_layer": True, "parametric_activation": True},
        {"numerical_embedding": "pbld", "max_grad_norm": 0.5, "solver": "sgd"},
        {"precision": "float64", "learning_rate": "invscaling", "solver": "sgd"},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_whatever_else_is_asked_for_has_the_bits_of_memory(saved, rows, parameters):
    expected = MLPClassifier(**QUICK, **parameters, shuffle=False).fit(*rows)
    source = sources.from_npy(*saved, buffer=SMALL)
    model = MLPClassifier(**QUICK, **parameters, shuffle=False).fit(source)
    assert np.array_equal(weights(model), weights(expected))


def test_weights_and_several_targets_are_those_of_memory(rows):
    X, _ = rows
    random = np.random.default_rng(1)
    y, weight = np.tanh(X[:, :2] * 3), random.integers(0, 3, len(X)).astype(float)
    weight[200:400] = 0  # whole batches without
    parameters = QUICK | {"shuffle": False, "scale_targets": True, "clip_predictions": True}
    source = sources.from_blocks(*cut(X, y, sample_weight=weight), buffer=SMALL)
    expected = MLPRegressor(**parameters).fit(X, y, weight)
    model = MLPRegressor(**parameters).fit(source)
    assert np.array_equal(weights(model), weights(expected))
    assert np.array_equal(model.predict(source), expected.predict(X))
    assert model.score(source) == expected.score(X, y, weight)


def test_class_weights_and_indicators_are_those_of_memory(rows):
    X, y = rows
    expected = MLPClassifier(**QUICK, shuffle=False, class_weight="balanced").fit(X, y)
    model = MLPClassifier(**QUICK, shuffle=False, class_weight="balanced")
    model.fit(sources.from_blocks(*cut(X, y), buffer=SMALL))
    assert np.array_equal(weights(model), weights(expected))
    indicators = (X[:, :3] > 0).astype(int)
    source = sources.from_blocks(*cut(X, indicators), buffer=SMALL)
    expected = MLPClassifier(**QUICK, shuffle=False).fit(X, indicators)
    model = MLPClassifier(**QUICK, shuffle=False).fit(source)
    assert np.array_equal(weights(model), weights(expected))
    assert np.array_equal(model.predict(source), expected.predict(X))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, bool, ">f4"])
def test_dtypes_stay_as_they_are(tmp_path, dtype):
    random = np.random.default_rng(0)
    X = random.integers(0, 2 if dtype is bool else 200, (2000, 9)).astype(dtype)
    y = X[:, 0] > X[:, 1:].mean(axis=1)
    np.save(tmp_path / "x.npy", X)
    source = sources.from_npy(tmp_path / "x.npy", y, buffer="8kB")
    assert source.dtype == np.dtype(dtype).newbyteorder("=")
    parameters = QUICK | {"input_scale": 1 / 200, "shuffle": False, "max_iter": 2}
    X = X.astype(source.dtype)  # of other order of bytes, these are copied to float64 in memory
    expected = MLPClassifier(**parameters).fit(X, y)
    model = MLPClassifier(**parameters).fit(source)
    assert np.array_equal(weights(model), weights(expected))
    assert model.predict_proba(source).tobytes() == expected.predict_proba(X).tobytes()


def test_the_gradient_of_lbfgs_is_summed_over_the_buffers(saved, rows):
    X, y = rows
    parameters = QUICK | {"solver": "lbfgs", "max_iter": 20, "precision": "float64"}
    expected = MLPClassifier(**parameters).fit(X, y)
    model = MLPClassifier(**parameters).fit(sources.from_npy(*saved, buffer=SMALL))
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-5, atol=1e-8)


# ---- the order ----------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """The first feature of the rows of every batch that any engine trains on, epoch by epoch."""
    from fastbp import devices

    make, epochs = devices.make_engine, []

    def make_spy(*arguments, **named):
        engine = make(*arguments, **named)
        train = engine.train_epoch

        def train_epoch(data, order, steps):
            epochs.append((data.X[order, 0].copy(), steps.table[:, 0].copy()))
            return train(data, order, steps)

        engine.train_epoch = train_epoch
        return engine

    monkeypatch.setattr(devices, "make_engine", make_spy)
    return epochs


def epochs_of(seen, n_rows):
    """The pieces put together."""
    numbers = np.concatenate([rows for rows, _ in seen])
    batches = np.concatenate([sizes for _, sizes in seen])
    return numbers.reshape(-1, n_rows), batches.reshape(len(numbers) // n_rows, -1)


def numbered(n_rows=N_ROWS):
    """Rows that are known by their first feature, and their targets."""
    X = np.zeros((n_rows, 3), np.float32)
    X[:, 0] = np.arange(n_rows)
    return X, np.sin(X[:, 0])


QUIET = {"input_scale": 1e-6, "hidden_layer_sizes": (2,), "random_state": 0, "batch_size": 70}


@pytest.mark.smoke
def test_each_row_comes_once_an_epoch_in_another_order_each_time(seen):
    source = sources.from_blocks(*cut(*numbered(), size=7), buffer="8kB")
    MLPRegressor(**QUIET, max_iter=3).fit(source)
    assert len(seen) > 9
    epochs, batches = epochs_of(seen, N_ROWS)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(N_ROWS))
    assert len({epoch.tobytes() for epoch in epochs}) == 3
    assert (batches[:, :-1] == 70).all()
    # From all over the rows: what is near in training was far apart.
    assert np.median(np.abs(np.diff(epochs[0]))) > N_ROWS / 10


def test_the_order_is_a_function_of_seed_and_epoch(seen):
    X, y = numbered()
    source = sources.from_blocks(*cut(X, y, size=7), buffer="8kB")
    MLPRegressor(**QUIET, max_iter=3).fit(source)
    at_once, _ = epochs_of(seen, N_ROWS)
    seen.clear()
    model = MLPRegressor(**QUIET, max_iter=3)
    for _ in range(3):  # and goes on with the count
        model.partial_fit(source)
    one_by_one, _ = epochs_of(seen, N_ROWS)
    assert np.array_equal(at_once, one_by_one)
    seen.clear()
    MLPRegressor(**QUIET | {"random_state": 1}, max_iter=1).fit(source)
    assert not np.array_equal(epochs_of(seen, N_ROWS)[0], at_once[:1])


@pytest.mark.parametrize("n_rows", [5_000, 8_193, 100_000, 1_000_001])
@pytest.mark.parametrize("row_bytes", [1, 100, 3136])
def test_every_buffer_of_a_file_has_64_blocks_and_no_more_than_its_size(n_rows, row_bytes):
    status = (0,) * 4
    file = RowFile("x.npy", 128, (n_rows, row_bytes), np.dtype(np.uint8), status)
    source = FlatSource(file, None, None, 2**20)
    assert source.shape == (n_rows, row_bytes)
    order = BlockOrder(source, shuffle=True)
    groups = order.groups(5)
    assert len(groups) == order.n_groups
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(len(source.block_rows)))
    for group in groups:
        assert source.block_rows[group].sum() <= order.most_rows
        assert order.most_rows * row_bytes <= 2**20
        assert len(group) >= 64 or source.fits


def test_batches_are_shuffled_anew_in_each_epoch(seen):
    """Their buffers hold the same rows every time."""
    n_blocks, read = cut(*numbered())
    source = sources.from_batches([*map(read, range(n_blocks))], buffer="8kB")
    MLPRegressor(**QUIET, max_iter=2).fit(source)
    epochs, _ = epochs_of(seen, N_ROWS)
    assert np.array_equal(np.sort(epochs[0]), np.arange(N_ROWS))
    assert np.mean(epochs[0] == epochs[1]) < 0.1


def test_rows_are_shuffled_anew_in_each_epoch_and_buffer(rows):
    order = BlockOrder(sources.from_blocks(*cut(*rows), buffer=SMALL), shuffle=True, seed=3)
    found = set()
    for epoch, group in ((0, 0), (0, 1), (1, 0)):
        shuffled = np.arange(2000)
        order.shuffle_rows(shuffled, epoch, group)
        assert np.array_equal(np.sort(shuffled), np.arange(2000))
        found.add(shuffled.tobytes())
    assert len(found) == 3


def test_closing_ends_the_reader_after_the_block_that_it_reads(rows):
    n_blocks, read = cut(*rows, size=10)
    asked, closed = [], []

    class Watched(BlockSource):
        def read(self, block, out):
            asked.append(block)
            while len(asked) == 5 and not state.stopped:
                os.sched_yield()
            super().read(block, out)

        def __exit__(self, *exception):
            for _ in range(100):
                os.sched_yield()
            closed.append(True)

    source = Watched(n_blocks, read, SMALL)
    ahead = ReadAhead(source, [(np.arange(50), None)], most_rows=500)
    state = ahead._state
    with ahead:
        while len(asked) < 5:
            os.sched_yield()
    assert closed == [True]
    assert asked == [0, 1, 2, 3, 4]


def test_threads_and_slow_readers_change_no_bit(rows):
    X, y = rows
    n_blocks, read = cut(X, y)
    found = []
    for n_threads, slow in ((1, False), (2, False), (1, True)):

        def read_slowly(block, slow=slow):
            if slow and block % 5 == 0:
                for _ in range(1000):
                    os.sched_yield()
            return read(block)

        source = sources.from_blocks(n_blocks, read_slowly, buffer=SMALL)
        model = MLPClassifier(**QUICK | {"hidden_layer_sizes": (64, 64)}, n_threads=n_threads)
        found.append(weights(model.fit(source)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_rows_sorted_by_class_are_learned_like_shuffled_ones():
    X, y = make_classification(
        20_000, 10, n_informative=8, n_redundant=0, n_classes=4, n_clusters_per_class=1,
        random_state=1,
    )  # fmt: skip
    X, X_test, y, y_test = X[:16_000], X[16_000:], y[:16_000], y[16_000:]
    order = np.argsort(y, kind="stable")
    parameters = {"hidden_layer_sizes": (16,), "max_iter": 6, "random_state": 0, "batch_size": 50}
    expected = MLPClassifier(**parameters).fit(X, y).score(X_test, y_test)
    source = sources.from_blocks(*cut(X[order], y[order], size=20), buffer=20 * 80 * 160)
    score = MLPClassifier(**parameters).fit(source).score(X_test, y_test)
    assert score > expected - 0.01
    # With no shuffling the same file makes a useless model: the test can fail.
    useless = MLPClassifier(**parameters, shuffle=False).fit(source).score(X_test, y_test)
    assert useless < expected - 0.05


# ---- early stopping -----------------------------------------------------------------------------


def test_rows_of_every_block_are_held_out_and_never_learned(seen):
    X, y = numbered()
    source = sources.from_blocks(*cut(X, y, size=20), buffer="8kB")
    model = MLPRegressor(**QUIET, max_iter=2, early_stopping=True, validation_fraction=0.1)
    model.fit(source)
    epochs, _ = epochs_of(seen, N_ROWS - N_ROWS // 10)
    held_out = np.setdiff1d(np.arange(N_ROWS), epochs[0])
    assert np.array_equal(np.sort(epochs[0]), np.sort(epochs[1]))
    assert (np.bincount((held_out // 20).astype(int)) == 2).all()
    # Scored on exactly these.
    model.set_params(max_iter=1).fit(source)
    rows = held_out.astype(int)
    assert model.validation_scores_[-1] == pytest.approx(model.score(X[rows], y[rows]), abs=1e-9)


def test_early_stopping_scores_held_out_labels(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X, y), buffer="32kB")
    parameters = QUICK | {"max_iter": 30, "early_stopping": True, "scoring": ["accuracy", "loss"]}
    model = MLPClassifier(**parameters).fit(source)
    assert model.best_validation_score_ == max(model.validation_scores_) > 0.6
    assert model.score(source) == pytest.approx(model.best_validation_score_, abs=0.1)


def test_scorers_are_given_the_held_out_rows(rows):
    """Not the outputs that are known of them, which another array does not have."""

    def anew(estimator, X, y):
        return estimator.score(X.copy(), y)

    source = sources.from_blocks(*cut(*rows), buffer="32kB")
    scoring = {"anew": anew, "known": "accuracy"}
    model = MLPClassifier(**QUICK, early_stopping=True, scoring=scoring).fit(source)
    assert model.validation_metrics_["anew"] == model.validation_metrics_["known"]


def test_validation_rows_of_ones_own_are_taken(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X[:2500], y[:2500]), buffer=SMALL)
    for parameters in ({"early_stopping": True}, {"solver": "lbfgs"}):
        model = MLPClassifier(**QUICK, **parameters).fit(source, X_val=X[2500:], y_val=y[2500:])
        if "solver" in parameters:
            assert model.validation_scores_[-1] == model.score(X[2500:], y[2500:])
        else:
            assert model.best_validation_score_ == model.score(X[2500:], y[2500:])


def test_a_warm_start_keeps_the_held_out_rows(seen):
    X, y = numbered()
    source = sources.from_blocks(*cut(X, y, size=20), buffer="8kB")
    model = MLPRegressor(**QUIET, max_iter=1, early_stopping=True, warm_start=True)
    model.fit(source).fit(source)
    epochs, _ = epochs_of(seen, N_ROWS - N_ROWS // 10)
    assert np.array_equal(np.sort(epochs[0]), np.sort(epochs[1]))
    assert not np.array_equal(epochs[0], epochs[1])


# ---- failures -----------------------------------------------------------------------------------


def failing(source, message, error=ValueError, model=None, **parameters):
    """Fit, expect an error, and see that nothing has changed."""
    model = MLPClassifier(**QUICK | parameters) if model is None else model
    before = dict(vars(model))
    with pytest.raises(error, match=message):
        model.fit(source)
    assert vars(model) == before


def test_an_error_of_the_reader_is_raised_and_says_where_it_comes_from(rows):
    n_blocks, read = cut(*rows)
    calls = []

    def read_or_fail(block):
        calls.append(block)
        if len(calls) > 2 * n_blocks:  # in the midst of the second epoch
            raise OSError("the network is down")
        return read(block)

    source = sources.from_blocks(n_blocks, read_or_fail, buffer=SMALL)
    failing(source, "the network is down", OSError)
    assert len(calls) > 2 * n_blocks
    with pytest.raises(OSError, match="network") as raised:
        MLPClassifier(**QUICK).fit(source)
    assert "block of a source" in raised.value.__notes__[0]


def test_a_file_that_is_cut_off_is_refused(saved):
    path, y = saved
    source = sources.from_npy(path, y, buffer=SMALL)
    os.truncate(path, os.path.getsize(path) - 1000)
    with pytest.raises(ValueError, match=r"x\.npy is cut off: its header promises 72128 bytes"):
        sources.from_npy(path, y)
    failing(source, r"x\.npy has changed since the source was made")


def test_a_file_that_is_cut_off_in_training_is_refused(saved):
    path, y = saved
    source = sources.from_npy(path, y, buffer=SMALL)
    cut_off = os.path.getsize(path) - 40_000

    def callback(report):
        os.truncate(path, cut_off)

    # The latter if a block had been read, and its file not yet looked at.
    message = r"x\.npy (is cut off: it has no more than|has changed since)"
    failing(source, message, callback=callback, max_iter=50)


def test_numbers_that_are_not_finite_are_found(saved, rows):
    path, y = saved
    X = rows[0].copy()
    X[2011, 3] = np.nan
    np.save(path, X)
    source = sources.from_npy(path, y, buffer=SMALL)
    failing(source, r"x\.npy contains nan in row 2011, column 3")
    model = MLPClassifier(**QUICK).fit(rows[0], y)
    with pytest.raises(ValueError, match="contains nan in row 2011"):
        model.predict(source)
    with pytest.raises(ValueError, match="block 54 contains nan in row 2011, column 3"):
        sources.from_blocks(*cut(X, y))


def test_ctrl_c_leaves_the_epochs_so_far(rows):
    source = sources.from_blocks(*cut(*rows), buffer=SMALL)

    def callback(report):
        if report.n_iter == 2:
            raise KeyboardInterrupt

    model = MLPClassifier(**QUICK, callback=callback)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(source)
    assert model.n_iter_ == 2
    shorter = MLPClassifier(**QUICK | {"max_iter": 2}).fit(source)
    assert np.array_equal(weights(model), weights(shorter))


def test_ctrl_c_while_rows_are_waited_for_ends_the_reader(rows):
    """The user's function hangs; a signal comes to some thread; the main one must not sleep on."""
    import signal

    n_blocks, read = cut(*rows)
    calls, heard, were_heard = [], threading.Event(), []

    def hear(number, frame):
        heard.set()
        raise KeyboardInterrupt

    def read_and_interrupt(block):
        calls.append(block)
        if len(calls) == n_blocks + 40:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            were_heard.append(heard.wait(30))
        return read(block)

    source = sources.from_blocks(n_blocks, read_and_interrupt, buffer=SMALL)
    before = signal.signal(signal.SIGINT, hear)
    try:
        with pytest.warns(UserWarning, match="interrupted"):
            MLPClassifier(**QUICK | {"max_iter": 1000, "tol": 0}).fit(source)
    finally:
        signal.signal(signal.SIGINT, before)
    assert were_heard == [True]
    assert len(calls) < 10 * n_blocks


def test_a_pickle_knows_its_file_in_another_folder_and_on_another_machine(saved, monkeypatch):
    """Where it has other numbers; but not if it has changed."""
    path, y = saved
    monkeypatch.chdir(path.parent)
    source = sources.from_npy("x.npy", y, buffer=SMALL)
    expected = MLPClassifier(**QUICK).fit(source)
    sent = pickle.loads(pickle.dumps(source))
    monkeypatch.chdir("/")
    shutil.copy2(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)
    assert np.array_equal(weights(MLPClassifier(**QUICK).fit(sent)), weights(expected))
    time = os.stat(path).st_mtime_ns
    with open(path, "ab") as file:
        file.write(b"more")
    os.utime(path, ns=(time, time))  # so that only the size tells
    failing(sent, r"x\.npy has changed since the source was made")
    os.truncate(path, os.path.getsize(path) - len(b"more"))
    os.utime(path, (1, 1))
    failing(sent, r"x\.npy has changed since the source was made")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"initialization": "data_driven"}, "initialization='data_driven' is not for sources"),
        ({"batch_size": 5000}, "batch_size=3000 is more than the 6.. rows of a buffer"),
        (
            {"early_stopping": True, "validation_fraction": 0.5},
            r"validation_fraction=0.5 of 3000 rows .* Use validation_fraction=0.22",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_what_does_not_work_with_a_source_is_refused(rows, parameters, message):
    source = sources.from_blocks(*cut(*rows), buffer=SMALL)
    failing(source, message, **parameters)


def test_y_beside_a_source_is_refused(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    model = MLPClassifier(**QUICK)
    with pytest.raises(ValueError, match="y is given beside a source, which has its own"):
        model.fit(source, y)
    with pytest.raises(ValueError, match="sample_weight is given beside a source"):
        model.fit(source, sample_weight=np.ones(len(y)))
    n_blocks, read = cut(X, y)
    without = sources.from_blocks(n_blocks, lambda block: read(block)[0], buffer=SMALL)
    failing(without, "The source has no y")
    model.fit(source)
    assert np.array_equal(model.predict(without), model.predict(X))
    with pytest.raises(ValueError, match="has no y"):
        model.score(without)


def test_what_takes_no_source_says_so(rows):
    source = sources.from_blocks(*cut(*rows), buffer=SMALL)
    with pytest.raises(TypeError, match="is a source of rows and no array"):
        np.asarray(source)
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(TypeError, match="is a source of rows and no array"):
        LogisticRegression().fit(source, rows[1])
    assert np.array_equal(source.load(), rows[0])


def test_other_columns_are_refused(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    model = MLPClassifier(**QUICK).fit(X[:, :5], y)
    with pytest.raises(ValueError, match="X has 6 features, but MLPClassifier is expecting 5"):
        model.predict(source)


def test_blocks_that_are_no_blocks_are_refused(rows):
    X, y = rows
    n_blocks, read = cut(X, y)

    def but(block, given):
        return lambda i: given if i == block else read(i)

    for given, message in (
        ((X[:3], y[:4]), r"block 2 has 3 rows, but y of shape \(4,\)"),
        ((X[:3, :5], y[:3]), "block 2 has 5 columns, but the first block has 6"),
        ((X[0], y[:3]), "block 2 must have X of shape"),
        (X[:3], "block 2 has no y, but others have"),
        ((X[:3],) * 4, "block 2 must be X, "),
    ):
        with pytest.raises(ValueError, match=message):
            sources.from_blocks(n_blocks, but(2, given))
    for given in (X[:3].astype(complex), np.full((3, 6), "a")):
        with pytest.raises(TypeError, match="X must hold real numbers"):
            sources.from_blocks(n_blocks, but(2, (given, y[:3])))
    asked = []

    def shrinking(block):
        asked.append(block)
        part = read(block)
        return part if len(asked) <= n_blocks + 30 else (part[0][1:], part[1][1:])

    source = sources.from_blocks(n_blocks, shrinking, buffer=SMALL)
    failing(source, r"has shape \(\d+, 6\) and dtype float32, but had \(\d+, 6\) and at most")


def test_files_that_are_no_rows_are_refused(tmp_path, rows):
    X, y = rows
    np.save(tmp_path / "columns.npy", np.asfortranarray(X))
    np.save(tmp_path / "flat.npy", X[0])
    np.save(tmp_path / "objects.npy", X.astype(object))
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "text.npy").write_text("a,b\n1,2\n")
    for name, message in (
        ("columns", "is stored column by column"),
        ("flat", "must hold an array of shape"),
        ("objects", "holds Python objects"),
        ("text", "is no .npy file that can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            sources.from_npy(tmp_path / f"{name}.npy", y)
    with pytest.raises(ValueError, match="y must have 3000 rows, as X"):
        sources.from_npy(tmp_path / "x.npy", y[1:])
    with pytest.raises(ValueError, match="buffer must be a size"):
        sources.from_npy(tmp_path / "x.npy", y, buffer="much")
    with pytest.raises(TypeError, match=r"must be the path of a \.npy file"):
        sources.from_npy(X, y)


@pytest.mark.filterwarnings("default:buffer=.* holds .* blocks")
def test_too_few_blocks_a_buffer_are_warned_of(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X, y, size=100), buffer=SMALL)
    with pytest.warns(UserWarning, match="holds 6 blocks: rows that are sorted"):
        MLPClassifier(**QUICK).fit(source)
    with pytest.raises(ValueError, match="has no room for a block of 100 rows of 24 bytes"):
        MLPClassifier(**QUICK).fit(sources.from_blocks(*cut(X, y, size=100), buffer="2kB"))


def test_batches_that_are_sorted_by_class_are_warned_of(rows):
    X, y = rows
    order = np.argsort(y)
    n_blocks, read = cut(X[order], y[order])
    source = sources.from_batches([*map(read, range(n_blocks))], buffer=SMALL)
    with pytest.warns(UserWarning, match="first buffer has rows of 1 of 3 classes"):
        MLPClassifier(**QUICK).fit(source)
    with pytest.raises(TypeError, match="batches can be gone through only once"):
        sources.from_batches(map(read, range(n_blocks)))


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="all files are read by the cache here")
def test_files_are_read_past_the_cache_where_that_works_and_by_it_elsewhere(saved, monkeypatch):
    from fastbp.sources import flat

    path, y = saved
    direct = MLPClassifier(**QUICK).fit(sources.from_npy(path, y, buffer=SMALL))
    refused, preadv, posix_fadvise, forgotten = [], os.preadv, os.posix_fadvise, []

    def refuse_direct(descriptor, *arguments):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(descriptor, *arguments)

    def forget(*arguments):
        forgotten.append(arguments[1:3])
        return posix_fadvise(*arguments)

    monkeypatch.setattr(os, "posix_fadvise", forget)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", refuse_direct)  # as some file systems do, at the first read
        refusing = MLPClassifier(**QUICK).fit(sources.from_npy(path, y, buffer=SMALL))
    assert len(refused) == 1
    monkeypatch.setattr(flat, "_DIRECT", 0)
    cached = MLPClassifier(**QUICK).fit(sources.from_npy(path, y, buffer=SMALL))
    assert np.array_equal(weights(direct), weights(refusing))
    assert np.array_equal(weights(direct), weights(cached))
    # Whole pages, so that none stays.
    assert forgotten
    assert all(position % 4096 == 0 == length % 4096 for position, length in forgotten)
    assert FlatSource is type(sources.from_npy(path))


def test_partial_fit_of_a_classifier_knows_its_classes(rows):
    X, y = rows
    source = sources.from_blocks(*cut(X, y), buffer=SMALL)
    model = MLPClassifier(**QUICK)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(source)
    model.partial_fit(source, classes=["ant", "cat", "dog", "eel"])
    expected = MLPClassifier(**QUICK | {"shuffle": False})
    assert model.classes_.tolist() == ["ant", "cat", "dog", "eel"]
    again = MLPClassifier(**QUICK | {"shuffle": False})
    again.partial_fit(source, classes=model.classes_).partial_fit(source)
    expected.partial_fit(X, y, classes=model.classes_).partial_fit(X, y)
    assert np.array_equal(weights(again), weights(expected))


def test_a_gpu_is_refused():
    from types import SimpleNamespace

    from fastbp.sources.streaming import GivenSource

    fit = SimpleNamespace(device="cuda", estimator=SimpleNamespace(device="auto"))
    with pytest.raises(ValueError, match="device='auto' is not for sources"):
        GivenSource(None, None).rows_of(fit)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_what_waits_for_what_is_printed(rows, capsys, solver):
    source = sources.from_blocks(*cut(*rows), buffer=SMALL)
    MLPClassifier(**QUICK, solver=solver, verbose=True).fit(source)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    waits = r"rows/s, (waits for rows \d+%|rows are there in time)"
    for line in lines[1::2]:
        assert re.fullmatch(rf"[\d.]+[kM]? {waits}", line)
    MLPClassifier(**QUICK, solver=solver, verbose="progress").fit(source)
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.search(waits + ", ", line)
    MLPClassifier(**QUICK, solver=solver, verbose=True).fit(*rows)
    assert "rows" not in capsys.readouterr().out


def test_the_report_says_how_long_rows_were_waited_for(rows):
    reports = []
    source = sources.from_blocks(*cut(*rows), buffer=SMALL)
    MLPClassifier(**QUICK, callback=reports.append).fit(source)
    assert all(0 <= report.seconds_waiting <= report.seconds for report in reports)
    MLPClassifier(**QUICK, callback=reports.append).fit(*rows)
    assert reports[-1].seconds_waiting is None


def test_a_reader_may_use_its_arrays_again():
    """Targets and weights of all blocks became those of the last."""
    X, y, weight = np.empty((10, 1), np.float32), np.empty(10, int), np.empty(10)

    def read(block):
        X[:], y[:], weight[:] = block, block, block + 1
        return X, y, weight

    source = sources.from_blocks(3, read)
    assert np.unique(source.y).tolist() == [0, 1, 2]
    assert np.unique(source.sample_weight).tolist() == [1, 2, 3]


def test_a_reader_that_runs_out_of_blocks_is_no_end_of_the_rows():
    """A StopIteration ended them without a word."""
    blocks = iter([(np.zeros((5, 1)), np.arange(5))] * 3)
    with pytest.raises(RuntimeError, match="StopIteration"):
        sources.from_blocks(100, lambda block: next(blocks))


def test_more_batches_than_at_first_are_an_error(rows):
    """They were left out without a word."""
    X, y = rows
    times = []

    def batches():
        times.append(0)
        for start in range(0, len(X), 50):
            yield X[start : start + 50], y[start : start + 50]
        if len(times) > 1:
            yield X[:50], y[:50]

    source = sources.from_batches(batches, buffer="8kB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failing(source, "more batches than")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_file_that_is_written_to_in_training_is_refused(tmp_path, solver):
    """Training went on with what had been written."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.normal(size=(4000, 4)).astype(np.float32))
    source = sources.from_npy(tmp_path / "x.npy", np.arange(4000) % 2, buffer="8kB")

    def overwrite(report):
        with open(tmp_path / "x.npy", "r+b") as file:
            file.seek(1000)
            file.write(bytes(4000))
            os.utime(file.fileno(), (1, 1))  # another time, however coarse the clock is

    failing(source, "has changed since the source was made", callback=overwrite, solver=solver)


def test_the_fraction_that_an_error_names_is_taken(rows, tmp_path):
    """It was rounded up, and refused in turn."""
    np.save(tmp_path / "x.npy", np.zeros((3000, 4), np.float32))
    source = sources.from_npy(tmp_path / "x.npy", np.arange(3000) % 2, buffer="16kB")
    model = MLPClassifier((2,), max_iter=1, early_stopping=True, validation_fraction=0.5)
    with pytest.raises(ValueError, match="Use validation_fraction=") as caught:
        model.fit(source)
    named = re.search(r"Use validation_fraction=(0\.\d+)", str(caught.value))[1]
    model.set_params(validation_fraction=float(named)).fit(source)
