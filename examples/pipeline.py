"""In a pipeline under a grid search: one import line changes, the result does not, the time does.

You learn that fastbp's estimator is a drop-in: from the same random state in float64 it follows
scikit-learn's to rounding, so the search gives every candidate the same score.
"""

import sys
import time
import warnings

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import fastbp

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
grid = {
    "network__hidden_layer_sizes": [(8,), (64,)],
    "network__alpha": [1e-4, 1.0, 100.0],
}
warnings.simplefilter("ignore", ConvergenceWarning)  # 100 epochs are few for the small networks
# fastbp's kernels are loaded, or compiled on a machine's first run, before the clock starts.
fastbp.MLPClassifier((8,), max_iter=1).fit(X_train, y_train)

searches, seconds = {}, {}
for library in (sklearn.neural_network, fastbp):
    network = library.MLPClassifier(max_iter=100, random_state=0)
    pipeline = Pipeline([("scaler", StandardScaler()), ("network", network)])
    started = time.perf_counter()
    searches[library.__name__] = GridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)
    seconds[library.__name__] = time.perf_counter() - started

for name, search in searches.items():
    best = {key.removeprefix("network__"): value for key, value in search.best_params_.items()}
    print(f"{name}: best {best}, cross-validated {search.best_score_:.4f},", end=" ")
    print(f"on the test rows {search.score(X_test, y_test):.4f}, {seconds[name]:.2f} s")

theirs, ours = (search.cv_results_["mean_test_score"] for search in searches.values())
print(f"Largest difference of the scores of all candidates: {np.abs(ours - theirs).max():.1e}")
curves = [search.best_estimator_[-1].loss_curve_ for search in searches.values()]
print(f"Largest difference of the loss curves: {np.abs(np.subtract(*curves)).max():.1e}")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    from fastbp.plotting import LossCurveDisplay

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (name, search), style in zip(searches.items(), ("-", "--"), strict=True):
        LossCurveDisplay.from_estimator(search, ax=left, name=name, linestyle=style, linewidth=2)
    left.set_title("The best network's loss: two curves in one")
    bars = right.barh(list(seconds), list(seconds.values()), color=["tab:blue", "tab:orange"])
    right.bar_label(bars, fmt="%.2f s", padding=4)
    right.set(title="Time of the search, 19 fits", xlabel="seconds")
    right.margins(x=0.15)
    figure.savefig("pipeline.png", dpi=75)
    print("wrote pipeline.png")
