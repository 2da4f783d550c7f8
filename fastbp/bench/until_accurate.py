"""One program for fastbp, scikit-learn and PyTorch: train on MNIST until the test set is known.

It is run by its path, so that PyTorch's process imports nothing of fastbp's:

    python -P until_accurate.py CONTENDER FOLDER SEED RECIPE

RECIPE is that of `fastbp.recipes` as JSON, with a learning rate for each epoch. After each epoch
the test set is predicted. A line is printed at each milestone; who started the process notes the
time. With an empty FOLDER one epoch is trained on made-up images.
"""

import gzip
import json
import os
import sys
import warnings
from itertools import pairwise

import numpy as np

# Milestones are printed as whole per cents of the test set.
TARGETS = (97, 98)


def read(folder, name, n_header_bytes):
    """The bytes after an IDX file's header, gzipped or not."""
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


def estimator_parameters(seed, HIDDEN, BATCH_SIZE, MOMENTUM, RATES):
    """What fastbp's and scikit-learn's estimator are constructed with."""
    return {
        "hidden_layer_sizes": HIDDEN,
        "solver": "sgd",
        "alpha": 0.0,
        "batch_size": BATCH_SIZE,
        "learning_rate_init": RATES[0],
        "momentum": MOMENTUM,
        "random_state": seed,
    }


def train_fastbp(X, y, X_test, seed, device, **recipe):
    """fastbp reads the bytes as they are, and has a schedule; yield predictions by epoch."""
    from fastbp import MLPClassifier, recipes

    print("imported", flush=True)
    n_epochs = len(recipe["RATES"])
    model = MLPClassifier(
        **estimator_parameters(seed, **recipe), learning_rate=recipes.step_down, max_iter=n_epochs,
        precision="float32", input_scale=1 / 255, device=device,
    )  # fmt: skip
    for _ in range(n_epochs):
        yield model.partial_fit(X, y, classes=np.arange(10)).predict(X_test)


def train_sklearn(X, y, X_test, seed, device, **recipe):
    """scikit-learn computes in float32 where X is; a changing rate must be set from outside."""
    from sklearn.neural_network import MLPClassifier

    print("imported", flush=True)
    X, X_test = (array.astype(np.float32) / 255 for array in (X, X_test))
    parameters = estimator_parameters(np.random.RandomState(seed), **recipe)
    model = MLPClassifier(**parameters, max_iter=1, warm_start=True)
    for rate in recipe["RATES"]:
        model.set_params(learning_rate_init=rate).fit(X, y)
        yield model.predict(X_test)


def train_torch(X, y, X_test, seed, device, HIDDEN, BATCH_SIZE, MOMENTUM, RATES):
    """PyTorch, eager, with its fused optimizer."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    print("imported", flush=True)
    torch.manual_seed(seed)
    sizes = [784, *HIDDEN, 10]
    layers = [torch.nn.Linear(*pair).to(device) for pair in pairwise(sizes)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    X, X_test = (torch.from_numpy(array).to(device).float().div_(255) for array in (X, X_test))
    y = torch.from_numpy(y).to(device)
    optimizer = torch.optim.SGD(parameters, RATES[0], momentum=MOMENTUM, nesterov=True, fused=True)

    def logits(X):
        for at in range(0, len(parameters) - 2, 2):
            X = torch.relu(linear(X, *parameters[at : at + 2]))
        return linear(X, *parameters[-2:])

    for rate in RATES:
        optimizer.param_groups[0]["lr"] = rate
        for rows in torch.randperm(len(X), device=device).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(logits(X.index_select(0, rows)), y.index_select(0, rows)).backward()
            optimizer.step()
        with torch.no_grad():
            yield logits(X_test).argmax(dim=1).cpu().numpy()


def main(contender, folder, seed, recipe):
    """Print the milestones."""
    warnings.simplefilter("ignore")  # one epoch is not enough to converge, says every fit
    X, y, X_test, y_test = load(folder)
    print("read", flush=True)
    name = contender.removesuffix(" on GPU")
    device = "cpu" if name == contender else "cuda"
    train = {"fastbp": train_fastbp, "scikit-learn": train_sklearn, "PyTorch": train_torch}[name]
    targets = list(TARGETS)
    epochs = train(X, y, X_test, int(seed), device, **json.loads(recipe))
    for epoch, predicted in enumerate(epochs):
        if epoch == 0:
            print("first epoch", flush=True)
        while folder and targets and np.mean(predicted == y_test) >= targets[0] / 100:
            print(f"{targets.pop(0)} %", flush=True)
        if not (folder and targets):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
