"""Draws of data: X, y and sample weights of every kind, as lines that make them from a seed."""

from tests.fuzz.scripts import Line

N_SAMPLES = (1, 2, 3, 5, 8, 9, 17, 20, 30, 31, 40, 40, 64, 129)
N_FEATURES = (1, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 257)

# What the numbers are; "plain" ones are drawn as often as all others.
VALUES = (
    "X[:, 0] = 1", "X[:, 0] = 1e10", "X[:] = X[:1]", "X *= 1e30", "X *= 1e200",
    "X = np.sign(X) * np.finfo(float).max", "X *= 1e-310", "X[-1, -1] = np.nan",
    "X[0, 0] = np.inf", "X[0, 0] = -np.inf", "X[:] = 0", "X[r.random(X.shape) < 0.85] = 0",
    "X[r.random(X.shape) < 0.5] = -0.0", "X *= 1e7",
)  # fmt: skip

WHOLE = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4")
SPARSE = ("csr", "csr", "csc", "coo", "bsr", "lil", "dia", "dok")
# How they are stored.
LAYOUTS = (
    "X = X.astype('f4')", "X = X.astype('f4')", "X = X.astype('f2')", "X = X > 0",
    "X = (128 + 50 * X).clip(0, 255).astype('u1').view(bool)", "X = X.astype(np.longdouble)",
    "X = X.astype('>f8')", "X = X.astype(object)", "X = X.astype(str)", "X = X.astype(complex)",
    "X = np.asfortranarray(X)", "X = np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3]",
    "X = X[::-1, ::-1]", "X = X[:, ::-1].astype('f4')", "X.flags.writeable = False",
    "X = np.frombuffer(b' ' + X.tobytes(), 'u1')[1:].view('f8').reshape(X.shape)",
    "X = np.broadcast_to(X[0], X.shape)", "X = X.tolist()", "X = np.ma.masked_greater(X, 1)",
    "X = np.asmatrix(X)", "X = X[0]", "X = X[None]", "X = X[:0]", "X = X[:, :0]",
    "X = np.rec.fromarrays([X[:, 0] > 0, X[:, 0]], names='a,b')",
    "X = np.array([[(7, row) for row in X]], [('a', 'u1'), ('x', 'f8', X.shape[1])])[0]['x']",
    "X = __import__('pandas').DataFrame(X).add_prefix('c')",
    "X = __import__('pandas').DataFrame(X).astype('Float64')",
    "X = None",
)  # fmt: skip
AFTER_SPARSE = (
    "X = X.astype('f4')", "X = abs(20 * X).astype('u1')", "X.indices = X.indices.astype('i8')",
    "X = scipy.sparse.csr_array(X)", "X = X[::-1]", "X.data = X.data[::-1]",
    "X = scipy.sparse.vstack([X, X[:1]])[1:]", "X = X + 0 * X",
    "X = X.astype(bool)", "X.data = np.full(len(X.data), 255, 'u1').view(bool)",
    "X = scipy.sparse.csr_matrix((np.ones(2 * X.nnz), np.repeat(X.indices, 2), 2 * X.indptr), "
    "X.shape)",
    # From here on the matrix is invalid.
    "X.indices[-1:] = X.shape[1]", "X.indices[:1] = -1", "X.indices[:1] = 10**6",
    "X.indptr[-1] += 1000", "X.indptr[0] = -7", "X.data = X.data[:-1]", "X.data[:1] = np.nan",
)  # fmt: skip

LABELS = (
    "y = r.integers(0, 2, n)", "y = r.integers(0, 2, n)", "y = r.integers(0, 3, n)",
    "y = r.integers(0, 5, n)", "y = np.array(['a', 'bb', 'ccc'])[r.integers(0, 3, n)]",
    "y = r.random(n) < 0.5", "y = r.integers(0, 2, (n, 4))", "y = np.zeros(n, int)",
    "y = 1.0 * r.integers(0, 3, n)", "y = np.array(['x', 'y'], object)[r.integers(0, 2, n)]",
    "y = np.arange(n)", "y = (np.arange(n) == 0).astype(int)", "y = r.integers(-3, 0, n)",
    "y = r.integers(0, 2, (n, 1))", "y = scipy.sparse.csr_matrix(r.integers(0, 2, (n, 4)))",
    "y = np.array([b'p', b'q'])[r.integers(0, 2, n)]", "y = r.integers(0, 3, n).tolist()",
    "y = __import__('pandas').Series(r.integers(0, 3, n)).astype('category')",
    "y = __import__('pandas').Series(['s', 't'] * n, dtype='string')[:n]",
    "y = r.integers(0, 2, (n, 3)) > 0",
)  # fmt: skip
ODD_LABELS = (
    "y = r.normal(size=n)", "y = np.where(r.random(n) < 0.3, np.nan, 1.0)",
    "y = r.integers(0, 2, n + 1)", "y = np.array([None, 'a'] * n, object)[:n]",
    "y = np.array(['a', 1] * n, object)[:n]", "y = r.integers(0, 3, (n, 4))", "y = None",
    "y = __import__('pandas').Series(['s', None] * n, dtype='string')[:n]",
    "y = np.array([('a', 'b')] * n)", "y = np.array([float('nan'), 'a'] * n, object)[:n]",
    "y = r.integers(0, 2, n) * 1j", "y = np.array(['2020-01-01'] * n, 'M8[D]')",
    "y = r.integers(0, 2, n)[:0]", "y = 'text'", "y = [[0, 1], [1]] * n",
)  # fmt: skip
NUMBERS = (
    "y = r.normal(size=n)", "y = r.normal(size=n)", "y = r.normal(size=n)",
    "y = abs(r.normal(size=n))",
    "y = r.integers(0, 9, n)", "y = r.normal(size=(n, 3))", "y = abs(r.normal(size=(n, 2)))",
    "y = np.full(n, 3.0)", "y = r.normal(size=n).astype('f4')", "y = r.random(n) < 0.5",
    "y = np.asfortranarray(r.normal(size=(n, 3)))", "y = r.normal(size=2 * n)[::2]",
    "y = r.integers(0, 255, n).astype('u1')", "y = r.normal(size=(n, 1))",
    "y = r.normal(size=n).astype('>f8')", "y = r.normal(size=n).tolist()",
)  # fmt: skip
ODD_NUMBERS = (
    "y = 1e30 * r.normal(size=n)", "y = 1e300 * r.normal(size=n)", "y = 1e-310 * r.normal(size=n)",
    "y = r.normal(size=n); y[0] = np.nan", "y = r.normal(size=n); y[-1] = np.inf",
    "y = r.normal(size=n).astype(str)", "y = r.normal(size=n + 2)",
    "y = 1e7 + 1e7 * r.normal(size=n)",
    "y = r.normal(size=n).astype(object)", "y = 1j * r.normal(size=n)", "y = None",
    "y = np.array([None] * n)", "y = np.array(['2020-01-01'] * n, 'M8[D]')",
    "y = scipy.sparse.csr_matrix(r.normal(size=(n, 2)))", "y = r.normal(size=(n, 2, 2))",
    "y = np.full(n, 200, 'u1').view(bool)",
)  # fmt: skip
WEIGHTS = (
    "w = np.ones(n)", "w = r.random(n)", "w = r.random(n)", "w = 1.0 * (r.random(n) < 0.5)",
    "w = 1e10 * r.random(n)", "w = r.random(n).tolist()", "w = r.random(2 * n).astype('f4')[::2]",
    "w = r.integers(0, 3, n)", "w = 2.0", "w = r.random(n) < 0.7",
)  # fmt: skip
ODD_WEIGHTS = (
    "w = np.zeros(n)", "w = 1e300 * r.random(n)", "w = r.normal(size=n)", "w = np.full(n, np.nan)",
    "w = np.ones(n + 1)", "w = np.full(n, 1e-310)", "w = np.full(n, np.inf)", "w = 'x'",
    "w = np.ones((n, 2))", "w = np.full(n, 9, 'u1').view(bool)",
)  # fmt: skip


def draw_data(random, index, classifies):
    """The lines that make X, y and w number `index`; half of all data are plain numbers."""
    n, d = random.choice(N_SAMPLES), random.choice(N_FEATURES)
    if random.random() < 0.02:
        n, d = 20, 3000
    start = f"r, n = np.random.default_rng({random.randrange(10**6)}), {n}"
    lines = [Line(start), Line(f"X = r.normal(size=(n, {d}))")]
    if random.random() < 0.3:
        lines.append(Line(random.choice(VALUES), True))
    lines += [Line(source, True) for source in _draw_layout(random)]
    usual, odd = (LABELS, ODD_LABELS) if classifies else (NUMBERS, ODD_NUMBERS)
    lines.append(Line(random.choice(odd if random.random() < 0.08 else usual)))
    lines.append(Line(random.choice(ODD_WEIGHTS if random.random() < 0.15 else WEIGHTS)))
    return tuple(Line(_number(line.source, index), line.optional) for line in lines)


def _draw_layout(random):
    """The lines that turn X of plain numbers into another kind of matrix."""
    kind = random.random()
    if kind < 0.55:
        return []
    if kind < 0.65:
        return [f"X = (20 * X).astype('{random.choice(WHOLE)}')"]
    if kind < 0.82:
        return [random.choice(LAYOUTS)]
    lines = [f"X[r.random(X.shape) > {random.choice((0.02, 0.1, 0.5))}] = 0"]
    lines.append(f"X = scipy.sparse.{random.choice(SPARSE)}_matrix(X)")
    if random.random() < 0.5:
        lines += ["X = X.tocsr()", random.choice(AFTER_SPARSE)]
    return lines


def _number(source, index):
    """Give the names X, y and w in a line the number of their data set."""
    import re

    return re.sub(r"(?<![\w'.])([Xyw])(?![\w'])", rf"\g<1>{index}", source)
