"""Every engine has the verbs that the training loop knows, with the same parameters."""

from inspect import signature

import numpy as np
import pytest
from naive import NaiveEngine

from fastbp.cpu.engine import Engine as CpuEngine
from fastbp.engine import Engine
from fastbp.network import Network

VERBS = [name for name, verb in vars(Engine).items() if verb.__doc__ and name.islower()]
VERBS = [name for name in VERBS if not name.startswith("_")]


@pytest.mark.parametrize("kind", [CpuEngine, NaiveEngine])
def test_an_engine_has_all_verbs(kind):
    engine = kind(Network((2, 3, 1), ("relu",), "identity", "squared_error"), np.float64)
    assert isinstance(engine, Engine)
    assert {"train_epoch", "predict", "load_moments"} < set(VERBS)
    for verb in VERBS:
        expected, found = (signature(getattr(owner, verb)) for owner in (Engine, kind))
        assert list(found.parameters) == list(expected.parameters), verb
