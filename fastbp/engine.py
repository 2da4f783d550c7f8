"""The engine protocol: one network's parameters and optimizer state on one device.

The training loop, L-BFGS, prediction and inspection use a device by these methods alone. A new
device is a new class with them. All arrays here are the host's; parameters, gradients and moments
are flat vectors of shape (n_parameters,) in the network's order W₀ b₀ W₁ b₁ …, each matrix row by
row.
"""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Engine(Protocol):
    """One network on one device; a context, within which it may share the device.

    An engine that has `epochs_at_once` and `train_epochs`, too, as the CPU's, trains several epochs
    in one call where nobody wants to know of each.

    Attributes
    ----------
    network : fastbp.network.Network
    dtype : numpy dtype
        Of the parameters, float32 or float64.
    inputs_were_finite : bool
        Whether all inputs of the last `predict` were finite.
    outputs_were_finite : bool
        Whether all of its outputs were: finite inputs may overflow.
    """

    def __enter__(self): ...

    def __exit__(self, *exception): ...

    def load_parameters(self, parameters):
        """Set the parameters from a flat vector, which must not change before the next call."""

    def store_parameters(self):
        """Return the parameters as a new flat vector of `dtype`."""

    def load_moments(self, moments):
        """Set the optimizer's moments from a list of flat vectors."""

    def store_moments(self):
        """Return the optimizer's moments as a list of new flat vectors."""

    def train_epoch(self, data, order, steps):
        """Train on rows once, batch by batch, with an update after each.

        Parameters
        ----------
        data : fastbp.data.Data
            With targets; the same object in all epochs of a fit.
        order : ndarray of shape (n_rows,), dtype int64
            The rows of the data, in the order of their use.
        steps : fastbp.schedules.Steps
            One row for each batch. Its `made` is set to the number of updates, even if an exception
            ends the epoch.

        Returns
        -------
        loss : float
            Weighted mean over the samples, with the L2 penalty, each batch's from before its
            update. Not finite if a batch's loss was not, which ends the epoch; NaN if no row has
            weight.
        """

    def loss_and_gradient(self, data):
        """Compute the weighted mean loss of all rows, without penalty, and its gradient.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
            Of the sum over the outputs, even where the network averages their loss.
        """

    def predict(self, data, rows=None, activation=None):
        """Compute the network's outputs.

        Parameters
        ----------
        data : fastbp.data.Data
            Targets are not needed.
        rows : ndarray of shape (n_rows,), dtype int64, or None
            None for all rows.
        activation : str or None
            Replaces the network's output activation; "identity" gives the logits.

        Returns
        -------
        outputs : ndarray of shape (n_rows, n_outputs)
            C-contiguous, of `dtype`.
        """
