"""The CUDA engine: the CPU engine's verbs on an NVIDIA GPU, by kernels that numba-cuda compiles.

Importing this package imports no CUDA: `fastbp.cuda.toolkit` does, where `cuda` is first asked for.
"""
