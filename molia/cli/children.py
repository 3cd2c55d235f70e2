"""Processes forked from this one: each tells over a pipe, and the pipe's end tells that it is gone.

For a parent without threads and event loop, so that a child finds nothing half-done. A child ends
with its parent, however that ends. SIGTERM, SIGINT and SIGHUP make the parent's next wait raise
Interrupted; children have process groups of their own: Ctrl-C is the parent's to hear.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn, Self

from molia.base.errors import Interrupted
from molia.cli.worker import end_with_parent

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_READ_MAX: Final = 64 * 1024


class Child:
    """One process, as its parent sees it."""

    def __init__(self, index: int, pid: int, pipe: int) -> None:
        self.index, self.pid, self.pipe = index, pid, pipe
        self.told = bytearray()
        """What it has written to its pipe so far; at most 64 KiB."""


class Children:
    """The processes that live. Use it in a `with` block: at its end none is left."""

    def __init__(self, *, stop_s: float) -> None:
        """stop_s: how long they may take to end after SIGTERM, before SIGKILL."""
        self.alive: dict[int, Child] = {}
        self._stop_s = stop_s
        self._asked_to_stop = False

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)
        self._selector.register(self._ends[0], selectors.EVENT_READ)
        self._before = {number: signal.signal(number, self._on_signal) for number in STOPS}
        signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._close(self._ends)

    def fork(self, index: int, work: Callable[[int], int]) -> None:
        """Start a process that does `work` and ends with the exit code that it returns.

        work: gets the descriptor of the pipe to tell the parent by.
        """
        reading, writing = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(work, writing, reading, parent)
        os.close(writing)
        child = self.alive[index] = Child(index, pid, reading)
        self._selector.register(reading, selectors.EVENT_READ, child)

    def wait(self, timeout_s: float | None) -> list[Child]:
        """Wait until one tells something or ends, and return those that ended, oldest first.

        Each is returned once, what it told last is in it. Raises Interrupted, when none has ended.
        """
        ended: list[Child] = []
        for key, _ in self._selector.select(0 if self._asked_to_stop else timeout_s):
            data = os.read(key.fd, _READ_MAX)
            child: Child | None = key.data
            if child is not None and data and len(child.told) < _READ_MAX:
                child.told += data
            elif child is not None:
                self._reap(child)
                ended.append(child)
        if self._asked_to_stop and not ended:  # those that ended are told of first
            self._asked_to_stop = False
            raise Interrupted("told to stop")
        return ended

    def _end_all(self) -> None:
        """End all, by force when they take too long or when told to stop once more."""
        until_s = time.monotonic() + self._stop_s
        self._kill(signal.SIGTERM)
        try:
            while self.alive and (left_s := until_s - time.monotonic()) > 0:
                self.wait(left_s)
        except Interrupted:
            pass
        self._kill(signal.SIGKILL)
        for child in list(self.alive.values()):
            self._reap(child)

    def _kill(self, number: signal.Signals) -> None:
        for child in self.alive.values():
            os.kill(child.pid, number)  # not reaped yet, so the number is still its own

    def _reap(self, child: Child) -> None:
        os.waitpid(child.pid, 0)
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        del self.alive[child.index]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked_to_stop = True

    # ------------------------------------------------------------------ in the child

    def _be_child(
        self, work: Callable[[int], int], pipe: int, other_end: int, parent: int
    ) -> NoReturn:
        """Work, and never come back to what the parent was doing."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in STOPS:
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
            end_with_parent()
            if os.getppid() == parent:  # else it ended before it could take us along
                # a sister's pipe that stays open here would hide that she has ended
                pipes = [child.pipe for child in self.alive.values()]
                self._close((*self._ends, other_end, *pipes))
                code = work(pipe)
        finally:
            os._exit(code)

    def _close(self, descriptors: tuple[int, ...]) -> None:
        self._selector.close()
        for descriptor in descriptors:
            os.close(descriptor)
