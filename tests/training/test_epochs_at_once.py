"""Several epochs in one call of a kernel: the same bits and the same end as one after another."""

import threading

import numpy as np
import pytest
from conftest import make_task, small, weights
from scipy.sparse import csr_array

import fastbp
from fastbp.cpu import engine, epochs, work
from fastbp.epochs import InMemory
from fastbp.training import NonFiniteLossError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def calls(monkeypatch):
    """For each call with several epochs, how many they were at most, and how many were made."""
    found, train = [], engine.Engine.train_epochs

    def note(self, data, order, several):
        train(self, data, order, several)
        found.append((several.n_epochs, len(several.losses)))

    monkeypatch.setattr(engine.Engine, "train_epochs", note)
    return found


def one_by_one(monkeypatch):
    monkeypatch.setattr(InMemory, "epochs_ahead", lambda *arguments: None)


def state(model):
    """All that a fit leaves."""
    optimizer = model._optimizer
    names = "loss_curve_", "loss_", "best_loss_", "best_iter_", "n_iter_", "t_"
    return [
        weights(model).tobytes(), [moment.tobytes() for moment in optimizer.moments],
        optimizer.step, optimizer.epochs, optimizer.learning_rate, model._no_improvement_count,
        [getattr(model, name) for name in names],
    ]  # fmt: skip


KINDS = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "in order": {"shuffle": False},
    "last batches left out": {"drop_last": True, "batch_size": 40},
    "stopped": {"tol": 0.05, "n_iter_no_change": 2, "max_iter": 200},
    "patience without end": {"tol": 0.05, "n_iter_no_change": np.inf},
    "no tolerance": {"tol": 0, "n_iter_no_change": 1, "max_iter": 60, "learning_rate_init": 0.3},
    "adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "tol": 0.01, "n_iter_no_change": 2,
        "max_iter": 300,
    },
    "dropout": {"dropout": 0.3, "input_dropout": 0.1},
    "average": {"ema_decay": 0.9, "max_grad_norm": 0.1},
    "nadam": {"solver": "nadam"},
    "bfloat16": {"precision": "bfloat16"},
    "scales": {"scaling_layer": True, "parametric_activation": True},
    "embedding": {"numerical_embedding": "pbld"},
}  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["multiclass", "multi-output"])
def test_the_same_bits(task, kind, calls, monkeypatch):
    found = [], []
    for states in found:
        source = np.random.RandomState(3)
        given = {"max_iter": 17, "random_state": source, "warm_start": True} | KINDS[kind]
        model, X, y = small(task, **given)
        for _ in range(2):
            states += state(model.fit(X, y))
        states.append(source.randint(2**31))
        made = len(calls)
        one_by_one(monkeypatch)
    assert found[0] == found[1]
    assert len(calls) == made > 0  # by the first fits alone
    assert {"stopped": model.n_iter_ < 200, "adaptive": model._optimizer.learning_rate < 1e-3}.get(
        kind, True
    )


def test_one_call_for_all_epochs_unless_they_take_long(calls, monkeypatch):
    model, X, y = small("multiclass", max_iter=50)
    expected = state(model.fit(X, y))
    assert calls == [(50, 50)]
    monkeypatch.setattr(work, "WORK_PER_CALL", 2_500_000)
    assert state(model.fit(X, y)) == expected
    sizes = [n for n, _ in calls[1:]]
    assert len(sizes) > 3
    assert len({*sizes[:-1]}) == 1
    assert sum(sizes) == 50
    monkeypatch.setattr(work, "WORK_PER_CALL", 0)
    del calls[:]
    assert state(model.fit(X, y)) == expected
    assert not calls


def test_long_tables_are_cut(calls, monkeypatch):
    monkeypatch.setattr("fastbp.schedules.MOST_AHEAD", 20)  # of 6 batches
    model, X, y = small("multiclass", max_iter=7)
    found = state(model.fit(X, y))
    assert calls == [(3, 3), (3, 3)]  # the last epoch by itself
    one_by_one(monkeypatch)
    assert found == state(model.fit(X, y))


def test_a_loss_that_is_not_finite(calls, monkeypatch):
    errors = []
    for _ in range(2):
        model, X, y = small("single", solver="sgd", learning_rate_init=4.0, max_iter=300)
        with pytest.raises(NonFiniteLossError, match=r"in epoch \d+ at learning rate 4") as caught:
            model.fit(X * 100, y)
        errors.append(str(caught.value))
        one_by_one(monkeypatch)
    assert errors[0] == errors[1]
    ((most, made),) = calls
    assert made < most


def test_losses_that_are_subnormal_are_left_to_python(monkeypatch):
    """Kernels take them for zero, and would go on."""
    y = np.zeros(90)
    y[0] = 1e-307
    found = []
    for _ in range(2):
        model = fastbp.MLPRegressor(
            hidden_layer_sizes=(), solver="sgd", loss="absolute_error", alpha=0, tol=1e-310,
            learning_rate_init=1e-320, n_iter_no_change=2, max_iter=9, warm_start=True,
        )  # fmt: skip
        model.coefs_, model.intercepts_ = [np.zeros((5, 1))], [np.zeros(1)]
        found.append(state(model.fit(np.zeros((90, 5)), y)))
        assert 0 < model.loss_ < np.finfo(float).tiny
        assert model.n_iter_ == 4
        one_by_one(monkeypatch)
    assert found[0] == found[1]


OTHERS = {
    "callback": {"callback": lambda report: None},
    "verbose": {"verbose": True},
    "scored": {"early_stopping": True},
    "planned": {"learning_rate": "cosine"},
    "scaled after epochs": {"solver": "sgd", "learning_rate": "invscaling"},
    "warm-up": {"warmup": 0.9},
    "weights": {"class_weight": "balanced"},
    "one epoch": {"max_iter": 1},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_epochs_that_somebody_wants_to_know_of(kind, calls, capsys):
    model, X, y = small("multiclass", **OTHERS[kind])
    model.fit(X, y)
    assert not calls
    if kind == "verbose":
        assert capsys.readouterr().out.count("Iteration") == 5


def test_checkpoints_sparse_rows_teams_and_partial_fits(calls, tmp_path, monkeypatch):
    model, X, y = small("multiclass", checkpoint=tmp_path / "a")
    model.fit(X, y)
    model.set_params(checkpoint=None).partial_fit(X, y)
    model.fit(csr_array(X), y)
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(work, "WORK_PER_START", 1)
    model.set_params(n_threads=2).fit(X, y)
    assert not calls


def test_a_warm_up_that_is_over(calls):
    model, X, y = small("multiclass", warmup=0.5, max_iter=10)
    model.fit(X, y)
    assert calls == [(5, 5)]


@pytest.mark.parametrize("there_are_threads", [False, True])
def test_numpys_own_generator_is_not_kept_from_other_threads(there_are_threads, calls):
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    model, X, y = make_task("multiclass", hidden_layer_sizes=(4,), max_iter=5)
    if there_are_threads:
        thread.start()
    elif _others_are_at_work():
        pytest.skip("something else has threads in this process")
    try:
        model.fit(X, y)
    finally:
        waiting.set()
    assert bool(calls) != there_are_threads


def _others_are_at_work():
    import _thread

    return _thread._count() > 0


def test_an_interrupt_right_after_a_call(monkeypatch):
    """What has been trained is recorded."""
    kernel_of = epochs.kernel_of

    def interrupted(name):
        def call(address):
            kernel_of(name)(address)
            raise KeyboardInterrupt

        return call

    monkeypatch.setattr(epochs, "kernel_of", interrupted)
    model, X, y = small("multiclass", max_iter=12)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model.fit(X, y)
    monkeypatch.undo()
    expected, X, y = small("multiclass", max_iter=12)
    assert state(model) == state(expected.fit(X, y))


def test_a_kernel_that_fails(monkeypatch):
    monkeypatch.setattr(epochs, "address_of_kernel", lambda *names: _failing())
    model, X, y = small("multiclass")
    with pytest.raises(RuntimeError, match="a kernel failed"):
        model.fit(X, y)


def _failing():
    import ctypes

    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)
    _failing.kept = kind(lambda *addresses: -1)
    return ctypes.cast(_failing.kept, ctypes.c_void_p).value


def test_fits_side_by_side(calls):
    models = [small("multiclass", random_state=seed, max_iter=9)[0] for seed in range(6)]
    _, X, y = small("multiclass")
    fastbp.fit_many(models, X, y, n_threads=2)
    assert calls == [(9, 9)] * 6
    for seed, model in enumerate(models):
        alone = small("multiclass", random_state=seed, max_iter=9)[0].fit(X, y)
        assert state(model) == state(alone)
