"""One program for fastbp, scikit-learn and PyTorch: train on MNIST until the test set is known.

It is run by its path, so that PyTorch's process imports nothing of fastbp's:

    python -P until_accurate.py CONTENDER FOLDER SEED

784-256-10, relu, batch 64, Nesterov's momentum 0.9, the step size of `fastbp mnist` epoch by epoch;
after each epoch it predicts the test set. A line is printed at each milestone; who started the
process notes the time. With an empty FOLDER it trains one epoch of made-up images and stops.
"""

import gzip
import os
import sys
import warnings

import numpy as np

N_HIDDEN, BATCH_SIZE, MOMENTUM = 256, 64, 0.9
RATES = (0.1, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02)
# Milestones are printed as whole per cents of the test set.
TARGETS = (97, 98)


def read(folder, name, n_header_bytes):
    """The bytes behind an IDX file's header, gzipped or not."""
    path = os.path.join(folder, name)
    zipped = not os.path.exists(path)
    with gzip.open(path + ".gz") if zipped else open(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=n_header_bytes)


def load(folder):
    """Training and test images as bytes, and their digits as int64."""
    if not folder:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (70_000, 784), np.uint8)
        digits = images[:, :10].argmax(axis=1)
        return images[:60_000], digits[:60_000], images[60_000:], digits[60_000:]
    arrays = []
    for part in ("train", "t10k"):
        arrays.append(read(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 784))
        arrays.append(read(folder, f"{part}-labels-idx1-ubyte", 8).astype(np.int64))
    return arrays


def estimator_epochs(estimator, scale, X, y, X_test, seed, **options):
    """Train fastbp's or scikit-learn's estimator; yield its predictions after each epoch."""
    model = estimator(
        (N_HIDDEN,), solver="sgd", alpha=0.0, batch_size=BATCH_SIZE, momentum=MOMENTUM, max_iter=1,
        warm_start=True, random_state=np.random.RandomState(seed), **options,
    )  # fmt: skip
    X, X_test = scale(X), scale(X_test)
    for rate in RATES:
        model.set_params(learning_rate_init=rate)
        model.fit(X, y)
        yield model.predict(X_test)


def train_fastbp(*data):
    """fastbp reads the bytes as they are."""
    from fastbp import MLPClassifier

    print("imported", flush=True)
    return estimator_epochs(
        MLPClassifier, lambda X: X, *data, precision="float32", input_scale=1 / 255
    )


def train_sklearn(*data):
    """scikit-learn computes in float32 where X is."""
    from sklearn.neural_network import MLPClassifier

    print("imported", flush=True)
    return estimator_epochs(MLPClassifier, lambda X: X.astype(np.float32) / 255, *data)


def train_torch(X, y, X_test, seed):
    """PyTorch, eager, with its fused optimizer."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    print("imported", flush=True)
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(784, N_HIDDEN), torch.nn.Linear(N_HIDDEN, 10)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    X, X_test = (torch.from_numpy(array).float().div_(255) for array in (X, X_test))
    y = torch.from_numpy(y)

    def logits(X):
        hidden = torch.relu(linear(X, parameters[0], parameters[1]))
        return linear(hidden, parameters[2], parameters[3])

    for rate in RATES:
        optimizer = torch.optim.SGD(parameters, rate, momentum=MOMENTUM, nesterov=True, fused=True)
        for rows in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(logits(X.index_select(0, rows)), y.index_select(0, rows)).backward()
            optimizer.step()
        with torch.no_grad():
            yield logits(X_test).argmax(dim=1).numpy()


def main(contender, folder, seed):
    """Print the milestones."""
    warnings.simplefilter("ignore")  # one epoch is not enough to converge, says every fit
    X, y, X_test, y_test = load(folder)
    print("read", flush=True)
    train = {"fastbp": train_fastbp, "scikit-learn": train_sklearn, "PyTorch": train_torch}
    targets = list(TARGETS)
    for epoch, predicted in enumerate(train[contender](X, y, X_test, int(seed))):
        if epoch == 0:
            print("first epoch", flush=True)
        while folder and targets and np.mean(predicted == y_test) >= targets[0] / 100:
            print(f"{targets.pop(0)} %", flush=True)
        if not (folder and targets):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
