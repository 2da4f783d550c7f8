"""Access to a block's shared memory, by places in words of 4 bytes; all arrays in it are one."""

from numba import float64, int32, uint32

from fastbp.cuda import ptx
from fastbp.cuda.cluster_layout import HEAD_SIZE, LAYER_SIZE
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda


@device_function
def shared_place(place):
    """The address of a word of shared memory."""
    return uint32(ptx.shared_address(cuda.shared.array(0, int32), 0) + 4 * place)


@device_function
def word(place):
    """An integer in shared memory."""
    return int32(ptx.ld_shared_u32(shared_place(place)))


@device_function
def load(place):
    """A float32 in shared memory."""
    return ptx.ld_shared_f32(shared_place(place))


@device_function
def store(place, value):
    """Write a float32 to shared memory."""
    ptx.st_shared_f32(shared_place(place), value)


@device_function
def load_double(place):
    """A float64 in shared memory; `place` counts words."""
    return cuda.shared.array(0, float64)[uint32(place) >> uint32(1)]


@device_function
def get(table, index, field):
    """A field of a layer's record."""
    return table[HEAD_SIZE + index * LAYER_SIZE + field]
