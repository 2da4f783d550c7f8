"""Data of every kind that people hold trains the model of the plain float64 array, to the bit."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import sklearn.neural_network
import versions
from conftest import weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from naive import NaiveEngine
from scipy.sparse import csr_array

import fastbp
from fastbp.cpu.engine import Engine
from fastbp.cpu.layout import Layout
from fastbp.data import READABLE_DTYPES, Data
from fastbp.network import Network

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::sklearn.exceptions.DataConversionWarning",
    "ignore:Got `batch_size` less than 1:UserWarning",
)

RANDOM = np.random.default_rng(0)
# Whole numbers that every dtype holds exactly, a third of them zero.
X = RANDOM.integers(0, 5, (40, 4)) * RANDOM.integers(0, 2, (40, 4)).astype(np.float64)
Y = np.resize([2, 0, 1, 1, 2, 0, 0], 40)
WEIGHT = RANDOM.integers(1, 5, 40) / 2


def fit(package, X, y, sample_weight=None, **parameters):
    """A small model; of numbers with a fraction, a regressor."""
    regression = np.asarray(y).dtype.kind == "f" and np.any(np.asarray(y) % 1)
    estimator = getattr(package, "MLPRegressor" if regression else "MLPClassifier")
    given = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0, "batch_size": 10}
    weighted = {} if sample_weight is None else {"sample_weight": sample_weight}
    return estimator(**given | parameters).fit(X, y, **weighted)


def assert_as_in_scikit_learn(ours, X, y, sample_weight=None):
    """Hold a float64 model against scikit-learn's of the same data, where that takes weights."""
    if sample_weight is not None and not versions.scikit_learn_has("sample weights of MLPs"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = fit(sklearn.neural_network, X, y, sample_weight)
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-7, atol=1e-10)
    names = getattr(theirs, "feature_names_in_", None)
    np.testing.assert_array_equal(getattr(ours, "feature_names_in_", None), names)
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert ours.predict(X).dtype == theirs.predict(X).dtype
    assert ours.predict(X).shape == theirs.predict(X).shape


# ---- X ------------------------------------------------------------------------------------------


def strided(matrix):
    wide = np.full((matrix.shape[0] * 2, matrix.shape[1] * 3), 99.0)
    wide[::2, ::3] = matrix
    return wide[::2, ::3]


def read_only(matrix):
    frozen = matrix.copy()
    frozen.flags.writeable = False
    return frozen


def frame(matrix):
    return pd.DataFrame(matrix, columns=list("abcd"))


def polars_frame(matrix):
    return pl.DataFrame(matrix, schema=list("abcd"))


DTYPES = [
    "float16", "float32", "longdouble", ">f4", ">f8", "int8", "uint8", "int16", "uint16", "int32",
    "uint32", "int64", "uint64", ">i2", ">u8", "object",
]  # fmt: skip
DENSE = {
    **{f"dtype {name}": lambda a, name=name: a.astype(name) for name in DTYPES},
    "strings in objects": lambda a: a.astype(str).astype(object),
    "list": lambda a: a.tolist(),
    "Fortran": np.asfortranarray,
    "Fortran bytes": lambda a: np.asfortranarray(a.astype(np.uint8)),
    "negative strides": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": strided,
    "misaligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float64).reshape(a.shape)
    ),
    "field of records": lambda a: np.rec.fromarrays([a, a + 1], names="x,y").x,
    "read-only": read_only,
    "masked": np.ma.array,
    "pandas": frame,
    "pandas int8": lambda a: frame(a).astype("int8"),
    "pandas Int64": lambda a: frame(a).astype("Int64"),
    "pandas Float32": lambda a: frame(a).astype("Float32"),
    "pandas mixed": lambda a: frame(a).astype({"a": "uint8", "b": "float32", "c": "Int16"}),
    "pandas objects": lambda a: frame(a).astype(object),
    "pandas sparse": lambda a: frame(a).astype(pd.SparseDtype(float, 0.0)),
    "pandas without names": lambda a: pd.DataFrame(a),
    "polars": polars_frame,
    "polars Int16": lambda a: polars_frame(a).cast(pl.Int16),
    "polars mixed": lambda a: polars_frame(a).cast({"a": pl.UInt8, "b": pl.Float32}),
}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", DENSE)
def test_dense(kind, precision):
    given = DENSE[kind](X)
    expected = fit(fastbp, X, Y, precision=precision)
    ours = fit(fastbp, given, Y, precision=precision)
    np.testing.assert_array_equal(weights(ours), weights(expected))
    np.testing.assert_array_equal(ours.predict_proba(given), expected.predict_proba(X))
    if precision == "float64":
        assert_as_in_scikit_learn(ours, X if kind == "dtype float32" else given, Y)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, lambda a: frame(a), lambda a: frame(a).astype("boolean"), polars_frame, csr_array],
)
def test_booleans(convert):
    truth = X > 2
    ours = fit(fastbp, convert(truth), Y)
    np.testing.assert_array_equal(weights(ours), weights(fit(fastbp, truth.astype(float), Y)))
    assert_as_in_scikit_learn(ours, convert(truth), Y)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_mapped(tmp_path, dtype, order):
    np.save(tmp_path / "X.npy", np.asarray(X, dtype, order=order))
    np.save(tmp_path / "y.npy", Y)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    ours = fit(fastbp, mapped, np.load(tmp_path / "y.npy", mmap_mode="r"))
    np.testing.assert_array_equal(weights(ours), weights(fit(fastbp, X.astype(dtype), Y)))
    np.testing.assert_array_equal(ours.predict(mapped), ours.predict(X.astype(dtype)))


def with_wide_indices(matrix):
    """The same with 64-bit indices."""
    matrix = matrix.copy()
    if matrix.format == "coo":
        matrix.coords = tuple(index.astype(np.int64) for index in matrix.coords)
    else:
        matrix.indices = matrix.indices.astype(np.int64)
        matrix.indptr = matrix.indptr.astype(np.int64)
    return matrix


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "int64", "bool"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_sparse(layout, kind, wide, dtype):
    dense = X.astype(dtype)
    given = getattr(scipy.sparse, f"{layout}_{kind}")(dense)
    given = with_wide_indices(given) if wide else given
    before = given.copy()
    ours, expected = fit(fastbp, given, Y), fit(fastbp, dense, Y)
    np.testing.assert_array_equal(weights(ours), weights(expected))
    np.testing.assert_array_equal(ours.predict_proba(given), expected.predict_proba(dense))
    assert (given != before).nnz == 0
    if dtype != "float32":
        assert_as_in_scikit_learn(ours, given, Y)


@pytest.mark.parametrize("layout", ["lil", "dok", "bsr", "dia"])
def test_other_sparse_layouts(layout):
    given = scipy.sparse.csr_array(X).asformat(layout)
    np.testing.assert_array_equal(weights(fit(fastbp, given, Y)), weights(fit(fastbp, X, Y)))


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_unsorted_and_duplicate_entries(layout):
    """Entries of the same place add up, whatever their order."""
    rows, columns = np.nonzero(X)
    entries = np.concatenate([X[rows, columns] - 8, np.full(len(rows), 8.0)])
    order = np.random.default_rng(1).permutation(len(entries))
    coordinates = np.tile(rows, 2)[order], np.tile(columns, 2)[order]
    given = scipy.sparse.coo_array((entries[order], coordinates), shape=X.shape)
    if layout != "coo":
        compressed = given.T if layout == "csc" else given
        # By way of rows of entries, because every conversion of SciPy's would sum them up.
        by_row = np.argsort(compressed.coords[0], kind="stable")
        starts = np.searchsorted(compressed.coords[0][by_row], range(compressed.shape[0] + 1))
        parts = compressed.data[by_row], compressed.coords[1][by_row], starts
        given = getattr(scipy.sparse, f"{layout}_array")(parts, shape=X.shape)
    assert given.nnz == 2 * len(rows)
    np.testing.assert_array_equal(weights(fit(fastbp, given, Y)), weights(fit(fastbp, X, Y)))
    assert given.nnz == 2 * len(rows)


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_duplicate_entries_of_whole_numbers_do_not_overflow(dtype):
    entries, columns = np.array([200, 100, 3], dtype), np.array([2, 2, 0])
    given = scipy.sparse.csr_array((entries, columns, np.array([0, 2, 3])), (2, 3))
    dense = np.array([[0, 0, float(entries[0]) + float(entries[1])], [float(entries[2]), 0, 0]])
    ours, expected = (fit(fastbp, a, [0.5, 1.5]) for a in (given, dense))
    np.testing.assert_array_equal(weights(ours), weights(expected))


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sparse_matrices_are_never_made_dense(layout, early_stopping):
    shape = 4000, 3000
    places = np.random.default_rng(0).integers(0, shape, (12_000, 2))
    entries = scipy.sparse.coo_array((np.ones(12_000), tuple(places.T)), shape)
    given, y = entries.asformat(layout), np.arange(4000) % 3
    fit(fastbp, X, Y).predict(X)  # compile
    tracemalloc.start()
    try:
        fit(fastbp, given, y, max_iter=1, early_stopping=early_stopping).predict(given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < np.prod(shape)  # an eighth of the dense matrix


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_dtype_shape_and_strides(data):
    dtype = data.draw(st.sampled_from([*READABLE_DTYPES, np.dtype("float16"), np.dtype(">i4")]))
    n_rows, n_features = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 20))
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 5])) for _ in range(2)]
    shape = [size * abs(step) for size, step in zip((n_rows, n_features), steps, strict=True)]
    low, high = {"b": (0, 1), "u": (0, 200)}.get(dtype.kind, (-100, 100))
    elements = st.integers(low, high)
    given = data.draw(hnp.arrays(dtype, shape, elements=elements))
    if data.draw(st.booleans()):
        given = np.asfortranarray(given)
    given = given[:: steps[0], :: steps[1]]
    given.flags.writeable = data.draw(st.booleans())
    assert given.shape == (n_rows, n_features)
    y = np.arange(n_rows) + 0.5
    plain = np.ascontiguousarray(given, dtype=np.float64)
    for precision in ("float32", "float64"):
        ours, expected = (fit(fastbp, a, y, precision=precision) for a in (given, plain))
        np.testing.assert_array_equal(weights(ours), weights(expected))
        np.testing.assert_array_equal(ours.predict(given), expected.predict(plain))


# ---- y and sample weights -----------------------------------------------------------------------

LABELS = {
    "strings": lambda y: np.array(["a", "bb", "ccc"])[y],
    "objects": lambda y: np.array(["a", "bb", "ccc"], dtype=object)[y],
    "list of strings": lambda y: [["a", "bb", "ccc"][i] for i in y],
    "Unicode": lambda y: np.array(["ä", "ö", "日"])[y],
    "int8": lambda y: y.astype(np.int8) - 1,
    "uint64": lambda y: y.astype(np.uint64),
    "big-endian": lambda y: y.astype(">i2"),
    "float32": lambda y: y.astype(np.float32),
    "float16": lambda y: y.astype(np.float16),
    "column": lambda y: y[:, None],
    "reversed": lambda y: y[::-1].copy()[::-1],
    "strided": lambda y: np.repeat(y, 3)[::3],
    "read-only": read_only,
    "Series": pd.Series,
    "Series of strings": lambda y: pd.Series(y.astype(str), dtype="string"),
    "Series of Int64": lambda y: pd.Series(y).astype("Int64"),
    "DataFrame": lambda y: pd.DataFrame({"y": y}),
    "Categorical": lambda y: pd.Categorical.from_codes(y, ["a", "bb", "ccc"]),
    "category": lambda y: pd.Series(pd.Categorical.from_codes(y, ["a", "bb", "ccc"])),
    "unused category": lambda y: pd.Series(pd.Categorical.from_codes(y, list("abcd"))),
    "category of ints": lambda y: pd.Series(y).astype("category"),
    "polars": pl.Series,
    "polars strings": lambda y: pl.Series(y.astype(str)),
    "polars Categorical": lambda y: pl.Series(y.astype(str), dtype=pl.Categorical),
    "polars Enum": lambda y: pl.Series(y.astype(str), dtype=pl.Enum(["0", "1", "2"])),
}


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_labels(kind, early_stopping):
    given = LABELS[kind](Y)
    expected = fit(fastbp, X, Y, early_stopping=early_stopping)
    ours = fit(fastbp, X, given, early_stopping=early_stopping)
    np.testing.assert_array_equal(weights(ours), weights(expected))
    np.testing.assert_array_equal(ours.predict(X), ours.classes_[expected.predict(X)])
    assert ours.score(X, given) == expected.score(X, Y)
    if not early_stopping:
        assert_as_in_scikit_learn(ours, X, given)
        again = fastbp.MLPClassifier((5,), random_state=0, batch_size=10)
        again.partial_fit(X, given, classes=np.unique(given)).partial_fit(X, given)
        np.testing.assert_array_equal(again.classes_, ours.classes_)


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        pd.Series,
        lambda y: pd.Series(y).astype("boolean"),
        lambda y: pd.Series(y).astype("category"),
        pl.Series,
        lambda y: y.astype(object).tolist(),
    ],
)
def test_boolean_labels(convert):
    truth = Y > 0
    ours = fit(fastbp, X, convert(truth))
    np.testing.assert_array_equal(weights(ours), weights(fit(fastbp, X, truth.astype(int))))
    assert_as_in_scikit_learn(ours, X, convert(truth))


BYTES = [b"a", b"\xe4 c", b"\xff\x80"]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "convert",
    [np.array, lambda b: np.array(b, dtype=object), lambda b: np.array(b, "S9")[:, None], list],
)
def test_bytes_as_labels(convert, n_classes, early_stopping):
    """scikit-learn refuses them, even in `score`."""
    y = np.minimum(Y, n_classes - 1)
    given = convert([BYTES[i] for i in y])
    expected = fit(fastbp, X, y, early_stopping=early_stopping)
    ours = fit(fastbp, X, given, early_stopping=early_stopping)
    np.testing.assert_array_equal(weights(ours), weights(expected))
    assert ours.classes_.dtype.kind == ours.predict(X).dtype.kind == "S"
    assert ours.classes_.tolist() == BYTES[:n_classes]
    np.testing.assert_array_equal(ours.predict(X), ours.classes_[expected.predict(X)])
    assert ours.score(X, given, WEIGHT) == expected.score(X, y, WEIGHT)

    classes = BYTES[:n_classes][::-1]
    again = fastbp.MLPClassifier((5,), random_state=0, batch_size=10)
    again.partial_fit(X, given, classes=classes).partial_fit(X[:9], given[:9], classes=classes)
    assert again.classes_.tolist() == BYTES[:n_classes]
    with pytest.raises(ValueError, match="not the same as on last call"):
        again.partial_fit(X, given, classes=[*classes, b"new"])
    with pytest.raises(ValueError, match="not among classes_"):
        again.partial_fit(X, np.full(len(X), b"new"))


def test_a_mixture_of_bytes_and_strings_is_refused():
    with pytest.raises(ValueError, match="mixes labels of different kinds: b'a' in row 0"):
        fit(fastbp, X, np.array([b"a", "b"] * 20, dtype=object))
    with pytest.raises(ValueError, match="label type"):
        fit(fastbp, X, np.array([[b"a", b"b"]] * 40))


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        lambda y: y.astype(bool),
        lambda y: y.astype(float),
        lambda y: y.tolist(),
        np.asfortranarray,
        pd.DataFrame,
        pl.DataFrame,
        scipy.sparse.csr_matrix,
        scipy.sparse.csc_array,
        scipy.sparse.coo_array,
    ],
)
def test_indicators(convert):
    indicators = (X[:, :3] > 1).astype(int)
    ours = fit(fastbp, X, convert(indicators))
    np.testing.assert_array_equal(weights(ours), weights(fit(fastbp, X, indicators)))
    assert_as_in_scikit_learn(ours, X, convert(indicators))


TARGETS = {
    "float16": lambda y: y.astype(np.float16),
    "float32": lambda y: y.astype(np.float32),
    "objects": lambda y: y.astype(object),
    "list": lambda y: y.tolist(),
    "big-endian": lambda y: y.astype(">f8"),
    "Fortran": np.asfortranarray,
    "reversed": lambda y: y[::-1].copy()[::-1],
    "strided": lambda y: np.repeat(y, 3, axis=0)[::3],
    "read-only": read_only,
    "pandas": lambda y: pd.DataFrame(y) if y.ndim == 2 else pd.Series(y),
    "pandas Float64": lambda y: (pd.DataFrame if y.ndim == 2 else pd.Series)(y, dtype="Float64"),
    "polars": lambda y: pl.DataFrame(y) if y.ndim == 2 else pl.Series(y),
}


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
@pytest.mark.parametrize("kind", TARGETS)
def test_regression_targets(kind, shape):
    y = np.resize(RANDOM.integers(-20, 20, 120) / 8, shape)
    given = TARGETS[kind](y)
    ours, expected = (
        fastbp.MLPRegressor(hidden_layer_sizes=5, max_iter=3, random_state=0).fit(X, a)
        for a in (given, y)
    )
    np.testing.assert_array_equal(weights(ours), weights(expected))
    assert ours.predict(X).shape == (shape if shape != (40, 1) else (40,))
    assert ours.score(X, given) == pytest.approx(expected.score(X, y), rel=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint64", "int64", "bool", "object"])
def test_whole_regression_targets(dtype):
    y = (np.arange(40) % 7 > 2 if dtype == "bool" else np.arange(40) % 7).astype(dtype)
    ours, expected = (
        fastbp.MLPRegressor(hidden_layer_sizes=5, max_iter=3, random_state=0).fit(X, a)
        for a in (y, y.astype(float))
    )
    np.testing.assert_array_equal(weights(ours), weights(expected))


@pytest.mark.parametrize(
    "convert",
    [
        lambda w: w.astype(np.float32),
        lambda w: w.tolist(),
        lambda w: np.repeat(w, 2)[::2],
        lambda w: w[::-1].copy()[::-1],
        read_only,
        pd.Series,
        pl.Series,
    ],
)
def test_sample_weights(convert):
    ours = fit(fastbp, X, Y, convert(WEIGHT))
    np.testing.assert_array_equal(weights(ours), weights(fit(fastbp, X, Y, WEIGHT)))
    assert_as_in_scikit_learn(ours, X, Y, convert(WEIGHT))
    whole = (2 * WEIGHT).astype(int)
    expected = fit(fastbp, X, Y, whole.astype(float))
    np.testing.assert_array_equal(weights(fit(fastbp, X, Y, convert(whole))), weights(expected))


# ---- more than 2^31 elements: files with holes, of which few pages are ever touched --------------


def file_of_zeros(folder, dtype, size):
    """So many numbers in a file that takes no room until they are written."""
    path = folder / f"{np.dtype(dtype)}.bin"
    with open(path, "wb") as file:
        file.truncate(size * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_far_rows_and_columns(tmp_path, dtype, order):
    """Byte 2^33 and beyond: neither rows nor columns may be counted in 32 bits."""
    n_rows, n_features = (2**29 + 7, 6) if order == "C" else (2**30 + 7, 3)
    memory = file_of_zeros(tmp_path, dtype, n_rows * n_features)
    matrix = memory.reshape((n_rows, n_features), order=order)
    assert matrix.size > 2**31
    rows = np.array([n_rows - 1, 0, n_rows // 2, n_rows - 3])
    matrix[rows] = np.arange(1, len(rows) * n_features + 1).reshape(len(rows), -1)
    few = np.array(matrix[rows])

    network = Network((n_features, 3, 2), ("tanh",), "softmax", "log_loss")
    parameters = network.initialise(np.random.RandomState(0), float, default_activation="tanh")
    engine, oracle = Engine(network, float), NaiveEngine(network, float)
    for each in (engine, oracle):
        each.load_parameters(parameters)
    expected = oracle.predict(Data(few, input_scale=0.1))
    found = engine.predict(Data(matrix, input_scale=0.1), rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    view = matrix[n_rows - 1 :: -(n_rows // 12)]  # all that the estimators see of it
    model, plain = (fit(fastbp, a, np.arange(len(view)) % 2) for a in (view, np.array(view)))
    np.testing.assert_array_equal(weights(model), weights(plain))


def test_far_sparse_entries(tmp_path):
    """Row starts beyond 2^31; by SciPy's rules all indices then have 64 bits."""
    n_stored = 2**31 + 50
    values = file_of_zeros(tmp_path, "uint8", n_stored)
    columns = file_of_zeros(tmp_path, "int64", n_stored)
    values[-3:], columns[-3:] = [5, 7, 9], [1, 3, 0]
    matrix = csr_array((3, 4), dtype=np.uint8)
    matrix.data, matrix.indices = values, columns
    matrix.indptr = np.array([0, 2, n_stored - 3, n_stored], np.int64)

    network = Network((4, 3), (), "softmax", "log_loss")
    engine, oracle = Engine(network, float), NaiveEngine(network, float)
    for each in (engine, oracle):
        each.load_parameters(np.linspace(-1, 1, network.n_parameters))
    expected = oracle.predict(Data(np.array([[9.0, 5.0, 0.0, 7.0]])))
    np.testing.assert_allclose(engine.predict(Data(matrix), np.array([2])), expected, rtol=1e-12)


def test_far_weights():
    """Offsets of layers that nobody's memory holds."""
    width = 2**16
    layout = Layout(Network((width, width, width, 10), ("relu",) * 2, "softmax", "log_loss"), "f4")
    assert layout.n_weights >= 2 * width * (width + 1) + 11 * width
    assert (np.diff(layout.table[:, 6]) >= width * (width + 1)).all()
