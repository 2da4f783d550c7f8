"""Inspecting backpropagation: what every layer computes for given rows, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length

from fastbp.data import Data
from fastbp.devices import make_engine
from fastbp.lbfgs import penalised_loss_and_gradient
from fastbp.network import Network
from fastbp.validation import check_sample_weight, check_training_data, kind_of_targets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fastbp.base import BaseMLP
    from fastbp.hints import ArrayLikeOrSparse, FloatArray


@dataclass(frozen=True)
class BackpropTrace:
    """One forward and one backward pass, layer by layer. Nothing is updated.

    With h₀ = X, layer l computes z_l = h_l W_l + b_l and h_{l+1} = f_l(z_l). Behind the outputs
    comes the loss L of each row, δ_l = ∂L/∂z_l goes backwards by the chain rule,
    δ_{l-1} = (δ_l W_lᵀ) ⊙ f′_{l-1}(z_{l-1}), and the gradients are ∂L/∂W_l = h_lᵀ δ_l and
    ∂L/∂b_l = δ_l, averaged over the rows by their weights (Rumelhart, Hinton and Williams 1986).

    Parameters
    ----------
    loss : float
        Mean loss of the rows with the L2 penalty, as training reports it.
    activations : list of ndarray of shape (n_samples, n_units)
        h_l: the inputs (times `input_scale`), every hidden layer's values, and the outputs.
    pre_activations : list of ndarray of shape (n_samples, n_units)
        z_l of every layer but the inputs; the last are the logits.
    deltas : list of ndarray of shape (n_samples, n_units)
        δ_l of every layer but the inputs: each row's is that of its own loss, summed over the
        outputs.
    coef_gradients : list of ndarray of shape (fan_in, fan_out)
        ∂loss/∂W_l, shaped as `coefs_`, the penalty's part included.
    intercept_gradients : list of ndarray of shape (fan_out,)
        ∂loss/∂b_l, shaped as `intercepts_`.
    """

    loss: float
    activations: list[FloatArray]
    pre_activations: list[FloatArray]
    deltas: list[FloatArray]
    coef_gradients: list[FloatArray]
    intercept_gradients: list[FloatArray]


def backprop_trace(
    estimator_or_network: BaseMLP | Network,
    X: ArrayLikeOrSparse,
    y: ArrayLikeOrSparse,
    *,
    parameters: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> BackpropTrace:
    """Run rows forward and backward through a network, and keep all intermediate results.

    All numbers are the engine's own. It runs once for each row: use it with hundreds of rows, not
    millions.

    Parameters
    ----------
    estimator_or_network : fitted MLPClassifier or MLPRegressor, or fastbp.network.Network
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like
        What the estimator's `fit` takes. For a network with softmax outputs class indices of shape
        (n_samples,), for another one numbers of shape (n_samples, n_outputs).
    parameters : ndarray of shape (n_parameters,), default=None
        Needed for a `Network`, which has none itself: W₀ b₀ W₁ b₁ …, as from `Network.flatten`.
        The arithmetic is in float64 then. An estimator has its own parameters and dtype.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    trace : BackpropTrace
        Where a regressor has several outputs, `loss` is averaged over them and everything else
        belongs to their sum, as in scikit-learn.

    Raises
    ------
    NotFittedError
        If the estimator has not been fitted.
    ValueError
        If X, y or parameters do not fit the network.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.inspect import backprop_trace
    >>> from fastbp.network import Network
    >>> network = Network((2, 2, 2), ("logistic",), "logistic", "squared_error")
    >>> parameters = network.flatten(
    ...     coefs=[[[0.15, 0.25], [0.20, 0.30]], [[0.40, 0.50], [0.45, 0.55]]],
    ...     intercepts=[[0.35, 0.35], [0.60, 0.60]],
    ...     dtype=np.float64,
    ... )
    >>> trace = backprop_trace(network, [[0.05, 0.10]], [[0.01, 0.99]], parameters=parameters)
    >>> print(f"{trace.loss:.9f}")
    0.298371109
    >>> trace.deltas[-1].round(8)
    array([[ 0.13849856, -0.03809824]])
    """
    if isinstance(estimator_or_network, Network):
        model = _read_network(estimator_or_network, X, y, parameters, sample_weight)
    else:
        if parameters is not None:
            raise ValueError("parameters are a network's; an estimator has its own in coefs_.")
        model = _read_estimator(estimator_or_network, X, y, sample_weight)

    activations, pre_activations = [_dense_inputs(model)], []
    for layer in range(len(model.network.shapes)):
        engine = model.make_engine(_front_of(model.network, layer))
        pre_activations.append(engine.predict(model.data, activation="identity"))
        activation = model.network.activations[layer]
        activations.append(engine.predict(model.data, activation=activation))
    engine = model.make_engine(model.network)
    deltas = _deltas(engine, model.data)
    loss, gradient = penalised_loss_and_gradient(engine, model.data, model.alpha)
    gradients = model.network.views(gradient)
    return BackpropTrace(loss, activations, pre_activations, deltas, *gradients)


@dataclass(frozen=True)
class _Model:
    """What a trace is computed from."""

    network: Network
    parameters: np.ndarray
    data: Data
    alpha: float = 0.0
    n_threads: int | None = None
    device: str = "cpu"

    def make_engine(self, network):
        """Make an engine for a network that consists of the first layers."""
        engine = make_engine(network, self.parameters.dtype, self.n_threads, self.device)
        engine.load_parameters(self.parameters[: network.n_parameters])
        return engine


def _front_of(network, layer):
    """The network that ends with a layer's logits; its loss matters to no prediction."""
    return replace(
        network,
        layer_sizes=network.layer_sizes[: layer + 2],
        hidden_activations=network.hidden_activations[:layer],
        output_activation="identity",
        loss="squared_error",
        loss_coefficients=(),
        label_smoothing=0.0,
    )


def _deltas(engine, data):
    """Every layer's δ, row by row: the gradient of the biases for a single row."""
    layers = engine.network.layer_sizes[1:]
    deltas = [np.empty((data.n_samples, n_units), engine.dtype) for n_units in layers]
    for row in range(data.n_samples):
        only = slice(row, row + 1)
        alone = replace(data, X=data.X[only], targets=data.targets[only], sample_weight=None)
        _, gradient = engine.loss_and_gradient(alone)
        for delta, of_row in zip(deltas, engine.network.views(gradient)[1], strict=True):
            delta[row] = of_row
    return deltas


def _dense_inputs(model):
    X = model.data.X
    dtype = model.parameters.dtype
    return (X.toarray() if issparse(X) else X).astype(dtype) * dtype.type(model.data.input_scale)


def _read_estimator(estimator, X, y, sample_weight):
    model = estimator._fitted()
    network, dtype = model.network, model.parameter_dtype()
    X, y, _ = check_training_data(estimator, X, y, model=model, **kind_of_targets(estimator))
    # As in partial_fit: rows need not have every class, but no label may be new.
    targets, labels, _ = estimator._encode(y, dtype, model, incremental=True, classes=None)
    weight = check_sample_weight(sample_weight, X)
    given = estimator._supervise(targets, labels, weight, dtype, model.targets)
    if given.n_outputs != network.layer_sizes[-1]:
        raise ValueError(
            f"y has {given.n_outputs} outputs, but the model {network.layer_sizes[-1]}."
        )
    return _Model(
        network,
        model.flat(dtype),
        Data(X, given.targets, given.sample_weight, model.input_scale),
        estimator.alpha,
        estimator.n_threads,
        estimator.device,
    )


def _read_network(network, X, y, parameters, sample_weight):
    """The model of a bare network, where y are the targets and there is no penalty."""
    X = check_array(X, accept_sparse="csr", dtype=np.float64, input_name="X")
    is_class = network.output_activation == "softmax"
    y = check_array(y, dtype=None if is_class else np.float64, ensure_2d=False, input_name="y")
    check_consistent_length(X, y)
    n_features, *_, n_outputs = network.layer_sizes
    expected = (len(y),) if is_class else (len(y), n_outputs)
    if X.shape[1] != n_features or y.shape != expected:
        raise ValueError(
            f"A network of the layer sizes {network.layer_sizes} takes X with {n_features} columns "
            f"and y of shape {expected}; got {X.shape} and {y.shape}."
        )
    if is_class and not (y.dtype.kind in "iu" and 0 <= y.min() <= y.max() < n_outputs):
        raise ValueError(f"y must hold class indices from 0 to {n_outputs - 1}, got {y}.")
    if np.shape(parameters) != (network.n_parameters,):
        raise ValueError(
            f"parameters must be a vector of shape ({network.n_parameters},), as network.flatten "
            f"makes it; got {'none' if parameters is None else np.shape(parameters)}."
        )
    data = Data(X, y.astype(np.int64) if is_class else y, check_sample_weight(sample_weight, X))
    return _Model(network, np.asarray(parameters, np.float64), data)
