"""What the estimators share: fitting and prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from functools import wraps
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import issparse, vstack
from sklearn import get_config
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

from fastbp import devices
from fastbp import parameters as params
from fastbp.callbacks import CallbackSupportMixin
from fastbp.conversion import ConversionMixin
from fastbp.curves import CurveView
from fastbp.data import Data, is_source
from fastbp.fitting import Fit, GivenData
from fastbp.judging import OwnRows
from fastbp.late import imported
from fastbp.model import FittedViews, model_of
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.pickling import PicklingMixin
from fastbp.saving import SavingMixin
from fastbp.validation import check_rows, passing_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Literal, Self, TypeVar

    from numpy.typing import ArrayLike

    from fastbp.hints import ArrayLikeOrSparse, LayerSizes, Path, RandomSource, Schedule, Scoring
    from fastbp.progress import EpochReport
    from fastbp.sources import Source

    Method = TypeVar("Method", bound=Callable[..., Any])


def keeps_hints(decorator: Any) -> Callable[[Method], Method]:
    """Let type checkers see through a decorator of scikit-learn, which has no hints."""
    return decorator


def takes_batches(estimator):
    """True, or AttributeError: whether an estimator's solver has `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic: set "
            f"solver to one of {STOCHASTIC_SOLVERS}."
        )
    return True


def checks_parameters(method: Method) -> Method:
    """Let a method check the parameters at every call.

    scikit-learn's `_fit_context` skips that in `partial_fit` of a fitted estimator.
    """

    @wraps(method)
    def checked(estimator, *arguments, **named):
        if not get_config()["skip_parameter_validation"]:
            params.check(estimator)
        return method(estimator, *arguments, **named)

    return checked  # type: ignore[return-value]


class BaseMLP(
    FittedViews,
    PicklingMixin,
    SavingMixin,
    ConversionMixin,
    CallbackSupportMixin,
    BaseEstimator,
    ABC,
):
    """Base class of the estimators: all but the encoding of targets and the decoding of outputs."""

    _parameter_constraints = params.CONSTRAINTS
    _is_on_cluster = False  # of `fastbp.dask`

    if TYPE_CHECKING:  # parameters are set by name, and fitted attributes by `Fit.keep`
        hidden_layer_sizes: LayerSizes
        activation: str | Sequence[str]
        solver: str
        alpha: float
        batch_size: int | Literal["auto"]
        learning_rate: Schedule
        learning_rate_init: float
        power_t: float
        max_iter: int
        shuffle: bool
        random_state: RandomSource
        tol: float
        verbose: bool | int | Literal["progress"]
        warm_start: bool
        momentum: float
        nesterovs_momentum: bool
        early_stopping: bool
        validation_fraction: float
        beta_1: float
        beta_2: float
        epsilon: float
        n_iter_no_change: float
        max_fun: int
        loss: str
        weight_decay: float
        weight_decay_schedule: Schedule
        warmup: float
        drop_last: bool
        precision: Literal["auto", "float32", "float64", "tf32", "bfloat16"]
        dropout: float | Sequence[float]
        input_dropout: float
        dropout_schedule: Schedule
        max_grad_norm: float | None
        ema_decay: float | None
        learning_rate_factors: dict[str, float] | None
        parametrization: Literal["standard", "neural_tangent"]
        initialization: str
        scaling_layer: bool
        parametric_activation: bool
        numerical_embedding: Literal["pbld"] | None
        embedded_features: int | None
        n_threads: int | None
        input_scale: float
        device: Literal["cpu", "cuda", "auto"]
        callback: Callable[[EpochReport], object] | None
        scoring: Scoring
        ties: Literal["first", "last"]
        checkpoint: Path | None
        checkpoint_every: int
        loss_: float
        loss_curve_: list[float]
        best_loss_: float | None
        validation_scores_: list[float] | None
        validation_loss_curve_: list[float] | None
        validation_metrics_: dict[str, list[float]] | None
        best_validation_score_: float | None
        best_iter_: int
        n_iter_: int
        t_: int

        def set_callbacks(self, *callbacks: Any) -> Self: ...  # from scikit-learn 1.9 on

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...

        def set_params(self, **params: Any) -> Self: ...
    else:
        loss_curve_ = CurveView()

    @classmethod
    def _get_param_names(cls):
        """As of scikit-learn, which reads the signature anew at each of many calls."""
        if "_parameter_names" not in vars(cls):
            cls._parameter_names = tuple(super()._get_param_names())
        return list(cls._parameter_names)

    def _validate_params(self):
        """As of scikit-learn, which makes its objects anew at each call."""
        params.check(self)

    def _set_parameters(self, arguments):
        """Keep every argument of `__init__` under its own name, unchecked, as scikit-learn asks."""
        arguments.pop("self")
        vars(self).update(arguments)

    # ---- training -----------------------------------------------------------------------------

    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def fit(
        self,
        X: ArrayLikeOrSparse | Source,
        y: ArrayLikeOrSparse | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLikeOrSparse | None = None,
        y_val: ArrayLikeOrSparse | None = None,
        sample_weight_val: ArrayLike | None = None,
        resume: bool = False,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Floats, integers or booleans. Integers and booleans are never copied to float as a
            whole. Or a source of rows beyond memory, see `fastbp.sources`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or label indicators in classification, numbers in regression. A source has its
            own y and sample weights.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, at least 0.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Validation rows of your own, for time series, groups, or another split than
            `validation_fraction` makes. They are scored after each epoch; nothing is learned from
            them. With `early_stopping` they take the place of rows held out of X, decide when to
            stop and which weights are kept; without it, and with 'lbfgs', they decide nothing. In a
            `Pipeline`, `X_val` is transformed as X is with ``Pipeline(...,
            transform_input=["X_val"])`` and metadata routing.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Their labels or numbers.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.
        resume : bool, default=False
            Whether to go on from the file that `checkpoint` names, if it exists: the result is that
            of a fit that has never been interrupted, to the bit. With a file that does not exist,
            training starts anew.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data or the parameters are invalid, or if `resume` finds a checkpoint that is
            damaged or was written with other data or parameters. The estimator stays unchanged.
        fastbp.training.NonFiniteLossError
            If the loss becomes NaN or infinite. It is a ValueError and a FloatingPointError.
        """
        if not isinstance(resume, bool | np.bool_):
            raise InvalidParameterError(f"resume must be True or False, got {resume!r}.")
        own = OwnRows.of(X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, own=own, resume=resume)

    def _fit(self, X, y, sample_weight, *, own=None, incremental=False, classes=None, resume=False):
        if incremental and self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it sees one batch of rows at a "
                "time. Set early_stopping=False."
            )
        fit = Fit(self, incremental, classes, resume)
        try:
            fit.prepare(self._given(X, y, sample_weight, own))
            fit.train(self.n_threads)
            fit.keep()
        finally:
            fit.close()
        return self

    def _given(self, X, y, sample_weight, own):
        """The data of a fit; a source that fits into its buffer is read, and is an array then."""
        if not is_source(X):
            return GivenData(X, y, sample_weight, own)
        X.targets(y, sample_weight)  # raises where others are given
        streaming = imported("fastbp.sources.streaming")
        return (streaming.LoadedSource if X.fits else streaming.GivenSource)(X, own)

    # ---- prediction ---------------------------------------------------------------------------

    def _fitted(self):
        """The model, to be taken once for all that a prediction needs."""
        model = model_of(self)
        if model is None:
            check_is_fitted(self)
        return model

    def _outputs(self, model, X, activation=None):
        """A model's outputs for X, of shape (n_samples, n_outputs)."""
        if not params.is_thread_count(self.n_threads):
            params.check(self, ["n_threads"])
        passing = passing_rows(model, X)
        is_checked = passing is None
        X = check_rows(self, model, X) if is_checked else passing
        network, dtype = model.network, model.parameter_dtype()
        with devices.make_engine(network, dtype, self.n_threads, self.device) as engine:
            engine.load_parameters(model.flat(dtype, copy=False))
            outputs = engine.predict(Data(X, input_scale=model.input_scale), None, activation)
        if not (is_checked or engine.inputs_were_finite):
            check_rows(self, model, X)  # raises, unless only the conversion to float32 overflowed
        self._check_outputs(engine, dtype)
        return outputs

    def _check_outputs(self, engine, dtype):
        """See that the outputs of a prediction were finite."""
        if not engine.outputs_were_finite:
            remedy = ", or fit with precision='float64'" if dtype == np.float32 else ""
            raise ValueError(
                f"X is too large for this {dtype} model, or its weights are: the outputs are not "
                f"finite. Scale X as in training{remedy}."
            )

    def _decoded(self, model, X, decode, activation=None):
        """What a function makes of a model's outputs for X; of a source's, buffer by buffer."""
        if not is_source(X):
            return decode(self._outputs(model, X, activation))
        streaming = imported("fastbp.sources.streaming")
        with closing(streaming.outputs_of(self, model, X, activation)) as buffers:
            parts = [decode(outputs) for outputs in buffers]
        return vstack(parts, format="csr") if issparse(parts[0]) else np.concatenate(parts)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.numerical_embedding is None
        return tags

    # ---- targets and outputs ------------------------------------------------------------------

    @abstractmethod
    def _encode(self, y, dtype, model, incremental, classes):
        """Turn y into the targets of `Data`.

        `model` is the one that training continues from, or None. Returns the targets, the labels
        (None for numbers) and the number of output units.
        """

    @abstractmethod
    def _supervise(self, targets, labels, sample_weight, dtype, units=None):
        """Turn encoded targets and the weights of rows into a `Supervision`.

        `units` is what a regressor has kept of the targets that it was first trained on, or None.
        """

    @abstractmethod
    def _output_activation(self, labels):
        """The activation of the output layer."""

    @abstractmethod
    def _score_outputs(self, outputs, labels, targets, sample_weight):
        """How well outputs meet targets; more is better."""
