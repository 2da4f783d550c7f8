"""What averaging costs: accuracy of local rounds by number of shards, under several rules.

    python -m benchmarks.scale.averaging --mnist DIR            # the folder of MNIST's IDX files
    python -m benchmarks.scale.averaging --seeds 5 --shards 2 8 32

Replicas are trained in this process: the model is a function of the shards, not of a cluster. Among
the rules are those that `fastbp.dask` follows, and those they were chosen from.
"""

import argparse
import time
import warnings
from dataclasses import replace
from math import sqrt

import numpy as np
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning

from fastbp import MLPClassifier, datasets
from fastbp.dask import MLPClassifier as ClusterClassifier
from fastbp.dask import given
from fastbp.dask.engine import ClusterEngine
from fastbp.training import NonFiniteLossError

CHOSEN = given.local_plan


def make_rule(batch, rate):
    """A plan with batches of B rows, or B/K but at least 25, and a step times a factor.

    With "rows" it is in proportion to the rows that all replicas use in an update: 1 for B/K.
    """

    def plan(n_shards, batch_size, alpha, is_linear):
        chosen = CHOSEN(n_shards, batch_size, alpha, is_linear)
        local = batch_size if batch == "B" else chosen.batch_size
        factors = {"1": 1.0, "sqrt K": sqrt(n_shards), "K": float(n_shards)}
        factor = factors | {"rows": local * n_shards / batch_size}
        return replace(
            chosen, batch_size=local, rate_factor=factor[rate], alpha=alpha * local / batch_size
        )

    return plan


RULES = {
    f"batch {batch}, step x {rate}": make_rule(batch, rate)
    for batch in ("B", "max(25, B/K)")
    for rate in ("1", "sqrt K", "K", "rows")
}


def load_mnist(folder):
    """MNIST's pixels as they are, and how an estimator reads them."""
    data = datasets.load_mnist(folder)
    parameters = dict(hidden_layer_sizes=(128,), max_iter=10, input_scale=data.input_scale)
    return (data.X_train, data.y_train), (data.X_test, data.y_test), parameters


def make_table(n_train=100_000):
    """Five made-up classes in 50 columns."""
    X, y = make_classification(
        n_train + 20_000, 50, n_informative=30, n_redundant=0, n_classes=5,
        n_clusters_per_class=2, class_sep=1.5, random_state=0,
    )  # fmt: skip
    X = X.astype(np.float32)
    parameters = dict(hidden_layer_sizes=(64, 32), max_iter=6)
    return (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:]), parameters


def call_here(engine, task, state, calls):
    """In the place of `ClusterEngine._call`."""
    if not hasattr(engine, "held"):
        engine.held = {}
    results = []
    for shard, more in calls:
        if id(shard) not in engine.held:
            engine.held[id(shard)] = engine.client.gather(
                [shard.X.current(), shard.lesson.current()]
            )
        results.append(task(*engine.held[id(shard)], state, *more))
    return results


def accuracies(model, data, test, seeds, **parameters):
    """Of a model for each seed."""
    found = []
    for seed in range(seeds):
        model.set_params(
            random_state=seed, precision="float32", n_threads=1, tol=0, n_iter_no_change=1000,
            **parameters,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                found.append(model.fit(*data).score(*test))
            except NonFiniteLossError:  # diverged
                found.append(0.0)
    return np.array(found)


def main(arguments=None):
    """Print a table for each data set."""
    from dask.distributed import Client

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mnist", help="the folder of MNIST's files; without it, the table only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--solver", default="adam")
    parser.add_argument("--rate", type=float, default=0.001, help="learning_rate_init")
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--rules", nargs="+", default=[*RULES], choices=RULES)
    options = parser.parse_args(arguments)
    tasks = {"table": make_table}
    if options.mnist:
        tasks["mnist"] = lambda: load_mnist(options.mnist)
    ClusterEngine._call = call_here
    with Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as client:
        for name, load in tasks.items():
            data, test, parameters = load()
            parameters |= dict(solver=options.solver, learning_rate_init=options.rate)
            full = accuracies(MLPClassifier(), data, test, options.seeds, **parameters)
            print(f"\n{name}: one machine {full.mean():.4f} ({full.min():.4f} to {full.max():.4f})")
            print("| rule | " + " | ".join(f"K={k}" for k in options.shards) + " |", flush=True)
            for rule in options.rules:
                given.local_plan = RULES[rule]
                row = []
                for n_shards in options.shards:
                    began = time.perf_counter()
                    model = ClusterClassifier(client=client, n_shards=n_shards)
                    found = accuracies(model, data, test, options.seeds, **parameters)
                    row.append(
                        f"{found.mean():.4f} ({found.min():.4f}-{found.max():.4f}; "
                        f"{time.perf_counter() - began:.0f} s)"
                    )
                print(f"| {rule} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
