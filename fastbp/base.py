"""What the estimators share: fitting, prediction, and what pickles and copies contain."""

import copy
from abc import ABC, abstractmethod
from inspect import signature

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils.validation import check_is_fitted

from fastbp import devices
from fastbp import parameters as params
from fastbp.conversion import ConversionMixin
from fastbp.data import Data
from fastbp.fitting import Fit, GivenData
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.validation import check_rows, passes_as_it_is


def takes_batches(estimator):
    """True, or AttributeError: whether an estimator's solver has `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic: set "
            f"solver to one of {STOCHASTIC_SOLVERS}."
        )
    return True


class BaseMLP(ConversionMixin, BaseEstimator, ABC):
    """Base class of the estimators: all but the encoding of targets and the decoding of outputs."""

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
            Floats, integers or booleans. Integers and booleans are never copied to float as a
            whole.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or label indicators in classification, numbers in regression.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, at least 0.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data or the parameters are invalid. The estimator stays unchanged.
        fastbp.training.NonFiniteLossError
            If the loss becomes NaN or infinite. It is a ValueError and a FloatingPointError.
        """
        return self._fit(X, y, sample_weight)

    def _fit(self, X, y, sample_weight, *, incremental=False, classes=None):
        if incremental and self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it sees one batch of rows at a "
                "time. Set early_stopping=False."
            )
        fit = Fit(self, incremental, classes)
        try:
            fit.prepare(GivenData(X, y, sample_weight))
            fit.train(self.n_threads)
            fit.keep()
        except BaseException:
            fit.undo()
            raise
        return self

    # ---- fitted parameters --------------------------------------------------------------------

    def _parameter_dtype(self):
        """The dtype that the model computes in: float32 if all of its parameters are."""
        arrays = self._learned("coefs_") + self._learned("intercepts_")
        single = all(array.dtype == np.float32 for array in arrays)
        return np.dtype(np.float32 if single else np.float64)

    def _learned(self, name):
        """Return `coefs_` or `intercepts_`, which users may have changed, as checked arrays."""
        given = getattr(self, name)
        try:
            arrays = [np.asarray(array) for array in given]
        except (TypeError, ValueError):  # no list, or rows of different lengths
            arrays = None
        if arrays is None or any(array.dtype.kind not in "biuf" for array in arrays):
            raise ValueError(f"{name} must be a list of arrays of numbers, got {given!r}.")
        return arrays

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

    def __getstate__(self):
        """Leave the optimizer out of pickles, unless the model comes from `partial_fit`."""
        state = dict(super().__getstate__())
        if not state.get("_incremental", False):
            state.pop("_optimizer", None)
        return state

    def __setstate__(self, state):
        """Set parameters that are newer than the pickle to their defaults."""
        parameters = signature(self.__class__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__(defaults | state)

    def __deepcopy__(self, memo):
        """Copy the optimizer, too, which a pickle may lack: the copy trains like the original."""
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
        with devices.make_engine(network, dtype, self.n_threads, self.device) as engine:
            engine.load_parameters(self._flatten_parameters(network, dtype, copy=False))
            outputs = engine.predict(Data(X, input_scale=float(self.input_scale)), None, activation)
        if not (is_checked or engine.inputs_were_finite):
            check_rows(self, X)  # raises, unless only the conversion to float32 overflowed
        # Finite numbers of X may overflow in the model's dtype.
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

    # ---- targets and outputs ------------------------------------------------------------------

    @abstractmethod
    def _encode(self, y, dtype, goes_on, incremental, classes):
        """Turn y into the targets of `Data`; return them and the number of output units."""

    @abstractmethod
    def _output_activation(self):
        """The activation of the output layer."""

    @abstractmethod
    def _labels_to_stratify(self, targets):
        """The class of each row, for a stratified split, or None."""

    @abstractmethod
    def _score_outputs(self, outputs, targets, sample_weight):
        """How well outputs meet targets; more is better."""
