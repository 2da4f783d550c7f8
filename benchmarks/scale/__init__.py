"""What training costs where rows do not fit into memory. Run it as `python -m benchmarks.scale`."""
