"""Checkpoints: a resumed fit is the uninterrupted one to the bit, or it is refused."""

import copy
import os
import warnings

import numpy as np
import pytest
from conftest import Crash, crash_after, make_task, result, small
from scipy.sparse import csr_array
from sklearn.utils._param_validation import InvalidParameterError

import fastbp
from fastbp import container
from fastbp.data import Data
from fastbp.fingerprints import of_rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


KINDS = {
    "adam": {},
    "adaptive": dict(solver="sgd", learning_rate="adaptive", n_iter_no_change=2, tol=0.05),
    "invscaling": dict(solver="sgd", learning_rate="invscaling", checkpoint_every=3),
    "planned": dict(solver="adamw", learning_rate=lambda progress: 1 - progress),
    "nadam": dict(solver="nadam", warmup=0.7),
    "one cycle": dict(solver="rmsprop", learning_rate="one_cycle", warmup=0.2),
    "lion": dict(solver="lion", learning_rate="adaptive"),
    "early stopping": dict(early_stopping=True, validation_fraction=0.3),
    "float32": dict(precision="float32"),
    "a generator": dict(random_state=np.random.RandomState(3)),
    "no shuffle": dict(shuffle=False),
}


@pytest.mark.parametrize("n_epochs", [1, 2, 5, 9])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["multiclass", "single"])
def test_a_resumed_fit_is_the_uninterrupted_one(task, kind, n_epochs, tmp_path):
    settings = dict(max_iter=10, checkpoint=tmp_path / "state", **KINDS[kind])
    expected, X, y = small(task, **copy.deepcopy(settings))
    expected.set_params(checkpoint=None).fit(X, y)
    interrupted = small(task, callback=crash_after(n_epochs), **copy.deepcopy(settings))[0]
    with pytest.raises(Crash):
        interrupted.fit(X, y)
    assert not hasattr(interrupted, "coefs_")
    for _ in range(2):  # and again from the file that the first has finished
        resumed = small(task, n_threads=1, **copy.deepcopy(settings))[0].fit(X, y, resume=True)
        assert result(resumed) == result(expected)
    if not expected.early_stopping:
        assert result(resumed.partial_fit(X, y)) == result(expected.partial_fit(X, y))


def test_resuming_needs_no_seed(tmp_path):
    """The rows held out and their order come from the file."""
    settings = dict(random_state=None, early_stopping=True, validation_fraction=0.3, max_iter=8)
    settings["checkpoint"] = tmp_path / "state"
    np.random.seed(0)  # noqa: NPY002
    expected, X, y = small("multiclass", **settings)
    expected.set_params(checkpoint=None).fit(X, y)
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(Crash):
        small("multiclass", callback=crash_after(4), **settings)[0].fit(X, y)
    np.random.seed(1)  # noqa: NPY002
    resumed = small("multiclass", **settings)[0].fit(X, y, resume=True)
    assert result(resumed) == result(expected)


def test_a_warm_start_is_resumed(tmp_path):
    first, X, y = small("multiclass", max_iter=6, warm_start=True, early_stopping=True)
    first.fit(X, y)
    expected = copy.deepcopy(first).fit(X, y)
    interrupted = copy.deepcopy(first).set_params(checkpoint=tmp_path / "state")
    interrupted.callback = crash_after(3)
    with pytest.raises(Crash):
        interrupted.fit(X, y)
    assert result(interrupted) == result(first)
    resumed = copy.deepcopy(first).set_params(checkpoint=tmp_path / "state")
    assert result(resumed.fit(X, y, resume=True)) == result(expected)


def test_a_stop_is_kept(tmp_path):
    """A training that has ended is not trained further."""
    settings = dict(max_iter=50, checkpoint=tmp_path / "state")

    def stop(report):
        if report.n_iter == 3:
            report.stop()

    expected, X, y = small("single", callback=stop, **settings)
    expected.fit(X, y)
    assert expected.n_iter_ == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = small("single", **settings)[0].fit(X, y, resume=True)
    assert result(resumed) == result(expected)


def test_the_first_run_may_resume_nothing(tmp_path):
    """One command serves the first start and those after a crash."""
    model, X, y = small("single", checkpoint=tmp_path / "state")
    expected = copy.deepcopy(model).set_params(checkpoint=None).fit(X, y)
    assert result(model.fit(X, y, resume=True)) == result(expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(alpha=0.5), "written with alpha='0.0001'.*has alpha='0.5'"),
        (dict(hidden_layer_sizes=(6, 6)), "hidden_layer_sizes"),
        (dict(max_iter=11), "max_iter=10.*max_iter=11"),
        (dict(random_state=1), "random_state=0.*random_state=1"),
        (dict(n_iter_no_change=np.inf), "n_iter_no_change"),
        (dict(learning_rate=np.cos), "learning_rate='constant'.*'cos'"),
    ],
)
def test_other_settings_are_refused(change, says, tmp_path):
    model, X, y = small("multiclass", max_iter=10, checkpoint=tmp_path / "state")
    model.fit(X, y)
    other = copy.deepcopy(model).set_params(**change)
    before = result(other)
    with pytest.raises(ValueError, match=says):
        other.fit(X, y, resume=True)
    assert result(other) == before


def test_other_data_are_refused(tmp_path):
    model, X, y = small("multiclass", checkpoint=tmp_path / "state")
    model.fit(X, y)
    changed = X.copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], 9)
    others = [(changed, y), (X[::-1], y[::-1]), (X[:-1], y[:-1]), (X.astype("f4"), y)]
    others += [(X, np.roll(y, 1)), (X, y, np.ones(len(y)))]
    for data in others:
        with pytest.raises(ValueError, match="other data"):
            model.fit(*data, resume=True)
    model.fit(np.asfortranarray(X), y, resume=True)  # the same numbers


def test_fingerprints_see_every_number():
    X = np.arange(12.0).reshape(4, 3)
    forms = [X, np.asfortranarray(X), np.repeat(X, 2, 0)[::2], X[::-1][::-1]]
    assert len({str(of_rows(Data(form, X))) for form in forms}) == 1
    different = [X, X.astype("f4"), X.T, csr_array(X), -X]
    data = [Data(form, X) for form in different]
    data += [Data(X, X, X[:, 0]), Data(X, X, None, 2.0), Data(X, -X)]
    assert len({str(of_rows(each)) for each in data}) == len(data)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(resume="yes"), "resume must be True or False, got 'yes'"),
        (dict(resume=True, checkpoint=None), "resume=True needs the file"),
        (dict(solver="lbfgs"), "checkpoint=.*stochastic solver"),
        (dict(checkpoint_every=0), "checkpoint_every"),
        (dict(checkpoint=3), "checkpoint"),
    ],
)
def test_calls_that_make_no_sense(wrong, says, tmp_path):
    model, X, y = small("single", checkpoint=tmp_path / "state")
    extra = {"resume": wrong.pop("resume")} if "resume" in wrong else {}
    with pytest.raises(InvalidParameterError, match=says):
        model.set_params(**wrong).fit(X, y, **extra)


def test_many_fits_have_no_checkpoints(tmp_path):
    model, X, y = small("single", checkpoint=tmp_path / "state")
    with pytest.raises(InvalidParameterError, match=r"checkpoint=.* is for a single fit"):
        fastbp.fit_many([model], X, y)


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    """And the estimator stays as it was, rather than train unguarded for hours."""
    model, X, y = small("single", checkpoint=tmp_path / "no folder" / "state")
    with pytest.raises(FileNotFoundError):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")


def test_writing_changes_nothing(tmp_path):
    expected, X, y = small("multiclass", max_iter=5)
    expected.fit(X, y)
    model = make_task("multiclass", checkpoint=tmp_path / "state")[0]
    model.set_params(**{**expected.get_params(), "checkpoint": tmp_path / "state"}).fit(X, y)
    assert result(model) == result(expected)
    assert os.listdir(tmp_path) == ["state"]


DAMAGES = {
    "no progress": lambda arrays, description: description.pop("progress"),
    "no order": lambda arrays, description: arrays.pop("order"),
    "rows out of range": lambda arrays, description: arrays["order"].__setitem__(0, 10**6),
    "negative rows": lambda arrays, description: arrays["order"].__setitem__(0, -1),
    "rows of another dtype": lambda arrays, description: arrays.update(
        order=arrays["order"].astype("i4")
    ),
    "no state of the rows": lambda arrays, description: description.pop("rows"),
    "short parameters": lambda arrays, description: arrays.update(
        parameters=arrays["parameters"][:-1]
    ),
    "other dtype": lambda arrays, description: arrays.update(
        parameters=arrays["parameters"].astype("f4")
    ),
    "bad generator": lambda arrays, description: description.update(generator={"position": 10**9}),
    "negative step": lambda arrays, description: description["optimizer"].update(step=-3),
    "text as rate": lambda arrays, description: description["optimizer"].update(
        learning_rate="fast"
    ),
    "other ending": lambda arrays, description: description.update(ending="never"),
    "no count": lambda arrays, description: description["progress"].update(n_iter=None),
    "true as count": lambda arrays, description: description["progress"].update(n_iter=True),
    "huge count": lambda arrays, description: description["optimizer"].update(step=2**63),
    "no end": lambda arrays, description: description.update(ending=None),  # trained for ever
    "past the end": lambda arrays, description: description["progress"].update(n_iter=10**6),
    "no best loss": lambda arrays, description: description["progress"].pop("best_loss"),
    "score without rows": lambda arrays, description: description["progress"].update(
        best_loss=None, best_validation_score="0.5"
    ),
    "curve of text": lambda arrays, description: arrays.update(loss_curve=np.zeros(99, "u1")),
    "short curve": lambda arrays, description: arrays.update(loss_curve=np.zeros(0)),
    "a row twice": lambda arrays, description: arrays["order"].__setitem__(0, arrays["order"][1]),
    "not finite": lambda arrays, description: arrays["parameters"].__setitem__(0, np.nan),
    "another array": lambda arrays, description: arrays.update(another=np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_forged_checkpoints_are_refused(damage, tmp_path):
    model, X, y = small("multiclass", checkpoint=tmp_path / "state")
    model.fit(X, y)
    before = result(model)
    arrays, description = container.read(tmp_path / "state")
    DAMAGES[damage](arrays, description)
    container.write(tmp_path / "state", arrays, description)
    with pytest.raises(ValueError, match="state is damaged"):
        model.fit(X, y, resume=True)
    assert result(model) == before


def test_other_files_are_refused(tmp_path):
    model, X, y = small("multiclass", checkpoint=tmp_path / "state")
    for content in (b"", b"hello", os.urandom(1000)):
        (tmp_path / "state").write_bytes(content)
        with pytest.raises(ValueError, match="state"):
            model.fit(X, y, resume=True)
    container.write(tmp_path / "state", {}, {"format": "another"})
    with pytest.raises(ValueError, match="is no checkpoint"):
        model.fit(X, y, resume=True)
