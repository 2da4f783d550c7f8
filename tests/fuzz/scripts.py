"""A fuzzed sequence as lines of Python: what is run, shrunk and printed is the same text."""

from dataclasses import dataclass, replace
from random import Random

HEADER = """\
import copy, pickle, tempfile
import numpy as np, scipy.sparse
from sklearn.base import clone
import fastbp
from fastbp import MLPClassifier, MLPRegressor
"""


@dataclass(frozen=True)
class Line:
    """One line that makes or changes data; `optional` ones may be left out."""

    source: str
    optional: bool = False


@dataclass(frozen=True)
class Call:
    """One step of a sequence.

    Parameters
    ----------
    kind : {"train", "predict", "change", "replace"}
        Trains `model`; leaves a prediction in `result`; changes parameters or attributes of
        `model`; or makes `model` another object.
    source : str
    data : int
        Number of the data set that it uses.
    twin : str or None
        A way of `tests.fuzz.twins` to the same result, which is compared.
    """

    kind: str
    source: str
    data: int = 0
    twin: str | None = None


@dataclass(frozen=True)
class Script:
    """A sequence.

    Parameters
    ----------
    estimator : {"MLPClassifier", "MLPRegressor"}
    parameters : tuple of (str, str)
        Names and values, in Python.
    data : tuple of tuple of Line
        For each data set the lines that make X0, y0 and w0; X1, y1 and w1; ...
    calls : tuple of Call
    """

    estimator: str
    parameters: tuple
    data: tuple
    calls: tuple

    @property
    def constructor(self):
        """The line that makes the estimator."""
        given = ", ".join(f"{name}={value}" for name, value in self.parameters)
        return f"model = {self.estimator}({given})"

    @property
    def setup(self):
        """The lines before the first call."""
        lines = [line.source for block in self.data for line in block]
        return "\n".join([*lines, self.constructor])

    def text(self, until=None, ending=""):
        """The whole as a script, up to call number `until`, with other lines after it."""
        calls = [call.source for call in self.calls[:until]]
        used = "\n".join([self.constructor, *calls, ending])
        blocks = [
            line.source
            for index, block in enumerate(self.data)
            if any(f"{name}{index}" in used for name in "Xyw")
            for line in block
            if not line.source.startswith(f"w{index} =") or f"w{index}" in used
        ]
        folder = ["folder = tempfile.mkdtemp()"] if "folder" in used else []
        lines = [HEADER, *blocks, *folder, self.constructor, *calls, ending]
        return "\n".join(lines).rstrip() + "\n"

    # ---- smaller scripts ----------------------------------------------------------------------

    def smaller(self):
        """Yield scripts with something left out, the largest steps first."""
        calls, names = self.calls, [name for name, _ in self.parameters]
        for start in range(len(calls)):  # a single call may be all it takes
            if start < len(calls) - 1:
                yield replace(self, calls=calls[start + 1 :])
        for index in range(len(calls) - 1):
            yield replace(self, calls=calls[:index] + calls[index + 1 :])
        kept = {"hidden_layer_sizes", "max_iter", "random_state"}  # the defaults take longer
        if set(names) - kept:
            yield replace(self, parameters=tuple(p for p in self.parameters if p[0] in kept))
        for name in names:
            if name not in kept:
                yield replace(self, parameters=tuple(p for p in self.parameters if p[0] != name))
        for number, block in enumerate(self.data):
            for index, line in enumerate(block):
                if line.optional:
                    smaller = block[:index] + block[index + 1 :]
                    data = (*self.data[:number], smaller, *self.data[number + 1 :])
                    yield replace(self, data=data)


def draw_script(seed, number):
    """The sequence that belongs to a seed and a number."""
    # Imported here, as the draws make the classes above.
    from tests.fuzz.calls import draw_calls
    from tests.fuzz.data import draw_data
    from tests.fuzz.parameters import draw_parameters

    random = Random(f"{seed}/{number}")
    estimator = random.choice(("MLPClassifier", "MLPClassifier", "MLPRegressor"))
    classifies = estimator == "MLPClassifier"
    parameters = draw_parameters(random, classifies)
    data = tuple(draw_data(random, index, classifies) for index in range(2))
    calls = draw_calls(random, classifies)
    return Script(estimator, tuple(parameters.items()), data, calls)
