"""The regressor for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import RegressorMixin

from fastbp.late import imported
from fastbp.regressor import MLPRegressor
from fastbp.tabular.base import BaseTabularMLP

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from numpy.typing import ArrayLike

    from fastbp.hints import Array, LayerSizes, RandomSource
    from fastbp.progress import EpochReport


class TabularMLPRegressor(RegressorMixin, BaseTabularMLP):
    """Network for regression from a table, with the recipe of RealMLP [1]_.

    It takes a DataFrame as it is: numbers of any scale, texts, categories, booleans, dates and
    missing values need no preparation. Numbers are scaled robustly and clipped smoothly, categories
    become columns; then a network of three layers learns standardised targets for 256 epochs, with
    a learning rate that falls and rises in cycles, and keeps the weights of the epoch that is best
    on a fifth of the rows.

    Parameters
    ----------
    preset : {'small', 'full'}, default='small'
        The recipe: 'small' is RealMLP-TD-S, 'full' is RealMLP-TD, which takes about twice the time
        and adds embeddings of numbers, parametric activations, dropout, weight decay and initial
        weights that depend on the data.

    categorical_features : {'from_dtype'}, array-like of int, str or bool, or None, \
            default='from_dtype'
        Which columns hold categories. 'from_dtype': those of texts and of dtype category; a list of
        positions, names or a mask; None for none, so that texts are refused.

    hidden_layer_sizes : int or array-like of int or None, default=None
        Number of units in each hidden layer; None for the preset's, (256, 256, 256).

    max_iter : int, default=256
        Number of epochs. All of them are trained, as the learning rate is planned for them.

    batch_size : int, default=256
        Number of rows in an update, at most those that are learned from.

    learning_rate_init : float or None, default=None
        Highest learning rate; None for the preset's.

    validation_fraction : float, default=0.2
        Fraction of the rows held out of training to find the best epoch. If they were
        fewer than 10, or with 0, all rows are learned from, and the weights of the last
        epoch are kept. Not used with `X_val`.

    n_ensemble : int, default=1
        Number of networks, which differ by the rows held out and by their initial weights. They are
        trained side by side, and their predictions are averaged.

    time_limit : float or None, default=None
        Seconds that `fit` may take. A short training that is thrown away measures how many epochs
        fit, at most `max_iter`: a shorter plan, carried out to its end, not one that breaks off. It
        aims at nine tenths of the time, as no measurement is certain. `n_iter_` is the number that
        was found; `max_iter` of that number makes the same model without a limit.

    precision : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='float32'
        Type of the arithmetic, as in `MLPRegressor`.

    random_state : int, RandomState instance or None, default=None
        Source of all random numbers. An int makes results reproducible across calls.

    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores. Results do not depend on it.

    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where the networks compute, as in `MLPRegressor`.

    verbose : bool, int or 'progress', default=False
        Whether to print a line for each epoch; 'progress' shows one line that changes.

    callback : callable or None, default=None
        Called after each epoch of each network with a `fastbp.training.EpochReport`, whose
        ``stop()`` ends that network's training and whose ``predict(X)`` takes tables.

    Attributes
    ----------
    preprocessing_ : Pipeline
        From a table to the array of float32 that the networks get: `fastbp.tabular.TableEncoder`,
        then `fastbp.tabular.SmoothClipScaler`.

    estimators_ : list of MLPRegressor
        The networks, trained on that array.

    n_iter_ : int
        Number of epochs. This and the following attributes are those of the first network.

    best_iter_ : int
        The epoch, counted from 1, whose weights are kept. Without validation rows it has the
        smallest loss, and the last one's weights are kept.

    loss_curve_ : list of float
        Loss of every epoch.

    validation_scores_ : list of float or None
        R² of the validation rows after each epoch; None where there are no such rows.

    feature_scales_ : ndarray of shape (n_inputs,)
        Factors that training has found for the network's inputs, from 1 on: the farther from 0, the
        more an encoded column matters. `preprocessing_` has their names in
        ``[0].get_feature_names_out()``; with ``preset="full"`` three numbers of the embedding of
        every numerical column come before them.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had names that are all strings.

    See Also
    --------
    TabularMLPClassifier : The same for labels.
    MLPRegressor : The network alone, with all of its parameters.

    Notes
    -----
    The preprocessing is fitted on all rows of X that have weight, without looking at y; it is not
    fitted on `X_val`. Predictions lie between the smallest and the largest target
    that `fit` was given: nothing is extrapolated beyond them.

    References
    ----------
    .. [1] Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
       Boosted Trees on Tabular Data", NeurIPS 2024, arXiv:2407.04491.

    Examples
    --------
    >>> from fastbp import TabularMLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> regressor = TabularMLPRegressor(max_iter=32, random_state=0).fit(X, y)
    >>> regressor.predict(X[:3]).shape
    (3,)
    >>> regressor.score(X, y) > 0.4
    True
    """

    _task = "regression"
    _numeric_targets = True
    _member_class = MLPRegressor
    missing_targets = "raise"  # as the checks of targets ask

    def __init__(
        self,
        *,
        preset: str = "small",
        categorical_features: ArrayLike | None = "from_dtype",
        hidden_layer_sizes: LayerSizes | None = None,
        max_iter: int = 256,
        batch_size: int = 256,
        learning_rate_init: float | None = None,
        validation_fraction: float = 0.2,
        n_ensemble: int = 1,
        time_limit: float | None = None,
        precision: Literal["auto", "float32", "float64", "tf32", "bfloat16"] = "float32",
        random_state: RandomSource = None,
        n_threads: int | None = None,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        verbose: bool | int | Literal["progress"] = False,
        callback: Callable[[EpochReport], object] | None = None,
    ) -> None:
        self._set_parameters(locals())

    def predict(self, X: Any) -> Array:
        """Predict the targets.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs), dtype float64
            Between the smallest and the largest target of each output that `fit` was given.
        """
        model = self._fitted()
        encoded = model.preprocessing.transform(X)
        found = [model.clipped(self._predictions(each, encoded)) for each in model.members]
        return np.mean(found, axis=0)

    def _predictions(self, member, encoded):
        """What a member predicts, in float64: float32 has too few digits for dates as targets."""
        fitted = member._fitted()
        outputs = self._here(member)._outputs(fitted, encoded)
        return fitted.predictions_of(outputs.astype(np.float64))

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Compute the coefficient of determination R² of the predictions.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Averaged over the outputs; 1 at best.
        """
        metrics = imported("sklearn.metrics")
        return metrics.r2_score(y, self.predict(X), sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
