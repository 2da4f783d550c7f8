"""Fits side by side, in threads and on a GPU: what `fit_many` and searches train by."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from itertools import pairwise

import numpy as np

from fastbp import parameters as params
from fastbp.callbacks import managed_callbacks
from fastbp.devices import resolve
from fastbp.fitting import Fit
from fastbp.precisions import LOW_PRECISIONS
from fastbp.progress_line import line_of_fits
from fastbp.threads import available_threads, cores_at_hand, run_jobs
from fastbp.warned import postponed_warnings, warn


class Member:
    """One of the estimators to be fitted, and how its fit ended.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    index : int
        Its place among the others.
    data : fastbp.shared_data.SharedData or callable
        The latter makes it, in the thread of the fit.
    shape : tuple of int
        Rows to learn from, and columns.

    Attributes
    ----------
    outcome : None, True or Exception
        None before the end, True after success, and otherwise the error.
    warnings : list of (str or Warning, type)
    after : list of callable
        Called without arguments when it has ended, in whatever way.
    seconds : float
        That it took.
    """

    def __init__(self, estimator, index, data, shape):
        self.estimator, self.index, self.data, self.shape = estimator, index, data, shape
        self.fit, self.outcome, self.warnings = Fit(estimator, shows_progress=False), None, []
        self.after, self.seconds = [], 0.0

    def prepare(self):
        """Check the data, and draw all random numbers needed before the first epoch."""
        data = self.data() if callable(self.data) else self.data
        began = time.perf_counter()
        self.fit.prepare(data)
        self.seconds += time.perf_counter() - began

    def train(self, n_threads):
        """Train in this thread, with at most `n_threads` in all, and keep the result."""
        limit = self.estimator.n_threads
        if n_threads is not None:
            limit = n_threads if limit is None else min(limit, n_threads)
        began = time.perf_counter()
        self.fit.train(limit)
        self.seconds += time.perf_counter() - began
        self.keep()

    def keep(self):
        """Set the fitted attributes from the result."""
        try:
            self.fit.keep()
        finally:
            self.fit.close()
        self.outcome = True
        del self.fit.training  # thousands of them would fill the memory

    @contextlib.contextmanager
    def attempt(self):
        """Collect warnings and errors; an error leaves the estimator as it was."""
        token = postponed_warnings.set(self.warnings)
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):  # Ctrl-C
                self.outcome = None
                raise
        finally:
            postponed_warnings.reset(token)
            if self.outcome is not None:
                for call in self.after:
                    call()

    def fail(self, error):
        """Restore all attributes, and record the error."""
        try:
            self.fit.close()
        finally:
            self.fit.undo()
        self.outcome = error

    def warn(self):
        """Issue the warnings; where the user turns them into errors, the fit has failed."""
        try:
            for message, category in self.warnings:
                warn(message, category)
        except Warning as error:
            self.fail(error)

    @property
    def work(self):
        """As from `work_of`."""
        return work_of(self.estimator, *self.shape)


def members_of(estimators, shared):
    """The fits of estimators to data that they share.

    Parameters
    ----------
    estimators : sequence of MLPClassifier and MLPRegressor
    shared : fastbp.shared_data.Shared

    Returns
    -------
    members : list of Member
    """
    return [
        Member(estimator, index, shared.data_of(index), shared.shape_of(index))
        for index, estimator in enumerate(estimators)
    ]


def work_of(estimator, n_rows, n_features):
    """Multiplications of a fit that is not stopped early, in proportion; 0 if it will fail."""
    with contextlib.suppress(ValueError, TypeError):
        sizes = n_features, *params.hidden_sizes(estimator.hidden_layer_sizes), 1
        return sum(a * b for a, b in pairwise(sizes)) * n_rows * estimator.max_iter
    return 0


def train(members, n_threads=None, device_shuffle=False, shows_progress=True):
    """Fit all members, those of the GPU at once and the others side by side in threads.

    Errors and warnings are theirs to keep.

    Parameters
    ----------
    members : list of Member
    n_threads : int or None, default=None
        None for the available cores.
    device_shuffle : bool, default=False
        Whether the GPU shuffles rows.
    shows_progress : bool, default=True
        Whether verbose="progress" has its line.

    Raises
    ------
    KeyboardInterrupt
        After the running fits have ended; the `outcome` of those that had not begun is None.
    """
    queues, together = group(members)
    if device_shuffle and not together:
        raise ValueError(
            "device_shuffle=True is for estimators that train on a GPU (device='cuda'); none does. "
            "Use device_shuffle=False."
        )
    n_workers, share = _share_threads(n_threads, max(1, len(queues)))
    jobs = [partial(_run, queue, share) for queue in queues]
    if together:
        jobs.insert(0, partial(_train_on_gpu, together, device_shuffle))
    with line_of_fits(members if shows_progress else []):
        run_jobs(jobs, n_workers + bool(together and queues))


def group_by_source(members):
    """Lists of the members that draw from the same source of random numbers, in their order."""
    by_source = {}
    for member in members:
        source = member.estimator.random_state
        key = id(source) if isinstance(source, np.random.RandomState) else id(member)
        by_source.setdefault(key, []).append(member)
    return list(by_source.values())


def group(members):
    """Queue the fits that share a source of random numbers; put the GPU's together.

    Returns
    -------
    queues : list of lists of Member
        The longest comes first.
    together : list of Member
        To be trained at once on the GPU.
    """
    queues, together = [], []
    for queue in group_by_source(members):
        if len(queue) == 1 and _is_for_gpu(queue[0].estimator):
            together += queue
        else:
            queues.append(queue)
    return sorted(queues, key=lambda queue: -sum(member.work for member in queue)), together


def _is_for_gpu(estimator):
    try:
        return resolve(estimator.device)[0] == "cuda"
    except RuntimeError:  # no GPU: its fit will say so
        return False


def _share_threads(n_threads, n_queues):
    """The number of fits that run at once, and the most threads that each may use, or None.

    Without a limit the engines share the cores, and the last fits get more of them.
    """
    at_most = available_threads() if n_threads is None else min(n_threads, cores_at_hand())
    n_workers = min(n_queues, at_most)
    return n_workers, None if n_threads is None else max(1, n_threads // n_workers)


def _run(queue, n_threads):
    """Fit a queue's estimators one after another in this thread."""
    for member in queue:
        with member.attempt(), managed_callbacks(member.estimator):
            member.prepare()
            member.train(n_threads)


def _train_on_gpu(members, device_shuffle):
    """Train at once what fits into a block for each, and the others one after the other."""
    from fastbp.cuda.device import Device
    from fastbp.cuda.small.fits import plan_for, train_together

    device, small, others = None, [], []
    managed = contextlib.ExitStack()
    try:
        for member in members:
            managed.enter_context(managed_callbacks(member.estimator))
            with member.attempt():
                device = device or Device()
                member.prepare()
                is_single = member.estimator.precision not in LOW_PRECISIONS
                fit = member.fit
                plan = plan_for(fit.network, fit.training, device) if is_single else None
                (others if plan is None else small).append((member, plan))
        if small and not _is_small_trusted(device, small[0][0]):
            # One that the trial has failed is as before, and cannot go on.
            others = [each for each in (*small, *others) if each[0].outcome is None]
            small = []
        states = [member.fit.training.random_state.get_state() for member, _ in small]
        begun = [(member.fit.network, member.fit.training, plan) for member, plan in small]
        began = time.perf_counter()
        try:
            trained = train_together(device, begun, device_shuffle) if begun else []
        except Exception as error:  # the device's: all of them have failed
            trained = []
            for member, _ in small:
                member.fail(error)
        share = (time.perf_counter() - began) / max(1, len(small))
        for (member, _), training, state in zip(small, trained, states, strict=False):
            member.seconds += share
            with member.attempt():
                _replay(member, training, state, device_shuffle)
        for member, _ in others:
            with member.attempt():
                member.train(None)
    finally:
        managed.close()
        for member in members:
            if member.outcome is None:
                member.fail(None)


def _is_small_trusted(device, member):
    """Whether the GPU's program for many small networks may be used; one like this is tried."""
    from fastbp.cuda.proof import trusts_small

    with member.attempt():
        return trusts_small(device, member.fit.network, member.fit.training)
    return False


def _replay(member, training, state, device_shuffle):
    """Replay the epochs that the device has trained, and keep their result."""
    original = member.fit.training
    member.fit.run(training)
    source = original.random_state
    if source is member.estimator.random_state and original.settings.shuffle and not device_shuffle:
        # The user's own: orders were drawn past the last epoch.
        source.set_state(state)
        rows = np.empty(len(original.split.train))
        for _ in range(training.progress.n_iter):
            source.shuffle(rows)
    member.keep()
