"""Wide networks on tensor cores, in tf32 and bfloat16 with float32 master weights."""
