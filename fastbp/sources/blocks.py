"""Rows in blocks that a function of the user's reads, or that come one after the other."""

import hashlib

import numpy as np
from scipy.sparse import issparse

from fastbp.fingerprints import digest
from fastbp.sources.source import Source, check_finite, readable


class _Scanned(Source):
    """Blocks of the user's, which are all read once to learn what there is.

    Parameters
    ----------
    buffer : int or str
    """

    what = "block"

    def __init__(self, buffer):
        super().__init__(buffer)
        self._scan()

    def _blocks(self):
        """Yield the blocks from the first to the last, as the user's function returns them."""
        raise NotImplementedError

    def _scan(self):
        """Read all blocks once: their sizes, dtype, targets and weights."""
        sizes, dtypes, ys, weights, start = [], set(), [], [], 0
        ends = hashlib.sha256()
        for block, given in enumerate(self._blocks()):
            X, y, weight = self._take_apart(block, given)
            if sizes and X.shape[1] != self.n_features:
                raise ValueError(
                    f"{self.what} {block} has {X.shape[1]} columns, but the first {self.what} has "
                    f"{self.n_features}."
                )
            self.n_features = X.shape[1]
            check_finite(X, start, f"{self.what} {block}")
            ends.update(digest(X[[0, -1]]).encode())
            sizes.append(len(X))
            start += len(X)
            dtypes.add(readable(X.dtype))
            # The user's function may use its arrays again.
            ys.append(None if y is None else y.copy())
            weights.append(None if weight is None else weight.copy())
        if not sizes:
            raise ValueError(f"There must be at least one {self.what}, got none.")
        self.block_rows, self._ends = np.array(sizes, np.int64), ends.hexdigest()
        self.dtype = readable(np.result_type(*dtypes))
        self.y, self.sample_weight = self._joined(ys, "y"), self._joined(weights, "sample_weight")

    def fingerprint(self):
        """As of `Source`, with the first and the last row of each block, as they were read."""
        return super().fingerprint() | {f"the rows of X at the ends of {self.what}s": self._ends}

    def _joined(self, parts, name):
        missing = [block for block, part in enumerate(parts) if part is None]
        if len(missing) == len(parts):
            return None
        if missing:
            raise ValueError(
                f"{self.what} {missing[0]} has no {name}, but others have. Give all or none."
            )
        return np.concatenate(parts)

    def _take_apart(self, block, given):
        """X, y and weights of a block, checked."""
        parts = given if isinstance(given, tuple) else (given,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                f"{self.what} {block} must be X, (X, y) or (X, y, sample_weight); got a tuple of "
                f"{len(parts)}."
            )
        X, y, weight = (*parts, None, None)[:3]
        if issparse(X):
            raise TypeError(f"{self.what} {block} is sparse, but sources hold dense rows.")
        X = np.asarray(X)
        if X.ndim != 2 or 0 in X.shape:
            raise ValueError(
                f"{self.what} {block} must have X of shape (n_rows, n_features), neither 0; got "
                f"{X.shape}."
            )
        y, weight = (None if each is None else np.asarray(each) for each in (y, weight))
        for name, each in (("y", y), ("sample_weight", weight)):
            if each is not None and (each.ndim == 0 or len(each) != len(X)):
                raise ValueError(
                    f"{self.what} {block} has {len(X)} rows, but {name} of shape {each.shape}."
                )
        return X, y, weight

    def fill(self, block, given, out):
        """Write a block's rows to where they are wanted."""
        X = self._take_apart(block, given)[0]
        if X.shape != out.shape or not np.can_cast(X.dtype, out.dtype):
            raise ValueError(
                f"{self.what} {block} has shape {X.shape} and dtype {X.dtype}, but had {out.shape} "
                f"and at most {out.dtype} when it was read first. It must be the same every time."
            )
        out[...] = X
        check_finite(out, 0, f"{self.what} {block}")


class BlockSource(_Scanned):
    """See `fastbp.sources.from_blocks`."""

    def __init__(self, n_blocks, read, buffer):
        self._n_blocks, self._read = n_blocks, read
        super().__init__(buffer)

    def _blocks(self):
        # Not `map`, which would end without a word where the function raises StopIteration.
        return (self._read_block(block) for block in range(self._n_blocks))

    def _read_block(self, block):
        try:
            return self._read(block)
        except Exception as error:
            error.add_note(f"It comes from read({block}), which reads a block of a source.")
            raise

    def open(self):
        """A reader that calls the user's function."""
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def read(self, block, out):
        """Read a block."""
        self.fill(block, self._read_block(block), out)


class BatchSource(_Scanned):
    """See `fastbp.sources.from_batches`."""

    is_sequential = True
    what = "batch"

    def __init__(self, batches, buffer):
        self._given = batches
        super().__init__(buffer)

    def _blocks(self):
        given = self._given
        return iter(given if hasattr(given, "__iter__") else given())

    def open(self):
        """A reader of the batches from the first on, again and again."""
        return _BatchReader(self)


class _BatchReader:
    def __init__(self, source):
        self._source, self._batches = source, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        close = getattr(self._batches, "close", None)  # of a generator
        if close is not None:
            close()

    def read(self, block, out):
        """Read the next batch, which must be that of this number."""
        if block == 0:
            self.__exit__()
            self._batches = self._source._blocks()
        try:
            given = next(self._batches)
        except StopIteration:
            n_batches = len(self._source.block_rows)
            raise ValueError(
                f"The batches ended after {block} of {n_batches}: there must be as many every time."
            ) from None
        self._source.fill(block, given, out)
        n_batches = len(self._source.block_rows)
        if block == n_batches - 1 and next(self._batches, None) is not None:
            raise ValueError(
                f"There are more batches than the {n_batches} of the first time: there must be as "
                "many every time."
            )
