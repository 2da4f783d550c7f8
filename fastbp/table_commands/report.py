"""How good a model for tables is: scores, what its columns are worth, and a picture of both."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from fastbp.files import replacing
from fastbp.late import imported

# The importances of columns are estimated on few rows, so that they take seconds.
_REPEATS, _MOST_ROWS, _LEAST_ROWS = 5, 2000, 300
_MOST_PREDICTED_ROWS, _MOST_READ_COLUMNS = 1_000_000, 500_000
_IN_UNITS = "RMSE", "MAE"  # of the target; the other scores have none
_MOST_SHOWN = 20  # columns
_MOST_CLASSES_DRAWN = 25
_MOST_POINTS = 5000


def predictions(model, X):
    """What a model says, as the scores need it.

    Parameters
    ----------
    model : estimator
        fastbp's or scikit-learn's.
    X : DataFrame

    Returns
    -------
    predicted : ndarray of shape (n_rows,)
    probabilities : ndarray of shape (n_rows, n_classes) or None
    """
    if not hasattr(model, "predict_proba"):
        return model.predict(X), None
    return model.predict(X), model.predict_proba(X)


def scores(y, predicted, probabilities=None, classes=None):
    """Score predictions.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
        The truth: numbers, or labels that are among `classes`.
    predicted : ndarray of shape (n_rows,)
    probabilities : ndarray of shape (n_rows, n_classes), default=None
        None in a regression.
    classes : ndarray of shape (n_classes,), default=None

    Returns
    -------
    scores : dict of str to float
        The first decides. R² of a single row is NaN.

    Examples
    --------
    >>> scores(np.array([1.0, 3.0]), np.array([1.0, 2.0]))["MAE"]
    0.5
    """
    metrics = imported("sklearn.metrics")
    if probabilities is None:
        return {
            "R2": metrics.r2_score(y, predicted) if len(y) > 1 else np.nan,
            "RMSE": metrics.root_mean_squared_error(y, predicted),
            "MAE": metrics.mean_absolute_error(y, predicted),
        }
    found = {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "log loss": float(metrics.log_loss(y, probabilities, labels=classes)),
    }
    if len(classes) == 2:
        both = len(np.unique(y)) == 2
        area = metrics.roc_auc_score(y == classes[1], probabilities[:, 1]) if both else np.nan
        found["ROC AUC"] = float(area)
    return found


def trivial_scores(known, y, classes=None):
    """The scores of predictions that look at no column.

    Parameters
    ----------
    known : ndarray of shape (n_known,)
        Targets of which the mean is predicted, or the most frequent class and the frequencies.
    y : ndarray of shape (n_rows,)
        Those to score by.
    classes : ndarray of shape (n_classes,), default=None
        None in a regression.

    Returns
    -------
    scores : dict of str to float
        As from `scores`.

    Examples
    --------
    >>> trivial_scores(np.array(["a", "b", "a"]), np.array(["a", "b"]), np.array(["a", "b"]))
    ... # doctest: +ELLIPSIS
    {'accuracy': 0.5, 'log loss': 0.75..., 'ROC AUC': 0.5}
    """
    if classes is None:
        return scores(y, np.full(len(y), known.mean()))
    frequencies = np.array([np.mean(known == label) for label in classes])
    predicted = classes[np.full(len(y), frequencies.argmax())]
    return scores(y, predicted, np.tile(frequencies, (len(y), 1)), classes)


def table_of_scores(title, model, beside):
    """Lines that show scores beside those of a trivial prediction.

    Parameters
    ----------
    title : str
    model, beside : dict of str to float

    Returns
    -------
    lines : list of str
    """
    width = max(len(title), 12)
    lines = [f"{title:{width}}{'model':>12}{'trivial':>12}"]
    for name in model:
        form = ".5g" if name in _IN_UNITS else ".4f"
        texts = [format(each[name], form).replace("nan", "-") for each in (model, beside)]
        lines.append(f"{'  ' + name:{width}}{texts[0]:>12}{texts[1]:>12}")
    return lines


# ---- importances --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importances:
    """What a score loses when the values of a column are shuffled.

    Attributes
    ----------
    score : str
        Its name.
    names : list of str
        The columns, the most important first.
    means, deviations : ndarray of shape (n_columns,)
        Over the repeats.
    n_rows, n_repeats : int
    """

    score: str
    names: list[str]
    means: np.ndarray
    deviations: np.ndarray
    n_rows: int
    n_repeats: int

    def lines(self):
        """Lines of a table."""
        shown = self.names[:_MOST_SHOWN]
        width = max(len(name) for name in shown) + 4
        times = "once" if self.n_repeats == 1 else f"{self.n_repeats} times"
        title = f"{self.score[0].upper()}{self.score[1:]} lost when a column is shuffled"
        lines = [f"{title} ({times}, {self.n_rows:,} rows)"]
        for name, mean, deviation in zip(shown, self.means, self.deviations, strict=False):
            around = "" if self.n_repeats == 1 else f" ± {deviation:.4f}"
            lines.append(f"{'  ' + name:{width}}{mean:8.4f}{around}")
        if len(self.names) > _MOST_SHOWN:
            lines.append(f"  and {len(self.names) - _MOST_SHOWN} columns that are worth less")
        return lines


def importances(model, X, y, seed):
    """Estimate what the columns are worth, on a bounded number of rows and repeats.

    Parameters
    ----------
    model : TabularMLPClassifier or TabularMLPRegressor
    X : DataFrame
        Of rows that the model has not seen.
    y : ndarray of shape (n_rows,)
    seed : int

    Returns
    -------
    importances : Importances or None
        None where there are so many columns that it would take minutes.
    """
    n_columns = X.shape[1]
    repeats = min(_REPEATS, _MOST_READ_COLUMNS // n_columns**2)  # each prediction reads them all
    if not repeats:
        return None
    most = int(np.clip(_MOST_PREDICTED_ROWS // (n_columns * repeats), _LEAST_ROWS, _MOST_ROWS))
    if len(X) > most:
        rows = np.sort(np.random.RandomState(seed).permutation(len(X))[:most])
        X, y = X.iloc[rows].reset_index(drop=True), y[rows]
    scorer, name = _scorer(model, y)
    found = imported("sklearn.inspection").permutation_importance(
        model, X, y, scoring=scorer, n_repeats=repeats, random_state=seed
    )
    order = np.argsort(-found.importances_mean, kind="stable")
    return Importances(
        name,
        [str(X.columns[index]) for index in order],
        found.importances_mean[order],
        found.importances_std[order],
        len(X),
        repeats,
    )


def _scorer(model, y):
    """What the columns' worth is measured by, for scikit-learn and for people."""
    if not hasattr(model, "classes_"):
        return "r2", "R2"
    if len(model.classes_) == 2 and len(np.unique(y)) == 2:
        return "roc_auc", "ROC AUC"  # which tells more than the accuracy where one class is rare
    return "accuracy", "accuracy"


# ---- picture ------------------------------------------------------------------------------------


def check_plot(path):
    """Check that a picture can be drawn and what its name asks for, before the work begins.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        For an unknown kind of picture.
    """
    kinds = _matplotlib().figure.Figure().canvas.get_supported_filetypes()
    if _kind_of_picture(path) not in kinds:
        raise ValueError(
            f"--plot {path}: {path.suffix!r} is no kind of picture that matplotlib draws, as .png "
            "and .svg are"
        )


def _matplotlib():
    try:
        imported("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "--plot needs matplotlib, which is not installed: pip install 'fastbp[plot]'"
        ) from error
    return imported("matplotlib")


def draw(path, title, model, y, predicted, worth):
    """Draw predictions against the truth, the learning curve, and what the columns are worth.

    Parameters
    ----------
    path : Path
    title : str
    model : TabularMLPClassifier or TabularMLPRegressor
    y, predicted : ndarray of shape (n_rows,)
        Of held-out rows.
    worth : Importances or None
    """
    figure = _matplotlib().figure.Figure(figsize=(15, 4.8), layout="constrained")
    truth, curve, columns = figure.subplots(1, 3)
    figure.suptitle(title)
    if hasattr(model, "classes_"):
        _draw_confusion(truth, y, predicted, model.classes_)
    else:
        _draw_against(truth, y, predicted)
    imported("fastbp.plotting").LossCurveDisplay.from_estimator(model.estimators_[0], ax=curve)
    curve.axvline(model.best_iter_, color="0.6", linewidth=1)
    curve.set_title(f"Learning: the weights of epoch {model.best_iter_} are kept")
    if worth is None:
        columns.set_axis_off()
    else:
        _draw_importances(columns, worth)
    content = io.BytesIO()
    figure.savefig(content, format=_kind_of_picture(path), dpi=120)
    with replacing(path) as file:
        file.write(content.getbuffer())


def _kind_of_picture(path):
    return path.suffix.lower().removeprefix(".")


def _draw_against(axes, y, predicted):
    chosen = np.random.RandomState(0).permutation(len(y))[:_MOST_POINTS]
    size, alpha = np.clip(3000 / len(y), 4, 25), np.clip(300 / len(y), 0.15, 0.8)
    axes.scatter(y[chosen], predicted[chosen], s=size, alpha=alpha, linewidths=0)
    low, high = min(y.min(), predicted.min()), max(y.max(), predicted.max())
    axes.plot([low, high], [low, high], color="0.4", linewidth=1)
    axes.set(xlabel="True", ylabel="Predicted", title="Held-out rows", aspect="equal")
    axes.locator_params(nbins=5)  # long numbers else overlap


def _draw_confusion(axes, y, predicted, classes):
    metrics = imported("sklearn.metrics")
    counts = metrics.confusion_matrix(y, predicted, labels=classes)
    few = len(classes) <= _MOST_CLASSES_DRAWN
    if few:
        display = metrics.ConfusionMatrixDisplay(counts, display_labels=classes)
        display.plot(
            ax=axes,
            cmap="Blues",
            colorbar=False,
            include_values=True,
            xticks_rotation="vertical" if len(classes) > 4 else "horizontal",
        )
    else:
        axes.imshow(np.log1p(counts), cmap="Blues")
    axes.set(xlabel="Predicted", ylabel="True", title="Held-out rows")


def _draw_importances(axes, worth):
    names = [name if len(name) <= 30 else name[:29] + "…" for name in worth.names[:_MOST_SHOWN]]
    places = np.arange(len(names))
    axes.barh(places, worth.means[: len(names)], xerr=worth.deviations[: len(names)], color="C0")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlabel=f"{worth.score} lost when a column is shuffled", title="Columns")
