"""Several epochs of a small network in one call of a kernel: each alone takes less than a call."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from fastbp.cpu.calls import Calls
from fastbp.cpu.code import address_of_kernel, kernel_of
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import LOSS, RESULT_SIZE, TOTAL_WEIGHT, UPDATES, Epochs, Shuffle
from fastbp.cpu.shuffling import describe_shuffle

_NO_ROWS = Shuffle(np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 0)


def train_epochs(buffers, order, epochs):
    """Train until the epochs are over, or one of them is not to be followed by another.

    Parameters
    ----------
    buffers : fastbp.cpu.workspace.TrainingBuffers
        Of dense rows.
    order : ndarray of shape (n_all_rows,), dtype int64
        All of it is shuffled; only the first `epochs.n_rows` are used.
    epochs : fastbp.epochs.Epochs
        Its losses are set, and the updates that its steps have made, even after Ctrl-C.
    """
    steps, result = epochs.steps, np.zeros(RESULT_SIZE)
    results, made = np.zeros((epochs.n_epochs, RESULT_SIZE)), np.zeros(1, np.int64)
    own = replace(steps, table=np.empty_like(steps.table[: len(steps.table) // epochs.n_tables]))
    calls = Calls(buffers, order[: epochs.n_rows], own, result, False)
    training, memory, lock = calls.packed(0, 1), buffers.memory, nullcontext()
    shuffle = _NO_ROWS
    if epochs.random_state is not None:
        shuffle, lock = describe_shuffle(epochs.random_state, order)
    record = Epochs(
        shuffle, steps.table.ravel(), own.table.ravel(), result, memory.record.control,
        address_of_kernel("train", buffers.real), training.address, memory.address,
        buffers.workspaces[0].address, results.ravel(), made, *epochs.stopping,
    )  # fmt: skip
    call = Packed(record)
    try:
        with lock:
            kernel_of("train_epochs")(call.address)
    finally:
        found = results[: made[0]]
        steps.made += int(found[:, UPDATES].sum())
        with np.errstate(all="ignore"):
            epochs.losses = (found[:, LOSS] / found[:, TOTAL_WEIGHT]).tolist()
