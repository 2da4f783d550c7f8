"""Several epochs in one call, by the kernels that shuffle and train; for a team of one thread."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.kernels.compilation import Exported, exact
from fastbp.cpu.kernels.shuffling import shuffle
from fastbp.cpu.records import LOSS, RESULT_SIZE, TOTAL_WEIGHT

# A smaller loss is left to Python: kernels count subnormal numbers, which may come of it, as zero.
_SMALLEST = 1e-290
_LARGEST = 1.7976931348623157e308


@intrinsic
def _train(typing_context, function, call, memory, workspace):
    """Call `train` as its only rank: the arguments are its address and those of its records."""

    def codegen(context, builder, signature, arguments):
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word] * 4).as_pointer()
        function, *records = arguments
        return builder.call(builder.inttoptr(function, kind), [*records, word(0)])

    return types.int64(*[types.int64] * 4), codegen


@exact
def _end_epoch(call, loss, best_loss, n_without):
    """The best loss after an epoch, epochs without improvement, and whether another one follows.

    See `fastbp.progress.Progress.end_epoch` and `fastbp.training.has_converged`.
    """
    n_without = 0 if loss <= best_loss - call.tol else n_without + 1
    goes_on = _SMALLEST < abs(loss) <= _LARGEST and n_without <= call.n_iter_no_change
    return min(best_loss, loss), n_without, goes_on


@exact
def _mean_loss(result):
    return result[LOSS] / result[TOTAL_WEIGHT]


@Exported
def train_epochs(call):
    """Train epoch after epoch, until there is something that Python decides.

    That is a loss that is not finite, or that has not improved for too long. `results` gets the
    result of each epoch, and `made` their number.
    """
    best_loss, n_without = call.best_loss, call.no_improvement_count
    size = call.steps.size
    is_constant = call.table.size == size
    for epoch in range(call.results.size // RESULT_SIZE):
        if call.shuffle.rows.size > 0:
            shuffle(call.shuffle)
        for i in range(size):
            call.steps[i] = call.table[i if is_constant else epoch * size + i]
        for i in range(RESULT_SIZE):
            call.result[i] = 0.0
        for i in range(call.control.size):
            call.control[i] = 0
        if _train(call.train, call.training, call.memory, call.workspace) < 0:
            raise RuntimeError
        for i in range(RESULT_SIZE):
            call.results[epoch * RESULT_SIZE + i] = call.result[i]
        call.made[0] = epoch + 1
        best_loss, n_without, goes_on = _end_epoch(
            call, _mean_loss(call.result), best_loss, n_without
        )
        if not goes_on:
            break
