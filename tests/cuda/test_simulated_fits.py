"""Whole fits with device="cuda", in the simulator, against device="cpu"."""

import pickle

import numpy as np
import pytest
from conftest import small, weights
from simulation import speed_up
from sklearn.exceptions import ConvergenceWarning

from fastbp.training import NonFiniteLossError

speed_up()
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = dict(hidden_layer_sizes=(4,), max_iter=2, batch_size=30)


def fit_both(task, **parameters):
    """The same estimator fitted on the CPU and on the simulated GPU, and its X and y."""
    settings = QUICK | parameters
    on_cpu, X, y = small(task, **settings)
    on_gpu, _, _ = small(task, device="cuda", **settings)
    return on_cpu.fit(X, y), on_gpu.fit(X, y), X, y


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "multi-output", "poisson"])
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("float64", 1e-12)])
def test_fits_agree(task, precision, rtol):
    on_cpu, on_gpu, X, _ = fit_both(task, precision=precision, activation="tanh")
    np.testing.assert_allclose(on_gpu.loss_curve_, on_cpu.loss_curve_, rtol=rtol)
    np.testing.assert_allclose(weights(on_gpu), weights(on_cpu), rtol=100 * rtol, atol=rtol)
    predict = "predict_proba" if hasattr(on_cpu, "predict_proba") else "predict"
    found, expected = (getattr(model, predict)(X) for model in (on_gpu, on_cpu))
    np.testing.assert_allclose(found, expected, rtol=100 * rtol)
    assert on_gpu.coefs_[0].dtype == precision


def test_auto_precision_is_single_for_a_new_fit_and_kept_by_an_old_one():
    model, X, y = small("multiclass", device="cuda", **QUICK)
    assert X.dtype == np.float64
    assert model.fit(X, y).coefs_[0].dtype == np.float32
    model, X, y = small("multiclass", warm_start=True, **QUICK)
    model.fit(X, y).set_params(device="cuda").fit(X, y)
    assert model.coefs_[0].dtype == np.float64


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_fitted_model_moves_by_its_attribute_and_its_pickle(device, capsys):
    fitted = fit_both("multiclass", precision="float64", max_iter=1)
    on_cpu, on_gpu = (pickle.loads(pickle.dumps(model)) for model in fitted[:2])
    _, _, X, y = fitted
    on_gpu.set_params(device="cpu").partial_fit(X, y)
    on_cpu.set_params(device=device, verbose=True).partial_fit(X, y)
    np.testing.assert_allclose(weights(on_gpu), weights(on_cpu), rtol=1e-9)
    np.testing.assert_allclose(on_gpu.predict_proba(X), on_cpu.predict_proba(X), rtol=1e-9)
    said = "device='auto': on the GPU\n"
    assert capsys.readouterr().out.count(said) == (device == "auto")


def test_early_stopping_warm_start_and_weights():
    settings = dict(precision="float64", early_stopping=True, warm_start=True, max_iter=2)
    on_cpu, X, y = small("multiclass", **QUICK | settings)
    on_gpu, _, _ = small("multiclass", device="cuda", **QUICK | settings)
    weight = np.random.default_rng(0).uniform(0, 2, len(X))
    for _ in range(2):
        on_cpu.fit(X, y, weight)
        on_gpu.fit(X, y, weight)
    np.testing.assert_allclose(on_gpu.loss_curve_, on_cpu.loss_curve_, rtol=1e-12)
    assert on_gpu.validation_scores_ == on_cpu.validation_scores_
    np.testing.assert_allclose(weights(on_gpu), weights(on_cpu), rtol=1e-9)


def test_own_rows_go_up_once(monkeypatch):
    """In the first epoch in parts, for they may come only once; from the second on they stay."""
    from fastbp.cuda import data, engine

    uploads = []

    def upload(device, X, dtype, upload=data.upload_rows):
        uploads.append(X.shape)
        return upload(device, X, dtype)

    monkeypatch.setattr(data, "upload_rows", upload)
    monkeypatch.setattr(engine, "upload_rows", upload)
    settings = dict(precision="float64", early_stopping=True, scoring="loss", max_iter=4)
    on_cpu, X, y = small("multiclass", **QUICK | settings)
    on_gpu, _, _ = small("multiclass", device="cuda", **QUICK | settings)
    own = {"X_val": X[70:], "y_val": y[70:]}
    on_cpu.fit(X[:70], y[:70], **own)
    on_gpu.fit(X[:70], y[:70], **own)
    assert uploads == [(70, 5), (20, 5), (20, 5)]
    np.testing.assert_allclose(
        on_gpu.validation_loss_curve_, on_cpu.validation_loss_curve_, rtol=1e-9
    )
    np.testing.assert_allclose(weights(on_gpu), weights(on_cpu), rtol=1e-9)


def test_lbfgs():
    on_cpu, on_gpu, _, _ = fit_both("single", solver="lbfgs", precision="float64", max_iter=3)
    np.testing.assert_allclose(on_gpu.loss_curve_, on_cpu.loss_curve_, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_is_an_error_and_changes_nothing():
    model, X, y = small("single", solver="sgd", learning_rate_init=1e6, device="cuda", **QUICK)
    model.set_params(max_iter=20)
    before = pickle.dumps(model)
    with pytest.raises(NonFiniteLossError, match="The loss became"):
        model.fit(X * 1e3, y)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_precision_without_a_program_names_the_remedy(precision):
    """The simulator's blocks have too little shared memory for the wide program."""
    model, X, y = small("multiclass", device="cuda", precision=precision, **QUICK)
    with pytest.raises(ValueError, match=f"precision='{precision}'.*precision='float32'"):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")


def test_tensor_cores_refuse_what_needs_the_pre_activation(monkeypatch):
    monkeypatch.setattr("fastbp.cuda.choice.SMALLEST_TILE", 0)  # the simulator has less
    model, X, y = small("multiclass", device="cuda", precision="bfloat16", **QUICK)
    model.set_params(activation="gelu")
    with pytest.raises(ValueError, match=r"'bfloat16'.*activation='gelu'.*precision='float32'"):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")


def test_no_memory_left_is_an_error_with_the_remedy(monkeypatch):
    from fastbp.cuda.toolkit import cuda

    def full(*arguments, **options):
        raise RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in ...")

    model, X, y = small("multiclass", device="cuda", **QUICK)
    monkeypatch.setattr(cuda, "device_array", full)
    before = pickle.dumps(model)
    with pytest.raises(MemoryError, match=r"memory of 1\.0 GiB is full\. Lower batch_size"):
        model.fit(X, y)
    assert pickle.dumps(model) == before


def test_the_last_epoch_warns_as_on_the_cpu():
    model, X, y = small("multiclass", device="cuda", **QUICK)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        model.fit(X, y)
