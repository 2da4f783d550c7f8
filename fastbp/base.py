"""What the estimators share: how a fit runs, what it leaves behind, and how a model predicts."""

import copy
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from inspect import signature

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

from fastbp import parameters as params
from fastbp.conversion import ConversionMixin
from fastbp.data import Data
from fastbp.devices import TENSOR_CORE_PRECISIONS, resolve
from fastbp.devices import make_engine as _make_engine
from fastbp.lbfgs import fit_lbfgs
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.training import (
    Progress,
    Settings,
    Split,
    Training,
    fit_stochastic,
    hold_out,
)
from fastbp.validation import (
    check_rows,
    check_sample_weight,
    check_training_data,
    passes_as_it_is,
)


def takes_batches(estimator):
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic: set "
            "solver='sgd' or 'adam'."
        )
    return True


class BaseMLP(ConversionMixin, BaseEstimator, ABC):
    """All that the estimators share: everything but what y and the outputs mean."""

    _parameter_constraints = params.CONSTRAINTS

    def _set_parameters(self, arguments):
        """Keep every argument of `__init__` under its own name, unchecked, as scikit-learn asks."""
        arguments.pop("self")
        vars(self).update(arguments)

    # ---- training -----------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Integers and booleans count as their numbers, and are not copied to float as a whole.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or label indicators in classification, numbers in regression.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            On input or parameters that make no sense. The estimator stays as it was before.
        fastbp.training.NonFiniteLossError
            A ValueError and FloatingPointError, when the loss becomes NaN or infinite.
        """
        return self._fit(X, y, sample_weight)

    def _fit(self, X, y, sample_weight, *, incremental=False, classes=None):
        if incremental and self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it sees one batch of rows at a "
                "time. Set early_stopping=False."
            )
        with self._unchanged_on_failure():
            goes_on = self._goes_on(incremental)
            device = self._choose_device()
            X, y = check_training_data(self, X, y, reset=not goes_on, numeric=self._numeric_targets)
            sample_weight = check_sample_weight(sample_weight, X)
            dtype = self._choose_dtype(X, goes_on, device)
            targets, n_outputs = self._encode(y, dtype, goes_on, incremental, classes)
            data = Data(X, targets, sample_weight, float(self.input_scale))
            network = self._describe_network(X.shape[1], n_outputs)
            training = self._begin(network, data, dtype, goes_on, incremental)
            self._train(network, training, self.n_threads, goes_on, incremental)
        return self

    def _goes_on(self, incremental=False):
        """Whether training goes on from the present weights."""
        return hasattr(self, "coefs_") and (incremental or self.warm_start)

    def _begin(self, network, data, dtype, goes_on, incremental=False):
        """Make all draws before the first epoch, in scikit-learn's order.

        Returns
        -------
        training : Training
            Without an engine yet.
        """
        random_state = check_random_state(self.random_state)
        start = self._first_parameters(network, dtype, goes_on, random_state)
        progress = self._progress_so_far(goes_on, incremental)
        training = Training(None, data, self._settings(), progress, start=start)
        if self.solver != "lbfgs":
            training.split = self._split_rows(data, goes_on, random_state)
            training.optimizer = self._make_optimizer(network, dtype, incremental)
            training.random_state = random_state
        return training

    def _train(self, network, training, n_threads, goes_on, incremental=False):
        """Train on this estimator's device, and keep what it comes to."""
        precision = self.precision if self.precision in TENSOR_CORE_PRECISIONS else None
        dtype = training.start.dtype
        with _make_engine(network, dtype, n_threads, self.device, precision) as engine:
            training.use(engine)
            if self.solver == "lbfgs":
                parameters = fit_lbfgs(training)
            else:
                parameters = fit_stochastic(training, goes_on=goes_on, incremental=incremental)
        self._keep(network, parameters, training, incremental)

    def _settings(self):
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})

    @contextmanager
    def _unchanged_on_failure(self):
        """Put all attributes back if anything goes wrong. No attribute is changed in place."""
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _choose_device(self):
        """Where this fit computes: "cpu" or "cuda"."""
        if self.solver == "lbfgs" and self.precision in TENSOR_CORE_PRECISIONS:
            raise InvalidParameterError(
                f"precision={self.precision!r} is too coarse for the line search of "
                "solver='lbfgs'. Use precision='float32' or 'float64', or solver 'sgd' or 'adam'."
            )
        device, reason = resolve(self.device)
        if self.verbose and self.device == "auto":
            where = "GPU" if device == "cuda" else "CPU"
            print(f"device='auto': on the {where}{f', because {reason}' if reason else ''}")
        return device

    def _choose_dtype(self, X, goes_on, device):
        if self.precision in TENSOR_CORE_PRECISIONS:
            return np.dtype(np.float32)  # of the weights
        if self.precision != "auto":
            return np.dtype(self.precision)
        if goes_on:
            return self._parameter_dtype()
        is_single = X.dtype == np.float32 or device == "cuda"
        return np.dtype(np.float32 if is_single else np.float64)

    def _parameter_dtype(self):
        arrays = self._learned("coefs_") + self._learned("intercepts_")
        single = all(array.dtype == np.float32 for array in arrays)
        return np.dtype(np.float32 if single else np.float64)

    def _learned(self, name):
        """Take `coefs_` or `intercepts_`, which users may have changed, as arrays of numbers."""
        given = getattr(self, name)
        try:
            arrays = [np.asarray(array) for array in given]
        except (TypeError, ValueError):  # no list, or rows of different lengths
            arrays = None
        if arrays is None or any(array.dtype.kind not in "biuf" for array in arrays):
            raise ValueError(f"{name} must be a list of arrays of numbers, got {given!r}.")
        return arrays

    def _describe_network(self, n_features, n_outputs):
        sizes = params.hidden_sizes(self.hidden_layer_sizes)
        return Network(
            layer_sizes=(n_features, *sizes, n_outputs),
            hidden_activations=params.hidden_activations(self.activation, len(sizes)),
            output_activation=self._output_activation(),
            loss=self.loss,
            average_outputs=self._average_outputs,
        )

    def _first_parameters(self, network, dtype, goes_on, random_state):
        """Draw the initial parameters, or take those that training goes on from."""
        if not goes_on:
            default = "logistic" if self.activation in ("logistic", "sigmoid") else "relu"
            return network.initialise(random_state, dtype, default_activation=default)
        before = getattr(self, "_network", network)
        for field in fields(Network):
            old, new = getattr(before, field.name), getattr(network, field.name)
            if old != new:
                raise ValueError(
                    f"Training cannot go on: the model was fitted with {field.name}={old}, but the "
                    f"parameters and y now make {field.name}={new}. Keep them as they were, or "
                    "train a new model by fit with warm_start=False."
                )
        return self._flatten_parameters(network, dtype)

    def _flatten_parameters(self, network, dtype, copy=True):
        """`coefs_` and `intercepts_` as one vector, a copy unless none is needed."""
        coefs, intercepts = self._learned("coefs_"), self._learned("intercepts_")
        for name, arrays, shapes in (
            ("coefs_", coefs, network.shapes),
            ("intercepts_", intercepts, [shape[1:] for shape in network.shapes]),
        ):
            found = [array.shape for array in arrays]
            if found != shapes:
                raise ValueError(f"{name} must be arrays of the shapes {shapes}, got {found}.")
        return (network.flatten if copy else network.as_flat)(coefs, intercepts, dtype)

    def _progress_so_far(self, goes_on, incremental):
        progress = Progress()
        if goes_on:
            progress.loss_curve = list(getattr(self, "loss_curve_", ()))
            progress.n_samples_seen = getattr(self, "t_", 0)
            best_loss = getattr(self, "best_loss_", None)
            progress.best_loss = np.inf if best_loss is None else best_loss
        if incremental:
            progress.no_improvement_count = getattr(self, "_no_improvement_count", 0)
        if self.early_stopping and self.solver != "lbfgs":
            scores = getattr(self, "validation_scores_", None) if goes_on else None
            progress.validation_scores = list(scores or ())
            progress.best_validation_score = -np.inf
            progress.best_loss = None
        return progress

    def _split_rows(self, data, goes_on, random_state):
        """Take all rows to learn from, or hold some out for early stopping."""
        if not self.early_stopping:
            if not goes_on:
                self._holdout_state = None
            return Split(np.arange(data.n_samples))
        if self.validation_fraction == 0:
            raise InvalidParameterError(
                "validation_fraction must be > 0 with early_stopping=True, got "
                f"{self.validation_fraction}."
            )
        state = getattr(self, "_holdout_state", None) if goes_on else None
        if state is None:
            self._holdout_state = random_state.get_state()
        else:
            # A warm start draws as the first fit did, so that no row changes sides.
            random_state = np.random.RandomState()
            random_state.set_state(state)
        labels = self._labels_to_stratify(data.targets)
        train, held_out = hold_out(data.n_samples, self.validation_fraction, random_state, labels)
        weight = data.sample_weight
        if weight is not None and not (weight[train].any() and weight[held_out].any()):
            raise ValueError(
                "sample_weight is zero in all rows of the training or of the validation split. "
                "Leave out the rows without weight, or use early_stopping=False."
            )
        score = partial(
            self._score_outputs,
            targets=data.targets[held_out],
            sample_weight=None if weight is None else weight[held_out],
        )
        return Split(train, held_out, score)

    def _make_optimizer(self, network, dtype, incremental):
        """Make a new optimizer; `partial_fit` gives it the state of the last one."""
        optimizer = Optimizer(
            solver=self.solver,
            learning_rate_init=self.learning_rate_init,
            schedule=self.learning_rate,
            power_t=self.power_t,
            momentum=self.momentum,
            nesterovs_momentum=self.nesterovs_momentum,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )
        before = getattr(self, "_optimizer", None) if incremental else None
        if before is None or before.solver != self.solver:
            optimizer.reset(network.n_parameters, dtype)
        else:
            optimizer.step, optimizer.moments = before.step, list(before.moments)
            if before.learning_rate_init == self.learning_rate_init:
                optimizer.learning_rate = before.learning_rate
        return optimizer

    def _keep(self, network, parameters, training, incremental):
        """Turn the result into fitted attributes."""
        progress = training.progress
        self.coefs_, self.intercepts_ = network.views(parameters)
        self.loss_ = progress.loss
        self.loss_curve_ = progress.loss_curve
        self.best_loss_ = progress.best_loss
        self.validation_scores_ = progress.validation_scores
        self.best_validation_score_ = progress.best_validation_score
        self.n_iter_ = progress.n_iter
        self.t_ = progress.n_samples_seen
        self.n_layers_ = len(network.layer_sizes)
        self.n_outputs_ = network.layer_sizes[-1]
        self.out_activation_ = network.output_activation
        self._no_improvement_count = progress.no_improvement_count
        self._network = network
        self._optimizer = training.optimizer
        self._incremental = incremental

    def __getstate__(self):
        """Leave the optimizer out of pickles, except where `partial_fit` has been at work."""
        state = dict(super().__getstate__())
        if not state.get("_incremental", False):
            state.pop("_optimizer", None)
        return state

    def __setstate__(self, state):
        """Give parameters that the pickle's version did not know their defaults."""
        parameters = signature(self.__class__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__(defaults | state)

    def __deepcopy__(self, memo):
        """Copy the optimizer too, which pickles may leave out: the copy trains as the original."""
        copied = memo[id(self)] = object.__new__(self.__class__)
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    # ---- prediction ---------------------------------------------------------------------------

    def _outputs(self, X, activation=None):
        """The network's outputs for X, of shape (n_samples, n_outputs)."""
        if not hasattr(self, "_network"):
            check_is_fitted(self, "_network")
        is_checked = not passes_as_it_is(self, X)
        X = check_rows(self, X) if is_checked else X
        network, dtype = self._network, self._parameter_dtype()
        with _make_engine(network, dtype, self.n_threads, self.device) as engine:
            engine.load_parameters(self._flatten_parameters(network, dtype, copy=False))
            outputs = engine.predict(Data(X, input_scale=float(self.input_scale)), None, activation)
        if not (is_checked or engine.inputs_were_finite):
            check_rows(self, X)  # raises, unless only the conversion to float32 overflowed
        # What is finite in X may not be in the model's arithmetic.
        if X.dtype == np.float64 and dtype == np.float32 and not np.isfinite(outputs).all():
            raise ValueError(
                "X is too large for this float32 model: the outputs are not finite. Scale X as in "
                "training, or fit with precision='float64'."
            )
        return outputs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ---- what y and the outputs mean ----------------------------------------------------------

    @abstractmethod
    def _encode(self, y, dtype, goes_on, incremental, classes):
        """Turn y into the targets of `Data`; return them and the number of output units."""

    @abstractmethod
    def _output_activation(self):
        """The activation of the output layer."""

    @abstractmethod
    def _labels_to_stratify(self, targets):
        """The class of each row, to hold out in proportion, or None."""

    @abstractmethod
    def _score_outputs(self, outputs, targets, sample_weight):
        """How well outputs meet targets; more is better."""
