"""What `scoring` means: the scores of held-out rows, by name, of which the first decides."""

from inspect import Parameter, signature
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastbp.late import imported

LOSS = "loss"
_TAKES_WEIGHTS = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY


def read_scoring(scoring):
    """Turn the parameter into functions.

    Parameters
    ----------
    scoring : None, str, callable, list, tuple or dict

    Returns
    -------
    scorers : dict of str to callable or None
        In the given order, a callable for each but `LOSS`; empty for the estimator's own score.

    Raises
    ------
    InvalidParameterError
        A ValueError: the name of no scorer, a metric in place of a scorer, a name twice, or none.
    """
    if scoring is None:
        return {}
    if isinstance(scoring, str) or callable(scoring):
        given = [(_name_of(scoring), scoring)]
    elif isinstance(scoring, dict):
        given = list(scoring.items())
    else:
        given = [(_name_of(each), each) for each in scoring]
    names = [name for name, _ in given]
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise InvalidParameterError(
            f"scoring={scoring!r} must hold at least one score, each under a name of its own. Use "
            "a dict to name functions."
        )
    return {name: _scorer(scorer, scoring) for name, scorer in given}


def _name_of(scorer):
    return scorer if isinstance(scorer, str) else getattr(scorer, "__name__", "score")


def _scorer(given, scoring):
    """The function of a name, or a function, if it is a scorer."""
    if isinstance(given, str) and given == LOSS:
        return None
    if isinstance(given, str):
        try:
            return imported("sklearn.metrics").get_scorer(given)
        except ValueError as error:
            raise InvalidParameterError(
                f"scoring={scoring!r}: {given!r} is neither {LOSS!r} nor the name of a scorer of "
                "scikit-learn, which sklearn.metrics.get_scorer_names() lists."
            ) from error
    if not callable(given):
        raise InvalidParameterError(
            f"scoring={scoring!r} must hold names and functions (estimator, X, y) -> float, got "
            f"{given!r}."
        )
    module = getattr(given, "__module__", None) or ""
    if module.startswith("sklearn.metrics.") and not module.endswith("_scorer"):
        raise InvalidParameterError(
            f"scoring={scoring!r}: {given!r} is a metric (y_true, y_pred), not a scorer (estimator,"
            " X, y). Use the scorer's name, or sklearn.metrics.make_scorer."
        )
    return given


def takes_weights(scorer):
    """Whether a scorer, or the metric that it was made from, takes `sample_weight`."""
    try:
        parameters = signature(getattr(scorer, "_score_func", scorer)).parameters
    except (TypeError, ValueError):  # of a builtin
        return False
    found = parameters.get("sample_weight")
    return found is not None and found.kind in _TAKES_WEIGHTS


def call_scorer(name, scorer, estimator, X, y, sample_weight):
    """Score, and see that the score is a number; errors say which scorer it was."""
    weights = {}
    if sample_weight is not None and takes_weights(scorer):
        weights["sample_weight"] = sample_weight
    try:
        score = scorer(estimator, X, y, **weights)
    except StopIteration as error:  # which SciPy would take for the end of lbfgs
        raise RuntimeError(f"The scorer {name!r} raised StopIteration.") from error
    except Exception as error:
        error.add_note(f"It comes from scoring={name!r}, on the held-out rows after an epoch.")
        raise
    if isinstance(score, np.ndarray) and score.ndim == 0:
        score = score.item()
    if not isinstance(score, Real | np.bool_):
        raise ValueError(f"scoring={name!r} must return a number, got {score!r}.")
    return float(score)


def r2(targets, outputs, sample_weight=None):
    """R² averaged over the outputs, as `sklearn.metrics.r2_score` computes it.

    Written here because that would be imported in every fit with early stopping.

    Examples
    --------
    >>> r2(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]]))
    0.5
    """
    weight = 1.0
    if sample_weight is not None:
        weight = sample_weight[:, None]
        targets, outputs = targets.astype(weight.dtype), outputs.astype(weight.dtype)
    residual = (weight * (targets - outputs) ** 2).sum(axis=0)
    mean = np.average(targets, axis=0, weights=sample_weight)
    total = (weight * (targets - mean) ** 2).sum(axis=0)
    scores = np.ones_like(total)
    varies = total != 0
    scores[varies] = 1 - residual[varies] / total[varies]
    scores[~varies & (residual != 0)] = 0.0  # as there, so that it stays finite
    return float(scores.mean())
