"""Initial parameters: one record for each way to draw them.

All draws are made in float64 whatever the dtype, so that float32 and float64 models start alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastbp.activations import ACTIVATIONS
from fastbp.data import Data
from fastbp.devices import make_engine
from fastbp.embedding import TURN, initial_embedding
from fastbp.network import Network

MOST_ROWS = 4096  # of a sample that initial parameters are fitted to
ROWS_OF_BIAS = 5  # of which a random mean makes a bias
# Less, beside the inputs' own size, is rounding: to divide by it would make weights of any size.
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Initialisation:
    """A way to draw initial weights and biases.

    Parameters
    ----------
    name : str
        What users call it.
    draw : callable
        (network, parameters, random_state, default_activation, sample) -> None; it fills the weight
        matrices and biases of a flat vector of float64, whose extras are there already.
    needs_sample : bool, default=False
        Whether it looks at rows: a dense array of float64 of shape (n_rows, n_features).
    """

    name: str
    draw: Callable
    needs_sample: bool = False


def glorot(network, parameters, random_state, default_activation, sample):
    """Glorot and Bengio (2010), uniform, as scikit-learn draws them.

    Biases come from the same bound as the weights. The output layer takes the bound of the hidden
    layer before it.
    """
    names = network.hidden_activations or (default_activation,)
    names = (*names, names[-1])[: len(network.shapes)]
    for weights, bias, name in zip(*network.views(parameters), names, strict=True):
        bound = np.sqrt(ACTIVATIONS[name].glorot_factor / sum(weights.shape))
        weights[...] = random_state.uniform(-bound, bound, weights.shape)
        bias[...] = random_state.uniform(-bound, bound, bias.shape)


def normal(network, parameters, random_state, default_activation, sample):
    """N(0, 1) / √fan_in, biases N(0, 1), and an output layer of zeros: RealMLP-TD-S."""
    coefs, intercepts = network.views(parameters)
    for weights, bias in zip(coefs[:-1], intercepts[:-1], strict=True):
        weights[...] = random_state.standard_normal(weights.shape) / np.sqrt(len(weights))
        bias[...] = random_state.standard_normal(bias.shape)
    coefs[-1][...] = intercepts[-1][...] = 0.0


def data_driven(network, parameters, random_state, default_activation, sample):
    """Units of variance 1 on a sample, layer by layer; a bias is minus a random mean: RealMLP-TD.

    The one output of two classes is the difference of two units that are drawn so.
    """
    inputs = first_inputs(network, parameters, sample)
    size = np.sqrt(np.mean(inputs**2))
    coefs, intercepts = network.views(parameters)
    for weights, bias, name in zip(coefs, intercepts, network.activations, strict=True):
        n_units = 2 if weights is coefs[-1] and network.is_pair else bias.size
        drawn = _draw_scaled(inputs, n_units, size, random_state)
        size = 1.0  # that of z, and so of what follows, if all goes well
        if n_units != bias.size:
            drawn = [np.diff(array, axis=-1) for array in drawn]
        weights[...], bias[...] = drawn
        if weights is not coefs[-1]:
            inputs = _outputs(inputs, weights, bias, name)


def first_inputs(network, parameters, sample):
    """What the first layer gets of some rows, with the embedding in a flat vector."""
    if not network.n_embedded:
        return sample
    frequencies, phases, weights, biases = network.extras(parameters)["embedding"]
    angles = TURN * sample[:, : network.n_embedded, np.newaxis] * frequencies + phases
    numbers = np.einsum("nfk,fkj->nfj", np.cos(angles), weights) + biases
    return np.hstack([numbers.reshape(len(sample), -1), sample])


def _draw_scaled(inputs, n_units, size, random_state):
    """Weights of a layer whose units have the variance 1 on these inputs, and biases.

    Units that are the same for all rows keep the weights that were drawn.
    """
    weights = random_state.standard_normal((inputs.shape[1], n_units))
    weights /= np.sqrt(len(weights))
    logits = _outputs(inputs, weights, np.zeros(n_units), "identity")
    deviations = logits.std(axis=0)
    deviations[deviations <= SMALLEST_DEVIATION * size] = 1.0
    shares = random_state.standard_exponential((ROWS_OF_BIAS, n_units))
    rows = random_state.randint(len(logits), size=shares.shape)
    points = np.take_along_axis(logits, rows, axis=0) * (shares / shares.sum(axis=0))
    return weights / deviations, -points.sum(axis=0) / deviations


def _outputs(inputs, weights, bias, activation):
    """A layer's outputs by the CPU's engine, whose sums do not depend on the number of threads."""
    # As an output any activation can be asked for.
    alone = Network(weights.shape, (), "identity", "squared_error")
    with make_engine(alone, np.float64, None, "cpu") as engine:
        engine.load_parameters(alone.flatten([weights], [bias], np.float64))
        return engine.predict(Data(inputs), activation=activation)


INITIALISATIONS = {
    record.name: record
    for record in (
        Initialisation("glorot", glorot),
        Initialisation("normal", normal),
        Initialisation("data_driven", data_driven, needs_sample=True),
    )
}


def initialise(network, method, random_state, dtype, default_activation, sample=None):
    """Draw a network's initial parameters.

    Parameters
    ----------
    network : Network
    method : str
        A key of `INITIALISATIONS`.
    random_state : numpy.random.RandomState
    dtype : numpy dtype, float32 or float64
    default_activation : str
        Decides Glorot's bound of a network without hidden layers.
    sample : ndarray of shape (n_rows, n_features), dtype float64, or None
        Rows, where the method needs them.

    Returns
    -------
    parameters : ndarray of shape (n_parameters,)
    """
    parameters = np.empty(network.n_parameters)
    extras = network.extras(parameters)
    for ones in (*extras.get("slopes", ()), *extras.get("scales", ())):
        ones[...] = 1.0
    if network.n_embedded:
        drawn = initial_embedding(network.n_embedded, random_state)
        for array, numbers in zip(extras["embedding"], drawn, strict=True):
            array[...] = numbers
    INITIALISATIONS[method].draw(network, parameters, random_state, default_activation, sample)
    return parameters.astype(dtype, copy=False)
