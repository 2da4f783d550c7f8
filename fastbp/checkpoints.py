"""Checkpoints of a running fit: what it takes to go on after a crash as if there had been none."""

import os
import reprlib
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from inspect import signature

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import container, fingerprints, generators
from fastbp.curves import Curve
from fastbp.progress import Progress, check_progress

FORMAT, VERSION = "fastbp checkpoint", 3
# Parameters that change nothing about the result.
_WITHOUT_EFFECT = {
    "callback", "checkpoint", "checkpoint_every", "client", "n_threads", "verbose",
}  # fmt: skip
_OPTIMIZER_STATE = "step", "epochs", "learning_rate"
_OF_VALIDATION = {"X": "X_val", "y": "y_val", "sample_weight": "sample_weight_val"}


@dataclass
class Checkpoint:
    """The file that a fit keeps its state in.

    Parameters
    ----------
    path : str or path-like
    every : int
        Epochs from one writing to the next. The last state of a fit is always written.
    settings : dict
        The parameters that the result depends on, as `settings_of` gives them.
    """

    path: object
    every: int
    settings: dict
    _fingerprint: dict | None = None

    @classmethod
    def of(cls, estimator):
        """The checkpoint that an estimator's parameters ask for."""
        if estimator.solver == "lbfgs":
            raise InvalidParameterError(
                f"checkpoint={estimator.checkpoint!r} needs a stochastic solver: the state of "
                "solver='lbfgs' is SciPy's. Use checkpoint=None, or another solver."
            )
        return cls(estimator.checkpoint, estimator.checkpoint_every, settings_of(estimator))

    def exists(self):
        """Whether there is a file to resume from."""
        return os.path.exists(self.path)

    # ---- write --------------------------------------------------------------------------------

    def after_epoch(self, training):
        """Write the state after an epoch, if it is due or the last."""
        if training.ending is not None or training.progress.n_iter % self.every == 0:
            self.write(training)

    def write(self, training):
        """Write a training's state, in one step: a reader finds the last one or this one, whole."""
        training.settle()
        optimizer, progress = training.optimizer, training.progress
        arrays_of_rows, rows = training.rows.state(training)
        moments = training.engine.store_moments()
        generator, numbers = generators.take_apart(training.random_state)
        arrays = {
            "parameters": training.engine.store_parameters(),
            **{f"moments.{index}": moment for index, moment in enumerate(moments)},
            **arrays_of_rows,
            "generator": generator,
            "loss_curve": np.asarray(progress.loss_curve),
        }
        description = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "data": self._fingerprint_of(training),
            "ending": training.ending,
            "generator": numbers,
            "optimizer": {name: getattr(optimizer, name) for name in _OPTIMIZER_STATE},
            "progress": _scalars_of(progress),
            "rows": rows,
        }
        metrics = progress.validation_metrics or {}
        for name, array in (
            ("best_parameters", training.best_parameters),
            ("validation_scores", progress.validation_scores),
            ("validation_loss_curve", progress.validation_loss_curve),
            *((_metric(name), curve) for name, curve in metrics.items()),
        ):
            if array is not None:
                arrays[name] = np.asarray(array)
        if optimizer.dropout is not None:
            description["dropout_seed"] = optimizer.dropout.seed
        if training.holdout_state is not None:
            arrays["holdout"], description["holdout"] = generators.take_apart(
                training.holdout_state
            )
        container.write(self.path, arrays, description)

    def _fingerprint_of(self, training):
        if self._fingerprint is None:
            self._fingerprint = training.rows.fingerprint(training.data)
            if training.judge is not None and training.split.validation is None:  # the user's own
                own = fingerprints.of_rows(training.judge.own)
                self._fingerprint |= {_OF_VALIDATION[name]: known for name, known in own.items()}
        return self._fingerprint

    # ---- read ---------------------------------------------------------------------------------

    def resume(self, training, split):
        """Bring a training that has just been prepared to the state in the file.

        Parameters
        ----------
        training : Training
        split : callable
            Draws a `Split` of the rows anew, from the training's `holdout_state`.

        Raises
        ------
        ValueError
            If the file is damaged, or was written by a fit with other parameters or other data.
        """
        arrays, description = container.read(self.path)
        found = description.get("format"), description.get("version")
        if found != (FORMAT, VERSION):
            raise ValueError(
                f"{self.path} is no checkpoint that this fastbp can read: it says "
                f"{reprlib.repr(found)}, not {(FORMAT, VERSION)}."
            )
        self._compare(description, training)
        arrays = dict(arrays)
        with self._naming_damages():
            holds_out_others = _restore_holdout(training, arrays, description)
        if holds_out_others:
            training.split = split()
        with self._naming_damages():
            _restore(training, arrays, description)

    @contextmanager
    def _naming_damages(self):
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = container.shortened(error)
            why = f"it has no {why}" if isinstance(error, KeyError) else why
            raise ValueError(f"The checkpoint {self.path} is damaged: {why}") from error

    def _compare(self, description, training):
        """See that parameters and data are those of the fit that wrote the file."""
        theirs = _as_dict(description.get("settings"))
        missing = object()
        for name in theirs | self.settings:
            if theirs.get(name, missing) != self.settings.get(name, missing):
                then, now = (_said(name, each) for each in (theirs, self.settings))
                raise ValueError(
                    f"The checkpoint {self.path} was written with {then}, but the estimator has "
                    f"{now}. Use the same parameters, or resume=False to train anew."
                )
        theirs, ours = _as_dict(description.get("data")), self._fingerprint_of(training)
        changed = [
            name if name in ours else reprlib.repr(name)
            for name in ours | theirs
            if theirs.get(name) != ours.get(name)
        ]
        if changed:
            raise ValueError(
                f"The checkpoint {self.path} was written with other data: "
                f"{container.shortened(', '.join(changed))} differ. Data must be the same to the "
                "bit, in the same order, and a source must have the same buffer and files that "
                "nobody has written to. Use resume=False to train anew."
            )


def _as_dict(found):
    return found if isinstance(found, dict) else {}


def _said(name, settings):
    name, there = reprlib.repr(name)[1:-1], name in settings
    return f"{name}={reprlib.repr(settings[name])}" if there else f"no {name}"


def settings_of(estimator):
    """The parameters that a fit's result depends on, in types that JSON knows.

    Functions and random generators stand there by name: the state of a generator is kept apart.
    """
    names = [name for name in signature(type(estimator)).parameters if name not in _WITHOUT_EFFECT]
    return {"class": type(estimator).__name__} | {
        name: _plain(getattr(estimator, name)) for name in names
    }


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)  # infinity is not in JSON
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(each)] for key, each in value.items()]}
    if isinstance(value, bytes):
        return repr(value)
    # In NumPy 2.0 its own functions have only the second of these.
    names = (getattr(value, name, None) for name in ("__qualname__", "__name__"))
    return next(filter(None, names), type(value).__name__)


def _scalars_of(progress):
    """The fields of `Progress` that are single numbers, by name."""
    names = [each.name for each in fields(Progress)]
    values = {name: getattr(progress, name) for name in names}
    return {
        name: None if value is None else repr(float(value)) if isinstance(value, float) else value
        for name, value in values.items()
        if not (name == "loss_curve" or name.startswith("validation_"))
    }


def _metric(name):
    """The array of one of several scores."""
    return f"validation_metrics.{name}"


def _restore_holdout(training, arrays, description):
    """Set the draw of the rows to hold out; return whether it is another than the prepared one.

    It is where `random_state` is None, or a generator that has gone on.
    """
    before = training.holdout_state
    if before is None and "holdout" not in arrays:
        return False
    training.holdout_state = generators.put_together(arrays.pop("holdout"), description["holdout"])
    return before is None or not generators.are_equal(before, training.holdout_state)


def _restore(training, arrays, description):
    """Set all that changes in the course of a training. Shapes are the prepared training's."""
    optimizer = training.optimizer

    def take(name, like):
        array = arrays.pop(name)
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(
                f"{name} has shape {array.shape} and dtype {array.dtype}, not {like.shape} and "
                f"{like.dtype}"
            )
        return array

    start, scores = training.start, training.is_scored
    parameters, best = take("parameters", start), None
    if scores and "best_parameters" in arrays:
        best = take("best_parameters", start)
    for array in (parameters, best):
        if array is not None and not np.isfinite(array).all():
            raise ValueError("parameters are not finite")
    optimizer.moments = [take(f"moments.{i}", start) for i in range(len(optimizer.moments))]
    _check_keys("optimizer", description["optimizer"], _OPTIMIZER_STATE)
    for name in _OPTIMIZER_STATE:
        setattr(optimizer, name, description["optimizer"][name])
    if optimizer.dropout is not None:
        optimizer.dropout = replace(optimizer.dropout, seed=description["dropout_seed"])
    optimizer.check(len(parameters))
    state = generators.put_together(arrays.pop("generator"), description["generator"])
    training.rows.restore(training, arrays, description["rows"])
    progress = _restore_progress(description, arrays, training)
    for count in (optimizer.step, optimizer.epochs, progress.n_samples_seen):
        if type(count) is not int or count >= 2**63:
            raise ValueError(f"{reprlib.repr(count)} is no count")
    if arrays:
        raise ValueError(f"it has other arrays: {reprlib.repr(sorted(arrays))}")
    training.start, training.best_parameters, training.progress = parameters, best, progress
    training.random_state.set_state(state)
    training.ending, training.is_resumed = description["ending"], True


def _check_keys(name, found, expected):
    if not isinstance(found, dict) or found.keys() != {*expected}:
        raise ValueError(f"{name} must have {sorted(expected)}, got {reprlib.repr(found)}")


def _restore_progress(description, arrays, training):
    """How far training had come, in a form that it can go on from, and to an end."""
    max_iter, scores, judge = training.settings.max_iter, training.is_scored, training.judge
    expected = _scalars_of(Progress())
    _check_keys("progress", description["progress"], expected)
    progress = Progress(
        **{
            name: float(value) if isinstance(value, str) else value
            for name, value in description["progress"].items()
        }
    )
    check_progress({
        "n_iter_": progress.n_iter, "t_": progress.n_samples_seen, "best_iter_": progress.best_iter,
        "_no_improvement_count": progress.no_improvement_count, "loss_": progress.loss,
        "best_loss_": progress.best_loss, "best_validation_score_": progress.best_validation_score,
    })  # fmt: skip
    progress.loss = np.float64(progress.loss)

    def take_curve(name):
        curve = arrays.pop(name)
        if curve.dtype != np.float64 or curve.ndim != 1 or len(curve) < progress.n_iter:
            raise ValueError(f"{name} has shape {curve.shape} and dtype {curve.dtype}")
        return curve

    progress.loss_curve = Curve(take_curve("loss_curve"))
    if judge is not None:
        progress.validation_scores = take_curve("validation_scores").tolist()
        progress.validation_loss_curve = take_curve("validation_loss_curve").tolist()
        if judge.names:
            progress.validation_metrics = {
                name: take_curve(_metric(name)).tolist() for name in judge.names
            }
    if (progress.best_loss is None) != scores or (progress.best_validation_score is None) == scores:
        raise ValueError("its best loss or score is missing")
    ending, n_iter = description["ending"], progress.n_iter
    if ending not in (None, "stopped", "max_iter"):
        raise ValueError(f"ending is {reprlib.repr(ending)}")
    if type(n_iter) is not int or not n_iter <= max_iter or (n_iter == max_iter and not ending):
        raise ValueError(f"it ends after {reprlib.repr(n_iter)} of {max_iter} epochs: {ending}")
    return progress
