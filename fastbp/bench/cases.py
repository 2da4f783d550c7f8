"""The networks that are raced: their shapes, and the arithmetic and memory that they ask for."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

# The update rules' constants, which all contenders share.
MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
N_MOMENTS = {"sgd": 1, "adam": 2}
SEED = 0
# Limits of what a turn of several epochs has to do.
TURN_OPERATIONS, TURN_STEPS = 5_000_000_000, 5_000


@dataclass(frozen=True)
class Case:
    """One network and how it is trained: softmax, cross-entropy, no penalty.

    Parameters
    ----------
    layer_sizes : tuple of int
        Units a layer, features and classes included. With 784 features the rows are MNIST's
        training images where they are found, unless `is_dense`; else they are made up.
    activation : {"logistic", "tanh", "relu"}
        Of every hidden layer.
    solver : {"sgd", "adam"}
        Gradient descent with classical momentum 0.9, or Adam with its usual constants.
    batch_size, n_rows : int
        The last batch may be short.
    learning_rate : float
        Such that a few epochs move the loss by far more than contenders may differ.
    dtype : {"float32", "float64"}, default="float32"
    is_dense : bool, default=False
        Whether the rows must have no zeros, which fastbp need not multiply.
    precision : {"", "tf32", "bfloat16"}, default=""
        Of a GPU's products, where it is not `dtype`. Contenders on the CPU ignore it.
    cpu_precision : {"", "bfloat16"}, default=""
        Of the CPU's products, likewise. NumPy and scikit-learn ignore it.
    has_subnormals : bool, default=False
        Whether every third feature is a number so small that processors are slow with it.
    n_networks : int, default=1
        Networks that are trained on the same rows. With more than one, what is timed is not an
        epoch but a fit of `FIT_EPOCHS` epochs of all of them.
    """

    layer_sizes: tuple[int, ...]
    activation: str
    solver: str
    batch_size: int
    n_rows: int
    learning_rate: float
    dtype: str = "float32"
    is_dense: bool = False
    precision: str = ""
    n_networks: int = 1
    cpu_precision: str = ""
    has_subnormals: bool = False

    @property
    def shape(self):
        """The layer sizes, with a run of equal ones written once: 28-300x5-3."""
        first, *hidden, last = self.layer_sizes
        if len(hidden) > 2 and len(set(hidden)) == 1:
            hidden = [f"{hidden[0]}x{len(hidden)}"]
        return "-".join(map(str, (first, *hidden, last)))

    @property
    def name(self):
        """Shape, batch, activation and solver, and what is unlike in most cases."""
        kind = self.precision or self.cpu_precision or self.dtype
        unusual = "" if kind == "float32" else f" {kind}"
        unusual += ", dense rows" if self.is_dense else ""
        unusual += ", subnormal features" if self.has_subnormals else ""
        unusual += f", {self.n_networks:,} networks" if self.n_networks > 1 else ""
        return f"{self.shape} b{self.batch_size} {self.activation} {self.solver}{unusual}"

    @property
    def n_steps(self):
        """Updates an epoch."""
        return -(-self.n_rows // self.batch_size)

    @property
    def unit(self):
        """What a time is given for."""
        return "epoch" if self.n_networks == 1 else f"fit of {FIT_EPOCHS} epochs"

    @property
    def n_samples(self):
        """Rows that are trained on in what is timed, by all networks together."""
        return self.n_rows * (1 if self.n_networks == 1 else self.n_networks * FIT_EPOCHS)

    @property
    def operations(self):
        """Floating-point operations of the matrix products in what is timed.

        2mn a row and product; a layer's products are its outputs, its weights' gradient and,
        except for the first layer, the δ of the layer below.
        """
        products = [2 * fan_in * fan_out for fan_in, fan_out in pairwise(self.layer_sizes)]
        return self.n_samples * (3 * sum(products) - products[0])

    @property
    def epochs_a_turn(self):
        """Epochs that a contender trains in one turn, fewer of long ones.

        A turn of a millisecond would measure how fast a process wakes up. The first of several
        epochs is not timed. Of many networks a turn is one fit.
        """
        if self.n_networks > 1:
            return 1
        wanted = min(TURN_OPERATIONS // self.operations, TURN_STEPS // self.n_steps)
        return int(max(1, wanted))

    @property
    def row_bytes(self):
        """Size of all rows."""
        return self.n_rows * self.layer_sizes[0] * np.dtype(self.dtype).itemsize

    @property
    def state_bytes(self):
        """Size of the parameters and the optimizer's moments."""
        n_parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(self.layer_sizes))
        return n_parameters * (1 + N_MOMENTS[self.solver]) * np.dtype(self.dtype).itemsize

    @property
    def touched_bytes(self):
        """Bytes that an epoch touches: every row once; all state read and written every step."""
        return self.row_bytes + 2 * self.n_steps * self.state_bytes

    def memory_bytes(self, cache_bytes):
        """Bytes that must come from memory or go there: what is touched but fits in no cache."""
        rows = self.row_bytes if self.row_bytes > cache_bytes else 0
        state = self.state_bytes if self.state_bytes > cache_bytes else 0
        return rows + 2 * self.n_steps * state


@dataclass(frozen=True)
class Heat:
    """One race of a series.

    Parameters
    ----------
    series : str
        "table" or the name of a sweep.
    value : int or str or None
        What the sweep varies, here.
    case : Case
    n_threads : int
    device : {"cpu", "cuda", "both"}, default="cpu"
        Whose contenders take part; with "cuda" fastbp on the CPU, too, which proves the losses.
    """

    series: str
    value: int | str | None
    case: Case
    n_threads: int
    device: str = "cpu"


TABLE = (
    Case((4, 16, 3), "logistic", "sgd", 32, 15_000, 0.05),
    Case((30, 64, 64, 3), "logistic", "sgd", 64, 60_000, 0.05),
    Case((784, 128, 10), "logistic", "sgd", 64, 60_000, 0.1),
    Case((784, 100, 100, 10), "relu", "adam", 200, 60_000, 0.0003),
    Case((28, 300, 300, 300, 300, 300, 3), "tanh", "sgd", 100, 25_000, 0.01),
    Case((784, 512, 512, 10), "logistic", "sgd", 256, 30_000, 0.1),
    Case((784, 2048, 2048, 10), "logistic", "sgd", 512, 5_120, 0.03),
)
# Shapes that no tile divides and nobody has in mind when they tune.
UNLISTED = (
    Case((77, 53, 7), "relu", "adam", 48, 30_000, 0.001),
    Case((41, 96, 96, 96, 96, 96, 96, 96, 96, 5), "tanh", "sgd", 100, 20_000, 0.01),
    Case((301, 203, 129, 11), "logistic", "adam", 80, 20_000, 0.001),
)
# Also raced on fewer threads and in float64, where all products are to be made.
VARIED = (
    Case((784, 128, 10), "logistic", "sgd", 64, 20_000, 0.1, is_dense=True),
    Case((784, 512, 512, 10), "logistic", "sgd", 256, 5_000, 0.1, is_dense=True),
)

# With float32 weights and products of bfloat16, on the CPU.
IN_BFLOAT16 = (
    Case((784, 512, 512, 10), "logistic", "sgd", 256, 30_000, 0.1, cpu_precision="bfloat16"),
    Case((784, 2048, 2048, 10), "logistic", "sgd", 512, 8_192, 0.03, cpu_precision="bfloat16"),
)
SUBNORMAL = Case(
    (784, 128, 10), "logistic", "sgd", 64, 5_000, 0.1, is_dense=True, has_subnormals=True
)


def _between(low, number, high):
    return int(min(max(low, number), high))


def rows_sweep(value):
    """30-64-64-3 on 600 times this many rows; the most are the table's."""
    return Case((30, 64, 64, 3), "logistic", "sgd", 64, 600 * value, 0.05)


def width_sweep(value):
    """Two equal hidden layers; fewer rows where they are wide, for equal work."""
    n_rows = _between(1_024, 2**31 // value**2, 20_000)
    return Case((64, value, value, 10), "relu", "sgd", 128, n_rows, 0.01)


def depth_sweep(value):
    """This many hidden layers of 256 units; two are in the sweep of widths, too."""
    return Case((64, *[256] * value, 10), "relu", "sgd", 128, 20_000, 0.01)


def batch_sweep(value):
    """30-64-64-3 from single rows (online learning) on, with small steps; 64 as in the table."""
    n_rows = _between(1, 2_048 * value, 60_000)
    return Case((30, 64, 64, 3), "logistic", "sgd", value, n_rows, min(0.2, 0.05 * value / 64))


# Name -> (what is varied, its values, the case for a value).
SWEEPS = {
    "rows": ("rows, in 600s", (1, 10, 100), rows_sweep),
    "width": ("units of both hidden layers", (16, 64, 256, 1_024, 4_096), width_sweep),
    "depth": ("hidden layers of 256 units", (1, 2, 4, 8), depth_sweep),
    "batch": ("batch size", (1, 8, 64, 512, 4_096), batch_sweep),
}
QUICK_TABLE = (TABLE[0], TABLE[2])
SERIES = ("table", "unlisted", *SWEEPS, "threads", "float64", "bfloat16", "subnormal")

# ---- on a GPU -------------------------------------------------------------------------------

FIT_EPOCHS = 10
MANY = Case((30, 64, 3), "relu", "sgd", 64, 20_000, 0.02, n_networks=1_000)
WIDE = Case((784, 2048, 2048, 10), "relu", "sgd", 4_096, 57_344, 0.02)
LARGE = (
    replace(WIDE, precision="bfloat16"),
    replace(WIDE, precision="tf32"),
    WIDE,
    replace(TABLE[4], batch_size=1_024, n_rows=51_200),
)
WIDTHS, BATCH_SIZES = (16, 128, 512, 2_048), (64, 1_024)
MOST_OPERATIONS, MOST_STEPS = 50e9, 200  # an epoch
GPU_SERIES = ("table", "large", "sizes", "together")


def size_case(width, batch_size):
    """Two equal hidden layers, on no more rows than take their time but leave a whole batch."""
    case = Case((64, width, width, 10), "relu", "sgd", batch_size, 1, 0.01)
    n_rows = int(min(MOST_OPERATIONS / case.operations, MOST_STEPS * batch_size))
    return replace(case, n_rows=max(batch_size, n_rows))


def gpu_heats(n_threads, quick, device):
    """All races of a run with a GPU, by series."""
    if quick:
        cases = [("table", None, case) for case in QUICK_TABLE]
        cases += [("sizes", width, size_case(width, BATCH_SIZES[0])) for width in WIDTHS[::2]]
    else:
        cases = [("table", None, case) for case in TABLE]
        cases += [("large", None, case) for case in LARGE]
        cases += [
            ("sizes", width, size_case(width, size)) for size in BATCH_SIZES for width in WIDTHS
        ]
        cases += [("together", None, MANY)]
    # Large networks would take most contenders on the CPU minutes.
    return [
        Heat(series, value, case, n_threads, "cuda" if series == "large" else device)
        for series, value, case in cases
    ]


# ---- on either ------------------------------------------------------------------------------


def thread_counts(n_threads):
    """1, 2, 4 and so on up to all."""
    return sorted({min(2**k, n_threads) for k in range(n_threads.bit_length() + 1)})


def make_heats(n_threads, quick=False, device="cpu"):
    """All races of a run, by series.

    Parameters
    ----------
    n_threads : int
        The cores at hand.
    quick : bool, default=False
        Two cases of the table and, on the CPU, single rows, or on a GPU two sizes.
    device : {"cpu", "cuda", "both"}, default="cpu"

    Returns
    -------
    heats : list of Heat
    """
    if device != "cpu":
        return gpu_heats(n_threads, quick, device)
    if quick:
        heats = [Heat("table", None, case, n_threads) for case in QUICK_TABLE]
        return [*heats, Heat("batch", 1, batch_sweep(1), n_threads)]
    heats = [Heat("table", None, case, n_threads) for case in TABLE]
    heats += [Heat("unlisted", None, case, n_threads) for case in UNLISTED]
    for series, (_, values, make_case) in SWEEPS.items():
        heats += [Heat(series, value, make_case(value), n_threads) for value in values]
    if n_threads > 1:
        heats += [
            Heat("threads", count, case, count)
            for case in (TABLE[1], *VARIED)
            for count in thread_counts(n_threads)
        ]
    for case in VARIED:
        heats += [
            Heat("float64", dtype, replace(case, dtype=dtype), n_threads)
            for dtype in ("float32", "float64")
        ]
    heats += [Heat("bfloat16", None, case, n_threads) for case in IN_BFLOAT16]
    for value, case in (("none", replace(SUBNORMAL, has_subnormals=False)), ("many", SUBNORMAL)):
        heats.append(Heat("subnormal", value, case, n_threads))
    return heats
