"""Checkpoints of a running fit: what it takes to go on after a crash as if there had been none."""

import hashlib
import os
import reprlib
from dataclasses import dataclass, fields, replace
from inspect import signature

import numpy as np
from scipy.sparse import issparse
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import container, generators
from fastbp.curves import Curve
from fastbp.progress import Progress, check_progress

FORMAT, VERSION = "fastbp checkpoint", 2
# Parameters that change nothing about the result.
_WITHOUT_EFFECT = {"callback", "checkpoint", "checkpoint_every", "n_threads", "verbose"}
_OPTIMIZER_STATE = "step", "epochs", "learning_rate"
_CHUNK_BYTES = 2**24  # of rows that are copied to be hashed, where X is not contiguous


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
    _fingerprint: str | None = None

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
        optimizer, progress, split = training.optimizer, training.progress, training.split
        moments = training.engine.store_moments()
        generator, numbers = generators.take_apart(training.random_state)
        arrays = {
            "parameters": training.engine.store_parameters(),
            **{f"moments.{index}": moment for index, moment in enumerate(moments)},
            "order": training.order,
            "train": split.train,
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
        }
        metrics = progress.validation_metrics or {}
        for name, array in (
            ("validation", split.validation),
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
            own = None if training.judge is None else training.judge.own
            self._fingerprint = fingerprint(training.data)
            if own is not None:
                self._fingerprint += fingerprint(own)
        return self._fingerprint

    # ---- read ---------------------------------------------------------------------------------

    def resume(self, training, make_split):
        """Bring a training that has just been prepared to the state in the file.

        Parameters
        ----------
        training : Training
        make_split : callable
            From rows to learn from, and rows held out or None, to a `Split`.

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
        try:
            _restore(training, make_split, arrays, description)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = container.shortened(error)
            why = f"it has no {why}" if isinstance(error, KeyError) else why
            raise ValueError(f"The checkpoint {self.path} is damaged: {why}") from error

    def _compare(self, description, training):
        """See that parameters and data are those of the fit that wrote the file."""
        theirs = description.get("settings")
        theirs = theirs if isinstance(theirs, dict) else {}
        for name, ours in self.settings.items():
            if theirs.get(name) != ours:
                raise ValueError(
                    f"The checkpoint {self.path} was written with {name}="
                    f"{reprlib.repr(theirs.get(name))}, but "
                    f"the estimator has {name}={ours!r}. Use the same parameters, or resume=False "
                    "to train anew."
                )
        if description.get("data") != self._fingerprint_of(training):
            raise ValueError(
                f"The checkpoint {self.path} was written with other data: X, y, sample_weight and "
                "validation rows must be the same, to the bit and in the same order. Use "
                "resume=False to train anew."
            )


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


def fingerprint(data):
    """A digest of rows, targets and sample weights: equal for equal numbers of equal types."""
    digest = hashlib.sha256()
    X = data.X
    parts = (X.data, X.indices, X.indptr) if issparse(X) else (X,)
    digest.update(repr((X.shape, issparse(X), data.input_scale)).encode())
    for array in (*parts, data.targets, data.sample_weight):
        if array is None:
            digest.update(b"none")
            continue
        digest.update(repr((array.shape, array.dtype.str)).encode())
        if array.flags.c_contiguous:
            digest.update(array.reshape(-1).view(np.uint8))
            continue
        n_rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), n_rows):
            chunk = np.ascontiguousarray(array[first : first + n_rows])
            digest.update(chunk.reshape(-1).view(np.uint8))
    return digest.hexdigest()


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


def _restore(training, make_split, arrays, description):
    """Set all that changes in the course of a training. Shapes are the prepared training's."""
    split, optimizer, arrays = training.split, training.optimizer, dict(arrays)

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
    order, train = take("order", split.train), take("train", split.train)
    validation = None if split.validation is None else take("validation", split.validation)
    if scores and "best_parameters" in arrays:
        best = take("best_parameters", start)
    _check_rows(order, train, validation, training.data.n_samples)
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
    if "holdout" in arrays or "holdout" in description:
        training.holdout_state = generators.put_together(
            arrays.pop("holdout"), description["holdout"]
        )
    progress = _restore_progress(description, arrays, training)
    for count in (optimizer.step, optimizer.epochs, progress.n_samples_seen):
        if type(count) is not int or count >= 2**63:
            raise ValueError(f"{reprlib.repr(count)} is no count")
    if arrays:
        raise ValueError(f"it has other arrays: {reprlib.repr(sorted(arrays))}")
    training.start, training.best_parameters, training.progress = parameters, best, progress
    training.split = make_split(train, validation)
    training.order = order
    training.random_state.set_state(state)
    training.ending = description["ending"]


def _check_keys(name, found, expected):
    if not isinstance(found, dict) or found.keys() != {*expected}:
        raise ValueError(f"{name} must have {sorted(expected)}, got {reprlib.repr(found)}")


def _check_rows(order, train, validation, n_rows):
    """See that every row is either trained on, in some order, or held out."""
    for rows in (order, train):
        rows = rows if validation is None else np.concatenate([rows, validation])
        is_whole = len(rows) == n_rows and (not n_rows or 0 <= rows.min() <= rows.max() < n_rows)
        if not is_whole or np.bincount(rows, minlength=n_rows).max(initial=1) > 1:
            raise ValueError("the rows to train on and those held out are not all rows")


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
