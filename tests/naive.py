"""The oracle: a network's arithmetic in plain NumPy, slow and obvious, apart from fastbp's own.

Every formula is written out here a second time, for whole batches; nothing but `Network`, `Data`
and `Optimizer`, which are records without arithmetic, comes from the package.
"""

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit, xlogy


def activate(name, z):
    """Apply an activation to every row of logits."""
    if name == "identity":
        return z
    if name == "logistic":
        return expit(z)
    if name == "tanh":
        return np.tanh(z)
    if name == "relu":
        return np.maximum(z, 0)
    if name == "exp":
        return np.exp(z)
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    raise ValueError(name)


def derivative(name, h):
    """f'(z) of an activation, from its value h = f(z)."""
    if name == "identity":
        return np.ones_like(h)
    if name == "logistic":
        return h * (1 - h)
    if name == "tanh":
        return 1 - h**2
    if name == "relu":
        return (h > 0).astype(h.dtype)
    if name == "exp":
        return h
    raise ValueError(name)


def row_losses(network, targets, outputs):
    """The loss of each row, without the penalty."""
    if network.loss == "squared_error":
        errors = (targets - outputs) ** 2 / 2
        return errors.mean(axis=1) if network.average_outputs else errors.sum(axis=1)
    if network.loss == "poisson":
        return (xlogy(targets, targets / outputs) - targets + outputs).sum(axis=1)
    eps = np.finfo(outputs.dtype).eps
    p = np.clip(outputs, eps, 1 - eps)
    if network.output_activation == "softmax":
        return -xlogy(targets, p).sum(axis=1)
    return -(xlogy(targets, p) + xlogy(1 - targets, 1 - p)).sum(axis=1)


def forward(network, parameters, X):
    """The value of every layer, the input first; the last layer's are logits, not activated."""
    layers = [X]
    for weights, bias, name in zip(
        *network.views(parameters), [*network.hidden_activations, "identity"], strict=True
    ):
        layers.append(activate(name, layers[-1] @ weights + bias))
    return layers


def loss_and_gradient(network, parameters, X, targets, sample_weight, alpha):
    """The mean loss with penalty and its gradient, flat, as scikit-learn scales them."""
    coefs, _ = network.views(parameters)
    *layers, logits = forward(network, parameters, X)
    outputs = activate(network.output_activation, logits)
    weight = np.ones(len(X), X.dtype) if sample_weight is None else sample_weight.astype(X.dtype)
    penalty = alpha / 2 * sum((w**2).sum() for w in coefs)
    losses = row_losses(network, targets, outputs)
    loss = ((weight * losses).sum() + penalty) / weight.sum()

    delta = outputs - targets
    if network.loss == "squared_error":
        delta = delta * derivative(network.output_activation, outputs)
    delta = delta * weight[:, None]
    gradient = np.empty_like(parameters)
    coef_gradients, intercept_gradients = network.views(gradient)
    for i in reversed(range(len(coefs))):
        coef_gradients[i][...] = (layers[i].T @ delta + alpha * coefs[i]) / weight.sum()
        intercept_gradients[i][...] = delta.sum(axis=0) / weight.sum()
        if i:
            delta = (delta @ coefs[i].T) * derivative(network.hidden_activations[i - 1], layers[i])
    return float(loss), gradient


def update(optimizer, parameters, gradient):
    """One step of the optimizer; `optimizer.step` already counts it. Returns new parameters."""
    if optimizer.solver == "sgd":
        (velocity,) = optimizer.moments
        velocity = optimizer.momentum * velocity - optimizer.learning_rate * gradient
        optimizer.moments = [velocity]
        if optimizer.nesterovs_momentum:
            velocity = optimizer.momentum * velocity - optimizer.learning_rate * gradient
        return parameters + velocity
    m, v = optimizer.moments
    b1, b2, t = optimizer.beta_1, optimizer.beta_2, optimizer.step
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
    optimizer.moments = [m, v]
    rate = optimizer.learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t)
    return parameters - rate * m / (np.sqrt(v) + optimizer.epsilon)


class NaiveEngine:
    """The engines' verbs over the functions above."""

    def __init__(self, network, dtype, n_threads=None):
        self.network, self.dtype, self.n_threads = network, np.dtype(dtype), n_threads or 1
        self.parameters = np.zeros(network.n_parameters, self.dtype)
        self.moments = []
        self.inputs_were_finite = True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def load_parameters(self, parameters):
        self.parameters = np.array(parameters, self.dtype)

    def store_parameters(self):
        return self.parameters.copy()

    def load_optimizer(self, optimizer):
        self.moments = [np.array(moment, self.dtype) for moment in optimizer.moments]

    def store_optimizer(self, optimizer):
        optimizer.moments = [moment.copy() for moment in self.moments]

    def gather(self, data, rows):
        """The batch's X, targets and weights as dense arrays of the engine's dtype."""
        X = data.X[rows]
        X = (X.toarray() if issparse(X) else X).astype(self.dtype) * self.dtype.type(
            data.input_scale
        )
        targets, weight = data.targets, data.sample_weight
        if targets is not None:
            targets = targets[rows]
            if targets.ndim == 1:
                targets = np.arange(self.network.layer_sizes[-1]) == targets[:, None]
            targets = targets.astype(self.dtype)
        return X, targets, None if weight is None else weight[rows]

    def train_epoch(self, data, order, batch_size, optimizer, alpha):
        own, total, total_weight = optimizer.moments, 0.0, 0.0
        optimizer.moments = self.moments
        for start in range(0, len(order), batch_size):
            X, targets, weight = self.gather(data, order[start : start + batch_size])
            batch_weight = len(X) if weight is None else weight.sum()
            if batch_weight == 0:
                continue
            loss, gradient = loss_and_gradient(
                self.network, self.parameters, X, targets, weight, alpha
            )
            if not np.isfinite(loss):
                total, total_weight = loss, 1.0
                break
            total += loss * batch_weight
            total_weight += batch_weight
            optimizer.step += 1
            self.parameters = update(optimizer, self.parameters, gradient).astype(self.dtype)
        self.moments, optimizer.moments = optimizer.moments, own
        return float(total / total_weight)

    def loss_and_gradient(self, data, alpha):
        X, targets, weight = self.gather(data, np.arange(data.n_samples))
        return loss_and_gradient(self.network, self.parameters, X, targets, weight, alpha)

    def predict(self, data, rows=None, activation=None):
        X, _, _ = self.gather(data, np.arange(data.n_samples) if rows is None else rows)
        logits = forward(self.network, self.parameters, X)[-1]
        return activate(activation or self.network.output_activation, logits)
