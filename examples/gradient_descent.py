"""Gradient descent: walk down a hill by steps against the gradient.

You learn what the learning rate does, and momentum, on a function whose lowest point is known:
f(x, y) = x² + y² + 2x + 2 = (x + 1)² + y² + 1, lowest at (−1, 0), where f = 1. The update rules
are the very functions that fastbp compiles into its kernels.
"""

import sys

import numpy as np

from fastbp.optimizers import nesterov, sgd


def f(point):
    x, y = point
    return x**2 + y**2 + 2 * x + 2


def gradient(point):
    x, y = point
    return np.array([2 * x + 2, 2 * y])


def descend(rule, momentum, learning_rate=0.01, n_steps=4000):
    """Start at (1, 4); return the point after every step."""
    point, velocity = np.array([1.0, 4.0]), np.zeros(2)
    path = [point]
    for _ in range(n_steps):
        point, velocity = rule(point, gradient(point), velocity, learning_rate, momentum)
        path.append(point)
    return np.array(path)


paths = {
    "plain": descend(sgd, momentum=0.0),
    "momentum 0.9": descend(sgd, momentum=0.9),
    "Nesterov 0.9": descend(nesterov, momentum=0.9),
}
print("step   x         y         f         (plain: w ← w − 0.01 · gradient)")
for step in (0, 1, 2, 10, 100, 1000, 4000):
    x, y = paths["plain"][step]
    print(f"{step:4d}  {x:8.5f}  {y:8.5f}  {f((x, y)):8.5f}")
for name, path in paths.items():
    settled = np.flatnonzero(f(path.T) > 1 + 1e-6)[-1] + 1
    print(f"{name}: within 0.000001 of the lowest f for good after {settled} steps")

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    x, y = np.meshgrid(np.linspace(-3.5, 2.5, 121), np.linspace(-1.5, 5, 131))
    contours = left.contour(x, y, f((x, y)), levels=[1.2, 2, 4, 7, 11, 16, 22], cmap="Greys_r")
    left.clabel(contours, fontsize=8)
    for color, name in (("tab:blue", "plain"), ("tab:orange", "momentum 0.9")):
        left.plot(*paths[name][::5].T, ".-", color=color, label=f"{name}, every 5th step")
    left.plot(-1, 0, "k*", markersize=12, label="lowest point (−1, 0)")
    left.set(title="The path from (1, 4)", xlabel="x", ylabel="y", aspect="equal")
    left.legend(loc="upper left", fontsize=8)
    for name, path in paths.items():
        right.semilogy(f(path[:801].T) - 1, label=name)
    right.set(
        title="How far f is above its minimum", xlabel="step", ylabel="f − 1", ylim=(1e-16, 50)
    )
    right.legend()
    figure.savefig("gradient_descent.png", dpi=90)
    print("wrote gradient_descent.png")
