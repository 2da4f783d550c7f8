"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^```python\n# in (\S+), (above|below|instead of) the line ([^\n]+)\n(.*?)^```$", re.M | re.S
)
RECIPES = {
    title: BLOCK.findall(text)
    for title, text in re.findall(r"^## Add (.+?)\n(.*?)(?=^## )", PAGE, re.M | re.S)
}


def edit(source, where, line, code):
    """Put a block of code where its first line says."""
    starts = line.removeprefix("that starts with ").strip('"')
    lines = source.splitlines(keepends=True)
    found = [i for i, text in enumerate(lines) if text.strip().startswith(starts)]
    assert len(found) == 1, f"{len(found)} lines start with {starts!r}"
    code += "\n\n" if where == "above" else ""  # functions, as the formatter wants them
    first = found[0] + (where == "below")
    lines[first : found[0] + (where == "instead of") + (where == "below")] = [code]
    return "".join(lines)


def test_every_recipe_touches_one_file():
    assert list(RECIPES) == ["an activation", "an update rule", "a loss", "a schedule"]
    for title, blocks in RECIPES.items():
        assert len({path for path, *_ in blocks}) == 1, title
    assert sum(map(len, RECIPES.values())) == PAGE.count("```python")


# .ci/run has this file run in numba's simulator as well: the recipes are those of both engines.
DEVICE = "cuda" if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else "cpu"
# One network with all four, against the same in NumPy.
PROGRAM = """
import warnings
from pathlib import Path
import numpy as np
import fastbp

assert Path(fastbp.__file__).parent.parent == Path.cwd()
warnings.simplefilter("ignore")
random = np.random.default_rng(0)
X = random.normal(size=(40, 3))
y = np.sin(X @ [1, 2, 3])
alpha, momentum, epochs, batch, rate = 0.1, 0.8, 4, 16, 0.01
model = fastbp.MLPRegressor(
    "cauchy", (5,), "softsign", solver="signum", learning_rate="quadratic", shuffle=False,
    alpha=alpha, momentum=momentum, batch_size=batch, random_state=0, max_iter=1,
    learning_rate_init=1e-300, device=DEVICE, precision="float64",
).fit(X, y)
W, V = (w.copy() for w in model.coefs_)  # such a rate leaves the initial weights
b, c = (b.copy() for b in model.intercepts_)
model.set_params(max_iter=epochs, learning_rate_init=rate).fit(X, y)

average = [0, 0, 0, 0]
starts = range(0, len(X), batch)
curve = []
for epoch in range(epochs):
    total = 0
    for number, start in enumerate(starts):
        rows, targets = X[start : start + batch], y[start : start + batch, None]
        z = rows @ W + b
        h = z / (1 + abs(z))
        error = h @ V + c - targets
        penalty = alpha / 2 * ((W**2).sum() + (V**2).sum())
        total += np.log(1 + error**2 / 2).sum() + penalty
        delta = error / (1 + error**2 / 2)
        hidden = delta @ V.T / (1 + abs(z)) ** 2
        gradients = [
            (rows.T @ hidden + alpha * W) / len(rows), (h.T @ delta + alpha * V) / len(rows),
            hidden.mean(axis=0), delta.mean(axis=0),
        ]
        progress = (epoch * len(starts) + number) / (epochs * len(starts))
        eta = rate * (1 - progress) ** 2
        average = [momentum * m + (1 - momentum) * g for m, g in zip(average, gradients)]
        W, V, b, c = (w - eta * np.sign(m) for w, m in zip((W, V, b, c), average))
    curve.append(total / len(X))

np.testing.assert_allclose(model.loss_curve_, curve, rtol=1e-12)
for ours, theirs in zip([*model.coefs_, *model.intercepts_], (W, V, b, c)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
try:
    model.to_sklearn()  # which does not know the activation
except ValueError as error:
    print("equal", len(curve), "softsign" in str(error))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a copy of the package that has everything that the recipes add."""
    folder = tmp_path_factory.mktemp("recipes")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastbp", folder / "fastbp", ignore=ignored)
    for path, where, line, code in (block for blocks in RECIPES.values() for block in blocks):
        file = folder / path
        file.write_text(edit(file.read_text(), where, line, code))
    return folder


def test_what_the_recipes_add_trains_as_in_numpy(package):
    done = subprocess.run(
        [sys.executable, "-c", f"DEVICE = {DEVICE!r}\n{PROGRAM}"],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package), "FASTBP_CACHE_DIR": str(package / "cache")},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("equal 4 True\n", 0), done.stderr
