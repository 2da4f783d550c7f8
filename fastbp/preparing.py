"""What a fit is made of, as an estimator's parameters ask for it: device, network, optimizer."""

from dataclasses import fields

import numpy as np
from scipy.sparse import issparse
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import devices
from fastbp import parameters as params
from fastbp.dropout import Dropout, draw_seed
from fastbp.initialisation import INITIALISATIONS, MOST_ROWS
from fastbp.losses import is_averaged
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.parameter_groups import factors_of
from fastbp.precisions import LOW_PRECISIONS

# Parameters that CUDA kernels know nothing of.
_CPU_ONLY = (
    "max_grad_norm", "dropout_schedule", "learning_rate_factors", "parametrization",
    "scaling_layer", "parametric_activation", "numerical_embedding",
)  # fmt: skip


def choose_device(estimator):
    """The device of a fit, "cpu" or "cuda"; printed if `verbose` and the device is "auto"."""
    precision = estimator.precision
    if estimator.solver == "lbfgs" and precision in LOW_PRECISIONS:
        raise InvalidParameterError(
            f"precision={precision!r} is too coarse for the line search of solver='lbfgs'. Use "
            "precision='float32' or 'float64', or a stochastic solver."
        )
    device, reason = devices.resolve(estimator.device)
    if device == "cuda":
        why = "is not for device='cuda', whose kernels do not compute it. Use device='cpu', or"
        try:
            params.refuse(estimator, _CPU_ONLY, why)
        except InvalidParameterError as error:
            if estimator.device != "auto":
                raise
            device, reason = "cpu", str(error)
    if estimator.verbose and estimator.device == "auto":
        where = "GPU" if device == "cuda" else "CPU"
        print(f"device='auto': on the {where}{f', because {reason}' if reason else ''}")
    return device


def describe_network(estimator, n_features, labels, supervision):
    """The network that an estimator's parameters ask for, for labels or (None) numbers."""
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    return Network(
        layer_sizes=(n_features, *sizes, supervision.n_outputs),
        hidden_activations=params.hidden_activations(estimator.activation, len(sizes)),
        output_activation=estimator._output_activation(labels),
        loss=estimator.loss,
        average_outputs=estimator._average_outputs and is_averaged(estimator.loss),
        loss_coefficients=supervision.loss_coefficients,
        label_smoothing=supervision.label_smoothing,
        has_slopes=bool(estimator.parametric_activation),
        has_scales=bool(estimator.scaling_layer),
        n_embedded=params.n_embedded(estimator, n_features),
    )


def make_optimizer(estimator, network, dtype, before=None):
    """Make the optimizer that an estimator's parameters ask for.

    Parameters
    ----------
    estimator : estimator
    network : Network
    dtype : numpy dtype
        Of the moments.
    before : Optimizer or None, default=None
        Its state is copied if the solver is the same.
    """
    names = (each.name for each in fields(Optimizer) if each.init and each.name != "schedule")
    optimizer = Optimizer(
        **{name: getattr(estimator, name) for name in names}, schedule=estimator.learning_rate
    )
    optimizer.factors = factors_of(
        network, estimator.parametrization,
        params.learning_rate_factors(estimator.learning_rate_factors),
    )  # fmt: skip
    if before is not None and not isinstance(before, Optimizer):
        raise ValueError(f"The state of the optimizer is damaged: {before!r}.")
    optimizer.has_scales = network.has_scales
    is_known = before is not None and before.has_scales == network.has_scales
    if not is_known or before.solver != estimator.solver:
        optimizer.reset(network.n_parameters, dtype)
    else:
        before.check(network.n_parameters)
        optimizer.step, optimizer.epochs = before.step, before.epochs
        optimizer.moments = list(before.moments[: optimizer.rule.n_moments])
        if before.learning_rate_init == estimator.learning_rate_init:
            optimizer.learning_rate = before.learning_rate
    return optimizer


def go_on_from(optimizer, network, before, parameters):
    """The parameters from which training goes on, and their average for an optimizer that has one.

    Parameters
    ----------
    optimizer : Optimizer
        As from `make_optimizer`; it gets the average, if there is what to go on from.
    network : Network
    before : Optimizer or None
        Whose state it has taken over if the solver is the same.
    parameters : ndarray of shape (n_parameters,)
        Those of the model, unless somebody has changed them; with scales of 1, if it has any.

    Returns
    -------
    parameters : ndarray of shape (n_parameters,)
        The ones behind an average, or behind weights that contain scales, if they are known.
    """
    dtype, known = parameters.dtype, None
    if before is not None and before.has_scales == network.has_scales:
        known = before.parameters
    kept = known
    if known is not None and before.ema_decay is not None:
        kept = before.moments[-1]
    if kept is not None and not np.array_equal(network.fold(kept), network.fold(parameters)):
        known = kept = None
    goes_on = len(optimizer.moments) < optimizer.n_moments  # the first update's are the average
    if optimizer.ema_decay is not None and goes_on:
        averaged = known is not None and before.ema_decay is not None
        optimizer.moments.append(kept if averaged else parameters)
        return known.astype(dtype, copy=False) if averaged else parameters
    if known is None or not network.has_scales or before.ema_decay is not None:
        return parameters
    return known.astype(dtype, copy=False)


def draw_sample(method, X, rows, input_scale, random_state):
    """Rows for initial parameters that are fitted to some; None where they are not."""
    if not INITIALISATIONS[method].needs_sample:
        return None
    rows = np.arange(X.shape[0]) if rows is None else rows
    if len(rows) > MOST_ROWS:
        rows = rows[np.sort(random_state.permutation(len(rows))[:MOST_ROWS])]
    sample = X[rows]
    sample = sample.toarray() if issparse(sample) else np.asarray(sample)
    return sample.astype(np.float64) * float(input_scale)


def make_dropout(estimator, before, random_state):
    """What is to be left out of updates, or None; the seed is that of before, if there is one."""
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    rates = params.dropout_rates(estimator.input_dropout, estimator.dropout, len(sizes))
    if not any(rates):
        return None
    known = None if before is None else before.dropout
    return Dropout.of(rates, draw_seed(random_state) if known is None else known.seed)
