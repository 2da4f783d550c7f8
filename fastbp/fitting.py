"""One fit: prepare, train, keep. The same sequence for `fit`, `partial_fit` and `fit_many`."""

from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp import devices
from fastbp import parameters as params
from fastbp.callbacks import watchers_of
from fastbp.curves import curve_of
from fastbp.data import Data
from fastbp.epochs import InMemory
from fastbp.generators import check_state, random_state_of
from fastbp.initialisation import initialise
from fastbp.judging import OwnRows, make_judge
from fastbp.late import imported
from fastbp.model import Model, View, model_of
from fastbp.network import Network
from fastbp.precisions import LOW_PRECISIONS, TF32
from fastbp.preparing import (
    choose_device,
    describe_network,
    draw_sample,
    go_on_from,
    make_dropout,
    make_optimizer,
)
from fastbp.progress import Progress, check_progress
from fastbp.scoring import read_scoring
from fastbp.training import Settings, Split, Training, fit_stochastic
from fastbp.validation import (
    check_sample_weight,
    check_training_data,
    kind_of_targets,
    refuse_sparse,
)

_MISSING = object()
# Fields of a network that parameters have other names for.
_PARAMETERS = {"has_slopes": "parametric_activation", "n_embedded": "embedded_features"}


@dataclass(frozen=True)
class GivenData:
    """The arguments of a call of `fit` or `partial_fit`, not yet checked.

    Parameters
    ----------
    X, y, sample_weight : object
    own : fastbp.judging.OwnRows or None, default=None
        Validation rows.
    """

    X: object
    y: object
    sample_weight: object
    own: OwnRows | None = None
    rows = None  # all of them

    @property
    def raw(self):
        """X as it was given."""
        return self.X

    def as_given(self):
        """X, y and sample_weight."""
        return self.X, self.y, self.sample_weight

    def check(self, estimator, model):
        """Check all of it.

        Parameters
        ----------
        estimator : estimator
        model : Model or None
            With whose features X must agree.

        Returns
        -------
        X, y, feature_names : as from `fastbp.validation.check_training_data`
        sample_weight : ndarray of shape (n_samples,) or None
        """
        kind = kind_of_targets(estimator)
        X, y, names = check_training_data(estimator, self.X, self.y, model=model, **kind)
        return X, y, names, check_sample_weight(self.sample_weight, X)

    def check_validation(self, estimator, n_features, feature_names):
        """Check the validation rows; None without."""
        return self.own and self.own.check(estimator, n_features, feature_names)

    def encode(self, fit, y, dtype):
        """Turn y into targets and labels, and count the columns of targets."""
        return fit.encode(y, dtype)

    def rows_of(self, fit):
        """Who has the rows of a training."""
        return InMemory()


class Fit:
    """One call of `fit` or `partial_fit`, from its arguments to fitted attributes.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    incremental : bool, default=False
        Train one epoch, as in `partial_fit`.
    classes : array-like or None, default=None
        Of `partial_fit`.
    resume : bool, default=False
        Go on from the estimator's checkpoint.
    shows_progress : bool, default=True
        Whether a fit with verbose="progress" has a line of its own.

    Attributes
    ----------
    raw : object
        X as it was given.
    y : ndarray
        Checked, before it is encoded.
    device : {"cpu", "cuda"}
    dtype : numpy dtype
        Of the parameters.
    before : Model or None
        The model that training continues.
    start : Model or None
        Its weights, or weights without a network that were assigned before the first fit.
    network : Network
    labels : Labels or None
    units : Targets or None
    training : Training
        These from `prepare` on.
    parameters : ndarray of shape (n_parameters,)
        The result of `train`.
    """

    def __init__(
        self, estimator, incremental=False, classes=None, resume=False, shows_progress=True
    ):
        self.estimator, self.incremental, self.classes = estimator, incremental, classes
        self.resume, self.shows_progress = resume, shows_progress
        continues = incremental or estimator.warm_start
        self.before = self.start = model_of(estimator) if continues else None
        if continues and self.before is None and "coefs_" in vars(estimator):
            self.start = Model(None, estimator.coefs_, getattr(estimator, "intercepts_", None))
        self._replaced = {}  # attributes of the estimator that `keep` has set, as they were

    @property
    def goes_on(self):
        """Whether training continues from the present weights."""
        return self.start is not None

    # ---- prepare ------------------------------------------------------------------------------

    def prepare(self, given):
        """Check the data, encode y, and draw all random numbers needed before the first epoch.

        The draws are scikit-learn's, in its order.

        Parameters
        ----------
        given : GivenData, fastbp.shared_data.SharedData or fastbp.sources.streaming.GivenSource
        """
        estimator = self.estimator
        device = self.device = choose_device(estimator)
        read_scoring(estimator.scoring)  # also where there is nothing to score
        X, self.y, self._feature_names, weight = given.check(estimator, self.before)
        own = given.check_validation(estimator, X.shape[1], self._feature_names)
        dtype = self.dtype = self._choose_dtype(X, device)
        targets, self.labels, _ = given.encode(self, self.y, dtype)
        self.raw = given.raw
        units = None if self.before is None else self.before.targets
        supervision = estimator._supervise(targets, self.labels, weight, dtype, units)
        targets, weight, self.units = (
            supervision.targets, supervision.sample_weight, supervision.units
        )  # fmt: skip
        self._check_units()
        self.network = describe_network(estimator, X.shape[1], self.labels, supervision)
        for each in (X, X if own is None else own.X):
            refuse_sparse(self.network, each)
        rows, data_rows = given.rows, X
        if rows is not None and estimator.solver == "lbfgs":
            rows, data_rows = None, X[rows]
        elif rows is not None:  # the draws need only the shape of X
            data_rows = np.broadcast_to(np.uint8(0), (len(rows), X.shape[1]))
        data = Data(data_rows, targets, weight, float(estimator.input_scale))
        # Rows of X that are listed are not copied.
        given_rows = (data_rows, None) if rows is None else (X, rows)
        self.training = self._begin(given_rows, data, dtype, own, given.rows_of(self))
        if rows is not None:
            _spread(self.training, X, rows)
        self.training.watchers = watchers_of(self, given)

    def _check_units(self):
        """See that training goes on in the units in which it began."""
        if self.before is None:
            return
        old, new = (bool(each and each.is_scaled) for each in (self.before.targets, self.units))
        if old != new:
            raise ValueError(
                f"Training cannot go on: the model was fitted with scale_targets={old}, but the "
                f"estimator has scale_targets={new}. Keep it as it was, or train a new model by "
                "fit with warm_start=False."
            )

    def encode(self, y, dtype):
        """Turn y into targets: see the estimators' `_encode`."""
        return self.estimator._encode(y, dtype, self.before, self.incremental, self.classes)

    def _begin(self, given_rows, data, dtype, own, rows):
        """Make the `Training`, which has no engine yet.

        `given_rows` are X and which of its rows `data` is about; None for all.
        """
        estimator = self.estimator
        random_state = random_state_of(estimator.random_state)
        rows.seed(random_state)
        start = self._first_parameters(given_rows, dtype, random_state)
        settings = Settings(
            **{each.name: getattr(estimator, each.name) for each in fields(Settings)}
        )
        settings = replace(settings, verbose=settings.verbose not in (False, "progress"))
        progress = self._progress_so_far(own is not None)
        training = Training(None, data, settings, progress, start=start, rows=rows)
        training.present = self._present_estimator
        training.holdout_state = vars(estimator).get("_holdout_state") if self.goes_on else None
        if not (self.incremental or estimator.checkpoint is None):
            training.checkpoint = imported("fastbp.checkpoints").Checkpoint.of(estimator)
        if estimator.solver == "lbfgs":
            params.refuse_for_lbfgs(estimator)
            if own is not None:
                training.split = self._split(own, data, rows.everything(data), None)
        else:
            training.split = self._split_rows(training, own, random_state)
            before = vars(estimator).get("_optimizer") if self.incremental else None
            training.optimizer = make_optimizer(estimator, self.network, dtype, before)
            training.start = go_on_from(training.optimizer, self.network, before, start)
            training.optimizer.dropout = make_dropout(estimator, before, random_state)
            training.random_state = random_state
        if self.resume:
            self._resume(training, own)
        return training

    def _choose_dtype(self, X, device):
        estimator = self.estimator
        if estimator.precision in LOW_PRECISIONS:
            return np.dtype(np.float32)  # of the weights
        if estimator.precision != "auto":
            return np.dtype(estimator.precision)
        if self.goes_on:
            return self.start.parameter_dtype()
        is_single = X.dtype == np.float32 or device == "cuda"
        return np.dtype(np.float32 if is_single else np.float64)

    def _first_parameters(self, given_rows, dtype, random_state):
        """Draw the initial parameters, or take those that training continues from."""
        estimator, network = self.estimator, self.network
        if not self.goes_on:
            default = params.default_activation(estimator.activation)
            method = estimator.initialization
            sample = draw_sample(method, *given_rows, estimator.input_scale, random_state)
            return initialise(network, method, random_state, dtype, default, sample)
        folded = network.folded()
        before = folded if self.before is None else self.before.network
        for each in fields(Network):
            old, new = getattr(before, each.name), getattr(folded, each.name)
            if old != new:
                name = _PARAMETERS.get(each.name, each.name)
                raise ValueError(
                    f"Training cannot go on: the model was fitted with {name}={old}, but the "
                    f"parameters and y now make {name}={new}. Keep them as they were, or "
                    "train a new model by fit with warm_start=False."
                )
        return network.unfold(replace(self.start, network=folded).flat(dtype))

    def _progress_so_far(self, has_own_rows):
        """The progress that training continues from, as the estimator's attributes say."""
        estimator, progress = self.estimator, Progress()
        scored = estimator.early_stopping and estimator.solver != "lbfgs"
        if self.goes_on:
            attributes = vars(estimator)
            check_progress(attributes)
            progress.loss_curve = curve_of("loss_curve_", attributes.get("loss_curve_", ()))
            progress.n_samples_seen = attributes.get("t_", 0)
            best_loss = attributes.get("best_loss_")
            progress.best_loss = np.inf if best_loss is None else best_loss
            if self.incremental:
                progress.no_improvement_count = attributes.get("_no_improvement_count", 0)
        if scored or has_own_rows:
            self._begin_curves(progress)
        if scored:
            progress.best_validation_score = -np.inf
            progress.best_loss = None
        return progress

    def _begin_curves(self, progress):
        """Go on with the curves of validation rows, or begin them."""
        attributes = vars(self.estimator) if self.goes_on else {}
        progress.validation_scores = list(attributes.get("validation_scores_") or ())
        progress.validation_loss_curve = list(attributes.get("validation_loss_curve_") or ())
        names = read_scoring(self.estimator.scoring)
        if len(names) > 1:
            before = attributes.get("validation_metrics_") or {}
            progress.validation_metrics = {name: list(before.get(name, ())) for name in names}

    def _split_rows(self, training, own, random_state):
        """Take all rows to learn from, or hold some out for early stopping."""
        estimator, fraction, data = (
            self.estimator,
            self.estimator.validation_fraction,
            training.data,
        )
        if own is not None or not estimator.early_stopping:
            return self._split(own, data, training.rows.everything(data), None)
        if fraction == 0:
            raise InvalidParameterError(
                f"validation_fraction must be > 0 with early_stopping=True, got {fraction}."
            )
        if training.holdout_state is None:
            training.holdout_state = random_state.get_state()
        else:
            # A warm start draws the same split as the first fit.
            random_state = np.random.RandomState()
            check_state(training.holdout_state)
            random_state.set_state(training.holdout_state)
        labels = None if self.labels is None else self.labels.to_stratify(data.targets)
        train, held_out = training.rows.hold_out(data, fraction, random_state, labels)
        weight = data.sample_weight
        if weight is not None and not (weight[train].any() and weight[held_out].any()):
            raise ValueError(
                "sample_weight is zero in all rows of the training or of the validation split. "
                "Leave out the rows without weight, or use early_stopping=False."
            )
        split = self._split(own, data, train, held_out)
        return replace(split, judge=training.rows.bring(split.judge, data))

    def _split(self, own, data, train, held_out):
        """The split into these rows, with the judge of those held out or the user's own, if any."""
        return Split(train, held_out, make_judge(self, own, held_out, data))

    def _resume(self, training, own):
        """Go on from the checkpoint, if the file exists."""
        if training.checkpoint is None:
            raise InvalidParameterError(
                "resume=True needs the file that an earlier fit wrote, got checkpoint=None. Set "
                "checkpoint to its path."
            )
        if training.checkpoint.exists():
            split = partial(self._split_rows, training, own, training.random_state)
            training.checkpoint.resume(training, split)

    # ---- train, keep --------------------------------------------------------------------------

    def train(self, n_threads):
        """Train on the estimator's device, with at most `n_threads` (None for all) on a CPU."""
        training = self.training
        with training.rows.make_engine(self, n_threads) as engine:
            training.use(engine)
            self.run(training)

    def make_engine(self, n_threads):
        """An engine of the estimator's device."""
        precision, device = self.estimator.precision, self.device
        if precision == TF32:  # a CPU is refused with the reason
            device = self.estimator.device
        low = precision if precision in LOW_PRECISIONS else None
        return devices.make_engine(self.network, self.training.start.dtype, n_threads, device, low)

    def run(self, training):
        """Run a training that has an engine."""
        self.training = training
        if self.estimator.solver == "lbfgs":
            self.parameters = imported("fastbp.lbfgs").fit_lbfgs(training)
        else:
            self.parameters = fit_stochastic(
                training, goes_on=self.goes_on, incremental=self.incremental
            )

    def keep(self):
        """Set the fitted attributes from the result, all at once, and tell the watchers.

        A thread that predicts meanwhile sees the old model or the new one, and Ctrl-C finds either
        none changed or all.
        """
        self.assign(self._fitted_attributes(self.parameters))
        try:
            for watcher in self.training.watchers:
                watcher.finish(self)
        except BaseException:
            self.undo()
            raise

    def assign(self, fitted):
        """Give the estimator fitted attributes, those of this fit or of its copy elsewhere."""
        attributes = vars(self.estimator)
        assigned = View.names & attributes.keys()  # before the first fit: weights to start from
        self._replaced = {name: attributes.get(name, _MISSING) for name in (*fitted, *assigned)}
        attributes.update(fitted)
        for name in assigned:
            attributes.pop(name, None)

    def assigned(self):
        """What `keep` has given the estimator, as a pickle may hold it."""
        state = self.estimator.__getstate__()
        return {name: state[name] for name in self._replaced if name in state}

    def _fitted_attributes(self, parameters):
        """The attributes of an estimator that has these parameters at the present state."""
        progress = self.training.progress
        return {
            "_model": Model.of(
                self.network, parameters, labels=self.labels, feature_names=self._feature_names,
                input_scale=self.training.data.input_scale, targets=self.units,
            ),
            "_optimizer": self.training.optimizer,
            "_holdout_state": self.training.holdout_state,
            "_no_improvement_count": progress.no_improvement_count,
            "loss_": progress.loss,
            "loss_curve_": progress.loss_curve,
            "best_loss_": progress.best_loss,
            "validation_scores_": progress.validation_scores,
            "validation_loss_curve_": progress.validation_loss_curve,
            "validation_metrics_": progress.validation_metrics,
            "best_validation_score_": progress.best_validation_score,
            "best_iter_": progress.best_iter,
            "n_iter_": progress.n_iter,
            "t_": progress.n_samples_seen,
        }  # fmt: skip

    def present_attributes(self, parameters):
        """The same in the midst of training, apart from what training goes on to change."""
        fitted = self._fitted_attributes(parameters)
        fitted |= {name: list(each) for name, each in fitted.items() if isinstance(each, list)}
        if fitted["validation_metrics_"] is not None:
            metrics = fitted["validation_metrics_"].items()
            fitted["validation_metrics_"] = {name: list(each) for name, each in metrics}
        return fitted | {"_optimizer": None}  # whose moments the engine has

    def _present_estimator(self, parameters):
        """The estimator as it would be with these parameters, to predict with."""
        attributes = vars(self.estimator)
        estimator = object.__new__(type(self.estimator))
        vars(estimator).update({k: v for k, v in attributes.items() if k not in View.names})
        vars(estimator).update(self.present_attributes(parameters))
        return estimator

    def close(self):
        """Tell the watchers that the fit is over, or has failed."""
        training = vars(self).get("training")
        if training is None:
            return
        try:
            for watcher in training.watchers:
                watcher.close()
        finally:
            training.rows.close()

    def undo(self):
        """Take back what `keep` has done, if it has."""
        attributes = vars(self.estimator)
        attributes.update({k: v for k, v in self._replaced.items() if v is not _MISSING})
        for name in self._replaced:
            if self._replaced[name] is _MISSING:
                attributes.pop(name, None)


def _spread(training, X, rows):
    """Let a training that was prepared for some rows of X read them from X itself."""
    data, split = training.data, training.split

    def spread(values):
        if values is None:
            return None
        spread = np.zeros((X.shape[0], *values.shape[1:]), values.dtype)
        spread[rows] = values
        return spread

    training.data = Data(X, spread(data.targets), spread(data.sample_weight), data.input_scale)
    held_out, judge = split.validation, split.judge
    if held_out is not None:
        held_out = rows[held_out]
        judge = replace(judge, rows=held_out)
    training.split = Split(rows[split.train], held_out, judge)
