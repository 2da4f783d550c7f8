"""The public estimators: scikit-learn's `MLPClassifier` and `MLPRegressor` on fastbp's engines.

Here is what y means and what outputs mean; all else they share in `fastbp.base`.
"""

from typing import ClassVar

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit, log_expit, log_softmax
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from fastbp import parameters as params
from fastbp.base import BaseMLP, takes_batches
from fastbp.labels import Labels, as_text, pack_bytes, sorted_classes
from fastbp.losses import find_loss, names_for


class MLPClassifier(ClassifierMixin, BaseMLP):
    __doc__ = params.docstring(
        """Multilayer perceptron for classification, with scikit-learn's interface.

    Two classes make one logistic output unit, more make softmax outputs, label indicators make a
    logistic unit for each label.
""",
        parameters=params.PARAMETERS
        + """\
    loss : {'log_loss', 'squared_error'}, default='log_loss'
        Cross-entropy; or half the squared error of logistic output units, one for each class or
        label, as in the textbooks.
"""
        + params.EXTRAS,
        attributes="""\
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the probabilities.
"""
        + params.ATTRIBUTES.format(score="Accuracy"),
        examples="""\
    >>> from fastbp import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((10,), solver="lbfgs", random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array([0, 0, 0])
    >>> classifier.score(X, y) > 0.95
    True
    """,
    )
    _parameter_constraints: ClassVar = {
        **params.CONSTRAINTS,
        "loss": [StrOptions({*names_for("classification")})],
    }
    _numeric_targets = False
    _average_outputs = False

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        loss="log_loss",
        weight_decay=0.01,
        precision="auto",
        n_threads=None,
        input_scale=1.0,
        device="cpu",
        callback=None,
    ):
        self._set_parameters(locals())

    @available_if(takes_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train one epoch on the given rows, going on from the present weights.

        The optimizer goes on from its last state, that of `fit` included; but a model that was
        pickled after `fit` starts with a new one.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Needs not contain every class.
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call only.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Without `classes` in the first call; with other ones later; on labels not among them;
            with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _encode(self, y, dtype, goes_on, incremental, classes):
        y = pack_bytes(y)
        if incremental and self._takes_classes(classes):
            self._labels = Labels.of(y, self.classes_)
        elif not hasattr(self, "_labels") or not (goes_on or incremental):
            self._labels = Labels.of(y)
        elif not incremental:
            labels = Labels.of(y).classes
            if not np.array_equal(labels, self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {labels}"
                )
        self.classes_ = self._labels.classes
        return self._labels.encode(y, dtype), self._labels.n_outputs

    def _takes_classes(self, classes):
        """Take the classes of a first `partial_fit`, or see that they are still the same."""
        known = getattr(self, "classes_", None)
        if classes is None:
            if known is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return False
        classes = sorted_classes(classes)
        if known is None:
            self.classes_ = classes
        elif not np.array_equal(known, classes):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{known!r}"
            )
        return known is None

    def _output_activation(self):
        is_exclusive = self._labels.kind == "multiclass" and find_loss(self.loss, "softmax")
        return "softmax" if is_exclusive else "logistic"

    def _labels_to_stratify(self, targets):
        return self._labels.to_stratify(targets)

    def _score_outputs(self, outputs, targets, sample_weight):
        return self._labels.accuracy(outputs, targets, sample_weight)

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,), or label indicators of shape (n_samples, n_labels)
            Sparse where the indicators in `fit` were.
        """
        outputs = self._outputs(X)
        return self._labels.decode(outputs)

    def score(self, X, y, sample_weight=None):
        """Compute the accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Of label indicators, all of a row must be met.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        accuracy : float
        """
        predicted = self.predict(X)
        if predicted.dtype.kind == "S":  # which scikit-learn's metrics refuse
            y, predicted = as_text(pack_bytes(np.asarray(y))), as_text(predicted)
        return accuracy_score(y, predicted, sample_weight=sample_weight)

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Rows sum to 1, but for label indicators, each of which has
            its own probability.
        """
        check_is_fitted(self)
        kind = self._labels.kind
        if kind == "binary":
            logits = self._outputs(X, activation="identity")
            return expit(np.hstack([-logits, logits]))
        if kind == "multiclass" and self.out_activation_ == "logistic":
            return np.exp(self.predict_log_proba(X))
        return self._outputs(X)

    def predict_log_proba(self, X):
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            From the logits, and so finite also where `predict_proba` is 0.
        """
        logits = self._outputs(X, activation="identity")
        if self.out_activation_ == "softmax":
            return log_softmax(logits, axis=1)
        if self._labels.kind == "binary":
            return log_expit(np.hstack([-logits, logits]))
        if self._labels.kind == "multiclass":
            return log_softmax(log_expit(logits), axis=1)
        # No finer near 1 than predict_proba, so that both rank the labels alike.
        rounded = np.log(np.maximum(self._outputs(X), 0.5))
        return np.where(logits > 0, rounded, log_expit(logits))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, BaseMLP):
    __doc__ = params.docstring(
        """Multilayer perceptron for regression, with scikit-learn's interface.
""",
        parameters="""\
    loss : {'squared_error', 'poisson'}, default='squared_error'
        Half the squared error with identity outputs (its value is averaged over the outputs, its
        gradient is not, as in scikit-learn); or half the Poisson deviance with exponential
        outputs, for y >= 0.
"""
        + params.PARAMETERS
        + """\
    out_activation : {'auto', 'identity', 'logistic', 'sigmoid', 'tanh', 'relu', 'exp'}, \
default='auto'
        What the output layer applies; 'auto' is identity, or exp with loss='poisson', which takes
        no other. 'logistic' keeps predictions in (0, 1), 'tanh' in (-1, 1), 'relu' and 'exp' above
        0: a y beyond is never reached, and y is not scaled.
"""
        + params.EXTRAS,
        attributes=params.ATTRIBUTES.format(score="R²"),
        examples="""\
    >>> import numpy as np
    >>> from fastbp import MLPRegressor
    >>> X = np.linspace(-2, 2, 100)[:, None]
    >>> y = np.sin(X.ravel())
    >>> regressor = MLPRegressor(hidden_layer_sizes=20, solver="lbfgs", random_state=0).fit(X, y)
    >>> regressor.score(X, y) > 0.99
    True
    """,
    )
    _parameter_constraints: ClassVar = {
        **params.CONSTRAINTS,
        "loss": [StrOptions({*names_for("regression")})],
        "out_activation": [StrOptions(params.OUTPUT_CHOICES)],
    }
    _numeric_targets = True
    _average_outputs = True

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        out_activation="auto",
        weight_decay=0.01,
        precision="auto",
        n_threads=None,
        input_scale=1.0,
        device="cpu",
        callback=None,
    ):
        self._set_parameters(locals())

    @available_if(takes_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train one epoch on the given rows, going on from the present weights.

        The optimizer goes on from its last state, that of `fit` included; but a model that was
        pickled after `fit` starts with a new one.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            With `early_stopping`, or with another number of outputs than before.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _encode(self, y, dtype, goes_on, incremental, classes):
        targets = np.ascontiguousarray(y.toarray() if issparse(y) else y, dtype=dtype)
        targets = targets.reshape(len(targets), -1)
        if targets.min() < 0 and not self._takes_negative():
            raise ValueError(
                f"loss={self.loss!r} needs y >= 0, got y with {targets.min():g} in it."
            )
        return targets, targets.shape[1]

    def _takes_negative(self):
        return find_loss(self.loss, self._output_activation()).takes_negative

    def _output_activation(self):
        return params.output_activation(self.out_activation, self.loss)

    def _labels_to_stratify(self, targets):
        return None

    def _score_outputs(self, outputs, targets, sample_weight):
        return r2_score(targets, outputs, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = not self._takes_negative()
        return tags

    def predict(self, X):
        """Predict numbers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs), dtype of the weights
        """
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs
