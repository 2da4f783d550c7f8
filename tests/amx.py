"""Where the tests of products by AMX run: with its registers, or with emulated ones."""

from fastbp.cpu import code


def reason_to_skip():
    """Why they do not; an empty string where they do."""
    if code.VECTOR_BITS != 512:
        return "CPUs with AMX have vectors of 512 bits"
    if code.CODE.has_amx:
        return code.why_no_amx()
    return "" if code.IS_COMPILED_HERE else "kernels for other CPUs are not shipped with AMX's"
