"""Runs the kernel of small networks thread by thread, to find races and wrong addresses."""

import warnings

import numpy as np
from conftest import small as make_small

N_ROWS = 21


def fit(seed):
    """Fit networks on an emulated GPU; return how far their losses are from the CPU's."""
    import emulator
    from emulated_ptx import EmulatedPtx

    from fastbp import devices, fit_many, side_by_side
    from fastbp.cuda import device, proof
    from fastbp.cuda.small import fits as small
    from fastbp.cuda.small import placement
    from fastbp.cuda.small.training_kernel import train_networks

    class EmulatedDevice:
        capability, shared_memory, multiprocessor_memory = (9, 0), 100_000, 233_472

        def upload(self, array):
            return np.array(array, order="C")

        def read(self, array):
            return array.copy()

        def launch(self, kernel, grid, block, *arguments, shared_memory):
            emulator.launch(
                train_networks, grid, block, arguments, ptx=EmulatedPtx, seed=seed,
                dynamic_shared_bytes=shared_memory,
            )  # fmt: skip

    warnings.simplefilter("ignore")
    device.Device, placement.CHUNKS = EmulatedDevice, (8,)
    proof.trusts_small = lambda *_: True  # what is to be found out here
    small.make_ready = lambda *_: train_networks
    devices.resolve = side_by_side.resolve = lambda name: (name, None)
    settings = [
        {"hidden_layer_sizes": (6,), "batch_size": 12, "max_iter": 2},
        {"hidden_layer_sizes": (6, 3), "batch_size": 8, "solver": "sgd", "max_iter": 1},
    ]
    differences = []
    for given in settings:
        models, weight = [], np.arange(N_ROWS) % 4 / 2.0
        for name in ("cuda", "cpu"):
            model, X, y = make_small("multiclass", precision="float32", **given)
            model.device = name
            models.append(model)
        X, y = X[:N_ROWS], y[:N_ROWS]
        for model in models:
            fit_many([model], X, y, weight)
        curves = [np.array(model.loss_curve_) for model in models]
        differences.append(float(abs(curves[0] / curves[1] - 1).max()))
    return differences
