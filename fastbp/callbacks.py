"""Who is told of every epoch: the user's callback, scikit-learn's callbacks, the progress line."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol

try:
    # At the top, as `_fit_context` would import it in the midst of the first fit.
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
    from sklearn.callback._callback_support import callback_management_context
except ImportError:  # of scikit-learn before 1.9, whose estimators have no callbacks
    callback_management_context = None

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing."""


class Watcher(Protocol):
    """Someone who is told of every epoch of a fit (or iteration of lbfgs)."""

    def before_epoch(self):
        """Hear that an epoch begins; of lbfgs, that an iteration may begin."""

    def after_epoch(self, report):
        """Hear of its end by an `EpochReport`, whose `stop` ends training."""

    def finish(self, fit):
        """Hear that training has succeeded, and the estimator has its attributes."""

    def close(self):
        """Hear that the fit is over, or has failed."""


class UserCallback:
    """The parameter `callback`.

    What it returns does not count: a progress bar's `update` returns True now and then, and `write`
    a number.
    """

    def __init__(self, function):
        self.function = function

    def before_epoch(self):
        """Do nothing."""

    def after_epoch(self, report):
        """Call the function."""
        try:
            self.function(report)
        except StopIteration as error:  # which SciPy would take for the end of lbfgs
            raise RuntimeError(
                "The callback raised StopIteration. To end training call the report's stop()."
            ) from error

    def finish(self, fit):
        """Do nothing."""

    def close(self):
        """Do nothing."""


class Tasks:
    """The tasks of a fit that scikit-learn's callbacks are told of: the fit, and each epoch.

    Parameters
    ----------
    fit : fastbp.fitting.Fit
    X, y, sample_weight : object
        As given to `fit`, for callbacks that score.
    """

    def __init__(self, fit, X, y, sample_weight):
        self.estimator, self.fit = fit.estimator, fit
        self.context = self.estimator._init_callback_context(max_subtasks=self.estimator.max_iter)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.data = {"X": X, "y": y, "metadata": metadata}
        self.epoch, self.n_begun = None, 0
        self.context.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def before_epoch(self):
        """Begin a task, unless the last iteration of lbfgs is over, which SciPy does not say."""
        if self.n_begun == self.estimator.max_iter:
            return
        self.n_begun += 1
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(
            estimator=self.estimator, **self.data, reconstruction_attributes=self._attributes
        )

    def after_epoch(self, report):
        """End the task; a callback may ask to stop."""
        epoch, self.epoch = self.epoch, None
        if epoch.call_on_fit_task_end(
            estimator=self.estimator, **self.data, reconstruction_attributes=self._attributes
        ):
            report.stop()

    def _attributes(self):
        training = self.fit.training
        return self.fit.present_attributes(training.parameters())

    def finish(self, fit):
        """End the task of the fit, and before it the one of an iteration that has not come."""
        if self.epoch is not None:
            self.epoch.call_on_fit_task_end(estimator=self.estimator)
        self.context.call_on_fit_task_end(
            estimator=self.estimator, **self.data, reconstruction_attributes={}
        )

    def close(self):
        """Do nothing: scikit-learn's own context tears callbacks down."""


def has_callbacks(estimator):
    """Whether scikit-learn's callbacks are to be told of a fit, or those of a meta-estimator."""
    attributes = vars(estimator)
    return bool(attributes.get("_skl_callbacks")) or "_parent_callback_ctx" in attributes


def managed_callbacks(estimator):
    """A context that tears down scikit-learn's callbacks, as around the estimator's own `fit`."""
    if callback_management_context is None or not has_callbacks(estimator):
        return nullcontext()
    return callback_management_context(estimator)


def watchers_of(fit, given):
    """The watchers that the estimator's parameters and the user's `set_callbacks` ask for.

    Parameters
    ----------
    fit : fastbp.fitting.Fit
    given : fastbp.fitting.GivenData or fastbp.shared_data.SharedData
    """
    estimator, found = fit.estimator, []
    if isinstance(estimator.verbose, str) and fit.shows_progress and not fit.incremental:
        from fastbp.progress_line import ProgressLine

        found.append(ProgressLine(estimator.max_iter))
    if estimator.callback is not None:
        found.append(UserCallback(estimator.callback))
    if has_callbacks(estimator) and not fit.incremental:
        found.append(Tasks(fit, *given.as_given()))
    return found
