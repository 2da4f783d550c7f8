"""Throughput of training on the CPU and on the GPU, by the width of the hidden layer.

You learn how fast a network trains where, and that a device needs work enough to be worth it. On a
machine where fastbp has no GPU to use, the CPU's figures stand alone and a line says why.
"""

import sys

import numpy as np

from fastbp import MLPClassifier

N_ROWS, BATCH_SIZE, N_EPOCHS = 10_000, 100, 4
widths = [16, 64, 256, 1024]
generator = np.random.default_rng(0)
X = generator.random((N_ROWS, 784), dtype=np.float32)
y = generator.integers(10, size=N_ROWS)


def rows_per_second(device, width):
    """Train a few epochs, of which the first warms up; the fastest of the others counts."""
    speeds = []

    def note(report):
        speeds.append(report.n_samples / report.seconds)
        if report.n_iter == N_EPOCHS:
            report.stop()

    model = MLPClassifier(
        (width,), solver="sgd", batch_size=BATCH_SIZE, random_state=0, device=device, callback=note
    )
    model.fit(X, y)
    return max(speeds[1:])


throughput = {"cpu": [rows_per_second("cpu", width) for width in widths]}
try:
    throughput["cuda"] = [rows_per_second("cuda", width) for width in widths]
except (ImportError, RuntimeError, ValueError) as error:
    print(f"No GPU: nothing is measured on it. fastbp says: {error}\n")
print(f"784-width-10 in float32, batches of {BATCH_SIZE}: rows trained a second, in thousands")
print("width " + "".join(f"{width:>10,d}" for width in widths))
for device, speeds in throughput.items():
    print(f"{device:5s} " + "".join(f"{speed / 1000:10,.0f}" for speed in speeds))

if "--no-plot" not in sys.argv:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for device, speeds in throughput.items():
        ax.loglog(widths, speeds, "o-", label=device)
        for width, speed in zip(widths, speeds, strict=True):
            ax.annotate(f"{speed:,.0f}", (width, speed), (6, 5), textcoords="offset points")
    ax.set_xticks(widths, labels=map(str, widths))
    ax.minorticks_off()
    ax.margins(x=0.25, y=0.15)
    ax.set(title="Training 784-width-10", xlabel="hidden units", ylabel="rows a second")
    ax.grid(alpha=0.3)
    ax.legend()
    figure.savefig("cpu_vs_gpu.png", dpi=80)
    print("wrote cpu_vs_gpu.png")
