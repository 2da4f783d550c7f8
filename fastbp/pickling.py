"""What copies and pickles of estimators contain, and how a state is checked before it is used."""

import copy
import pickle
import warnings
from dataclasses import replace
from inspect import signature
from threading import local

import numpy as np
from sklearn.base import _clone_parametrized

from fastbp.curves import Curve, curve_of
from fastbp.generators import check_state
from fastbp.losses import is_averaged
from fastbp.model import Model
from fastbp.optimizers import SCHEDULE_FIELDS, Optimizer
from fastbp.parameters import PLAIN_TYPES
from fastbp.progress import check_progress

STATE_VERSION = 2  # raise it where a state changes such that older programs would misread it


class PicklingMixin:
    """Adds pickles and copies to the estimators.

    They hold all that training needs to go on as it would here, each array once. A callback that
    cannot be pickled stays behind, with a warning.
    """

    def __getstate__(self):
        from fastbp import __version__

        state = dict(super().__getstate__(), _state_version=STATE_VERSION)
        state["_fastbp_version"] = __version__
        if isinstance(state.get("loss_curve_"), Curve):
            state["loss_curve_"] = np.asarray(state["loss_curve_"])  # which all libraries store
        optimizer = state.get("_optimizer")
        functions = [name for name in SCHEDULE_FIELDS if callable(getattr(optimizer, name, None))]
        if functions:  # training reads the estimator's
            state["_optimizer"] = optimizer = copy.copy(optimizer)
            vars(optimizer).update(dict.fromkeys(functions, "constant"))
        if callable(state.get("callback")):
            state["callback"] = _Carried(state["callback"])
        return state

    def __setstate__(self, state):
        """Check a state and take it; parameters that are newer get their defaults.

        Raises
        ------
        ValueError
            If the state is of a newer version, of another library, or damaged.
        """
        super().__setstate__(_checked_state(type(self), state))

    def __deepcopy__(self, memo):
        """Copy everything but the callback, which may hold open files or progress bars."""
        callback = vars(self).get("callback")
        memo[id(callback)] = callback
        copied = memo[id(self)] = object.__new__(self.__class__)
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __sklearn_clone__(self):
        """Clone all parameters but the callback, which the clone shares."""
        parameters = self.get_params(deep=False)
        if parameters.keys() == vars(self).keys() and all(map(_is_constant, parameters.values())):
            clone = self.__class__(**parameters)  # in a quarter of the time
            attributes = vars(clone)
            if all(attributes.get(name) is value for name, value in parameters.items()):
                return clone
        if "callback" not in self._get_param_names() or self.callback is None:  # of a subclass
            return _clone_parametrized(self)
        original = object.__new__(self.__class__)
        vars(original).update(vars(self), callback=None)
        return _clone_parametrized(original).set_params(callback=self.callback)


def _is_constant(value):
    """Whether a value is its own copy."""
    if type(value) is tuple:
        return all(type(each) in PLAIN_TYPES for each in value)
    return type(value) in PLAIN_TYPES


# ---- callbacks in pickles ---------------------------------------------------------------------


class _Carried:
    """A callback on its way into a pickle. Copies by `copy.copy` keep the callback itself."""

    _probed = local()  # callbacks that this thread is trying to pickle; they may refer to models

    def __init__(self, callback):
        self.callback = callback

    def __reduce__(self):
        probed = vars(self._probed).setdefault("ids", set())
        if id(self.callback) in probed:
            return _itself, (self.callback,)
        probed.add(id(self.callback))
        try:
            pickle.dumps(self.callback)
        except Exception as error:  # whatever the callback's objects raise
            warnings.warn(
                f"callback={self.callback!r} cannot be pickled ({error}): the pickled model has "
                "callback=None.",
                stacklevel=2,
            )
            return _itself, (None,)
        finally:
            probed.discard(id(self.callback))
        return _itself, (self.callback,)


def _itself(value):
    return value


def carried(callback):
    """A callback from a state, which wraps it where no pickle has been in between."""
    return callback.callback if isinstance(callback, _Carried) else callback


# ---- checks -----------------------------------------------------------------------------------


def _checked_state(estimator_class, state):
    """An estimator's attributes from a pickled state, of this version or an older one."""
    from fastbp import __version__

    name = estimator_class.__name__
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(
            f"The pickled state of {name} is damaged: it must be a dict of attributes."
        )
    if "_sklearn_version" in state:
        raise ValueError(
            f"This is the state of an estimator of scikit-learn: use {name}.from_sklearn."
        )
    state = dict(state)
    version = state.pop("_state_version", 1)
    writer = state.pop("_fastbp_version", "0.1.0")
    if version not in range(1, STATE_VERSION + 1):
        raise ValueError(
            f"This {name} was pickled by fastbp {writer} in state version {version!r}; fastbp "
            f"{__version__} reads versions up to {STATE_VERSION}. Update fastbp, or train anew."
        )
    if "callback" in state:
        state["callback"] = carried(state["callback"])
    try:
        if version == 1:
            state = _from_version_1(state)
        _check(estimator_class, state)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"The pickled state of {name}, written by fastbp {writer}, is damaged or of another "
            f"library: {error}"
        ) from error
    if state.get("loss_curve_") is not None:
        state["loss_curve_"] = curve_of("loss_curve_", state["loss_curve_"])
    parameters = signature(estimator_class).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | state


def _from_version_1(state):
    """Gather the attributes that became the model; they were kept one by one."""
    if "_network" not in state:
        return state
    network, labels = state.pop("_network"), state.pop("_labels", None)
    averages = network.average_outputs and is_averaged(network.loss)
    network = replace(network, average_outputs=averages)  # once also that of "poisson" was
    state["_model"] = Model(
        network,
        state.pop("coefs_"),
        state.pop("intercepts_"),
        labels,
        state.pop("feature_names_in_", None),
        float(state.get("input_scale", 1.0)),
    )
    for name in ("n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "classes_"):
        state.pop(name, None)
    state.pop("_incremental", None)
    return state


def _check(estimator_class, state):
    """See that the attributes of a fitted estimator are of the right kinds and fit together."""
    model = state.get("_model")
    if model is None:
        if "_model" in state or "loss_" in state:
            raise ValueError("It has fitted attributes, but no model.")
        return
    if not isinstance(model, Model):
        raise ValueError(f"Its model is {model!r}.")
    model.check()
    if estimator_class._numeric_targets != (model.labels is None):
        raise ValueError(f"A {estimator_class.__name__} cannot have the labels {model.labels!r}.")
    check_progress(state)
    optimizer = state.get("_optimizer")
    if optimizer is not None:
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"Its optimizer is {optimizer!r}.")
        optimizer.check(model.network.unfolded(optimizer.has_scales).n_parameters)
    holdout = state.get("_holdout_state")
    if holdout is not None:
        check_state(holdout)
