"""Fitting a network by L-BFGS-B, with the engine and the progress that mini-batches use."""

import time
from math import isfinite

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastbp.blas import one_blas_thread
from fastbp.epochs import InMemory
from fastbp.training import NonFiniteLossError
from fastbp.warned import warn


def fit_lbfgs(training):
    """Train on all rows at once by SciPy's L-BFGS-B; an iteration counts as an epoch.

    Takes a `Training` and updates its progress. Ctrl-C, or a loss that becomes NaN or
    infinite, ends training with a warning and the parameters of the last iteration; at the start
    such a loss raises NonFiniteLossError. Returns parameters, of shape (n_parameters,).
    """
    engine, data, settings = training.engine, training.data, training.settings
    progress = training.progress
    start = training.best_parameters = engine.store_parameters()
    lap, asked_to_stop = time.perf_counter(), False
    penalised = PenalisedLoss(engine, data, settings.alpha, training.rows)

    def loss_and_gradient(parameters):
        loss, gradient = penalised(parameters)
        if not isfinite(loss):
            raise NonFiniteLossError(f"The loss became {loss} in iteration {progress.n_iter + 1}.")
        return loss, gradient.astype(np.float64, copy=False)

    def end_iteration(intermediate_result):
        nonlocal lap, asked_to_stop
        previous, lap = lap, time.perf_counter()
        training.best_parameters = intermediate_result.x.astype(start.dtype)
        if training.judge is not None or training.watchers:  # who look at the engine
            engine.load_parameters(training.best_parameters)
        judgement = training.end_epoch(float(intermediate_result.fun), 0)
        asked_to_stop = training.report(judgement, data.n_samples, lap - previous)
        if asked_to_stop:
            raise StopIteration
        for watcher in training.watchers:
            watcher.before_epoch()

    for watcher in training.watchers:
        watcher.before_epoch()
    try:
        with one_blas_thread():
            result = minimize(
                loss_and_gradient,
                start.astype(np.float64),
                jac=True,
                method="L-BFGS-B",
                callback=end_iteration,
                options={
                    "maxfun": settings.max_fun,
                    "maxiter": settings.max_iter,
                    "gtol": settings.tol,
                },
            )
    except KeyboardInterrupt:
        warn("Training interrupted by user.")
    except NonFiniteLossError as error:
        if progress.n_iter == 0:
            raise
        warn(f"{error} The last good parameters are restored.", ConvergenceWarning)
    else:
        training.best_parameters = result.x.astype(start.dtype)
        progress.loss = np.float64(result.fun)
        if not result.success and not asked_to_stop:
            warn(_not_converged(result, settings.max_iter), ConvergenceWarning)
    return training.result()


class PenalisedLoss:
    """An engine's loss and gradient with the L2 penalty α / (2 Σw) ‖W‖².

    Σw is the rows' summed sample weight, and the biases are not part of ‖W‖².

    Parameters
    ----------
    engine : fastbp.engine.Engine
    data : fastbp.data.Data
    alpha : float
    rows : fastbp.epochs.InMemory or fastbp.sources.streaming.StreamedRows, default=InMemory
        Who has the rows.
    """

    def __init__(self, engine, data, alpha, rows=InMemory):
        self._engine, self._data, self._rows = engine, data, rows
        weight = data.sample_weight
        self._total = float(data.n_samples if weight is None else weight.sum())
        self._alpha, network = float(alpha), engine.network
        sizes = [fan_in * fan_out for fan_in, fan_out in network.shapes]
        starts = zip(network.starts, sizes, strict=True)
        self._weights = [slice(start, start + size) for start, size in starts]

    def __call__(self, parameters):
        """Compute both at a point.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters,)
            They become the engine's, in its dtype.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
            In the engine's dtype.
        """
        parameters = parameters.astype(self._engine.dtype, copy=False)
        self._engine.load_parameters(parameters)
        loss, gradient = self._rows.loss_and_gradient(self._engine, self._data)
        if self._alpha == 0:
            return loss, gradient
        square_norm, factor = 0.0, gradient.dtype.type(self._alpha / self._total)
        for part in self._weights:
            weights = parameters[part]
            square_norm += float(np.add.reduce(np.square(weights, dtype=np.float64)))
            gradient[part] += weights * factor
        return loss + 0.5 * self._alpha * square_norm / self._total, gradient


def _not_converged(result, max_iter):
    """scikit-learn's message for a SciPy result that is not a minimum."""
    n_iter = min(result.nit, max_iter)
    advice = (
        f"\nIncrease the number of iterations to improve the convergence (max_iter={max_iter})."
    )
    return (
        f"lbfgs failed to converge after {n_iter} iteration(s) (status={result.status}):\n"
        f"{result.message}\n"
        + (advice if n_iter == max_iter else "")
        + "\nYou might also want to scale the data as shown in:\n"
        "    https://scikit-learn.org/stable/modules/preprocessing.html"
    )
