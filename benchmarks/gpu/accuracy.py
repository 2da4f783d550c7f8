"""How long training takes until MNIST's test set is known to 97 and 98 %.

The recipe is that of the cold start's table: 784-256-10, relu, batch 64, Nesterov's momentum 0.9,
step size 0.1 for three epochs and then 0.02, as `fastbp mnist` trains. The seconds are those of the
epochs, drawing their orders included, until the first one behind which the accuracy is reached.
Not in them: importing, compiling, recording, bringing the images up once, and predicting.
"""

import time

import numpy as np

from benchmarks.gpu.trainers import BYTE_SCALE, use_only
from benchmarks.gpu.workers import Worker
from fastbp import datasets
from fastbp.bench.race import WorkerError
from fastbp.bench.until_accurate import BATCH_SIZE, MOMENTUM, N_HIDDEN, RATES, TARGETS
from fastbp.data import Data
from fastbp.devices import make_engine
from fastbp.network import Network
from fastbp.optimizers import Optimizer

N_SEEDS = 20
PROGRAMS = ("general",)
RECIPE = (
    f"784-{N_HIDDEN}-10 relu, batch {BATCH_SIZE}, Nesterov's momentum {MOMENTUM}, "
    f"step sizes {', '.join(map(str, RATES))}"
)


def train_seeds(mnist, device, program=None, n_seeds=N_SEEDS):
    """Yield, by seed, the seconds to each target and the last accuracy; first, an epoch unkept."""
    if program is not None:
        use_only(program)
    images = datasets.load_mnist(mnist)
    train = Data(images.X_train, images.y_train.astype(np.int64), None, BYTE_SCALE)
    test = Data(images.X_test, None, None, BYTE_SCALE)
    network = Network((784, N_HIDDEN, 10), ("relu",), "softmax", "log_loss")
    with make_engine(network, np.dtype("float32"), None, device) as engine:
        for seed in (0, *range(n_seeds)):
            yield _train_seed(engine, train, test, images.y_test, seed)


def _train_seed(engine, train, test, y_test, seed):
    random_state, network = np.random.RandomState(seed), engine.network
    optimizer = Optimizer("sgd", RATES[0], momentum=MOMENTUM)
    optimizer.reset(network.n_parameters, np.float32)
    engine.load_parameters(network.initialise(random_state, np.float32, default_activation="relu"))
    engine.load_optimizer(optimizer)
    order = np.arange(train.n_samples)
    seconds, reached, accuracy = 0.0, {}, 0.0
    for n_epochs, rate in enumerate(RATES, 1):
        started = time.perf_counter()
        random_state.shuffle(order)
        optimizer.learning_rate = rate
        engine.train_epoch(train, order, BATCH_SIZE, optimizer, 0.0)
        seconds += time.perf_counter() - started
        accuracy = float(np.mean(engine.predict(test).argmax(axis=1) == y_test))
        for target in TARGETS:
            if accuracy >= target / 100:
                reached.setdefault(str(target), (seconds, n_epochs))
        if len(reached) == len(TARGETS):
            break
    return {"seed": seed, "reached": reached, "accuracy": accuracy}


def time_to_accuracy(mnist, deadline, n_seeds=N_SEEDS):
    """Train all seeds by each program.

    Returns
    -------
    rows : list of dict
        Program, its seeds, and the problem where it failed.
    """
    rows = []
    for program in PROGRAMS:
        row = {"program": program, "recipe": RECIPE, "seeds": [], "problem": ""}
        worker = Worker(
            "benchmarks.gpu.accuracy:train_seeds", mnist=mnist, device="cuda", program=program,
            n_seeds=n_seeds,
        )  # fmt: skip
        try:
            worker.go(deadline)
            while found := worker.go(deadline):
                row["seeds"].append(found)
        except WorkerError as error:
            row["problem"] = str(error)
        worker.close()
        rows.append(row)
    return rows
