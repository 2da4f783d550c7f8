"""PyTorch's switch for subnormal numbers is as it was after a fit."""

import pytest
from test_subnormals import make, make_rows

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_a_process_that_flushes_goes_on_to():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        X, y = make_rows(1.0)
        make().fit(X, y)
        assert (torch.tensor([1e-40]) * 1).item() == 0
    finally:
        torch.set_flush_denormal(False)
