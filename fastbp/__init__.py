"""fastbp: multilayer perceptrons trained from arrays by compiled kernels.

The estimators have scikit-learn's interface; numba is imported at the first fit, not here.
"""

from fastbp.estimators import MLPClassifier, MLPRegressor
from fastbp.many import fit_many

__all__ = ["MLPClassifier", "MLPRegressor", "__version__", "fit_many"]

__version__ = "0.1.0"
