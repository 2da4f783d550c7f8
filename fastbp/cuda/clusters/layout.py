"""How a network is laid out over one cluster of blocks. Pure Python: imports no CUDA.

The first layer's units are shared out over the blocks by columns, so that each block computes its
own units from all features. Every later layer is shared out by rows: a block multiplies the values
of its own units, the sums of all blocks' products are exchanged, and each block adds up those of
its own units, or all of them for the outputs. Going back, the δ of a layer that is not the last are
gathered from all blocks; gradients and updates concern a block's own parameters alone.

Offsets and sizes are in words of 4 bytes, from the start of a block's shared memory.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from fastbp import functions
from fastbp.cuda.task import ADAM, GRADIENT, Task

TILE = 16  # rows of a batch, and features, that one tensor-core product takes
UNIT_TILE = 8  # units likewise
CLUSTER_SIZES = 16, 8, 4, 2  # more than 8 blocks only where the GPU lets them
ALIGNMENT = 4  # words; vectors and asynchronous copies have 16 bytes
MAX_TILES = 16  # of batch and units together: fragments of δ that a thread's registers hold
TERMS = {"float32": 3, "tf32": 2, "bfloat16": 1}
INPUT_BYTES = {"uint8": 1, "float32": 4}
MAX_LAYERS = 8
# Multiply-adds of a step that one block does for the layers behind the first, without tensor cores:
# with more of them it is better to spread a step over the whole GPU.
MAX_LATER_WORK = 300_000

# The table of what the kernel must know: its head, then a record a layer.
(
    N_LAYERS, BATCH_SIZE, N_FEATURES, ROW_CHUNKS, TILES, TILE_STRIDE, TILE_SIZE, SCRATCH,
    ROW_STRIDE, ORDERS, TABLES, TARGETS, N_TARGETS, IS_CLASS, SAMPLE_WEIGHTS, HAS_WEIGHTS, LOSS,
    ERRORS, EXPONENTIALS, USED, HEAD_SIZE,
) = range(21)  # fmt: skip
(
    N_INPUTS, N_OUTPUTS, ACTIVATION, INPUT_SHARE, SHARE, FLAT_WEIGHTS, FLAT_BIAS, WEIGHTS,
    WEIGHT_STRIDE, WEIGHTS_SIZE, BIAS, BIAS_SIZE, VALUES, SUMS, SUMS_SIZE, DELTAS, LAYER_SIZE,
) = range(17)  # fmt: skip
# What the kernel gets in global memory: addresses and the number of steps (int64), then
# hyper-parameters (float64).
(
    PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, X_ROWS, TARGET_ROWS, WEIGHT_ROWS, ORDER, STEP_TABLE,
    LOSSES, N_STEPS, N_ADDRESSES,
) = range(11)  # fmt: skip
(
    MOMENTUM, BETA_1, BETA_2, EPSILON, ALPHA, INPUT_SCALE, LOSS_SCALE, EPS, N_NUMBERS,
) = range(9)  # fmt: skip


class Shape(NamedTuple):
    """Constants of a kernel that decide about its registers."""

    cluster: int  # blocks
    warps: int  # of a block
    row_tiles: int  # of TILE rows of a batch
    unit_tiles: int  # of UNIT_TILE units of the first layer that a block has
    terms: int  # bfloat16 that stand for one float32 in a product
    input_size: int  # bytes of a number of X, 1 or 4
    rule: int  # how parameters are updated


def round_up(size, multiple):
    """The next multiple of `multiple`, from `size` on."""
    return -(-size // multiple) * multiple


def without_conflicts(size):
    """A row's stride in words: 4 more than a multiple of 8.

    Then the 32 lanes that read 8 rows at 4 neighbouring words, or 4 pairs of rows at 8 words, find
    them in 32 different banks.
    """
    return round_up(size + 4, 8) - 4


@dataclass(frozen=True)
class ClusterLayout:
    """Where a block keeps what.

    Parameters
    ----------
    task : Task
    cluster : int
        Blocks.
    input_size : int
        Bytes of a number of X: 1 or 4.
    has_weights : bool
        Whether samples have weights.
    target_is_class : bool
    warps : int or None, default=None
        Of a block; None for as many as a GPU should have.

    Attributes
    ----------
    shape : Shape
    words : ndarray of int32
        The table.
    n_bytes : int
        Of shared memory a block.
    """

    task: Task
    cluster: int
    input_size: int
    has_weights: bool
    target_is_class: bool
    warps: int | None = None

    kernel = "train_on_cluster"

    @property
    def constants(self):
        """What the kernel is made of."""
        return self.shape, self.words.tolist()

    @property
    def n_rows(self):
        """Rows of a batch in whole tiles."""
        return round_up(self.task.batch_size, TILE)

    @property
    def n_units(self):
        """The first layer's units of a block, in whole tiles."""
        return round_up(-(-self.task.network.layer_sizes[1] // self.cluster), UNIT_TILE)

    @property
    def n_features(self):
        """Features of a row in whole tiles: what X must have on the device."""
        return round_up(self.task.network.layer_sizes[0], TILE)

    @property
    def later_work(self):
        """Multiply-adds of a step, one way, that a block does behind the first layer."""
        shapes = self.task.network.shapes[1:]
        return self.n_rows * sum(-(-fan_in // self.cluster) * n for fan_in, n in shapes)

    @property
    def shape(self):
        row_tiles, unit_tiles = self.n_rows // TILE, self.n_units // UNIT_TILE
        warps = self.warps or (16 if row_tiles * unit_tiles <= 4 else 8)
        return Shape(
            self.cluster, warps, row_tiles, unit_tiles,
            TERMS[self.task.precision], self.input_size, self.task.rule,
        )  # fmt: skip

    @property
    def words(self):
        return _lay_out(self)[0]

    @property
    def n_bytes(self):
        return 4 * _lay_out(self)[1]


@cache
def _lay_out(layout):
    """The table's words, and the size of it all."""
    network, shape = layout.task.network, layout.shape
    n_layers, n_outputs = len(network.shapes), network.layer_sizes[-1]
    used = 0

    def take(size, at=None):
        nonlocal used
        start = used if at is None else at
        used = max(used, start + round_up(size, ALIGNMENT))
        return start

    stride = without_conflicts(layout.n_rows)
    head = np.zeros(HEAD_SIZE, np.int64)
    head[[N_LAYERS, BATCH_SIZE, N_FEATURES]] = n_layers, layout.task.batch_size, layout.n_features
    head[ROW_STRIDE], head[LOSS] = stride, functions.LOSSES.index(network.loss)
    head[ROW_CHUNKS] = layout.n_features * layout.input_size // 16
    head[TILE_STRIDE] = without_conflicts(4 * int(head[ROW_CHUNKS]))
    head[TILE_SIZE] = head[TILE_STRIDE] * layout.n_rows
    head[TILES] = take(2 * int(head[TILE_SIZE]))
    head[ORDERS], head[TABLES] = take(2 * layout.n_rows), take(3 * 8)
    head[IS_CLASS] = layout.target_is_class
    head[N_TARGETS] = 1 if layout.target_is_class else n_outputs
    head[TARGETS] = take(2 * layout.n_rows * int(head[N_TARGETS]))
    head[HAS_WEIGHTS] = layout.has_weights
    head[SAMPLE_WEIGHTS] = take(4 * layout.n_rows if layout.has_weights else 0)
    records = [_lay_out_layer(layout, index, take, stride) for index in range(n_layers)]

    # The first layer's sums of half the warps; when they are added up, what comes later in a step.
    head[SCRATCH] = take(shape.warps // 2 * layout.n_units * stride)
    head[ERRORS] = take(max(network.layer_sizes[2:]) * stride, int(head[SCRATCH]))
    after = int(head[ERRORS]) + round_up(max(network.layer_sizes[2:]) * stride, ALIGNMENT)
    records[0][DELTAS] = take(layout.n_units * stride, after)
    head[EXPONENTIALS] = take(n_outputs * stride, after)  # needed no more when there are δ
    head[USED] = used
    return np.concatenate([head, *records]).astype(np.int32), used


def _lay_out_layer(layout, index, take, stride):
    """One layer's record."""
    network, cluster = layout.task.network, layout.cluster
    n_inputs, n_outputs = network.shapes[index]
    is_output = index == len(network.shapes) - 1
    record = np.zeros(LAYER_SIZE, np.int64)
    record[N_INPUTS], record[N_OUTPUTS] = n_inputs, n_outputs
    record[ACTIVATION] = functions.OUTPUT_ACTIVATIONS.index(network.activations[index])
    record[INPUT_SHARE] = n_inputs if index == 0 else -(-n_inputs // cluster)
    record[SHARE] = n_outputs if is_output else -(-n_outputs // cluster)
    start = network.starts[index]
    record[FLAT_WEIGHTS], record[FLAT_BIAS] = start, start + n_inputs * n_outputs

    copies = 3 if layout.task.rule == ADAM else 2  # the parameters and their moments
    if index == 0:  # unit by unit, as the tensor cores take them
        record[WEIGHT_STRIDE] = without_conflicts(layout.n_features)
        size = layout.n_units * int(record[WEIGHT_STRIDE])
    else:
        record[WEIGHT_STRIDE] = n_outputs
        size = round_up(int(record[INPUT_SHARE]) * n_outputs, ALIGNMENT)
    record[WEIGHTS_SIZE], record[WEIGHTS] = size, take(copies * size)
    record[BIAS_SIZE] = record[SHARE]
    record[BIAS] = take(copies * int(record[SHARE]))
    units = layout.n_units if index == 0 else int(record[SHARE])
    if not is_output:
        record[VALUES] = take(units * stride)
        if index:  # peers read these; the first layer's δ are a block's own, in the scratch
            record[DELTAS] = take(units * stride)
    if index:
        # With one barrier a step, a block may write the next step's sums while another reads this
        # step's.
        record[SUMS_SIZE] = n_outputs * stride if len(network.shapes) == 2 else 0
        record[SUMS] = take((1 if record[SUMS_SIZE] == 0 else 2) * n_outputs * stride)
    return record


def takes_clusters(task, gpu):
    """Whether one cluster trains a task's network on a GPU well, and why or why not."""
    is_class = task.network.output_activation == "softmax"
    layout = layout_for(task, gpu, has_weights=True, target_is_class=is_class)
    if isinstance(layout, str):
        return False, layout
    return True, (
        f"one cluster of {layout.cluster} blocks keeps all parameters in shared memory, "
        f"{layout.n_bytes // 1024} KiB a block, and runs an epoch in one launch"
    )


def layout_for(task, gpu, has_weights, target_is_class):
    """The layout over the first cluster that fits.

    Parameters
    ----------
    task : Task
    gpu : Gpu or Device
    has_weights, target_is_class : bool

    Returns
    -------
    layout : ClusterLayout, or str where there is none: why
    """
    network = task.network
    if tuple(gpu.capability) < (9, 0):
        return "clusters of blocks need a GPU of compute capability 9.0 (Hopper) or later"
    if task.precision not in TERMS or task.rule == GRADIENT:
        return "clusters train in float32, tf32 or bfloat16"
    if task.inputs not in INPUT_BYTES:
        return f"clusters take dense X of {' or '.join(INPUT_BYTES)}, not {task.inputs}"
    if not 2 <= len(network.shapes) <= MAX_LAYERS:
        return f"clusters take networks of 1 to {MAX_LAYERS - 1} hidden layers"
    for cluster in _cluster_sizes(network.layer_sizes[1], gpu.largest_cluster):
        layout = ClusterLayout(
            task, cluster, INPUT_BYTES[task.inputs], has_weights, target_is_class
        )
        tiles = layout.shape.row_tiles * layout.shape.unit_tiles
        if (
            tiles <= MAX_TILES
            and layout.later_work <= MAX_LATER_WORK
            and layout.n_bytes <= gpu.shared_memory
        ):
            return layout
    return (
        f"parameters, moments and two batches of {task.batch_size} rows do not fit into the "
        f"shared memory and registers of {gpu.largest_cluster} blocks"
    )


def _cluster_sizes(n_units, largest):
    """Sizes to try: first those that give each block a whole tile of units, the largest first."""
    sizes = [size for size in CLUSTER_SIZES if size <= largest]
    return sorted(sizes, key=lambda size: (size * UNIT_TILE > n_units, -size))
