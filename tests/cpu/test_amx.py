"""Products by AMX, in registers that are emulated where the CPU has none, and when it is used.

tests/cpu/test_bfloat16.py trains by it.
"""

import subprocess
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from amx import reason_to_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import multiply_bfloat16, round_to_bfloat16
from test_bfloat16 import make
from test_engine import WIDTHS, make_data, make_network, train

from fastbp import MLPClassifier, info
from fastbp.cpu import amx, code, levels
from fastbp.cpu.code import kernel_of
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import BFLOAT16_AMX, GROUP_ROWS, AmxProduct

IS_EMULATED = not code.CODE.has_amx
needs_kernel = pytest.mark.skipif(reason_to_skip() != "", reason=reason_to_skip() or "-")


def pairs_of(matrix):
    """The pairs of neighbours in each row of a matrix of float32."""
    halves = (round_to_bfloat16(matrix).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(halves).view(np.int32)


def product_of(left, right, bias, n_rows=GROUP_ROWS):
    """left · right + bias of a group, by the kernel."""
    depth, width = right.shape
    by_columns = np.ascontiguousarray(right.reshape(depth // 2, 2, width).transpose(0, 2, 1))
    scratch = amx.make_scratch(width)
    for array, number in zip(scratch, (np.nan, -1, -1), strict=True):  # pairs of NaN
        array[:] = number
    product = AmxProduct(
        pairs_of(left).ravel(), pairs_of(by_columns.reshape(depth // 2, -1)).ravel(), bias,
        scratch, depth // 2, n_rows, int(width > 16),
    )  # fmt: skip
    record = Packed(product, BFLOAT16_AMX, False)
    kernel_of("multiply_by_amx", BFLOAT16_AMX)(record.address)
    return product.scratch.sums.reshape(GROUP_ROWS, width)


@needs_kernel
@pytest.mark.smoke
@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("n_pairs", [1, 7, 15, 16, 17, 31, 32, 50, 128])
def test_a_product_is_that_of_rounded_operands(n_pairs, width):
    draw = np.random.default_rng(n_pairs)
    left = draw.normal(size=(GROUP_ROWS, 2 * n_pairs)).astype(np.float32)
    right = draw.normal(size=(2 * n_pairs, width)).astype(np.float32)
    bias = draw.normal(size=width).astype(np.float32)
    found = product_of(left, right, bias)
    np.testing.assert_allclose(found, multiply_bfloat16(left, right) + bias, atol=1e-5 * n_pairs)


@needs_kernel
@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("n_rows", [1, 8, 13, 16, 17, 24, 32])
def test_rows_are_those_of_the_whole_group(n_rows, width):
    """To the bit, however many are asked for: so a team's size cannot be seen."""
    draw = np.random.default_rng(n_rows)
    left = draw.normal(size=(GROUP_ROWS, 140)).astype(np.float32)
    right = draw.normal(size=(140, width)).astype(np.float32)
    bias = np.zeros(width, np.float32)
    expected = product_of(left, right, bias)
    left[-(-n_rows // 8) * 8 :] = np.nan  # what others are about to write
    found = product_of(left, right, bias, n_rows)
    np.testing.assert_array_equal(found[:n_rows], expected[:n_rows])


@needs_kernel
def test_a_fit_with_all_that_changes_it_has_the_same_bits_on_any_team(monkeypatch):
    """And they are those of vectors, where the registers are emulated."""
    monkeypatch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
    draw = np.random.default_rng(0)
    X, y, found = draw.normal(size=(301, 70)).astype(np.float32), np.arange(301) % 3, []
    for uses_amx, n_threads in ((True, 1), (True, 3), (True, 5), (False, 1)):
        monkeypatch.setattr(code, "why_no_amx", lambda says="" if uses_amx else "tests": says)
        model = MLPClassifier(
            (90, 33), precision="bfloat16", early_stopping=True, dropout=0.2, input_dropout=0.1,
            max_grad_norm=1.0, batch_size=61, max_iter=4, random_state=0, n_threads=n_threads,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
        found.append((model.loss_curve_, model.validation_scores_, model.coefs_[1].tolist()))
    assert found[0] == found[1] == found[2]
    if IS_EMULATED:
        assert found[0] == found[3]
    np.testing.assert_allclose(found[0][0], found[3][0], rtol=1e-2)


@needs_kernel
@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=5),
    n_samples=st.integers(1, 130),
    batch_size=st.sampled_from((7, 32, 61, 130)),
    n_threads=st.integers(1, 4),
)
def test_emulated_registers_have_the_bits_of_vectors(sizes, n_samples, batch_size, n_threads):
    """They sum in the same order: whatever is laid out, shared out or filled up wrongly is seen."""
    network, found = make_network(sizes, "softmax", ("tanh", "softplus")), []
    data = make_data(network, n_samples, 2)
    for says in ("", "tests"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastbp.cpu.work.WORK_PER_THREAD", 1)
            patch.setattr(code, "why_no_amx", lambda says=says: says)
            engine = make(network, "bfloat16", n_threads)
            found.append(train(engine, data, "sgd", batch_size, 0.1, n_epochs=2)[:2])
    exact = np.testing.assert_array_equal if IS_EMULATED else np.testing.assert_allclose
    bound = {} if IS_EMULATED else {"rtol": 0.05, "atol": 0.01}
    for one, other in zip(*found, strict=True):
        exact(one, other, **bound)


# ---- when it is used ----------------------------------------------------------------------------


def refuse(*arguments):
    amx.ctypes.set_errno(1)
    return -1


@pytest.fixture
def machine(monkeypatch):
    """A machine with AMX, whose system permits it; the kernel has to be set."""
    monkeypatch.setattr(amx, "permission_problem", lambda: "")
    monkeypatch.setattr(code, "CODE", SimpleNamespace(has_amx=True))
    code.why_no_amx.cache_clear()
    yield
    code.why_no_amx.cache_clear()


def test_without_permission_no_product_is_tried(monkeypatch):
    monkeypatch.setattr(amx.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syscall=refuse))
    problem = amx.problem_of(lambda: pytest.fail("it was tried"))
    assert problem.startswith("the system does not permit it (EPERM: ")
    monkeypatch.setattr(amx.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    assert amx.permission_problem() == "the system is not Linux"


def compute(address):
    """In place of the kernel: by NumPy, which knows nothing of squares."""
    product, multiply = computed[-1], compute_product
    product.scratch.sums[:] = multiply(product).ravel()


def compute_product(product):
    left, right = (
        np.stack([half.astype(np.uint32) << 16 for half in (pairs & 0xFFFF, pairs >> 16)], -1)
        .astype(np.uint32).view(np.float32)
        for pairs in (product.left.view(np.uint32), product.right.view(np.uint32))
    )  # fmt: skip
    left = left.reshape(GROUP_ROWS, 2 * product.depth)
    right = right.reshape(product.depth, -1, 2).transpose(0, 2, 1)
    return left @ right.reshape(2 * product.depth, -1) + product.bias


computed = []


@pytest.fixture
def records(monkeypatch):
    """Keep the records that are tried, for `compute`."""

    def pack(record, *arguments):
        computed.append(record)
        return Packed(record, *arguments)

    monkeypatch.setattr(amx, "Packed", pack)
    yield
    computed.clear()


def test_amx_is_used_where_products_are_right(machine, records, monkeypatch):
    monkeypatch.setattr(code, "kernel_of", lambda *_: compute)
    assert code.precision_of_kernels("bfloat16") == BFLOAT16_AMX
    assert code.precision_of_kernels("float32") == "float32"
    assert len(computed) == 4


@pytest.mark.parametrize("position", [0, 16 * 16 - 1, 600, -1])
def test_one_wrong_number_in_a_product_and_vectors_take_its_place(
    machine, records, monkeypatch, position
):
    def err(address):
        compute(address)
        if product_is_large():
            computed[-1].scratch.sums[position] += 1

    def product_is_large():
        return computed[-1].is_wide and computed[-1].n_rows == GROUP_ROWS

    monkeypatch.setattr(code, "kernel_of", lambda *_: err)
    with pytest.warns(UserWarning, match="AMX is not to be trusted on this CPU"):
        assert code.precision_of_kernels("bfloat16") == "bfloat16"
    assert code.precision_of_kernels("bfloat16") == "bfloat16"  # without another warning
    said = info.describe_bfloat16(
        {"has_amx": True, "has_bfloat16": True, "why_no_amx": code.why_no_amx()}
    )
    assert said == "multiplied by AVX512-BF16, not by AMX: a small product is not NumPy's"


@needs_kernel
def test_the_kernel_passes_its_own_trial():
    assert amx.product_problem(kernel_of("multiply_by_amx", BFLOAT16_AMX)) == ""


def test_info_says_what_multiplies():
    found = {"has_amx": False, "has_bfloat16": False, "why_no_amx": "it is another CPU"}
    assert info.describe_bfloat16(found) == "computed in float32"
    assert info.describe_bfloat16(found | {"why_no_amx": ""}) == "multiplied by AMX"


# ---- the machine code ---------------------------------------------------------------------------


@pytest.mark.skipif(not levels.levels_of_machine(), reason="the level is for Linux on x86-64")
def test_object_code_for_a_cpu_with_amx(tmp_path):
    """It is made, of AMX's own instructions; no CPU that has them has run it."""
    from fastbp.cpu.kernels import ahead

    level = levels.LEVELS["x86-64-v4-amx"]
    ahead.run_apart(level, "--here", level.name, "--folder", tmp_path)
    path = tmp_path / level.name
    done = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True)
    names = [line.split("\t")[2].split()[0] for line in done.stdout.splitlines() if "\t" in line
             and line.count("\t") > 1]  # fmt: skip
    assert names.count("ldtilecfg") == names.count("tilerelease") == len(level.kernels)
    assert names.count("tdpbf16ps") >= 4 + 2 + 2 + 1  # of four squares, two, and one
    assert names.count("tileloadd") > 0
    assert names.count("tilestored") > 0
    # No square is kept where a call could lose it: between the first load and the last store.
    (first, *_), (*_, last) = (
        [at for at, name in enumerate(names) if name == wanted]
        for wanted in ("tileloadd", "tilestored")
    )
    assert "call" not in names[first:last]
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", "-P", path], capture_output=True, text=True, check=True
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} <= ahead.SYSTEM_FUNCTIONS
