"""Runs a script, call by call, with all oracles."""

import contextlib
import copy
import io
import tempfile
import warnings

import numpy as np
import scipy.sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from tests.fuzz import oracles, twins
from tests.fuzz.calls import DAMAGE
from tests.fuzz.oracles import Finding
from tests.fuzz.scripts import HEADER
from tests.fuzz.state import changed, freeze

TEAM = ("WORK_PER_THREAD", "WORK_PER_START")


class Unusable(Exception):  # noqa: N818
    """The script's own lines fail before there is anything to test."""


def execute(source, namespace):
    """Run lines of a script; return the error that they end in, or None."""
    try:
        exec(compile(source, "<script>", "exec"), namespace)
    except (Exception, KeyboardInterrupt) as error:
        return error
    return None


def run_script(script, report=lambda number: None):
    """Run a script until something is found.

    Parameters
    ----------
    script : Script
    report : callable
        Called with the number of each call before it is made.

    Returns
    -------
    finding : Finding or None
        With its `call`, the number of the call.

    Raises
    ------
    Unusable
        If the data cannot be made.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate():
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory(prefix="fastbp-fuzz-") as folder:
            namespace = {"__name__": "script", "folder": folder, "seen": []}
            namespace["is_damaged"] = False
            error = execute(HEADER, namespace) or execute(script.setup, namespace)
            if error is not None:
                raise Unusable(f"{type(error).__name__}: {error}") from error
            for number, call in enumerate(script.calls):
                report(number)
                namespace["is_damaged"] |= call.source in DAMAGE
                try:
                    _step(call, namespace)
                except Finding as finding:
                    finding.call = number
                    return finding
                if "model" not in namespace:
                    break
    return None


def _step(call, namespace):
    """Make one call, and see that all that must hold does."""
    model = namespace["model"]
    namespace["sizes"] = getattr(model, "hidden_layer_sizes", None)
    before = freeze(model)
    data = _freeze_data(call, namespace)
    mutates = _callback_mutates(model)
    twin = None if mutates else twins.twin_for(call, model, namespace)
    spare = copy.deepcopy(model) if twin is not None and not twin.exact else None
    other = _call_twin(twin, call, namespace) if twin is not None else None
    if twin is not None and freeze(model) != before:
        names = ", ".join(changed(before, freeze(model)))
        raise Finding(
            "shared state", f"{call.twin}: training the twin changes {names}", _shown(twin, call)
        )
    expected = oracles.watched(model, namespace) if call.kind == "train" else None
    namespace["seen"].clear()
    error = execute(call.source, namespace)
    _check_unchanged_data(data, call, namespace)
    if error is not None:
        oracles.check_error(call, error, namespace)
    if not mutates and call.kind in ("train", "predict") and (error or call.kind == "predict"):
        _check_unchanged(before, namespace["model"], call, error)
    if expected is not None:
        oracles.check_watched(expected, namespace)
    if twin is not None:
        _compare(twin, call, error, other, spare, namespace)
    if error is None and call.kind == "predict":
        oracles.check_result(call, namespace)
    if error is None and call.kind == "train" and not mutates:
        oracles.check_fit(call, namespace)


# ---- unchanged ----------------------------------------------------------------------------------


def _freeze_data(call, namespace):
    return [freeze(namespace[f"{name}{call.data}"]) for name in "Xyw"]


def _check_unchanged_data(before, call, namespace):
    for name, old in zip("Xyw", before, strict=True):
        if freeze(namespace[f"{name}{call.data}"]) != old:
            raise Finding("changed its arguments", f"the call has changed {name}{call.data}")


def _check_unchanged(before, model, call, error):
    """A failed call, and any prediction, leaves the estimator as it was, to the bit."""
    after = freeze(model)
    if after != before:
        ending = f"after {type(error).__name__}: {error}"[:200] if error else "in a prediction"
        names = ", ".join(changed(before, after))
        raise Finding("changed the estimator", f"{names} changed {ending}", place=names)


def _callback_mutates(model):
    """Whether the callback changes the model itself, which is then not as before."""
    mentions = getattr(getattr(model.callback, "__code__", None), "co_names", ())
    return bool({"set_params", "vars"} & set(mentions))


# ---- twins --------------------------------------------------------------------------------------


def _shown(twin, call):
    make, source = twins.lines_of(twin, call)
    return "\n".join(filter(None, [twin.before, make, source]))


def _call_twin(twin, call, namespace):
    """Make the twin and the call; return its error, or None."""
    make, source = twins.lines_of(twin, call)
    namespace.pop("twin", None)
    error = execute(make, namespace)
    if error is not None:
        _check_making(twin, call, error, namespace)
        return error
    with _forced_teams() if twin.before else contextlib.nullcontext():
        return execute(source, namespace)


def _check_making(twin, call, error, namespace):
    """A copy or a conversion fails only where that is meant to be."""
    if twin.make.startswith("twin = pickle") and _pickles_badly(namespace["model"]):
        return
    if isinstance(error, (ValueError, TypeError, AttributeError)) and not twin.exact:
        return  # scikit-learn has no such model
    if call.twin == "saved" and _cannot_be_saved(namespace["model"], error):
        return
    if isinstance(error, (ValueError, TypeError)) and (
        call.twin == "resumed" or namespace["is_damaged"]
    ):
        return  # as the model's own fit will, or because it is refused
    place = oracles.place_of(error) or type(error).__name__
    raise Finding(f"{call.twin} fails", f"{type(error).__name__}: {error}"[:300], twin.make, place)


def _cannot_be_saved(model, error):
    """Whether a file has no place for it: unfitted, with a function or an invalid parameter."""
    return isinstance(error, (NotFittedError, InvalidParameterError)) or (
        isinstance(error, (ValueError, TypeError))
        and (
            callable(model.learning_rate)
            or isinstance(model.random_state, np.random.RandomState)
            or "cannot be stored" in str(error)
            or "hidden_layer_sizes must" in str(error)
        )
    )


def _pickles_badly(model):
    """Whether the learning rate is a function that pickle does not find by its name."""
    return getattr(model.learning_rate, "__name__", "") == "<lambda>"


@contextlib.contextmanager
def _forced_teams():
    """Teams of threads however small the data are."""
    import fastbp.cpu.work as work

    before = [getattr(work, name) for name in TEAM]
    work.WORK_PER_THREAD, work.WORK_PER_START = 1, 0
    try:
        yield
    finally:
        for name, value in zip(TEAM, before, strict=True):
            setattr(work, name, value)


def _compare(twin, call, error, other, spare, namespace):
    """The twin's outcome must be the model's."""
    if "twin" not in namespace:  # it could not be made
        return
    # With two things wrong, one that has known its model before looks at X first.
    are_refused = all(isinstance(each, (TypeError, ValueError)) for each in (error, other))
    if twin.exact and twin.fails_alike and not are_refused and type(error) is not type(other):
        said = f"the model: {error!r}; the twin: {other!r}"[:400]
        raise Finding(f"twin {call.twin}", f"outcomes differ, {said}", _shown(twin, call))
    if error is not None or other is not None:
        return
    found = twins.difference(twin, call, namespace)
    if found is None or (not twin.exact and _is_ill_conditioned(call, spare, namespace)):
        return
    compared = (
        "result, twin_result"
        if call.kind == "predict"
        else ("model.loss_curve_, twin.loss_curve_, model.coefs_, twin.coefs_")
    )
    raise Finding(f"twin {call.twin}", found, f"{_shown(twin, call)}\nprint({compared})")


def _is_ill_conditioned(call, spare, namespace):
    """Whether changes in the last digits of the data alone lead as far from the result."""
    if call.kind == "predict":
        return False
    noise = np.random.default_rng(0)
    others = dict(namespace, model=spare)
    name = f"X{call.data}"
    X = others[name]
    if scipy.sparse.issparse(X):
        X = X.tocsr()
    X = X.astype(np.float64) if hasattr(X, "astype") else np.array(X, np.float64)
    numbers = X if isinstance(X, np.ndarray) else X.data
    numbers *= 1 + 1e-14 * noise.standard_normal(numbers.shape)
    others[name] = X
    for parameter in ("learning_rate_init", "alpha"):
        setattr(spare, parameter, getattr(spare, parameter) * (1 + 1e-14))
    if execute(call.source, others) is not None:
        return True
    moved = twins.distance_of_fits(call, namespace["model"], spare)
    apart = twins.distance_of_fits(call, namespace["model"], namespace["twin"])
    return not apart > 1e4 * moved
