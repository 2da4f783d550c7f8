"""More tables, for those who have a network: OpenML's usual suites, by scikit-learn.

OpenML-CC18 (Bischl and others 2021, arXiv 1708.03731) for classification, without its images,
and OpenML-CTR23 (Fischer and others 2023) for regression.
"""

import numpy as np
import pandas as pd
from sklearn.datasets import fetch_openml

from benchmarks.tabular.sets import Package, Table, as_table, class_numbers

CC18 = (
    3, 6, 11, 12, 14, 15, 16, 18, 22, 23, 28, 29, 31, 32, 37, 38, 44, 46, 50, 54, 151, 182, 188,
    300, 307, 458, 469, 1049, 1050, 1053, 1063, 1067, 1068, 1461, 1462, 1464, 1468, 1475, 1478,
    1480, 1485, 1486, 1487, 1489, 1494, 1497, 1501, 1510, 1590, 4134, 4534, 4538, 6332, 23381,
    23517, 40499, 40668, 40670, 40701, 40966, 40975, 40978, 40979, 40982, 40983, 40984, 40994,
    41027,
)  # fmt: skip
CTR23 = (
    41021, 44956, 44957, 44958, 44959, 44960, 44962, 44963, 44964, 44965, 44966, 44967, 44969,
    44970, 44971, 44972, 44973, 44974, 44975, 44976, 44977, 44978, 44979, 44980, 44981, 44983,
    44984, 44987, 44989, 44990, 44992, 44993, 44994, 45012, 45402,
)  # fmt: skip
OPENML = Package("OpenML", "", "stated on each set's page")
FEWEST_OF_A_CLASS = 10  # rows of rarer classes are left out, so that all splits have all classes


def openml_table(number, task):
    """The table of a data set's number; it is fetched when it is loaded, and kept by scikit-learn.

    Parameters
    ----------
    number : int
    task : {"classification", "regression"}

    Returns
    -------
    table : Table
    """

    def load(folder):
        found = fetch_openml(data_id=number, as_frame=True, parser="auto")
        X, y = found.data, found.target
        known = y.notna()
        if task == "classification":
            labels = y.astype(str)
            known &= labels.map(labels.value_counts()) >= FEWEST_OF_A_CLASS
        known = known.to_numpy()
        X, y = X[known].reset_index(drop=True), y[known]
        if len(X.columns) == 0 or len(X) == 0:
            raise ValueError(f"OpenML's data set {number} has no table of rows and columns")
        # Plain names, since some are not for LightGBM; columns without a single value go.
        X = X.loc[:, X.notna().any()]
        X.columns = [f"x{position}" for position in range(X.shape[1])]
        if task == "classification":
            return as_table(X), class_numbers(y.astype(str))
        return as_table(X), pd.to_numeric(y).to_numpy(np.float64)

    return Table(f"openml-{number}", task, OPENML, load)


def openml_tables():
    """All tables of both suites, by name."""
    tables = [openml_table(number, "classification") for number in CC18]
    tables += [openml_table(number, "regression") for number in CTR23]
    return {table.name: table for table in tables}
