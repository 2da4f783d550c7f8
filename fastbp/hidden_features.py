"""What a hidden layer makes of the rows, as features for other estimators."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from fastbp import parameters as params
from fastbp.base import keeps_hints
from fastbp.inspect import layer_outputs, thawed

if TYPE_CHECKING:
    from typing import Any, Self

    from fastbp.hints import Array, ArrayLikeOrSparse, FloatArray


class HiddenFeatures(
    ClassNamePrefixFeaturesOutMixin, MetaEstimatorMixin, TransformerMixin, BaseEstimator
):
    """Transformer whose features are the outputs of a network's hidden layer.

    `fit` trains a copy of the estimator with the targets; `transform` runs rows through its layers
    up to the chosen one. What the network has learned on the way to its own outputs can so be used
    by another estimator, for search among neighbours, or for a picture.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        What is trained. In a `sklearn.frozen.FrozenEstimator` it is used as it has been fitted, and
        `fit` needs no targets.

    layer : int, default=-1
        Which of the hidden layers: 0 is the first, -1 the last. It may be changed after `fit`.

    Attributes
    ----------
    estimator_ : MLPClassifier, MLPRegressor or FrozenEstimator
        The fitted copy of `estimator`.

    n_features_in_ : int
        Number of features of X.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had names that are all strings.

    See Also
    --------
    fastbp.inspect.activations : All layers' outputs at once.

    Examples
    --------
    >>> from fastbp import HiddenFeatures, MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = load_iris(return_X_y=True)
    >>> hidden = HiddenFeatures(MLPClassifier((8, 4), solver="lbfgs", random_state=0))
    >>> pipeline = make_pipeline(hidden, LogisticRegression()).fit(X, y)
    >>> pipeline[0].transform(X).shape
    (150, 4)
    >>> pipeline.score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar = {"estimator": [HasMethods(["fit"])], "layer": [Integral]}

    def __init__(self, estimator: Any, layer: int = -1) -> None:
        self.estimator = estimator
        self.layer = layer

    @keeps_hints(_fit_context(prefer_skip_nested_validation=False))
    def fit(self, X: ArrayLikeOrSparse, y: Any = None, **fit_params: Any) -> Self:
        """Train a copy of the estimator.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            The estimator's targets; only a frozen estimator needs none.
        **fit_params : dict
            Passed to the estimator's `fit`, such as `sample_weight`; with metadata routing what it
            requests.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If the estimator is none of fastbp's.
        ValueError
            If its network has no such hidden layer, or if it refuses the data. Nothing changes.
        """
        if thawed(self.estimator) is self.estimator:  # before the training, rather than after it
            _position(self.layer, len(params.hidden_sizes(self.estimator.hidden_layer_sizes)))
        if get_config()["enable_metadata_routing"]:
            fit_params = process_routing(self, "fit", **fit_params).estimator.fit
        estimator = clone(self.estimator).fit(X, y, **fit_params)
        network = thawed(estimator)._fitted().network
        _position(self.layer, len(network.hidden_activations))
        self.estimator_ = estimator
        return self

    def transform(self, X: ArrayLikeOrSparse) -> FloatArray:
        """Compute the hidden layer's outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        features : ndarray of shape (n_samples, n_units)
            Of the dtype of the weights, or a frame if `set_output` asks for one.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X is no such matrix, or if the outputs of a layer are not finite.
        """
        check_is_fitted(self)
        model, layer = self._chosen()
        *_, features = layer_outputs(
            thawed(self.estimator_), model, X, n_layers=layer + 1, asks=self
        )
        return features

    def _chosen(self):
        """The model, taken once, and the number of the layer from the front."""
        model = thawed(self.estimator_)._fitted()
        return model, _position(self.layer, len(model.network.hidden_activations))

    def get_metadata_routing(self) -> MetadataRouter:
        """Say which metadata go to the estimator, as scikit-learn's routing asks."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    @property
    def n_features_in_(self) -> int:
        """Number of features of X."""
        return self._fitted_estimator("n_features_in_").n_features_in_

    @property
    def feature_names_in_(self) -> Array:
        """Names of the features."""
        return self._fitted_estimator("feature_names_in_").feature_names_in_

    @property
    def _n_features_out(self):
        model, layer = self._chosen()
        return model.network.layer_sizes[layer + 1]

    def _fitted_estimator(self, name):
        try:
            return vars(self)["estimator_"]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r} before it is fitted"
            ) from None

    def __sklearn_is_fitted__(self):
        return "estimator_" in vars(self)

    def __sklearn_tags__(self):
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags.sparse = inner.input_tags.sparse
        tags.target_tags = inner.target_tags
        tags.target_tags.required &= not isinstance(self.estimator, FrozenEstimator)
        keeps = getattr(self.estimator, "precision", None) == "auto"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"] if keeps else []
        return tags


def _position(layer, n_hidden):
    """A hidden layer's number from the front.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    if not -n_hidden <= layer < n_hidden:
        raise ValueError(
            f"layer={layer}, but the network has "
            + (
                f"{n_hidden} hidden layer(s): choose from {-n_hidden} to {n_hidden - 1}."
                if n_hidden
                else "no hidden layers, as hidden_layer_sizes=() makes it: give it one at least."
            )
        )
    return layer % n_hidden
