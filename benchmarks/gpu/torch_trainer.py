"""PyTorch on the GPU in three forms, each written for its own greatest speed.

Eager code is bound by the time that Python takes for a step, so nothing waits for the GPU before a
turn ends. With CUDA graphs, some steps are recorded at once and replayed; the rows of a step are
then found by a counter on the device, so that a replay is all that a step takes.
"""

from fastbp.bench import frameworks
from fastbp.bench.draws import Draws

STEPS_A_GRAPH = 16
# Form -> (whether loss, gradient and update are compiled as one, whether steps are recorded).
FORMS = {"eager": (False, False), "graphs": (False, True), "compile": (True, True)}


def train_torch(case, path, epochs, form, precision="float32", device="cuda"):
    """One of PyTorch's forms."""
    from benchmarks.gpu.trainers import take_turns

    trainer = TorchTrainer(case, Draws.load(path), form, precision, device)
    yield from take_turns(trainer.train_epoch, trainer.orders, epochs)


def mixed_loss(case, dtype):
    """A function (parameters, X, labels) -> mean loss, products in `dtype`, the rest in float32."""
    logits_of = frameworks.torch_logits(case)

    def loss(parameters, X, labels):
        parameters = [parameter.to(dtype) for parameter in parameters]
        return frameworks.torch_judge(logits_of(parameters, X).float(), labels)

    return loss


class TorchTrainer:
    """A network, its data and the way it takes its steps.

    Parameters
    ----------
    case : fastbp.bench.cases.Case
    draws : fastbp.bench.draws.Draws
    form : {"eager", "graphs", "compile"}
    precision : {"float32", "tf32", "bfloat16"}
        Of products; the parameters are float32.
    device : {"cuda", "cpu"}
        Nothing is recorded on the CPU.
    """

    def __init__(self, case, draws, form, precision="float32", device="cuda"):
        import torch

        from benchmarks.gpu.trainers import input_scale

        self.torch, self.case = torch, case
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        X = torch.from_numpy(draws.X).to(device).float() * input_scale(draws.X)
        self.X, self.labels = X.to(dtype), torch.from_numpy(draws.labels).to(device)
        self.orders = torch.from_numpy(draws.orders).to(device)
        self.order = torch.zeros_like(self.orders[0])
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.offsets = torch.arange(case.batch_size, device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.parameters = frameworks.torch_parameters(draws, device)
        is_compiled, self.is_recorded = FORMS[form]
        self.is_recorded &= device == "cuda"
        loss_of = mixed_loss(case, dtype)
        if is_compiled:
            self.learn_rest = frameworks.torch_functional_step(case, self.parameters, loss_of)
            self.learn = torch.compile(self.learn_rest, dynamic=False)
        else:
            self.optimizer = frameworks.torch_optimizer(case, self.parameters)
            self.learn = frameworks.torch_autograd_step(self.optimizer, self.parameters, loss_of)
            self.learn_rest = self.learn
        self.graphs = {}

    def train_epoch(self, order):
        """Go through the rows; return the mean loss as a tensor on the device."""
        n_whole, n_rest = divmod(len(order), self.case.batch_size)
        self.order.copy_(order)
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
        """Take steps of so many rows. The first time they warm up what is then recorded."""
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
