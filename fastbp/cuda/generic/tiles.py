"""Tiles of matrix products: what a block stages in shared memory and sums up in registers.

The forms of a tile, and builders of the device functions that go through one. `products` makes
kernels of them.
"""

from dataclasses import dataclass

import numpy as np

from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda


@dataclass(frozen=True)
class Form:
    """How a block goes about its tile.

    Parameters
    ----------
    rows, columns : int
        Of the tile.
    thread_rows, thread_columns : int
        Elements a thread holds in registers.
    groups : int
        Groups of threads that share the tile's terms; their sums are added in order.
    depth : int
        Terms staged in shared memory at once.
    stored_rows : int
        Of a thread's rows, how many go through shared memory to be stored at once.
    padding : int
        Of the staged rows, against bank conflicts.
    """

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    groups: int
    depth: int
    stored_rows: int
    padding: int

    @property
    def threads(self):
        """Threads a block."""
        tile = (self.rows // self.thread_rows) * (self.columns // self.thread_columns)
        return tile * self.groups

    def tiles(self, rows, columns):
        """Tiles that cover a result, down and across."""
        return -(-rows // self.rows), -(-columns // self.columns)


FORMS = {
    "thin": Form(8, 8, 2, 2, 16, 256, 2, 1),
    "small": Form(32, 32, 4, 4, 4, 32, 2, 1),
    "medium": Form(64, 64, 4, 4, 1, 16, 1, 1),
    "large": Form(128, 128, 8, 8, 1, 8, 1, 4),
    # For the simulator, where a block's time goes by its threads.
    "toy": Form(4, 4, 2, 2, 2, 4, 1, 1),
}
SINGLE_ONLY = ("large",)  # in float64 its registers would spill


def choose_form(rows, columns, dtype, n_multiprocessors, simulated=False):
    """The largest tiles of which there are enough to keep the GPU busy."""
    if simulated:
        return "toy"
    for name in ("large", "medium", "small"):
        down, across = FORMS[name].tiles(rows, columns)
        is_available = dtype == np.float32 or name not in SINGLE_ONLY
        is_filled = FORMS[name].columns < 2 * columns and FORMS[name].rows < 2 * rows
        if is_available and is_filled and 4 * down * across >= 3 * n_multiprocessors:
            return name
    return "thin"


def _make_staging(form, length, by_depth, real, with_ones):
    """Build the functions that bring one factor's part of a tile into shared memory.

    The factor has `length` lines in the tile; an element lies at `start + line * step + term` if
    `by_depth`, else at `start + line + term * step`. Threads that are neighbours read neighbours.
    `with_ones`: a line of ones follows the factor's last, for the biases.
    """
    depth, threads, stride = form.depth, form.threads, length + form.padding
    count = length * depth // threads
    zero, one = real(0), real(1)

    @device_function
    def place_of(q):
        e = cuda.threadIdx.x + q * threads
        if by_depth:
            return e // depth, e % depth
        return e % length, e // length

    @device_function
    def fetch(fetched, factor, start, step, first_line, n_lines, first_term, n_terms):
        for q in range(count):
            line, term = place_of(q)
            line, term = line + first_line, term + first_term
            value = zero
            if term < n_terms:
                if line < n_lines:
                    if by_depth:
                        value = factor[start + line * step + term]
                    else:
                        value = factor[start + line + term * step]
                elif with_ones and line == n_lines:
                    value = one
            fetched[q] = value

    @device_function
    def stage(tile, fetched):
        for q in range(count):
            line, term = place_of(q)
            tile[term * stride + line] = fetched[q]

    return fetch, stage, count, stride


def make_multiply(form, real, left_by_depth, right_by_depth, with_ones=False):
    """Build the device function that computes a thread's sums of one tile.

    Element (m, n) of the result is the sum over the terms k of left(m, k) right(k, n).
    """
    threads, depth, groups = form.threads, form.depth, form.groups
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    across = form.columns // thread_columns
    fetch_left, stage_left, n_left, left_stride = _make_staging(
        form, form.rows, left_by_depth, real, with_ones
    )
    fetch_right, stage_right, n_right, right_stride = _make_staging(
        form, form.columns, right_by_depth, real, False
    )
    left_size, right_size = depth * left_stride, depth * right_stride
    group_threads, own_depth, zero = threads // groups, depth // groups, real(0)

    @device_function
    def add_terms(sums, left_tile, right_tile):
        left_own = cuda.local.array(thread_rows, real)
        right_own = cuda.local.array(thread_columns, real)
        group, place = cuda.threadIdx.x // group_threads, cuda.threadIdx.x % group_threads
        row, column = place // across * thread_rows, place % across
        for q in range(own_depth):
            k = q * groups + group
            for i in range(thread_rows):
                left_own[i] = left_tile[k * left_stride + row + i]
            for j in range(thread_columns):
                right_own[j] = right_tile[k * right_stride + column + j * across]
            for i in range(thread_rows):
                for j in range(thread_columns):
                    sums[i, j] += left_own[i] * right_own[j]

    @device_function
    def multiply(
        sums, left, left_start, left_step, n_rows, right, right_start, right_step, n_columns,
        n_terms, first_row, first_column,
    ):  # fmt: skip
        left_tile = cuda.shared.array(left_size, real)
        right_tile = cuda.shared.array(right_size, real)
        left_next = cuda.local.array(n_left, real)
        right_next = cuda.local.array(n_right, real)
        for i in range(thread_rows):
            for j in range(thread_columns):
                sums[i, j] = zero
        fetch_left(left_next, left, left_start, left_step, first_row, n_rows, 0, n_terms)
        fetch_right(right_next, right, right_start, right_step, first_column, n_columns, 0, n_terms)
        for start in range(0, n_terms, depth):
            cuda.syncthreads()
            stage_left(left_tile, left_next)
            stage_right(right_tile, right_next)
            cuda.syncthreads()
            following = start + depth
            if following < n_terms:  # on their way while this part is worked on
                fetch_left(
                    left_next, left, left_start, left_step, first_row, n_rows, following, n_terms
                )
                fetch_right(
                    right_next, right, right_start, right_step, first_column, n_columns,
                    following, n_terms,
                )  # fmt: skip
            add_terms(sums, left_tile, right_tile)

    return multiply


def make_collect(form, real):
    """Build the functions that take a tile's sums from registers to its elements.

    Some of each thread's rows at a time: `spread` puts the sums into shared memory, `element` says
    which element of the tile is the e-th there, and `collect` adds up its groups' sums.
    """
    columns, groups, stored = form.columns, form.groups, form.stored_rows
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    across = columns // thread_columns
    group_threads = form.threads // groups
    part = group_threads // across * stored * columns
    zero = real(0)

    def make_spread_from(i):
        # One function for each row and no loop: only an index that is a constant from the start
        # keeps the sums in registers.
        rest = make_spread_from(i + 1) if i + 1 < thread_rows else None
        at_turn, offset = i // stored, i % stored * columns

        @device_function
        def spread_row(shared, sums, start, turn):
            if turn == at_turn:
                for j in range(thread_columns):
                    shared[start + offset + j * across] = sums[i, j]

        if rest is None:
            return spread_row

        @device_function
        def spread_from(shared, sums, start, turn):
            spread_row(shared, sums, start, turn)
            rest(shared, sums, start, turn)

        return spread_from

    spread_all = make_spread_from(0)

    @device_function
    def spread(shared, sums, turn):
        group, place = cuda.threadIdx.x // group_threads, cuda.threadIdx.x % group_threads
        start = group * part + place // across * stored * columns + place % across
        spread_all(shared, sums, start, turn)

    @device_function
    def element(e, turn):
        line = e // columns
        return line // stored * thread_rows + turn * stored + line % stored, e % columns

    @device_function
    def collect(shared, e):
        total = zero
        for group in range(groups):
            total += shared[group * part + e]
        return total

    return spread, element, collect, part, part * groups


@device_function
def sum_of_block(shared, value):
    """The sum of every thread's value, in a fixed order. Threads are a power of two."""
    t, half = cuda.threadIdx.x, cuda.blockDim.x // 2
    shared[t] = value
    cuda.syncthreads()
    while half > 0:
        if t < half:
            shared[t] += shared[t + half]
        cuda.syncthreads()
        half //= 2
    return shared[0]
