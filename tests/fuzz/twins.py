"""Other ways to a result: a twin of the model gets the same call, and both must agree.

A twin is made before the call and takes it first, so that it also shows whether the two share
anything that training changes.
"""

import inspect
import re
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from tests.fuzz import features
from tests.fuzz.parameters import SIZES, THEIRS
from tests.fuzz.state import as_array, learned, same_result

# Of scikit-learn's losses and outputs, relative to the largest.
TOLERANCE, SINGLE_TOLERANCE = 1e-6, 1e-4

FORCED_TEAMS = """\
import fastbp.cpu.work
fastbp.cpu.work.WORK_PER_THREAD, fastbp.cpu.work.WORK_PER_START = 1, 0  # threads for tiny data"""
# Parameters that change no result, or none with scikit-learn's losses and solvers; and those that
# are looked at one by one.
_NEUTRAL = {
    "checkpoint", "checkpoint_every", "device", "n_threads", "missing_targets", "weight_decay",
    "focal_gamma", "huber_delta", "quantile", "callback", "input_scale", "loss", "out_activation",
    "precision",
}  # fmt: skip
# What pickles and files may leave behind.
GIVE_BACK = """\
twin.set_params(callback=model.callback, learning_rate=model.learning_rate)
twin.set_params(checkpoint=model.checkpoint)"""


@dataclass(frozen=True)
class Twin:
    """A way to the same result.

    Parameters
    ----------
    make : str
        The lines that make `twin` from `model`.
    call : str or None
        The call, with the places {X}, {y} and {w} (", w" or nothing); None for the model's own.
    exact : bool
        Whether results are equal to the bit, or only to `TOLERANCE`.
    before : str
        Lines that come first.
    is_new : bool
        Whether the twin knows nothing of the model's earlier fits.
    fails_alike : bool
        Whether it must fail where the model does.
    """

    make: str
    call: str | None = None
    exact: bool = True
    before: str = ""
    is_new: bool = False
    fails_alike: bool = True


INTERRUPTED = """\
def give_up(report):
    if report.n_iter == 2: raise KeyError('mine')
path = tempfile.mkdtemp(dir=folder) + '/checkpoint'
twin = clone(model).set_params(checkpoint=path, callback=give_up)
try: twin.fit({X}, {y}{w})
except KeyError: twin = clone(model).set_params(checkpoint=path)"""

TWINS = {
    "deepcopy": Twin("twin = copy.deepcopy(model)"),
    "shallow": Twin("twin = copy.copy(model)"),
    "pickle": Twin(f"twin = pickle.loads(pickle.dumps(model))\n{GIVE_BACK}"),
    "saved": Twin(features.SAVE_AND_LOAD.format(name="model", new="twin") + f"\n{GIVE_BACK}"),
    "threads": Twin("twin = copy.deepcopy(model).set_params(n_threads=3)", before=FORCED_TEAMS),
    "clone": Twin("twin = clone(model)", is_new=True),
    "many": Twin("twin = copy.deepcopy(model)", "fastbp.fit_many([twin], {X}, {y}{w})"),
    "many of three": Twin(
        "twin = copy.deepcopy(model)",
        "fastbp.fit_many([clone(model), twin, clone(model)], {X}, {y}{w}, n_threads=2)",
        fails_alike=False,  # the others may
    ),
    "rows": Twin(
        "twin = copy.deepcopy(model)",
        "fastbp.fit_many([twin], {X}, {y}{w}, rows=[np.arange({X}.shape[0])])",
        fails_alike=False,  # it takes the lengths of lists otherwise
    ),
    "resumed": Twin(INTERRUPTED, "twin.fit({X}, {y}{w}, resume=True)", is_new=True),
    "sklearn": Twin("twin = model.to_sklearn()", exact=False),
    "from_sklearn": Twin(
        f"twin = type(model).from_sklearn(model.to_sklearn())\n{GIVE_BACK}", exact=False
    ),
    "their fit": Twin(
        "import sklearn.neural_network\n"
        "their_class = getattr(sklearn.neural_network, type(model).__name__)\n"
        "theirs = their_class().get_params()\n"
        "twin = their_class(**{n: getattr(model, n) for n in theirs if hasattr(model, n)})",
        exact=False,
        is_new=True,
    ),
}


def twin_for(call, model, namespace):
    """The twin of a call, or None where it has none or is not meant to agree."""
    name = call.twin
    if name is None or (name == "saved" and not features.CAN_SAVE):
        return None
    twin, is_fit = TWINS[name], "model.fit(" in call.source
    if name == "resumed" and not _can_resume(call, model):
        return None
    if name == "saved" and not _can_be_saved(model):
        return None
    if "fit_many" in (twin.call or "") and getattr(model, "checkpoint", None) is not None:
        return None  # a checkpoint is of a single fit
    if name == "threads" and not _is_thread_count(model.n_threads):
        return None
    if twin.is_new and (not is_fit or (model.warm_start and features.model_of(model) is not None)):
        return None
    if call.kind == "train" and not _repeats(name, model):
        return None
    if not twin.exact and not _is_like_theirs(call, name, model, namespace):
        return None
    return twin


def lines_of(twin, call):
    """The lines that make a twin, and the line that calls it."""
    found = re.fullmatch(r"model\.fit\((X\d), (y\d)(, w\d)?\)", call.source)
    places = dict(zip("Xyw", found.groups(default=""), strict=True)) if found else {}
    make = re.sub(r"{([Xyw])}", lambda place: places[place[1]], twin.make)
    if twin.call is not None:
        return make, twin.call.format(**places)
    source = re.sub(r"\bmodel\b", "twin", call.source)
    return make, re.sub(r"\bresult\b", "twin_result", source)


def _repeats(name, model):
    """Whether the twin's training can repeat the model's at all."""
    callback = getattr(model, "callback", None)
    mentions = getattr(getattr(callback, "__code__", None), "co_names", ())
    if {"set_params", "vars", "append"} & set(mentions) or model.random_state is None:
        return name in ("deepcopy", "threads") and "seen" in mentions and "clone" not in mentions
    # Those draw from the state that the model's fit then goes on from.
    shares = ("shallow", "their fit", "pickle", "saved", "sklearn", "from_sklearn", "resumed")
    return not (isinstance(model.random_state, np.random.RandomState) and name in shares)


def _is_thread_count(n_threads):
    return n_threads is None or (type(n_threads) is int and n_threads >= 1)


def _can_be_saved(model):
    """Whether the parameters, which may have been changed since the fit, are valid."""
    from fastbp import saving

    try:
        saving.check_parameters(model)
    except (TypeError, ValueError):
        return False
    return True


def _can_resume(call, model):
    return (
        features.CAN_RESUME
        and re.fullmatch(r"model\.fit\(X\d, y\d(, w\d)?\)", call.source)
        and model.callback is None
        and model.solver != "lbfgs"
        and not model.warm_start
        and isinstance(model.random_state, int)
    )


def _is_like_theirs(call, name, model, namespace):
    """Whether scikit-learn does the same here: see docs/differences.md."""
    # Invalid matrices make scikit-learn read foreign memory.
    used = [namespace[x] for x in re.findall(r"X\d", call.source)]
    if not all(_is_valid_sparse(X) for X in used if scipy.sparse.issparse(X)):
        return False
    if isinstance(getattr(model, "quantile", None), list):
        return False  # a list of one makes predictions of one column, as no model of theirs does
    if call.kind == "predict":
        return True
    sizes = model.hidden_layer_sizes
    if not (isinstance(sizes, (tuple, list)) and all(size in SIZES for size in sizes)):
        return False  # sizes that are refused here are tried there
    has_loss = not hasattr(model, "predict_proba")
    is_their_kind = (
        model.solver in ("lbfgs", "sgd", "adam")
        and model.activation in ("identity", "logistic", "tanh", "relu")
        and model.loss in (("squared_error", "poisson") if has_loss else ("log_loss",))
        and getattr(model, "out_activation", "auto") == "auto"
        and model.learning_rate in ("constant", "invscaling", "adaptive")
        and model.input_scale == 1
        and not model.warm_start
        and model.callback is None
        and model.beta_2 < 0.9999  # 1 - beta_2 loses digits where sums are reassociated
        and model.precision in ("auto", "float64")
        and not _trains_otherwise(model)
    )
    X, y = namespace[f"X{call.data}"], namespace[f"y{call.data}"]
    coefs = getattr(model, "coefs_", None) or [None]
    if name == "sklearn" and all(getattr(each, "dtype", None) == np.float32 for each in coefs):
        return False  # rounded otherwise
    if model.early_stopping and name != "their fit":
        return False
    if name != "their fit" and getattr(model, "missing_targets", "raise") != "raise":
        return False  # the optimizer stays behind, which is warned of
    if name == "from_sklearn":
        return is_their_kind and model.precision == "auto"
    is_double = getattr(X, "dtype", np.dtype(float)) not in (np.float32, np.float16)
    # Bytes it refuses.
    is_valid = isinstance(X, (np.ndarray, list)) or _is_valid_sparse(X)
    weight = namespace[f"w{call.data}"] if ", w" in call.source else 1.0
    is_weight = isinstance(weight, (float, np.ndarray)) and np.min(weight, initial=1.0) > 0
    return bool(is_their_kind and is_double and is_valid and is_weight and _are_plain(y))


def _trains_otherwise(model):
    """Whether a parameter that scikit-learn lacks is not neutral."""
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(type(model)).parameters.items()
        if name not in THEIRS and name not in _NEUTRAL
    }
    return any(repr(getattr(model, name)) != repr(default) for name, default in own.items())


def _is_valid_sparse(X):
    try:
        copied = X.tocsr().copy()
        copied.check_format(full_check=True)
    except (AttributeError, ValueError, IndexError, TypeError):
        return False
    return copied.has_canonical_format


def _are_plain(y):
    kind = getattr(y, "dtype", np.dtype(float))
    return getattr(kind, "kind", "O") in "biufU"


# ---- comparisons --------------------------------------------------------------------------------


def difference(twin, call, namespace):
    """What differs between the results of the model and of its twin, or None."""
    model, other = namespace["model"], namespace["twin"]
    if call.kind == "predict":
        ours, theirs = namespace["result"], namespace["twin_result"]
        if twin.exact:
            return None if same_result(ours, theirs) else "predictions differ"
        if "log_proba" in call.source:  # scikit-learn's are logarithms of rounded probabilities
            ours, theirs = np.maximum(ours, -20), np.maximum(theirs, -20)
        off = distance(ours, theirs)
        limit = SINGLE_TOLERANCE if as_array(ours).dtype == np.float32 else TOLERANCE
        return None if off <= limit else f"predictions are {off:.1e} apart"
    if twin.exact:
        ours, theirs = learned(model), learned(other)
        names = [name for name in ours if ours[name] != theirs[name]]
        if names:
            return f"{', '.join(names)} differ"
        return None
    off = distance_of_fits(call, model, other)
    return None if off <= TOLERANCE else f"losses or weights are {off:.1e} apart"


def distance(ours, theirs):
    """The largest difference of two results, relative to the largest number where it exceeds 1."""
    ours, theirs = as_array(ours), as_array(theirs)
    if ours.shape != theirs.shape:
        return np.inf
    if ours.dtype.kind not in "fc" or theirs.dtype.kind not in "fc":
        # Labels at a tie depend on rounding, but not all are ties.
        return np.inf if len(ours) > 4 and np.mean(ours != theirs) > 0.3 else 0.0
    if not ours.size:
        return 0.0
    with np.errstate(all="ignore"):
        scale = max(1.0, np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
        off = np.where(ours == theirs, 0.0, np.abs(ours - theirs)) / scale
        return float(off[np.isfinite(theirs)].max(initial=0))


def distance_of_fits(call, model, other):
    """The largest relative difference of the losses, and of the weights, of two fits."""
    if ", w" in call.source:  # scikit-learn's losses, and where it stops, are others
        return weight_distance(model, other) if model.n_iter_ == other.n_iter_ else 0.0
    return max(curve_distance(model, other), weight_distance(model, other))


def weight_distance(model, other):
    """The largest difference of weights, relative to the largest weight."""
    pairs = zip(model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True)
    return max(distance(ours, theirs) for ours, theirs in pairs)


def curve_distance(model, other):
    """The largest relative difference of the losses of two fits."""
    has_curve = model.solver != "lbfgs"  # scikit-learn's keeps none
    ours = model.loss_curve_ if has_curve else [model.loss_]
    theirs = other.loss_curve_ if has_curve else [other.loss_]
    if len(ours) != len(theirs):
        return np.inf
    ours, theirs = np.array(ours, float), np.array(theirs, float)
    with np.errstate(all="ignore"):
        off = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-9)
    return float(off.max()) if off.size else 0.0
