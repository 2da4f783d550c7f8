"""The wide nets' kernels as the tests compile them: typical variants, with most registers allowed.

The products of the largest tile may take all of a thread's 255 registers: one block runs on a
multiprocessor, and its sums alone are 128.
"""

from numba import types

from fastbp.cuda import formulas
from fastbp.cuda.program import Listed
from fastbp.cuda.task import ADAM, NESTEROV
from fastbp.cuda.wide import batch_kernels, head_kernels, layer_kernels, output_kernels
from fastbp.cuda.wide.matrices import LayerPlaces
from fastbp.cuda.wide.operands import Tile

_INTEGER, _REAL, _ORDER = types.int64, types.float64, types.int32[::1]
_LAYER, _HEAD, _SUPERVISION = (
    types.NamedUniTuple(_INTEGER, len(one._fields), one)
    for one in (LayerPlaces, head_kernels.Head, output_kernels.Supervision)
)
_LARGE, _MEDIUM, _SMALL = Tile(4, 8, 2, 4, 4), Tile(4, 4, 2, 4, 3), Tile(2, 4, 2, 2, 4)
_LIMITS = {_LARGE: 255, _MEDIUM: 168, _SMALL: 168}


def _numbers(count):
    return (_INTEGER,) * count


def _of_layers(precision, tile):
    made = {
        "forward": layer_kernels.make_forward(precision, tile, formulas.TANH),
        "backward": layer_kernels.make_backward(precision, tile, formulas.TANH),
        "gradient": layer_kernels.make_gradient(precision, tile, ADAM),
    }
    return {
        name: Listed(function, (_INTEGER, _LAYER), _LIMITS[tile]) for name, function in made.items()
    }


def _of_precision(precision):
    objective = formulas.SOFTMAX, formulas.LOG_LOSS, True
    X = types.uint8[:, ::1]
    csr = types.float32[::1], types.int32[::1], types.int64[::1]
    head = _INTEGER, _LAYER, _HEAD
    make_round, make_transposed = batch_kernels.make_round, batch_kernels.make_round_transposed
    listed = {
        "gather": (batch_kernels.make_gather(precision), (_INTEGER, X, _ORDER, *_numbers(2)), 64),
        "gather_sparse": (
            batch_kernels.make_gather_sparse(precision), (_INTEGER, *csr, _ORDER, *_numbers(3)), 64
        ),
        "round": (make_round(precision), _numbers(5), 64),
        "round_transposed": (make_transposed(precision), _numbers(5), 64),
        "head": (head_kernels.make_head(precision, 10, *objective), (*head, _SUPERVISION), 128),
        "loss_kernel": (
            output_kernels.make_loss_kernel(precision, *objective),
            (_INTEGER, _LAYER, _SUPERVISION), 64,
        ),
        "head_gradient": (head_kernels.make_head_gradient(precision, 10), head, 128),
        "head_update": (head_kernels.make_head_update(precision, 10, NESTEROV), head, 64),
    }  # fmt: skip
    return {name: Listed(*found) for name, found in listed.items()}


_FINISH = (*_numbers(4), _REAL, *_numbers(2))
KERNELS = {
    "wide copy": Listed(batch_kernels.copy_matrix, _numbers(5), 64),
    "wide sum_columns": Listed(batch_kernels.sum_columns, _numbers(7), 64),
    "wide finish_step": Listed(batch_kernels.finish_step, _FINISH, 64),
}
for _precision in ("bfloat16", "tf32"):
    for _name, _listed in _of_precision(_precision).items():
        KERNELS[f"wide {_name} {_precision}"] = _listed
    for _tile in _LIMITS if _precision == "bfloat16" else (_LARGE, _SMALL):
        for _name, _listed in _of_layers(_precision, _tile).items():
            KERNELS[f"wide {_name} {_precision} {_tile.rows}x{_tile.columns}"] = _listed
