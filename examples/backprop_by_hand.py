"""Backpropagation by hand: one training step of a 2-2-2 network, every number with its formula.

You learn what the forward pass, δ, the chain rule and the update are, on the worked example that
Matt Mazur's article "A Step by Step Backpropagation Example" (2015) made famous. The numbers come
from the library: `backprop_trace` hands out what the engine computes in training.

The article prints 0.291027924 for the error after one step and 0.0000351085 after 10,000, from
weights rounded on the way; without rounding they are 0.291027774 and 0.0000351019. It never
updates the biases, so neither does this script.
"""

import sys

import numpy as np

from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.inspect import backprop_trace
from fastbp.network import Network
from fastbp.optimizers import sgd

LEARNING_RATE = 0.5
X, y = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])
# Weights as (from, to): w1 and w2 lead to h1, w3 and w4 to h2; w5 and w6 to o1, w7 and w8 to o2.
coefs = [np.array([[0.15, 0.25], [0.20, 0.30]]), np.array([[0.40, 0.50], [0.45, 0.55]])]
intercepts = [np.array([0.35, 0.35]), np.array([0.60, 0.60])]
network = Network((2, 2, 2), ("logistic",), "logistic", "squared_error")


def trace_of(coefs):
    parameters = network.flatten(coefs, intercepts, np.float64)
    return backprop_trace(network, X, y, parameters=parameters)


def step(coefs, gradients):
    """Move the weights by the library's own update rule, without momentum."""
    return [
        sgd(weights, gradient, np.zeros_like(weights), LEARNING_RATE, momentum=0.0)[0]
        for weights, gradient in zip(coefs, gradients, strict=True)
    ]


trace = trace_of(coefs)
updated = step(coefs, trace.coef_gradients)
after = trace_of(updated)

(i1, i2), (h1, h2), (o1, o2) = (values[0] for values in trace.activations)
(zh1, zh2), (zo1, zo2) = (values[0] for values in trace.pre_activations)
(dh1, dh2), (do1, do2) = (values[0] for values in trace.deltas)
print("Forward pass: z = weights · inputs + bias, output = σ(z) = 1 / (1 + e⁻ᶻ)")
print(f"  z(h1) = w1 i1 + w2 i2 + b1 = {zh1:.9f}   h1 = σ(z) = {h1:.9f}")
print(f"  z(h2) = w3 i1 + w4 i2 + b1 = {zh2:.9f}   h2 = σ(z) = {h2:.9f}")
print(f"  z(o1) = w5 h1 + w6 h2 + b2 = {zo1:.9f}   o1 = σ(z) = {o1:.9f}   target {y[0, 0]}")
print(f"  z(o2) = w7 h1 + w8 h2 + b2 = {zo2:.9f}   o2 = σ(z) = {o2:.9f}   target {y[0, 1]}")
print(f"  error E = ½ (t1 − o1)² + ½ (t2 − o2)² = {trace.loss:.9f}")

print("\nBackward pass: δ = ∂E/∂z, from the outputs to the front by the chain rule; σ′ = σ (1 − σ)")
print(f"  δ(o1) = (o1 − t1) · o1 (1 − o1) = {do1:+.9f}")
print(f"  δ(o2) = (o2 − t2) · o2 (1 − o2) = {do2:+.9f}")
print(f"  δ(h1) = (δ(o1) w5 + δ(o2) w7) · h1 (1 − h1) = {dh1:+.9f}")
print(f"  δ(h2) = (δ(o1) w6 + δ(o2) w8) · h2 (1 − h2) = {dh2:+.9f}")

print(
    f"\nUpdate: gradient = δ after the weight · value before it; w ← w − {LEARNING_RATE} gradient"
)
formulas = ["δ(h1) i1", "δ(h1) i2", "δ(h2) i1", "δ(h2) i2"]
formulas += ["δ(o1) h1", "δ(o1) h2", "δ(o2) h1", "δ(o2) h2"]
# Transposed, the weights come in the order of their numbers.
before, gradients, now = (
    np.concatenate([weights.T.ravel() for weights in layers])
    for layers in (coefs, trace.coef_gradients, updated)
)
for i, formula in enumerate(formulas):
    print(f"  w{i + 1}: {formula} = {gradients[i]:+.9f}   {before[i]:.2f} → {now[i]:.9f}")
print(f"  error after this step {after.loss:.9f}")

# The same 10,000 times. One engine for all steps is much faster than a trace for each.
engine, data, errors = Engine(network, np.float64), Data(X, y), []
trained = coefs
for _ in range(10_000):
    engine.load_parameters(network.flatten(trained, intercepts, np.float64))
    error, gradient = engine.loss_and_gradient(data)
    errors.append(error)
    trained = step(trained, network.views(gradient)[0])
final = trace_of(trained)
errors.append(final.loss)
o1, o2 = final.activations[-1][0]
print(f"\nAfter 10,000 steps o1 = {o1:.9f}, o2 = {o2:.9f}, error {errors[-1]:.10f}")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 5), width_ratios=[3, 2], layout="constrained"
    )
    places = {"i1": (0, 1), "i2": (0, 0), "h1": (1, 1), "h2": (1, 0), "o1": (2, 1), "o2": (2, 0)}
    values = dict(zip(places, np.concatenate(trace.activations, axis=1)[0], strict=True))
    deltas = dict(zip(list(places)[2:], (dh1, dh2, do1, do2), strict=True))
    edges = ["i1 h1", "i2 h1", "i1 h2", "i2 h2", "h1 o1", "h2 o1", "h1 o2", "h2 o2"]
    for i, edge in enumerate(edges):
        (x0, y0), (x1, y1) = (places[end] for end in edge.split())
        left.annotate(
            "", (x1, y1), (x0, y0), arrowprops=dict(arrowstyle="->", color="tab:gray", shrinkB=38)
        )
        along = 0.5 if y0 == y1 else 0.3  # where the diagonals do not cross
        left.text(
            x0 + along * (x1 - x0), y0 + along * (y1 - y0),
            f"w{i + 1}  {before[i]:.2f}\n→ {now[i]:.4f}", ha="center", va="center", fontsize=9,
            bbox=dict(facecolor="white", edgecolor="none", pad=1),
        )  # fmt: skip
    for node, (x, y_) in places.items():
        text = f"{node}\n{values[node]:.4f}"
        text += f"\nδ {deltas[node]:+.4f}" if node in deltas else ""
        left.text(
            x, y_, text, ha="center", va="center",
            bbox=dict(boxstyle="round,pad=0.6", facecolor="#fdf3dc", edgecolor="tab:orange"),
        )  # fmt: skip
    left.text(2.28, 1, f"target\n{y[0, 0]}", va="center")
    left.text(2.28, 0, f"target\n{y[0, 1]}", va="center")
    left.set(title="One step: values forward, δ backward, weights updated")
    left.set(xlim=(-0.3, 2.6), ylim=(-0.3, 1.3))
    left.axis("off")
    right.loglog(range(1, len(errors) + 1), errors)
    right.set(title="The error over 10,000 steps", xlabel="step (from 1)", ylabel="E")
    right.grid(alpha=0.3)
    figure.savefig("backprop_by_hand.png", dpi=80)
    print("wrote backprop_by_hand.png")
