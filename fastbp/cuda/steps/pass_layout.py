"""How clusters of blocks take a batch through all layers and back. Pure Python: imports no CUDA.

A cluster takes some rows of the batch. Its blocks share out every layer's units, forward and back
alike; what a block has computed it writes into the shared memory of all blocks of its cluster, so
that each has all inputs of the next product. Clusters know nothing of each other.

Products of a step are numbered: L layers forward, then L - 1 back. Product q reads its inputs from
one of two places, q & 1, and writes to the other; so it is with the weights, which are copied from
global memory while the product before is computed.

Offsets and sizes are in words of 4 bytes, from the start of a block's shared memory.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from fastbp import functions
from fastbp.cuda.clusters.layout import round_up, without_conflicts

CLUSTER = 8  # blocks: as many as every GPU with clusters has
WARPS = 16  # of a block
FEWEST_LAYERS = 3  # with fewer, single kernels are hardly more launches
MOST_OUTPUTS = 16  # a thread takes a row's outputs
OCTET = 8  # rows of a thread; lanes that share them, each with units of its own
CHUNK = 4  # terms of a product that a thread reads at once
TILES = {8: 1, 16: 2, 32: 2}  # rows of a cluster -> units of a thread

# The table of what the kernel must know: its head, then a record a product. The first two words are
# a float64.
(
    LOSS_SCALE, LOSS_SCALE_HIGH, N_PRODUCTS, N_LAYERS, BATCH_SIZE, N_INPUTS, N_OUTPUTS, ACTIVATION,
    LOSS, OUTPUTS, TARGETS, ERRORS, ROW_LOSSES, SUMS, OUT_ERRORS, HEAD_SIZE,
) = range(16)  # fmt: skip
(
    N_TERMS, N_UNITS, SHARE, UNIT_TILES, GROUPS, FLAT_WEIGHTS, TERM_STEP, UNIT_STEP, FLAT_BIAS,
    COPIED, WEIGHTS, WEIGHT_STRIDE, BIAS, INPUTS, UNIT_ACTIVATION, OWN_VALUES, PUSHED, OUT,
    RECORD_SIZE,
) = range(19)  # fmt: skip
NONE = -1  # in a record: there is no such place


class PassShape(NamedTuple):
    """Constants of a kernel that decide about its registers."""

    cluster: int  # blocks
    warps: int  # of a block
    rows: int  # of a cluster
    units: int  # of a thread


def input_size(n_terms, rows):
    """Words that a product's inputs take: chunk by chunk, in each [term][row], and one vector more,
    so that groups of threads which read neighbouring chunks do so from different banks.
    """
    return -(-n_terms // CHUNK) * CHUNK * (rows + 1)


@dataclass(frozen=True)
class PassLayout:
    """Where a block keeps what.

    Parameters
    ----------
    network : Network
    batch_size : int
    shape : PassShape
    """

    network: object
    batch_size: int
    shape: PassShape

    kernel = "pass_rows"

    @property
    def constants(self):
        """What the kernel is made of: one serves all networks."""
        return self.shape

    @property
    def n_clusters(self):
        return -(-self.batch_size // self.shape.rows)

    @property
    def words(self):
        """The table, int32."""
        return _lay_out(self)[0]

    @property
    def n_bytes(self):
        """Of shared memory a block."""
        return 4 * _lay_out(self)[1]


@cache
def _lay_out(layout):
    """The table's words, and the size of it all."""
    network, rows = layout.network, layout.shape.rows
    n_layers, n_outputs = len(network.shapes), network.layer_sizes[-1]
    n_products = 2 * n_layers - 1
    used = 0

    def take(size):
        nonlocal used
        start = used
        used += round_up(size, CHUNK)
        return start

    take(HEAD_SIZE + n_products * RECORD_SIZE)
    head = np.zeros(HEAD_SIZE, np.int64)
    head[[N_PRODUCTS, N_LAYERS, BATCH_SIZE]] = n_products, n_layers, layout.batch_size
    head[[N_INPUTS, N_OUTPUTS]] = network.layer_sizes[0], n_outputs
    head[ACTIVATION] = functions.OUTPUT_ACTIVATIONS.index(network.output_activation)
    head[LOSS] = functions.LOSSES.index(network.loss)
    scale = 1 / n_outputs if network.average_outputs else 1.0
    head[LOSS_SCALE : LOSS_SCALE_HIGH + 1] = np.array([scale], np.float64).view(np.int32)
    for place in (OUTPUTS, TARGETS, ERRORS):
        head[place] = take(rows * n_outputs)
    head[ROW_LOSSES] = take(2 * rows)

    products = [(index, True) for index in range(n_layers)]
    products += [(index, False) for index in range(n_layers - 1, 0, -1)]
    records = [_product(layout, *product) for product in products]
    own = [take(record[SHARE] * rows) for record in records[: n_layers - 1]]
    for record in records[:n_layers]:
        record[BIAS] = take(record[SHARE])  # needed while the slot's next weights come
    for slot in range(2):
        turns = records[slot::2]
        inputs = take(max(input_size(int(record[N_TERMS]), rows) for record in turns))
        weights = take(max(record[SHARE] * record[WEIGHT_STRIDE] for record in turns))
        for record in turns:
            record[[INPUTS, WEIGHTS]] = inputs, weights
    head[SUMS] = take(max(record[GROUPS] * record[SHARE] for record in records) * rows)
    starts = np.cumsum([0, *(layout.batch_size * n for n in network.layer_sizes[1:])])
    head[OUT_ERRORS] = starts[n_layers - 1]
    for q, ((index, is_forward), record) in enumerate(zip(products, records, strict=True)):
        units = index if is_forward else index - 1  # the layer whose values or δ come out
        is_hidden = units < n_layers - 1
        record[OWN_VALUES] = own[units] if is_hidden else NONE
        record[OUT] = starts[units] if is_hidden else NONE
        record[PUSHED] = NONE if is_hidden else head[OUTPUTS]
        if is_hidden and q + 1 < n_products:
            record[PUSHED] = records[q + 1][INPUTS]
    return np.concatenate([head, *records]).astype(np.int32), int(used)


def _product(layout, index, is_forward):
    """What a product's record says of its shape and of the layer's parameters."""
    network, shape = layout.network, layout.shape
    fan_in, fan_out = network.shapes[index]
    n_terms, n_units = (fan_in, fan_out) if is_forward else (fan_out, fan_in)
    record = np.zeros(RECORD_SIZE, np.int64)
    record[[N_TERMS, N_UNITS]] = n_terms, n_units
    record[SHARE] = -(-n_units // shape.cluster)
    record[UNIT_TILES] = -(-int(record[SHARE]) // (OCTET * shape.units))
    octets = 32 * shape.warps // OCTET
    places = int(record[UNIT_TILES]) * (shape.rows // OCTET)
    record[GROUPS] = min(octets // places, -(-n_terms // CHUNK))
    start = network.starts[index]
    record[FLAT_WEIGHTS] = start
    record[FLAT_BIAS] = start + fan_in * fan_out if is_forward else NONE
    term_step, unit_step = (fan_out, 1) if is_forward else (1, fan_out)
    record[[TERM_STEP, UNIT_STEP]] = term_step, unit_step
    is_aligned = not is_forward and start % CHUNK == n_terms % CHUNK == 0
    record[COPIED] = CHUNK if is_aligned else 1
    record[WEIGHT_STRIDE] = without_conflicts(n_terms)
    units = index if is_forward else index - 1
    record[UNIT_ACTIVATION] = functions.OUTPUT_ACTIVATIONS.index(network.activations[units])
    return record


def pass_layout_for(task, gpu):
    """The layout that takes a task's batches through all layers at once, or None.

    Parameters
    ----------
    task : Task
    gpu : Gpu or Device

    Returns
    -------
    layout : PassLayout or None
    """
    network = task.network
    if task.precision != "float32" or len(network.shapes) < FEWEST_LAYERS:
        return None
    if network.layer_sizes[-1] > MOST_OUTPUTS:
        return None
    if tuple(gpu.capability) < (9, 0) or gpu.largest_cluster < CLUSTER:
        return None
    for rows, units in TILES.items():
        shape = PassShape(CLUSTER, WARPS, rows, units)
        layout = PassLayout(network, task.batch_size, shape)
        # Clusters that had to wait for others would lose to single kernels with larger tiles.
        if layout.n_clusters * CLUSTER > gpu.n_multiprocessors:
            continue
        has_threads = all(record[GROUPS] > 0 for record in _records(layout))
        return layout if has_threads and layout.n_bytes <= gpu.shared_memory else None
    return None


def _records(layout):
    return layout.words[HEAD_SIZE:].reshape(-1, RECORD_SIZE)
