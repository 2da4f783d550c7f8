"""Every kernel of the CUDA engine as the tests compile it, with the most registers of a thread.

Of the wide program's, typical variants. The products of its largest tile may take all of a thread's
255 registers: one block runs on a multiprocessor, and its sums alone are 128.
"""

from typing import NamedTuple

from numba import types

from fastbp import losses
from fastbp.activations import code_of
from fastbp.cuda import formulas
from fastbp.cuda.generic import masks, output_layer, tile_products, windows
from fastbp.cuda.generic.layers import Layer
from fastbp.cuda.small import training_kernel
from fastbp.cuda.wide import batch_kernels, layer_kernels, output_kernels
from fastbp.cuda.wide.matrices import LayerPlaces
from fastbp.cuda.wide.operands import Tile
from fastbp.optimizers import RULES


class Listed(NamedTuple):
    """A kernel to be compiled; spills are never allowed.

    Parameters
    ----------
    function : function
        The kernel in Python, not yet compiled.
    signature : tuple of numba types
    registers : int
        Most that a thread may take.
    """

    function: object
    signature: tuple
    registers: int


def type_of(record):
    """The type of a named tuple of integers."""
    return types.NamedUniTuple(types.int64, len(record._fields), record)


INTEGER, REAL = types.int64, types.float64
TABLE, ORDER = types.float64[::1], types.int32[::1]


def numbers(count):
    return (INTEGER,) * count


# ---- general ---------------------------------------------------------------------------------

PRODUCT_REGISTERS = {"thin": (168, 192), "large": (168, 0)}  # in float32 and float64


def list_products():
    """The products in every form."""
    for (kind, form, dtype), function in tile_products.KERNELS.items():
        if form == "toy":
            continue
        array = getattr(types, dtype)[::1]
        begin = TABLE, INTEGER, type_of(Layer)
        signature = {
            "forward": (*begin, array, array, array),
            "backward": (*begin, array, array, array),
            "update": (
                TABLE, INTEGER, types.int64[:, ::1], INTEGER, *(array,) * 6, TABLE, INTEGER
            ),
        }  # fmt: skip
        registers = PRODUCT_REGISTERS.get(form, (112, 144))[dtype == "float64"]
        yield f"{kind} {form} {dtype}", Listed(function, signature[kind], registers)


def list_general(dtype):
    """All others of a dtype, with X in bytes."""
    array = getattr(types, dtype)[::1]
    window, end = (TABLE, INTEGER, ORDER), (array, INTEGER, INTEGER, ORDER)
    csr = types.uint8[::1], ORDER, types.int64[::1]
    after = array, TABLE, array, INTEGER, TABLE
    begin = TABLE, INTEGER, INTEGER, type_of(Layer), array
    head = output_layer.HEADS[dtype, output_layer.HEAD_THREADS]
    return {
        "gather_rows": (windows.gather_rows, (*window, types.uint8[:, ::1], REAL, *end), 64),
        "gather_sparse_rows": (
            windows.gather_sparse_rows, (*window, *csr, INTEGER, REAL, *end), 64
        ),
        "drop_inputs": (masks.drop_inputs, (TABLE, INTEGER, array, *numbers(4)), 64),
        "gather_classes": (
            windows.gather_classes, (*window, ORDER, INTEGER, REAL, REAL, array, INTEGER), 64
        ),
        "smooth_targets": (windows.smooth_targets, (array, INTEGER, INTEGER, REAL, REAL), 48),
        "loss_kernel": (
            output_layer.LOSS_KERNELS[dtype], (*begin, *after), 96 if dtype == "float64" else 80
        ),
        "head": (head, (*begin, array, *after), 96),
        "activate_rows": (output_layer.activate_rows, (array, *numbers(4)), 48),
    }  # fmt: skip


def list_windows():
    """Those that are the same for all dtypes."""
    table = types.float64[:, ::1]
    opened = TABLE, INTEGER, ORDER, table, TABLE, INTEGER, TABLE, TABLE, INTEGER
    closed = TABLE, TABLE, INTEGER, TABLE, INTEGER, REAL, TABLE, INTEGER, REAL, TABLE
    yield "open_window", Listed(windows.open_window, opened, 64)
    yield "close_window", Listed(windows.close_window, closed, 64)


# ---- wide ------------------------------------------------------------------------------------

LARGE, MEDIUM, SMALL = Tile(4, 8, 2, 4, 4), Tile(4, 4, 2, 4, 3), Tile(2, 4, 2, 2, 4)
TILE_REGISTERS = {LARGE: 255, MEDIUM: 168, SMALL: 168}


def list_layers(precision, tile):
    """The three products of a layer."""
    made = {
        "forward": layer_kernels.make_forward(precision, tile, code_of("tanh")),
        "backward": layer_kernels.make_backward(precision, tile, code_of("tanh")),
        "gradient": layer_kernels.make_gradient(precision, tile, RULES["adam"]),
    }
    signature = INTEGER, type_of(LayerPlaces)
    for name, function in made.items():
        yield (
            f"wide {name} {precision} {tile.rows}x{tile.columns}",
            Listed(function, signature, TILE_REGISTERS[tile]),
        )


def list_wide(precision):
    """All others of a precision."""
    objective = formulas.SOFTMAX, losses.code_of(losses.CROSS_ENTROPY), True
    X, csr = types.uint8[:, ::1], (types.float32[::1], types.int32[::1], types.int64[::1])
    supervised = INTEGER, type_of(LayerPlaces), type_of(output_kernels.Supervision)
    return {
        "gather": (batch_kernels.make_gather(precision), (INTEGER, X, ORDER, *numbers(2)), 64),
        "gather_sparse": (
            batch_kernels.make_gather_sparse(precision), (INTEGER, *csr, ORDER, *numbers(3)), 64
        ),
        "round": (batch_kernels.make_round(precision), numbers(5), 64),
        "loss_kernel": (
            output_kernels.make_loss_kernel(precision, 256, *objective), supervised, 64
        ),
    }  # fmt: skip


FINISHED = *numbers(3), REAL, *numbers(2)
KERNELS = {
    **dict(list_products()),
    **dict(list_windows()),
    "train_networks": Listed(training_kernel.train_networks, training_kernel.SIGNATURE, 160),
    "wide copy": Listed(batch_kernels.copy_matrix, numbers(5), 64),
    "wide sum_columns": Listed(batch_kernels.sum_columns, (INTEGER, type_of(LayerPlaces)), 64),
    "wide finish_step": Listed(batch_kernels.finish_step, FINISHED, 64),
}
for _dtype in ("float32", "float64"):
    for _name, _found in list_general(_dtype).items():
        KERNELS[f"{_name} {_dtype}"] = Listed(*_found)
for _precision, _tiles in (("bfloat16", (LARGE, MEDIUM, SMALL)), ("tf32", (LARGE, SMALL))):
    for _name, _found in list_wide(_precision).items():
        KERNELS[f"wide {_name} {_precision}"] = Listed(*_found)
    for _tile in _tiles:
        KERNELS.update(list_layers(_precision, _tile))
