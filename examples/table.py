"""A table from a CSV file to a saved model, as it comes: texts, dates, gaps and all.

You learn that a DataFrame needs no preparation: `TabularMLPRegressor` encodes the columns itself,
also those of new rows, and the file that `save` writes holds the encoding and the network. The
flats are made up, so that it is known how good a model can be: the rent is a formula of area,
district, floor, lift and date, and what nobody can predict is 6 % of it.
"""

import sys

import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

import fastbp


def write_flats(path, n_flats=2000):
    """Write a file as one might get it, with gaps; return the rents without what is chance."""
    random = np.random.default_rng(0)
    flats = pd.DataFrame({"area": (random.gamma(6, 12, n_flats) + 15).round(1)})
    flats["rooms"] = np.clip(np.round(flats.area / 25 + random.normal(0, 0.5, n_flats)), 1, 7)
    flats["district"] = random.choice(["harbour", "old town", "station", "hill"], n_flats)
    flats["floor"] = random.integers(0, 9, n_flats)
    flats["lift"] = random.choice(["yes", "no"], n_flats)
    days = random.integers(0, 3650, n_flats)
    flats["let on"] = pd.Timestamp(2015, 1, 1) + pd.to_timedelta(days, "D")
    factor = flats.district.map({"harbour": 1.3, "old town": 1.4, "station": 1.0, "hill": 1.2})
    factor = factor * np.where(flats.lift == "no", 0.97, 1.01) ** flats.floor * 1.03 ** (days / 365)
    expected = 22 * flats.area**0.85 * factor
    flats["rent"] = (expected * np.exp(random.normal(0, 0.06, n_flats))).round()
    flats.loc[random.random(n_flats) < 0.1, "rooms"] = np.nan
    flats.loc[random.random(n_flats) < 0.05, "lift"] = None
    flats.to_csv(path, index=False)
    return expected


expected = write_flats("flats.csv")

# From here on it could be any table.
table = pd.read_csv("flats.csv")
X, y = table.drop(columns="rent"), table["rent"]
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = fastbp.TabularMLPRegressor(random_state=0).fit(X_train, y_train)
print(f"R² of {len(X_test)} other flats: {model.score(X_test, y_test):.3f},", end=" ")
print(f"of the formula itself {r2_score(y_test, expected[y_test.index]):.3f}")
importances = permutation_importance(model, X_test, y_test, random_state=0).importances_mean
for column in np.argsort(-importances):
    print(f"{X.columns[column]}: R² falls by {importances[column]:.3f} where it is shuffled")
model.save("flats.fastbp")
loaded = fastbp.load("flats.fastbp")
new = {"area": 64.5, "district": "harbour", "floor": 3, "lift": "no", "let on": "2024-05-01"}
rent = loaded.predict(pd.DataFrame([new], columns=X.columns))
print(f"A new flat, whose number of rooms is not known: {rent[0]:.0f}")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(y_test, model.predict(X_test), ".", alpha=0.6)
    left.axline((y_test.min(), y_test.min()), slope=1, color="tab:gray", linestyle=":")
    left.set(title="Flats that were not learned from", xlabel="rent", ylabel="predicted")
    order = np.argsort(importances)
    bars = right.barh(X.columns[order], importances[order])
    right.bar_label(bars, fmt="%.2f", padding=4)
    right.set(title="How much R² falls where a column is shuffled")
    right.margins(x=0.15)
    figure.savefig("table.png", dpi=75)
    print("wrote table.png")
