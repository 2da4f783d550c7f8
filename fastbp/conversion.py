"""Conversion of models from and to scikit-learn."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import sklearn
from scipy.sparse import csr_matrix
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from fastbp import parameters as params
from fastbp.activations import HIDDEN_ACTIVATIONS
from fastbp.labels import Labels
from fastbp.late import imported
from fastbp.losses import is_averaged
from fastbp.model import Model
from fastbp.network import Network
from fastbp.optimizers import Optimizer, adam_learning_rate
from fastbp.preparing import make_optimizer
from fastbp.warned import warn

if TYPE_CHECKING:
    from typing import Any, Self

# Fitted attributes with the same meaning on both sides; scikit-learn's lbfgs lacks some of them.
_SAME_ATTRIBUTES = (
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "n_iter_",
    "t_",
    "_no_improvement_count",
)
# And those that scikit-learn sets and fastbp reads from its model.
_VIEWS = (
    "n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "feature_names_in_",
    "classes_",
)  # fmt: skip
# Parameters of which scikit-learn has only some choices: those, and what takes the others' place.
_THEIR_CHOICES = {
    "solver": (("lbfgs", "sgd", "adam"), "adam"),
    "learning_rate": (("constant", "invscaling", "adaptive"), "constant"),
    "loss": (("squared_error", "poisson"), "squared_error"),
}
# Our own parameters that training does not depend on, or only together with a solver or a loss
# that scikit-learn lacks and that is named anyway, or that are looked at by themselves.
_NO_LOSS = {
    "precision", "n_threads", "device", "callback", "checkpoint", "checkpoint_every",
    "weight_decay", "weight_decay_schedule", "dropout_schedule", "focal_gamma", "huber_delta",
    "quantile", "initialization", "embedded_features", "input_scale", "loss", "out_activation",
}  # fmt: skip
_TO_PREDICT = "To export the model for predictions alone use fastbp.onnx.to_onnx."
_LABEL_KINDS = {
    "binary": "binary",
    "multiclass": "multiclass",
    "multilabel-indicator": "multilabel",
}


def _counterpart(estimator_class):
    """The scikit-learn class that corresponds to one of fastbp's."""
    if issubclass(estimator_class, ClassifierMixin):
        return imported("sklearn.neural_network").MLPClassifier
    return imported("sklearn.neural_network").MLPRegressor


def _their_activations():
    """The names of scikit-learn's activations."""
    return {*imported("sklearn.neural_network._base").ACTIVATIONS}


def _their_optimizers():
    """The module of scikit-learn's optimizers."""
    return imported("sklearn.neural_network._stochastic_optimizers")


def _convert_attributes(source, target_class, names):
    """Make an estimator with copies of the named parameters and of the common attributes."""
    target = target_class(**{name: deepcopy(getattr(source, name)) for name in names})
    for name in _SAME_ATTRIBUTES:
        if hasattr(source, name):
            setattr(target, name, deepcopy(getattr(source, name)))
    return target


class ConversionMixin:
    """Adds `to_sklearn` and `from_sklearn` to the estimators."""

    def to_sklearn(self) -> Any:
        """Convert a fitted model into scikit-learn's own estimator.

        Its predictions are the same to rounding, and programs that know scikit-learn's class accept
        it, such as exporters to ONNX or PMML. Training continues as it would here: the weights, the
        loss curve, the counters and, for `partial_fit`, the state of the optimizer are copied.
        `input_scale` becomes part of the first weights; float32 weights stay float32. `precision`,
        `n_threads`, `device` and `callback` have no counterpart.

        Returns
        -------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            It shares no array with this one.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the model has not been fitted.
        ValueError
            If scikit-learn cannot compute the same predictions: with hidden activations that
            differ or that it does not have, a `parametric_activation`, a `numerical_embedding`,
            squared error with more than two classes, several quantiles, or `scale_targets` with an
            output activation; before version 1.7 also with the output activation 'exp', and so
            with the Poisson and gamma losses. For predictions
            alone `fastbp.onnx.to_onnx` exports these models, too.

        Warns
        -----
        UserWarning
            If training would not continue in the same way; the state of the optimizer is left out
            then: with `input_scale`, a loss that it does not have, a regressor's `out_activation`,
            solver 'adamw' (which becomes 'adam'), a callable `learning_rate` ('constant'), and in
            general with all parameters in force that scikit-learn does not have. The warning names
            them.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbp import MLPRegressor
        >>> X = np.linspace(-2, 2, 100)[:, None]
        >>> model = MLPRegressor(solver="lbfgs", random_state=0).fit(X, np.sin(X.ravel()))
        >>> converted = model.to_sklearn()
        >>> converted.__class__
        <class 'sklearn.neural_network._multilayer_perceptron.MLPRegressor'>
        >>> np.allclose(converted.predict(X), model.predict(X))
        True
        """
        params.check(self)
        model = self._fitted()
        network, dtype = model.network, model.parameter_dtype()
        activation, lost = _single_activation(self, network), _lost(self, network)
        theirs = _counterpart(type(self))
        converted = _convert_attributes(self, theirs, signature(theirs).parameters)
        converted.set_params(activation=activation, **_substitutes(self, theirs))
        for name in _VIEWS:
            if hasattr(self, name):
                setattr(converted, name, deepcopy(getattr(self, name)))
        coefs, intercepts = network.views(model.flat(dtype))
        coefs[0] *= dtype.type(model.input_scale)
        if model.targets is not None:
            model.targets.fold(coefs[-1], intercepts[-1], network.output_activation)
        converted.coefs_, converted.intercepts_ = coefs, intercepts
        if getattr(self, "validation_scores_", None) is not None:
            converted._best_coefs = [array.copy() for array in coefs]
            converted._best_intercepts = [array.copy() for array in intercepts]
        if issubclass(theirs, ClassifierMixin):
            converted._label_binarizer = _to_binarizer(model.labels)
        optimizer = getattr(self, "_optimizer", None)
        if lost:
            warn(
                f"scikit-learn has no {' and no '.join(lost)}: the predictions are the same, but "
                "further training would start with a new optimizer and go another way."
            )
        elif optimizer is not None and optimizer.solver == self.solver:
            optimizer = make_optimizer(self, network, dtype, optimizer)
            converted._optimizer = _to_their_optimizer(optimizer, network)
        return converted

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Self:
        """Make a model from one that scikit-learn has fitted.

        Its predictions are the same to rounding, and training continues as it would there: the
        weights, the loss curve, the counters and, for `partial_fit`, the state of the optimizer
        are copied.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            Fitted; a classifier for a classifier, a regressor for a regressor.

        Returns
        -------
        model : object
            Of this class, with the estimator's parameters and the defaults of all others. It shares
            no array with the estimator.

        Raises
        ------
        TypeError
            If the estimator is of another class.
        sklearn.exceptions.NotFittedError
            If the estimator has not been fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbp import MLPRegressor
        >>> import sklearn.neural_network
        >>> X = np.linspace(-2, 2, 100)[:, None]
        >>> theirs = sklearn.neural_network.MLPRegressor(solver="lbfgs", random_state=0)
        >>> model = MLPRegressor.from_sklearn(theirs.fit(X, np.sin(X.ravel())))
        >>> np.allclose(model.predict(X), theirs.predict(X))
        True
        """
        theirs = _counterpart(cls)
        if not isinstance(estimator, theirs):
            raise TypeError(
                f"estimator must be a sklearn.neural_network.{theirs.__name__}, got {estimator!r}."
            )
        check_is_fitted(estimator)
        converted = _convert_attributes(estimator, cls, signature(theirs).parameters)
        labels = None
        if issubclass(theirs, ClassifierMixin):
            binarizer = estimator._label_binarizer
            kind = _LABEL_KINDS[binarizer.y_type_]
            labels = Labels(kind, np.array(estimator.classes_), binarizer.sparse_input_)
        network = _network_of(estimator, cls._average_outputs)
        model = Model(
            network,
            [np.array(array) for array in estimator.coefs_],
            [np.array(array) for array in estimator.intercepts_],
            labels,
            deepcopy(getattr(estimator, "feature_names_in_", None)),
        )
        model.check()
        converted._model = model
        optimizer = getattr(estimator, "_optimizer", None)
        if optimizer is not None:
            dtype = model.parameter_dtype()
            converted._optimizer = _from_their_optimizer(optimizer, network, dtype)
        if getattr(estimator, "validation_scores_", None) is not None:
            converted._holdout_state = _state_before_split(estimator.random_state, network)
        return converted


# ---- to scikit-learn ----------------------------------------------------------------------------


def _single_activation(estimator, network):
    """The one activation of all hidden layers; without any, what the initial weights depend on."""
    names = set(network.hidden_activations)
    if len(names) > 1:
        raise ValueError(
            f"activation={network.hidden_activations!r} cannot be converted: scikit-learn has a "
            f"single activation for all hidden layers. {_TO_PREDICT}"
        )
    if names - _their_activations():
        raise ValueError(
            f"activation={network.hidden_activations[0]!r} cannot be converted: scikit-learn has "
            f"only {sorted(_their_activations() & {*HIDDEN_ACTIVATIONS})}. {_TO_PREDICT}"
        )
    if names:
        return names.pop()
    name = params.default_activation(estimator.activation)
    return name if name in _their_activations() else "relu"


def _lost(estimator, network):
    """List what scikit-learn cannot train with; raise where it cannot even predict the same."""
    lost = []
    if network.output_activation not in _their_activations():
        raise ValueError(
            f"out_activation={network.output_activation!r}, with loss={network.loss!r}, cannot be "
            f"converted: this version of scikit-learn, {sklearn.__version__}, has only "
            f"{sorted(_their_activations())}. 'exp' comes with scikit-learn 1.7. {_TO_PREDICT}"
        )
    if network.extra_shapes:
        has = "parametric_activation" if network.has_slopes else "numerical_embedding"
        raise ValueError(
            f"A model with a {has} cannot be converted: scikit-learn has none. {_TO_PREDICT}"
        )
    theirs = _counterpart(type(estimator))
    if isinstance(estimator, ClassifierMixin):
        kind = estimator._model.labels.kind
        if kind == "multiclass" and network.output_activation != "softmax":
            raise ValueError(
                f"loss={network.loss!r} with several classes cannot be converted: its "
                "probabilities are shares of logistic outputs, which scikit-learn does not "
                f"compute. Fit with loss='log_loss'. {_TO_PREDICT}"
            )
        if network.loss != "log_loss":
            lost.append(f"loss={network.loss!r} in classification")
    elif network.loss != "poisson" and network.output_activation != "identity":
        lost.append(f"out_activation={network.output_activation!r} in regression")
    for name in (*_substitutes(estimator, theirs), *_own_in_force(estimator, theirs)):
        lost.append(f"{name}={getattr(estimator, name)!r}")
    scale = estimator._model.input_scale
    if scale != 1:
        lost.append(f"input_scale={scale:g}, which is now part of coefs_[0]")
    return lost


def _own_in_force(estimator, theirs):
    """The parameters besides that scikit-learn's class lacks and that training depends on."""
    known = {*signature(theirs).parameters, *_NO_LOSS}
    return [
        name
        for name, parameter in signature(type(estimator)).parameters.items()
        if name not in known and not _is(getattr(estimator, name), parameter.default)
    ]


def _is(value, default):
    """Whether a parameter has its default, whatever the value's type."""
    try:
        return value is default or bool(value == default)
    except ValueError:  # an array
        return False


def _substitutes(estimator, theirs):
    """What takes the place of parameters that scikit-learn's class does not know."""
    return {
        name: substitute
        for name, (choices, substitute) in _THEIR_CHOICES.items()
        if name in signature(theirs).parameters and getattr(estimator, name) not in choices
    }


def _to_binarizer(labels):
    """A fitted LabelBinarizer that encodes as `Labels` does."""
    binarizer = imported("sklearn.preprocessing").LabelBinarizer()
    if labels.kind == "multilabel":
        indicators = np.eye(len(labels.classes), dtype=int)
        return binarizer.fit(csr_matrix(indicators) if labels.sparse else indicators)
    binarizer.fit(labels.classes)
    binarizer.classes_ = labels.classes.copy()  # which it has sorted, but users may rename them
    return binarizer


def _to_their_optimizer(optimizer, network):
    """One of scikit-learn's optimizers in the state of an `Optimizer`."""
    moments = []
    for moment in optimizer.moments[: optimizer.rule.n_moments]:
        coefs, intercepts = network.views(moment.copy())
        moments.append(coefs + intercepts)
    rate = float(optimizer.learning_rate_init)
    if optimizer.solver == "sgd":
        converted = _their_optimizers().SGDOptimizer(
            (), rate, optimizer.schedule, optimizer.momentum, optimizer.nesterovs_momentum,
            optimizer.power_t,
        )  # fmt: skip
        converted.learning_rate, converted.velocities = optimizer.learning_rate, moments[0]
        return converted
    converted = _their_optimizers().AdamOptimizer(
        (), rate, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon
    )
    converted.t, (converted.ms, converted.vs) = optimizer.step, moments
    if converted.t:
        converted.learning_rate = adam_learning_rate(
            rate, converted.beta_1, converted.beta_2, converted.t
        )
    return converted


# ---- from scikit-learn --------------------------------------------------------------------------


def _network_of(estimator, average_outputs):
    """Read the network from fitted attributes, as parameters may have been changed since."""
    sizes = [estimator.coefs_[0].shape[0], *(array.shape[1] for array in estimator.coefs_)]
    return Network(
        layer_sizes=tuple(sizes),
        hidden_activations=(estimator.activation,) * (len(sizes) - 2),
        output_activation=estimator.out_activation_,
        loss=estimator.loss,
        average_outputs=average_outputs and is_averaged(estimator.loss),
    )


def _from_their_optimizer(optimizer, network, dtype):
    """An `Optimizer` in the state of one of scikit-learn's.

    Its other hyper-parameters are ignored: training reads the estimator's.
    """
    is_sgd = isinstance(optimizer, _their_optimizers().SGDOptimizer)
    converted = Optimizer("sgd" if is_sgd else "adam", optimizer.learning_rate_init)
    if is_sgd:  # Adam's rate is that of a single step
        converted.learning_rate = float(optimizer.learning_rate)
    else:
        converted.step = optimizer.t
    half = len(network.shapes)
    converted.moments = [
        network.flatten(arrays[:half], arrays[half:], dtype)
        for arrays in ([optimizer.velocities] if is_sgd else [optimizer.ms, optimizer.vs])
    ]
    return converted


def _state_before_split(random_state, network):
    """The random state in which the first fit drew its split, if an integer seed reproduces it."""
    if not isinstance(random_state, Integral):
        return None
    random_state = np.random.RandomState(random_state)
    network.initialise(random_state, np.float64, default_activation="relu")
    return random_state.get_state()
