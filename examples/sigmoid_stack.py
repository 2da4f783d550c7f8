"""A stack of sigmoid layers with sigmoid outputs: gradients checked by PyTorch, then 500 epochs.

You learn how a gradient is checked against another library's, and what an output activation can
reach: targets of 2, 3 and 123 lie beyond the range of a sigmoid, so that output goes to its limit
and the loss stays where it is. Scale such targets, or take `out_activation="identity"`.

2 inputs, hidden layers of 3 and 2, 2 outputs; mean squared error, gradient descent at rate 0.01.
"""

import sys

import numpy as np

from fastbp import MLPRegressor
from fastbp.inspect import backprop_trace
from fastbp.network import Network

X = np.array([[0.5, 0.1], [0.05, 0.18], [0.05, 0.31]])
y = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 123.0]])

# PyTorch's MSELoss averages (ŷ − y)² over rows and outputs: with two outputs that is the mean over
# the rows of ½ Σ (ŷ − y)², which fastbp descends, and so both have the same gradient.
network = Network((2, 3, 2, 2), ("logistic", "logistic"), "logistic", "squared_error")
start = network.initialise(np.random.RandomState(0), np.float64, default_activation="logistic")
trace = backprop_trace(network, X, y, parameters=start)
print(f"loss at the start {trace.loss:.6f}; δ of the outputs, a line a row of X:")
print(trace.deltas[-1])

try:
    import torch
except ImportError:
    print("PyTorch is not installed, so it checks nothing: pip install torch")
    torch = None
else:
    modules = []
    for fan_in, fan_out in network.shapes:
        modules += [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64), torch.nn.Sigmoid()]
    peer = torch.nn.Sequential(*modules)
    with torch.no_grad():
        for module, weights, bias in zip(peer[::2], *network.views(start), strict=True):
            module.weight[...] = torch.tensor(weights.T)  # PyTorch keeps (to, from)
            module.bias[...] = torch.tensor(bias)
    peer_loss = torch.nn.MSELoss()(peer(torch.tensor(X)), torch.tensor(y))
    peer_loss.backward()
    linear = peer[::2]
    peer_gradient = network.flatten(
        [module.weight.grad.numpy().T for module in linear],
        [module.bias.grad.numpy() for module in linear],
        np.float64,
    )
    gradient = network.flatten(trace.coef_gradients, trace.intercept_gradients, np.float64)
    difference = np.abs(gradient - peer_gradient).max()
    print(f"PyTorch's loss {peer_loss.item():.6f}; gradients differ by at most {difference:.1e}")

# The estimator starts from the same weights, because it draws them from the same random state.
model = MLPRegressor(
    hidden_layer_sizes=(3, 2),
    activation="logistic",
    out_activation="logistic",
    solver="sgd",
    learning_rate_init=0.01,
    momentum=0.0,
    alpha=0.0,
    batch_size=3,
    random_state=0,
    max_iter=500,
    n_iter_no_change=500,
    callback=lambda report: report.n_iter == 500 and report.stop(),  # without a warning
)
model.fit(X, y)
# Like scikit-learn's, its loss is averaged over the outputs: half of the above.
print(f"\nMLPRegressor's loss: {model.loss_curve_[0]:.4f}, after 500 epochs {model.loss_:.4f}")
print("targets and outputs:")
for target, output in zip(y, model.predict(X), strict=True):
    print(f"  {target}  {output.round(4)}")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    from fastbp.plotting import LossCurveDisplay

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    LossCurveDisplay.from_estimator(model, ax=left)
    left.set_title("Loss: it can only fall to what a sigmoid leaves over")
    outputs, rows = model.predict(X), np.arange(3)
    for column, color in enumerate(("tab:blue", "tab:orange")):
        right.plot(rows, y[:, column], "_", color=color, ms=30, mew=3, label=f"target {column + 1}")
        right.plot(rows, outputs[:, column], "o", color=color, label=f"output {column + 1}")
    right.axhspan(0, 1, color="tab:gray", alpha=0.2, label="reach of a sigmoid")
    right.set(title="Targets and outputs after 500 epochs", xticks=rows, xlabel="row")
    right.set_yscale("symlog", linthresh=2)
    right.set(xlim=(-0.5, 2.5), ylim=(-0.5, 300), yticks=[0, 1, 2, 10, 100])
    right.set_yticklabels(["0", "1", "2", "10", "100"])
    right.legend(loc="upper left", fontsize=8, markerscale=0.5)
    figure.savefig("sigmoid_stack.png", dpi=80)
    print("wrote sigmoid_stack.png")
