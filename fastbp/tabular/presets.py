"""The recipes for tables, as data: what the networks of each preset are trained with.

They are those of RealMLP: Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong
Pre-Tuned MLPs and Boosted Trees on Tabular Data", NeurIPS 2024, arXiv:2407.04491, Table A.1.
"""

from dataclasses import dataclass
from math import inf
from types import MappingProxyType

# What all networks share; the names are parameters of `MLPClassifier` and `MLPRegressor`.
COMMON = MappingProxyType(
    {
        "hidden_layer_sizes": (256, 256, 256),
        "solver": "adamw",
        "beta_2": 0.95,
        "alpha": 0.0,
        "weight_decay": 0.0,
        "learning_rate": "cosine",
        "n_iter_no_change": inf,
    }
)
# What differs between the tasks, in every preset.
TASKS = MappingProxyType(
    {
        "classification": {"activation": "selu", "label_smoothing": 0.1},
        "regression": {"activation": "mish", "scale_targets": True},
    }
)


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Parameters
    ----------
    name : str
    both : dict
        Parameters of the networks of both tasks, beside `COMMON`.
    classification, regression : dict
        Those of one task, beside `TASKS`.
    embeds : bool, default=False
        Whether the numerical features, and only those, are embedded.
    """

    name: str
    both: dict
    classification: dict
    regression: dict
    embeds: bool = False

    def parameters(self, task, n_numerical):
        """All parameters of a network that the preset decides.

        Parameters
        ----------
        task : {"classification", "regression"}
        n_numerical : int
            How many of the encoded features, the first ones, are numerical.

        Returns
        -------
        parameters : dict
        """
        chosen = {**COMMON, **TASKS[task], **self.both, **getattr(self, task)}
        if self.embeds:
            chosen["embedded_features"] = n_numerical
        return chosen


PRESETS = {
    preset.name: preset
    for preset in (
        # RealMLP-TD-S, the simplified one.
        Preset(
            "small",
            {},
            {"learning_rate_init": 1e-3},
            {"learning_rate_init": 1e-3},
        ),
    )
}
