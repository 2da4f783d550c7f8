"""Small networks, many at once: a whole fit in one launch, a block of threads for each network."""
