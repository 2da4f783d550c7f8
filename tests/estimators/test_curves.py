"""The loss curve: a list for users, which a call of `partial_fit` neither copies nor changes."""

import copy
import pickle
import threading

import numpy as np
import pytest
from conftest import small

import fastbp
from fastbp.curves import Curve

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def partially_fitted(n_calls=3):
    model, X, y = small("multiclass")
    for _ in range(n_calls):
        model.partial_fit(X, y, classes=np.unique(y))
    return model, X, y


def test_it_is_a_list_like_scikit_learns():
    model, X, y = small("multiclass")
    assert not hasattr(model, "loss_curve_")
    curve = model.fit(X, y).loss_curve_
    assert type(curve) is list
    assert {type(loss) for loss in curve} == {np.float64}
    assert curve is model.loss_curve_
    assert len(curve) == model.n_iter_
    del model.loss_curve_
    assert not hasattr(model, "loss_curve_")
    with pytest.raises(AttributeError, match="no attribute 'loss_curve_'"):
        del model.loss_curve_


def test_a_call_prolongs_the_memory_that_is_there():
    """A copy of a million losses took ten times as long as an update."""
    model, X, y = partially_fitted()
    before, curve = vars(model)["loss_curve_"], model.loss_curve_
    model.partial_fit(X, y)
    after = vars(model)["loss_curve_"]
    assert after._store is before._store
    assert model.loss_curve_[:-1] == curve
    assert len(curve) == len(before) == 3
    assert len(model.loss_curve_) == 4


def test_it_goes_on_from_what_was_assigned():
    model, X, y = partially_fitted()
    model.loss_curve_ = [5.0, 6.0]
    assert model.loss_curve_ == [5.0, 6.0]
    assert model.partial_fit(X, y).loss_curve_[:2] == [5.0, 6.0]
    model.loss_curve_ = ["high"]
    with pytest.raises(ValueError, match="loss_curve_ must be a list of numbers"):
        model.partial_fit(X, y)


def test_a_call_that_fails_changes_nothing():
    model, X, y = partially_fitted()

    def callback(report):
        raise OSError

    state, curve = pickle.dumps(model), model.loss_curve_
    model.set_params(callback=callback)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011
            model.partial_fit(X, y)
    assert model.loss_curve_ is curve
    assert pickle.dumps(model.set_params(callback=None)) == state
    twin = pickle.loads(state).partial_fit(X, y)
    assert model.partial_fit(X, y).loss_curve_ == twin.loss_curve_


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_go_on_by_themselves(copied):
    model, X, y = partially_fitted()
    other, curve = copied(model), list(model.loss_curve_)
    model.partial_fit(X, y)
    other.partial_fit(X[::-1], y[::-1])
    other.partial_fit(X, y)
    assert model.loss_curve_[:3] == other.loss_curve_[:3] == curve
    assert model.loss_curve_[3] != other.loss_curve_[3]
    assert (len(model.loss_curve_), len(other.loss_curve_)) == (4, 5)


def test_a_pickle_grows_by_eight_bytes_an_update():
    model, X, y = partially_fitted()
    sizes = []
    for length in (1000, 51_000):
        vars(model)["loss_curve_"] = Curve(np.linspace(1, 0, length))
        sizes.append(len(pickle.dumps(model)))
    assert (sizes[1] - sizes[0]) / 50_000 < 8.01
    loaded = pickle.loads(pickle.dumps(model))
    assert type(loaded.loss_curve_) is list
    assert loaded.loss_curve_ == model.loss_curve_
    assert len(loaded.partial_fit(X, y).loss_curve_) == 51_001


def test_files_bring_it_back(tmp_path):
    model, X, y = partially_fitted()
    model.save(tmp_path / "model")
    loaded = fastbp.load(tmp_path / "model")
    assert loaded.loss_curve_ == model.loss_curve_
    assert loaded.partial_fit(X, y).loss_curve_ == model.partial_fit(X, y).loss_curve_


def test_threads_that_prolong_the_same_curve():
    curve, start, found = Curve([0.0]), threading.Barrier(8), {}

    def go_on(number):
        start.wait()
        longer = curve
        for _ in range(100):
            longer = longer.prolonged(number)
        found[number] = longer.as_list()

    threads = [threading.Thread(target=go_on, args=(float(number),)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [0.0] + [number] * 100 for number in map(float, range(1, 9))}
    assert list(np.asarray(curve)) == [0.0]


def test_a_deep_copy_has_a_list_of_its_own():
    """Who changed the copy's curve changed the original's."""
    model, X, y = small("multiclass", max_iter=3)
    model.fit(X, y)
    before, other = list(model.loss_curve_), copy.deepcopy(model)
    other.loss_curve_.append(9.0)
    assert model.loss_curve_ == before
