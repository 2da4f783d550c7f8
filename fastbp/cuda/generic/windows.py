"""Windows: some steps' rows, gathered into dense arrays of the parameters' dtype at once.

The kernels of a step read only windows, at addresses that never change: a graph of a window's steps
serves all windows of all epochs, whatever the dtype, the order or the kind of X.
"""

import math

from fastbp.cuda.toolkit import cuda
from fastbp.schedules import TABLE_WIDTH, WEIGHT

# Elements of an epoch's state, all float64: where the present window starts, in steps; the epoch's
# steps and rows; whether it has ended early; and what has been added up.
FIRST_STEP, N_STEPS, N_ROWS, STOPPED, LOSS, TOTAL_WEIGHT, UPDATES, STATE_SIZE = range(8)


def gather_rows(state, batch_size, order, X, scale, rows, start, n_window_rows, infinite):
    """Convert the rows of a window, times `scale`, to `rows` from `start` on.

    A block takes a row at a time. `infinite[0]` becomes 1 where a number is not finite.
    """
    first, n_rows = int(state[FIRST_STEP]) * batch_size, int(state[N_ROWS])
    n_columns, real = X.shape[1], type(rows[0])
    for row in range(cuda.blockIdx.x, n_window_rows, cuda.gridDim.x):
        if first + row < n_rows:
            source, target = order[first + row], start + row * n_columns
            for column in range(cuda.threadIdx.x, n_columns, cuda.blockDim.x):
                value = real(X[source, column]) * real(scale)
                rows[target + column] = value
                if not math.isfinite(value):
                    infinite[0] = 1


def gather_sparse_rows(
    state, batch_size, order, numbers, columns, starts, n_columns, scale, rows, start,
    n_window_rows, infinite,
):  # fmt: skip
    """The same from a CSR matrix. A thread takes a row: duplicate entries add up in order."""
    first, n_rows = int(state[FIRST_STEP]) * batch_size, int(state[N_ROWS])
    real = type(rows[0])
    for row in range(cuda.grid(1), n_window_rows, cuda.gridsize(1)):
        if first + row < n_rows:
            source, target = order[first + row], start + row * n_columns
            for column in range(n_columns):
                rows[target + column] = real(0)
            for position in range(starts[source], starts[source + 1]):
                value = real(numbers[position]) * real(scale)
                rows[target + columns[position]] += value
                if not math.isfinite(value):
                    infinite[0] = 1


def gather_classes(
    state, batch_size, order, classes, n_outputs, kept, shared, targets, n_window_rows
):
    """Write the targets of a window's rows, 1 for the row's class and 0 for the others, smoothed.

    The first `n_outputs` numbers of `targets` are the loss's coefficients.
    """
    first, n_rows = int(state[FIRST_STEP]) * batch_size, int(state[N_ROWS])
    real = type(targets[0])
    low = real(shared)
    high = real(kept) + low
    for row in range(cuda.grid(1), n_window_rows, cuda.gridsize(1)):
        if first + row < n_rows:
            label = classes[order[first + row]]
            for unit in range(n_outputs):
                targets[(row + 1) * n_outputs + unit] = high if unit == label else low


def smooth_targets(targets, start, count, kept, shared):
    """Smooth numbers from `start` on that have just been gathered."""
    real = type(targets[0])
    for index in range(cuda.grid(1), count, cuda.gridsize(1)):
        targets[start + index] = real(kept) * targets[start + index] + real(shared)


def open_window(
    state, batch_size, order, table, sample_weight, is_weighted, window_table, row_weights,
    window_steps,
):  # fmt: skip
    """Copy the table's rows of a window's steps, weight 0 for those that are not to be.

    And the weights of its rows, in float64.
    """
    first, n_steps, n_rows = int(state[FIRST_STEP]), int(state[N_STEPS]), int(state[N_ROWS])
    for step in range(cuda.grid(1), window_steps, cuda.gridsize(1)):
        happens = first + step < n_steps and state[STOPPED] == 0
        for column in range(TABLE_WIDTH):
            value = table[first + step, column] if happens else 0.0
            window_table[step * TABLE_WIDTH + column] = value
    for row in range(cuda.grid(1), window_steps * batch_size, cuda.gridsize(1)):
        position = first * batch_size + row
        if position < n_rows:
            row_weights[row] = sample_weight[order[position]] if is_weighted else 1.0


def close_window(
    state, window_table, window_steps, losses, n_losses, loss_scale, norms, n_norms, alpha,
    step_losses,
):  # fmt: skip
    """Add up a window's losses, and note where the next one starts. One block.

    A step has `n_losses` sums of its rows' losses, which count `loss_scale` times, and `n_norms`
    parts of ‖W‖². The first step whose loss is not finite is the last that counts.
    """
    for step in range(cuda.threadIdx.x, window_steps, cuda.blockDim.x):
        total, square = 0.0, 0.0
        if window_table[step * TABLE_WIDTH + WEIGHT] != 0:
            for index in range(n_losses):
                total += losses[step * n_losses + index]
            if alpha > 0:
                for index in range(n_norms):
                    square += norms[step * n_norms + index]
        step_losses[step] = loss_scale * total + 0.5 * alpha * square
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        for step in range(window_steps):
            weight = window_table[step * TABLE_WIDTH + WEIGHT]
            if weight != 0 and state[STOPPED] == 0:
                state[LOSS] += step_losses[step]
                state[TOTAL_WEIGHT] += weight
                state[UPDATES] += 1
                if not math.isfinite(state[LOSS]):
                    state[STOPPED] = 1
        state[FIRST_STEP] += window_steps
