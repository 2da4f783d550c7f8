"""Measurements of fastbp beside its peers; `python -m benchmarks.figures` prints them all."""
