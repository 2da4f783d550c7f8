"""What this version of fastbp offers, as the sequences are drawn for several of them."""

import inspect

import fastbp

try:
    from fastbp.progress import EpochReport
except ImportError:
    from fastbp.training import EpochReport

CAN_STOP = hasattr(EpochReport, "stop")
CAN_SAVE = hasattr(fastbp, "load") and hasattr(fastbp.MLPClassifier, "save")
CAN_RESUME = "resume" in inspect.signature(fastbp.MLPClassifier.fit).parameters

SAVE_AND_LOAD = (
    "{name}.save(folder + '/model.fastbp')\n{new} = fastbp.load(folder + '/model.fastbp')"
)


def model_of(estimator):
    """An estimator's network, weights and labels, or None before its first fit.

    Returns
    -------
    network : Network
    labels : Labels or None
    """
    state = vars(estimator)
    model = state.get("_model")
    if model is not None:
        return model.network, model.labels
    if "_network" in state:
        return state["_network"], state.get("_labels")
    return None
