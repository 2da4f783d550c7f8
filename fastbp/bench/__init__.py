"""What the command `fastbp bench` measures: fastbp, its peers, and the machine's ceiling."""
