"""Fits of many small networks: one block of threads each, a whole fit in a launch or a few.

`train_together` runs fits that have been begun (`fastbp.base`) on the device; every network then
has a `Trained`, an engine that hands out again what the device has computed: the ordinary training
loop decides, warns and keeps books as ever. How it is computed:
`fastbp.cuda.small.training_kernel`.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from scipy.sparse import issparse

from fastbp.activations import ACTIVATIONS
from fastbp.cpu.shuffling import shuffle
from fastbp.cuda.device import compiled
from fastbp.cuda.small import placement, training_kernel
from fastbp.cuda.small.members import (
    Member,
    SharedArrays,
    Trained,
    joined_targets,
    real_numbers,
    scaled_rows,
    step_numbers,
)
from fastbp.cuda.small.placement import make_plan
from fastbp.cuda.toolkit import is_simulated
from fastbp.schedules import plan_of, schedule_of
from fastbp.threads import available_threads, run_jobs
from fastbp.training import Split

ORDER_BYTES = 256 * 2**20  # of orders that go up at once
WORK_PER_LAUNCH = 10_000_000_000  # multiply-adds of one network, below a second
BLOCKS = 1, 2, 3, 4, 6, 8, 16  # that share a multiprocessor
RESERVED_BYTES = 1024  # of shared memory, for each block
_WORD = 4


def batch_rows(training):
    """The rows of a batch."""
    n_rows, batch_size = len(training.split.train), training.settings.batch_size
    return min(200 if batch_size == "auto" else int(batch_size), n_rows)


def plan_for(network, training, gpu):
    """The plan for a fit that has been begun; None where it has to go another way.

    That is with lbfgs, early stopping, a callback, sparse X, float64, dropout, a bound of the
    gradient's norm, averages of the weights, short batches that are left out, a schedule whose
    learning rates are not known beforehand or change within an epoch (as in a warm-up), or one of
    the decay, an activation whose derivative needs z,
    a loss with coefficients, smoothed labels, missing targets, networks too large for a block's
    shared memory, and GPUs before compute capability 8.0.
    """
    data = training.data
    if (
        training.optimizer is None
        or _moves_within(training.optimizer)
        or any(ACTIVATIONS[name].needs == "pre_activation" for name in network.activations)
        or training.judge is not None
        or training.watchers
        or training.settings.drop_last
        or training.optimizer.counts_updates
        or training.optimizer.max_grad_norm is not None
        or issparse(data.X)
        or training.start.dtype != np.float32
        or gpu.capability < (8, 0)
        or network.loss_coefficients
        or network.label_smoothing
        or (data.targets.dtype.kind == "f" and np.isnan(data.targets).any())
        or (data.targets.ndim == 1 and network.layer_sizes[-1] > 2**24)
    ):
        return None
    return make_plan(
        network, batch_rows(training), training.optimizer.rule, _target_width(data),
        gpu.shared_memory,
    )  # fmt: skip


def _moves_within(optimizer):
    """Whether the learning rate of every epoch is not known before the launch."""
    schedule, decay = schedule_of(optimizer), plan_of(optimizer, "weight_decay_schedule")
    return bool(schedule.factor or schedule.on_plateau or optimizer.warmup or decay)


def _target_width(data):
    n_targets = 1 if data.targets.ndim == 1 else data.targets.shape[1]
    return n_targets + (data.sample_weight is not None)


class Together:
    """Networks that train at once on one device.

    Parameters
    ----------
    device : Device
    fits : list of (Network, Training, Plan)
    device_shuffle : bool
        Whether the device draws the orders.
    """

    def __init__(self, device, fits, device_shuffle):
        self.device, self.device_shuffle = device, device_shuffle
        inputs, targets, factors = (
            SharedArrays(np.float32),
            SharedArrays(np.float32),
            SharedArrays(np.float64),
        )
        orders = SharedArrays(np.int32)
        self.members = []
        sizes = [
            (1 + training.optimizer.rule.n_moments) * network.n_parameters
            for network, training, _ in fits
        ]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self.reals = np.zeros((len(fits), placement.N_REALS))
        states = np.zeros((len(fits), placement.N_STATES))
        state = np.zeros(starts[-1], np.float32)
        for index, (network, training, plan) in enumerate(fits):
            table = np.array(plan.table)
            member = Member(network, training, plan, table)
            self._describe(member, index, inputs, targets, factors, orders)
            table[placement.STATE] = starts[index]
            state[starts[index] :][: network.n_parameters] = training.start
            self.reals[index] = real_numbers(network, training)
            states[index, [placement.RATE, placement.BEST_LOSS, placement.BAD_EPOCHS]] = (
                training.optimizer.learning_rate, training.progress.best_loss,
                training.progress.no_improvement_count,
            )  # fmt: skip
            self.members.append(member)
        self.host_state, self.orders = state, orders
        self.inputs, self.targets = inputs.upload(device), targets.upload(device)
        self.factors, self.fixed_orders = factors.upload(device), orders.upload(device)
        self.state, self.states = device.upload(state), device.upload(states.ravel())
        self.device_reals = device.upload(self.reals.ravel())

    def _describe(self, member, index, inputs, targets, factors, orders):
        """Fill in what the network's row of the table says of the data."""
        table, training = member.table, member.training
        data, split, optimizer = training.data, training.split, training.optimizer
        table[[placement.N_ROWS, placement.ROW_OF_STATE]] = member.n_rows, index
        table[placement.IS_CLASS] = data.targets.ndim == 1
        table[placement.IS_WEIGHTED] = data.sample_weight is not None
        scale = data.input_scale
        table[placement.INPUTS] = inputs.add(
            (id(data.X), scale), lambda: scaled_rows(data.X, scale)
        )
        key = id(data.targets), id(data.sample_weight)
        table[placement.TARGETS_AT] = targets.add(key, lambda: joined_targets(data))
        n_steps = training.settings.max_iter * -(-member.n_rows // batch_rows(training))
        key, rows = step_numbers(optimizer, n_steps)
        table[placement.FACTORS] = factors.add(key, lambda: rows)
        table[placement.N_FACTORS] = len(rows)
        member.order = split.train.astype(np.int32)
        shuffled = training.settings.shuffle
        table[placement.IS_DRAWN] = shuffled and self.device_shuffle
        if table[placement.IS_DRAWN]:
            table[placement.SEED] = training.random_state.randint(2**31 - 1)
            table[placement.HALF_BITS] = -(-max(1, (member.n_rows - 1).bit_length()) // 2)
        if table[placement.IS_DRAWN] or not shuffled:
            whole = len(split.train) == data.n_samples and np.array_equal(
                split.train, np.arange(data.n_samples)
            )
            key = data.n_samples if whole else id(split.train)
            table[placement.ORDERS] = orders.add(key, lambda: split.train)
        else:
            table[placement.ORDER_STRIDE] = member.n_rows

    def run(self):
        """Train all to their end, and return a `Trained` for each."""
        running, interrupted = list(self.members), False
        try:
            while running:
                running = self._run_some_epochs(running)
        except KeyboardInterrupt:
            interrupted = True
        state, states = self.device.read(self.state), self._read_states()
        return [
            self._trained(member, state, states[index], interrupted)
            for index, member in enumerate(self.members)
        ]

    def _trained(self, member, state, status, interrupted):
        start, n_parameters = member.table[placement.STATE], member.network.n_parameters
        count = 1 + member.training.optimizer.rule.n_moments
        vectors = state[start : start + count * n_parameters].reshape(count, -1).copy()
        return Trained(
            member.losses,
            vectors[0],
            list(vectors[1:]),
            int(status[placement.UPDATES]),
            interrupted,
        )

    def _run_some_epochs(self, running):
        """Launch as many epochs as orders fit for; return the networks that go on."""
        epochs = self._epochs_per_launch(running)
        curve, size, shuffled = 0, self.orders.size, []
        for member in running:
            count = min(epochs, member.epochs_left)
            table = member.table
            table[[placement.EPOCHS, placement.EPOCHS_BEFORE]] = count, len(member.losses)
            table[placement.CURVE] = curve
            curve += count
            if table[placement.ORDER_STRIDE]:
                table[placement.ORDERS] = size
                size += count * member.n_rows
                shuffled.append(member)
        orders = self.fixed_orders
        if shuffled:
            orders = self.device.upload(np.concatenate([*self.orders.parts, *_draw(shuffled)]))
        curves = self.device.upload(np.concatenate([_rates_of(member) for member in running]))
        for group in _groups(self.device, running):
            rows = self.device.upload(np.concatenate([member.table for member in group]))
            _launch(
                self.device, group, rows, self.device_reals, self.factors, self.inputs,
                self.targets, orders, self.state, curves, self.states,
            )  # fmt: skip
        states, curves = self._read_states(), self.device.read(curves)
        return [member for member in running if self._note(member, states, curves)]

    def _read_states(self):
        return self.device.read(self.states).reshape(-1, placement.N_STATES)

    def _note(self, member, states, curves):
        """Note a network's losses; return whether it goes on."""
        status = states[member.table[placement.ROW_OF_STATE]]
        done = int(status[placement.EPOCHS_DONE]) - len(member.losses)
        start = member.table[placement.CURVE]
        member.losses.extend(curves[start : start + done].tolist())
        return not status[placement.STOPPED] and member.epochs_left > 0

    def _epochs_per_launch(self, running):
        drawn = sum(member.n_rows for member in running if member.table[placement.ORDER_STRIDE])
        epochs = ORDER_BYTES // (_WORD * max(drawn, 2 * len(running)))  # or losses, two words each
        work = max(3 * member.network.n_parameters * member.n_rows for member in running)
        most = max(member.epochs_left for member in running)
        return max(1, min(epochs, WORK_PER_LAUNCH // work, most))


def _draw(members):
    """Draw the orders of a launch's epochs, as `fastbp.training.run_epoch` does; in threads."""
    drawn = [np.empty((m.table[placement.EPOCHS], m.n_rows), np.int32) for m in members]

    def draw(member, orders):
        times = len(orders) * len(members)
        for order in orders:
            shuffle(member.training.random_state, member.order, times)
            order[:] = member.order

    jobs = [partial(draw, *each) for each in zip(members, drawn, strict=True)]
    run_jobs(jobs, min(len(jobs), available_threads()))
    return [orders.ravel() for orders in drawn]


def _rates_of(member):
    """The learning rate after each epoch of a launch."""
    optimizer = member.training.optimizer
    schedule, rates = schedule_of(optimizer), np.empty(member.table[placement.EPOCHS])
    rates[:] = optimizer.learning_rate
    if schedule.after_epoch is not None:
        seen = member.training.progress.n_samples_seen + member.n_rows * len(member.losses)
        for index in range(len(rates)):
            seen += member.n_rows
            rates[index] = schedule.after_epoch(optimizer, seen)
    return rates


def _groups(device, members):
    """The networks of each launch: blocks of one size that share a multiprocessor as often.

    The longest come first, as the hardware begins blocks in order.
    """
    groups = {}
    for member in members:
        room = device.multiprocessor_memory // (member.plan.n_bytes + RESERVED_BYTES)
        blocks = max(count for count in BLOCKS if count <= max(1, room))
        groups.setdefault((member.plan.n_threads, blocks), []).append(member)
    for group in groups.values():
        group.sort(key=lambda member: -member.network.n_parameters * member.n_rows)
    return list(groups.values())


def _launch(device, group, *arguments):
    n_bytes = max(member.plan.n_bytes for member in group)
    kernel, n_threads = make_ready(device, n_bytes), group[0].plan.n_threads
    device.launch(kernel, len(group), n_threads, *arguments, shared_memory=n_bytes)


def make_ready(device, n_bytes):
    """The compiled kernel, allowed this much shared memory."""
    kernel = compiled(training_kernel.train_networks)
    if not is_simulated():
        kernel.compile(training_kernel.SIGNATURE)
    device.allow_shared_memory(kernel, n_bytes)
    return kernel


def train_together(device, fits, device_shuffle=False):
    """Train networks at once on a device.

    Parameters
    ----------
    device : fastbp.cuda.device.Device
    fits : list of (Network, Training, Plan)
        Begun by `fastbp.fitting.Fit.prepare`, and planned by `plan_for`.
    device_shuffle : bool, default=False
        Let the device draw the rows' orders instead of each fit's RandomState.

    Returns
    -------
    trained : list of (Training, Trained)
        Trainings ready for `fit_stochastic` with that engine: it need not shuffle any more.
    """
    trained = Together(device, fits, device_shuffle).run()
    prepared = []
    for (_, training, _), engine in zip(fits, trained, strict=True):
        n_rows = len(training.split.train)
        training = replace(
            training,
            engine=engine,
            start=None,
            settings=replace(training.settings, shuffle=False),
            split=Split(np.broadcast_to(np.int64(0), n_rows)),
        )
        prepared.append(training)
    return prepared
