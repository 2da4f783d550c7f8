"""The CUDA engine on a GPU: right first, then how fast: `python -m benchmarks.gpu`."""
