"""Both estimators in one module, where pickles of early versions look for them."""

from fastbp.classifier import MLPClassifier
from fastbp.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
