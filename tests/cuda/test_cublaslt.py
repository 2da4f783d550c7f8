"""Wide nets by cuBLASLt: its products by NumPy from their descriptors, our kernels in the emulator.

Neither a GPU is needed nor cuBLASLt. Where nvmath's bindings are installed, what stands for them
here must be like them.
"""

import gc
import inspect
import pickle

import emulated_cublaslt
import numpy as np
import pytest
from emulated_cublaslt import ATTRIBUTE_TYPES, EmulatedCublasLt, MatmulHeuristicResult
from emulated_device import EmulatedDevice
from emulated_wide import check_epoch, check_skipped_batches, round_to, small_blocks

from fastbp import MLPClassifier
from fastbp.cuda import choice, engine
from fastbp.cuda.device import Device
from fastbp.cuda.toolkit import DeviceError
from fastbp.cuda.wide import cublaslt, library


@pytest.fixture
def device(monkeypatch):
    """An emulated device that has cuBLASLt, as `device.library`."""
    device = EmulatedDevice()
    device.cublaslt_problem = None
    bindings = emulated_cublaslt.bindings_for(device)
    device.library = bindings[0]
    monkeypatch.setattr(library, "bindings", lambda: bindings)
    monkeypatch.setattr(library, "WORKSPACE_BYTES", 4096)  # the emulator keeps a book of all memory
    monkeypatch.delenv(choice.PRODUCTS_VARIABLE, raising=False)
    library.handle.cache_clear()
    with small_blocks(monkeypatch):
        yield device
    library.handle.cache_clear()


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("deep", "bfloat16"),
        ("deep", "float32"),
        ("labels", "bfloat16"),
        ("many classes", "tf32"),
        ("no hidden layer", "float32"),
        ("averaged", "bfloat16"),
        ("averaged", "float32"),
    ],
)
def test_an_epoch_follows_the_oracle(name, precision, device):
    # Biases are rounded to bfloat16, too: with them two of the units behind a relu change sign.
    program = check_epoch(name, precision, device, slack=2 if precision == "bfloat16" else 1)
    assert isinstance(program.products, cublaslt.CublasLtProducts)
    assert device.library.calls
    for index, rounded in enumerate(program.products.biases or []):
        if index < program.n_layers - 1 or not program.has_head:  # the head has none by cuBLASLt
            check_rounded_bias(program.memory, index, rounded)


def check_rounded_bias(memory, index, rounded):
    """What cuBLASLt adds follows the masters."""
    n, master = memory.sizes[index + 1], memory.masters[index]
    start = memory.bias(index) - (master.address - master.offset)
    _, halves = round_to("bfloat16", master.array[start : start + 4 * n].view(np.float32))
    np.testing.assert_array_equal(rounded.array[: 2 * n].view(np.uint16), halves)


def test_batches_without_weight_and_after_a_loss_that_is_not_finite_change_nothing(device):
    check_skipped_batches(device)


def test_what_cublaslt_multiplies(device):
    """7-66-9-3 in batches of 12 and 8 rows: transposed, and widths in whole pieces of 8."""
    check_epoch("deep", "bfloat16", device, slack=2)
    found = device.library.calls
    for rows, step in ((12, found[:6]), (8, found[6:])):
        assert step == [
            (72, rows, 8, "RELU_BIAS"),  # forward; the head is our own
            (16, rows, 72, "BIAS"),
            (16, rows, 8, "DEFAULT"),  # backward, and each gradient behind it
            (72, rows, 16, "DEFAULT"),
            (16, 72, rows, "DEFAULT"),
            (72, 8, rows, "DEFAULT"),
        ]


def test_a_graph_is_recorded_for_each_size_of_batch_and_nothing_is_made_in_it(device):
    recorded, made = [], lambda: (len(device.arrays), len(device.library.objects))

    def record(work):
        def replay():
            before = made()
            work()
            assert made() == before

        recorded.append(replay)
        return replay

    device.record = record
    program = check_epoch("labels", "tf32", device)  # a batch of 12 and one of 8
    assert len(recorded) == 0
    for _ in range(2):
        result = program.train(*program._recorded)
    assert len(recorded) == 2
    assert result.updates == 2
    del program
    recorded.clear()
    gc.collect()
    left = [one for one in device.library.objects.values() if one is not None]
    assert [vars(one) for one in left] == [{"is_handle": True}]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("failing", ["matmul_algo_get_heuristic", "no algorithm", "matmul"])
def test_a_status_is_an_error_with_the_remedy_and_the_estimator_stays(failing, device, monkeypatch):
    monkeypatch.setattr(engine, "Device", lambda: device)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(20, 7)), random.integers(0, 3, 20)
    model = MLPClassifier((9,), max_iter=1, batch_size=12, tol=0).fit(X, y)
    model.set_params(device="cuda", precision="tf32")
    before, device.library.failing = pickle.dumps(model), failing
    says = r"cuBLASLt failed \(.*CUBLAS_STATUS.*FASTBP_CUDA_PRODUCTS=own"
    for call in (model.fit, model.partial_fit):
        with pytest.raises(DeviceError, match=says):
            call(X, y)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("failing", ["create", None])
def test_a_handle_decides_whether_cublaslt_is_used(failing, device, monkeypatch):
    monkeypatch.setattr(library, "missing_package", lambda: None)
    device.library.failing = failing
    problem = library.problem.__wrapped__()
    expected = "cuBLASLtError: CUBLAS_STATUS_EXECUTION_FAILED (13)" if failing else None
    assert problem == expected
    gpu = choice.Gpu(cublaslt_problem=problem)
    name, reason = choice.choose_products(gpu)
    assert name == ("own" if failing else "cublaslt")
    assert str(problem) in reason or not failing


def test_the_simulator_has_no_cublaslt():
    assert choice.choose_products(Device()) == (
        "own", "by fastbp's own kernels (not cuBLASLt: the simulator has none)"
    )  # fmt: skip


def test_the_emulated_bindings_are_like_nvmaths():
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    lt, cublas, types = library.bindings()
    for name, function in inspect.getmembers(EmulatedCublasLt(None), inspect.ismethod):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(lt, name)).parameters
            assert [*inspect.signature(function).parameters] == [*theirs], name
    emulated = emulated_cublaslt
    enumerations = [(emulated.CudaDataType, types)]
    for one in (emulated.ComputeType, emulated.Operation):
        enumerations.append((one, getattr(cublas, one.__name__)))
    for one in (
        emulated.Epilogue, emulated.ReductionScheme, emulated.MatmulDescAttribute,
        emulated.MatmulPreferenceAttribute,
    ):  # fmt: skip
        enumerations.append((one, getattr(lt, one.__name__)))
    for ours, theirs in enumerations:
        assert {one.name: one.value for one in ours}.items() <= {
            one.name: one.value for one in theirs
        }.items()
    for of, attributes in (
        ("desc", emulated.MatmulDescAttribute),
        ("preference", emulated.MatmulPreferenceAttribute),
    ):
        for one in attributes:
            dtype = getattr(lt, f"get_matmul_{of}_attribute_dtype")(one)
            assert dtype == ATTRIBUTE_TYPES[one.name], one
    found, ours = lt.MatmulHeuristicResult(1), MatmulHeuristicResult.dtype
    assert isinstance(found.ptr, int)
    assert isinstance(found.state, int)
    theirs = lt.matmul_heuristic_result_dtype
    assert theirs.itemsize == ours.itemsize
    assert [theirs.fields[name][1] for name in ours.names] == [
        ours.fields[n][1] for n in ours.names
    ]
    assert lt.cuBLASLtError.__name__ == emulated.cuBLASLtError.__name__
