"""Figures that fastbp is held to, and micro-benchmarks; `fastbp bench` itself is in the package."""
