"""Models for tables in files, with the name of the column that they predict.

The name is a further entry of the file's metadata, which `fastbp.load` does not look at.
"""

from __future__ import annotations

import json
import reprlib
import tempfile
from pathlib import Path

import fastbp
from fastbp import container
from fastbp.files import open_regular, replacing

_METADATA, _TARGET = "__metadata__", "fastbp.target"


def save(model, path, target):
    """Save a model, and the name of its target, in a file that `fastbp.load` reads, too.

    Parameters
    ----------
    model : TabularMLPClassifier or TabularMLPRegressor
    path : str or path-like
        A file there is replaced, whole or not at all.
    target : str

    Raises
    ------
    ValueError, OSError
        As from the model's `save`.
    """
    with tempfile.TemporaryDirectory() as folder:
        unnamed = Path(folder, "model")
        model.save(unnamed)
        header, arrays = _read(unnamed)
    header[_METADATA][_TARGET] = target
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # which keeps the arrays aligned
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(arrays)


def load(path):
    """Load a model for tables.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    model : TabularMLPClassifier or TabularMLPRegressor
    target : str or None
        The name of its target; None where the file does not say it.

    Raises
    ------
    ValueError, OSError
        As from `fastbp.load`; or if it is another model, or its columns have no names.
    """
    model = fastbp.load(path)
    if not isinstance(model, fastbp.TabularMLPClassifier | fastbp.TabularMLPRegressor):
        raise ValueError(
            f"{path} is a {type(model).__name__}, where a TabularMLPClassifier or "
            "TabularMLPRegressor is needed, such as 'fastbp train' makes"
        )
    if not hasattr(model, "feature_names_in_"):
        raise ValueError(f"{path} was trained on an array, whose columns have no names")
    target = _read(path)[0].get(_METADATA, {}).get(_TARGET)
    if target is not None and (not target or target in model.feature_names_in_):
        raise ValueError(f"{path}: damaged: it cannot have the target {reprlib.repr(target)}")
    return model, target


def kinds_of(model):
    """The kinds of the columns that a model was trained on.

    Parameters
    ----------
    model : TabularMLPClassifier or TabularMLPRegressor

    Returns
    -------
    kinds : dict of str to str
    """
    encoder = model.preprocessing_[0]
    names = map(str, encoder.feature_names_in_)
    return {name: encoding.kind for name, encoding in zip(names, encoder.encodings_, strict=True)}


def _read(path):
    """The header and the rest of a file that has just been read without complaint."""
    file, size = open_regular(path)
    with file:
        n_bytes = min(int.from_bytes(file.read(8), "little"), size, container.MOST_HEADER_BYTES)
        return container.parse(file.read(n_bytes).decode()), file.read(size)
