"""The most memory that a fit from a file takes, held to by a limit of the process's addresses."""

import json
import subprocess
import sys

import numpy as np

MEGABYTE = 10**6
BUFFER = 64 * 2**20
BEYOND = 200 * MEGABYTE

# What is allowed begins once fastbp is imported and has its kernels: with those of numba, the
# compiler's own memory would count otherwise.
CHILD = """
import json, re, resource, sys
import numpy as np
import fastbp
from fastbp import MLPClassifier, sources
net = dict(hidden_layer_sizes=(16,), max_iter=2, n_threads=1, random_state=0)
MLPClassifier(**net).fit(np.eye(20, dtype=np.float32), np.arange(20) % 2)
def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before, room = (kilobytes("VmSize"), kilobytes("VmRSS")), int(sys.argv[3])
source = sources.from_npy(sys.argv[1], sys.argv[2], buffer=int(sys.argv[4]))
resource.setrlimit(resource.RLIMIT_AS, (before[0] * 1024 + room,) * 2)
model = MLPClassifier(**net).fit(source)
after = kilobytes("VmPeak") - before[0], kilobytes("VmHWM") - before[1]
print(json.dumps([each * 1024 for each in after]))
"""


def make_rows(folder, n_rows, n_columns):
    """A file of zeros, which takes no room on most disks, and labels; their paths."""
    X, y = folder / "zeros.npy", folder / "labels.npy"
    with open(X, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, n_columns)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + n_rows * n_columns * 4)
    np.save(y, np.arange(n_rows) % 3)
    return X, y


def bytes_of_fit(folder, n_rows, n_columns=100, buffer=BUFFER, beyond=BEYOND):
    """What a fit in a process of its own adds to the addresses in use and to the memory.

    Its limit is two buffers, the labels and `beyond`.

    Returns
    -------
    added : list of int, or None
        None if the process needed more.
    """
    X, y = make_rows(folder, n_rows, n_columns)
    room = 2 * buffer + n_rows * 8 + beyond
    arguments = [sys.executable, "-W", "ignore", "-c", CHILD, X, y, room, buffer]
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(done.stdout)


def measure(folder, options):
    """Yield what is measured, what must be, what is, and whether it is met."""
    for n_rows in (options.rows // 2, options.rows, 4 * options.rows):
        added = bytes_of_fit(folder, n_rows)
        room = (2 * BUFFER + n_rows * 8) / MEGABYTE
        measured = "more"
        if added is not None:
            measured = " and ".join(f"{each / MEGABYTE - room:.0f}" for each in added)
        yield (
            f"{n_rows:,} rows of 400 bytes ({n_rows * 400 / MEGABYTE:,.0f} MB): MB of addresses "
            f"and of memory beyond 2 buffers and y ({room:.0f} MB)",
            "≤ 200", measured, added is not None,
        )  # fmt: skip
