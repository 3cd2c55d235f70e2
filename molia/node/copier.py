"""The thread that copies for the compactions of one shard, at the rate that the shard asks for."""

import threading

from molia.node.system import SystemClock
from molia.store.shard import Shard


class Copier:
    """Copies when it is woken; there is no thread before the first time."""

    def __init__(self, shard: Shard, index: int, clock: SystemClock) -> None:
        self._shard, self._index, self._clock = shard, index, clock
        self._thread: threading.Thread | None = None
        self._woken, self._stopping = threading.Event(), threading.Event()

    def wake(self) -> None:
        """Copy what is to be copied now. The shard's writer calls this."""
        if self._thread is None:
            name = f"molia-copier-{self._index:02}"
            self._thread = threading.Thread(target=self._run, name=name)
            self._thread.start()
        self._woken.set()

    def stop(self) -> None:
        """Return once nothing is being copied, and nothing will be."""
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = self._shard.copy_step(self._clock.now())
            if wait_s is None:
                self._woken.wait()
                self._woken.clear()
            else:
                self._stopping.wait(wait_s)
