"""What must hold after every call, whatever was drawn."""

import copy
import os
import re
import traceback

import numpy as np
import scipy.sparse
from sklearn.exceptions import NotFittedError

import fastbp
from tests.fuzz import features, forward
from tests.fuzz.state import FITTED, as_array, same_result

PACKAGE = os.path.dirname(fastbp.__file__)


class Finding(Exception):  # noqa: N818
    """Something that must not be.

    Parameters
    ----------
    oracle : str
        A short name.
    what : str
        What was found.
    shown : str
        Lines of Python that show it after the script's calls.
    place : str
        Where in fastbp, of an error.
    """

    def __init__(self, oracle, what, shown="", place=""):
        super().__init__(oracle, what, shown, place)
        self.oracle, self.what, self.shown, self.place = oracle, what, shown, place

    @property
    def key(self):
        """What alike findings share."""
        return f"{self.oracle} {self.place}".strip()


# ---- errors -------------------------------------------------------------------------------------


def place_of(error):
    """Where in fastbp an error comes from: file, function and type; "" if from elsewhere."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in f.filename]
    if not frames:
        return ""
    last = frames[-1]
    path = os.path.relpath(last.filename, os.path.dirname(PACKAGE))
    return f"{type(error).__name__} in {path}, {last.name}"


def check_error(call, error, namespace):
    """See that an error is of a type that callers may expect."""
    place = place_of(error)
    if not place or _is_the_scripts_own(error):
        return
    message = str(error)
    if isinstance(error, (NotFittedError, ValueError, TypeError)):
        if not message:
            raise Finding("error without a message", repr(error), place=place)
        return
    if isinstance(error, AttributeError) and (
        ("partial_fit" in call.source and "lbfgs" in message)
        or ("partial_fit" in message and "has no attribute" in message)
        or any(f"{name!r}" in message and "has no attribute" in message for name in FITTED)
        or "cannot be assigned" in message
    ):
        return
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
        return  # a callback's, which generators and SciPy would take for an end
    if isinstance(error, MemoryError) and str(2**31 - 1) in str(namespace.get("sizes", "")):
        return
    what = f"{type(error).__name__}: {message}"
    raise Finding("error of another type", what.splitlines()[0][:300], place=place)


def _is_the_scripts_own(error):
    """Whether a callback, or a function that is a parameter, has raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    # The first two are `execute` and the call itself.
    return any(frame.filename == "<script>" for frame in frames[2:])


# ---- results ------------------------------------------------------------------------------------


def check_result(call, namespace):
    """See that a prediction or a score is one: finite, as the weights say, row by row the same."""
    model, result = namespace["model"], namespace["result"]
    if ".score(" in call.source:
        is_share = not hasattr(model, "predict_proba") or 0 <= result <= 1
        if not (isinstance(result, float) and is_share):
            raise Finding("score", f"the score is {result!r}", "print(result)")
        return
    method = call.source.partition("model.")[2].partition("(")[0]
    name, X = argument_of(call, namespace)
    check_prediction(model, X, method, result, name)


def check_fit(call, namespace):
    """See that a trained model holds finite numbers and predicts what its weights say."""
    model = namespace["model"]
    for array in (*model.coefs_, *model.intercepts_):
        if not np.isfinite(array).all():
            raise Finding("trained to NaN", "parameters are not finite", "print(model.coefs_)")
    name, X = argument_of(call, namespace)
    for method in ("predict", "predict_proba")[: 1 + hasattr(model, "predict_proba")]:
        result = _predict(model, method, X, name)
        if result is not None:
            check_prediction(model, X, method, result, name)


def _predict(model, method, X, name):
    """Predict rows that the model has been trained on, or others of their kind."""
    shown = f"result = model.{method}({name})\nprint(result)"
    try:
        return getattr(model, method)(X)
    except ValueError as error:
        if "too large" in str(error):  # the outputs would not be finite
            return None
        raise Finding("does not predict", f"{error}"[:300], shown) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:300]
        raise Finding("error of another type", what, shown, place_of(error)) from error


def check_prediction(model, X, method, result, name):
    """The oracles of one prediction; `name` is X's in the script."""
    shown = f"result = model.{method}({name})\nprint(result)"
    found = as_array(result)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise Finding("not finite", f"{method} gives NaN or infinity", shown)
    if method == "predict_proba":
        _check_probabilities(model, found, shown)
    _check_against_weights(model, X, method, found, shown)
    _check_rows(model, X, method, result, name)


def _check_probabilities(model, found, shown):
    if found.min(initial=0) < 0 or found.max(initial=1) > 1:
        raise Finding("probabilities", "they are not in [0, 1]", shown)
    _, labels = features.model_of(model)
    if labels.kind != "multilabel" and len(found):
        off = np.abs(found.sum(axis=1) - 1).max()
        if off > 1e-5:
            raise Finding("probabilities", f"they sum to 1 ± {off:.1e}", shown)


def _check_against_weights(model, X, method, found, shown):
    """Compare with the forward pass in NumPy."""
    expected = expected_outputs(model, X)
    if expected is None:
        return
    outputs, bound = expected
    _, labels = features.model_of(model)
    if method == "predict":
        agrees = _labels_agree(labels, model, found, outputs, bound)
    elif method == "predict_proba":
        agrees = _probabilities_agree(labels, model, found, outputs, bound)
    else:
        return
    if not agrees:
        raise Finding(
            "not what the weights say", f"{method} differs from a forward pass in NumPy", shown
        )


def expected_outputs(model, X):
    """A model's outputs in NumPy and their bound, or None where X is no matrix of numbers."""
    network, _ = features.model_of(model)
    if not (scipy.sparse.issparse(X) or isinstance(X, np.ndarray)):
        return None
    if X.dtype.kind not in "biuf" or isinstance(X, np.ma.MaskedArray):
        return None
    record = vars(model).get("_model")
    scale = model.input_scale if record is None else record.input_scale
    outputs, bound = forward.outputs_of(
        X, model.coefs_, model.intercepts_, network.activations, float(scale)
    )
    units = getattr(record, "targets", None)
    return (outputs, bound) if units is None else _in_units(outputs, bound, units)


def _in_units(outputs, bound, units):
    """A regressor's outputs in the units of y, within their bounds, ordered by quantiles."""
    eps = np.finfo(np.float32).eps if bound.min(initial=1) > 1e-12 else np.finfo(float).eps
    if units.is_scaled:
        with np.errstate(all="ignore"):
            outputs = outputs * np.array(units.deviations) + np.array(units.means)
            bound = bound * np.array(units.deviations) + 8 * eps * np.abs(outputs)
    if units.lowest:
        outputs = np.clip(outputs, units.lowest, units.highest)
    if units.quantiles is not None:
        places = np.argsort(np.argsort(units.quantiles, kind="stable"))
        outputs = np.sort(outputs, axis=1)[:, places]
        bound = np.broadcast_to(bound.max(axis=1, keepdims=True), outputs.shape)
    return outputs, bound


def _labels_agree(labels, model, found, outputs, bound):
    """Whether `predict` names the likeliest labels; near ties any of them."""
    if labels is None:
        return forward.agree(found.reshape(outputs.shape), outputs, bound)
    if labels.kind == "multilabel":
        unclear = ~(np.abs(outputs - 0.5) > bound)  # or not finite
        return bool(((found == (outputs > 0.5)) | unclear).all())
    classes = np.asarray(model.classes_)
    if classes.shape != labels.classes.shape:
        return False
    if labels.kind == "binary":
        chosen = (outputs[:, 0] > 0.5).astype(int)
        unclear = np.abs(outputs[:, 0] - 0.5) <= bound[:, 0]
        expected = classes.take(chosen, mode="clip")
    else:
        expected = classes[outputs.argmax(axis=1)]
        first_two = np.sort(outputs, axis=1)[:, -2:]
        unclear = first_two[:, 1] - first_two[:, 0] <= 2 * bound.max(axis=1)
    return bool(((found == expected) | unclear | ~np.isfinite(outputs).all(axis=1)).all())


def _probabilities_agree(labels, model, found, outputs, bound):
    network, _ = features.model_of(model)
    if labels.kind == "binary":
        outputs = np.hstack([1 - outputs, outputs])
    elif labels.kind == "multiclass" and network.output_activation == "logistic":
        total = outputs.sum(axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            outputs, bound = outputs / total, 2 * bound.sum(axis=1, keepdims=True) / total
    return forward.agree(found, outputs, bound + 1e-7 * (found.dtype == np.float32))


def _check_rows(model, X, method, result, name):
    """A row alone, and sparse rows in an array, have the bits that they have in the batch."""
    if not all(np.isfinite(np.asarray(each)).all() for each in model.coefs_):
        return  # sparse rows leave out 0 times infinity
    if scipy.sparse.issparse(X):
        is_valid = X.format == "csr" and X.has_canonical_format
        others = {f"{name}.toarray()": (X.toarray(), slice(None))} if is_valid else {}
    elif isinstance(X, np.ndarray) and X.ndim == 2 and len(X) > 1:
        row = len(X) // 2
        others = {f"{name}[{row}:{row + 1}]": (X[row : row + 1], slice(row, row + 1))}
    else:
        return
    for other, (rows, place) in others.items():
        again = _predict(model, method, rows, other)
        if again is not None and not same_result(again, result[place]):
            raise Finding(
                "rows differ",
                f"{method}({other}) is not the same to the bit as in {method}({name})",
                f"print(model.{method}({other}))\nprint(model.{method}({name}))",
            )


def argument_of(call, namespace):
    """The X of a call, as it is written and what it is."""
    source = re.search(r"X\d(\[[-:\d]*\])?", call.source)[0]
    return source, eval(source, dict(namespace))


# ---- callbacks ----------------------------------------------------------------------------------


def watched(model, namespace):
    """What a callback's predictions must be during the next fit, or None if it makes none."""
    mentions = getattr(getattr(model.callback, "__code__", None), "co_names", ())
    if not {"append", "query"} <= set(mentions) or features.model_of(model) is None:
        return None
    method = "predict_proba" if "predict_proba" in mentions else "predict"
    try:
        return getattr(copy.deepcopy(model), method)(namespace["query"])
    except (ValueError, TypeError, AttributeError):
        return None


def check_watched(expected, namespace):
    """See that every prediction that a callback made during a fit is the old model's."""
    for number, found in enumerate(namespace["seen"]):
        if not same_result(found, expected):
            raise Finding(
                "prediction in a callback",
                f"prediction {number} during the refit is not the old model's",
                "print(seen)",
            )
