"""The classifier for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions

from fastbp.classifier import MLPClassifier
from fastbp.labels import as_text, pack_bytes
from fastbp.late import imported
from fastbp.tabular.base import CONSTRAINTS, BaseTabularMLP
from fastbp.tabular.model import of_first

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from numpy.typing import ArrayLike

    from fastbp.hints import Array, ClassWeight, FloatArray, LayerSizes, RandomSource
    from fastbp.progress import EpochReport


class TabularMLPClassifier(ClassifierMixin, BaseTabularMLP):
    """Network for classification from a table, with the recipe of RealMLP [1]_.

    It takes a DataFrame as it is: numbers of any scale, texts, categories, booleans, dates and
    missing values need no preparation. Numbers are scaled robustly and clipped smoothly, categories
    become columns; then a network of three layers is trained for 256 epochs, with a
    learning rate that falls and rises in cycles, and keeps the weights of the epoch that is best
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

    selection : {'error', 'log_loss'}, default='error'
        By what the best epoch is found. 'error' is the share of wrong labels. 'log_loss' is for
        good probabilities: it is the log loss of the held-out rows, and targets are not smoothed in
        training.

    class_weight : dict, 'balanced', list or None, default=None
        Weights of the classes, as in `MLPClassifier`.

    validation_fraction : float, default=0.2
        Fraction of the rows held out of training to find the best epoch, in proportion if there are
        two classes. If they were fewer than 10, or if one of two classes has a single row, or with
        0, all rows are learned from, and the weights of the last epoch are kept. Not used with
        `X_val`.

    n_ensemble : int, default=1
        Number of networks, which differ by the rows held out and by their initial weights. They are
        trained side by side, and their probabilities are averaged.

    time_limit : float or None, default=None
        Seconds that `fit` may take. A short training that is thrown away measures how many epochs
        fit, at most `max_iter`: a shorter plan, carried out to its end, not one that breaks off. It
        aims at nine tenths of the time, as no measurement is certain. `n_iter_` is the number that
        was found; `max_iter` of that number makes the same model without a limit.

    precision : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='float32'
        Type of the arithmetic, as in `MLPClassifier`.

    random_state : int, RandomState instance or None, default=None
        Source of all random numbers. An int makes results reproducible across calls.

    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores. Results do not depend on it.

    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where the networks compute, as in `MLPClassifier`.

    verbose : bool, int or 'progress', default=False
        Whether to print a line for each epoch; 'progress' shows one line that changes.

    callback : callable or None, default=None
        Called after each epoch of each network with a `fastbp.training.EpochReport`, whose
        ``stop()`` ends that network's training and whose ``predict(X)`` takes tables.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the probabilities.

    preprocessing_ : Pipeline
        From a table to the array of float32 that the networks get: `fastbp.tabular.TableEncoder`,
        then `fastbp.tabular.SmoothClipScaler`.

    estimators_ : list of MLPClassifier
        The networks, trained on that array.

    n_iter_ : int
        Number of epochs. This and the following attributes are those of the first network.

    best_iter_ : int
        The epoch, counted from 1, whose weights are kept. Without validation rows it has the
        smallest loss, and the last one's weights are kept.

    loss_curve_ : list of float
        Loss of every epoch.

    validation_scores_ : list of float or None
        Accuracy of the validation rows after each epoch, with ``selection="log_loss"`` minus their
        log loss; None where there are no such rows.

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
    TabularMLPRegressor : The same for numbers.
    MLPClassifier : The network alone, with all of its parameters.

    Notes
    -----
    The preprocessing is fitted on all rows of X that have weight, without looking at y; it is not
    fitted on `X_val`. Label smoothing of 0.1 makes labels better and probabilities
    worse: use ``selection="log_loss"`` where probabilities matter.

    References
    ----------
    .. [1] Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
       Boosted Trees on Tabular Data", NeurIPS 2024, arXiv:2407.04491.

    Examples
    --------
    >>> import pandas as pd
    >>> from fastbp import TabularMLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> X["colour"] = pd.Series(["violet", "blue", None] * 50, dtype="category")
    >>> classifier = TabularMLPClassifier(max_iter=32, random_state=0).fit(X, y)
    >>> classifier.predict_proba(X[:3]).shape
    (3, 3)
    >>> classifier.score(X, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar = {
        **CONSTRAINTS,
        "selection": [StrOptions({"error", "log_loss"})],
        "class_weight": MLPClassifier._parameter_constraints["class_weight"],
    }
    _task = "classification"
    _numeric_targets = False
    _member_class = MLPClassifier
    if TYPE_CHECKING:
        selection: Literal["error", "log_loss"]
        class_weight: ClassWeight
        classes_: Array
    else:
        classes_ = of_first("classes_")

    def __init__(
        self,
        *,
        preset: str = "small",
        categorical_features: ArrayLike | None = "from_dtype",
        hidden_layer_sizes: LayerSizes | None = None,
        max_iter: int = 256,
        batch_size: int = 256,
        learning_rate_init: float | None = None,
        selection: Literal["error", "log_loss"] = "error",
        class_weight: ClassWeight = None,
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

    def _member_parameters(self, n_numerical):
        chosen = super()._member_parameters(n_numerical) | {"class_weight": self.class_weight}
        if self.selection == "log_loss":  # smoothed targets would spoil the probabilities
            chosen |= {"scoring": "loss", "label_smoothing": 0.0}
        return chosen

    def predict(self, X: Any) -> Array:
        """Predict labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,), or label indicators of shape (n_samples, n_labels)
            Those with the largest probability. Sparse where the indicators given to `fit` were
            sparse.
        """
        model = self._fitted()
        labels = model.members[0]._fitted().labels
        probabilities = self._probabilities(model, X)
        if labels.kind == "multilabel":
            decided = probabilities > 0.5
            return csr_matrix(decided, dtype=int) if labels.sparse else decided.astype(int)
        # A single class is the answer whatever the output.
        return labels.classes.take(probabilities.argmax(axis=1), mode="clip")

    def predict_proba(self, X: Any) -> FloatArray:
        """Predict probabilities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Rows sum to 1, except for label indicators, where each
            label has its own probability. None is 0.
        """
        return self._probabilities(self._fitted(), X)

    def _probabilities(self, model, X):
        encoded = model.preprocessing.transform(X)
        found = [self._here(member).predict_proba(encoded) for member in model.members]
        return found[0] if len(found) == 1 else np.mean(found, axis=0)

    def predict_log_proba(self, X: Any) -> FloatArray:
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            Finite, as no probability is 0.
        """
        return np.log(self.predict_proba(X))

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Compute the accuracy of the predicted labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            With label indicators, a row counts where all its labels are right.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        accuracy : float
        """
        predicted = self.predict(X)
        if predicted.dtype.kind == "S":  # which scikit-learn's metrics refuse
            y, predicted = as_text(pack_bytes(np.asarray(y))), as_text(predicted)
        metrics = imported("sklearn.metrics")
        return metrics.accuracy_score(y, predicted, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
