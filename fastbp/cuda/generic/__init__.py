"""The general program: any network in float32 or float64, a few kernels a step, run as graphs."""
