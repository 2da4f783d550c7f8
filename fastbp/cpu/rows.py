"""The rows of X as kernels read them. Whether they are dense or sparse is decided here, once."""

from scipy.sparse import issparse

from fastbp.cpu.packing import address_of
from fastbp.cpu.records import DTYPE_CODES, Source
from fastbp.cpu.sparse_rows import density_of, make_entries, most_entries
from fastbp.cpu.zero_steps import pays_to_skip_zeros

# A matrix of at most this many bytes stays in the caches and is not prefetched.
_CACHED_BYTES = 2**18


def source_of(matrix):
    """Describe an ndarray of one or two dimensions for the kernels, as a `Source`.

    The caller keeps the array alive while they read it.
    """
    matrix = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
    return Source(
        address_of(matrix),
        DTYPE_CODES[matrix.dtype],
        *matrix.strides,
        matrix.shape[1],
        int(matrix.nbytes > _CACHED_BYTES),
    )


class Rows:
    """X as kernels read it.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
        The caller keeps it alive while kernels read it.

    Attributes
    ----------
    density : float
        The share of X to compute with: what is stored, or 1 if that is much.
    source : fastbp.cpu.gather.Source or None
        Describes dense rows; None where rows are sparse.
    """

    def __init__(self, X):
        is_sparse = issparse(X)
        self.X = X
        self.density = density_of(X) if is_sparse else 1.0
        self.source = None if is_sparse else source_of(X)

    @property
    def are_gathered(self):
        """Whether a batch is copied dense to a thread's memory; almost dense sparse rows, too."""
        return self.density == 1

    def make_entries(self, order, batch_size, n_threads, dtype, learns=True):
        """Each thread's memory for the entries of a batch; None of dense rows.

        Parameters
        ----------
        order : ndarray of shape (n_rows,)
            The rows to be used, in batches of `batch_size`.
        batch_size, n_threads : int
        dtype : numpy dtype
        learns : bool, default=True
            Whether there are gradients.
        """
        if self.source is not None:
            return [None] * n_threads
        n_entries = most_entries(self.X, order, batch_size)
        return [
            make_entries(self.X, batch_size, n_entries, dtype, learns) for _ in range(n_threads)
        ]

    def pays_to_skip_zeros(self, order, units, passes):
        """Whether skipping products with the zeros of gathered rows pays: see the function."""
        return self.are_gathered and pays_to_skip_zeros(self.X, order, units, passes)
