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
from fastbp.hidden_features import HiddenFeatures
from fastbp.onnx_formulas import FORMULAS as FORMULAS
from fastbp.regressor import MLPRegressor
from fastbp.tabular.base import BaseTabularMLP
from fastbp.tabular.classifier import TabularMLPClassifier
from fastbp.tabular.regressor import TabularMLPRegressor

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

    from fastbp.onnx_nodes import (
        Nodes,
        add_activation,
        add_logits,
        add_predictions,
        add_probabilities,
    )
    from fastbp.tabular import onnx as of_tables

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
        contains them and that skl2onnx knows, such as a `Pipeline` or a `GridSearchCV`. Or a
        `TabularMLPClassifier` or `TabularMLPRegressor`, exported with its preprocessing: see Notes.
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

    Notes
    -----
    A model of tables has an input of shape (n_samples, 1) for each column, under the column's name,
    in which skl2onnx writes "_" for spaces and the like; "x0", "x1" and so on without names. Where
    columns have no names and all hold numbers, it has one matrix "X". The argument X, which may be
    left out, says which are int64, float32, float64, booleans or texts. Dates are seconds since
    1970, durations seconds, in float64. A missing number or date is NaN, and a boolean is a number
    where X has gaps; a missing text is any that is no category, such as "". Predictions of a
    regressor are float64.

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
    if initial_types is None and isinstance(estimator, BaseTabularMLP):
        X, initial_types = None, of_tables.initial_types(estimator, X)
    elif initial_types is None:
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


# ---- converters ---------------------------------------------------------------------------------


def _number_type(operator):
    """The type of tensors of outputs: that of the inputs, if it is float64."""
    is_double = any(isinstance(each.type, DoubleTensorType) for each in operator.inputs)
    return DoubleTensorType if is_double else FloatTensorType


def _inputs(node, operator):
    """One matrix of all inputs, in the type that is computed in."""
    columns = [node.cast(each.full_name) for each in operator.inputs]
    return node("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]


def _nodes_for(scope, operator, container):
    is_double = isinstance(_number_type(operator)(), DoubleTensorType)
    return Nodes(scope, container, np.float64 if is_double else np.float32)


def _convert_classifier(scope, operator, container):
    node, model = _nodes_for(scope, operator, container), operator.raw_operator._fitted()
    z = add_logits(node, _inputs(node, operator), model, len(model.network.shapes))
    probabilities, kind = add_probabilities(node, z, model), model.labels.kind
    if kind == "multiclass":
        decided = node("ArgMax", z, axis=1, keepdims=0)
    else:
        decided = node("Cast", node("Greater", z, 0.0), to=onnx_proto.TensorProto.INT64)
    if kind == "binary":
        decided = node("Reshape", decided, node.integers([-1]))
    if kind != "multilabel":
        decided = node("Gather", _classes(node, operator), decided, axis=0)
    label, others = (output.full_name for output in operator.outputs)
    node("Identity", decided, output=label)
    node("Max", probabilities, np.finfo(node.dtype).tiny, output=others)  # none is 0


def _convert_regressor(scope, operator, container):
    node, model = _nodes_for(scope, operator, container), operator.raw_operator._fitted()
    z = add_logits(node, _inputs(node, operator), model, len(model.network.shapes))
    node("Identity", add_predictions(node, z, model), output=operator.outputs[0].full_name)


def _convert_hidden_features(scope, operator, container):
    node = _nodes_for(scope, operator, container)
    model, layer = operator.raw_operator._chosen()
    z = add_logits(node, _inputs(node, operator), model, layer + 1)
    node("Identity", add_activation(node, model, layer, z), output=operator.outputs[0].full_name)


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
    _set_label_shapes(operator, operator.raw_operator._fitted().labels, _number_type(operator))


def _set_label_shapes(operator, labels, number_type):
    rows = operator.inputs[0].get_first_dimension()
    columns = 2 if labels.kind == "binary" else labels.n_outputs
    if labels.kind == "multilabel":
        operator.outputs[0].type = Int64TensorType([rows, columns])
    else:
        is_text = _labels_of(operator).dtype.kind == "U"
        operator.outputs[0].type = (StringTensorType if is_text else Int64TensorType)([rows])
    operator.outputs[1].type = number_type([rows, columns])


def _shape_numbers(columns):
    def shape(operator):
        check_is_fitted(operator.raw_operator)
        rows = operator.inputs[0].get_first_dimension()
        operator.outputs[0].type = _number_type(operator)([rows, columns(operator.raw_operator)])

    return shape


def _shape_table_classifier(operator):
    model = operator.raw_operator._fitted()
    _set_label_shapes(
        operator, model.members[0]._fitted().labels, of_tables.probabilities_type(model)
    )


def _shape_table_regressor(operator):
    model, rows = operator.raw_operator._fitted(), operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = DoubleTensorType([rows, model.bounds.shape[1]])


def _convert_table_classifier(scope, operator, container):
    of_tables.convert_classifier(scope, operator, container, _classes)


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
        TabularMLPClassifier, "FastbpTabularMLPClassifier", _shape_table_classifier,
        _convert_table_classifier, options=options,
    )  # fmt: skip
    skl2onnx.update_registered_converter(
        TabularMLPRegressor, "FastbpTabularMLPRegressor", _shape_table_regressor,
        of_tables.convert_regressor,
    )  # fmt: skip
    skl2onnx.update_registered_converter(
        HiddenFeatures, "FastbpHiddenFeatures",
        _shape_numbers(lambda model: model._n_features_out), _convert_hidden_features,
    )  # fmt: skip


if _MISSING is None:
    _register()
