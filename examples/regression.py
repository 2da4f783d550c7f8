"""Regression with early stopping: when to stop learning, and what it saves.

You learn to watch two curves: the training loss, which always falls, and the score on rows held
out, which rises, and falls again once the network learns the noise. `early_stopping=True` keeps
the weights that scored best. The rows are scikit-learn's diabetes data, 442 patients.
"""

import sys

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbp import MLPRegressor

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
# Targets of the order of 1 suit the initial weights and the learning rate.
centre, scale = y_train.mean(), y_train.std()

models = {}
for name, early_stopping in (("to the end", False), ("early stopping", True)):
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        early_stopping=early_stopping,
        validation_fraction=0.2,
        n_iter_no_change=60,
        max_iter=1000,
        batch_size=32,
        random_state=0,
    )
    model = make_pipeline(StandardScaler(), network).fit(X_train, (y_train - centre) / scale)
    models[name] = model
    predicted = model.predict(X_test) * scale + centre
    error = np.sqrt(np.mean((predicted - y_test) ** 2))
    print(f"{name}: {network.n_iter_} epochs, last training loss {network.loss_:.4f},", end=" ")
    print(f"test R² {model.score(X_test, (y_test - centre) / scale):.3f}, error {error:.1f}")

stopped = models["early stopping"][-1]
best_epoch = int(np.argmax(stopped.validation_scores_)) + 1
print(f"The weights kept are those of epoch {best_epoch}: R² {stopped.best_validation_score_:.3f}")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    from fastbp.plotting import LossCurveDisplay

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    display = LossCurveDisplay.from_estimator(models["early stopping"], ax=left)
    display.ax_.axvline(best_epoch, color="tab:gray", linestyle=":")
    display.ax_.set_title(f"Early stopping keeps the weights of epoch {best_epoch}")
    for name, model in models.items():
        right.plot(y_test, model.predict(X_test) * scale + centre, ".", label=name)
    right.axline((y_test.min(), y_test.min()), slope=1, color="tab:gray", linestyle=":")
    right.set(title="Test rows", xlabel="disease progression", ylabel="predicted")
    right.legend()
    figure.savefig("regression.png", dpi=75)
    print("wrote regression.png")
