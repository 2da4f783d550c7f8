"""NumPy's shuffles, many epochs in one call that needs no GIL: many networks' orders at once."""

import numpy as np

from fastbp.cpu.compilation import cached_kernel, kernel

_N, _MIDDLE = 624, 397


@kernel
def _twist(upper, lower, other):
    y = (upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF))
    odd = np.uint32(0x9908B0DF) if y & np.uint32(1) else np.uint32(0)
    return np.uint32(other ^ (y >> np.uint32(1)) ^ odd)


@kernel
def _refill(words, tempered):
    """The next 624 words of MT19937 (Matsumoto and Nishimura 1998)."""
    for k in range(_N - _MIDDLE):
        words[k] = _twist(words[k], words[k + 1], words[k + _MIDDLE])
    for k in range(_N - _MIDDLE, _N - 1):
        words[k] = _twist(words[k], words[k + 1], words[k + _MIDDLE - _N])
    words[_N - 1] = _twist(words[_N - 1], words[0], words[_MIDDLE - 1])
    _temper(words, tempered)


@kernel
def _temper(words, tempered):
    for k in range(_N):
        y = words[k]
        y = np.uint32(y ^ (y >> np.uint32(11)))
        y = np.uint32(y ^ ((y << np.uint32(7)) & np.uint32(0x9D2C5680)))
        y = np.uint32(y ^ ((y << np.uint32(15)) & np.uint32(0xEFC60000)))
        tempered[k] = np.uint32(y ^ (y >> np.uint32(18)))


@cached_kernel
def _shuffle(words, position, tempered, order, orders):
    """Fisher and Yates's shuffle, an epoch a row of `orders`, each upon the last one."""
    _temper(words, tempered)
    first = np.int64(1)
    while first < order.size - 1:
        first = 2 * first + 1
    for epoch in range(orders.shape[0]):
        mask = first
        for i in range(order.size - 1, 0, -1):
            while mask >> 1 >= i:
                mask >>= 1
            chosen = np.int64(i + 1)
            while chosen > i:
                if position == _N:
                    _refill(words, tempered)
                    position = np.int64(0)
                chosen = np.int64(tempered[position]) & mask
                position += 1
            swapped = order[i]
            order[i] = order[chosen]
            order[chosen] = swapped
        for i in range(order.size):
            orders[epoch, i] = order[i]
    return position


def draw_orders(random_state, order, n_epochs):
    """Shuffle an order again and again, as ``random_state.shuffle(order)`` does.

    Parameters
    ----------
    random_state : numpy.random.RandomState
        Ends as after so many calls.
    order : ndarray of shape (n_rows,), dtype int32
        Shuffled in place.
    n_epochs : int

    Returns
    -------
    orders : ndarray of shape (n_epochs, n_rows), dtype int32

    Examples
    --------
    >>> order = np.arange(5, dtype=np.int32)
    >>> draw_orders(np.random.RandomState(0), order, 2)
    array([[2, 0, 1, 3, 4],
           [2, 1, 0, 4, 3]], dtype=int32)
    """
    orders = np.empty((n_epochs, len(order)), np.int32)
    state = random_state.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        for row in orders:
            random_state.shuffle(order)
            row[:] = order
        return orders
    words = state["state"]["key"].astype(np.uint32)
    position = int(state["state"]["pos"])
    position = _shuffle(words, position, np.empty_like(words), order, orders)
    state["state"] = {"key": words, "pos": position}
    random_state.set_state(state)
    return orders
