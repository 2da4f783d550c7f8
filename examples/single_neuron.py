"""A single neuron, what it cannot learn, and the hidden layer that learns it.

You learn that a network without a hidden layer draws one straight line. The listing is the classic
of NumPy tutorials: a sigmoid neuron with three weights and no bias (the third input is always 1),
error (ŷ − y) times σ′, 10,000 full-batch steps at learning rate 0.1. Its targets are those of XOR,
which no straight line separates, so the neuron ends up answering ½ to everything.
"""

import sys

import numpy as np

from fastbp import MLPClassifier
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.network import Network
from fastbp.optimizers import sgd

X = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
y = np.array([0, 1, 1, 0])

# The neuron: three inputs, one output, the gradient of ½ (y − ŷ)², and so δ = (ŷ − y) σ′.
engine = Engine(Network((3, 1), (), "logistic", "squared_error"), np.float64)
data = Data(X, y[:, None].astype(float))
np.random.seed(1)  # noqa: NPY002 (the listing's own draws)
weights = np.random.normal(size=3)  # noqa: NPY002
history = [weights]
for _ in range(10_000):
    engine.load_parameters(np.append(weights, 0.0))  # the bias stays 0
    _, gradient = engine.loss_and_gradient(data)
    # The engine averages over the rows, the listing adds them up.
    weights, _ = sgd(weights, len(X) * gradient[:3], np.zeros(3), 0.1, momentum=0.0)
    history.append(weights)

print("One neuron, no bias, learning rate 0.1")
print("step    weights                              outputs (targets 0 1 1 0)")
for step in (0, 100, 1000, 10_000):
    outputs = 1 / (1 + np.exp(-X @ history[step]))
    print(f"{step:6d}  {history[step].round(6)!s:36s} {outputs.round(4)}")

# The same rows with four hidden units, which bend the line.
model = MLPClassifier(
    (4,), "tanh", loss="squared_error", solver="lbfgs", alpha=1e-3, random_state=0
)
model.fit(X, y)
probabilities = model.predict_proba(X)[:, 1]
print(f"\nFour hidden units: outputs {probabilities.round(4)} after {model.n_iter_} iterations")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    a, b = np.meshgrid(np.linspace(-0.4, 1.4, 90), np.linspace(-0.4, 1.4, 90))
    plane = np.column_stack([a.ravel(), b.ravel(), np.ones(a.size)])
    surfaces = {
        "one neuron at the start": 1 / (1 + np.exp(-plane @ history[0])),
        "one neuron after 10,000 steps": 1 / (1 + np.exp(-plane @ weights)),
        "four hidden units": model.predict_proba(plane)[:, 1],
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    for ax, (title, surface) in zip(axes, surfaces.items(), strict=True):
        image = ax.pcolormesh(a, b, surface.reshape(a.shape), cmap="RdBu_r", vmin=0, vmax=1)
        for target, marker in ((0, "o"), (1, "s")):
            rows = X[y == target]
            style = dict(marker=marker, s=90, color="white", edgecolors="black")
            ax.scatter(*rows[:, :2].T, label=f"target {target}", **style)
        ax.set(title=title, xlabel="first input", aspect="equal")
    axes[0].set_ylabel("second input")
    axes[0].legend(loc="lower left")
    figure.colorbar(image, ax=axes, label="output")
    figure.savefig("single_neuron.png", dpi=80)
    print("wrote single_neuron.png")
