"""The average of the parameters over the updates, with which a model is judged, and which it keeps.

The exponential moving average of Polyak and Juditsky (1992), as PyTorch's `AveragedModel` with
`get_ema_multi_avg_fn`: after the first update it is the parameters, and then at each update
decay · average + (1 − decay) · parameters. The engine keeps it as the last of the moments.
"""

from contextlib import contextmanager


def has_average(optimizer):
    """Whether there is one by now."""
    return optimizer is not None and optimizer.ema_decay is not None and optimizer.step > 0


def kept_parameters(engine, optimizer):
    """The parameters that a model would keep now: their average, if there is one."""
    if has_average(optimizer):
        return engine.store_moments()[-1]
    return engine.store_parameters()


@contextmanager
def averaged(engine, optimizer):
    """Let an engine predict with `kept_parameters` for a while."""
    if not has_average(optimizer):
        yield
        return
    parameters = engine.store_parameters()
    engine.load_parameters(kept_parameters(engine, optimizer))
    try:
        yield
    finally:
        engine.load_parameters(parameters)
