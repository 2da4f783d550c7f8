"""Precisions of matrix products that are lower than that of the parameters, which is float32."""

TF32, BFLOAT16 = "tf32", "bfloat16"
LOW_PRECISIONS = TF32, BFLOAT16
