"""The CPU engine: vector tiles, a team of threads, one kernel an epoch."""
