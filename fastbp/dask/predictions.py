"""Predictions of a fitted model for dask arrays and dataframes, block by block."""

import numpy as np

from fastbp.dask.collections import fetch_arrays, is_array, is_collection, joined
from fastbp.late import imported


def lazily(model, method, X):
    """What a method of a model returns for the rows of a collection.

    Parameters
    ----------
    model : fastbp.MLPClassifier or fastbp.MLPRegressor
    method : {"predict", "predict_proba", "predict_log_proba"}
    X : dask array or dataframe

    Returns
    -------
    outputs : dask array, series or dataframe
    """
    delayed = imported("dask").delayed(model, pure=False, traverse=False)
    if is_array(X):
        example = getattr(model, method)(np.zeros((1, X.shape[1]), X.dtype))[:0]
        named = {"model": delayed, "method": method, "example": example}
        X = X.rechunk({1: -1})
        if example.ndim == 1:
            return X.map_blocks(predict, **named, drop_axis=1, dtype=example.dtype, meta=example)
        chunks = X.chunks[0], (example.shape[1],)
        return X.map_blocks(predict, **named, chunks=chunks, dtype=example.dtype, meta=example)
    pandas = imported("pandas")
    rows = pandas.DataFrame(np.zeros((1, len(X.columns))), columns=X.columns)
    example = getattr(model, method)(rows)[:0]
    names = model.classes_ if method != "predict" else None
    meta = as_table(example, X._meta.index[:0], names)
    return X.map_partitions(predict, delayed, method, example, names, meta=meta)


def predict(block, model, method, example, names=None):
    """What a method of a model returns for a block, which may be empty."""
    outputs = getattr(model, method)(block) if len(block) else example
    return as_table(outputs, block.index, names) if hasattr(block, "index") else outputs


def as_table(outputs, index, names):
    """Outputs with the index of their rows."""
    pandas = imported("pandas")
    if outputs.ndim == 1:
        return pandas.Series(outputs, index)
    return pandas.DataFrame(outputs, index, names)


def bring(client, given, name):
    """An array of what may be dask's."""
    if not is_collection(given):
        return given
    return joined(fetch_arrays(client, given, name))
