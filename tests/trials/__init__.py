"""Trials by the hundred, run by hand: faults at random moments, with their seed and counts printed.

Each program prints one line of counts, and what failed before it, and exits with 1 if anything did.
"""
