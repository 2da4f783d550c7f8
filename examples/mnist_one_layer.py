"""Handwritten digits with a single layer: squared error against cross-entropy.

You learn why the loss matters. Both runs start from the same weights out of U[−1, 1], so large
that many of the ten sigmoids are saturated. Squared error has δ = (ŷ − y) ŷ (1 − ŷ), which is next
to nothing there however wrong ŷ is: some digits are learnt late or never. Cross-entropy has
δ = ŷ − y, and starts at once. As there is one layer only, each digit's weights make an image.

Uses MNIST where `FASTBP_DATA` or the cache has it or it can be downloaded, else the bundled digits.
"""

import sys

import numpy as np
from sklearn.metrics import recall_score

from fastbp import MLPClassifier
from fastbp.datasets import load_digits, load_mnist
from fastbp.inspect import backprop_trace

N_EPOCHS = 20

try:
    data = load_mnist()
except OSError as error:
    print(f"No MNIST ({error}); training the bundled digits instead.")
    data = load_digits()
print(f"{len(data.X_train)} images from {data.source}")

models, errors, first_deltas = {}, {}, {}
for name, loss in (("squared error", "squared_error"), ("cross-entropy", "log_loss")):
    model = MLPClassifier(
        (),  # no hidden layer
        loss=loss,
        solver="sgd",
        learning_rate_init=0.5,
        momentum=0.0,
        alpha=0.0,
        batch_size=20,
        precision="float32",
        input_scale=data.input_scale,  # pixels to [0, 1], as rows are read
        random_state=np.random.RandomState(0),
    )
    # The first call makes the layer; then it gets our weights, from which training continues.
    model.partial_fit(data.X_train[:20], data.y_train[:20], classes=np.arange(10))
    model.coefs_ = [np.random.RandomState(1).uniform(-1, 1, model.coefs_[0].shape)]
    model.intercepts_ = [np.zeros(10)]
    deltas = backprop_trace(model, data.X_train[:200], data.y_train[:200]).deltas[-1]
    of_right_digit = deltas[np.arange(200), data.y_train[:200]]
    errors[name] = [1 - model.score(data.X_test, data.y_test)]
    for _ in range(N_EPOCHS):
        model.partial_fit(data.X_train, data.y_train)
        errors[name].append(1 - model.score(data.X_test, data.y_test))
    models[name], first_deltas[name] = model, np.median(np.abs(of_right_digit))
    print(f"\n{name}: at the start, half of the right digits' |δ| are below", end=" ")
    print(f"{first_deltas[name]:.2g}")
    print("test error in % by epoch:", *(f"{100 * error:.1f}" for error in errors[name]))

found = recall_score(data.y_test, models["squared error"].predict(data.X_test), average=None)
print("\nOf each digit the squared error's model finds, in %:")
print("  ".join(f"{digit}: {share:.0f}" for digit, share in enumerate(100 * found)))

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    from fastbp.plotting import WeightsDisplay

    figure = plt.figure(figsize=(10, 4.8), layout="constrained")
    rooms = [["errors", "squared error"], ["errors", "cross-entropy"]]
    axes = figure.subplot_mosaic(rooms, width_ratios=[3, 4])
    for name, of_epochs in errors.items():
        axes["errors"].plot(100 * np.array(of_epochs), ".-", label=name)
        WeightsDisplay.from_estimator(models[name], ax=axes[name], vmin=-2, vmax=2)
        axes[name].set_title(f"{name}: weights of the ten digits")
    axes["errors"].set(title="Test error", xlabel="epoch", ylabel="%", ylim=(0, None))
    axes["errors"].set_xticks(range(0, N_EPOCHS + 1, 5))
    axes["errors"].legend()
    figure.savefig("mnist_one_layer.png", dpi=70)
    print("wrote mnist_one_layer.png")
