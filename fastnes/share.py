"""Sharing a step's machines out among threads.

Each thread has a share of its own, the same in every step, so that its machines stay in the cache
of its core. A thread that is done with its share takes from the others', one machine at a time;
all without the GIL.
"""

import queue
import threading
import weakref
from collections.abc import Callable

import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fastnes.compiled import compiled


def take_one(taken, i):
    """Add one to int64 `taken[i]` and return what it was; no other thread can come between."""
    before = taken[i]
    taken[i] += 1
    return before


@intrinsic
def _atomic_add(_, array, index, addend):
    """LLVM's atomicrmw; Numba itself offers it for GPUs only."""

    def generate(context, builder, signature, arguments):
        array_type = signature.args[0]
        values = context.make_array(array_type)(context, builder, arguments[0])
        place = cgutils.get_item_pointer(
            context, builder, array_type, values, [arguments[1]], wraparound=False
        )
        return builder.atomic_rmw("add", place, arguments[2], "monotonic")

    return array.dtype(array, index, array.dtype), generate


@overload(take_one, jit_options={"_nrt": False})  # type: ignore[typeddict-unknown-key]
def _take_one(taken, i):
    return lambda taken, i: _atomic_add(taken, i, 1)  # type: ignore[call-arg]


@compiled
def claim(taken, count, thread):
    """Return one of the numbers below `count` that from now on is this thread's; -1: none is left.

    `taken` is int64[threads], zeros at first: how many of each thread's share are claimed.
    """
    threads = len(taken)
    for i in range(threads):
        owner = (thread + i) % threads
        number = count * owner // threads + take_one(taken, owner)
        if number < count * (owner + 1) // threads:
            return number
    return np.int64(-1)


def _work(thread: int, jobs: queue.SimpleQueue) -> None:
    while (order := jobs.get()) is not None:
        job, done = order
        error = None
        try:
            job(thread)
        except Exception as raised:  # noqa: BLE001 (the caller raises it)
            error = raised
        del order, job  # they hold the batch
        done.put(error)


class Workers:
    """Threads that wait for the caller's jobs; handing over takes half an executor's time."""

    def __init__(self, threads: int):
        """Start `threads` - 1 threads, the caller being one; they end with this object."""
        self._jobs: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(1, threads)]
        for thread, jobs in enumerate(self._jobs, start=1):
            threading.Thread(target=_work, args=(thread, jobs), daemon=True).start()
            weakref.finalize(self, jobs.put, None)

    def run(self, job: Callable[[int], None], threads: int) -> None:
        """Call job(0) here and job(1) to job(threads - 1) on the others, at the same time.

        Raises:
            Exception: what a job raised.
        """
        done: queue.SimpleQueue = queue.SimpleQueue()
        for jobs in self._jobs[: threads - 1]:
            jobs.put((job, done))
        try:
            job(0)
        finally:
            errors = [done.get() for _ in range(1, threads)]
        for error in filter(None, errors):
            raise error
