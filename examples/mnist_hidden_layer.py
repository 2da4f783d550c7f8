"""Handwritten digits with a hidden layer, and a look at what it still gets wrong.

You learn what a hidden layer is worth, what ReLU with cross-entropy gains over the textbooks'
sigmoids with squared error, and how to read a confusion matrix. The images stay bytes all the way.

Uses MNIST where `FASTBP_DATA` or the cache has it or it can be downloaded, else the bundled digits.
"""

import sys

import numpy as np
from sklearn.metrics import confusion_matrix

from fastbp import MLPClassifier
from fastbp.datasets import load_digits, load_mnist

try:
    data = load_mnist()
except OSError as error:
    print(f"No MNIST ({error}); training the bundled digits instead.")
    data = load_digits()
print(f"{len(data.X_train)} images from {data.source}\n")
n_epochs = 10 if len(data.X_train) > 10_000 else 40

models = {
    "no hidden layer": MLPClassifier((), learning_rate_init=0.2),
    "128 sigmoids, squared error": MLPClassifier(
        (128,), "logistic", loss="squared_error", learning_rate_init=1.0
    ),
    "128 ReLU, cross-entropy": MLPClassifier((128,), "relu", learning_rate_init=0.2),
}
errors = {}
for name, model in models.items():
    model.set_params(
        solver="sgd",
        momentum=0.0,
        batch_size=32,
        precision="float32",
        input_scale=data.input_scale,  # pixels to [0, 1], as rows are read
        random_state=np.random.RandomState(0),
    )
    errors[name] = []
    for _ in range(n_epochs):
        model.partial_fit(data.X_train, data.y_train, classes=np.arange(10))
        errors[name].append(100 * (1 - model.score(data.X_test, data.y_test)))
    print(f"{name}: test error in % after each epoch:")
    print("  " + " ".join(f"{error:.1f}" for error in errors[name]))

best = models["128 ReLU, cross-entropy"]
confusion = confusion_matrix(data.y_test, best.predict(data.X_test))
print("\nRows are digits, columns what the last network took them for:")
print(confusion)

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, of_epochs in errors.items():
        left.semilogy(range(1, n_epochs + 1), of_epochs, ".-", label=name)
    left.set(title="Test error", xlabel="epoch", ylabel="%", ylim=(1, None))
    left.set_yticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
    left.minorticks_off()
    left.legend()
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    right.imshow(mistakes, cmap="Oranges", vmax=1.5 * mistakes.max())
    for row, column in np.argwhere(mistakes):
        right.text(column, row, mistakes[row, column], ha="center", va="center", fontsize=9)
    right.set(title="128 ReLU: mistakes", xlabel="taken for", ylabel="digit")
    right.set(xticks=range(10), yticks=range(10))
    figure.savefig("mnist_hidden_layer.png", dpi=75)
    print("wrote mnist_hidden_layer.png")
