"""Embeddings of numerical features: periodic, with weights and biases, linear and dense (PBLD).

A feature x becomes V cos(2πwx + b) + c and x itself: Holzmüller, Grinsztajn and Steinwart (2024),
section 3, after Gorishniy, Rubachev and Babenko (2022). Every feature has its own `FREQUENCIES`
frequencies w and phases b, and `NUMBERS` rows of weights V with their biases c.
"""

from math import pi

FREQUENCIES = 16  # cosines of a feature
NUMBERS = 3  # that they make, beside the feature itself
FREQUENCY_SCALE = 0.1  # standard deviation of the initial frequencies

TURN = 2 * pi


def initial_embedding(n_features, random_state):
    """Draw frequencies, phases, weights and biases, in float64.

    Frequencies are normal; phases are uniform in a turn, and the others within 1 / √FREQUENCIES.
    """
    bound = FREQUENCIES**-0.5
    return [
        random_state.normal(0.0, FREQUENCY_SCALE, (n_features, FREQUENCIES)),
        random_state.uniform(-pi, pi, (n_features, FREQUENCIES)),
        random_state.uniform(-bound, bound, (n_features, FREQUENCIES, NUMBERS)),
        random_state.uniform(-bound, bound, (n_features, NUMBERS)),
    ]
