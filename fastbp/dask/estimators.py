"""The public classes: the ordinary estimators with a cluster to train on."""

from __future__ import annotations

import copy
import inspect
from functools import wraps
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

import fastbp.classifier
import fastbp.regressor
from fastbp.clusters import check_client
from fastbp.dask import predictions
from fastbp.dask.collections import is_collection
from fastbp.dask.dealing import PAGE
from fastbp.dask.given import (
    GivenArrays,
    GivenCollection,
    GivenSourceOnCluster,
    refuse,
    refuse_sampling,
)
from fastbp.data import is_source
from fastbp.late import imported

if TYPE_CHECKING:
    from typing import Any, Literal

    from distributed import Client

OWN = "client", "n_shards", "rounds"  # the parameters beside those of the ordinary estimators


def find_client(client):
    """The client that is given, or else the one that there is.

    Raises
    ------
    ImportError
        Without dask.
    ValueError
        Where there is no client.
    TypeError
        If it is no client, or an asynchronous one.
    """
    try:
        distributed = imported("distributed")
    except ImportError as error:
        raise ImportError(
            "fastbp.dask needs dask: pip install 'fastbp[dask]', or pip install distributed."
        ) from error
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError as error:
            raise ValueError(
                "There is no client of a cluster. Make one by dask.distributed.Client(), before "
                "or as client=, or use the estimators of fastbp itself."
            ) from error
    check_client(client)
    return client


class OnCluster:
    """What both estimators have beside the ordinary ones."""

    _local_class: ClassVar[type]  # the ordinary one
    _is_on_cluster = True
    if TYPE_CHECKING:
        client: Client | None
        n_shards: int | Literal["auto"]
        rounds: int

    def __init_subclass__(cls, **named):
        """Give a class the constraints, and the signature, of its parameters."""
        super().__init_subclass__(**named)
        parent = cls.__dict__.get("_local_class")
        if parent is None:  # of a user's own
            return
        cls._parameter_constraints = {
            **parent._parameter_constraints,
            "client": [object],
            "n_shards": [StrOptions({"auto"}), Interval(Integral, 1, PAGE, closed="both")],
            "rounds": [Interval(Integral, 1, None, closed="left")],
        }
        known = inspect.signature(parent.__init__)
        own = inspect.signature(OnCluster.__init__).parameters

        @wraps(OnCluster.__init__)
        def initialise(self, *arguments, **named):
            OnCluster.__init__(self, *arguments, **named)

        initialise.__signature__ = known.replace(
            parameters=[*known.parameters.values(), *(own[name] for name in OWN)]
        )
        cls.__init__ = initialise

    def __init__(
        self,
        *arguments: Any,
        client: Client | None = None,
        n_shards: int | Literal["auto"] = "auto",
        rounds: int = 20,
        **parameters: Any,
    ) -> None:
        self._local_class.__init__(self, *arguments, **parameters)
        self.client, self.n_shards, self.rounds = client, n_shards, rounds

    # ---- training -------------------------------------------------------------------------------

    def _given(self, X, y, sample_weight, own):
        client = find_client(self.client)
        refuse(self)
        if is_source(X):
            X.targets(y, sample_weight)  # raises where others are given
            refuse_sampling(self)
            return GivenSourceOnCluster(client, X, own)
        if is_collection(X):
            refuse_sampling(self)
            return GivenCollection(client, X, y, sample_weight, own)
        for name, given in (("y", y), ("sample_weight", sample_weight)):
            if is_collection(given):
                raise TypeError(
                    f"{name} is dask's, but X is an array that is here. Give {name}.compute(), or "
                    "X as a dask array or dataframe."
                )
        return GivenArrays(client, X, y, sample_weight, own)

    # ---- prediction -----------------------------------------------------------------------------

    def predict(self, X):
        """Predict labels or numbers, as the ordinary estimator.

        Parameters
        ----------
        X : dask array or dataframe, array-like, or source
            Of shape (n_samples, n_features).

        Returns
        -------
        y : dask array, series or dataframe, or ndarray
            Of a dask array or dataframe something of the same kind, with the same blocks, which
            nobody has computed yet.
        """
        return self._predict("predict", X)

    def _predict(self, method, X):
        if is_collection(X):
            self._fitted()
            return predictions.lazily(self.to_local(), method, X)
        return getattr(super(), method)(X)

    def score(self, X, y=None, sample_weight=None):
        """Compute the accuracy, or R², as the ordinary estimator.

        Parameters
        ----------
        X : dask array or dataframe, array-like, or source
        y, sample_weight : dask array, series or dataframe, or array-like
            They and the predictions are brought here, one number a row.

        Returns
        -------
        score : float
        """
        if not is_collection(X):
            return super().score(X, y, sample_weight)
        client, local = find_client(self.client), self.to_local()
        predicted, y, sample_weight = (
            predictions.bring(client, each, name)
            for each, name in (
                (self.predict(X), "predict(X)"), (y, "y"), (sample_weight, "sample_weight"),
            )
        )  # fmt: skip
        local.predict = lambda rows: predicted  # whatever the rows: they are those of X
        return local.score(predicted, y, sample_weight)

    # ---- copies ---------------------------------------------------------------------------------

    def __getstate__(self):
        return {**super().__getstate__(), "client": None}  # which belongs to this process

    def __deepcopy__(self, memo):
        memo[id(self.client)] = self.client
        return super().__deepcopy__(memo)

    def __sklearn_clone__(self):
        """Clone all parameters but the client, which the clone shares."""
        original = object.__new__(type(self))
        vars(original).update(vars(self), client=None)
        return super(OnCluster, original).__sklearn_clone__().set_params(client=self.client)

    def to_local(self):
        """The same model without a cluster.

        Returns
        -------
        model : fastbp.MLPClassifier or fastbp.MLPRegressor
            With the same parameters and fitted attributes, but for those of the cluster. It shares
            no array with this one, can be saved, and trains here.
        """
        attributes, local = vars(copy.deepcopy(self)), object.__new__(self._local_class)
        vars(local).update({key: value for key, value in attributes.items() if key not in OWN})
        return local


class MLPClassifier(OnCluster, fastbp.classifier.MLPClassifier):
    """Multilayer perceptron for classification that is trained on a cluster of dask.

    The rows stay on the workers, cut into shards at random; parameters and all decisions are here.

    - ``solver="lbfgs"`` is exact: gradients are summed over the shards, and the model is that of
      `fastbp.MLPClassifier` but for the rounding of sums.
    - 'adam' and all other solvers are **approximate**: each shard trains a replica of the network
      for a part of an epoch, then the replicas are averaged (`rounds` times an epoch). Batches of a
      shard have ``max(25, batch_size // n_shards)`` rows: with 'sgd', choose a learning rate that
      such batches stand. With all others it is multiplied by ``sqrt(n_shards)``. See
      `fastbp.dask.rounds`.

    A model is a function of the rows, their order, `random_state`, `n_shards` and `rounds`. It does
    not depend on the partitions, the number of workers, or on workers that are lost, as long as the
    CPUs have vectors of the same width.

    Parameters
    ----------
    *arguments, **parameters : object
        Those of `fastbp.MLPClassifier`. Refused are ``device`` other than 'cpu', ``drop_last`` and,
        unless rows are arrays, an ``initialization`` that is fitted to rows. A ``checkpoint`` is
        written here, after whole epochs; any other cluster can go on from it.

    client : distributed.Client or None, default=None
        The cluster; None for the client that was made last. It stays behind in pickles.

    n_shards : int or 'auto', default='auto'
        Into how many shards the rows are cut: as many tasks can run at once. 'auto' is one for each
        100,000 rows, at most 8, or 64 with 'lbfgs'. The more there are, the further a model that is
        averaged may be from that of one machine.

    rounds : int, default=20
        Averagings in an epoch; 'lbfgs' has none.

    See Also
    --------
    fastbp.MLPClassifier : The same network on one machine.
    fastbp.fit_many : Many networks on a cluster.

    Examples
    --------
    >>> import numpy as np
    >>> import dask.array
    >>> from dask.distributed import Client
    >>> from fastbp.dask import MLPClassifier
    >>> client = Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    >>> X = dask.array.from_array(np.random.default_rng(0).normal(size=(4000, 4)), chunks=(500, 4))
    >>> y = X[:, 0] > 0
    >>> model = MLPClassifier((8,), max_iter=20, tol=0, random_state=0, n_shards=2).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    >>> model.predict(X[:3]).compute().dtype, type(model.to_local()).__module__
    (dtype('bool'), 'fastbp.classifier')
    >>> client.close()
    """

    _local_class = fastbp.classifier.MLPClassifier

    def predict_proba(self, X):
        """Predict probabilities, as the ordinary estimator.

        Parameters
        ----------
        X : dask array or dataframe, array-like, or source

        Returns
        -------
        probabilities : dask array or dataframe, or ndarray
            Of shape (n_samples, n_classes), in the order of `classes_`.
        """
        return self._predict("predict_proba", X)

    def predict_log_proba(self, X):
        """Predict the logarithms of probabilities, likewise.

        Parameters
        ----------
        X : dask array or dataframe, array-like, or source

        Returns
        -------
        log_probabilities : dask array or dataframe, or ndarray
            Of shape (n_samples, n_classes).
        """
        return self._predict("predict_log_proba", X)


class MLPRegressor(OnCluster, fastbp.regressor.MLPRegressor):
    """Multilayer perceptron for regression that is trained on a cluster of dask.

    All that `fastbp.dask.MLPClassifier` says of shards and solvers: 'lbfgs' is exact, all others
    are **approximate**.

    Parameters
    ----------
    *arguments, **parameters : object
        Those of `fastbp.MLPRegressor`, with the same exceptions.

    client : distributed.Client or None, default=None
        The cluster; None for the client that was made last. It stays behind in pickles.

    n_shards : int or 'auto', default='auto'
        Into how many shards the rows are cut. 'auto' is one for each 100,000 rows, at most 8, or 64
        with 'lbfgs'.

    rounds : int, default=20
        Averagings in an epoch; 'lbfgs' has none.

    See Also
    --------
    fastbp.MLPRegressor : The same network on one machine.

    Examples
    --------
    >>> import numpy as np
    >>> import dask.array
    >>> from dask.distributed import Client
    >>> from fastbp.dask import MLPRegressor
    >>> client = Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    >>> X = dask.array.from_array(np.random.default_rng(0).normal(size=(4000, 4)), chunks=(500, 4))
    >>> y = X[:, 0] * X[:, 1]
    >>> model = MLPRegressor(solver="lbfgs", random_state=0, n_shards=2).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    >>> client.close()
    """

    _local_class = fastbp.regressor.MLPRegressor
