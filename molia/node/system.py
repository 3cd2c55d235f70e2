"""The machine's clock, randomness and size: the one place of the project that reads them."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from molia.base.now import Now


class SystemClock:
    """The machine's two clocks."""

    def now(self) -> Now:
        """Return this instant."""
        return Now(time.monotonic(), time.time())


class SystemEntropy:
    """The operating system's randomness."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody could have guessed."""
        return os.urandom(size)


def usable_cores() -> int:
    """Return the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Return the physical cores among the usable processors, or all of these where unknown."""
    cores: set[str] = set()
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for cpu in sorted(usable):
        path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            with open(path, encoding="ascii") as file:  # noqa: PTH123 - a kernel file, not data
                cores.add(file.read().strip())
        except OSError:
            return usable_cores()
    return max(1, len(cores))


def calm_collector() -> None:
    """Look for reference cycles less often, and never among the modules.

    With the defaults the collector takes a seventh of the time of small puts; a request makes few
    cycles, and seventy times the default still bounds what may lie about to some megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no reference cycles while the block runs.

    Opening a store makes millions of small objects and no cycle; looking through them for one takes
    a tenth of the time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
