"""Models for tables in files, with the name of the column that they predict."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import fastbp
from fastbp import container

KEY = "fastbp.target"


def save(model, path, target):
    """Save a model, with the name of its target, in a file that `fastbp.load` reads, too.

    Parameters
    ----------
    model : TabularMLPClassifier or TabularMLPRegressor
    path : str or path-like
    target : str

    Raises
    ------
    ValueError, OSError
        As from the model's `save`. A file at `path` is replaced whole or not at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        unnamed = Path(folder, "model")
        model.save(unnamed)
        container.write_with_note(path, unnamed, KEY, target)


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
        As from `fastbp.load`; or if it is no model for tables whose columns have names.
    """
