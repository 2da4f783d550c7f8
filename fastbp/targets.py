"""A regressor's targets: the units that it trains in, missing ones, and what outputs become."""

import reprlib
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from fastbp.late import imported
from fastbp.scoring import r2


@dataclass(frozen=True)
class Targets:
    """What a regressor keeps of the targets that it was first trained on, one number an output.

    Parameters
    ----------
    means, deviations : tuple of float, default=()
        Mean and standard deviation, 1 where all targets are equal; empty where they do not matter.
    is_scaled : bool, default=False
        Whether the network learns (y − mean) / deviation.
    quantiles : tuple of float or None, default=None
        Those of one column of y that the outputs stand for, where they are several.
    lowest, highest : tuple of float, default=()
        Bounds of the predictions, in the units of y; empty where there are none.

    Examples
    --------
    >>> y = np.array([[1.0], [3.0]])
    >>> targets = Targets.of(y, None, is_scaled=True)
    >>> targets.means, targets.deviations, targets.scale(y, np.float32).ravel().tolist()
    ((2.0,), (1.0,), [-1.0, 1.0])
    >>> targets.predictions_of(np.array([[0.5]]))
    array([2.5])
    """

    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    is_scaled: bool = False
    quantiles: tuple[float, ...] | None = None
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()

    @classmethod
    def of(cls, targets, sample_weight, **fields):
        """Measure targets of shape (n_samples, n_outputs), of which NaN are missing.

        Raises
        ------
        ValueError
            Where an output has no target with weight, or numbers are too large.
        """
        means, deviations = [], []
        for output, column in enumerate(targets.T):
            there = ~np.isnan(column)
            weight = None if sample_weight is None else sample_weight[there]
            if not (there.any() if weight is None else weight.any()):
                raise ValueError(
                    f"Column {output} of y has no target in a row with weight, but its standard "
                    "deviation is needed. Leave the column out, or begin with rows that have some."
                )
            column = column[there].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(np.average(column, weights=weight))
                deviation = float(np.sqrt(np.average((column - mean) ** 2, weights=weight)))
            if not isfinite(deviation):
                raise ValueError(
                    f"Column {output} of y is too large to be scaled: its standard deviation is "
                    f"{deviation}."
                )
            # Equal numbers, up to the rounding of their mean.
            is_constant = deviation <= 10 * np.finfo(np.float64).eps * abs(mean)
            means.append(mean)
            deviations.append(1.0 if is_constant else deviation)
        return cls(tuple(means), tuple(deviations), **fields)

    def within(self, targets, sample_weight):
        """The same with bounds that contain these targets, of which NaN are missing, too."""
        if sample_weight is not None:
            targets = targets[sample_weight > 0]
        lowest, highest = np.nanmin(targets, axis=0), np.nanmax(targets, axis=0)
        if self.lowest:
            lowest = np.minimum(lowest, self.lowest)
            highest = np.maximum(highest, self.highest)
        return replace(self, lowest=tuple(map(float, lowest)), highest=tuple(map(float, highest)))

    def clip(self, outputs, learned=False):
        """Bring predictions, or what the network learns, within the bounds."""
        if not self.lowest:
            return outputs
        bounds = np.array([self.lowest, self.highest])
        if learned and self.is_scaled:
            bounds = (bounds - np.array(self.means)) / np.array(self.deviations)
        return np.clip(outputs, *bounds).astype(outputs.dtype)

    def scale(self, targets, dtype):
        """Turn targets into those that the network learns."""
        if not self.is_scaled:
            return targets.astype(dtype, copy=False)
        return ((targets - np.array(self.means)) / np.array(self.deviations)).astype(dtype)

    def unscale(self, outputs):
        """Turn the network's outputs into numbers in the units of y."""
        if not self.is_scaled:
            return outputs
        scaled = outputs * np.array(self.deviations) + np.array(self.means)
        return scaled.astype(outputs.dtype)

    def predictions_of(self, outputs):
        """Turn the network's outputs into what `predict` returns."""
        outputs = in_order(self.clip(self.unscale(outputs)), self.quantiles)
        is_single = outputs.shape[1] == 1 and self.quantiles is None
        return outputs.ravel() if is_single else outputs

    def fold(self, weights, bias, output_activation):
        """Put the units into the last layer's arrays, in place: its outputs are predictions then.

        Raises
        ------
        ValueError
            If no weights could do that.
        """
        if self.quantiles is not None and len(self.quantiles) > 1:
            raise ValueError(
                f"quantile={list(self.quantiles)!r} cannot be converted: the outputs are sorted, "
                "which no layer does. Fit one model for each quantile."
            )
        if self.lowest:
            raise ValueError(
                "clip_predictions=True cannot be converted: no layer bounds its outputs so. Fit "
                "with clip_predictions=False, or export by fastbp.onnx.to_onnx."
            )
        if not self.is_scaled:
            return
        if output_activation != "identity":
            raise ValueError(
                f"scale_targets=True with out_activation={output_activation!r} cannot be "
                "converted: only outputs without an activation have another unit by other weights."
            )
        deviations = np.array(self.deviations)
        weights *= deviations
        bias[...] = bias * deviations + np.array(self.means)

    def check(self, network):
        """See that they belong to the outputs of a network.

        Raises
        ------
        ValueError
            It names the field, as in a damaged file.
        """
        n_outputs = network.layer_sizes[-1]
        if not isinstance(self.is_scaled, bool):
            raise ValueError(f"is_scaled must be a bool, got {self.is_scaled!r}.")
        for name, least in (("means", None), ("deviations", 0)):
            numbers = getattr(self, name)
            if (
                not isinstance(numbers, tuple)
                or not all(type(each) is float and isfinite(each) for each in numbers)
                or len(numbers) not in ({n_outputs} if self.is_scaled else {0, n_outputs})
                or (least is not None and not all(each > least for each in numbers))
            ):
                raise ValueError(
                    f"{name} must be a tuple of {n_outputs} finite numbers"
                    f"{'' if least is None else ' above 0'}, got {reprlib.repr(numbers)}."
                )
        bounds = self.lowest, self.highest
        if any(bounds) and not (
            all(isinstance(each, tuple) and len(each) == n_outputs for each in bounds)
            and all(type(each) is float and isfinite(each) for each in (*bounds[0], *bounds[1]))
            and all(low <= high for low, high in zip(*bounds, strict=True))
        ):
            raise ValueError(
                f"lowest and highest must be {n_outputs} finite numbers each, got "
                f"{reprlib.repr(bounds)}."
            )
        if self.quantiles is not None and (
            network.loss != "quantile" or self.quantiles != network.loss_coefficients
        ):
            raise ValueError(
                "quantiles must be the loss_coefficients of a network with loss='quantile', got "
                f"{reprlib.repr(self.quantiles)}."
            )


def in_order(outputs, quantiles):
    """Sort each row such that a larger quantile is never below a smaller one.

    Chernozhukov, Fernández-Val and Galichon, "Quantile and Probability Curves Without Crossing",
    Econometrica, 2010: this never makes the estimates worse.
    """
    if quantiles is None or len(quantiles) == 1:
        return outputs
    ordered = np.empty_like(outputs)
    ordered[:, np.argsort(quantiles, kind="stable")] = np.sort(outputs, axis=1)
    return ordered


def without_missing_rows(targets, sample_weight):
    """The weights of the rows, 0 where all targets are missing.

    Raises
    ------
    ValueError
        If no row is left.
    """
    is_empty = np.isnan(targets).all(axis=1)
    if not is_empty.any():
        return sample_weight
    weight = np.ones(len(targets)) if sample_weight is None else sample_weight.copy()
    weight[is_empty] = 0
    if not weight.any():
        raise ValueError("y has no target in a row with weight: all are NaN. There must be some.")
    return weight


def score_targets(targets, predictions, sample_weight, quantiles=None):
    """R² or, for several quantiles of one column of y, the D² pinball score, over the outputs.

    Parameters
    ----------
    targets, predictions : ndarray of shape (n_samples, n_outputs)
        Targets that are missing do not count, nor do outputs with fewer than two of them.
    sample_weight : ndarray of shape (n_samples,) or None
    quantiles : sequence of float or None, default=None

    Returns
    -------
    score : float
        The mean over the outputs; NaN where none can be scored.
    """
    if quantiles is None and not np.isnan(targets).any():
        return r2(targets, predictions, sample_weight)
    scores = []
    for output in range(targets.shape[1]):
        there = ~np.isnan(targets[:, output])
        if sample_weight is not None:
            there &= sample_weight > 0
        if there.sum() < 2:
            continue
        pair = targets[there, output], predictions[there, output]
        weight = None if sample_weight is None else sample_weight[there]
        if quantiles is None:
            scores.append(r2(*(each[:, None] for each in pair), weight))
        else:
            scores.append(
                imported("sklearn.metrics").d2_pinball_score(
                    *pair, sample_weight=weight, alpha=float(quantiles[output])
                )
            )
    return float(np.mean(scores)) if scores else float("nan")
