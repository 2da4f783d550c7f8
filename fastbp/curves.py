"""Curves of numbers that calls prolong and that never change: each call of `partial_fit` adds one.

A list that every call copies, lest a failed call or a reader in another thread find it changed,
makes an update slower the more there have been.
"""

import numpy as np


class _Store:
    """Numbers that curves share.

    Attributes
    ----------
    values : ndarray
        With room for more. One that is full is replaced, so that readers keep what they have.
    ends : list of int
        Where the longest of the curves ends: taken out by who prolongs that, so that nobody else
        does. If an exception comes between, all later ones copy.
    """

    def __init__(self, values):
        self.values, self.ends = values, [len(values)]


class Curve:
    """Some numbers, which stay as they are.

    Parameters
    ----------
    values : iterable of float, default=()
        They are copied.

    Raises
    ------
    ValueError, TypeError
        If they are not numbers in a row.
    """

    __slots__ = "_list", "_size", "_store"

    def __init__(self, values=()):
        values = np.array(values, np.float64)
        if values.ndim != 1:
            raise ValueError(f"an array of shape {values.shape}")
        self._store, self._size, self._list = _Store(values), len(values), None

    def prolonged(self, number):
        """A curve with one more number. It takes as long for any length, but for copies at times.

        Parameters
        ----------
        number : float

        Returns
        -------
        curve : Curve
        """
        store, size = self._store, self._size
        try:
            end = store.ends.pop()  # no two threads get it
        except IndexError:
            end = None
        if end != size:  # another curve has gone on from here
            if end is not None:
                store.ends.append(end)
            return Curve(np.asarray(self)).prolonged(number)
        if size == len(store.values):
            values = np.empty(2 * size + 8)
            values[:size] = store.values
            store.values = values
        store.values[size] = number
        store.ends.append(size + 1)
        longer = object.__new__(Curve)
        longer._store, longer._size, longer._list = store, size + 1, None
        return longer

    def as_list(self):
        """The numbers as scikit-learn has them, a list that is made at its first use."""
        if self._list is None:
            self._list = list(np.asarray(self))
        return self._list

    def __len__(self):
        return self._size

    def __array__(self, dtype=None, copy=None):
        return np.array(self._store.values[: self._size], dtype)

    def __deepcopy__(self, memo):
        """The same numbers, and not the list, which users may change."""
        other = object.__new__(Curve)
        other._store, other._size, other._list = self._store, self._size, None
        return other

    def __reduce__(self):
        """Eight bytes a number, as an array, which older versions read, too."""
        return np.asarray(self).__reduce__()


class CurveView:
    """An attribute of an estimator that is a list for users, and a `Curve` to go on from.

    What is assigned is kept as it is.
    """

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, estimator, owner=None):
        if estimator is None:
            return self
        try:
            value = vars(estimator)[self._name]
        except KeyError:
            raise AttributeError(
                f"{type(estimator).__name__!r} object has no attribute {self._name!r}"
            ) from None
        return value.as_list() if isinstance(value, Curve) else value

    def __set__(self, estimator, value):
        vars(estimator)[self._name] = value

    def __delete__(self, estimator):
        self.__get__(estimator)
        vars(estimator).pop(self._name, None)


def curve_of(name, value):
    """A fitted attribute, however it came there, as a curve.

    Parameters
    ----------
    name : str
        The attribute's.
    value : Curve or iterable of float

    Raises
    ------
    ValueError
        If it does not hold numbers.
    """
    if isinstance(value, Curve):
        return value
    try:
        return Curve(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a list of numbers: {error}") from error
