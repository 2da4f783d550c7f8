"""fastbp: multilayer perceptrons trained from arrays by compiled kernels.

The estimators have scikit-learn's interface. Every public name is imported at its first use, so
that a process pays for what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from fastbp import datasets as datasets
    from fastbp import inspect as inspect
    from fastbp import model_selection as model_selection
    from fastbp import network as network
    from fastbp import onnx as onnx
    from fastbp import plotting as plotting
    from fastbp import sources as sources
    from fastbp import training as training
    from fastbp.classifier import MLPClassifier
    from fastbp.hidden_features import HiddenFeatures
    from fastbp.loading import load
    from fastbp.many import fit_many
    from fastbp.regressor import MLPRegressor
    from fastbp.tabular.classifier import TabularMLPClassifier
    from fastbp.tabular.regressor import TabularMLPRegressor

__all__ = [
    "HiddenFeatures", "MLPClassifier", "MLPRegressor", "TabularMLPClassifier",
    "TabularMLPRegressor", "__version__", "fit_many", "load",
]  # fmt: skip

__version__ = "0.1.0"  # the only place; the package's metadata are read from here

# Public name -> the module that it comes from.
_HOMES = {
    "HiddenFeatures": "hidden_features",
    "MLPClassifier": "classifier",
    "MLPRegressor": "regressor",
    "TabularMLPClassifier": "tabular.classifier",
    "TabularMLPRegressor": "tabular.regressor",
    "fit_many": "many",
    "load": "loading",
}
# Modules with public names.
_ROOMS = (
    "datasets", "inspect", "model_selection", "network", "onnx", "plotting", "sources", "training",
)  # fmt: skip


if not TYPE_CHECKING:  # which take a module with this function to have every name

    def __getattr__(name):
        if name in _HOMES:
            value = getattr(import_module(f"fastbp.{_HOMES[name]}"), name)
        elif name in _ROOMS:
            value = import_module(f"fastbp.{name}")
        else:
            raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__():
    return sorted({*globals(), *_HOMES, *_ROOMS})
