"""The network: layer sizes, activations, and the flat parameter vector with its views."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from fastbp.activations import ACTIVATIONS, HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastbp.losses import LOSSES, coefficient_of, find_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike

    from fastbp.hints import FloatArray

LARGEST_LAYER = 2**31 - 1
MOST_PARAMETERS = 2**48  # with all padding, addresses in bytes stay far below 2**63


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron's shape, without its numbers.

    All engines exchange parameters, gradients and optimizer state as one flat vector in the order
    W₀ b₀ W₁ b₁ …, each weight matrix row by row with shape (fan_in, fan_out).

    Parameters
    ----------
    layer_sizes : tuple of int
        Units a layer, from the features to the outputs; at least two entries.
    hidden_activations : tuple of str
        For each hidden layer one of `fastbp.activations.HIDDEN_ACTIVATIONS`.
    output_activation : str
        One of `fastbp.activations.OUTPUT_ACTIVATIONS`: it turns the logits into outputs.
    loss : str
        Name of one of `fastbp.losses.LOSSES`, which goes with the outputs. "log_loss" is the
        cross-entropy of softmax or of logistic units, "poisson" goes with "exp", "squared_error"
        with everything but softmax.
    average_outputs : bool, default=False
        Whether the reported squared error is averaged over the outputs instead of summed. The
        gradient is that of the sum either way: scikit-learn's MLPRegressor does this, and a
        drop-in must follow its trajectory. Missing targets count in the mean, as 0.
    loss_coefficients : tuple of float, default=()
        The coefficient of the loss, one for each output; empty where the loss has none.
    label_smoothing : float, default=0.0
        What is taken from the targets of a classifier and shared out evenly: among all outputs
        where they are exclusive classes, else between 0 and 1.

    Examples
    --------
    >>> network = Network((4, 8, 3), ("relu",), "softmax", "log_loss")
    >>> network.n_parameters
    67
    >>> network.starts
    [0, 40]
    >>> [w.shape for w in network.views(np.zeros(67))[0]]
    [(4, 8), (8, 3)]
    """

    layer_sizes: tuple[int, ...]
    hidden_activations: tuple[str, ...]
    output_activation: str
    loss: str
    average_outputs: bool = False
    loss_coefficients: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    def check(self) -> None:
        """See that the fields make a network that kernels can compute, which trust them blindly.

        Raises
        ------
        ValueError
            It names the field, as in a damaged file.
        """
        sizes, activations = self.layer_sizes, self.hidden_activations
        if (
            not isinstance(sizes, tuple)
            or len(sizes) < 2
            # NumPy's integers wrap around in products, and arrays would be too small.
            or not all(type(size) is int and 0 < size <= LARGEST_LAYER for size in sizes)
        ):
            raise ValueError(
                "layer_sizes must be a tuple of two or more numbers of type int from 1 to "
                f"2**31 - 1, got {sizes!r}."
            )
        if self.n_parameters > MOST_PARAMETERS:
            raise ValueError(
                f"layer_sizes must make at most 2**48 parameters, but {sizes!r} make "
                f"{self.n_parameters}."
            )
        if not isinstance(activations, tuple) or len(activations) != len(sizes) - 2:
            raise ValueError(
                f"hidden_activations must be a tuple of {len(sizes) - 2} names, one for each "
                f"hidden layer, got {activations!r}."
            )
        unknown = [name for name in activations if name not in list(HIDDEN_ACTIVATIONS)]
        if unknown:
            raise ValueError(
                f"hidden_activations must be among {sorted(HIDDEN_ACTIVATIONS)}, got "
                f"{unknown[0]!r}."
            )
        if self.output_activation not in list(OUTPUT_ACTIVATIONS):
            raise ValueError(
                f"output_activation must be one of {sorted(OUTPUT_ACTIVATIONS)}, got "
                f"{self.output_activation!r}."
            )
        names = sorted({loss.name for loss in LOSSES})
        if self.loss not in names or find_loss(self.loss, self.output_activation) is None:
            raise ValueError(
                f"loss must be one of {names} that goes with {self.output_activation!r}, got "
                f"{self.loss!r}."
            )
        if not isinstance(self.average_outputs, bool):
            raise ValueError(f"average_outputs must be a bool, got {self.average_outputs!r}.")
        self._check_coefficients()
        smoothing = self.label_smoothing
        if type(smoothing) is not float or not 0 <= smoothing < 1:
            raise ValueError(
                f"label_smoothing must be a number of type float from 0 to below 1, got "
                f"{smoothing!r}."
            )

    def _check_coefficients(self):
        found, coefficient = self.loss_coefficients, coefficient_of(self.loss)
        expected = 0 if coefficient is None else self.layer_sizes[-1]
        highest = inf if coefficient is None else coefficient.highest
        if (
            not isinstance(found, tuple)
            or len(found) != expected
            or not all(type(each) is float and 0 <= each <= highest for each in found)
            or inf in found
        ):
            raise ValueError(
                f"loss_coefficients must be a tuple of {expected} finite numbers of type float "
                f"from 0 to {highest:g} with loss={self.loss!r}, got {found!r}."
            )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The weight matrices' shapes (fan_in, fan_out), first layer first."""
        return list(zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True))

    @property
    def n_parameters(self) -> int:
        """How many numbers the flat vector holds."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self.shapes)

    @property
    def starts(self) -> list[int]:
        """Where each weight matrix starts in the flat vector; its biases follow it."""
        sizes = [(fan_in + 1) * fan_out for fan_in, fan_out in self.shapes]
        return list(accumulate(sizes[:-1], initial=0))

    @property
    def activations(self) -> tuple[str, ...]:
        """The activation that follows each weight matrix, the output's last."""
        return (*self.hidden_activations, self.output_activation)

    def views(self, parameters: FloatArray) -> tuple[list[FloatArray], list[FloatArray]]:
        """Split a flat vector into weight matrices and biases without copying.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters,)

        Returns
        -------
        coefs : list of ndarray of shape (fan_in, fan_out)
        intercepts : list of ndarray of shape (fan_out,)
        """
        coefs, intercepts = [], []
        for (fan_in, fan_out), start in zip(self.shapes, self.starts, strict=True):
            stop = start + fan_in * fan_out
            coefs.append(parameters[start:stop].reshape(fan_in, fan_out))
            intercepts.append(parameters[stop : stop + fan_out])
        return coefs, intercepts

    def flatten(
        self, coefs: Sequence[ArrayLike], intercepts: Sequence[ArrayLike], dtype: DTypeLike
    ) -> FloatArray:
        """Copy weight matrices and biases into one new flat vector of the given dtype."""
        parameters = np.empty(self.n_parameters, dtype)
        for views, arrays in zip(self.views(parameters), (coefs, intercepts), strict=True):
            for view, array in zip(views, arrays, strict=True):
                view[...] = array
        return parameters

    def as_flat(
        self, coefs: Sequence[ArrayLike], intercepts: Sequence[ArrayLike], dtype: DTypeLike
    ) -> FloatArray:
        """Return the flat vector whose views these arrays are, as after a fit; else a copy."""
        base, shape = coefs[0].base, (self.n_parameters,)
        if not isinstance(base, np.ndarray) or base.shape != shape or base.dtype != dtype:
            return self.flatten(coefs, intercepts, dtype)  # base may be bytes, after unpickling
        address = base.__array_interface__["data"][0]
        for pair in zip(coefs, intercepts, strict=True):
            for array in pair:
                found = array.__array_interface__
                if found["data"][0] != address or found["strides"] or array.dtype != dtype:
                    return self.flatten(coefs, intercepts, dtype)
                address += array.nbytes
        return base

    def initialise(
        self, random_state: np.random.RandomState, dtype: DTypeLike, *, default_activation: str
    ) -> FloatArray:
        """Draw the initial parameters: Glorot and Bengio (2010), uniform, as scikit-learn does.

        Biases come from the same bound as the weights. The draws are made in float64 whatever the
        dtype, so that float32 and float64 models start alike.

        Parameters
        ----------
        random_state : numpy.random.RandomState
        dtype : numpy dtype, float32 or float64
        default_activation : str
            Decides the bound of a network without hidden layers.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
        """
        # The output layer takes the bound of the hidden layer before it, as in scikit-learn.
        names = self.hidden_activations or (default_activation,)
        names = (*names, names[-1])[: len(self.shapes)]
        parameters = np.empty(self.n_parameters, dtype)
        coefs, intercepts = self.views(parameters)
        for weights, bias, name in zip(coefs, intercepts, names, strict=True):
            bound = np.sqrt(ACTIVATIONS[name].glorot_factor / sum(weights.shape))
            weights[...] = random_state.uniform(-bound, bound, weights.shape)
            bias[...] = random_state.uniform(-bound, bound, bias.shape)
        return parameters
