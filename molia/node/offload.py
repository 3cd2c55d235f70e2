"""Threads for what takes long: hashing, coding, reading. All three leave Python's lock."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Offload:
    """A bounded pool of threads.

    Plain executor futures, not `anyio.to_thread`: half the cost of a hop, and a cancelled caller
    does not wait for its thread; what the functions given here do is harmless to finish unseen.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1, "somebody has to do the work"
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="molia-work")

    def submit(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Return a future of what `work(*args, **kwargs)` returns, computed in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work(*args, **kwargs)` returns, computed in a thread."""
        return await self.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Forget what is queued and wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
