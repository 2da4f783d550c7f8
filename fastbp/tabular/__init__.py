"""Networks for tables."""

from fastbp.tabular.encoder import TableEncoder, make_preprocessing
from fastbp.tabular.scaler import SmoothClipScaler

__all__ = ["SmoothClipScaler", "TableEncoder", "make_preprocessing"]
