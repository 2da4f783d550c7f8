"""fastbp beside its peers and the machine's ceiling: what the command `fastbp bench` measures."""
