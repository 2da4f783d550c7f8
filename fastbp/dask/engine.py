"""One network that is trained on a cluster, with the methods of `fastbp.engine.Engine`."""

from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np

from fastbp.clusters import RETRIES, Shipped, run_together
from fastbp.dask import tasks
from fastbp.schedules import WEIGHT


@dataclass
class Shard:
    """A share of the rows, on some worker.

    Parameters
    ----------
    X, lesson : fastbp.clusters.Shipped
        Its rows, and the `fastbp.dask.tasks.Lesson` about them.
    n_rows : int
        To learn from.
    weight : float
        Of its rows.
    """

    X: Shipped
    lesson: Shipped
    n_rows: int
    weight: float


class ClusterEngine:
    """Parameters and moments are here; the rows, and who trains on them, on the workers.

    Parameters
    ----------
    local : fastbp.engine.Engine
        For predictions.
    client : distributed.Client
    shards : list of Shard
    setup : fastbp.dask.tasks.Setup
    seed : int or None
        Of the order of rows; None for that of the shards.
    """

    def __init__(self, local, client, shards, setup, seed):
        self.local, self.client, self.shards = local, client, shards
        self.network, self.dtype = local.network, local.dtype
        self._setup, self._seed = setup, seed
        self._parameters, self._moments = None, []

    def __enter__(self):
        self.local.__enter__()
        return self

    def __exit__(self, *exception):
        self.local.__exit__(*exception)

    # ---- state ----------------------------------------------------------------------------------

    def load_parameters(self, parameters):
        """Set the parameters."""
        self._parameters = np.ascontiguousarray(parameters, self.dtype)
        self.local.load_parameters(self._parameters)

    def store_parameters(self):
        """Return a copy of the parameters."""
        return self._parameters.copy()

    def load_moments(self, moments):
        """Set the moments."""
        self._moments = [np.asarray(moment, self.dtype) for moment in moments]

    def store_moments(self):
        """Return copies of the moments."""
        return [moment.copy() for moment in self._moments]

    # ---- on the cluster -------------------------------------------------------------------------

    def train_epoch(self, data, order, steps):
        """Train all shards in a round from here, and average them by the weight of their rows.

        An interrupted round changes nothing.

        Parameters
        ----------
        data : fastbp.data.Data
            Not needed.
        order : fastbp.dask.rounds.Round
        steps : fastbp.schedules.Steps
            Those of the largest shard. The weights in the table are set to those of all shards.
        """
        shards = [
            (number, each) for number, each in enumerate(self.shards) if each.n_rows > order.start
        ]
        calls = [
            (each, (self._setup, tasks.Job(number, order, steps, self._seed)))
            for number, each in shards
        ]
        state = self._parameters, self._moments
        replicas = self._call(tasks.train_round, state, calls)
        replicas = [each for each in replicas if each.weight]
        weights = np.array([each.weight for each in replicas])
        steps.table[:, WEIGHT] = weights.sum() / len(steps.table)
        steps.made = len(steps.table)
        if not replicas:
            return float("nan")
        loss = float(np.average([each.loss for each in replicas], weights=weights))
        if isfinite(loss):  # otherwise the parameters before are more than these
            self.load_parameters(_mean([each.parameters for each in replicas], weights))
            moments = zip(*(each.moments for each in replicas), strict=True)
            self._moments = [_mean(each, weights).astype(self.dtype) for each in moments]
        return loss

    def loss_and_gradient(self, data):
        """The weighted mean loss of all rows and its gradient, summed in the shards' order."""
        calls = [(each, (self._setup,)) for each in self.shards if each.weight]
        results = self._call(tasks.loss_and_gradient, self._parameters, calls)
        weights = np.array([shard.weight for shard, _ in calls])
        losses, gradients = zip(*results, strict=True)
        loss = float(np.average(losses, weights=weights))
        return loss, _mean(gradients, weights).astype(self.dtype)

    def _call(self, task, state, calls):
        """The results of a task for some shards, of their rows and lesson, the state, and more."""
        client, state = self.client, Shipped(self.client, state)

        def start(shard, more):
            given = [each.current() for each in (shard.X, shard.lesson, state)]
            return client.submit(task, *given, *more, pure=False, retries=RETRIES)

        try:
            return run_together(client, [partial(start, *call) for call in calls], self._look)
        finally:
            state.forget()

    def _look(self, running):
        for shard in self.shards:
            shard.X.give_up_wish(running)

    # ---- here -----------------------------------------------------------------------------------

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs."""
        return self.local.predict(data, rows, activation)

    @property
    def inputs_were_finite(self):
        """Whether all inputs of the last prediction were."""
        return self.local.inputs_were_finite

    @property
    def outputs_were_finite(self):
        """Whether all of its outputs were."""
        return self.local.outputs_were_finite


def _mean(vectors, weights):
    """The mean by weight, in float64, added from the first to the last."""
    total = np.zeros(len(vectors[0]))
    for vector, weight in zip(vectors, weights / weights.sum(), strict=True):
        total += weight * vector
    return total
