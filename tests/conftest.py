"""What the tests share: small tasks of every kind, and the oracle as an engine."""

import _thread
import importlib.util
import os
import shutil
import signal
import time
from pathlib import Path

# The tests' matrices are small: the threads of BLAS would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import joblib
import numpy as np
import pytest
import sklearn.neural_network
import versions
from naive import NaiveEngine

import fastbp
from fastbp import devices

ROOT = Path(__file__).parents[1]
HAS_NUMBA = importlib.util.find_spec("numba") is not None
if HAS_NUMBA:  # whatever libraries this checkout has: tests/cpu/test_shipped.py has its own
    os.environ.setdefault("FASTBP_KERNELS", "compiled")
# Those of the CUDA kernels run by themselves, in numba's simulator, which needs numba-cuda:
# NUMBA_ENABLE_CUDASIM=1 pytest tests/cuda
SIMULATES = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore = [] if SIMULATES else ["cuda"]
if not HAS_NUMBA:  # these are tests of how kernels are compiled
    collect_ignore += ["bench", "cpu/callable.py"] + [
        f"cpu/test_{name}.py"
        for name in (
            "compilation", "kernel_cache", "libraries", "shipped", "spans", "team", "vectors",
            "zeros",
        )
    ]  # fmt: skip


def pytest_configure(config):
    """Hear the signals that tests send: shells let their background jobs ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A process for each core, at most four, for the whole suite; chosen files run in this one."""
    is_whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    workers = min(4, joblib.cpu_count()) if is_whole else 0
    return workers if workers > 1 else 0


@pytest.fixture(scope="session", autouse=True)
def cores():
    """Let tests ask for more threads than this machine has cores, where they name a number."""
    from fastbp import threads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "cores_at_hand", lambda: 64)
        for name in ("fastbp.cpu.engine", "fastbp.side_by_side"):
            patch.setattr(f"{name}.cores_at_hand", threads.cores_at_hand)
        yield


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Let the first two of several processes compile half of the kernels each, for all of them."""
    dtype = {"gw0": "float32", "gw1": "float64"}.get(os.environ.get("PYTEST_XDIST_WORKER"))
    if dtype and not SIMULATES:
        from fastbp.cpu import code

        code.warm_up((dtype,))


@pytest.fixture
def nothing_is_left():
    """No thread and no open file, however a test ends."""
    threads, descriptors = _thread._count(), len(os.listdir("/proc/self/fd"))
    yield
    deadline = time.monotonic() + 10
    while _thread._count() > threads and time.monotonic() < deadline:
        os.sched_yield()  # the last words of a thread come after its end was heard of
    assert _thread._count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture(scope="module")
def worker_processes(tmp_path_factory):
    """A client of dask with two worker processes of one thread each."""
    import dask
    import distributed

    # What is killed comes back, however slow the machine is: by default it has 15 seconds.
    patience = {
        "distributed.deploy.lost-worker-timeout": "10 minutes",
        "distributed.comm.timeouts.connect": "2 minutes",
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        dask.config.set(patience),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",
            local_directory=str(tmp_path_factory.mktemp("workers")),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        patch.setattr("fastbp.clusters.PATIENCE", 600)
        yield client


def make_tasks():
    """Name -> (estimator's name, extra parameters, X, y): one task for each kind of y."""
    random = np.random.default_rng(0)
    X = random.normal(size=(90, 5))
    score = X @ random.normal(size=(5, 3))
    labels = score.argmax(axis=1)
    return {
        "binary": ("MLPClassifier", {}, X, np.array(["no", "yes"])[(score[:, 0] > 0).astype(int)]),
        "multiclass": ("MLPClassifier", {}, X, labels * 2 + 1),
        "multilabel": ("MLPClassifier", {}, X, (score > 0).astype(int)),
        "single": ("MLPRegressor", {}, X, np.sin(score[:, 0])),
        "multi-output": ("MLPRegressor", {}, X, np.tanh(score)),
        "poisson": (
            "MLPRegressor",
            {"loss": "poisson"},
            X,
            random.poisson(np.exp(score[:, 0] / 3)),
        ),
    }


TASKS = make_tasks()


def make_task(name, **parameters):
    """An unfitted fastbp estimator for one of `TASKS`, and its X and y."""
    estimator, extra, X, y = TASKS[name]
    return getattr(fastbp, estimator)(**extra, **parameters), X, y


def small(task, **parameters):
    """The same, small and quick."""
    quick = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "batch_size": 16}
    return make_task(task, **quick | parameters)


def needs_a_counterpart(task, *, solver="adam", early_stopping=False, **_):
    """Skip the test where the installed version of scikit-learn cannot fit the same."""
    if task == "poisson":
        versions.needs("the Poisson loss of MLPs")
    if task == "binary" and early_stopping and solver != "lbfgs":
        versions.needs("early stopping with strings as labels")


def pair(task, **parameters):
    """The same unfitted estimator from fastbp and from scikit-learn, with the task's X and y.

    Skips the test where the installed version of scikit-learn cannot fit its own.
    """
    given = {"hidden_layer_sizes": (7, 4), "max_iter": 20, "random_state": 3, "batch_size": 16}
    given |= parameters
    ours, X, y = make_task(task, **given)
    name, extra, _, _ = TASKS[task]
    needs_a_counterpart(task, **given)
    return ours, getattr(sklearn.neural_network, name)(**extra, **given), X, y


def weights(model):
    """All that a model has learned, in one vector."""
    return np.concatenate([a.ravel() for a in [*model.coefs_, *model.intercepts_]])


@pytest.fixture
def spied_engine(monkeypatch):
    """Let the estimators use the oracle, and keep every engine made, newest last."""
    made = []

    class Spy(NaiveEngine):
        def train_epoch(self, data, order, *args):
            self.data, self.orders = data, [*getattr(self, "orders", []), order.copy()]
            return super().train_epoch(data, order, *args)

    def make(network, dtype, n_threads, device, precision=None):
        made.append(Spy(network, dtype, n_threads))
        return made[-1]

    monkeypatch.setattr(devices, "make_engine", make)
    return made


# ---- shipped kernels ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A folder with a copy of the package that has the library for this machine's CPU."""
    import fcntl

    from fastbp.cpu import levels
    from fastbp.cpu.kernels import ahead

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers, of which one makes it
    package = folder / "shipping" / "fastbp"
    with open(folder / "shipping.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            unused = shutil.ignore_patterns("__pycache__", "libraries")
            shutil.copytree(ROOT / "fastbp", folder / "copy", ignore=unused)
            target = folder / "copy" / "cpu" / "libraries"
            ahead.main(["--levels", levels.levels_of_machine()[0], "--folder", str(target)])
            (folder / "shipping").mkdir()
            (folder / "copy").rename(package)
    return package


@pytest.fixture
def library(package, tmp_path, monkeypatch):
    """The path of a copy of the file with the best library and what it needs."""
    from fastbp.cpu import levels, libraries

    monkeypatch.setattr(libraries, "FOLDER", tmp_path)
    path = libraries.library_path(levels.levels_of_machine()[0])
    shutil.copy(package / "cpu" / "libraries" / path.name, path)
    return path


class Crash(Exception):  # noqa: N818
    """What stands for the end of the process: nothing after it is run."""


def crash_after(n_iter):
    def callback(report):
        if report.n_iter == n_iter:
            raise Crash

    return callback


def result(model):
    """All that a fit leaves, as comparable numbers."""
    progress = [model.n_iter_, model.best_iter_, model.t_]
    progress += [model.best_loss_, model.best_validation_score_]
    curves = [*model.loss_curve_, *(model.validation_scores_ or ())]
    moments = [moment.tobytes() for moment in model._optimizer.moments]
    rates = model._optimizer.learning_rate, model._optimizer.step, model._optimizer.epochs
    return weights(model).tobytes(), progress, curves, moments, rates
