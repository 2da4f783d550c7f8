"""Export to ONNX, by skl2onnx: converters of this package's estimators.

Whoever imports this module teaches skl2onnx these classes: its own `to_onnx`, too, then converts
pipelines, column transformers, searches and ensembles that contain them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from fastbp.classifier import MLPClassifier
from fastbp.embedding import TURN
from fastbp.hidden_features import HiddenFeatures
from fastbp.onnx_formulas import FORMULAS as FORMULAS
from fastbp.onnx_formulas import apply_formula, softplus
from fastbp.regressor import MLPRegressor

try:
    import skl2onnx
    from skl2onnx.common.data_types import (
        DoubleTensorType,
        FloatTensorType,
        Int64TensorType,
        StringTensorType,
        guess_data_type,
    )
    from skl2onnx.common.utils_classifier import get_label_classes
    from skl2onnx.proto import onnx_proto
except ImportError as error:
    _MISSING: ImportError | None = error
else:
    _MISSING = None

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastbp.hints import ArrayLikeOrSparse


def to_onnx(
    estimator: Any,
    X: ArrayLikeOrSparse | None = None,
    *,
    initial_types: Sequence[tuple[str, Any]] | None = None,
    target_opset: int | dict[str, int] | None = None,
    options: dict[Any, Any] | None = None,
    **others: Any,
) -> Any:
    """Export a fitted estimator to ONNX.

    Parameters
    ----------
    estimator : estimator
        An `MLPClassifier`, `MLPRegressor` or `HiddenFeatures`, or one of scikit-learn's that
        contains them and that skl2onnx knows, such as a `Pipeline` or a `GridSearchCV`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
        Rows as the model will get them: only their number of columns and dtype are used. float64
        makes a model that takes, computes and returns float64, everything else one that computes in
        float32. A frame makes one input for each column. ONNX models take dense rows only.
    initial_types : list of (str, skl2onnx type), default=None
        Names and types of the inputs, instead of X.
    target_opset : int or dict, default=None
        Version of ONNX's operators, at least 11; None for the newest that skl2onnx knows.
    options : dict, default=None
        skl2onnx's options. Unless they mention "zipmap", a classifier's probabilities are an array,
        as `predict_proba` returns them: onnxruntime has dictionaries of float32 alone.
    **others : dict
        More arguments of `skl2onnx.to_onnx`, such as `final_types` and `naming`.

    Returns
    -------
    model : onnx.ModelProto
        With the outputs "label" and "probabilities" of a classifier, and "variable", of shape
        (n_samples, n_outputs), of a regressor or transformer. Whole numbers and booleans as labels
        come out as int64.

    Raises
    ------
    ImportError
        Without skl2onnx.
    NotFittedError
        If the estimator has not been fitted.
    ValueError
        If ONNX cannot express the labels, or if an activation has no formula in
        `fastbp.onnx.FORMULAS`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import MLPRegressor
    >>> from fastbp.onnx import to_onnx
    >>> X = np.linspace(-2, 2, 100, dtype=np.float32)[:, None]
    >>> model = MLPRegressor(activation="gelu", solver="lbfgs", random_state=0)
    >>> exported = to_onnx(model.fit(X, np.sin(X.ravel())), X)
    >>> [output.name for output in exported.graph.output]
    ['variable']
    >>> content = exported.SerializeToString()  # the bytes of a file
    """
    if _MISSING is not None:
        raise ImportError(
            "to_onnx needs skl2onnx, which is not installed: pip install 'fastbp[onnx]'."
        ) from _MISSING
    if initial_types is None:
        X, initial_types = _sample_of(X)
    if is_classifier(estimator) and not _mentions_zipmap(options):
        options = _without_zipmap(estimator, options or {})
    return skl2onnx.to_onnx(
        estimator,
        X,
        initial_types=initial_types,
        target_opset=target_opset,
        options=options,
        **others,
    )


def _sample_of(X):
    """A row in a form whose type skl2onnx can guess, or else the types."""
    if X is None:
        raise ValueError("Give X, a few rows as the model will get them, or initial_types.")
    if issparse(X):
        return X.tocsr()[:1].toarray(), None
    if hasattr(X, "iloc"):  # of pandas
        return X[:1], None
    if hasattr(X, "columns"):
        row = X[:1]
        columns = {name: row[name].to_numpy()[:, None] for name in X.columns}
        types = [(name, guess_data_type(data)[0][1]) for name, data in columns.items()]
        return None, [(name, type(found)([None, 1])) for name, found in types]
    return np.asarray(X)[:1], None


def _without_zipmap(estimator, options):
    """Add the option in the form that the others have: skl2onnx takes names or keys, not both."""
    if all(isinstance(key, str) for key in options):
        return {"zipmap": False} | options
    return options | {id(estimator): {"zipmap": False} | options.get(id(estimator), {})}


def _mentions_zipmap(options):
    """Whether a user has decided about it, for whatever part of the estimator."""
    return any(
        "zipmap" in key.split("__") if isinstance(key, str) else "zipmap" in value
        for key, value in (options or {}).items()
    )


class _Nodes:
    """Adds nodes to a graph: called with an operator and its inputs, it returns the output's name.

    Numbers and arrays among the inputs become constants of the type that the model computes in.
    """

    def __init__(self, scope, operator, container):
        self._scope, self._container = scope, container
        is_double = isinstance(_number_type(operator)(), DoubleTensorType)
        proto = onnx_proto.TensorProto
        self.type = proto.DOUBLE if is_double else proto.FLOAT
        self.dtype = np.dtype(np.float64 if is_double else np.float32)

    def __call__(self, operator, *inputs, output=None, **attributes):
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        if output is None:
            output = self._scope.get_unique_variable_name(f"fastbp_{operator.lower()}")
        node = self._scope.get_unique_operator_name(f"fastbp_{operator}")
        self._container.add_node(operator, names, output, name=node, **attributes)
        return output

    def constant(self, value, onnx_type=None):
        """Add an array, or a single number, and return its name."""
        name = self._scope.get_unique_variable_name("fastbp_constant")
        if onnx_type is None:
            onnx_type, value = self.type, np.asarray(value).astype(self.dtype)
        self._container.add_initializer(name, onnx_type, np.shape(value), np.ravel(value))
        return name

    def integers(self, values):
        """Add whole numbers, and return their name."""
        return self.constant(values, onnx_proto.TensorProto.INT64)

    def in_float32(self, operator, z):
        """Apply an operator that onnxruntime has for float32 alone."""
        if self.dtype == np.float32:
            return self(operator, z)
        single = self("Cast", z, to=onnx_proto.TensorProto.FLOAT)
        return self("Cast", self(operator, single), to=self.type)


# ---- the network --------------------------------------------------------------------------------


def _logits(node, operator, model, n_layers):
    """Add the layers before the last of `n_layers` whole, and of that one the logits."""
    columns = [node("Cast", each.full_name, to=node.type) for each in operator.inputs]
    h = node("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]
    if model.input_scale != 1:
        h = node("Mul", h, model.input_scale)
    network = model.network
    parameters = model.flat(model.parameter_dtype())
    coefs, intercepts = network.views(parameters)
    if network.n_embedded:
        h = _embed(node, h, *network.extras(parameters)["embedding"])
    for layer in range(n_layers):
        if layer > 0:
            h = _hidden(node, model, layer - 1, h)
        h = node("Add", node("MatMul", h, coefs[layer]), intercepts[layer])
    return h


def _hidden(node, model, layer, z):
    """Add a hidden layer's activation and, where its units have slopes, what these make of it."""
    outputs = apply_formula(node, model.network.activations[layer], z)
    slopes = model.extras_of("slopes")
    if slopes is None:
        return outputs
    return node("Add", z, node("Mul", node("Sub", outputs, z), slopes[layer]))


def _embed(node, h, frequencies, phases, weights, biases):
    """Add the numbers of embedded features before all features: see `fastbp.embedding`.

    All features go through one product with a block matrix. Runtimes have the cosine in float32
    alone: its argument is brought into one turn before.
    """
    n_embedded, n_frequencies, n_numbers = weights.shape
    first = node("Slice", h, *(node.integers([each]) for each in (0, n_embedded, 1)))
    spread = np.kron(np.eye(n_embedded), np.ones((1, n_frequencies))) * frequencies.ravel()
    turns = node("Add", node("MatMul", first, spread), phases.ravel() / TURN)
    turns = node("Sub", turns, node("Floor", node("Add", turns, 0.5)))
    waves = node.in_float32("Cos", node("Mul", turns, TURN))
    joined = np.zeros((n_embedded * n_frequencies, n_embedded * n_numbers))
    for feature, block in enumerate(weights):
        rows = slice(feature * n_frequencies, (feature + 1) * n_frequencies)
        joined[rows, feature * n_numbers : (feature + 1) * n_numbers] = block
    numbers = node("Add", node("MatMul", waves, joined), biases.ravel())
    return node("Concat", numbers, h, axis=1)


def _number_type(operator):
    """The type of tensors of outputs: that of the inputs, if it is float64."""
    is_double = any(isinstance(each.type, DoubleTensorType) for each in operator.inputs)
    return DoubleTensorType if is_double else FloatTensorType


def _convert_classifier(scope, operator, container):
    node = _Nodes(scope, operator, container)
    model = operator.raw_operator._fitted()
    z = _logits(node, operator, model, len(model.network.shapes))
    to_integers = {"to": onnx_proto.TensorProto.INT64}
    kind, activation = model.labels.kind, model.network.output_activation
    if kind == "binary":
        both = node("Concat", node("Neg", z), z, axis=1)
        probabilities = apply_formula(node, activation, both)
        shape = node.constant([-1], onnx_proto.TensorProto.INT64)
        decided = node("Reshape", node("Cast", node("Greater", z, 0.0), **to_integers), shape)
    elif kind == "multiclass":
        probabilities = outputs = apply_formula(node, activation, z)
        if activation == "logistic":  # shares of the outputs, which may all be as good as 0
            logarithms = node("Neg", softplus(node, node("Neg", z)))
            probabilities = node("Softmax", logarithms, axis=1)
        decided = node("ArgMax", outputs, axis=1, keepdims=0)
    else:
        probabilities = apply_formula(node, activation, z)
        decided = node("Cast", node("Greater", z, 0.0), **to_integers)
    if kind != "multilabel":
        decided = node("Gather", _classes(node, operator), decided, axis=0)
    label, others = (output.full_name for output in operator.outputs)
    node("Identity", decided, output=label)
    node("Max", probabilities, np.finfo(node.dtype).tiny, output=others)  # none is 0


def _convert_regressor(scope, operator, container):
    node = _Nodes(scope, operator, container)
    model = operator.raw_operator._fitted()
    n_outputs = model.network.layer_sizes[-1]
    z = _logits(node, operator, model, len(model.network.shapes))
    outputs, units = apply_formula(node, model.network.output_activation, z), model.targets
    if units is not None and units.is_scaled:
        scaled = node("Mul", outputs, np.array(units.deviations))
        outputs = node("Add", scaled, np.array(units.means))
    if units is not None and units.quantiles is not None and n_outputs > 1:
        count = node.constant([n_outputs], onnx_proto.TensorProto.INT64)
        ranks = scope.get_unique_variable_name("fastbp_ranks")
        values = scope.get_unique_variable_name("fastbp_sorted")
        node("TopK", outputs, count, output=[values, ranks], axis=1, largest=0, sorted=1)
        places = np.argsort(np.argsort(units.quantiles, kind="stable")).tolist()
        places = node.constant(places, onnx_proto.TensorProto.INT64)
        outputs = node("Gather", values, places, axis=1)
    node("Identity", outputs, output=operator.outputs[0].full_name)


def _convert_hidden_features(scope, operator, container):
    node = _Nodes(scope, operator, container)
    model, layer = operator.raw_operator._chosen()
    z = _logits(node, operator, model, layer + 1)
    features = _hidden(node, model, layer, z)
    node("Identity", features, output=operator.outputs[0].full_name)


# ---- labels and shapes --------------------------------------------------------------------------


def _labels_of(operator):
    """The labels that the outputs stand for, as ONNX has them: int64 or strings.

    With skl2onnx's option "nocl" they are numbered.
    """
    classes = np.asarray(get_label_classes(operator.scope_inst, operator.raw_operator))
    if classes.dtype == object and all(isinstance(label, str) for label in classes):
        classes = classes.astype(str)
    if classes.dtype.kind == "U":
        return classes
    if classes.dtype.kind in "biuf":
        whole = classes.astype(np.int64)
        if np.array_equal(whole, classes) and (whole >= 0).tolist() == (classes >= 0).tolist():
            return whole
    raise ValueError(
        "ONNX has whole numbers and strings as labels only, but this model's classes_ are "
        f"{classes!r}. Fit with such labels, or rename them: model.classes_ = "
        "model.classes_.astype(str)."
    )


def _classes(node, operator):
    """Add the labels as a constant, a single one twice: it is the answer whatever the output."""
    labels = np.resize(_labels_of(operator), max(2, len(_labels_of(operator))))
    if labels.dtype.kind == "U":
        strings = np.array([label.encode() for label in labels.tolist()], dtype=object)
        return node.constant(strings, onnx_proto.TensorProto.STRING)
    return node.constant(labels, onnx_proto.TensorProto.INT64)


def _shape_classifier(operator):
    labels, rows = operator.raw_operator._fitted().labels, operator.inputs[0].get_first_dimension()
    columns = 2 if labels.kind == "binary" else labels.n_outputs
    if labels.kind == "multilabel":
        operator.outputs[0].type = Int64TensorType([rows, columns])
    else:
        is_text = _labels_of(operator).dtype.kind == "U"
        operator.outputs[0].type = (StringTensorType if is_text else Int64TensorType)([rows])
    operator.outputs[1].type = _number_type(operator)([rows, columns])


def _shape_numbers(columns):
    def shape(operator):
        check_is_fitted(operator.raw_operator)
        rows = operator.inputs[0].get_first_dimension()
        operator.outputs[0].type = _number_type(operator)([rows, columns(operator.raw_operator)])

    return shape


def _register():
    """Teach skl2onnx these classes."""
    options = {
        "zipmap": [True, False, "columns"],
        "output_class_labels": [False, True],
        "nocl": [True, False],
    }
    skl2onnx.update_registered_converter(
        MLPClassifier, "FastbpMLPClassifier", _shape_classifier, _convert_classifier,
        options=options,
    )  # fmt: skip
    skl2onnx.update_registered_converter(
        MLPRegressor, "FastbpMLPRegressor",
        _shape_numbers(lambda model: model._fitted().network.layer_sizes[-1]), _convert_regressor,
    )  # fmt: skip
    skl2onnx.update_registered_converter(
        HiddenFeatures, "FastbpHiddenFeatures",
        _shape_numbers(lambda model: model._n_features_out), _convert_hidden_features,
    )  # fmt: skip


if _MISSING is None:
    _register()
