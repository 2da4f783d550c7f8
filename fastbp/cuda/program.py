"""What a program is: one regime's way through an epoch, for one `Task`.

The engine (`fastbp.cuda.engine`) makes a program when an epoch is asked for, by `choice.choose`,
and keeps it as long as the `Task` stays the same. It gives the program everything on the device
and takes back numbers:

    engine                                      program
    ------                                      -------
    uploads X, targets, weights once (DeviceData)
    uploads order and table every epoch (Epoch)
    load_parameters, load_moments       ───►    copies into its own layout on the device
    train(data, epoch)                  ───►    launches, waits once, returns Result
    store_parameters, store_moments     ◄───    flat host vectors in the network's order
    flat_parameters, for predictions    ◄───    a flat device vector

All work goes to `device.stream`. Whether a program can serve a task is decided beforehand by
`choice.py`, without CUDA; a program is only made for tasks that it accepts there.
`Task.rule == GRADIENT` (L-BFGS) always goes to the general program.

Kernels are plain Python functions; `fastbp.cuda.device.compiled` makes them lazily. The tests list
all of them, and compile them without a GPU (`tests/cuda/kernel_list.py`).
"""

from abc import ABC, abstractmethod
from typing import NamedTuple


class Result(NamedTuple):
    """What an epoch has added up, as the CPU's kernels do.

    Parameters
    ----------
    loss : float
        Sum over the steps of Σ wᵢ lossᵢ + ½ α ‖W‖², each as it was before the step's update; not
        finite from the first step on whose loss was not.
    weight : float
        Sum of the weights of these steps.
    updates : int
        Steps that were not skipped.
    """

    loss: float
    weight: float
    updates: int


class Program(ABC):
    """One regime's way through an epoch. It owns its memory on the device.

    Parameters
    ----------
    device : fastbp.cuda.device.Device
    task : fastbp.cuda.task.Task
        Gradient, loss and update are those of `fastbp/cpu/kernels.py` and `tests/naive.py`.

    Notes
    -----
    Only the formulas of `fastbp.cuda.formulas` are used. Sums run in a fixed order, without float
    atomics: runs repeat to the bit. Losses are summed in float64. A step of weight zero changes
    nothing and is not counted. After a step whose loss is not finite, nothing that follows needs
    to be right but `Result.loss`, which must not be finite.
    """

    def __init__(self, device, task):
        self.device = device
        self.task = task

    @abstractmethod
    def load_parameters(self, parameters):
        """Take over parameters: a host vector (n_parameters,) of `task.dtype`, W₀ b₀ W₁ b₁ …, each
        matrix row by row (fan_in, fan_out). It may change after the call.
        """

    @abstractmethod
    def store_parameters(self):
        """Return the parameters as a new host vector, likewise."""

    @abstractmethod
    def load_moments(self, moments):
        """Take over the optimizer's moments: a list of one (sgd) or two (adam) such vectors."""

    @abstractmethod
    def store_moments(self):
        """Return the moments as a list of new host vectors."""

    @abstractmethod
    def train(self, data, epoch):
        """Run the epoch's steps and wait for the end.

        Parameters
        ----------
        data : fastbp.cuda.data.DeviceData
            The same object in all epochs of a fit: what depends on its arrays, such as a graph, can
            be kept by its identity.
        epoch : fastbp.cuda.data.Epoch

        Returns
        -------
        result : Result

        Raises
        ------
        KeyboardInterrupt
            With the updates made so far as its attribute `updates`, as far as they are known.
        """

    def flat_parameters(self):
        """The parameters as a device vector of `task.dtype`, flat as in `store_parameters`."""
        return self.device.upload(self.store_parameters())
