"""The commands for tables in files: `fastbp train`, `predict` and `evaluate`."""
