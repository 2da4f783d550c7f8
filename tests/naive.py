"""The oracle: a network's arithmetic in plain NumPy, slow and obvious, apart from fastbp's own.

Every formula is written out here a second time, for whole batches. From the package come `Network`
and `Data`, which are records without arithmetic, and an epoch's `Steps`, whose numbers are checked
against scikit-learn's and PyTorch's trajectories.
"""

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit, xlogy
from scipy.stats import norm

from fastbp.schedules import AVERAGING, COEFFICIENTS, RATE, ROWS, SHRINKAGE, UPDATE, WEIGHT

SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772  # of SELU


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
    if name == "gelu":
        return z * norm.cdf(z).astype(z.dtype)
    if name == "leaky_relu":
        return np.where(z > 0, z, 0.01 * z)
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    if name == "selu":
        return SCALE * np.where(z > 0, z, ALPHA * np.expm1(np.minimum(z, 0)))
    if name == "softplus":
        return np.logaddexp(0, z)
    if name == "silu":
        return z * expit(z)
    if name == "mish":
        return z * np.tanh(np.logaddexp(0, z))
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    raise ValueError(name)


def derivative(name, z):
    """f'(z) of an activation."""
    h = activate(name, z)
    if name == "identity":
        return np.ones_like(z)
    if name == "logistic":
        return h * (1 - h)
    if name == "tanh":
        return 1 - h**2
    if name == "relu":
        return (h > 0).astype(h.dtype)
    if name == "exp":
        return h
    if name == "gelu":
        return (norm.cdf(z) + z * norm.pdf(z)).astype(z.dtype)
    if name == "leaky_relu":
        return np.where(z > 0, 1, 0.01).astype(z.dtype)
    if name == "elu":
        return np.exp(np.minimum(z, 0))
    if name == "selu":
        return SCALE * np.where(z > 0, 1, ALPHA * np.exp(np.minimum(z, 0)))
    if name == "softplus":
        return expit(z)
    if name == "silu":
        return expit(z) + h * (1 - expit(z))
    if name == "mish":
        tangent = np.tanh(np.logaddexp(0, z))
        return tangent + z * (1 - tangent**2) * expit(z)
    raise ValueError(name)


def terms(network, targets, outputs):
    """Every output's share of its row's loss, and its derivative by the output; NaN is missing."""
    name, t, o = network.loss, targets, outputs
    c, eps = np.array(network.loss_coefficients, o.dtype), np.finfo(o.dtype).eps
    p, d = np.clip(o, eps, 1 - eps), o - t
    if name == "squared_error":
        found = d**2 / 2, d
    elif name == "poisson":
        found = xlogy(t, t / o) - t + o, 1 - t / o
    elif name == "gamma":
        found = t / o - 1 - np.log(t / o), (1 - t / o) / o
    elif name == "absolute_error":
        found = abs(d), np.sign(d)
    elif name == "huber":
        found = np.where(abs(d) < c, d**2 / 2, c * (abs(d) - c / 2)), np.clip(d, -c, c)
    elif name == "log_cosh":
        found = np.log(np.cosh(d)), np.tanh(d)
    elif name == "quantile":
        found = np.maximum(-c * d, (1 - c) * d), np.where(d < 0, -c, 1 - c)
    elif name == "focal":
        found = focal(t, p, c)
        if network.output_activation == "logistic":
            other = focal(1 - t, 1 - p, c)
            found = found[0] + other[0], found[1] - other[1]
    elif network.output_activation == "softmax":
        found = -xlogy(t, p), -t / p
    else:
        found = -xlogy(t, p) - xlogy(1 - t, 1 - p), (1 - t) / (1 - p) - t / p
    return [np.where(np.isnan(t), 0, each) for each in found]


def focal(t, p, gamma):
    """-t (1 - p)^gamma log p, and its derivative by p."""
    turn = gamma * (1 - p) ** (gamma - 1) * np.log(p)
    return -t * (1 - p) ** gamma * np.log(p), t * turn - t * (1 - p) ** gamma / p


def row_losses(network, targets, outputs):
    """The loss of each row, without the penalty."""
    losses = terms(network, targets, outputs)[0]
    return losses.mean(axis=1) if network.average_outputs else losses.sum(axis=1)


def output_delta(network, targets, outputs, logits):
    """The derivative of each row's summed loss by the logits."""
    error = terms(network, targets, outputs)[1]
    if network.output_activation == "softmax":
        return outputs * (error - (error * outputs).sum(axis=1, keepdims=True))
    return error * derivative(network.output_activation, logits)


def dropout_factors(dropout, layer, update, shape):
    """Factors of a layer's inputs: Philox4x32-10, a word for each of four rows, half for a unit."""
    row, unit = np.indices(shape, np.uint64)
    a, b, c, d = unit // 2, row // 4, np.full_like(row, layer), np.full_like(row, update)
    key = np.array([dropout.seed % 2**32, dropout.seed >> 32], np.uint64)
    for _ in range(10):
        one, two = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (two >> 32) ^ b ^ key[0], two % 2**32, (one >> 32) ^ d ^ key[1], one % 2**32
        key = (key + np.array([0x9E3779B9, 0xBB67AE85], np.uint64)) % 2**32
    word = np.choose((row % 4).astype(int), (a, b, c, d))
    number, threshold = np.where(unit % 2, word >> 16, word % 2**16), dropout.thresholds[layer]
    return np.where(number < threshold, 0, 2**16 / (2**16 - threshold))


def round_to_bfloat16(numbers):
    """Numbers of float32 rounded to 8 bits, to the even one of two neighbours."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isnan(numbers), np.nan, rounded.astype(np.uint32).view(np.float32))


def multiply_bfloat16(left, right):
    """The product of two matrices, rounded first, with exact sums."""
    left, right = (round_to_bfloat16(each).astype(float) for each in (left, right))
    return (left @ right).astype(np.float32)


def forward(network, parameters, X, dropout=None, update=0, multiply=np.matmul):
    """Every layer's inputs, its z (the last are the logits), and the factors of its inputs."""
    inputs, logits, factors, values = [], [], [], X
    for index, (weights, bias, name) in enumerate(
        zip(*network.views(parameters), [*network.hidden_activations, "identity"], strict=True)
    ):
        factors.append(np.ones_like(values))
        if dropout is not None:
            factors[-1] *= dropout_factors(dropout, index, update, values.shape)
        inputs.append(values * factors[-1])
        logits.append(multiply(inputs[-1], weights) + bias)
        values = activate(name, logits[-1])
    return inputs, logits, factors


def clip(gradient, max_grad_norm):
    """Scale a gradient down to a norm, as PyTorch does."""
    return gradient * min(1, max_grad_norm / (np.linalg.norm(gradient.astype(float)) + 1e-6))


def loss_and_gradient(
    network, parameters, X, targets, sample_weight, alpha, dropout=None, update=0,
    multiply=np.matmul,
):  # fmt: skip
    """The mean loss with penalty and its gradient, flat, as scikit-learn scales them."""
    coefs, _ = network.views(parameters)
    inputs, logits, factors = forward(network, parameters, X, dropout, update, multiply)
    outputs = activate(network.output_activation, logits[-1])
    weight = np.ones(len(X), X.dtype) if sample_weight is None else sample_weight.astype(X.dtype)
    penalty = alpha / 2 * sum((w**2).sum() for w in coefs)
    losses = row_losses(network, targets, outputs)
    loss = ((weight * losses).sum() + penalty) / weight.sum()

    shares = weight[:, None] / weight.sum()
    delta = output_delta(network, targets, outputs, logits[-1]) * shares
    gradient = np.empty_like(parameters)
    coef_gradients, intercept_gradients = network.views(gradient)
    for i in reversed(range(len(coefs))):
        penalty = alpha * coefs[i] / weight.sum()
        coef_gradients[i][...] = multiply(inputs[i].T, delta) + penalty
        intercept_gradients[i][...] = delta.sum(axis=0)
        if i:
            back = derivative(network.hidden_activations[i - 1], logits[i - 1])
            delta = multiply(delta, coefs[i].T) * back * factors[i]
    return float(loss), gradient


def update(rule, parameters, gradient, moments, step, is_weight):
    """New parameters and moments, by an update rule's name and a row of the step table."""
    rate, coefficients = step[RATE], step[COEFFICIENTS:]
    if rule in ("sgd", "nesterov"):
        momentum = coefficients[0]
        velocity = momentum * moments[0] - rate * gradient
        ahead = momentum * velocity - rate * gradient if rule == "nesterov" else velocity
        return parameters + ahead, [velocity]
    if rule in ("adamw", "lion"):
        parameters = np.where(is_weight, parameters * (1 - step[SHRINKAGE]), parameters)
    if rule == "lion":
        beta_1, beta_2 = coefficients[:2]
        way = np.sign(beta_1 * moments[0] + (1 - beta_1) * gradient)
        return parameters - rate * way, [beta_2 * moments[0] + (1 - beta_2) * gradient]
    if rule == "rmsprop":
        beta_2, epsilon = coefficients[:2]
        second = beta_2 * moments[0] + (1 - beta_2) * gradient**2
        return parameters - rate * gradient / (np.sqrt(second) + epsilon), [second]
    if rule not in ("adam", "adamw", "nadam"):
        raise ValueError(rule)
    beta_1, beta_2, epsilon, lookahead = coefficients[:4]
    first = beta_1 * moments[0] + (1 - beta_1) * gradient
    second = beta_2 * moments[1] + (1 - beta_2) * gradient**2
    way = gradient + lookahead * first if rule == "nadam" else first
    return parameters - rate * way / (np.sqrt(second) + epsilon), [first, second]


class NaiveEngine:
    """The engines' verbs over the functions above."""

    def __init__(self, network, dtype, n_threads=None, precision=None):
        self.network, self.dtype, self.n_threads = network, np.dtype(dtype), n_threads or 1
        self.multiply = multiply_bfloat16 if precision == "bfloat16" else np.matmul
        self.parameters = np.zeros(network.n_parameters, self.dtype)
        self.moments = []
        self.inputs_were_finite = self.outputs_were_finite = True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def load_parameters(self, parameters):
        self.parameters = np.array(parameters, self.dtype)

    def store_parameters(self):
        return self.parameters.copy()

    def load_moments(self, moments):
        self.moments = [np.array(moment, self.dtype) for moment in moments]

    def store_moments(self):
        return [moment.copy() for moment in self.moments]

    def gather(self, data, rows):
        """The batch's X, targets and weights as dense arrays of the engine's dtype."""
        X = data.X[rows]
        X = (X.toarray() if issparse(X) else X).astype(self.dtype) * self.dtype.type(
            data.input_scale
        )
        targets, weight = data.targets, data.sample_weight
        if targets is not None:
            targets, smoothing, n_shares = targets[rows], self.network.label_smoothing, 2
            if targets.ndim == 1:
                n_shares = self.network.layer_sizes[-1]
                targets = np.arange(n_shares) == targets[:, None]
            targets = targets.astype(self.dtype) * (1 - smoothing) + smoothing / n_shares
            targets = targets.astype(self.dtype)
        return X, targets, None if weight is None else weight[rows]

    def train_epoch(self, data, order, steps):
        total = total_weight = start = 0.0
        is_weight = np.ones(self.network.n_parameters, bool)
        for bias in self.network.views(is_weight)[1]:
            bias[...] = False
        for step in steps.table:
            start, first = start + step[ROWS], int(start)
            if step[WEIGHT] == 0:
                continue
            X, targets, weight = self.gather(data, order[first : int(start)])
            loss, gradient = loss_and_gradient(
                self.network, self.parameters, X, targets, weight, steps.alpha,
                steps.dropout, int(step[UPDATE]), self.multiply,
            )  # fmt: skip
            if steps.max_grad_norm is not None:
                gradient = clip(gradient, steps.max_grad_norm).astype(self.dtype)
            if not np.isfinite(loss):
                total, total_weight = loss, 1.0
                break
            total += loss * step[WEIGHT]
            total_weight += step[WEIGHT]
            steps.made += 1
            moments, average = self.moments[: steps.rule.n_moments], self.moments[-1]
            self.parameters, moments = update(
                steps.rule.name, self.parameters, gradient, moments, step, is_weight
            )
            self.parameters = self.parameters.astype(self.dtype)
            if steps.averages:
                share = step[AVERAGING]
                moments.append(((1 - share) * average + share * self.parameters).astype(self.dtype))
            self.moments = moments
        return float(total / total_weight) if total_weight else float("nan")

    def loss_and_gradient(self, data):
        X, targets, weight = self.gather(data, np.arange(data.n_samples))
        return loss_and_gradient(self.network, self.parameters, X, targets, weight, 0.0)

    def predict(self, data, rows=None, activation=None):
        X, _, _ = self.gather(data, np.arange(data.n_samples) if rows is None else rows)
        logits = forward(self.network, self.parameters, X)[1][-1]
        outputs = activate(activation or self.network.output_activation, logits)
        self.inputs_were_finite = bool(np.isfinite(X).all())
        self.outputs_were_finite = bool(np.isfinite(outputs).all())
        return outputs
