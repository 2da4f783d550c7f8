"""The tile products of every form, in the simulator, against NumPy's products."""

import numpy as np
import pytest
from simulation import SimulatedDevice, speed_up

from fastbp import activations
from fastbp.cuda.generic import tile_products, tiles
from fastbp.cuda.generic.layers import Layer
from fastbp.optimizers import RULES, code_of
from fastbp.schedules import COEFFICIENTS, PENALTY, RATE, ROWS, TABLE_WIDTH, WEIGHT

speed_up()
# Sizes that are multiples of nothing: rows, inputs and outputs of a layer.
ROWS_AND_SIZES = 11, 19, 10
TANH = activations.code_of("tanh")


@pytest.fixture
def layer():
    """A layer's values, δ and parameters, with room before them."""
    random = np.random.default_rng(0)
    n_rows, n_inputs, n_outputs = ROWS_AND_SIZES
    return {
        "inputs": random.uniform(-1, 1, (n_rows, n_inputs)),
        "deltas": random.normal(size=(n_rows, n_outputs)),
        "weights": random.normal(size=(n_inputs, n_outputs)),
        "bias": random.normal(size=n_outputs),
    }


def step_table(n_rows, dtype=np.float64):
    """A table whose second step has this many rows and is the one to run."""
    table = np.zeros((2, TABLE_WIDTH), dtype)
    table[1, [WEIGHT, ROWS]] = n_rows
    return table


FORMS = [
    (form, dtype)
    for form in tiles.FORMS
    for dtype in (np.float32, np.float64)
    if dtype is np.float32 or form not in tiles.SINGLE_ONLY
]


@pytest.mark.parametrize(("name", "dtype"), FORMS)
def test_forward_and_backward(layer, name, dtype):
    n_rows, n_inputs, n_outputs = ROWS_AND_SIZES
    device, form = SimulatedDevice(), tiles.FORMS[name]
    table = device.upload(step_table(n_rows).ravel())
    before = np.zeros(3)
    parameters = np.concatenate([before, layer["weights"].ravel(), layer["bias"]]).astype(dtype)
    values = np.concatenate([before, layer["inputs"].ravel(), np.zeros(n_rows * n_outputs)])
    outputs = 3 + n_rows * n_inputs
    values, parameters = device.upload(values.astype(dtype)), device.upload(parameters)
    place = Layer(n_inputs, n_outputs, 3, outputs, n_rows * n_outputs, 0, 3, TANH, TANH)
    down, across = form.tiles(n_rows, n_outputs)
    device.launch(
        tile_products.kernel("forward", name, dtype), (across, down), form.threads,
        table, 1, place, parameters, values, values,
    )  # fmt: skip
    z = layer["inputs"] @ layer["weights"] + layer["bias"]
    found = device.read(values)[outputs:].reshape(z.shape)
    np.testing.assert_allclose(found, np.tanh(z), atol=100 * np.finfo(dtype).eps)

    deltas = np.concatenate([layer["deltas"].ravel(), np.zeros(n_rows * n_inputs)])
    deltas = device.upload(deltas.astype(dtype))
    down, across = form.tiles(n_rows, n_inputs)
    device.launch(
        tile_products.kernel("backward", name, dtype), (across, down), form.threads, table, 1,
        place, parameters, values, deltas,
    )  # fmt: skip
    expected = layer["deltas"] @ layer["weights"].T * (1 - layer["inputs"] ** 2)
    found = device.read(deltas)[n_rows * n_outputs :].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("name", "dtype"), FORMS)
def test_update(layer, name, dtype):
    n_rows, n_inputs, n_outputs = ROWS_AND_SIZES
    device, form = SimulatedDevice(), tiles.FORMS[name]
    table, decay, rate, momentum = step_table(n_rows), 0.3, 0.1, 0.9
    table[1, [RATE, PENALTY, COEFFICIENTS]] = rate, decay, momentum
    down, across = form.tiles(n_inputs + 1, n_outputs)
    place = Layer(n_inputs, n_outputs, 0, 0, -1, 0, 0, 0, 0, 0, across)
    start = np.concatenate([layer["weights"].ravel(), layer["bias"]])
    parameters, velocity = (device.upload(array.astype(dtype)) for array in (start, start / 2))
    norms = device.zeros(2 * down * across, np.float64)
    device.launch(
        tile_products.kernel("update", name, dtype), down * across, form.threads,
        device.upload(table.ravel()), 1, device.upload(np.array([place], np.int64)), 0,
        device.upload(layer["inputs"].ravel().astype(dtype)),
        device.upload(layer["deltas"].ravel().astype(dtype)), parameters, velocity, velocity,
        velocity,
        norms, code_of(RULES["nesterov"]),
    )  # fmt: skip
    slope = layer["inputs"].T @ layer["deltas"] + decay * layer["weights"]
    gradient = np.concatenate([slope.ravel(), layer["deltas"].sum(axis=0)])
    expected = momentum * start / 2 - rate * gradient
    tolerance = 100 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(device.read(velocity), expected, atol=tolerance)
    expected = start + momentum * expected - rate * gradient
    np.testing.assert_allclose(device.read(parameters), expected, atol=tolerance)
    norm = device.read(norms)[down * across :].sum()
    assert norm == pytest.approx((layer["weights"] ** 2).sum(), rel=tolerance)


def test_a_step_without_weight_changes_nothing(layer):
    n_rows, n_inputs, n_outputs = ROWS_AND_SIZES
    device, form = SimulatedDevice(), tiles.FORMS["toy"]
    values = device.upload(np.full(n_rows * (n_inputs + n_outputs), 7.0))
    place = Layer(n_inputs, n_outputs, 0, n_rows * n_inputs, -1, 0, 0, 0, 0)
    device.launch(
        tile_products.kernel("forward", "toy", np.float64), (1, 1), form.threads,
        device.upload(step_table(n_rows).ravel()), 0, place,
        device.upload(layer["weights"].ravel()), values, values,
    )  # fmt: skip
    assert (device.read(values) == 7.0).all()


def test_forms_are_large_where_there_is_work():
    def choose(rows, columns, dtype=np.float32):
        return tiles.choose_form(rows, columns, dtype, 132)

    assert choose(64, 128) == "thin"
    assert choose(785, 128) == "small"
    assert choose(1024, 512) == "medium"
    assert choose(4096, 2048) == "large"
    assert choose(4096, 2048, np.float64) == "medium"
    assert choose(100_000, 20) == "small"  # a larger tile would be half empty
    for form in tiles.FORMS.values():
        assert form.threads & (form.threads - 1) == 0  # sums over a block halve it
