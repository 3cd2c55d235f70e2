"""Wakes a core at its deadline, and not before what came in time has been read.

A process that did not run for a while finds the answers in its sockets and its timers due at once:
whoever answered in that time is not late.
"""

import asyncio
from collections.abc import Callable
from typing import Final

STOOD_STILL_S: Final = 1.0
"""A timer that is so late shows that this process did not run."""
CATCH_UP_S: Final = 0.05
"""Then so long nobody is called late."""


class Alarm:
    """One timer of the running event loop, in monotonic seconds."""

    def __init__(
        self, now_s: Callable[[], float], ring: Callable[[], None], *,
        catch_up_s: float = CATCH_UP_S,
    ) -> None:  # fmt: skip
        """ring: called at the deadline, which is set anew then. catch_up_s: see CATCH_UP_S."""
        self._now_s, self._ring, self._catch_up_s = now_s, ring, catch_up_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = self._caught_up_s = float("-inf")

    def set(self, due_s: float | None) -> None:
        """Ring at `due_s` instead of when it was to ring; None: not at all."""
        now_s = self._now_s()
        if self._timer is not None:
            self._look(now_s)  # what was read first may be one of many
        self.cancel()
        if due_s is not None:
            self._due_s = max(due_s, now_s, self._caught_up_s)
            self._timer = self._loop.call_later(self._due_s - now_s, self._on_timer)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, now_s: float) -> bool:
        """Tell whether this process did not run when the timer was due."""
        stood_still = now_s - self._due_s > STOOD_STILL_S
        if stood_still:
            self._caught_up_s = now_s + self._catch_up_s
        return stood_still

    def _on_timer(self) -> None:
        self._timer = None
        if self._look(self._now_s()):
            self.set(self._caught_up_s)
        else:
            self._ring()
