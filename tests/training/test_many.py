"""`fit_many`: the bits of lone fits, failures, folds, threads, Ctrl-C."""

import os
import signal
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import TASKS, small, weights
from processes import call_alone
from scipy.sparse import csr_array
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import MLPClassifier, MLPRegressor, fit_many
from fastbp.training import NonFiniteLossError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SETTINGS = [
    {},
    {"solver": "sgd", "learning_rate": "adaptive", "hidden_layer_sizes": (9, 5)},
    {"early_stopping": True, "activation": "tanh", "precision": "float32"},
    {"solver": "lbfgs", "alpha": 0.1},
    {"hidden_layer_sizes": (), "shuffle": False, "random_state": 3},
]


def make_many(task, settings=SETTINGS):
    """Estimators of one task in several settings, and its X and y."""
    made = [small(task, **given) for given in settings]
    return [model for model, _, _ in made], *made[0][1:]


def everything(model):
    """Everything that a fit produces, to compare by bits."""
    scores = model.validation_scores_ or []
    curve = np.concatenate([weights(model), model.loss_curve_, scores, [model.n_iter_, model.t_]])
    public = {name for name in vars(model) if not name.startswith("__")}
    return curve, public, getattr(model, "classes_", np.zeros(0)).tolist(), model.n_features_in_


def assert_same(found, expected):
    for one, alone in zip(map(everything, found), map(everything, expected), strict=True):
        np.testing.assert_array_equal(one[0], alone[0])
        assert one[1:] == alone[1:]


# ---- equal to lone fits -------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("n_threads", [None, 1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_the_bits_of_lone_fits(task, n_threads):
    models, X, y = make_many(task)
    weight = np.linspace(0, 2, len(X))
    alone = [clone(model).fit(X, y, weight) for model in models]
    assert fit_many(models, X, y, weight, n_threads=n_threads) is not models
    assert_same(models, alone)
    assert_same([models[0].partial_fit(X, y)], [alone[0].partial_fit(X, y)])


def test_engines_run_one_thread_each_where_all_cores_are_busy(monkeypatch):
    from fastbp.cpu import engine, work

    sizes, run_team = set(), engine.run_team
    monkeypatch.setattr(engine, "available_threads", lambda: 4)
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(engine, "run_team", lambda n, *a: (sizes.add(n), run_team(n, *a))[1])
    models, X, y = make_many("multiclass")
    fit_many(models, X, y, n_threads=4)
    assert sizes == {1}
    fit_many(models[:2], X, y, n_threads=4)
    assert 2 in sizes
    assert max(sizes) == 2


def test_classifiers_and_regressors_share_a_y_of_numbers():
    X, y = TASKS["binary"][2], np.arange(90) % 3
    models = [MLPClassifier((5,), max_iter=3, random_state=0), MLPRegressor(random_state=0)]
    alone = [clone(model).fit(X, y) for model in models]
    assert_same(fit_many(models, X, y), alone)


@pytest.mark.parametrize("shape", ["indices", "mask", "negative", "repeated", "classes missing"])
@pytest.mark.parametrize("kind", [np.asarray, csr_array, np.asfortranarray])
def test_rows(shape, kind):
    models, X, y = make_many("multiclass")
    X, weight = kind(X), np.linspace(0.1, 2, len(y))
    order = np.random.default_rng(0).permutation(len(y))
    chosen = {
        "indices": order[:70],
        "mask": np.arange(len(y)) % 3 > 0,
        "negative": -order[:60] - 1,
        "repeated": np.random.default_rng(0).integers(0, len(y), 90),
        "classes missing": np.flatnonzero(y != 3),
    }[shape]
    rows = [chosen, chosen[::-1] if shape != "mask" else chosen, chosen, chosen, None]
    alone = [
        clone(model).fit(*((X, y, weight) if part is None else (X[part], y[part], weight[part])))
        for model, part in zip(models, rows, strict=True)
    ]
    assert_same(fit_many(models, X, y, weight, rows=rows), alone)


def test_rows_are_not_copied(spied_engine):
    model, X, y = small("single")
    fit_many([model], X, y, rows=[range(50)])
    assert spied_engine[0].data.X is X


def test_a_shared_random_state_is_drawn_from_in_the_order_of_the_list():
    def make():
        shared = np.random.RandomState(0)
        return [small("binary", random_state=shared, max_iter=1 + i)[0] for i in range(6)], shared

    _, X, y = small("binary")
    (models, source), (alone, other) = make(), make()
    fit_many(models, X, y, n_threads=3)
    assert_same(models, [model.fit(X, y) for model in alone])
    assert source.randint(1000) == other.randint(1000)


def test_feature_names_and_warm_starts():
    models, X, y = make_many("binary", [{"warm_start": True}, {}])
    frame = pd.DataFrame(X, columns=list("abcde"))
    alone = [clone(model).fit(frame, y).fit(frame, y) for model in models]
    assert_same(fit_many(fit_many(models, frame, y), frame, y), alone)
    assert list(models[1].feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names") as caught:
        fit_many(models, frame.rename(columns={"a": "z"}), y)
    assert "estimators[0]" in caught.value.__notes__[0]
    assert_same(models[:1], alone[:1])  # the second one has learned the new name


def test_an_empty_list():
    assert fit_many([], np.zeros((3, 2)), [0, 1, 0]) == []


# ---- failures and warnings ----------------------------------------------------------------------


def test_one_that_fails_does_not_disturb_the_others():
    settings = [{}, {"solver": "sgd", "learning_rate_init": 1e30}, {"hidden_layer_sizes": (0,)}, {}]
    models, X, y = make_many("single", settings)
    before = vars(models[1]).copy(), vars(models[2]).copy()
    with pytest.raises(NonFiniteLossError, match="The loss became") as caught:
        fit_many(models, X, y, n_threads=2)
    (note,) = caught.value.__notes__
    assert "learning_rate_init=1e+30" in note
    assert "estimators[1], estimators[2]; all others" in note
    assert (vars(models[1]), vars(models[2])) == before
    assert_same(models[::3], [clone(model).fit(X, y) for model in models[::3]])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"X": np.full((90, 5), np.nan)}, ValueError, "Input X contains NaN"),
        ({"y": np.zeros(3)}, ValueError, "inconsistent numbers of samples"),
        ({"sample_weight": -np.ones(90)}, ValueError, "must not be negative"),
        ({"rows": [None]}, ValueError, "rows must have 2 entries"),
        ({"rows": [None, [90]]}, ValueError, r"rows\[1\] must hold row numbers from 0 to 89"),
        ({"rows": [None, []]}, ValueError, "at least one"),
        ({"rows": [None, [0.5]]}, ValueError, "float64"),
        ({"rows": [[True], None]}, ValueError, "90 booleans"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"alpha": -1}, InvalidParameterError, "alpha"),
        ({"estimators": ["mlp"]}, TypeError, r"estimators\[0\] must be"),
    ],
)
def test_what_makes_no_sense_changes_nothing(arguments, error, words):
    models, X, y = make_many("single", [{}, {"alpha": arguments.pop("alpha", 1)}])
    before = [vars(model).copy() for model in models]
    with pytest.raises(error, match=words):
        fit_many(**{"estimators": models, "X": X, "y": y} | arguments)
    assert [vars(model) for model in models] == before


def test_the_same_object_twice():
    model, X, y = small("single")
    with pytest.raises(ValueError, match="different objects"):
        fit_many([model, model], X, y)


def test_warnings_come_from_the_caller_in_order():
    models, X, y = make_many("binary", [{"max_iter": 1}, {"batch_size": 900}, {"max_iter": 2}])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_many(models, X, y[:, None], n_threads=3)
    found = [(w.category, str(w.message)[:41], w.filename) for w in caught]
    column = (DataConversionWarning, "A column-vector y was passed when a 1d ar")
    convergence = (ConvergenceWarning, "Stochastic Optimizer: Maximum iterations ", __file__)
    clipped = (UserWarning, "Got `batch_size` less than 1 or larger th", __file__)
    assert found[0][:2] == column
    assert found[1:] == [convergence, clipped, convergence, convergence]


def test_a_warning_made_an_error_is_a_failure():
    models, X, y = make_many("binary", [{"max_iter": 1}, {"solver": "lbfgs", "max_iter": 900}])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning) as caught:
            fit_many(models, X, y)
    assert "Failed and left as before: estimators[0];" in caught.value.__notes__[0]
    assert not hasattr(models[0], "coefs_")
    assert hasattr(models[1], "coefs_")


def test_callbacks_verbose_and_errors_in_them(capsys):
    seen = []

    def fail(report):
        raise KeyError("mine")

    settings = [{"callback": seen.append}, {"verbose": True}, {"callback": fail}]
    models, X, y = make_many("binary", settings)
    with pytest.raises(KeyError, match="mine"):
        fit_many(models, X, y)
    assert [report.n_iter for report in seen] == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.startswith("Iteration 1, loss = ")
    assert not hasattr(models[2], "coefs_")


def test_settings_of_the_calling_thread_hold():
    found = []

    def note(report):
        found.append((np.geterr()["over"], get_config()["assume_finite"]))

    model, X, y = small("single", callback=note)
    with np.errstate(over="raise"), config_context(assume_finite=True):
        fit_many([model], X, y)
    assert set(found) == {("raise", True)}


# ---- Ctrl-C -------------------------------------------------------------------------------------


def interrupt_many(n_models, n_threads):
    """Ctrl-C in the midst of long epochs; tell what is left."""
    X = np.broadcast_to(np.arange(784, dtype=np.uint8) % 7, (1_000_000, 784))
    y = np.arange(len(X), dtype=np.int8) % 3
    models = [
        MLPClassifier((512,), batch_size=300, precision="float32", random_state=0, n_threads=1)
        for _ in range(n_models)
    ]
    from fastbp.cpu import engine

    calls, run_team = [], engine.run_team

    def run_and_interrupt(*arguments):
        calls.append(1)
        if len(calls) == 2 * n_threads:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        run_team(*arguments)

    engine.run_team = run_and_interrupt
    ended = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit_many(models, X, y, n_threads=n_threads)
        except KeyboardInterrupt:
            ended = "KeyboardInterrupt"
        finally:
            engine.run_team = run_team
    fitted = sum(hasattr(model, "coefs_") for model in models)
    return ended, fitted, [(str(w.message), w.filename == __file__) for w in caught], len(calls)


def interrupt_several_times():
    """In one process, as each would import and load everything anew."""
    return [(*sizes, *interrupt_many(*sizes)) for sizes in ((2, 2), (5, 2), (2, 1))]


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_ctrl_c_ends_all():
    for n_models, n_threads, *found in call_alone(interrupt_several_times):
        ended, fitted, caught, calls = found
        assert ended == ("KeyboardInterrupt" if n_models > n_threads else None)
        assert fitted == n_threads
        assert caught == [["Training interrupted by user.", True]] * n_threads
        assert calls <= 5 * n_threads


def test_text_that_names_no_file_of_rows_is_refused_as_by_fit():
    """It was taken for the path of a file."""
    model, X, y = small("multiclass")
    for given in (("text", y), (X, y, "x")):
        errors = []
        for call in (clone(model).fit, lambda *given: fit_many([clone(model)], *given)):
            with pytest.raises(ValueError, match="could not convert string") as caught:
                call(*given)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
