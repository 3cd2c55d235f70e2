"""How many bytes of stripes the node holds in memory at once, over all requests."""

import asyncio
from collections import deque

from molia.base.errors import Busy


class Budget:
    """Bytes that requests draw before they fill buffers, first come first served.

    A request larger than the whole budget is served alone: it draws everything.
    """

    def __init__(self, size_bytes: int, *, wait_s: float) -> None:
        self._size, self._wait_s = size_bytes, wait_s
        self._free = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes drawn at the moment."""
        return self._size - self._free

    @property
    def waiting_count(self) -> int:
        """Requests that wait for bytes."""
        return len(self._waiting)

    def draw_nowait(self, size_bytes: int) -> bool:
        """Take `size_bytes` if they are free and nobody waits; tell whether they were taken."""
        if self._waiting or size_bytes > self._free:
            return False
        self._free -= size_bytes
        return True

    async def draw(self, size_bytes: int) -> int:
        """Take `size_bytes` and return how many were taken, to be given back by `release`.

        Raises Busy after the time that a request may wait.
        """
        size_bytes = min(size_bytes, self._size)
        if not self._waiting and size_bytes <= self._free:
            self._free -= size_bytes
            return size_bytes
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            self._give_up(entry)
            if isinstance(error, TimeoutError):
                raise Busy("the node's buffers are all in use") from None
            raise
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what was drawn."""
        self._free += size_bytes
        assert self._free <= self._size, "nobody gives back more than was drawn"
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size_bytes, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size_bytes
                turn.set_result(None)

    def _give_up(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        size_bytes, turn = entry
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.release(size_bytes)  # served in the same moment as it gave up
            return
        if entry in self._waiting:
            self._waiting.remove(entry)
        self._serve()
