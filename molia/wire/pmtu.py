"""The largest datagram that the path carries: RFC 8899, with padded probes.

Probes are made only while data flows, so that the module needs no timer of its own and an idle
path is left alone.
"""

from typing import Final

from molia.base.limits import UDP_PAYLOAD_BASE

PROBES_MAX: Final = 3
"""Losses after which a size is taken not to pass (RFC 8899 5.1.2)."""
STEP: Final = 16
"""The search ends when the answer is known this well."""
RAISE_S: Final = 600.0
"""How long until a larger size is tried again (RFC 8899 5.1.1)."""
RETRY_S: Final = 60.0
"""The same after a black hole."""
BLACK_HOLE_EVENTS: Final = 3
"""Times that large packets were lost and none arrived, after which they do not pass."""


class PathMtu:
    """Search for the largest UDP payload, and the fall back when it stops passing."""

    __slots__ = ("_ceiling", "_events", "_high", "_in_flight", "_losses", "_next_search_s",
                 "_trying", "size")  # fmt: skip

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self.reset()

    def reset(self) -> None:
        """Start again from what every path carries."""
        self.size = UDP_PAYLOAD_BASE
        """The UDP payload that may be used now."""
        self._high = self._trying = self._ceiling
        self._losses = self._events = 0
        self._in_flight = False
        self._next_search_s: float | None = None

    def wanted(self, now_s: float) -> int | None:
        """Return the UDP payload to probe now, or None."""
        if self._in_flight:
            return None
        if self._next_search_s is not None and now_s >= self._next_search_s:
            self._high = self._trying = self._ceiling
            self._losses, self._next_search_s = 0, None
        if self._next_search_s is None and self._high - self.size < STEP:
            self._next_search_s = now_s + RAISE_S
        return self._trying if self._next_search_s is None else None

    @property
    def is_suspicious(self) -> bool:
        """Whether large packets were lost and none has arrived since."""
        return self._events > 0

    def on_probe_sent(self) -> None:
        """The wanted probe left."""
        self._in_flight = True

    def on_probe_acked(self, size: int) -> bool:
        """Tell whether the probe that arrived gives a larger size."""
        self._in_flight = False
        if size <= self.size or size > self._high:
            return False
        self.size = size
        self._losses = self._events = 0
        self._trying = (self.size + self._high + 1) // 2
        return True

    def on_probe_lost(self, size: int) -> None:
        """Try again, or something smaller."""
        self._in_flight = False
        if size != self._trying:
            return
        self._losses += 1
        if self._losses == PROBES_MAX:
            self._high, self._losses = size - 1, 0
            self._trying = (self.size + self._high + 1) // 2

    def on_large(self, *, arrived: bool, lost: bool, now_s: float) -> bool:
        """Note packets above the base size; tell whether a black hole made the size fall."""
        if arrived:
            self._events = 0
        elif lost and self.size > UDP_PAYLOAD_BASE:
            self._events += 1
            if self._events == BLACK_HOLE_EVENTS:
                self.reset()
                self._next_search_s = now_s + RETRY_S
                return True
        return False
