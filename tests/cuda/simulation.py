"""numba's simulator, made fast enough for whole fits."""

import os
import threading

PATIENCE = 60  # seconds that a thread waits for the others of its block at a barrier


def simulates():
    """Whether this process simulates a GPU."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def speed_up():
    """Let the threads of a block meet at a barrier; the simulator's own polling is 5 times slower.

    A thread that leaves while others still wait, which would hang a GPU, is an error.
    """
    from numba.cuda.simulator import kernel

    def run(manager, grid_point, *args):
        points = [
            (x, y, z)
            for x in range(manager._block_dim[0])
            for y in range(manager._block_dim[1])
            for z in range(manager._block_dim[2])
        ]
        barrier = threading.Barrier(len(points), timeout=PATIENCE)

        def work():
            try:
                manager._f(*args)
            except BaseException:
                barrier.abort()
                raise

        threads = [
            kernel.BlockThread(work, manager, grid_point, point, manager._debug) for point in points
        ]
        for thread in threads:
            thread.syncthreads = barrier.wait
            thread.start()
        for thread in threads:
            thread.join()
        raised = [thread.exception for thread in threads if thread.exception]
        raised.sort(key=lambda pair: isinstance(pair[0], threading.BrokenBarrierError))
        if raised:
            raise raised[0][0].with_traceback(raised[0][1])

    kernel.BlockManager.run = run


class SimulatedDevice:
    """`fastbp.cuda.device.Device`, its kernels given as plain functions."""

    def __init__(self):
        from fastbp.cuda.device import Device, compiled

        self._device, self._compiled = Device(), compiled

    def __getattr__(self, name):
        return getattr(self._device, name)

    def launch(self, kernel, grid, block, *arguments):
        self._device.launch(self._compiled(kernel), grid, block, *arguments)
