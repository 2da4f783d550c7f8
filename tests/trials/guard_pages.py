"""Kernels on arrays between unreadable pages: those of users, and the engine's own.

    python -m tests.trials.guard_pages --n 5000 --seed 0

Each case is a network, its data and an engine drawn at random. It runs twice, on usual arrays and
on guarded ones, and must give the same bits. A case that ends its process is printed with the
command that repeats it.
"""

import argparse
import contextlib
import faulthandler
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from fastbp.activations import HIDDEN_ACTIVATIONS
from fastbp.cpu import code, predicting, shuffling, work
from fastbp.cpu import engine as engine_module
from fastbp.cpu import layout as layout_module
from fastbp.cpu import rows as rows_module
from fastbp.cpu import sparse_rows as sparse_module
from fastbp.cpu import workspace as workspace_module
from fastbp.cpu import zero_steps as zeros_module
from fastbp.cpu.records import BLOCK_ROWS
from fastbp.data import READABLE_DTYPES, Data
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.precisions import BFLOAT16
from fastbp.schedules import StepPlanner
from tests.amx import reason_to_skip
from tests.guard import LAYOUTS, guarded

# Around vectors and tiles, and around blocks of rows.
SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257)
ROWS = (*SIZES, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 9)
OBJECTIVES = (
    ("softmax", "log_loss"),
    ("logistic", "log_loss"),
    ("exp", "poisson"),
    *((name, "squared_error") for name in ("identity", "logistic", "tanh", "relu", "exp")),
)
PROCESS_CASES = 250  # of one process of the program


def make_case(seed, index):
    """Draw a case: names and numbers that say all about it."""
    draw = np.random.default_rng([seed, index])

    def pick(choices):
        return choices[draw.integers(len(choices))]

    def pick_small():
        return pick(SIZES[: pick((4, 8, len(SIZES)))])

    n_hidden = pick((0, 1, 1, 2, 3))
    output, loss = pick(OBJECTIVES)
    return {
        "sizes": tuple(pick_small() for _ in range(n_hidden + 2)),
        "hidden": tuple(pick(tuple(HIDDEN_ACTIVATIONS)) for _ in range(n_hidden)),
        "output": output,
        "loss": loss,
        "dtype": pick(("float32", "float64")),
        "rule": pick(("sgd", "momentum", "nesterov", "adam", "adamw")),
        "n_rows": pick(ROWS),
        "batch_size": pick(ROWS),
        "n_threads": pick((1, 1, 2, 3)),
        "X": pick(READABLE_DTYPES).name,
        "layout": pick((*LAYOUTS, "csr_array", "csr_matrix")),
        "index": pick(("int32", "int64")),
        "density": pick((0.0, 0.05, 0.15, 0.5, 1.0)),
        "skips_zeros": pick((False, True)),
        "targets": pick(READABLE_DTYPES).name,
        "targets_layout": pick(LAYOUTS),
        "is_weighted": pick((False, True)),
        "alpha": pick((0.0, 0.1)),
        "at_end": pick((True, False)),
        "seed": int(draw.integers(2**31)),
        "products": pick(("numbers", "pairs", "AMX")),  # in float32
    }


def draw_numbers(draw, shape, dtype, density=1.0):
    """Small numbers of any dtype, none negative where they are whole."""
    dtype = np.dtype(dtype)
    numbers = draw.normal(size=shape) if dtype.kind == "f" else draw.integers(0, 3, shape)
    return (numbers * (draw.random(shape) < density)).astype(dtype)


def make_rows(case, draw, place):
    """X, dense or sparse, in guarded memory."""
    shape = case["n_rows"], case["sizes"][0]
    X, name = draw_numbers(draw, shape, case["X"], case["density"]), case["layout"]
    if name in LAYOUTS:
        return place(X, name)
    X = {"csr_array": csr_array, "csr_matrix": csr_matrix}[name](X)
    X.data = place(X.data)
    X.indices, X.indptr = (place(a.astype(case["index"])) for a in (X.indices, X.indptr))
    return X


def make_targets(case, draw, place):
    """Class indices or numbers, none negative."""
    n_rows, n_outputs = case["n_rows"], case["sizes"][-1]
    if case["output"] == "softmax":
        return place(draw.integers(0, n_outputs, n_rows))
    numbers = np.abs(draw_numbers(draw, (n_rows, n_outputs), case["targets"]))
    if case["loss"] == "log_loss":
        numbers = (numbers > 0).astype(case["targets"])
    return place(numbers, case["targets_layout"])


class Guards:
    """Guarded memory in place of NumPy's in the modules that make an engine's arrays."""

    def __init__(self, at_end):
        self._at_end = at_end

    def __getattr__(self, name):
        return getattr(np, name)

    def place(self, values, layout="C"):
        """A copy that the engine may only read."""
        return guarded(values, self._at_end, layout, writeable=False)

    def zeros(self, shape, dtype=np.float64):
        return guarded(np.zeros(shape, dtype), self._at_end)

    def zeros_like(self, array):
        return guarded(np.zeros_like(array), self._at_end)

    def empty(self, shape, dtype=np.float64):
        return guarded(np.empty(shape, dtype), self._at_end)

    def arange(self, *arguments):
        return guarded(np.arange(*arguments), self._at_end)

    def aligned_arrays(self, dtype, **sizes):
        """Every array on pages of its own."""
        return {name: self.zeros(size, dtype) for name, size in sizes.items()}

    @contextlib.contextmanager
    def installed(self):
        """Let engines take all of their memory from here."""
        with contextlib.ExitStack() as patches:
            for module in (
                engine_module, predicting, workspace_module, layout_module, zeros_module,
            ):  # fmt: skip
                patches.enter_context(patch.object(module, "np", self))
            for module in (
                engine_module, predicting, workspace_module, sparse_module, zeros_module,
            ):  # fmt: skip
                patches.enter_context(patch.object(module, "aligned_zeros", self.zeros))
            arrays = patch.object(workspace_module, "_aligned_arrays", self.aligned_arrays)
            patches.enter_context(arrays)
            engine_module._layout_of.cache_clear()
            try:
                yield
            finally:
                engine_module._layout_of.cache_clear()


def plainly(values, layout="C"):
    """The same numbers as in a guarded array of this layout, in usual memory."""
    return np.array(guarded(values, layout=layout))


def make_optimizer(case, network):
    rule = case["rule"]
    momentum = 0.0 if rule == "sgd" else 0.9
    solver = rule if rule.startswith("adam") else "sgd"
    optimizer = Optimizer(
        solver, 1e-3, momentum=momentum, nesterovs_momentum=rule == "nesterov", weight_decay=0.1
    )
    optimizer.reset(network.n_parameters, np.dtype(case["dtype"]))
    return optimizer


def run_engine(case, place):
    """Predict, train and differentiate; return all results."""
    draw = np.random.default_rng(case["seed"])
    network = Network(case["sizes"], case["hidden"], case["output"], case["loss"])
    n_rows, weight = case["n_rows"], None
    X, targets = make_rows(case, draw, place), make_targets(case, draw, place)
    if case["is_weighted"]:
        weight = place(draw.integers(0, 3, n_rows) / 2.0)
    data = Data(X, targets, weight, input_scale=0.5)
    parameters = draw.normal(size=network.n_parameters) / 8
    optimizer, results = make_optimizer(case, network), []
    is_rounded = case["dtype"] == "float32" and case["products"] != "numbers"
    precision = BFLOAT16 if is_rounded else None
    with engine_module.Engine(network, case["dtype"], case["n_threads"], precision) as engine:
        engine.load_parameters(place(parameters.astype(case["dtype"])))
        few = place(draw.integers(0, n_rows, 3))
        results += [engine.predict(data, few[:1]), engine.predict(data, few)]
        engine.store_parameters()  # packs them
        results += [engine.predict(data), engine.predict(data, few, "identity")]
        engine.load_moments(optimizer.moments)
        planner = StepPlanner(optimizer, n_rows, case["batch_size"], weight, case["alpha"], 2)
        for _ in range(2):
            order = place(draw.permutation(n_rows))
            steps = planner.next_epoch(order)
            steps.table = place(steps.table.copy())
            results.append(engine.train_epoch(data, order, steps))
            optimizer.step += steps.made
        results += [*engine.store_moments(), engine.store_parameters()]
        if weight is None or weight.any():
            results += engine.loss_and_gradient(data)
        results.append(engine.predict(data, place(np.arange(n_rows)[::-1])))
    return results


def run_shuffle(case, place):
    """Shuffle rows; the kernel writes to them."""
    rows = np.arange(case["n_rows"])
    if place is not plainly:
        rows = guarded(rows, case["at_end"])
    shuffling.shuffle(np.random.RandomState(case["seed"]), rows)
    return [rows]


def run_case(case):
    """Run a case on usual and on guarded arrays, and compare the results."""
    guards, why_no_amx = Guards(case["at_end"]), reason_to_skip()
    if case["products"] != "AMX":
        why_no_amx = "it is not in this case"
    with contextlib.ExitStack() as patches:
        for module, name, value in (
            (work, "WORK_PER_THREAD", 1),
            (work, "WORK_PER_START", 0),
            (shuffling, "FEW", 0),
            (shuffling, "WORTH_COMPILING", 0),
            (rows_module, "pays_to_skip_zeros", lambda *_: case["skips_zeros"]),
            (code, "why_no_amx", lambda: why_no_amx),
        ):
            patches.enter_context(patch.object(module, name, value))
        plain = run_engine(case, plainly) + run_shuffle(case, plainly)
        with guards.installed():
            found = run_engine(case, guards.place) + run_shuffle(case, guards.place)
    for number, (one, other) in enumerate(zip(plain, found, strict=True)):
        assert np.array_equal(one, other, equal_nan=True), f"result {number} of {case}"


def run_cases(seed, first, count, note):
    """Run cases in this process, each noted in a file before it begins; return how many ran."""
    faulthandler.enable()
    code.warm_up()
    note = Path(note)
    for index in range(first, first + count):
        case = make_case(seed, index)
        note.write_text(f"--seed {seed} --first {index} --n 1: {case}")
        run_case(case)
    return count


def main():
    """Run many cases, some hundreds in each process, and go on after one that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.trials.guard_pages")
    parser.add_argument("--n", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--note", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.note:
        run_cases(given.seed, given.first, given.n, given.note)
        return 0
    failures, first, last = 0, given.first, given.first + given.n
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "case"
        while first < last:
            count = min(PROCESS_CASES, last - first)
            command = [sys.executable, "-m", "tests.trials.guard_pages", "--seed", str(given.seed)]
            command += ["--first", str(first), "--n", str(count), "--note", str(note)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            first += count
            if done.returncode != 0:
                failures += 1
                failed = note.read_text()
                print(f"{failed}\n{done.stderr[-2000:]}\nreturn code {done.returncode}", flush=True)
                first = int(failed.split("--first ")[1].split()[0]) + 1
    print(f"{given.n} cases, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
