"""From which size on a GPU pays: the CPU engine and the CUDA engine on the same networks."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.gpu.races import TOLERANCES, programs_for
from benchmarks.gpu.trainers import draw_for_gpu, train_fastbp
from benchmarks.gpu.workers import one_line
from fastbp.bench.cases import Case
from fastbp.bench.race import loss_difference

N_FEATURES, N_CLASSES = 64, 10
N_ROUNDS = 3
WIDTHS, BATCHES = (16, 128, 512, 2_048), (64, 1_024)
MOST_OPERATIONS, MOST_STEPS = 50e9, 200  # an epoch


def make_cases():
    """Two equal hidden layers from narrow to wide, in small and large batches."""
    cases = []
    for width in WIDTHS:
        for batch_size in BATCHES:
            case = Case((N_FEATURES, width, width, N_CLASSES), "relu", "sgd", batch_size, 1, 0.01)
            n_rows = min(MOST_OPERATIONS / case.operations, MOST_STEPS * batch_size)
            cases.append(Case(*list(vars(case).values())[:4], max(batch_size, int(n_rows)), 0.01))
    return cases


def compare_sizes(cases=None, device="cuda"):
    """Yield a row a case: seconds an epoch on both, by turns, behind an epoch to warm up."""
    for case in cases or make_cases():
        row = {"case": case.name, "n_rows": case.n_rows, "program": "", "problem": ""}
        try:
            row["program"] = programs_for(case, "float32")[0]
            with tempfile.TemporaryDirectory(prefix="fastbp-bench-") as folder:
                path = Path(folder) / "draws.npz"
                draw_for_gpu(case, 1 + N_ROUNDS).save(path)
                row |= _race_devices(case, path, device)
        except Exception as error:
            row["problem"] = one_line(error)
        yield row


def _race_devices(case, path, device):
    on_cpu, on_gpu = (train_fastbp(case, path, 1, name) for name in ("cpu", device))
    rounds = [(next(on_cpu), next(on_gpu)) for _ in range(1 + N_ROUNDS)]
    losses = np.array([[turn["loss"] for turn in turns] for turns in rounds])
    off = loss_difference(losses[:, 1], losses[:, 0])
    seconds = [[turn["seconds"] for turn in turns] for turns in zip(*rounds[1:], strict=True)]
    problem = f"loss off by {off:.1%}" if not off <= TOLERANCES["float32"] else ""
    return {"cpu": seconds[0], "gpu": seconds[1], "problem": problem}
