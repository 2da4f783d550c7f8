"""The command: draws sequences, keeps the workers busy, and reports."""

import argparse
import os
import time
from collections import Counter
from multiprocessing.connection import wait

from tests.fuzz.oracles import Finding
from tests.fuzz.scripts import draw_script
from tests.fuzz.shrink import describe, shrink, summary
from tests.fuzz.workers import Worker

SHOWN_OF_A_KIND = 2  # findings of a kind that are printed


def parse(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long to draw sequences (60)")
    parser.add_argument("--sequences", type=int, help="how many to draw, instead")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first sequence (0)")
    parser.add_argument("--only", type=int, help="run the sequence of this number only")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--hang", type=float, default=20.0, help="seconds that are a hang (20)")
    given = parser.parse_args(arguments)
    if given.only is not None:
        given.first, given.sequences, given.jobs = given.only, 1, 1
    if given.seconds is None and given.sequences is None:
        given.seconds = 60.0
    return given


def main(arguments=None, prepare=None):
    """Run the program; return 1 if anything was found, else 0."""
    given = parse(arguments)
    started = time.monotonic()
    findings, counts, worker = run_all(given, prepare)
    shown = Counter()
    try:
        for number, finding in sorted(findings, key=lambda each: each[0]):
            shown[finding.key] += 1
            if shown[finding.key] <= SHOWN_OF_A_KIND:
                script = draw_script(given.seed, number)
                script, finding = shrink(script, finding, worker)
                print(describe(number, given.seed, script, finding), flush=True)
    finally:
        worker.close()
    if shown:
        print(summary(shown))
    seconds = time.monotonic() - started
    print(
        f"{counts['run']} sequences of seed {given.seed} (numbers {given.first} to "
        f"{given.first + counts['drawn'] - 1}, {counts['unusable']} without usable data) in "
        f"{counts['seconds']:.0f} s, {seconds:.0f} s in all: {len(findings)} findings of "
        f"{len(shown)} kinds, of them {counts['crash']} crashes and {counts['hang']} hangs"
    )
    return int(bool(findings))


def run_all(given, prepare=None):
    """Run the sequences in workers.

    Returns
    -------
    findings : list of (int, Finding)
    counts : dict
    worker : Worker
        One that is free, for what follows.
    """
    first = Worker(given.hang, prepare)  # alone, as it may compile all kernels
    while first.collect() != "ready":
        first.connection.poll(0.1)
    workers = [first, *(Worker(given.hang, prepare) for _ in range(given.jobs - 1))]
    findings, counts = [], Counter()
    began, number, is_over = time.monotonic(), given.first, False
    busy = set()
    while busy or not is_over:
        for worker in workers:
            if worker.is_ready and id(worker) not in busy and not is_over:
                worker.submit(draw_script(given.seed, number), number)
                busy.add(id(worker))
                number += 1
                counts["drawn"] += 1
            is_over = is_over or _is_enough(given, number, began)
        wait([worker.connection for worker in workers], timeout=0.2)
        for worker in workers:
            answer = worker.collect() if id(worker) in busy or not worker.is_ready else "waiting"
            if answer in ("ready", "waiting"):
                continue
            busy.discard(id(worker))
            counts["run"] += answer != "unusable"
            counts["unusable"] += answer == "unusable"
            if isinstance(answer, Finding):
                findings.append((worker.job, answer))
                counts[answer.oracle] += 1
    counts["seconds"] = time.monotonic() - began
    for worker in workers[1:]:
        worker.close()
    return findings, counts, first


def _is_enough(given, number, began):
    if given.sequences is not None and number - given.first >= given.sequences:
        return True
    return given.seconds is not None and time.monotonic() - began > given.seconds
