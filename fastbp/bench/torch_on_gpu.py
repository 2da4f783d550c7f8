"""The contenders that PyTorch is on a GPU, each written for its own greatest speed.

Eager code is bound by the time that Python takes for a step, so nothing waits for the GPU before an
epoch ends. With CUDA graphs, some steps are recorded at once and replayed; the rows of a step are
then found by a counter on the device, so that a replay is all that a step takes.
"""

from itertools import islice

from fastbp.bench import torch_trainers
from fastbp.bench.cases import FIT_EPOCHS

STEPS_A_GRAPH = 16
N_TRAINED = 3  # of many networks; times are multiplied up


def train_eagerly(case, draws, turns, n_threads, device):
    """PyTorch as it is usually written."""
    train(case, draws, turns, TorchTrainer(case, draws, device))


def train_graphs(case, draws, turns, n_threads, device):
    """The same, recorded."""
    train(case, draws, turns, TorchTrainer(case, draws, device, is_recorded=True))


def train_compiled_graphs(case, draws, turns, n_threads, device):
    """Loss, gradient and update compiled as one, and recorded."""
    train(case, draws, turns, TorchTrainer(case, draws, device, is_recorded=True, is_compiled=True))


def train(case, draws, turns, trainer):
    """Train one network; of many a few, one after the other.

    What is recorded for the first of many serves all: no more than the parameters would change.
    """
    turns.begin()
    if case.n_networks == 1:
        for order in draws.shuffles():
            turns.end(trainer.train_epoch(order))
        return
    turns.scale = case.n_networks / N_TRAINED
    for _ in range(draws.n_epochs):
        for _ in range(N_TRAINED):
            trainer.restart()
            for order in islice(draws.shuffles(), FIT_EPOCHS):
                loss = trainer.train_epoch(order)
        turns.end(loss)


def mixed_loss(case, dtype):
    """A function (parameters, X, labels) -> mean loss, products in `dtype`, the rest in float32."""
    from torch.nn.functional import cross_entropy

    logits_of = torch_trainers.torch_logits(case)

    def loss(parameters, X, labels):
        parameters = [parameter.to(dtype) for parameter in parameters]
        return cross_entropy(logits_of(parameters, X).float(), labels)

    return loss


class TorchTrainer:
    """A network, its data on the device, and the way it takes its steps.

    Parameters
    ----------
    case : fastbp.bench.cases.Case
        Its precision is that of products; the parameters are float32.
    draws : fastbp.bench.draws.Draws
    device : {"cuda", "cpu"}
        Nothing is recorded on the CPU.
    is_recorded : bool, default=False
        Whether steps are recorded.
    is_compiled : bool, default=False
        Whether loss, gradient and update are compiled as one.
    """

    def __init__(self, case, draws, device, is_recorded=False, is_compiled=False):
        import torch

        self.torch, self.case = torch, case
        torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
        dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
        self.X = torch.from_numpy(draws.X).to(device, dtype)
        self.labels = torch.from_numpy(draws.labels).to(device)
        self.order = torch.zeros(len(draws.X), dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.offsets = torch.arange(case.batch_size, device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.parameters = torch_trainers.torch_parameters(draws, device)
        self.starts = [parameter.clone() for parameter in self.parameters]
        self.is_recorded = is_recorded and device == "cuda"
        loss_of = mixed_loss(case, dtype)
        if is_compiled:
            step = torch_trainers.torch_functional_step(case, self.parameters, loss_of)
            self.learn, self.learn_rest = torch.compile(step, dynamic=False), step
        else:
            self.optimizer = torch_trainers.torch_optimizer(case, self.parameters)
            self.learn = self.learn_rest = torch_trainers.torch_autograd_step(
                self.optimizer, self.parameters, loss_of
            )
        self.graphs = {}

    def restart(self):
        """Set the parameters and the momentum back, in the memory that they have."""
        with self.torch.no_grad():
            for parameter, start in zip(self.parameters, self.starts, strict=True):
                parameter.copy_(start)
            for state in self.optimizer.state.values():
                state["momentum_buffer"].zero_()

    def train_epoch(self, order):
        """Go through the rows; return the mean loss as a tensor on the device."""
        n_whole, n_rest = divmod(len(order), self.case.batch_size)
        self.order.copy_(self.torch.from_numpy(order))
        self.position.zero_()
        self.total.zero_()
        at_once = min(STEPS_A_GRAPH, n_whole) if self.is_recorded else 1
        for _ in range(n_whole // max(1, at_once)):
            self.take_steps(self.case.batch_size, at_once)
        for _ in range(n_whole % max(1, at_once)):
            self.take_steps(self.case.batch_size, 1)
        if n_rest:
            self.take_steps(n_rest, 1)
        return self.total / len(order)

    def take_steps(self, n_rows, n_steps):
        """Take steps of some rows each. The first time they warm up what is then recorded."""
        if not self.is_recorded:
            self.take_step(n_rows)
            return
        if (n_rows, n_steps) in self.graphs:
            self.graphs[n_rows, n_steps].replay()
            return
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(n_steps):
                self.take_step(n_rows)
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()
        self.graphs[n_rows, n_steps] = graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for _ in range(n_steps):
                self.take_step(n_rows)

    def take_step(self, n_rows):
        """Learn from the next rows."""
        is_whole = n_rows == self.case.batch_size
        rows = self.order.index_select(0, self.position + self.offsets[:n_rows])
        learn = self.learn if is_whole else self.learn_rest
        loss = learn(self.X.index_select(0, rows), self.labels.index_select(0, rows))
        self.total.add_(loss.detach().double(), alpha=n_rows)
        self.position.add_(n_rows)
