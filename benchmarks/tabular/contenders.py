"""Who takes part: each contender makes an estimator that takes a DataFrame as it is.

All but those of fastbp and pytabkit are at their library's defaults, in the pipeline that
scikit-learn's documentation recommends where the model takes no categories.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


@dataclass(frozen=True)
class Contender:
    """A model that takes part.

    Parameters
    ----------
    name : str
    module : str
        What must be importable.
    names : pair of str
        The classifier and the regressor in that module.
    make : callable
        Takes the class, the training rows' X, `random_state` and `n_threads`, returns an
        estimator.
    by_default : bool
    is_own : bool
        Whether it is fastbp's.
    """

    name: str
    module: str
    names: tuple[str, str]
    make: Callable
    by_default: bool = True
    is_own: bool = False

    def estimator(self, task, X, random_state, n_threads):
        """A fresh estimator for these training rows."""
        name = self.names[task == "regression"]
        return self.make(getattr(import_module(self.module), name), X, random_state, n_threads)

    def missing(self):
        """Why it cannot take part; an empty string where it can."""
        try:
            module = import_module(self.module)
        except ImportError as error:
            return f"not installed ({error})"
        lacking = [name for name in self.names if not hasattr(module, name)]
        return f"{self.module} has no {lacking[0]}" if lacking else ""


# ---- preprocessing --------------------------------------------------------------------------


def standard_pipeline(estimator):
    """Numbers imputed and standardised, categories one-hot, then the estimator."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_include="category")),
    )
    return make_pipeline(columns, estimator)


def imputed(estimator, X):
    """The estimator behind an imputation of missing numbers, where there are any."""
    numbers = make_column_selector(dtype_include="number")
    if not X[numbers(X)].isna().any(axis=None):
        return estimator
    columns = make_column_transformer(
        (SimpleImputer(strategy="median"), numbers), remainder="passthrough",
        verbose_feature_names_out=False,
    )  # fmt: skip
    return make_pipeline(columns.set_output(transform="pandas"), estimator)


# ---- how each is made -----------------------------------------------------------------------


def _preset(kind, X, random_state, n_threads, **parameters):
    return kind(random_state=random_state, n_threads=n_threads, **parameters)


def _fastbp_mlp(kind, X, random_state, n_threads, scale_targets=False):
    parameters = {"scale_targets": True} if scale_targets and "Regressor" in kind.__name__ else {}
    estimator = kind(random_state=random_state, n_threads=n_threads, **parameters)
    return standard_pipeline(estimator)


def _scikit_learn_mlp(kind, X, random_state, n_threads):
    return standard_pipeline(kind(random_state=random_state))


def _linear(kind, X, random_state, n_threads):
    return standard_pipeline(kind(max_iter=1_000) if kind is LogisticRegression else kind())


def _histogram(kind, X, random_state, n_threads):
    return kind(categorical_features="from_dtype", random_state=random_state)


def _lightgbm(kind, X, random_state, n_threads):
    return kind(random_state=random_state, n_jobs=n_threads, verbose=-1)


def _pytabkit(kind, X, random_state, n_threads):
    estimator = kind(device="cpu", random_state=random_state, n_threads=n_threads)
    return imputed(estimator, X)


def _own(name, by_default=True, **parameters):
    names = "TabularMLPClassifier", "TabularMLPRegressor"
    return Contender(name, "fastbp", names, partial(_preset, **parameters), by_default, True)


def _realmlp(name, suffix):
    names = f"RealMLP_{suffix}_Classifier", f"RealMLP_{suffix}_Regressor"
    return Contender(name, "pytabkit", names, _pytabkit)


MLP = MLPClassifier.__name__, MLPRegressor.__name__
HISTOGRAM = HistGradientBoostingClassifier.__name__, HistGradientBoostingRegressor.__name__

CONTENDERS = {
    contender.name: contender
    for contender in (
        _own("fastbp small", preset="small"),
        _own("fastbp full", preset="full"),
        _own("fastbp small bfloat16", by_default=False, preset="small", precision="bfloat16"),
        _own("fastbp full bfloat16", by_default=False, preset="full", precision="bfloat16"),
        _own("fastbp small x8", by_default=False, preset="small", n_ensemble=8),
        _own("fastbp full x8", by_default=False, preset="full", n_ensemble=8),
        Contender("fastbp MLP", "fastbp", MLP, _fastbp_mlp, is_own=True),
        Contender(
            "fastbp MLP y-scaled", "fastbp", MLP, partial(_fastbp_mlp, scale_targets=True),
            is_own=True,
        ),
        Contender("scikit-learn MLP", "sklearn.neural_network", MLP, _scikit_learn_mlp),
        Contender(
            "linear model", "sklearn.linear_model",
            (LogisticRegression.__name__, RidgeCV.__name__), _linear,
        ),
        Contender("HistGradientBoosting", "sklearn.ensemble", HISTOGRAM, _histogram),
        Contender("LightGBM", "lightgbm", ("LGBMClassifier", "LGBMRegressor"), _lightgbm),
        _realmlp("pytabkit TD-S", "TD_S"),
        _realmlp("pytabkit TD", "TD"),
    )
}  # fmt: skip
BY_DEFAULT = [name for name, contender in CONTENDERS.items() if contender.by_default]
ENSEMBLE = ["fastbp small", "fastbp small x8", "fastbp full", "fastbp full x8"]
PACKAGES = (
    "numpy", "scipy", "numba", "scikit-learn", "pandas", "lightgbm", "pytabkit", "torch",
)  # fmt: skip


def installed_versions():
    """The versions of what the contenders use; None for what is not installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def made_up_rows(task, n_classes=2, n_rows=300):
    """Rows for a first fit that nobody measures, in which libraries are loaded and compiled."""
    numbers = pd.Series(range(n_rows), dtype=float)
    X = pd.DataFrame({
        "a": numbers % 7, "b": (numbers * 31) % 11,
        "c": pd.Categorical((numbers % 3).astype(int).astype(str)),
    })  # fmt: skip
    y = (numbers * 17) % 13
    return X, (y % n_classes).astype(int).to_numpy() if task == "classification" else y.to_numpy()
