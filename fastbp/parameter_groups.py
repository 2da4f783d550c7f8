"""Groups of a network's parameters that are trained each at its own pace.

A group's row says by what its gradients, the learning rate and the decoupled decay of its
parameters are multiplied. The engines know groups by their position among all: the weights and the
biases of each layer, first layer first, then the slopes, the scales and the embedding.
"""

import numpy as np

# Columns of a group's row; the kernels' step table has the same three things.
GRADIENT_FACTOR, RATE_FACTOR, DECAY_FACTOR = range(3)
N_FACTORS = 3
EXTRAS = "slopes", "scales", "embedding"  # that follow the layers
N_EXTRA_GROUPS = len(EXTRAS)
NAMES = "intercepts", *EXTRAS  # of groups whose pace users may set

PARAMETRIZATIONS = "standard", "neural_tangent"


def group_of(network, layer, kind):
    """The position of a layer's "weights" or "intercepts", or of an extra, among all groups."""
    if kind in EXTRAS:
        return 2 * len(network.shapes) + EXTRAS.index(kind)
    return 2 * layer + (kind == "intercepts")


def factors_of(network, parametrization="standard", learning_rate_factors=None):
    """The rows of all groups.

    Parameters
    ----------
    network : Network
    parametrization : {"standard", "neural_tangent"}, default="standard"
        With the second a weight matrix W stands for √fan_in times itself, which has gradients
        1 / √fan_in times as large, and whose steps it follows: Jacot and others (2018). The one
        output of two classes moves as the difference of two units, twice as fast.
    learning_rate_factors : dict or None, default=None
        From some of `NAMES` to positive numbers. They multiply the rate and the decay alike; biases
        have no decay.

    Returns
    -------
    factors : ndarray of shape (n_groups, N_FACTORS), or None
        None where all are 1.
    """
    factors = np.ones((2 * len(network.shapes) + len(EXTRAS), N_FACTORS))
    for layer, (fan_in, _) in enumerate(network.shapes):
        if parametrization == "neural_tangent":
            group = group_of(network, layer, "weights")
            factors[group, [GRADIENT_FACTOR, RATE_FACTOR]] = fan_in**-0.5
    if parametrization == "neural_tangent" and network.is_pair:
        last = len(network.shapes) - 1
        for kind in ("weights", "intercepts"):
            factors[group_of(network, last, kind), RATE_FACTOR] *= 2.0
    for name, factor in (learning_rate_factors or {}).items():
        layers = range(len(network.shapes)) if name == "intercepts" else [0]
        for layer in layers:
            group = group_of(network, layer, name)
            factors[group, RATE_FACTOR] *= factor
            factors[group, DECAY_FACTOR] *= factor**2
    return None if (factors == 1.0).all() else factors
