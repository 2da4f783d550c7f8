"""One net on a cluster: two workers beside one, exact and by rounds, and one that is killed."""

import os
import signal
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastbp import MLPClassifier as LocalClassifier

N_COLUMNS, N_CLASSES, N_SHARDS = 100, 5, 8
NET = (256, 128)
GAIN, KILL_SECONDS = 1.6, 5.0


def make_rows(n_rows):
    """Rows of a task."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(N_CLASSES, N_COLUMNS)).astype(np.float32)
    y = random.integers(0, N_CLASSES, n_rows)
    X = random.standard_normal((n_rows, N_COLUMNS), np.float32)
    X += 0.3 * centres[y]
    return X, y


def open_cluster(n_workers, folder):
    """A cluster of worker processes of one thread each, and its client."""
    from dask.distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=n_workers, threads_per_worker=1, dashboard_address=":0",
        local_directory=str(folder), silence_logs="CRITICAL",
    )  # fmt: skip
    return cluster, Client(cluster)


def fit_on(client, X, y, after_epoch=None, **given):
    """A model, and the seconds of each epoch or iteration but the first, which loads the shards."""
    from fastbp.dask import MLPClassifier

    seconds = []

    def callback(report):
        seconds.append(report.seconds)
        if after_epoch is not None:
            after_epoch(report)

    model = MLPClassifier(
        NET, random_state=0, client=client, n_shards=N_SHARDS, callback=callback, tol=0,
        n_iter_no_change=np.inf, **given,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return model, seconds[1:]


def measure(folder, options):
    """Yield what is measured, what must be, what is, and whether it is met."""
    X, y = make_rows(min(options.rows, 1_000_000))
    lbfgs = {"solver": "lbfgs", "max_iter": 1 + options.epochs}
    rounds = {"max_iter": 1 + options.epochs}
    clusters = {n: open_cluster(n, folder) for n in (1, 2)}
    try:
        for name, given in (("lbfgs, an iteration", lbfgs), ("20 rounds, an epoch", rounds)):
            best, models = {}, {}
            for _ in range(2):  # by turns, as the machine's speed drifts
                for n, (_, client) in clusters.items():
                    models[n], seconds = fit_on(client, X, y, **given)
                    best[n] = min([best.get(n, np.inf), *seconds])
            same = (models[1].coefs_[0] == models[2].coefs_[0]).all()
            yield (
                f"{name}, {len(X):,} rows, {NET}: 2 workers ({best[2]:.2f} s) × 1 ({best[1]:.2f} "
                f"s); {'the same' if same else 'OTHER'} bits",
                f"≥ {GAIN}", f"{best[1] / best[2]:.2f}", bool(same and best[1] / best[2] >= GAIN),
            )  # fmt: skip
        yield from exactness(clusters[2][1], X[:50_000], y[:50_000])
        yield killed(clusters[2][1], X, y, models[2], rounds)
    finally:
        for cluster, client in clusters.values():
            client.close()
            cluster.close()


def exactness(client, X, y):
    """The curve of lbfgs beside that of one machine, in float64."""
    given = {"solver": "lbfgs", "max_iter": 30, "precision": "float64"}
    model, _ = fit_on(client, X, y, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        local = LocalClassifier(NET, random_state=0, tol=0, **given).fit(X, y)
    curves = np.array(model.loss_curve_), np.array(local.loss_curve_)
    difference = float(np.abs(curves[0] / curves[1] - 1).max())
    yield (
        "lbfgs on the cluster, float64: difference of the curve", "≤ 1e-10", f"{difference:.0e}",
        difference <= 1e-10,
    )  # fmt: skip


def killed(client, X, y, expected, given):
    """What a worker that is killed in a round costs."""
    pids, began = [*client.run(os.getpid).values()], []

    def kill(report):
        if report.n_iter == 2:
            os.kill(pids[0], signal.SIGKILL)
            began.append(time.perf_counter())

    started = time.perf_counter()
    model, seconds = fit_on(client, X, y, kill, **given)
    lost = seconds[1] - min(seconds)  # of the epoch in which it was missed
    same = (model.coefs_[0] == expected.coefs_[0]).all()
    return (
        f"a worker killed in epoch 3 of {time.perf_counter() - started:.0f} s: seconds lost, its "
        f"shards loaded again; {'the same' if same else 'OTHER'} bits",
        f"≤ {KILL_SECONDS} and reload", f"{lost:.1f}", bool(same),
    )  # fmt: skip
