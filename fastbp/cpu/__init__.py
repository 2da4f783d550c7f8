"""The CPU engine: vectorised tiles, a team of threads, one kernel call per epoch."""
