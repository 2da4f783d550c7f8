"""Looking inside a network: what every layer computes for given rows, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import issparse
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length

from fastbp import parameters as params
from fastbp.base import BaseMLP
from fastbp.data import Data
from fastbp.devices import make_engine
from fastbp.lbfgs import PenalisedLoss
from fastbp.network import Network
from fastbp.validation import (
    check_rows,
    check_sample_weight,
    check_training_data,
    kind_of_targets,
)

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike

    from fastbp.hints import ArrayLikeOrSparse, FloatArray


def activations(estimator: BaseMLP | Any, X: ArrayLikeOrSparse) -> list[FloatArray]:
    """Compute what every layer makes of given rows.

    With h₀ = X times `input_scale`, layer l computes h_{l+1} = f_l(h_l W_l + b_l). The engine does
    it, with the same bits as in a prediction, which takes as long.

    Parameters
    ----------
    estimator : fitted MLPClassifier or MLPRegressor
        Also in a `sklearn.frozen.FrozenEstimator`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        What the estimator's `predict` takes.

    Returns
    -------
    outputs : list of ndarray of shape (n_samples, n_units)
        h₁, h₂, …: every hidden layer's outputs, and those of the output layer last; all of the
        weights' dtype. The last are the network's own: of two classes the probability of the
        second alone, and before anything that `predict` may do with them.

    Raises
    ------
    NotFittedError
        If the estimator has not been fitted.
    ValueError
        If `predict` would refuse X, or if some layer's outputs are not finite.

    See Also
    --------
    fastbp.HiddenFeatures : One hidden layer's outputs as a step of a pipeline.
    backprop_trace : Forward and backward, for rows with targets.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import MLPClassifier
    >>> from fastbp.inspect import activations
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> model = MLPClassifier((8, 3), solver="lbfgs", random_state=0).fit(X, X[:, 0] > 0)
    >>> first, second, outputs = activations(model, X)
    >>> first.shape, second.shape, outputs.shape
    ((50, 8), (50, 3), (50, 1))
    >>> np.array_equal(outputs[:, 0] > 0.5, model.predict(X))
    True
    """
    estimator = thawed(estimator)
    return list(layer_outputs(estimator, estimator._fitted(), X))


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
    for engine, inputs, outputs in _layers(model):
        pre_activations.append(engine.predict(inputs, activation="identity"))
        activations.append(outputs)
    engine = model.make_engine()
    deltas = _deltas(engine, model.data)
    penalised = PenalisedLoss(engine, model.data, model.alpha)
    loss, gradient = penalised(engine.store_parameters())
    gradients = model.network.views(gradient)
    return BackpropTrace(loss, activations, pre_activations, deltas, *gradients)


# ---- forward ------------------------------------------------------------------------------------


def thawed(estimator):
    """The estimator of this package that was given, or that a `FrozenEstimator` holds.

    Raises
    ------
    TypeError
        If there is none.
    """
    inner = estimator
    while isinstance(inner, FrozenEstimator):
        inner = inner.estimator
    if not isinstance(inner, BaseMLP):
        raise TypeError(
            "estimator must be an MLPClassifier or MLPRegressor of fastbp, alone or in a "
            f"FrozenEstimator, got {estimator!r}. One of scikit-learn's becomes ours by "
            "`from_sklearn`."
        )
    return inner


def layer_outputs(estimator, model, X, n_layers=None, *, asks=None):
    """Compute what the first layers make of rows, one after the other.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Whose device and number of threads are used.
    model : Model
        The estimator's.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    n_layers : int or None, default=None
        None for all.
    asks : estimator or None, default=None
        Whom messages about X name; None for the estimator.

    Yields
    ------
    outputs : ndarray of shape (n_samples, n_units)
    """
    params.check(estimator, ["n_threads", "device"])
    X = check_rows(estimator if asks is None else asks, model, X)
    dtype = model.parameter_dtype()
    network = _Model(
        model.network,
        model.flat(dtype, copy=False),
        Data(X, input_scale=model.input_scale),
        n_threads=estimator.n_threads,
        device=estimator.device,
    )
    for engine, _, outputs in islice(_layers(network), n_layers):
        if not engine.outputs_were_finite:
            raise ValueError(
                f"X is too large for this {dtype} model, or its weights are: the outputs of a "
                "layer are not finite. Scale X as in training."
            )
        yield outputs


@dataclass(frozen=True)
class _Model:
    """What a layer's outputs, or a trace, are computed from."""

    network: Network
    parameters: np.ndarray
    data: Data
    alpha: float = 0.0
    n_threads: int | None = None
    device: str = "cpu"

    def make_engine(self):
        """Make an engine for all of it."""
        return self._engine_of(self.network, self.parameters)

    def layer_engine(self, layer, embedding):
        """Make an engine for a layer alone; the first one comes with the embedding, if any."""
        coefs, intercepts = self.network.views(self.parameters)
        n_inputs, n_outputs = self.network.shapes[layer]
        n_embedded = self.network.n_embedded if layer == 0 else 0
        if layer == 0:
            n_inputs = self.network.layer_sizes[0]
        # Its loss matters to no prediction, and as an output any activation can be asked for.
        alone = Network(
            (n_inputs, n_outputs), (), "identity", "squared_error", n_embedded=n_embedded
        )
        own = [coefs[layer]], [intercepts[layer]]
        extras = embedding if n_embedded else ()
        return self._engine_of(alone, alone.flatten(*own, self.parameters.dtype, extras))

    def _engine_of(self, network, parameters):
        engine = make_engine(network, parameters.dtype, self.n_threads, self.device)
        engine.load_parameters(parameters)
        return engine


def _layers(model):
    """Yield an engine for each layer alone, its inputs as `Data`, and its outputs.

    A layer computes the same bits alone as among others, apart from what slopes add.
    """
    network, inputs = model.network, model.data
    extras = network.extras(model.parameters)
    slopes = [*extras.get("slopes", ()), None]
    for layer, activation in enumerate(network.activations):
        engine = model.layer_engine(layer, extras.get("embedding", ()))
        outputs = engine.predict(inputs, activation=activation)
        if extras.get("slopes") and slopes[layer] is not None:
            logits = engine.predict(inputs, activation="identity")
            outputs = logits + slopes[layer] * (outputs - logits)
        yield engine, inputs, outputs
        inputs = Data(outputs)


# ---- backward -----------------------------------------------------------------------------------


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
    parameters = network.fold(np.asarray(parameters, np.float64))
    return _Model(network.folded(), parameters, data)
