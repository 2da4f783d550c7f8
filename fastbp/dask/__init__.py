"""One network on a cluster of dask: estimators that train where the rows are.

What a fit does is said in `fastbp.dask.rounds` (the rule), `fastbp.dask.dealing` (who gets which
rows), `fastbp.dask.tasks` (what workers do) and `fastbp.dask.engine` (what is done with it).
"""

from fastbp.dask.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
