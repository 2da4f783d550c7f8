"""What modern training costs, and PyTorch and JAX doing the same: `python -m benchmarks.modern`.

Each ingredient alone against relu and Adam, and all of them together, in fastbp; then all together
in PyTorch and JAX. float32, random rows, batches of 64, one fit of some epochs a turn, all by
turns; a time is the median over the turns of the fastest epoch, the ratio the median of the
turns' ratios. Before anything is timed, the same training without dropout, whose masks differ
between libraries, must end in the same loss, and the one with dropout in nearly the same.
"""

import argparse
import time
import warnings
from statistics import median

import numpy as np

import fastbp
from fastbp.bench.results import machine, versions
from fastbp.bench.tables import table

NETWORKS = {"784-128-10": (784, (128,), 10, 8_000), "30-64-64-3": (30, (64, 64), 3, 20_032)}
BATCH_SIZE, EPOCHS, RATE, SMOOTHING, DROPOUT, DECAY = 64, 5, 0.001, 0.1, 0.1, 0.01
BETAS, EPSILON = (0.9, 0.999), 1e-8
INGREDIENTS = {
    "relu, adam": {},
    "gelu": dict(activation="gelu"),
    "dropout": dict(dropout=DROPOUT),
    "adamw": dict(solver="adamw", weight_decay=DECAY),
    "cosine": dict(learning_rate="cosine"),
    "label_smoothing": dict(label_smoothing=SMOOTHING),
    "max_grad_norm": dict(max_grad_norm=1.0),
    "ema_decay": dict(ema_decay=0.999),
}
TOGETHER = dict(
    activation="gelu", dropout=DROPOUT, solver="adamw", weight_decay=DECAY,
    learning_rate="cosine", label_smoothing=SMOOTHING,
)  # fmt: skip
MOST_OFF, MOST_OFF_DROPPED = 1e-3, 0.02  # of losses, relative


class Case:
    """Rows for a network, and its first parameters, the same for all libraries."""

    def __init__(self, name, n_threads):
        n_features, self.hidden, n_classes, n_rows = NETWORKS[name]
        random = np.random.default_rng(0)
        self.X = random.random((n_rows, n_features), np.float32)
        self.y = random.integers(0, n_classes, n_rows)
        self.y[:n_classes] = np.arange(n_classes)
        self.n_threads = n_threads
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = self.estimator(max_iter=1, learning_rate_init=1e-30).fit(self.X, self.y)
        self.coefs, self.intercepts = start.coefs_, start.intercepts_

    def estimator(self, **parameters):
        settings = dict(
            batch_size=BATCH_SIZE, max_iter=EPOCHS, learning_rate_init=RATE, alpha=0.0, tol=0.0,
            n_iter_no_change=np.inf, random_state=0, shuffle=False, n_threads=self.n_threads,
        )  # fmt: skip
        return fastbp.MLPClassifier(self.hidden, **settings | parameters)

    def fastbp(self, **parameters):
        """Train; return the epochs' losses and seconds."""
        seconds = []
        model = self.estimator(callback=lambda report: seconds.append(report.seconds), **parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(self.X, self.y)
        return model.loss_curve_, seconds

    @property
    def n_updates(self):
        """Of all epochs."""
        return EPOCHS * -(-len(self.X) // BATCH_SIZE)

    def torch(self, dropout):
        """The same by PyTorch: eager, with its fused AdamW."""
        import torch
        from torch.nn import functional

        torch.set_num_threads(self.n_threads or torch.get_num_threads())
        torch.manual_seed(0)
        X, y = torch.from_numpy(self.X), torch.from_numpy(self.y)
        weights = [torch.tensor(each.T.copy(), requires_grad=True) for each in self.coefs]
        biases = [torch.tensor(each, requires_grad=True) for each in self.intercepts]
        groups = [{"params": weights, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0}]
        optimizer = torch.optim.AdamW(groups, RATE, BETAS, EPSILON, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_updates)
        losses, seconds = [], []
        for _ in range(EPOCHS):
            total, started = 0.0, time.perf_counter()
            for first in range(0, len(X), BATCH_SIZE):
                h, labels = X[first : first + BATCH_SIZE], y[first : first + BATCH_SIZE]
                for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                    h = functional.gelu(functional.linear(h, weight, bias))
                    h = functional.dropout(h, dropout) if dropout else h
                logits = functional.linear(h, weights[-1], biases[-1])
                loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(labels)
            losses.append(total / len(X))
            seconds.append(time.perf_counter() - started)
        return losses, seconds

    def jax(self, dropout):
        """The same by JAX: an epoch in one `jit`, `lax.scan` over its batches."""
        if not hasattr(self, "_jax_epoch"):
            self._jax_epoch = {}
        if dropout not in self._jax_epoch:
            self._jax_epoch[dropout] = _jax_epoch(self.n_updates, dropout)
        import jax
        import jax.numpy as jnp

        epoch = self._jax_epoch[dropout]
        X = jnp.asarray(self.X).reshape(-1, BATCH_SIZE, self.X.shape[1])
        y = jnp.asarray(self.y).reshape(-1, BATCH_SIZE)
        parameters = tuple(map(jnp.asarray, self.coefs)), tuple(map(jnp.asarray, self.intercepts))
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        state = parameters, zeros, zeros, jnp.zeros((), jnp.float32), jax.random.key(0)
        losses, seconds = [], []
        for _ in range(EPOCHS):
            started = time.perf_counter()
            state, loss = epoch(state, X, y)
            losses.append(float(loss))
            seconds.append(time.perf_counter() - started)
        return losses, seconds


def _jax_epoch(n_updates, dropout):
    import jax
    import jax.numpy as jnp

    def loss_of(parameters, key, X, y):
        weights, biases = parameters
        for index, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            X = jax.nn.gelu(X @ weight + bias, approximate=False)
            if dropout:
                stays = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - dropout, X.shape)
                X = jnp.where(stays, X / (1 - dropout), 0)
        logarithms = jax.nn.log_softmax(X @ weights[-1] + biases[-1])
        picked = jnp.take_along_axis(logarithms, y[:, None], axis=1)[:, 0]
        return -((1 - SMOOTHING) * picked + SMOOTHING * logarithms.mean(axis=1)).mean()

    def step(state, batch):
        parameters, first, second, count, key = state
        key, own = jax.random.split(key)
        loss, gradient = jax.value_and_grad(loss_of)(parameters, own, *batch)
        rate = RATE * 0.5 * (1 + jnp.cos(jnp.pi * count / n_updates))
        count += 1
        first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, first, gradient)
        second = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, second, gradient)
        root = jnp.sqrt(1 - BETAS[1] ** count)
        size, epsilon = rate * root / (1 - BETAS[0] ** count), EPSILON * root

        def update(w, m, v):
            decay = rate * DECAY if w.ndim > 1 else 0.0
            return w * (1 - decay) - size * m / (jnp.sqrt(v) + epsilon)

        parameters = jax.tree.map(update, parameters, first, second)
        return (parameters, first, second, count, key), loss

    @jax.jit
    def epoch(state, X, y):
        state, losses = jax.lax.scan(step, state, (X, y))
        return state, losses.mean()

    return epoch


def check_losses(case, peers):
    """See that all libraries train the same."""
    for dropout, most in ((0.0, MOST_OFF), (DROPOUT, MOST_OFF_DROPPED)):
        ours, _ = case.fastbp(**TOGETHER | {"dropout": dropout})
        for name, train in peers.items():
            theirs, _ = train(dropout)
            off = np.abs(np.divide(theirs, ours) - 1).max()
            if not off <= most:
                raise SystemExit(f"{name}'s losses with dropout {dropout} are off by {off:.1e}")


def race(contenders, n_rounds):
    """Let all take turns; return seconds of the fastest epoch, contender by contender."""
    times = {name: [] for name in contenders}
    for turn in range(n_rounds):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in order:
            _, seconds = contenders[name]()
            times[name].append(min(seconds[1:]))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    print(machine(options.threads), versions(), sep="\n")
    for name in NETWORKS:
        case = Case(name, options.threads)
        peers = {"PyTorch": case.torch, "JAX": case.jax}
        check_losses(case, peers)
        contenders = {
            ingredient: lambda case=case, parameters=parameters: case.fastbp(**parameters)
            for ingredient, parameters in (INGREDIENTS | {"all together": TOGETHER}).items()
        }
        contenders |= {
            f"all together, {peer}": lambda train=train: train(DROPOUT)
            for peer, train in peers.items()
        }
        times = race(contenders, options.rounds)
        base, rows = times["relu, adam"], []
        for contender, seconds in times.items():
            ratios = np.divide(seconds, base)
            low, high = np.percentile(ratios, [25, 75])
            rows.append([
                contender, f"{1e3 * median(seconds):.2f} ms", f"{median(ratios):.2f}",
                f"{low:.2f} to {high:.2f}",
            ])  # fmt: skip
        print(f"\n{name}\n")
        print(table(["", "an epoch", "over relu, adam", "quartiles"], rows))


if __name__ == "__main__":
    main()
