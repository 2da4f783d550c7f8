"""fastbp: multilayer perceptrons trained from arrays by compiled kernels.

The estimators have scikit-learn's interface; numba is imported at the first fit, not here.
"""

from fastbp.classifier import MLPClassifier
from fastbp.loading import load
from fastbp.many import fit_many
from fastbp.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "__version__", "fit_many", "load"]

__version__ = "0.1.0"
