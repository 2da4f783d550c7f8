"""Pictures of fitted estimators, in scikit-learn's Display style. They need matplotlib.

A display keeps the numbers; `plot` draws them, into axes of your own if you give some, and leaves
matplotlib's objects in attributes, so that everything can be changed afterwards.
"""

from __future__ import annotations

from math import ceil, isqrt
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


class LossCurveDisplay:
    """Loss by epoch and, with validation rows, theirs beside it and their score on a second axis.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
    validation_scores : array-like of shape (n_epochs,) or None, default=None
        Accuracy, R² or another score of the validation rows.
    validation_loss_curve : array-like of shape (n_epochs,) or None, default=None
        Loss of the validation rows, without the penalty.
    estimator_name : str or None, default=None
        What the legend calls the curve. Without a name or scores there is no legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The training loss.
    validation_line_ : matplotlib Line2D or None
        The validation loss, in the same axes.
    score_line_ : matplotlib Line2D or None
        The validation score.
    ax_ : matplotlib Axes
    score_ax_ : matplotlib Axes or None
        The axes of the score, which share the epochs.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp import MLPClassifier
    >>> from fastbp.plotting import LossCurveDisplay
    >>> model = MLPClassifier((8,), tol=1e-2, random_state=0).fit(*load_iris(return_X_y=True))
    >>> display = LossCurveDisplay.from_estimator(model, name="iris")  # doctest: +SKIP
    >>> display.ax_.set_yscale("log")  # doctest: +SKIP
    """

    def __init__(
        self,
        loss_curve: ArrayLike,
        *,
        validation_scores: ArrayLike | None = None,
        validation_loss_curve: ArrayLike | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.validation_loss_curve = validation_loss_curve
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Axes | None = None, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Plot the curves of a fitted estimator.

        Parameters
        ----------
        estimator : fitted MLPClassifier or MLPRegressor
            fastbp's or scikit-learn's; or a Pipeline that ends in one, or a search over one.
        ax : matplotlib Axes, default=None
            None makes a new figure.
        name : str, default=None
            What the legend calls the curve.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.plot` for the loss.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ImportError
            Without matplotlib.
        NotFittedError
            Where the estimator has no loss curve.
        """
        _import_pyplot(f"{cls.__name__}.from_estimator")
        network = _last_estimator(estimator, "loss_curve_")
        display = cls(
            network.loss_curve_,
            validation_scores=getattr(network, "validation_scores_", None),
            validation_loss_curve=getattr(network, "validation_loss_curve_", None),
            estimator_name=name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax, name, **kwargs
            As for `from_estimator`; `name` replaces `estimator_name`.

        Returns
        -------
        display : LossCurveDisplay
            This one.
        """
        plt = _import_pyplot(f"{type(self).__name__}.plot")
        self.ax_ = plt.subplots()[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.estimator_name = self.estimator_name if name is None else name
        loss_label, validation_label, score_label = self._labels()
        (self.line_,) = self.ax_.plot(
            _epochs(self.loss_curve), self.loss_curve, **{"label": loss_label, **kwargs}
        )
        self.ax_.set(xlabel="Epoch", ylabel="Training loss")
        self.validation_line_ = self.score_ax_ = self.score_line_ = None
        if self.validation_loss_curve is not None:
            (self.validation_line_,) = self.ax_.plot(
                _epochs(self.validation_loss_curve),
                self.validation_loss_curve,
                color=self.line_.get_color(),
                linestyle=":",
                label=validation_label,
            )
            self.ax_.set_ylabel("Loss")
        if self.validation_scores is not None:
            self._plot_scores(score_label)
        elif loss_label is not None:
            self.ax_.legend()
        return self

    def _labels(self):
        name = self.estimator_name
        if self.validation_scores is None and self.validation_loss_curve is None:
            return name, None, None
        prefix = "" if name is None else f"{name}: "
        return tuple(
            f"{prefix}{what}" for what in ("training loss", "validation loss", "validation score")
        )

    def _plot_scores(self, label):
        self.score_ax_ = self.ax_.twinx()
        (self.score_line_,) = self.score_ax_.plot(
            _epochs(self.validation_scores),
            self.validation_scores,
            color=self.line_.get_color(),
            linestyle="--",
            label=label,
        )
        self.score_ax_.set_ylabel("Validation score")
        lines = (self.line_, self.validation_line_, self.score_line_)
        self.score_ax_.legend(handles=[line for line in lines if line], loc="center right")


class WeightsDisplay:
    """The weights into each unit of a layer as images: red above zero, blue below.

    Parameters
    ----------
    weights : ndarray of shape (fan_in, n_units)
    image_shape : tuple (height, width) or None, default=None
        How a unit's weights lie in its image. None is a square, or a single column where fan_in is
        no square number.
    labels : list of str or None, default=None
        Titles of the images.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        All images side by side.
    text_ : list of matplotlib Text
        Their titles.
    colorbar_ : matplotlib Colorbar
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from fastbp import MLPClassifier
    >>> from fastbp.datasets import load_digits
    >>> from fastbp.plotting import WeightsDisplay
    >>> data = load_digits()
    >>> model = MLPClassifier((), input_scale=data.input_scale, tol=1e-2, random_state=0)
    >>> _ = model.fit(data.X_train, data.y_train)
    >>> display = WeightsDisplay.from_estimator(model)  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: ArrayLike,
        *,
        image_shape: tuple[int, int] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.weights = weights
        self.image_shape = image_shape
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        layer: int = 0,
        units: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the weights of a fitted estimator.

        Parameters
        ----------
        estimator : fitted MLPClassifier or MLPRegressor
            fastbp's or scikit-learn's; or a Pipeline that ends in one, or a search over one.
        layer : int, default=0
            Index in `coefs_`.
        units : array-like of int, default=None
            Which units to show; None shows all.
        image_shape : tuple (height, width), default=None
            None is a square, or a single column where fan_in is no square number.
        ax : matplotlib Axes, default=None
            None makes a new figure.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        display : WeightsDisplay

        Raises
        ------
        ImportError
            Without matplotlib.
        NotFittedError
            Where the estimator has no weights.
        ValueError
            Where a unit's weights do not make an image of `image_shape`.
        """
        _import_pyplot(f"{cls.__name__}.from_estimator")
        network = _last_estimator(estimator, "coefs_")
        weights = np.asarray(network.coefs_[layer])
        labels = None
        if weights is network.coefs_[-1] and len(getattr(network, "classes_", ())):
            labels = network.classes_ if len(network.classes_) == weights.shape[1] else None
        units = np.arange(weights.shape[1]) if units is None else np.asarray(units)
        labels = None if labels is None else [str(labels[unit]) for unit in units]
        display = cls(weights[:, units], image_shape=image_shape, labels=labels)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax, **kwargs
            As for `from_estimator`.

        Returns
        -------
        display : WeightsDisplay
            This one.
        """
        plt = _import_pyplot(f"{type(self).__name__}.plot")
        mosaic, titles = self._mosaic()
        if ax is None:
            tall = 0.5 + 5.4 * mosaic.shape[0] / mosaic.shape[1]  # so that little is empty
            _, ax = plt.subplots(figsize=(6.4, min(tall, 8)), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        limit = np.abs(self.weights).max()
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
        self.im_ = ax.imshow(mosaic, **{**style, **kwargs})
        self.colorbar_ = self.figure_.colorbar(self.im_, ax=ax, label="weight")
        self.text_ = [ax.text(x, y, text, ha="center", va="bottom") for x, y, text in titles]
        ax.set_axis_off()
        return self

    def _mosaic(self):
        """All images in one, NaN between them; and where their titles stand, as (x, y, text)."""
        height, width = self._image_shape()
        n_units = self.weights.shape[1]
        n_columns = min(n_units, ceil((2 * n_units * height / width) ** 0.5))  # about 2 : 1
        n_columns = ceil(n_units / ceil(n_units / n_columns))  # full rows where they can be
        n_rows = ceil(n_units / n_columns)
        top = max(1, height // 4 if self.labels else height // 12)
        gap = max(1, width // 12)
        tiles = np.full((n_rows * n_columns, height + top, width + gap), np.nan)
        tiles[:n_units, top:, :width] = self.weights.T.reshape(n_units, height, width)
        mosaic = tiles.reshape(n_rows, n_columns, height + top, width + gap).swapaxes(1, 2)
        mosaic = mosaic.reshape(n_rows * (height + top), n_columns * (width + gap))[:, :-gap]
        titles = []
        for unit, label in enumerate(self.labels or ()):
            row, column = divmod(unit, n_columns)
            x, y = column * (width + gap) + (width - 1) / 2, row * (height + top) + top - 1
            titles.append((x, y, label))
        return mosaic, titles

    def _image_shape(self):
        n_weights = len(self.weights)
        if self.image_shape is None:
            side = isqrt(n_weights)
            return (side, side) if side * side == n_weights else (n_weights, 1)
        height, width = self.image_shape
        if height * width != n_weights:
            raise ValueError(
                f"image_shape={self.image_shape!r} holds {height * width} weights, but every unit "
                f"has {n_weights}."
            )
        return height, width


def _last_estimator(estimator, attribute):
    """Find the network in a search or a pipeline, and check that it is fitted."""
    if not hasattr(estimator, attribute):
        check_is_fitted(estimator)
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    check_is_fitted(estimator, attribute)
    return estimator


def _epochs(curve):
    return np.arange(1, len(curve) + 1)


def _import_pyplot(caller):
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib, which is not installed: pip install 'fastbp[plot]'"
        ) from error
    return plt
