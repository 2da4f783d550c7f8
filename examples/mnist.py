"""Train a network on MNIST from its bytes, and look at what it gets wrong.

Uses MNIST where `FASTBP_DATA` or the cache has it or it can be downloaded, else the bundled digits.
"""

import numpy as np
from sklearn.metrics import confusion_matrix

from fastbp import MLPClassifier
from fastbp.datasets import load_digits, load_mnist


def print_epoch(report):
    """Show one line an epoch."""
    rate = report.n_samples / report.seconds
    print(f"epoch {report.n_iter}: loss {report.loss:.4f}, {rate:,.0f} samples/s")


def main():
    """Train, test, and print the confusion matrix; return the test accuracy."""
    try:
        data = load_mnist()
    except OSError as error:
        print(f"No MNIST ({error}); training the bundled digits instead.")
        data = load_digits()

    model = MLPClassifier(
        (128,),
        precision="float32",
        input_scale=data.input_scale,  # pixels to [0, 1], as rows are read
        max_iter=8,
        n_iter_no_change=np.inf,  # eight epochs, whatever the loss does
        random_state=0,
        callback=print_epoch,
    )
    model.fit(data.X_train, data.y_train)

    predicted = model.predict(data.X_test)
    accuracy = float(np.mean(predicted == data.y_test))
    print(f"test accuracy {accuracy:.2%}; rows are digits, columns what they were taken for:")
    print(confusion_matrix(data.y_test, predicted))
    return accuracy


if __name__ == "__main__":
    main()
