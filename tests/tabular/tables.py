"""A table of mixed columns, with a target of every kind."""

import numpy as np
import pandas as pd
import polars as pl

from fastbp import TabularMLPClassifier, TabularMLPRegressor

QUICK = {
    "hidden_layer_sizes": (16,), "max_iter": 12, "learning_rate_init": 0.02, "random_state": 0
}  # fmt: skip


def make_table(n_rows=200):
    """A table with missing values, and a target that depends on three of its columns."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "size": np.exp(random.normal(size=n_rows) * 3),
            "colour": random.choice(["red", "green", "blue"], n_rows),
            "used": random.random(n_rows) > 0.5,
            "rooms": random.integers(1, 6, n_rows),
            "sold": pd.date_range("2020-01-01", periods=n_rows, freq="D"),
        }
    )
    price = np.log(table["size"]) + 2.0 * (table.colour == "red") + table.rooms
    table.loc[::9, "size"] = np.nan
    table.loc[::11, "colour"] = None
    return table, price.to_numpy()


TABLE, PRICE = make_table()
CLASSES = np.array(["cheap", "fair", "dear"])[np.digitize(PRICE, [2.5, 5])]
TARGETS = {
    "binary": np.array(["no", "yes"])[(PRICE > 4).astype(int)],
    "multiclass": CLASSES,
    "booleans": PRICE > 4,
    "multilabel": np.stack([PRICE > 3, PRICE < 5, TABLE.used], axis=1).astype(int),
    "single": PRICE,
    "several": np.stack([PRICE, 1e9 + 1e3 * PRICE], axis=1),
}
NUMBERS = "single", "several"


def make(target, **parameters):
    """An unfitted estimator for one of the targets, small and quick, and that target."""
    kind = TabularMLPRegressor if target in NUMBERS else TabularMLPClassifier
    return kind(**QUICK | parameters), TARGETS[target]


def as_polars(table):
    """The same columns in polars, without pyarrow, which `polars.from_pandas` needs."""
    columns = table.astype(object).where(table.notna(), None)
    return pl.DataFrame({name: columns[name].tolist() for name in table.columns})


def outputs(model, X):
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)
