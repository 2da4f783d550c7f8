"""The command line: train, predict, measure, fill the kernel cache, describe this machine."""

from __future__ import annotations

import os
import sys
import time
import warnings
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# scikit-learn and what needs it are imported by the commands, while data are being read.
import fastbp
from fastbp import datasets, recipes
from fastbp.activations import ALIASES, HIDDEN_ACTIVATIONS
from fastbp.cli_options import (
    ERROR,
    Parser,
    folder,
    layer_sizes,
    positive_integer,
    positive_number,
    seed,
)
from fastbp.late import postpone
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.precisions import LOW_PRECISIONS
from fastbp.table_commands import subcommands

if TYPE_CHECKING:
    from collections.abc import Sequence

OF_DIGITS = {"max_iter": 30, "batch_size": 32}  # they are few: more epochs
BATCH_SIZE = recipes.FAST["batch_size"]
SGD_RATE = recipes.FAST["learning_rate_init"]
ADAPTIVE_RATE = 0.001  # of all solvers but sgd, which scale their steps themselves
INTERRUPTED, BROKEN_PIPE = 130, 141  # exit statuses; shells give them


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `fastbp`.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments without the command's own name; None for those of this process, whose start
        then counts as the start of the work.

    Returns
    -------
    status : int
        0; 1 where `fastbp check` has found an error; 2 after an error of the command itself, with
        one line on stderr; 130 after Ctrl-C.

    Examples
    --------
    >>> main(["mnist", "--epochs", "0"])  # one line on stderr
    2
    """
    started = time.perf_counter() - (seconds_since_process_start() if argv is None else 0.0)
    try:
        options = make_parser().parse_args(argv)
        if argv is None:  # the process is ours
            postpone("scipy.stats")
        status = options.command(options, Stopwatch(started))
        sys.stdout.flush()
    except SystemExit as stop:  # argparse's, after --help or a usage error
        return stop.code or 0
    except KeyboardInterrupt:
        print("fastbp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has left; nothing is to be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, ValueError, MemoryError, OverflowError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"fastbp: error: {message}", file=sys.stderr)
        return ERROR
    return status or 0


# ---- arguments ------------------------------------------------------------------------------


def make_parser():
    """Make the parser of all commands. Each puts its function into `command`."""
    parser = Parser(prog="fastbp", description="Multilayer perceptrons by compiled kernels.")
    parser.add_argument("--version", action="version", version=f"fastbp {fastbp.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name, command, text):
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    subcommands.add_to(add)

    mnist = add("mnist", train_on_mnist, "train on MNIST and show how accurate and how fast")
    option = mnist.add_argument
    option("--data", type=folder, metavar="DIR",
           help="folder of the four IDX files (default: see load_mnist)")  # fmt: skip
    option("--recipe", choices=recipes.RECIPES, default="fast",
           help="fast: 98 %% in seconds (default); best: the most accurate, in a minute. The "
           "options below change the recipe")  # fmt: skip
    option("--epochs", type=positive_integer, help="times that all images are trained on")
    option("--hidden", type=layer_sizes, metavar="SIZES",
           help="units of the hidden layers, such as 256,128")  # fmt: skip
    option("--activation", choices=[*HIDDEN_ACTIVATIONS, *ALIASES], help="of the hidden layers")
    option("--solver", choices=STOCHASTIC_SOLVERS,
           help="another one than the recipe's keeps the learning rate constant")  # fmt: skip
    option("--batch-size", type=positive_integer)
    option("--learning-rate", type=positive_number,
           help=f"of another solver: {SGD_RATE} with sgd, else {ADAPTIVE_RATE}")  # fmt: skip
    option("--threads", type=positive_integer, help="default: the cores that are available")
    option("--precision", choices=["float32", "float64"], default="float32",
           help="default: float32")  # fmt: skip
    option("--seed", type=seed, default=0, help="default: 0")

    bench = add("bench", run_benchmark, "time fastbp against NumPy, scikit-learn, PyTorch and JAX")
    option = bench.add_argument
    option("--device", choices=["cpu", "cuda", "both"], default="cpu",
           help="whose contenders: the CPU's (default), an NVIDIA GPU's, or both")  # fmt: skip
    option("--quick", action="store_true", help="a few networks, in less than two minutes")
    option("--only", action="append", default=[], metavar="NAME",
           help="a part (table, width, threads, cold ...) or the beginning of a network's name; "
           "may be repeated")  # fmt: skip
    option("--peer", action="append", default=[], metavar="NAME",
           help="a peer such as NumPy or JAX; may be repeated (default: all)")  # fmt: skip
    option("--threads", type=positive_integer, help="default: the cores that are available")
    option("--output", type=Path, default=Path("fastbp-bench"), metavar="DIR",
           help="folder for JSON, tables and pictures (default: fastbp-bench)")  # fmt: skip
    option("--data", type=folder, metavar="DIR",
           help="folder of MNIST's IDX files (default: FASTBP_DATA; never downloaded)")  # fmt: skip

    check = add("check", run_checks, "check on this machine that results are right and repeatable")
    check.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                       help="whose engine (default: cpu)")  # fmt: skip
    add("warmup", warm_up, "compile all kernels and keep them, so that no first fit has to")
    about = add("info", show_info, "show versions, CPU, threads, kernel cache and GPU")
    option = about.add_argument
    option("--layers", type=layer_sizes, metavar="SIZES", help="say how a GPU would train this "
           "network: units of all layers, such as 784,128,10")  # fmt: skip
    option("--batch-size", type=positive_integer, default=BATCH_SIZE,
           help=f"of it (default: {BATCH_SIZE})")  # fmt: skip
    option("--precision", choices=["float32", "float64", *LOW_PRECISIONS],
           default="float32", help="of it (default: float32)")  # fmt: skip
    option("--solver", choices=STOCHASTIC_SOLVERS, default="sgd", help="of it (default: sgd)")
    return parser


# ---- time -----------------------------------------------------------------------------------


def seconds_since_process_start():
    """Wall time since this process started; its CPU time where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, ValueError, IndexError):
        return time.process_time()


class Stopwatch:
    """Splits wall time into laps without gaps.

    Parameters
    ----------
    started : float
        When the first lap began, by `time.perf_counter`.
    """

    def __init__(self, started):
        self.laps = {}
        self._last = started

    def lap(self, name):
        """End a lap and return its seconds."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
        return self.laps[name]


class ProgressLine:
    """Shows every epoch: on a terminal always in the same line, else in one of its own.

    A callback for the estimators.
    """

    def __init__(self, epochs):
        self.epochs = epochs
        self._started = time.perf_counter()
        self._live = sys.stdout.isatty()

    def __call__(self, report):
        rate = report.n_samples / max(report.seconds, 1e-9)
        line = (
            f"epoch {report.n_iter:{len(str(self.epochs))}}/{self.epochs}  "
            f"loss {report.loss:8.5f}  {rate:11,.0f} samples/s  "
            f"{time.perf_counter() - self._started:7.2f} s"
        )
        print(f"\r{line}" if self._live else line, end="" if self._live else "\n", flush=True)

    def end(self):
        """Leave the line."""
        if self._live:
            print(flush=True)


# ---- commands -------------------------------------------------------------------------------


def train_on_mnist(options, stopwatch):
    """Train, with progress; show the test accuracy and where the time went."""
    reading = datasets.ReadAhead(options.data)
    from fastbp import classifier  # noqa: F401 (it takes most of the time)
    from fastbp.cpu import code

    stopwatch.lap("import")
    name, data = load_data(reading)
    print(
        f"{data.source}: {len(data.y_train):,} training and {len(data.y_test):,} test images",
        flush=True,
    )
    stopwatch.lap("load")
    how, _ = prepare_kernels([options.precision], everything=False)
    print(f"Kernels {how} in {stopwatch.lap('compile'):.2f} s")

    model = make_model(options, name, data)
    model.callback = progress = ProgressLine(model.max_iter)
    units = (data.X_train.shape[1], *model.hidden_layer_sizes, data.y_train.max() + 1)
    print(
        f"{'-'.join(map(str, units))} {model.activation}, {model.solver} at "
        f"{model.learning_rate_init:g}, batch {model.batch_size}, {options.precision}, threads "
        f"up to {options.threads or code.available_threads()}, seed {options.seed}",
        flush=True,
    )
    fit(model, data, progress)
    stopwatch.lap("train")
    accuracy = np.mean(model.predict(data.X_test) == data.y_test)
    stopwatch.lap("predict")
    print(f"Test accuracy {accuracy:.2%}")
    show_times(stopwatch, how)


def load_data(reading):
    """Load MNIST or, where it is neither at hand nor to be had, the bundled digits."""
    try:
        return "MNIST", reading.load(verbose=True)
    except ConnectionError as error:
        print(f"No MNIST: training on scikit-learn's bundled 8x8 digits instead. {error}")
        return "digits", datasets.load_digits()


def prepare_kernels(dtypes, everything=True):
    """Make the kernels ready; return how that was done, and the cache's folder."""
    from fastbp.cpu import code

    before = code.CODE.n_compiled
    kept_in = code.warm_up(dtypes, everything)
    if not code.IS_COMPILED_HERE:
        return "loaded from the package", kept_in
    is_cached = code.CODE.n_compiled == before
    return "loaded from the cache" if is_cached else "compiled", kept_in


def make_model(options, name, data):
    """Make the classifier that recipe and options ask for; it trains for all epochs."""
    recipe = recipes.RECIPES[options.recipe] | (OF_DIGITS if name == "digits" else {})
    given = {
        "hidden_layer_sizes": options.hidden,
        "activation": options.activation,
        "solver": options.solver,
        "batch_size": options.batch_size,
        "learning_rate_init": options.learning_rate,
        "max_iter": options.epochs,
    }
    if options.solver not in (None, recipe["solver"]):
        rate = SGD_RATE if options.solver == "sgd" else ADAPTIVE_RATE
        recipe |= {"learning_rate": "constant", "learning_rate_init": rate}
    return fastbp.MLPClassifier(
        **recipe | {name: value for name, value in given.items() if value is not None},
        n_iter_no_change=inf,
        random_state=options.seed,
        precision=options.precision,
        n_threads=options.threads,
        input_scale=data.input_scale,
    )


def fit(model, data, progress):
    """Fit without the warning that all epochs were used; Ctrl-C ends the program."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("error", "Training interrupted")
        try:
            model.fit(data.X_train, data.y_train)
        except UserWarning as interrupted:
            raise KeyboardInterrupt from interrupted
        finally:
            progress.end()


def show_times(stopwatch, how):
    """Print the table of wall time; `how` kernels were made ready."""
    notes = {"compile": f"  ({how})"}
    for name in ("import", "compile", "load", "train", "predict"):
        print(f"  {name:8}{stopwatch.laps[name]:8.2f} s{notes.get(name, '')}")
    print(f"  {'total':8}{sum(stopwatch.laps.values()):8.2f} s")


def run_benchmark(options, stopwatch):
    """Run the benchmark, which prints as it goes."""
    try:
        from fastbp.bench import program
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the benchmark needs numba, to measure what this machine can do, and {error}: "
            "pip install numba"
        ) from error

    program.run(
        program.Options(
            quick=options.quick,
            device=options.device,
            only=tuple(options.only),
            peers=tuple(options.peer),
            n_threads=options.threads,
            output=options.output,
            mnist=options.data,
        )
    )


def run_checks(options, stopwatch):
    """Check the engine of a device, print a table, and return the exit status."""
    from fastbp import check

    return check.run(options.device)


def warm_up(options, stopwatch):
    """Compile all kernels that are not shipped, and say where they are kept."""
    from fastbp.cpu import code

    stopwatch.lap("import")
    how, folder = prepare_kernels(["float32", "float64"])
    seconds = stopwatch.lap("compile")
    if not code.IS_COMPILED_HERE:
        print(f"Nothing to compile: kernels are {code.CODE.description}")
        return
    if folder is None:
        raise OSError(
            f"kernels were compiled in {seconds:.2f} s but can be kept nowhere; set "
            "FASTBP_CACHE_DIR to a folder that can be written"
        )
    done = "compiled" if how == "compiled" else "already compiled, loaded"
    print(f"Kernels {done} in {seconds:.2f} s; they are kept in {folder}")


def show_info(options, stopwatch):
    """Print versions, what fastbp finds on this machine, and how it would train a network."""
    from fastbp import info

    task = None
    if options.layers is not None:
        if len(options.layers) < 2:
            raise ValueError(
                "--layers takes the units of all layers, such as 784,128,10; got "
                f"{options.layers[0]}"
            )
        task = info.make_task(
            options.layers, options.batch_size, options.precision,
            options.solver,
        )  # fmt: skip
    for name, value in info.describe(task).items():
        print(f"{name:14}{value}")
