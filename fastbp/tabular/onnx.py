"""Estimators for tables as ONNX, whole: an input for each column, the encoding, the networks.

The encoding is computed in float64, as in `TableEncoder` and `SmoothClipScaler`: dates are seconds
since 1970, for which float32 has too few digits.
"""

import numpy as np
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from skl2onnx.proto import onnx_proto

from fastbp.onnx_nodes import Nodes, add_logits, add_predictions, add_probabilities
from fastbp.tabular.columns import is_missing
from fastbp.tabular.scaler import LIMIT
from fastbp.tabular.tables import as_table, read_columns

_DAY = 86400.0
_TO_1970 = 719528  # days, from the first of January of the year 0
_YEAR_0 = 366  # days


# ---- inputs -------------------------------------------------------------------------------------


def initial_types(estimator, X=None):
    """Names and types of the inputs of an exported estimator.

    Parameters
    ----------
    estimator : TabularMLPClassifier or TabularMLPRegressor
        Fitted.
    X : table or None, default=None
        Rows as the model will get them, for the types; None for float64 and texts.

    Returns
    -------
    types : list of (str, skl2onnx type)
        One matrix, if a table without names has only numbers; otherwise an input for each column.
    """
    encoder = estimator._fitted().preprocessing[0]
    encodings, n_columns = encoder.encodings_, encoder.n_features_in_
    if X is None:
        types = [_default_type(encoding) for encoding in encodings]
    else:
        table = as_table(X)
        encoder.transform(table[:1])  # which refuses other columns
        types = [_type_of(*each) for each in zip(read_columns(table), encodings, strict=True)]
    names = getattr(encoder, "feature_names_in_", None)
    are_numbers = all(
        kind in (FloatTensorType, DoubleTensorType, Int64TensorType) for kind in types
    )
    if names is None and are_numbers and len({*types}) == 1:
        return [("X", types[0]([None, n_columns]))]
    names = [f"x{i}" for i in range(n_columns)] if names is None else names
    return [(str(name), kind([None, 1])) for name, kind in zip(names, types, strict=True)]


def _default_type(encoding):
    if encoding.kind == "categorical":
        return StringTensorType
    return BooleanTensorType if encoding.kind == "boolean" else DoubleTensorType


def _type_of(column, encoding):
    """The type of an input that stands for such a column."""
    values, kind = column.values, column.values.dtype.kind
    if encoding.kind == "datetime" or kind in "mM":
        return DoubleTensorType
    if kind in "iu":
        return Int64TensorType
    if kind == "f":
        return FloatTensorType if values.dtype == np.float32 else DoubleTensorType
    there = [value for value in values if not is_missing(value)]
    has_gaps = len(there) < len(values) or (column.codes is not None and (column.codes < 0).any())
    if kind == "b" or (there and all(isinstance(value, bool | np.bool_) for value in there)):
        return DoubleTensorType if has_gaps else BooleanTensorType
    if encoding.kind in ("categorical", "empty"):
        if there and all(isinstance(value, int | np.integer) for value in there):
            return DoubleTensorType if has_gaps else Int64TensorType
        if there and all(isinstance(value, float | np.floating) for value in there):
            return DoubleTensorType
        return StringTensorType
    return DoubleTensorType


class _Columns:
    """The inputs, column by column or several at once.

    Parameters
    ----------
    node : Nodes
        That computes in float64.
    operator : object
        skl2onnx's.
    """

    def __init__(self, node, operator):
        self._node, self._inputs = node, operator.inputs
        self._is_matrix = len(operator.inputs) == 1 and operator.inputs[0].type.shape[1] != 1

    def one(self, position):
        """A column of shape (n_rows, 1), as it comes."""
        if not self._is_matrix:
            return self._inputs[position].full_name
        return self._node("Gather", self._inputs[0].full_name, self._integers([position]), axis=1)

    def numbers(self, positions):
        """Some columns side by side in float64."""
        node = self._node
        if self._is_matrix:
            whole = node.cast(self._inputs[0].full_name)
            return node("Gather", whole, self._integers(positions), axis=1)
        columns = [node.cast(self._inputs[position].full_name) for position in positions]
        return node("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]

    def type(self, position):
        """A column's type."""
        return type(self._inputs[0 if self._is_matrix else position].type)

    def _integers(self, values):
        return self._node.integers(values)


# ---- encoding -----------------------------------------------------------------------------------


def add_preprocessing(node, operator, preprocessing):
    """Add the encoding and the scaling of a table.

    Parameters
    ----------
    node : Nodes
        That computes in float64.
    operator : object
        skl2onnx's.
    preprocessing : Pipeline

    Returns
    -------
    encoded : str
        Name of the network's inputs, in float64.
    """
    encoder, scaler = (step for _, step in preprocessing.steps)
    columns, parts, places = _Columns(node, operator), [], []
    by_kind = {}
    for encoding in encoder.encodings_:
        by_kind.setdefault(encoding.kind, []).append(encoding)
    for kind, add in (
        ("numerical", _add_numbers), ("datetime", _add_dates), ("boolean", _add_booleans),
        ("categorical", _add_categories),
    ):  # fmt: skip
        for part, of_part in add(node, columns, by_kind.get(kind, [])):
            parts.append(part)
            places += of_part
    encoded = node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    order = np.argsort(places).tolist()
    if order != [*range(len(order))]:
        encoded = node("Gather", encoded, node.integers(order), axis=1)
    return _scale(node, encoded, scaler)


def _scale(node, encoded, scaler):
    """The formula of `SmoothClipScaler`, with its quarters."""
    distances = node("Sub", node("Mul", encoded, 0.25), scaler.medians_ * 0.25)
    z = node("Mul", distances, 4 * scaler.factors_)
    z = node("Min", node("Max", z, -1e100), 1e100)
    third = node("Div", z, LIMIT)
    return node("Div", z, node("Sqrt", node("Add", node("Mul", third, third), 1.0)))


def _add_numbers(node, columns, encodings):
    """All numbers at once: parts of the encoded matrix, and their places in it."""
    if not encodings:
        return
    numbers = columns.numbers([encoding.position for encoding in encodings])
    missing = node("IsNaN", numbers)
    medians = np.array([encoding.median for encoding in encodings])
    filled = node("Where", missing, medians, numbers)
    yield filled, [encoding.outputs[0] for encoding in encodings]
    marked = [i for i, encoding in enumerate(encodings) if encoding.indicator is not None]
    if marked:
        indicators = node("Gather", node.cast(missing), node.integers(marked), axis=1)
        yield indicators, [encodings[i].indicator for i in marked]


def _add_booleans(node, columns, encodings):
    """True as 1, False as -1, a missing value, NaN, as 0."""
    if encodings:
        numbers = columns.numbers([encoding.position for encoding in encodings])
        signs = node("Sub", node("Mul", numbers, 2.0), 1.0)
        signs = node("Where", node("IsNaN", numbers), 0.0, signs)
        yield signs, [encoding.outputs[0] for encoding in encodings]


def _add_dates(node, columns, encodings):
    """Seconds, and sines and cosines of the places in the cycles."""
    for encoding in encodings:
        given = columns.numbers([encoding.position])
        missing = node("IsNaN", given)
        seconds = node("Where", missing, 0.0, given)
        days = node("Floor", node("Div", seconds, _DAY))
        in_day = node("Div", node("Sub", seconds, node("Mul", days, _DAY)), _DAY)
        numbers = [seconds]
        for cycle in encoding.cycles:
            place = _PLACES[cycle](node, days, in_day)
            angle = node("Mul", place, 2 * np.pi)
            numbers += [node.in_float32(function, angle) for function in ("Sin", "Cos")]
        block = node("Concat", *numbers, axis=1) if len(numbers) > 1 else numbers[0]
        yield node("Where", missing, np.array(encoding.medians), block), [*encoding.outputs]
        if encoding.indicator is not None:
            yield node.cast(missing), [encoding.indicator]


def _floor_of(node, numbers, divisor):
    return node("Floor", node("Div", numbers, float(divisor)))


def _place_in_week(node, days, in_day):
    since_monday = node("Add", days, 3.0)
    weekday = node("Sub", since_monday, node("Mul", _floor_of(node, since_monday, 7), 7.0))
    return node("Div", node("Add", weekday, in_day), 7.0)


def _place_in_year(node, days, in_day):
    """By the Gregorian calendar, whose years are longer and shorter than the mean year."""
    since_0 = node("Add", days, float(_TO_1970 - 3))  # none begins so late
    guess = node("Floor", node("Div", since_0, 365.2425))  # the year, or the one before
    after = node("Add", guess, 1.0)
    is_before = node("Less", days, _first_of_january(node, after))
    year = node("Where", is_before, guess, after)
    start = _first_of_january(node, year)
    length = node("Sub", _first_of_january(node, node("Add", year, 1.0)), start)
    return node("Div", node("Add", node("Sub", days, start), in_day), length)


def _first_of_january(node, year):
    """Days since 1970."""
    before = node("Sub", year, 1.0)
    leap = node("Sub", _floor_of(node, before, 4), _floor_of(node, before, 100))
    leap = node("Add", leap, _floor_of(node, before, 400))
    days = node("Add", node("Mul", before, 365.0), leap)
    return node("Add", days, float(_YEAR_0 - _TO_1970))


_PLACES = {
    "year": _place_in_year,
    "week": _place_in_week,
    "day": lambda node, days, in_day: in_day,
}


def _add_categories(node, columns, encodings):
    """A column for each category, or for two of them their difference."""
    for encoding in encodings:
        if not encoding.outputs:
            continue
        given, categories = columns.one(encoding.position), encoding.categories
        if columns.type(encoding.position) is StringTensorType:
            found = _one_hot_of_texts(node, given, categories)
        else:
            is_boolean = columns.type(encoding.position) is BooleanTensorType
            numbers = np.array([[_number_of(text, is_boolean) for text in categories]])
            found = node.cast(node("Equal", node.cast(given), numbers))
        if encoding.two_valued:
            found = node("MatMul", found, np.array([[-1.0], [1.0]]))
        yield found, [*encoding.outputs]


def _one_hot_of_texts(node, given, categories):
    one_hot = node(
        "OneHotEncoder", given, op_domain="ai.onnx.ml", op_version=1, zeros=1,
        cats_strings=[category.encode() for category in categories],
    )  # fmt: skip
    shape = node.integers([-1, len(categories)])
    return node.cast(node("Reshape", one_hot, shape))


def _number_of(text, is_boolean):
    """The number that a category's text stands for; NaN, which equals nothing, without."""
    if is_boolean:
        return {"True": 1.0, "False": 0.0}.get(text, np.nan)
    try:
        return float(text)
    except ValueError:
        return np.nan


# ---- converters ---------------------------------------------------------------------------------


def _members(scope, operator, container):
    """Nodes, model and, for each network, nodes that compute in its type, and its logits."""
    node = Nodes(scope, container, np.float64)
    model = operator.raw_operator._fitted()
    encoded = add_preprocessing(node, operator, model.preprocessing)
    single = node("Cast", encoded, to=onnx_proto.TensorProto.FLOAT)  # as the scaler's are
    networks = []
    for member in model.members:
        fitted = member._fitted()
        own = node.of_type(fitted.parameter_dtype())
        z = add_logits(own, own.cast(single), fitted, len(fitted.network.shapes))
        networks.append((own, z, fitted))
    return node, model, networks


def _mean(node, values):
    if len(values) == 1:
        return values[0]
    return node("Div", node("Sum", *values), float(len(values)))


def convert_classifier(scope, operator, container, add_classes):
    """Add a classifier; `add_classes` adds its labels as a constant."""
    _, _, networks = _members(scope, operator, container)
    node, _, fitted = networks[0]
    found = []
    for own, z, each in networks:
        probabilities = add_probabilities(own, z, each)
        found.append(own("Max", probabilities, np.finfo(own.dtype).tiny))  # none is 0
    probabilities = _mean(node, found)
    if fitted.labels.kind == "multilabel":
        decided = node("Greater", probabilities, 0.5)
        decided = node("Cast", decided, to=onnx_proto.TensorProto.INT64)
    else:
        decided = node("ArgMax", probabilities, axis=1, keepdims=0)
        decided = node("Gather", add_classes(node, operator), decided, axis=0)
    label, others = (output.full_name for output in operator.outputs)
    node("Identity", decided, output=label)
    node("Identity", probabilities, output=others)


def convert_regressor(scope, operator, container):
    """Add a regressor, whose predictions are in float64."""
    node, model, networks = _members(scope, operator, container)
    low, high = model.bounds
    found = []
    for _, z, fitted in networks:
        predictions = add_predictions(node, node.cast(z), fitted)
        found.append(node("Min", node("Max", predictions, low), high))
    node("Identity", _mean(node, found), output=operator.outputs[0].full_name)


def probabilities_type(model):
    """The type of a classifier's probabilities."""
    is_double = model.members[0]._fitted().parameter_dtype() == np.float64
    return DoubleTensorType if is_double else FloatTensorType
