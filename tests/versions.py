"""What older versions of scikit-learn lack, so that nothing can be held against them there.

The only conditions on which a comparison with scikit-learn is skipped or shortened: on the newest
version none holds. fastbp's own features are tested everywhere.
"""

import pytest
import sklearn

SINCE = {  # what came with which version of scikit-learn
    "sample weights of MLPs": (1, 7),
    "the Poisson loss of MLPs": (1, 7),
    "validation rows of HistGradientBoosting": (1, 7),
    "callbacks": (1, 9),
    "a tag that MLPs take sparse X": (1, 7),
    "parameters in HTML": (1, 7),
    "the number of iterations in what lbfgs warns of": (1, 7),
    "routing to a pipeline's score": (1, 8),
    "names of columns in polars 2": (1, 9),
    "refusal of zero weights": (1, 9),
    "early stopping with strings as labels": (1, 9),
}
FOUND = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


def scikit_learn_has(what):
    """Whether the installed version has what `SINCE` names."""
    return SINCE[what] <= FOUND


def needs(*whats):
    """Skip the calling test where scikit-learn lacks any of these."""
    for what in whats:
        if not scikit_learn_has(what):
            version = ".".join(map(str, SINCE[what]))
            pytest.skip(f"scikit-learn before {version} lacks {what}")  # .ci/run looks for it
