"""Makes scripts that find something smaller, and prints them."""

import time
from collections import Counter
from dataclasses import replace

from tests.fuzz.oracles import Finding
from tests.fuzz.workers import run_alone

TRIES, SECONDS = 60, 15
HANG_TRIES = 4  # each takes as long as the watchdog waits


def shrink(script, finding, worker):
    """Leave out what is not needed for the same finding.

    Returns
    -------
    script, finding : Script, Finding
    """
    script = replace(script, calls=script.calls[: finding.call + 1])
    ends, tries = time.monotonic() + SECONDS, TRIES
    if finding.oracle == "hang":
        tries = HANG_TRIES
    went_on = True
    while went_on and tries > 0:
        went_on = False
        for candidate in script.smaller():
            if tries <= 0 or time.monotonic() > ends:
                return script, finding
            tries -= 1
            answer = run_alone(worker, candidate)
            if isinstance(answer, Finding) and answer.key == finding.key:
                script, finding, went_on = candidate, answer, True
                break
    return script, finding


def describe(number, seed, script, finding):
    """A finding with the script that reproduces it."""
    head = f"# Sequence {number} of seed {seed}: {finding.key}\n# {finding.what}\n"
    call = script.calls[finding.call].source
    if "twin =" not in finding.shown:
        shown = finding.shown.removeprefix(f"{call}\n")
        return head + script.text(finding.call + 1, shown)
    # A twin is made, and called, before the model is.
    first, _, last = finding.shown.partition("\nprint(")
    lines = [first, call, *([f"print({last}"] if last else [])]
    return head + script.text(finding.call, "\n".join(lines))


def summary(counts):
    """How often each kind of finding came."""
    return "\n".join(f"{n:6d}  {key}" for key, n in Counter(counts).most_common())
