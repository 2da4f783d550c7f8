"""The wide nets' kernels as the tests compile them: typical variants, with most registers allowed.

The products of the largest tile may take all of a thread's 255 registers: one block runs on a
multiprocessor, and its sums alone are 128.
"""

from functools import partial

from numba import types

from fastbp.cuda import formulas
from fastbp.cuda.program import Listed
from fastbp.cuda.task import ADAM, NESTEROV
from fastbp.cuda.wide import batches, elementwise, layers, outputs
from fastbp.cuda.wide.products import Tile

_INTEGER, _REAL = types.int64, types.float64
_ORDER = types.int32[::1]
_LARGE, _MEDIUM, _SMALL = Tile(4, 8, 2, 4, 4), Tile(4, 4, 2, 4, 3), Tile(2, 4, 2, 2, 4)
_LIMITS = {_LARGE: 255, _MEDIUM: 168, _SMALL: 168}


def _numbers(count):
    return (_INTEGER,) * count


def _of_layers(precision, tile):
    listed = partial(Listed, registers=_LIMITS[tile])
    return {
        "forward": listed(layers.make_forward(precision, tile, formulas.TANH), _numbers(10)),
        "backward": listed(layers.make_backward(precision, tile, formulas.TANH), _numbers(11)),
        "gradient": listed(layers.make_gradient(precision, tile, ADAM), _numbers(17)),
    }


def _behind_cublaslt(precision):
    is_bfloat16 = precision == "bfloat16"
    update = elementwise.make_update_weights(precision, ADAM, is_bfloat16)
    return {
        "activate": Listed(elementwise.make_activate(precision, formulas.TANH), _numbers(4), 64),
        "slopes": Listed(elementwise.make_slopes(precision, formulas.TANH), _numbers(7), 128),
        "update_weights": Listed(update, _numbers(16), 128),
    }


def _of_precision(precision):
    softmax, log_loss = formulas.SOFTMAX, formulas.LOG_LOSS
    X = types.uint8[:, ::1]
    csr = types.float32[::1], types.int32[::1], types.int64[::1]
    loss = (*_numbers(3), _REAL, _REAL)
    return {
        "gather": Listed(batches.make_gather(precision), (_INTEGER, X, _ORDER, *_numbers(2)), 64),
        "gather_sparse": Listed(
            batches.make_gather_sparse(precision), (_INTEGER, *csr, _ORDER, *_numbers(3)), 64
        ),
        "round": Listed(batches.make_round(precision), _numbers(5), 64),
        "round_transposed": Listed(batches.make_round_transposed(precision), _numbers(5), 64),
        "head": Listed(
            outputs.make_head(precision, 10, softmax, log_loss, True),
            (*_numbers(7), *loss, *_numbers(4)),
            128,
        ),
        "outputs": Listed(
            outputs.make_outputs(precision, softmax, log_loss, True),
            (*_numbers(4), *loss, *_numbers(3)),
            64,
        ),
        "head_gradient": Listed(outputs.make_head_gradient(precision, 10), _numbers(7), 128),
        "head_update": Listed(outputs.make_head_update(precision, 10, NESTEROV), _numbers(13), 64),
    }


KERNELS = {
    "wide copy": Listed(batches.copy_matrix, _numbers(5), 64),
    "wide sum_columns": Listed(batches.sum_columns, _numbers(7), 64),
    "wide finish_step": Listed(batches.finish_step, _numbers(6), 64),
}
for _precision in ("bfloat16", "tf32", "float32"):
    _found = _of_precision(_precision) | _behind_cublaslt(_precision)
    if _precision == "float32":  # its head is not on tensor cores
        _found = {name: one for name, one in _found.items() if not name.startswith("head")}
    for _name, _listed in _found.items():
        KERNELS[f"wide {_name} {_precision}"] = _listed
for _precision in ("bfloat16", "tf32"):
    for _tile in _LIMITS if _precision == "bfloat16" else (_LARGE, _SMALL):
        for _name, _listed in _of_layers(_precision, _tile).items():
            KERNELS[f"wide {_name} {_precision} {_tile.rows}x{_tile.columns}"] = _listed
