"""The network: layer sizes, activations, and the flat parameter vector with its views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import inf, prod
from typing import TYPE_CHECKING

import numpy as np

from fastbp.activations import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastbp.embedding import FREQUENCIES, NUMBERS
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
    W₀ b₀ W₁ b₁ …, each weight matrix row by row with shape (fan_in, fan_out). What a network has
    besides, its extras, comes after these: slopes, scales, embedding.

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
    has_slopes : bool, default=False
        Whether the outputs of a hidden layer are z + a (f(z) − z) with a slope a of every unit.
    has_scales : bool, default=False
        Whether every input of the first layer has a factor. Only training tells it from the
        weights: see `folded`.
    n_embedded : int, default=0
        So many of the features, the first ones, are embedded (`fastbp.embedding`).

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
    has_slopes: bool = False
    has_scales: bool = False
    n_embedded: int = 0

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
        self._check_extras()
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

    def _check_extras(self):
        for name in ("has_slopes", "has_scales"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be a bool, got {getattr(self, name)!r}.")
        n_features = self.layer_sizes[0]
        if type(self.n_embedded) is not int or not 0 <= self.n_embedded <= n_features:
            raise ValueError(
                f"n_embedded must be a number of type int from 0 to {n_features}, the number of "
                f"features, got {self.n_embedded!r}."
            )

    @property
    def is_pair(self) -> bool:
        """Whether the one output tells two classes apart, as the difference of two units would."""
        return self.output_activation == "logistic" and self.layer_sizes[-1] == 1

    @property
    def n_inputs(self) -> int:
        """Inputs of the first layer: the numbers of embedded features, and all features."""
        return self.layer_sizes[0] + NUMBERS * self.n_embedded

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The weight matrices' shapes (fan_in, fan_out), first layer first."""
        sizes = self.n_inputs, *self.layer_sizes[1:]
        return list(pairwise(sizes))

    @property
    def extra_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """The kind and the shape of every extra array, in the flat vector's order.

        Of "embedding" there are four: frequencies, phases, weights and biases.
        """
        found: list[tuple[str, tuple[int, ...]]] = []
        if self.has_slopes:
            found += [("slopes", (size,)) for size in self.layer_sizes[1:-1]]
        if self.has_scales:
            found.append(("scales", (self.n_inputs,)))
        if self.n_embedded:
            each = (FREQUENCIES,), (FREQUENCIES,), (FREQUENCIES, NUMBERS), (NUMBERS,)
            found += [("embedding", (self.n_embedded, *shape)) for shape in each]
        return found

    @property
    def n_parameters(self) -> int:
        """How many numbers the flat vector holds."""
        n_extras = sum(prod(shape) for _, shape in self.extra_shapes)
        return n_extras + sum((fan_in + 1) * fan_out for fan_in, fan_out in self.shapes)

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

    def extras(self, parameters: FloatArray) -> dict[str, list[FloatArray]]:
        """The extra arrays in a flat vector by their kinds, without copying.

        Examples
        --------
        >>> network = Network((2, 3, 1), ("relu",), "logistic", "log_loss", has_slopes=True)
        >>> network.extras(np.arange(network.n_parameters))
        {'slopes': [array([13, 14, 15])]}
        """
        found: dict[str, list[FloatArray]] = {}
        sizes = [prod(shape) for _, shape in self.extra_shapes]
        start = len(parameters) - sum(sizes)
        for (kind, shape), size in zip(self.extra_shapes, sizes, strict=True):
            array = parameters[start : start + size].reshape(shape)
            found.setdefault(kind, []).append(array)
            start += size
        return found

    def flatten(
        self,
        coefs: Sequence[ArrayLike],
        intercepts: Sequence[ArrayLike],
        dtype: DTypeLike,
        extras: Sequence[ArrayLike] = (),
    ) -> FloatArray:
        """Copy weight matrices, biases and extras into one new flat vector of the given dtype."""
        parameters = np.empty(self.n_parameters, dtype)
        own = [array for arrays in self.extras(parameters).values() for array in arrays]
        groups = (*self.views(parameters), own), (coefs, intercepts, extras)
        for views, arrays in zip(*groups, strict=True):
            for view, array in zip(views, arrays, strict=True):
                view[...] = array
        return parameters

    def as_flat(
        self,
        coefs: Sequence[ArrayLike],
        intercepts: Sequence[ArrayLike],
        dtype: DTypeLike,
        extras: Sequence[ArrayLike] = (),
    ) -> FloatArray:
        """Return the flat vector whose views these arrays are, as after a fit; else a copy."""
        base, shape = coefs[0].base, (self.n_parameters,)
        if not isinstance(base, np.ndarray) or base.shape != shape or base.dtype != dtype:
            # base may be bytes, after unpickling
            return self.flatten(coefs, intercepts, dtype, extras)
        address = base.__array_interface__["data"][0]
        pairs = zip(coefs, intercepts, strict=True)
        for array in (*(each for pair in pairs for each in pair), *extras):
            found = array.__array_interface__
            if found["data"][0] != address or found["strides"] or array.dtype != dtype:
                return self.flatten(coefs, intercepts, dtype, extras)
            address += array.nbytes
        return base

    def unfolded(self, has_scales: bool) -> Network:
        """The same network, with scales of its own or without."""
        return replace(self, has_scales=bool(has_scales))

    def folded(self) -> Network:
        """The network that computes the same without scales, which are part of its weights."""
        return self.unfolded(False) if self.has_scales else self

    def fold(self, parameters: FloatArray) -> FloatArray:
        """The parameters of `folded`: a new vector, if there are scales.

        Examples
        --------
        >>> network = Network((2, 1), (), "identity", "squared_error", has_scales=True)
        >>> network.fold(np.array([1.0, 2.0, 5.0, 10.0, 20.0]))  # W, b, scales
        array([10., 40.,  5.])
        """
        if not self.has_scales:
            return parameters
        (coefs, intercepts), extras = self.views(parameters), self.extras(parameters)
        (scales,) = extras.pop("scales")
        coefs[0] = coefs[0] * scales[:, np.newaxis]
        others = [array for arrays in extras.values() for array in arrays]
        return self.folded().flatten(coefs, intercepts, parameters.dtype, others)

    def unfold(self, parameters: FloatArray) -> FloatArray:
        """Parameters with scales of 1 that `fold` to these."""
        if not self.has_scales:
            return parameters
        folded = self.folded()
        (coefs, intercepts), extras = folded.views(parameters), folded.extras(parameters)
        extras["scales"] = [np.ones(self.n_inputs, parameters.dtype)]
        kinds = dict.fromkeys(kind for kind, _ in self.extra_shapes)
        others = [array for kind in kinds for array in extras[kind]]
        return self.flatten(coefs, intercepts, parameters.dtype, others)

    def initialise(
        self, random_state: np.random.RandomState, dtype: DTypeLike, *, default_activation: str
    ) -> FloatArray:
        """Draw initial parameters as scikit-learn does: see `fastbp.initialisation`.

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
        from fastbp.initialisation import initialise

        return initialise(self, "glorot", random_state, dtype, default_activation)
