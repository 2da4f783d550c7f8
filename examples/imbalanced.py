"""Early stopping where 1.5 % of the rows are positive: what decides when to stop.

You learn why the accuracy misleads: a network that calls every row negative is right in 98.5 % of
the cases, so that nothing seems to improve, and training stops before it has begun. The loss of
the held-out rows (`scoring="loss"`) sees the probabilities improve, and so does the area under the
ROC curve. `validation_metrics_` keeps both. The rows are made by scikit-learn.
"""

import sys

import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from fastbp import MLPClassifier

X, y = make_classification(
    30_000, 20, n_informative=6, n_redundant=0, weights=[0.985], flip_y=0, random_state=0
)
X_train, X_test, y_train, y_test = train_test_split(
    X.astype(np.float32), y, test_size=0.5, stratify=y, random_state=0
)

settings = {
    "without early stopping": {},
    "stopped by the accuracy": {"early_stopping": True},
    "stopped by the loss": {"early_stopping": True, "scoring": ["loss", "roc_auc"]},
}
models, areas, found = {}, {}, {}
for name, each in settings.items():
    model = MLPClassifier(
        (32,), learning_rate_init=5e-4, max_iter=100, n_iter_no_change=8, random_state=0, **each
    )
    models[name] = model.fit(X_train, y_train)
    areas[name] = roc_auc_score(y_test, model.predict_proba(X_test)[:, 1])
    found[name] = int(np.sum(model.predict(X_test)[y_test == 1]))
    print(f"{name}: {model.n_iter_} epochs, area under the ROC curve {areas[name]:.3f},", end=" ")
    print(f"{found[name]} of {y_test.sum()} positives found")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt
    from sklearn.metrics import RocCurveDisplay

    from fastbp.plotting import LossCurveDisplay

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    display = LossCurveDisplay.from_estimator(models["stopped by the loss"], ax=left)
    too_early = models["stopped by the accuracy"]
    left.axvline(too_early.n_iter_, color="tab:red", linestyle=":")
    left.set_title(
        f"The accuracy stops in epoch {too_early.n_iter_} (red), minus the loss rises on"
    )
    for name, model in models.items():
        RocCurveDisplay.from_estimator(model, X_test, y_test, ax=right, name=name)
    right.set_title("Test rows")
    figure.savefig("imbalanced.png", dpi=75)
    print("wrote imbalanced.png")
