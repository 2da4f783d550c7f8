"""Is it right? Fits on the GPU beside the same fits by the CPU engine, program by program.

A check fits the same estimator three times, once on the CPU and twice on the GPU. The GPU's loss
curve must be within `BOUNDS` of the CPU's in every epoch, and its two fits the same to the bit.
"""

import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from benchmarks.gpu.workers import Worker, one_line
from fastbp.bench.race import WorkerError

N_EPOCHS = 5
# Largest relative difference of a loss. tf32 keeps 11 bits of a product's factors and bfloat16 8,
# but errors of single products mostly cancel in a mean loss: PyTorch's bfloat16 on the CPU was off
# by up to 5e-4 in such a fit.
BOUNDS = {"float32": 1e-5, "float64": 1e-10, "tf32": 2e-3, "bfloat16": 1e-2}
SECONDS_A_CHECK = 60
TASKS = {  # name -> (estimator, its parameters, how y comes from scores)
    "softmax": ("MLPClassifier", {}, lambda scores: scores.argmax(axis=1)),
    "binary": ("MLPClassifier", {}, lambda scores: scores[:, 0] > 0),
    "multilabel": ("MLPClassifier", {}, lambda scores: (scores > 0).astype(int)),
    "squared error": ("MLPRegressor", {}, np.tanh),
    "poisson": (
        "MLPRegressor",
        {"loss": "poisson"},
        lambda scores: np.floor(np.exp(np.clip(scores[:, 0], -2, 2))),
    ),
}
SOLVERS = {
    "sgd": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True, "learning_rate_init": 0.02},
    "adam": {"solver": "adam", "learning_rate_init": 0.002},
}


@dataclass(frozen=True)
class Check:
    """One fit, and by which program.

    Parameters
    ----------
    program : str
        As for `benchmarks.gpu.trainers.use_only`, or "fit_many".
    hidden : tuple of int
    task : str
        A key of `TASKS`.
    activation, solver : str
    batch_size, n_rows : int
        Such that the last batch is short.
    n_features, n_outputs : int
    inputs : {"float32", "float64", "uint8", "csr"}
    weighted : bool
    precision : str
    """

    program: str
    hidden: tuple
    task: str = "softmax"
    activation: str = "relu"
    solver: str = "sgd"
    batch_size: int = 64
    n_rows: int = 2_017
    n_features: int = 30
    n_outputs: int = 3
    inputs: str = "float32"
    weighted: bool = False
    precision: str = "float32"

    @property
    def name(self):
        """All that distinguishes it, in a line."""
        units = "-".join(map(str, (self.n_features, *self.hidden, self.n_outputs)))
        weighted = ", weights" if self.weighted else ""
        return (
            f"{units} b{self.batch_size} {self.activation} {self.solver}, {self.task}, "
            f"{self.inputs}{weighted}"
        )


MNIST_LIKE = dict(n_features=784, n_outputs=10, inputs="uint8", n_rows=4_000)


def _generic(precision):
    check = Check("general", (128,), precision=precision)
    deep = dict(n_features=28, hidden=(300,) * 5, activation="tanh", batch_size=100)
    return [
        replace(check, activation="logistic", **MNIST_LIKE),
        replace(check, hidden=(53,), n_features=77, n_outputs=7, solver="adam", batch_size=48),
        replace(check, task="binary", n_outputs=1, solver="nesterov", **deep),
        replace(check, hidden=(41, 17), n_outputs=23, activation="tanh", weighted=True),
        replace(check, hidden=(150, 66), batch_size=300, solver="adam", weighted=True),
        replace(check, task="multilabel", activation="logistic", weighted=True, solver="adam"),
        replace(check, task="squared error", activation="identity", inputs="csr"),
        replace(check, task="poisson", n_outputs=1, activation="tanh", solver="nesterov"),
        replace(check, hidden=(), inputs="float64", batch_size=1_500),
    ]


def _together():
    check = Check("fit_many", (64,), n_outputs=2, task="multilabel")
    return [
        check,
        replace(check, task="softmax", n_outputs=3, solver="adam", activation="tanh"),
        replace(check, task="binary", n_outputs=1, solver="nesterov", weighted=True),
        replace(check, task="squared error", n_outputs=2, hidden=(20, 10), activation="logistic"),
        replace(check, inputs="uint8", n_features=64, hidden=(32,), batch_size=50),
    ]


def _wide(precision):
    check = Check("wide", (256, 256), **MNIST_LIKE | {"n_rows": 5_000}, precision=precision)
    check = replace(check, batch_size=512)
    return [
        check,
        replace(check, inputs="float32", solver="adam", activation="tanh", weighted=True),
        replace(check, hidden=(200, 130), n_features=101, inputs="csr", solver="nesterov"),
        replace(check, task="squared error", n_outputs=3, activation="logistic", inputs="float32"),
        replace(check, task="multilabel", n_outputs=5, hidden=(300,), inputs="float32"),
    ]


def make_checks():
    """All checks, by the group that shares a process."""
    return {
        "general": _generic("float32"),
        "general float64": _generic("float64"),
        "fit_many": _together(),
        "wide tf32": _wide("tf32"),
        "wide bfloat16": _wide("bfloat16"),
    }


# ---- in a worker's process -------------------------------------------------------------------


def rows_and_targets(check):
    """X, y and the sample weights of a check."""
    generator = np.random.default_rng(0)
    shape = check.n_rows, check.n_features
    if check.inputs == "uint8":
        X = generator.integers(0, 256, shape, np.uint8)
        seen = X / 127.5 - 1
    elif check.inputs == "csr":
        X = sparse.random(*shape, 0.3, "csr", np.float32, 1, data_rvs=generator.standard_normal)
        seen = X.toarray()
    else:
        X = seen = generator.standard_normal(shape).astype(check.inputs)
    n_scores = check.n_outputs if check.task != "binary" else 1
    scores = seen @ generator.standard_normal((check.n_features, n_scores))
    scores = scores / scores.std() + 0.3 * generator.standard_normal(scores.shape)
    weight = generator.uniform(0, 2, check.n_rows) if check.weighted else None
    return X, TASKS[check.task][2](scores), weight


def make_estimator(check, device, precision, seed=1, n_epochs=N_EPOCHS):
    """The estimator of a check."""
    import fastbp

    name, extra, _ = TASKS[check.task]
    return getattr(fastbp, name)(
        **extra, **SOLVERS[check.solver], hidden_layer_sizes=check.hidden,
        activation=check.activation, batch_size=check.batch_size, max_iter=n_epochs,
        n_iter_no_change=np.inf, random_state=seed, device=device, precision=precision, n_threads=2,
        input_scale=1 / 255 if check.inputs == "uint8" else 1.0,
    )  # fmt: skip


def fit_some(check, device, precision, n_epochs):
    """Fit the check's estimator, or with fit_many three of them; return them."""
    X, y, weight = rows_and_targets(check)
    if check.program != "fit_many":
        model = make_estimator(check, device, precision, n_epochs=n_epochs)
        return [model.fit(X, y, weight)]
    models = [make_estimator(check, device, precision, seed, n_epochs) for seed in (1, 2, 3)]
    if device == "cpu":
        return [model.fit(X, y, weight) for model in models]
    from fastbp import fit_many

    return fit_many(models, X, y, weight)


def learned(models):
    """The bytes of all that was learned."""
    return b"".join(part.tobytes() for m in models for part in (*m.coefs_, *m.intercepts_))


def difference(models, expected):
    """The largest relative difference of a loss in any epoch."""
    curves = np.array([model.loss_curve_ for model in models])
    return float(np.abs(curves / [model.loss_curve_ for model in expected] - 1).max())


def run_check(check, n_epochs=N_EPOCHS):
    """Do the fits and compare.

    Returns
    -------
    found : dict
        `difference` to the CPU engine; `rounding`, that of the CPU engine's own float32 to its
        float64; whether two fits `repeat`; `seconds` of the first fit on the GPU, compilation
        included; `problem`, empty where all is well.
    """
    host = check.precision if check.precision == "float64" else "float32"
    on_cpu = fit_some(check, "cpu", host, n_epochs)
    exact = on_cpu if host == "float64" else fit_some(check, "cpu", "float64", n_epochs)
    started = time.perf_counter()
    on_gpu = fit_some(check, "cuda", check.precision, n_epochs)
    seconds = time.perf_counter() - started
    repeats = learned(on_gpu) == learned(fit_some(check, "cuda", check.precision, n_epochs))
    found, bound = difference(on_gpu, on_cpu), BOUNDS[check.precision]
    problems = [] if found <= bound else [f"loss off by {found:.1e}, more than {bound:g}"]
    problems += [] if repeats else ["two fits differ"]
    return {
        "difference": found, "rounding": difference(on_cpu, exact), "repeats": repeats,
        "seconds": seconds, "problem": "; ".join(problems),
    }  # fmt: skip


def run_checks(checks, n_epochs=N_EPOCHS):
    """Yield what `run_check` finds, one by one, all of one program: for a `Worker`."""
    from benchmarks.gpu.trainers import use_only

    warnings.simplefilter("ignore")
    if checks[0].program != "fit_many":
        use_only(checks[0].program)
    for check in checks:
        try:
            yield run_check(check, n_epochs)
        except Exception as error:
            yield {"problem": one_line(error)}


# ---- in the benchmark's process --------------------------------------------------------------


def check_group(group, checks, deadline):
    """Do a group's checks; return a row for each, in their order.

    A process that fails takes the rest with it, and a CUDA context that is lost stays lost, so
    behind each such failure a new process goes on.
    """
    rows, worker = [], None
    for number, check in enumerate(checks):
        row = {"group": group, "check": check.name, "bound": BOUNDS[check.precision]}
        if deadline.left == 0:
            rows.append(row | {"problem": "no time was left"})
            continue
        worker = worker or Worker("benchmarks.gpu.checks:run_checks", checks=checks[number:])
        try:
            found = worker.go(deadline.within(SECONDS_A_CHECK))
        except WorkerError as error:
            found, worker = {"problem": str(error)}, None
        if worker and "DeviceError" in found["problem"]:
            worker = worker.close()
        rows.append(row | found)
    if worker:
        worker.close()
    return rows
