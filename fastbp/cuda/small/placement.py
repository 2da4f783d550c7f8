"""Where all of a small network lies in its block's shared memory. Imports no CUDA.

All matrices there are row by row, with rows of whole vectors of four (`pad`), an odd number of
vectors each: four consecutive numbers then come by one load, and eight threads that read the same
four columns of consecutive rows meet no bank twice.

    inputs of layer l    (chunk rows, units + 1)  the last column is one: it stands before the bias
    weights of layer l   (units + 1, next units)  the last row is the bias
    δ after layer l      (chunk rows, next units) of the output layer also logits and outputs

The numbers between units and padding stay zero, so that sums run over whole vectors. Parameters,
moments and, where a batch has several chunks, the gradients that wait for the last one lie in
vectors of the same layout, one after the other. Inputs and targets of the chunk after this one
have a second place. Before all that come integers and doubles.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from fastbp import losses, optimizers
from fastbp.activations import code_of
from fastbp.optimizers import N_COEFFICIENTS
from fastbp.schedules import TABLE_WIDTH as STEP_WIDTH

# A network's row of the table; positions from MEMORY_WORDS on are words of shared memory.
(N_LAYERS, CHUNK, N_ROWS, BATCH, RULE, LOSS, OUTPUT, IS_CLASS, IS_WEIGHTED, TARGET_WIDTH,
 EPOCHS, EPOCHS_BEFORE, IS_DRAWN, SEED, HALF_BITS, SPAN, INDICES, SCALARS, FLOATS,
 MEMORY_WORDS, TARGETS, INPUT_SIZE, PARAMETERS, N_SHARED,
 # These may exceed 32 bits and are not copied to shared memory.
 ROW_OF_STATE, INPUTS, TARGETS_AT, ORDERS, ORDER_STRIDE, STATE, N_FLAT, CURVE, FACTORS, N_FACTORS,
 LAYERS) = range(35)  # fmt: skip
MOST_LAYERS = 8


class BlockLayer(NamedTuple):
    """A layer in the table, from LAYERS on: sizes, code, and where its matrices start.

    A stride is the distance of two rows.
    """

    fan_in: int
    fan_out: int
    activation: int
    inputs: int
    input_stride: int
    weights: int
    weight_stride: int
    deltas: int
    delta_stride: int


LAYER_WIDTH = len(BlockLayer._fields)
TABLE_WIDTH = LAYERS + LAYER_WIDTH * MOST_LAYERS

# A network's real numbers, constant and changing.
ALPHA, TOL, PATIENCE, WEIGHT_DECAY, LOSS_SCALE, EPS, N_REALS = range(7)
RATE, BEST_LOSS, BAD_EPOCHS, UPDATES, EPOCHS_DONE, STOPPED, N_STATES = range(7)
# For every update, until they stay the same: the factor of the learning rate, and the rule's
# coefficients.
FACTOR_WIDTH = 1 + N_COEFFICIENTS
# Doubles in shared memory, before those of the reduction: the batch's weight, the epoch's so far,
# the updates made, of this epoch the learning rate and whether it was the last; and constants.
(BATCH_WEIGHT, EPOCH_WEIGHT, MADE, PRESENT_RATE, ENDS, HALF_ALPHA, ROW_SCALE, DECAY,
 N_SCALARS) = range(9)  # fmt: skip
# Floats in shared memory: by what gradients are divided, where probabilities are clipped, and the
# numbers of the next update, as a row of the step table.
INVERSE, CLIP, STEP = range(3)
MOST_THREADS = 256
CHUNKS = 64, 32, 16  # rows worked on at once, as many as fit
_WORD = 4


def _round_up(number, multiple):
    return -(-number // multiple) * multiple


def pad(size):
    """A row's length in shared memory: an odd number of vectors of four."""
    vectors = -(-size // 4)
    return 4 * (vectors + 1 - vectors % 2)


@dataclass(frozen=True)
class Plan:
    """How a network lies in a block's shared memory.

    Parameters
    ----------
    table : tuple of int
        A row of the kernel's table, as far as the network and the batch size decide it.
    n_threads : int
        Of the block.
    n_bytes : int
        Of shared memory.
    """

    table: tuple
    n_threads: int
    n_bytes: int


@cache
def make_plan(network, batch_size, rule, target_width, shared_memory):
    """Lay a network out, in the largest chunks of rows that fit.

    Parameters
    ----------
    network : Network
    batch_size : int
    rule : UpdateRule
    target_width : int
        Numbers of a row of targets, the sample weight included.
    shared_memory : int
        Bytes that a block may have.

    Returns
    -------
    plan : Plan or None
        None where the network is too large.
    """
    if len(network.shapes) > MOST_LAYERS:
        return None
    for chunk in CHUNKS:
        if chunk >= 2 * batch_size and chunk > CHUNKS[-1]:
            continue  # half of it is enough
        plan = _lay_out(network, batch_size, rule, target_width, chunk)
        if plan.n_bytes <= shared_memory:
            return plan
    return None


def _lay_out(network, batch_size, rule, target_width, chunk):
    n_threads = _choose_threads(network, chunk)
    table = np.zeros(TABLE_WIDTH, np.int64)
    table[INDICES] = N_SHARED + MOST_LAYERS * LAYER_WIDTH
    scalars = _round_up(table[INDICES] + 2 * chunk, 2)
    floats = _round_up(scalars + 2 * (N_SCALARS + n_threads), 4)
    table[[SCALARS, FLOATS]] = scalars // 2, floats
    first = weights = floats + _round_up(STEP + STEP_WIDTH, 4)
    starts = []
    for fan_in, fan_out in network.shapes:
        starts.append(weights)
        weights += _round_up(fan_in + 1, 4) * pad(fan_out)
    table[PARAMETERS] = weights - first
    n_vectors = 1 + rule.n_moments + (batch_size > chunk)
    end = first + n_vectors * (weights - first)
    for index, (fan_in, fan_out) in enumerate(network.shapes):
        code = code_of(network.activations[index])
        deltas = end + chunk * pad(fan_in + 1) * (2 if index == 0 else 1)
        table[LAYERS + index * LAYER_WIDTH :][:LAYER_WIDTH] = BlockLayer(
            fan_in, fan_out, code, end, pad(fan_in + 1), starts[index], pad(fan_out), deltas,
            pad(fan_out),
        )  # fmt: skip
        end = deltas + chunk * pad(fan_out)
    table[INPUT_SIZE] = chunk * pad(network.layer_sizes[0] + 1)
    table[TARGETS] = end
    end = _round_up(end + 2 * chunk * target_width, 4)
    table[[N_LAYERS, CHUNK, BATCH]] = len(network.shapes), chunk, batch_size
    loss = losses.find_loss(network.loss, network.output_activation)
    table[[RULE, LOSS, OUTPUT]] = (
        optimizers.code_of(rule), losses.code_of(loss), code_of(network.output_activation),
    )  # fmt: skip
    table[[TARGET_WIDTH, MEMORY_WORDS]] = target_width, end
    table[[SPAN, N_FLAT]] = _span(network.layer_sizes[0]), network.n_parameters
    return Plan(tuple(table.tolist()), n_threads, int(_WORD * end))


def _choose_threads(network, chunk):
    """As many threads as tiles of the largest product, and no fewer than rows of a chunk."""
    rows = chunk // 4
    tiles = max(
        max(rows, -(-(fan_in + 1) // 4)) * -(-fan_out // 4) for fan_in, fan_out in network.shapes
    )
    n_threads = 32
    while n_threads < min(tiles, MOST_THREADS):
        n_threads *= 2
    return max(n_threads, chunk)


def _span(n_inputs):
    """Threads that copy a row together."""
    return 8 if n_inputs <= 8 else 16 if n_inputs <= 16 else 32
