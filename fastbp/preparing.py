"""What a fit is made of, as an estimator's parameters ask for it: device, network, optimizer."""

from dataclasses import fields

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import devices
from fastbp import parameters as params
from fastbp.dropout import Dropout, draw_seed
from fastbp.losses import is_averaged
from fastbp.network import Network
from fastbp.optimizers import Optimizer


def choose_device(estimator):
    """The device of a fit, "cpu" or "cuda"; printed if `verbose` and the device is "auto"."""
    precision = estimator.precision
    if estimator.solver == "lbfgs" and precision in devices.TENSOR_CORE_PRECISIONS:
        raise InvalidParameterError(
            f"precision={precision!r} is too coarse for the line search of solver='lbfgs'. Use "
            "precision='float32' or 'float64', or a stochastic solver."
        )
    device, reason = devices.resolve(estimator.device)
    if device == "cuda" and estimator.max_grad_norm is not None:
        raise InvalidParameterError(
            f"max_grad_norm={estimator.max_grad_norm!r} is not for device='cuda', where no "
            "gradient is kept. Use device='cpu', or max_grad_norm=None."
        )
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
    if before is not None and not isinstance(before, Optimizer):
        raise ValueError(f"The state of the optimizer is damaged: {before!r}.")
    if before is None or before.solver != estimator.solver:
        optimizer.reset(network.n_parameters, dtype)
    else:
        before.check(network.n_parameters)
        optimizer.step, optimizer.epochs = before.step, before.epochs
        optimizer.moments = list(before.moments[: optimizer.rule.n_moments])
        if before.learning_rate_init == estimator.learning_rate_init:
            optimizer.learning_rate = before.learning_rate
    return optimizer


def continue_average(optimizer, before, parameters):
    """Let an optimizer go on to average the parameters, if it does and there is what to go on from.

    Parameters
    ----------
    optimizer : Optimizer
        As from `make_optimizer`, which gets the average.
    before : Optimizer or None
        Whose state it has taken over if the solver is the same.
    parameters : ndarray of shape (n_parameters,)
        Those of the model: the average, unless somebody has changed them.

    Returns
    -------
    parameters : ndarray of shape (n_parameters,)
        From which training goes on.
    """
    if optimizer.ema_decay is None or len(optimizer.moments) == optimizer.n_moments:
        return parameters  # the first update's are the first average
    has_both = before.ema_decay is not None and before.parameters is not None
    if has_both and np.array_equal(before.moments[-1], parameters):
        optimizer.moments.append(before.moments[-1])
        return before.parameters.astype(parameters.dtype, copy=False)
    optimizer.moments.append(parameters)
    return parameters


def make_dropout(estimator, before, random_state):
    """What is to be left out of updates, or None; the seed is that of before, if there is one."""
    sizes = params.hidden_sizes(estimator.hidden_layer_sizes)
    rates = params.dropout_rates(estimator.input_dropout, estimator.dropout, len(sizes))
    if not any(rates):
        return None
    known = None if before is None else before.dropout
    return Dropout.of(rates, draw_seed(random_state) if known is None else known.seed)
