"""The memory that kernels share with Python: records of numbers and of arrays, word by word.

Neither numba nor a compiler is needed here: shipped machine code reads the same words as code that
numba has compiled. A kernel is called with the addresses of records. A record is a named tuple
whose annotations say what its words are; numba's types are made from the same annotations
(`fastbp.cpu.kernels.spans`).
"""

from types import NoneType
from typing import NamedTuple, get_args, get_type_hints

import numpy as np

from fastbp.embedding import FREQUENCIES, NUMBERS
from fastbp.precisions import BFLOAT16

# The precision of kernels whose products of bfloat16 are made by AMX; for users it is bfloat16.
BFLOAT16_AMX = "bfloat16_amx"
IN_BFLOAT16 = BFLOAT16, BFLOAT16_AMX

CACHE_LINE = 64  # bytes
TILE_VECTORS = 2  # columns of a tile, in vectors


def tile_rows(vector_bits):
    """Rows of a tile: AVX-512 has 32 registers for its accumulators, the others 16."""
    return 8 if vector_bits == 512 else 4


# A register of AMX, a square, holds 16 rows of 16 float32, or of 16 pairs of bfloat16. Two squares
# of rows are computed at once.
SQUARE = 16
GROUP_ROWS = 2 * SQUARE

# Columns of the layer table.
N_INPUTS, N_OUTPUTS, INPUT_WIDTH, WIDTH, N_PANELS = 0, 1, 2, 3, 4
BIAS_ROW = 5  # the row of a weight panel that holds the bias
WEIGHTS = 6  # where the layer's weights start
UNITS = 7  # padded units of all earlier layers: times the rows, where its activations start
BLOCKS = 8  # blocks of a weight panel: its tiles and, last, the bias
FIRST_BLOCK = 9  # index of its first block among all layers'
ACTIVATION = 10  # of a hidden layer; the identity for the last one's logits
LANES = 11  # numbers in a vector: half of a wide panel, all of a narrow one
SLOPES_ROW = 12  # the row of a weight panel that holds the slopes of its units; 0 without
PANEL_ROWS = 13  # rows of a weight panel
GROUP = 14  # of the weights among the groups of parameters; that of the biases comes next
PAIRS = 15  # where the pairs of the layer's weights start: see `Pairs`
N_FIELDS = 16

# Numbers of an embedded feature: frequencies, phases, weights (those of each number together), and
# biases, up to whole vectors.
PHASES, EMBEDDING_WEIGHTS = FREQUENCIES, 2 * FREQUENCIES
EMBEDDING_BIASES = (2 + NUMBERS) * FREQUENCIES
EMBEDDING_SIZE = -(-(EMBEDDING_BIASES + NUMBERS) // FREQUENCIES) * FREQUENCIES

# Elements of a team's control array: arrivals at barriers, whether a rank has failed, and, on
# another cache line, whether the kernel is to stop.
ARRIVALS, ABORTED, STOPPED = 0, 1, 16
CONTROL_SIZE = 32

# Elements of the result array of training.
LOSS, TOTAL_WEIGHT, UPDATES, RESULT_SIZE = range(4)
# Bits of what a prediction returns: whether all inputs, and all outputs, were finite.
FINITE_INPUTS, FINITE_OUTPUTS = 1, 2
FINITENESS = (False, False), (True, False), (False, True), (True, True)  # by those bits

N_GROUP_STEPS = 3  # groups of parameters that are updated at once: weights, biases and slopes

# Rows of a batch whose gradient is summed in float32: one after the other, n equal numbers lose at
# most 1.5 n · 2⁻²⁶ of their sum, which is 9 · 10⁻⁶ here.
BLOCK_ROWS = 384

# The dtypes that kernels read; their code is the position.
DTYPES = (
    "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip
DTYPE_CODES = {np.dtype(name): code for code, name in enumerate(DTYPES)}
DTYPE_CODES[np.dtype(bool)] = DTYPE_CODES[np.dtype("uint8")]


# ---- annotations --------------------------------------------------------------------------------


class Span:
    """An array of one dimension, contiguous: its address and its size."""

    dtype = None  # that of the engine


class Reals(Span):
    """Numbers of the engine's dtype."""


class Float64s(Span):
    dtype = "float64"


class Int64s(Span):
    dtype = "int64"


class Int32s(Span):
    dtype = "int32"


class Placed(Int64s):
    """Numbers of which Python gives the `Place`."""


# ---- records ------------------------------------------------------------------------------------
# What a kind of rows or a precision lacks comes last: before it, all of them have their words in
# the same places, and so the same machine code.


class Source(NamedTuple):
    """Address, dtype code and strides (bytes) of a matrix, all integers."""

    address: int
    code: int
    row_stride: int
    column_stride: int
    n_columns: int
    is_far: int  # whether it is too large to stay in the caches


class SparseSource(NamedTuple):
    """Addresses and dtypes of a CSR matrix's arrays, all integers."""

    values: int
    code: int
    itemsize: int
    columns: int
    row_starts: int
    is_wide: int  # whether columns and row starts have 64 bits


class Lines(NamedTuple):
    """Entries by rows or by columns (lines): those of line i go from starts[i] to starts[i + 1]."""

    starts: Int64s  # surplus lines, up to whole tiles, are empty
    indices: Int64s  # the entries' columns, or rows
    values: Reals


class Entries(NamedTuple):
    """A batch of a sparse matrix's rows, in the memory of one thread."""

    source: SparseSource
    rows: Lines
    columns: Lines


class Steps(NamedTuple):
    """The steps of all tiles of one batch: first those of its rows, then those of its columns."""

    counts: Int64s  # steps of every tile; empty if no step is skipped
    numbers: Int32s  # columns for a tile of rows, rows for a tile of columns
    n_rows: int  # rounded up to whole tiles
    n_columns: int  # likewise


class Masks(NamedTuple):
    """What dropout leaves out: of the inputs, of each hidden layer's outputs, and of the last's."""

    thresholds: Int64s  # units whose random word is below; empty where there is no dropout
    seed: int


class Scaling(NamedTuple):
    """Factors of the first dense layer's inputs."""

    weights: Reals  # the layer's weights times them, in its panels; empty if there are none
    sums: Reals  # Σⱼ wᵢⱼ ∂L/∂(wᵢⱼ sᵢ) for each input i, of every panel apart
    start: int  # of the factors among the parameters
    n_chunks: int  # of two vectors each
    first_block: int  # index of their first one among all blocks


class Pairs(NamedTuple):
    """What products are made of in bfloat16: each int32 holds two numbers that are neighbours.

    Tiles multiply pairs with pairs and add up in float32. Neighbours along the sum are in one pair,
    so that everything but weights is here twice: by rows, neighbouring units together, for sums
    over units, and by columns, neighbouring rows together, for sums over rows.
    """

    weights: Int32s  # by columns: neighbouring inputs together, without biases
    outputs_by_rows: Int32s
    outputs_by_columns: Int32s
    deltas_by_rows: Int32s
    deltas_by_columns: Int32s


class ThreadPairs(NamedTuple):
    """Likewise, those of one thread."""

    inputs_by_rows: Int32s
    inputs_by_columns: Int32s
    transposed: Int32s  # one transposed weight panel


class AmxScratch(NamedTuple):
    """What one thread needs for products by AMX."""

    sums: Reals  # GROUP_ROWS rows of a product's panel, before they are used
    left: Int32s  # what remains of their pairs after whole squares, and zeros
    right: Int32s  # likewise, one or two squares of the right operand


class AmxProduct(NamedTuple):
    """What `multiply_by_amx` multiplies: operands of pairs, as in training."""

    left: Int32s  # GROUP_ROWS rows of `depth` pairs each
    right: Int32s  # `depth` rows of pairs of a panel
    bias: Reals  # one for each of a panel's columns
    scratch: AmxScratch  # where the sums come
    depth: int
    n_rows: int  # that are computed, at least
    is_wide: int  # whether a panel is of two squares, or of one


class Memory(NamedTuple):
    """The arrays of one engine that its threads share."""

    layers: Int64s  # layer table
    capacity: int  # rows of an activation or delta panel; a batch may have fewer
    weights: Reals  # padded parameters
    first_moment: Reals  # of the update rule; empty if it has fewer moments
    second_moment: Reals
    average: Reals  # of the weights; empty if there is none
    gradient: Reals  # of a batch, where its norm is bounded; else empty
    gradient_norms: Float64s  # Σg² of every block of it
    activations: Reals  # all layers' outputs for one batch
    deltas: Reals  # likewise; in the forward pass f′(z) of activations that need z, or are dropped
    square_norms: Float64s  # Σw² of every block before its update
    row_losses: Float64s  # the loss of every row of the batch
    control: Int64s  # the team's barrier
    masks: Masks
    bends: Reals  # like activations: f(z) − z of units with slopes, then times ∂L/∂output
    scaling: Scaling
    n_embedded: int  # features that layer 0 embeds; 0 if it is a dense layer
    pairs: Pairs | None = None  # for products in bfloat16


class Workspace(NamedTuple):
    """The arrays of one thread."""

    inputs: Reals  # the gathered batch, row by row
    input_stride: int
    transposed: Reals  # one transposed weight panel
    tile: Reals  # one tile of a product, before it is used
    totals: Float64s  # a tile's sums in batches longer than a block; else empty
    zeros: Reals  # one for each column of a tile, for products without bias
    one: Reals  # the number 1, for sums
    lanes: int  # numbers in a vector
    samples: Reals  # a number for each of the samples whose outputs are computed at once
    outputs: Reals  # their outputs, unit by unit
    targets: Reals  # their targets, likewise; then their δ
    errors: Reals  # their ∂L/∂output, likewise
    losses: Reals  # each output's share of the loss
    row: Reals  # the targets of one sample
    factors: Reals  # of a tile's numbers under dropout or with slopes; empty if there are none
    bent: Reals  # scratch of a tile with slopes; else empty
    columns: Reals  # a feature of all rows, and its embedding; empty if there is none
    sums: Float64s  # gradients of a feature's embedding; empty if there is none
    group_steps: Float64s  # rows of the step table as groups of parameters take them
    steps: Steps  # those of the first layer's tiles, where zeros are skipped
    pairs: ThreadPairs | None  # for products in bfloat16
    amx: AmxScratch | None  # where AMX makes them
    entries: Entries | None  # of a batch of sparse rows


class Objective(NamedTuple):
    """What the outputs are compared with, and how."""

    output_activation: int
    loss: int
    joins_activation: int  # whether the loss's error is δ already
    has_classes: int  # whether the loss is the cross-entropy of softmax with a class index
    loss_scale: float  # multiplies every row's loss, but not its δ
    eps: float  # probabilities are kept this far from 0 and 1
    targets: Source
    target_is_class: int  # whether a target is a class index (int64) or a row of numbers
    coefficients: Reals  # of the loss, one for each output; empty if it has none
    kept: float  # multiplies targets of 0 and 1, which are smoothed if this is not 1
    shared: float  # is added to them
    sample_weight: int  # address of float64 weights, or 0


class Training(NamedTuple):
    """What all ranks of a call of `train` read."""

    objective: Objective
    rule: int
    alpha: float  # of the penalty in the loss
    input_scale: float
    max_grad_norm: float  # of all gradients together, where `Memory.gradient` is not empty
    steps: Float64s  # rows of the step table
    factors: Float64s  # of the groups of parameters; empty if all are 1
    order: Int64s  # the rows of their batches
    result: Float64s
    size: int  # of the team
    makes_pairs: int  # whether those of the weights, where products are in bfloat16, are not there
    source: Source | None  # of dense rows


class Prediction(NamedTuple):
    """What all ranks of a call of `predict` read."""

    batch_size: int
    activation: int  # of the output layer
    input_scale: float
    order: Int64s
    out: Reals
    size: int  # of the team
    parameters: Reals  # flat; empty if they are packed in `Memory.weights`
    source: Source | None  # of dense rows


class FewRows(NamedTuple):
    """What `predict_few` reads."""

    parameters: Reals  # flat
    layers: Placed  # layer table
    input_scale: float
    activation: int  # of the output layer
    order: Int64s
    out: Reals
    working: Reals  # two rows of the widest layer in whole vectors, and `lanes` samples' outputs
    widest: int
    source: Source | None  # of dense rows
    entries: Entries | None  # of as many rows as a vector has lanes, if they are sparse


class Shuffle(NamedTuple):
    """What `shuffle_rows` reads."""

    rows: Int64s
    picks: Int64s  # numbers drawn before their rows are exchanged
    next_uint32: int  # address of the generator's function
    state: int  # address of the generator's state


class Epochs(NamedTuple):
    """What `train_epochs` reads."""

    shuffle: Shuffle  # of the rows before each epoch; without rows where they stay in their order
    table: Float64s  # rows of the step table, of all epochs or of one that is like all others
    steps: Float64s  # where `train` reads those of an epoch
    result: Float64s  # where it writes an epoch's result
    control: Int64s  # its barrier
    train: int  # address of its function, and of its records
    training: int
    memory: int
    workspace: int
    results: Float64s  # of each epoch
    made: Int64s  # one number: epochs that have come to their end
    best_loss: float  # so far
    no_improvement_count: int  # epochs since it has improved by `tol`
    tol: float
    n_iter_no_change: float  # most of such epochs with which training goes on


# The kernels that Python calls: the records whose addresses they take; of some a rank comes last.
KERNELS = {
    "train": (Training, Memory, Workspace),
    "train_epochs": (Epochs,),
    "predict": (Prediction, Memory, Workspace),
    "predict_few": (FewRows,),
    "shuffle_rows": (Shuffle,),
    "multiply_by_amx": (AmxProduct,),
}
RANKED = "train", "predict"


class Specialisation(NamedTuple):
    """A kernel for one precision and one kind of rows."""

    name: str  # of the kernel
    real: str | None  # a dtype, or one `IN_BFLOAT16`; None where there are no such numbers
    is_sparse: bool = False

    @property
    def symbol(self):
        """The name of its function in a library."""
        rows = "sparse" if self.is_sparse else "dense"
        return f"fastbp_{self.name}" + (f"_{self.real}_{rows}" if self.real else "")


SPECIALISATIONS = (
    *(
        Specialisation(name, real, is_sparse)
        for name in ("train", "predict", "predict_few")
        for real in ("float32", "float64")
        for is_sparse in (False, True)
    ),
    *(Specialisation("train", BFLOAT16, is_sparse) for is_sparse in (False, True)),
    Specialisation("shuffle_rows", None),
    Specialisation("train_epochs", None),
)
AMX_SPECIALISATIONS = (
    *(Specialisation("train", BFLOAT16_AMX, is_sparse) for is_sparse in (False, True)),
    Specialisation("multiply_by_amx", BFLOAT16_AMX),
)


def dtype_of(real):
    """The dtype of numbers of a precision, by its name."""
    return "float32" if real in IN_BFLOAT16 else real


def fields_of(record, real, is_sparse):
    """The fields of a record as kernels for dense, or sparse, rows know them.

    Parameters
    ----------
    record : type
    real : str or None
        The precision; only those of bfloat16 have pairs.
    is_sparse : bool
        Sparse rows have entries and no source, dense ones a source and no entries.

    Yields
    ------
    field : type
        int, float, a `Span`, a record, or NoneType for what is absent, a word without meaning.
    """
    absent = {Source if is_sparse else Entries}
    if real not in IN_BFLOAT16:
        absent |= {Pairs, ThreadPairs}
    if real != BFLOAT16_AMX:
        absent |= {AmxScratch}
    for annotation in get_type_hints(record).values():
        choices = get_args(annotation)
        kind = choices[0] if choices else annotation
        yield NoneType if choices and kind in absent else kind
