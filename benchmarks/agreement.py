"""How closely fastbp follows scikit-learn, and itself on other numbers of threads.

The estimators are imported where they are used: every racing process imports this module.
"""

import warnings
from itertools import product

import numpy as np

ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
TARGETS = ("binary", "multiclass", "multilabel", "regression")
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "Nesterov": {"solver": "sgd", "nesterovs_momentum": True, "learning_rate_init": 0.02},
    "adam": {"solver": "adam", "learning_rate_init": 0.005},
}


def rows_and_targets(kind, n_samples=301, n_features=11):
    """Made-up float64 rows, a number of them that no batch size divides, and targets."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((n_samples, n_features))
    scores = np.tanh(X @ generator.standard_normal((n_features, 3)))
    scores += 0.3 * generator.standard_normal(scores.shape)
    return X, {
        "binary": (scores[:, 0] > 0).astype(int),
        "multiclass": scores.argmax(axis=1),
        "multilabel": (scores > 0).astype(int),
        "regression": scores[:, 0],
    }[kind]


def both_fits(kind, parameters):
    """Fit fastbp's and scikit-learn's estimator with the same parameters; return the two."""
    from sklearn import neural_network

    import fastbp

    name = "MLPRegressor" if kind == "regression" else "MLPClassifier"
    X, y = rows_and_targets(kind)
    parameters = {"hidden_layer_sizes": (17, 9), "random_state": 3} | parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reaching max_iter is what we want
        return [
            getattr(package, name)(**parameters).fit(X, y) for package in (fastbp, neural_network)
        ]


def curve_differences(n_epochs=20):
    """Largest relative difference between the two loss curves in float64.

    Returns
    -------
    differences : dict
        By (solver, activation, targets).
    """
    differences = {}
    for solver, activation, kind in product(SOLVERS, ACTIVATIONS, TARGETS):
        parameters = {"max_iter": n_epochs, "n_iter_no_change": np.inf, "batch_size": 32}
        fits = both_fits(kind, {"activation": activation} | parameters | SOLVERS[solver])
        ours, theirs = (np.array(fit.loss_curve_) for fit in fits)
        if len(ours) != len(theirs):
            raise AssertionError(f"{len(ours)} and {len(theirs)} epochs")
        differences[solver, activation, kind] = float(np.max(np.abs(ours - theirs) / theirs))
    return differences


def lbfgs_differences(max_iter=50):
    """Relative difference between the two final losses of lbfgs in float64.

    The minimiser amplifies rounding errors: after some hundred iterations scikit-learn does not
    agree with itself when its rows are reversed, so fits end before.

    Returns
    -------
    differences : dict
        By (activation, targets).
    """
    differences = {}
    for activation, kind in product(ACTIVATIONS, TARGETS):
        parameters = {"solver": "lbfgs", "activation": activation, "max_iter": max_iter}
        ours, theirs = (fit.loss_ for fit in both_fits(kind, parameters))
        differences[activation, kind] = float(abs(ours - theirs) / abs(theirs))
    return differences


def unequal_thread_counts(counts=(1, 2, 3, 4)):
    """Fits whose weights depend on the number of threads.

    Returns
    -------
    unequal : list of str
        Empty where every bit is equal.
    n_fits : int
        Combinations of shape, dtype and solver that were compared.
    """
    import fastbp

    # Large enough for a batch to be worth four threads; sizes that no tile divides.
    shapes = ((317, (203,), 129), (63, (150, 301, 77), 256), (784, (128,), 64))
    combinations = list(product(shapes, ("float32", "float64"), ("sgd", "adam")))
    unequal = []
    for (n_features, hidden, batch_size), dtype, solver in combinations:
        X = np.random.default_rng(0).standard_normal((1000, n_features)).astype(dtype)
        y = (X[:, :10].argmax(axis=1)).astype(int)
        fits = []
        for n_threads in counts:
            model = fastbp.MLPClassifier(
                hidden,
                solver=solver,
                batch_size=batch_size,
                max_iter=3,
                random_state=0,
                n_threads=n_threads,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # reaching max_iter is what we want
                model.fit(X, y)
            fits.append([*model.coefs_, *model.intercepts_])
        if not all(
            np.array_equal(array, first)
            for fit in fits[1:]
            for array, first in zip(fit, fits[0], strict=True)
        ):
            unequal.append(f"{n_features}-{hidden} {dtype} {solver}")
    return unequal, len(combinations)
