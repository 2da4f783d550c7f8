"""The arithmetic of the report: means over splits, ratios, ranks and scores over tables.

Every number comes from the same cells: tables and splits on which all contenders have a result.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

OFFSET = 0.01  # keeps a table with hardly an error from deciding a geometric mean
FEWEST_ERRORS = 100  # below, a table's ratio of errors is mostly chance


@dataclass(frozen=True)
class Duel:
    """Two contenders that a promise is about.

    Parameters
    ----------
    ours : str
    theirs : tuple of str
        Of several, the slowest is taken.
    most_error, most_time : float or None
        What the geometric means of the ratios must not exceed.
    clock : {"cpu", "wall"}
        Of which time.
    fewest_wins : float or None
        On how large a part of the tables ours must be better.
    """

    ours: str
    theirs: tuple
    most_error: float | None = None
    most_time: float | None = None
    clock: str = "cpu"
    fewest_wins: float | None = None


DUELS = (
    Duel("fastbp small", ("pytabkit TD-S",), 1.02, 0.25),
    Duel("fastbp full", ("pytabkit TD",), 1.02, 0.25),
    Duel("fastbp small", ("scikit-learn MLP",), 0.75, 3),
    Duel("fastbp small", ("fastbp MLP y-scaled",)),
    Duel("fastbp small", ("LightGBM", "HistGradientBoosting"), most_time=10),
    Duel("fastbp small", ("LightGBM",)),
    Duel("fastbp full", ("LightGBM",)),
    Duel("fastbp small", ("HistGradientBoosting",)),
    Duel("fastbp full", ("HistGradientBoosting",)),
    Duel("fastbp small x8", ("fastbp small",), most_time=6, clock="wall", fewest_wins=0.8),
    Duel("fastbp full x8", ("fastbp full",)),
)


class Summary:
    """Means over the splits, and what follows from them.

    Parameters
    ----------
    records : list of dict
        A run's, the failed ones included.
    models : list of str
        The contenders to compare; those without any result are left out.
    reference : str or None
        The one that all are divided by. None takes the first of a list that is there.

    Attributes
    ----------
    errors, cpu_seconds, wall_seconds : DataFrame of shape (n_tables, n_models)
    log_losses : DataFrame
        The same, of the tables with classes only.
    test_errors : Series
        The reference's wrong predictions on each table, all splits together; of a regression, the
        number of test rows.
    tasks : Series
        By table.
    n_splits : Series
        By table, those that all have a result of.
    n_left_out : int
        Pairs of table and split on which some but not all have a result.
    """

    REFERENCES = ("pytabkit TD", "HistGradientBoosting")

    def __init__(self, records, models, reference=None):
        done = pd.DataFrame([record for record in records if "failed" not in record])
        if done.empty:
            raise ValueError("there is no result to report")
        self.records = records
        self.models = [model for model in models if (done["model"] == model).any()]
        if not self.models:
            raise ValueError(f"there is no result of {', '.join(models)}")
        done = done[done["model"].isin(self.models)]
        done = done.drop_duplicates(["table", "split", "model"], keep="last")
        present = [each for each in (reference, *self.REFERENCES) if each in self.models]
        self.reference = present[0] if present else self.models[0]
        cells = done.groupby(["table", "split"], sort=False)["model"].transform("size")
        complete = done[cells == len(self.models)]
        everything = done.groupby(["table", "split"]).ngroups
        self.n_left_out = everything - complete.groupby(["table", "split"]).ngroups
        if complete.empty:
            raise ValueError("no table has results of all contenders yet; name fewer with --models")
        self._take(complete)

    def _take(self, complete):
        def means(field, rows=complete):
            table = rows.pivot_table(field, "table", "model", "mean", sort=False)
            return table[self.models]

        by_table = complete.groupby("table", sort=False)
        self.tasks, self.n_splits = by_table["task"].first(), by_table["split"].nunique()
        self.errors, self.cpu_seconds = means("error"), means("fit_cpu_seconds")
        self.wall_seconds = means("fit_wall_seconds")
        classes = complete[complete["task"] == "classification"]
        self.log_losses = pd.DataFrame() if classes.empty else means("log_loss", classes)
        of_reference = complete[complete["model"] == self.reference]
        wrong = of_reference.get("n_wrong", pd.Series(np.nan, of_reference.index))
        counts = wrong.fillna(of_reference["n_test"])
        self.test_errors = counts.groupby(of_reference["table"], sort=False).sum().astype(int)

    def error_ratios(self, ours, theirs, task=None):
        """By table, our error over theirs, both plus 0.01; of one task only, if it is given."""
        errors = self.errors if task is None else self.errors[self.tasks == task]
        return (errors[ours] + OFFSET) / (errors[theirs] + OFFSET)

    def log_loss_ratios(self, ours, theirs):
        """By table, our log loss over theirs, both plus 0.01."""
        if self.log_losses.empty:
            return pd.Series(dtype=float)
        return (self.log_losses[ours] + OFFSET) / (self.log_losses[theirs] + OFFSET)

    def time_ratios(self, ours, theirs, clock="cpu"):
        """By table, our seconds over theirs."""
        seconds = self.cpu_seconds if clock == "cpu" else self.wall_seconds
        return seconds[ours] / seconds[theirs]

    def mean_ranks(self):
        """Of the errors: 1 is the best contender; equal ones share their ranks."""
        return self.errors.rank(axis=1).mean()

    def normalised_scores(self):
        """1 for a table's least error, 0 for its largest, in between by the line; their means."""
        least, largest = self.errors.min(axis=1), self.errors.max(axis=1)
        spread = (largest - least).where(largest > least, 1.0)
        scores = 1 - self.errors.sub(least, axis=0).div(spread, axis=0)
        return scores.mean()

    def wins(self, ours, theirs):
        """On how many tables our error is less than theirs."""
        return int((self.errors[ours] < self.errors[theirs]).sum())

    def slowest(self, models):
        """That of the geometrically largest CPU time; None where none of them takes part."""
        present = [model for model in models if model in self.models]
        return max(present, key=lambda model: np.log(self.cpu_seconds[model]).mean(), default=None)

    def duels(self):
        """Pairs of a `Duel` and who is meant by `theirs`, of those whose two take part."""
        pairs = [(duel, self.slowest(duel.theirs)) for duel in DUELS if duel.ours in self.models]
        return [(duel, theirs) for duel, theirs in pairs if theirs is not None]


def geometric_mean(ratios):
    """A geometric mean and its standard error over the tables.

    The standard error is that of the mean logarithm times the mean itself; NaN of one table.

    Parameters
    ----------
    ratios : array-like of shape (n_tables,)

    Returns
    -------
    mean, standard_error : float
    """
    logarithms = np.log(np.asarray(ratios, float))
    if len(logarithms) == 0:
        return float("nan"), float("nan")
    mean = float(np.exp(logarithms.mean()))
    if len(logarithms) == 1:
        return mean, float("nan")
    return mean, float(mean * logarithms.std(ddof=1) / np.sqrt(len(logarithms)))
