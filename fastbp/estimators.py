"""Both estimators under one name, by which pickles of early models find them."""

from fastbp.classifier import MLPClassifier
from fastbp.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
