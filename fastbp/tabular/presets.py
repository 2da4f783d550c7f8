"""The recipes for tables, as data: what the networks of each preset are trained with.

They are those of RealMLP: Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong
Pre-Tuned MLPs and Boosted Trees on Tabular Data", NeurIPS 2024, arXiv:2407.04491, Table A.1.
All names are parameters of `MLPClassifier` and `MLPRegressor`.
"""

from dataclasses import dataclass
from math import inf

COMMON = {
    "hidden_layer_sizes": (256, 256, 256),
    "solver": "adamw",
    "beta_2": 0.95,
    "alpha": 0.0,
    "learning_rate": "log_cosine",
    "drop_last": True,
    "n_iter_no_change": inf,
    "ties": "last",
    "parametrization": "neural_tangent",
    "scaling_layer": True,
}
TASKS = {
    "classification": {"activation": "selu", "label_smoothing": 0.1},
    "regression": {"activation": "mish", "scale_targets": True, "clip_predictions": True},
}


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Parameters
    ----------
    name : str
    parameters : dict
        Of the networks of both tasks, beside `COMMON` and those of `TASKS`.
    learning_rates : dict of str to float
        `learning_rate_init` by task.
    embedding : str or None, default=None
        `numerical_embedding`, where there are numerical features.
    """

    name: str
    parameters: dict
    learning_rates: dict
    embedding: str | None = None

    def for_task(self, task, n_numerical):
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
        chosen = {**COMMON, **TASKS[task], **self.parameters}
        chosen["learning_rate_init"] = self.learning_rates[task]
        if self.embedding is not None and n_numerical > 0:
            chosen |= {"numerical_embedding": self.embedding, "embedded_features": n_numerical}
        return chosen


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(  # RealMLP-TD-S
            "small",
            {
                "initialization": "normal",
                "weight_decay": 0.0,
                "learning_rate_factors": {"intercepts": 0.1, "scales": 6.0},
            },
            {"classification": 0.04, "regression": 0.07},
        ),
        Preset(  # RealMLP-TD
            "full",
            {
                "initialization": "data_driven",
                "parametric_activation": True,
                "dropout": 0.15,
                "dropout_schedule": "flat_cosine",
                "weight_decay": 0.02,
                "weight_decay_schedule": "flat_cosine",
                "learning_rate_factors": {
                    "intercepts": 0.1, "scales": 6.0, "slopes": 0.1, "embedding": 0.1
                },
            },
            {"classification": 0.04, "regression": 0.2},
            embedding="pbld",
        ),
    )
}  # fmt: skip
