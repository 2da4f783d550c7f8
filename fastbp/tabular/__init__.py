"""Tables: estimators that take them as they are."""

from fastbp.tabular.classifier import TabularMLPClassifier as TabularMLPClassifier
from fastbp.tabular.regressor import TabularMLPRegressor as TabularMLPRegressor
