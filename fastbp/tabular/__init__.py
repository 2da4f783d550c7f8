"""Networks for tables."""

from fastbp.tabular.classifier import TabularMLPClassifier
from fastbp.tabular.encoder import TableEncoder, make_preprocessing
from fastbp.tabular.regressor import TabularMLPRegressor
from fastbp.tabular.scaler import SmoothClipScaler

__all__ = [
    "SmoothClipScaler", "TableEncoder", "TabularMLPClassifier", "TabularMLPRegressor",
    "make_preprocessing",
]  # fmt: skip
