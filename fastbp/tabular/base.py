"""What the estimators for tables share: parameters, fitting, attributes."""

from __future__ import annotations

from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar

from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fastbp import parameters as params
from fastbp.base import keeps_hints
from fastbp.judging import OwnRows
from fastbp.late import imported
from fastbp.pickling import STATE_VERSION, PicklingMixin, carried
from fastbp.tabular.model import TabularModel, View, of_first
from fastbp.tabular.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Self

    from numpy.typing import ArrayLike

    from fastbp.hints import Array, FloatArray, LayerSizes, Path, RandomSource
    from fastbp.progress import EpochReport

# Parameters that the networks have under the same names.
SHARED = (
    "max_iter", "validation_fraction", "precision", "n_threads", "device", "verbose",
)  # fmt: skip
CONSTRAINTS = {
    "preset": [StrOptions({*PRESETS})],
    "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
    "hidden_layer_sizes": [*params.CONSTRAINTS["hidden_layer_sizes"], None],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "learning_rate_init": [*params.CONSTRAINTS["learning_rate_init"], None],
    "n_ensemble": [Interval(Integral, 1, None, closed="left")],
    "time_limit": [Interval(Real, 0, None, closed="neither"), None],
    "random_state": params.CONSTRAINTS["random_state"],
    "callback": params.CONSTRAINTS["callback"],
    **{name: params.CONSTRAINTS[name] for name in SHARED},
}


def checked_state(estimator_class, state):
    """An estimator's attributes from a pickled state; newer parameters get their defaults."""
    name = estimator_class.__name__
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"The pickled state of {name} is damaged: it must be a dict.")
    state = dict(state)
    version, writer = state.pop("_state_version", None), state.pop("_fastbp_version", None)
    if version not in range(1, STATE_VERSION + 1):
        raise ValueError(
            f"This {name} was pickled by fastbp {writer} in state version {version!r}, but this "
            f"fastbp reads versions up to {STATE_VERSION}. Update fastbp, or train anew."
        )
    model = state.get("_model")
    if not (model is None or isinstance(model, TabularModel)):
        raise ValueError(f"The pickled state of {name} is damaged: its model is {model!r}.")
    if model is not None:
        model.check()
    state["callback"] = carried(state.get("callback"))
    parameters = signature(estimator_class).parameters.values()
    return {each.name: each.default for each in parameters} | state


class BaseTabularMLP(PicklingMixin, BaseEstimator):
    """Base class of the estimators for tables: all but what depends on the kind of targets."""

    _parameter_constraints: ClassVar = CONSTRAINTS
    _task: ClassVar[str]
    _numeric_targets: ClassVar[bool]
    _member_class: ClassVar[type]  # of the networks

    if TYPE_CHECKING:  # parameters are set by name, and fitted attributes read from the model
        preset: str
        categorical_features: ArrayLike | None
        hidden_layer_sizes: LayerSizes | None
        max_iter: int
        batch_size: int
        learning_rate_init: float | None
        validation_fraction: float
        n_ensemble: int
        time_limit: float | None
        precision: Literal["auto", "float32", "float64", "tf32", "bfloat16"]
        random_state: RandomSource
        n_threads: int | None
        device: Literal["cpu", "cuda", "auto"]
        verbose: bool | int | Literal["progress"]
        callback: Callable[[EpochReport], object] | None
        preprocessing_: Any
        estimators_: list[Any]
        n_features_in_: int
        feature_names_in_: Array
        n_iter_: int
        best_iter_: int
        loss_curve_: list[float]
        validation_scores_: list[float] | None
        feature_scales_: FloatArray
    else:
        preprocessing_ = View(lambda model: model.preprocessing)
        estimators_ = View(lambda model: list(model.members))
        n_features_in_ = View(lambda model: model.preprocessing[0].n_features_in_)
        feature_names_in_ = View(lambda model: model.preprocessing[0].feature_names_in_)
        n_iter_ = of_first("n_iter_")
        best_iter_ = of_first("best_iter_")
        loss_curve_ = of_first("loss_curve_")
        validation_scores_ = of_first("validation_scores_")
        feature_scales_ = of_first("feature_scales_")

    def _set_parameters(self, arguments):
        """Keep every argument of `__init__` under its own name, unchecked, as scikit-learn asks."""
        arguments.pop("self")
        vars(self).update(arguments)

    # ---- training -------------------------------------------------------------------------------

    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Encode the table and train the networks.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            A DataFrame of pandas or polars, a Table of pyarrow, or an array.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or label indicators in classification, numbers in regression.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, at least 0.
        X_val : DataFrame or array-like of shape (n_val, n_features), default=None
            Validation rows of your own, which take the place of those held out of X: they decide
            which epoch's weights are kept, and nothing else is learned from them.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Their labels or numbers.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data or the parameters are invalid. The estimator stays unchanged.
        fastbp.training.NonFiniteLossError
            If the loss becomes NaN or infinite. It is a ValueError and a FloatingPointError.

        Warns
        -----
        UserWarning
            If `time_limit` does not suffice for an epoch: one is trained.
        """
        learn = imported("fastbp.tabular.training").learn
        own = OwnRows.of(X_val, y_val, sample_weight_val)
        vars(self)["_model"] = learn(self, X, y, sample_weight, own)
        return self

    def _member_parameters(self, n_numerical):
        """The parameters of the networks, as the preset and the estimator's own say."""
        chosen = PRESETS[self.preset].for_task(self._task, n_numerical)
        chosen |= {name: getattr(self, name) for name in SHARED}
        for name in ("hidden_layer_sizes", "learning_rate_init"):
            if getattr(self, name) is not None:
                chosen[name] = getattr(self, name)
        return chosen

    def save(self, path: Path) -> None:
        """Save the fitted model to a file that `fastbp.load` reads, preprocessing included.

        Other than a pickle, the file is safe to load from anybody: it holds numbers and text and
        nothing that could be run. It is written in one step: whatever happens, there is the old
        file or the new one. The format is safetensors.

        Parameters
        ----------
        path : str or path-like
            A file there is replaced.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the model has not been fitted.
        TypeError
            If the model is of a subclass, which may hold more than a file has.
        ValueError
            If the model or its parameters are invalid, or if a label or a parameter is of a type
            that cannot be stored.
        OSError
            The system's.

        Warns
        -----
        UserWarning
            If something stays behind: a `callback`, or attributes that are not the estimator's own.
        """
        imported("fastbp.tabular.files").save(self, path)

    # ---- prediction -----------------------------------------------------------------------------

    def _fitted(self):
        """The model, to be taken once for all that a prediction needs."""
        model = vars(self).get("_model")
        if model is None:
            check_is_fitted(self)
        return model

    def _with(self, model):
        """A copy of the estimator that has another model."""
        estimator = object.__new__(type(self))
        vars(estimator).update(vars(self), _model=model)
        return estimator

    def _here(self, member):
        """A member that computes with the estimator's present device and number of threads."""
        wanted = {"n_threads": self.n_threads, "device": self.device}
        if all(getattr(member, name) == value for name, value in wanted.items()):
            return member
        present = object.__new__(type(member))
        vars(present).update(vars(member), **wanted)
        return present

    # ---- scikit-learn's contract ----------------------------------------------------------------

    def __setstate__(self, state):
        """Take a pickled state, of which the members and the preprocessing check their own parts.

        Raises
        ------
        ValueError
            If it is no state of an estimator for tables, or of a newer version.
        """
        BaseEstimator.__setstate__(self, checked_state(type(self), state))

    def __sklearn_is_fitted__(self):
        return vars(self).get("_model") is not None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags
