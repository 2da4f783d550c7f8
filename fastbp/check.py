"""Is it right on this machine? What the command `fastbp check` does.

A check trains the same networks by the engine in question and by an oracle, epoch by epoch:

- the CPU's float64 by scikit-learn, the CPU's float32 by its float64;
- a GPU by the CPU's engine.

Losses and outputs must agree within rounding. Fits must repeat to the bit, on the CPU whatever the
number of threads. The checks of a group share a process, and a crash costs the one at work only.
"""

import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
from scipy import sparse
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning

import fastbp
from fastbp.bench.tables import number, table
from fastbp.bench.workers import Worker, WorkerError, one_line
from fastbp.cuda import toolkit
from fastbp.cuda.choice import TENSOR_CORES

N_EPOCHS = 5
# Largest relative difference of a loss, by precision. Adam amplifies rounding: float32 was off from
# float64 by up to 5e-6 here. tf32 keeps 11 bits of a product's factors and bfloat16 8, but errors
# of single products mostly cancel in a mean loss: PyTorch's bfloat16 was off by up to 5e-4.
BOUNDS = {"float64": 1e-10, "float32": 1e-4, "tf32": 2e-3, "bfloat16": 1e-2}
# Outputs may be off by this many times as much, in the root mean square.
OUTPUTS_OVER_LOSS = 10
HOW = {
    "cpu": f"Fits of {N_EPOCHS} epochs: float64 against scikit-learn's, float32 and bfloat16 "
    "against float64; they must be the same to the bit with 1, 3 and again 3 threads.",
    "cuda": f"Fits of {N_EPOCHS} epochs on the GPU against the CPU's; a second one must be the "
    "same to the bit.",
}
# The fits that must be the same to the bit; the first is compared with the oracle's.
THREADS = {"cpu": (1, 3, 3), "cuda": (None, None)}
SECONDS_A_CHECK = 90  # a first one compiles for some ten seconds
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
    "adamw": {"solver": "adamw", "learning_rate_init": 0.002},
}


@dataclass(frozen=True)
class Check:
    """One network and how it is trained.

    Parameters
    ----------
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
    n_networks : int
        More than one train at once, by `fit_many`.
    """

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
    n_networks: int = 1

    @property
    def name(self):
        """Everything that tells it from others."""
        shape = "-".join(map(str, (self.n_features, *self.hidden, self.n_outputs)))
        many = f"{self.n_networks} × " if self.n_networks > 1 else ""
        weighted = ", weighted" if self.weighted else ""
        return (
            f"{many}{shape} b{self.batch_size} {self.activation} {self.solver}, {self.task}, "
            f"{self.inputs}{weighted}"
        )


MNIST_LIKE = dict(n_features=784, n_outputs=10, inputs="uint8", n_rows=4_000)


def _general(precision):
    check = Check((128,), precision=precision)
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


def _beyond_scikit_learn(precision):
    check = Check((50, 30), precision=precision, activation="gelu")
    return [replace(check, solver="adamw"), replace(check, task="squared error", n_outputs=2)]


def _many(precision):
    check = Check((64,), precision=precision, n_outputs=2, task="multilabel", n_networks=3)
    return [
        check,
        replace(check, task="softmax", n_outputs=3, solver="adam", activation="tanh"),
        replace(check, task="binary", n_outputs=1, solver="nesterov", weighted=True),
        replace(check, task="squared error", n_outputs=2, hidden=(20, 10), activation="logistic"),
        replace(check, inputs="uint8", n_features=64, hidden=(32,), batch_size=50),
    ]


def _wide(precision):
    check = Check((256, 256), **MNIST_LIKE | {"n_rows": 5_000}, precision=precision, batch_size=512)
    return [
        check,
        replace(check, inputs="float32", solver="adam", activation="tanh", weighted=True),
        replace(check, hidden=(200, 130), n_features=101, inputs="csr", solver="nesterov"),
        replace(check, task="squared error", n_outputs=3, activation="logistic", inputs="float32"),
        replace(check, task="multilabel", n_outputs=5, hidden=(300,), inputs="float32"),
    ]


def has_oracle(check):
    """Whether scikit-learn can train it: sample weights and the Poisson loss came with 1.7."""
    name, extra, _ = TASKS[check.task]
    theirs = getattr(neural_network, name)
    needed = {*extra, *(["sample_weight"] if check.weighted else [])}
    return needed <= {*signature(theirs).parameters, *signature(theirs.fit).parameters}


def make_checks(device, capability=TENSOR_CORES):
    """All checks of a device, by the group that shares a process; a GPU's by its capability."""
    groups = {
        "float32": _general("float32") + _beyond_scikit_learn("float32"),
        "float64": _general("float64"),
        # A GPU takes networks of float32 at once.
        "fit_many": _many("float64" if device == "cpu" else "float32"),
    }
    if device == "cpu":  # in float64 against scikit-learn
        groups = {
            name: [each for each in checks if each.precision != "float64" or has_oracle(each)]
            for name, checks in groups.items()
        }
        groups["bfloat16"] = _wide("bfloat16")
    if device == "cuda":
        groups["float64"] += _beyond_scikit_learn("float64")
    if device == "cuda" and capability >= TENSOR_CORES:
        groups |= {precision: _wide(precision) for precision in ("tf32", "bfloat16")}
    return groups


# ---- one check -------------------------------------------------------------------------------


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


def scale_of(check):
    """What the numbers of X are multiplied by."""
    return 1 / 255 if check.inputs == "uint8" else 1.0


def make_estimators(check, package, n_epochs, **options):
    """The estimators of a check, one a network, by fastbp or by scikit-learn."""
    name, extra, _ = TASKS[check.task]
    return [
        getattr(package, name)(
            **extra, **SOLVERS[check.solver], **options, hidden_layer_sizes=check.hidden,
            activation=check.activation, batch_size=check.batch_size, max_iter=n_epochs,
            n_iter_no_change=np.inf, random_state=seed,
        )
        for seed in range(check.n_networks)
    ]  # fmt: skip


def train(check, device, precision, n_threads=None, n_epochs=N_EPOCHS):
    """Train the check's networks by an engine; return them, fitted."""
    X, y, weight = rows_and_targets(check)
    models = make_estimators(
        check, fastbp, n_epochs, device=device, precision=precision, n_threads=n_threads,
        input_scale=scale_of(check),
    )  # fmt: skip
    if check.n_networks > 1:
        return fastbp.fit_many(models, X, y, weight, n_threads=n_threads)
    return [model.fit(X, y, weight) for model in models]


def train_oracle(check, device, n_epochs=N_EPOCHS):
    """Train the check's networks by what the engine is compared with."""
    is_double = check.precision == "float64"
    if device == "cuda" or not is_double:
        precision = "float32" if device == "cuda" and not is_double else "float64"
        return train(check, "cpu", precision, n_epochs=n_epochs)
    X, y, weight = rows_and_targets(check)
    X = X.astype(np.float64) * scale_of(check)
    weights = () if weight is None else (weight,)  # which older versions do not take: has_oracle
    return [model.fit(X, y, *weights) for model in make_estimators(check, neural_network, n_epochs)]


def outputs_of(model, check):
    """A fitted model's outputs for the first rows."""
    X = rows_and_targets(check)[0][:500]
    if not isinstance(model, (fastbp.MLPClassifier, fastbp.MLPRegressor)):
        X = X.astype(np.float64) * scale_of(check)
    return np.asarray(getattr(model, "predict_proba", model.predict)(X))


def learned(models):
    """The bytes of all that was learned."""
    return b"".join(part.tobytes() for m in models for part in (*m.coefs_, *m.intercepts_))


def run_check(check, device, n_epochs=N_EPOCHS):
    """Train and compare.

    Returns
    -------
    found : dict
        Off by how much the `loss` and the `outputs` are (the loss only where the oracle's is the
        same mean); whether the fits `repeat`; the `seconds` of the first, compilation included; and
        the `problem`, empty where all is well.
    """
    bound = BOUNDS[check.precision]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = train_oracle(check, device, n_epochs)
        caught.clear()
        started = time.perf_counter()
        fits = [train(check, device, check.precision, THREADS[device][0], n_epochs)]
        seconds = time.perf_counter() - started
        for n_threads in THREADS[device][1:]:
            fits.append(train(check, device, check.precision, n_threads, n_epochs))
        ours, theirs = (np.stack([outputs_of(m, check) for m in ms]) for ms in (fits[0], expected))
    found = {"seconds": seconds}
    found["outputs"] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    # scikit-learn averages weighted losses by rows.
    if not (check.weighted and device == "cpu" and check.precision == "float64"):
        ours, theirs = (np.array([m.loss_curve_ for m in ms]) for ms in (fits[0], expected))
        found["loss"] = float(np.abs(ours / theirs - 1).max())
    found["repeats"] = all(learned(fit) == learned(fits[0]) for fit in fits[1:])
    return found | {"problem": "; ".join(problems_of(found, bound, caught))}


def problems_of(found, bound, caught):
    """What is wrong, in words. Differences that are not a number are wrong, too."""
    for what, limit in (("loss", bound), ("outputs", bound * OUTPUTS_OVER_LOSS)):
        if what in found and not found[what] <= limit:
            yield f"{what} off by {found[what]:.1e}, more than {limit:g}"
    if not found["repeats"]:
        yield "fits differ"
    # An engine that gives a program up says so.
    for warning in caught:
        if issubclass(warning.category, (UserWarning, RuntimeWarning)) and not issubclass(
            warning.category, ConvergenceWarning
        ):
            yield f"warned: {' '.join(str(warning.message).split())}"


# ---- all checks, in processes of their own ---------------------------------------------------


def serve(connection, device, checks):
    """A worker process's whole life: do a group's checks and send what each has found."""
    try:
        for check in checks:
            try:
                found = run_check(check, device)
            except Exception as error:
                found = {"problem": one_line(error)}
            connection.send(found)
        connection.recv()
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # nobody waits any more
    os._exit(0)  # libraries' threads need no farewell


def check_group(device, group, checks):
    """Do a group's checks; return a row for each, in their order.

    After a crash, or an error that may have cost the GPU's context, a new process goes on.
    """
    rows, worker = [], None
    for index, check in enumerate(checks):
        worker = worker or Worker(serve, device, checks[index:])
        try:
            found, failed = worker.answer(SECONDS_A_CHECK), False
        except WorkerError as error:
            found, failed = {"problem": str(error)}, True
        rows.append({"group": group, "check": check} | found)
        print(f"{group}, {check.name}: {found['problem'] or 'passed'}", file=sys.stderr, flush=True)
        if failed or "DeviceError" in found["problem"]:
            worker.close()
            worker = None
    if worker:
        worker.close()
    return rows


def check_table(rows):
    """Every check, a row."""
    lines = []
    for row in rows:
        bound = BOUNDS[row["check"].precision]
        lines.append(
            (
                row["group"],
                row["check"].name,
                number(row.get("loss"), ".1e"),
                f"{bound:g}",
                number(row.get("outputs"), ".1e"),
                f"{bound * OUTPUTS_OVER_LOSS:g}",
                {True: "yes", False: "NO", None: ""}[row.get("repeats")],
                number(row.get("seconds"), ".1f"),
                f"FAILED: {row['problem']}" if row["problem"] else "passed",
            )
        )
    head = ("", "training", "loss off by", "bound", "outputs off by", "bound", "repeats",
            "first fit s", "verdict")  # fmt: skip
    return table(head, lines)


def run(device: str) -> int:
    """Do all checks of a device, print a table for a bug report, and return the exit status.

    Raises
    ------
    ValueError
        Where no GPU can be used.
    """
    problem = toolkit.problem() if device == "cuda" else None
    if problem is not None:
        raise ValueError(f"--device {device} cannot be used: {problem}")
    gpus = toolkit.look_around().gpus if device == "cuda" else ()
    groups = make_checks(device, gpus[0][1] if gpus else (0, 0))
    # On a GPU most of the time is compilation, on the CPU the threads are the checks' own.
    with ThreadPoolExecutor(len(groups) if device == "cuda" else 1) as pool:
        found = pool.map(lambda group: check_group(device, *group), groups.items())
        rows = [row for group in found for row in group]
    from fastbp import info

    failed = sum(bool(row["problem"]) for row in rows)
    print("\n".join(f"{name:14}{value}" for name, value in info.describe().items()))
    print(f"\n{HOW[device]}\n\n{check_table(rows)}")
    print(f"\n{failed} of {len(rows)} checks failed." if failed else "\nAll checks passed.")
    return int(failed > 0)
