"""Receive windows that grow only while the reader keeps up (RFC 9000 section 4)."""

from typing import Final

ROUND_TRIPS: Final = 4
"""A window that half empties within this many round trips was the limit: it is doubled."""


class Window:
    """How far a peer may send: what was consumed and the window's size above it."""

    __slots__ = ("_expected", "_moved_s", "_size_max", "consumed", "limit", "size")

    def __init__(self, size: int, *, size_max: int) -> None:
        self.size = self.limit = min(size, size_max)
        self.consumed = self._expected = 0
        self._size_max = size_max
        self._moved_s: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether half the window is used up, so that the peer should hear of a new limit.

        Not before all that is expected was read, when the limit lets it all come.
        """
        if self.consumed < self._expected <= self.limit:
            return False
        return self.limit - self.consumed <= self.size // 2

    def expect(self, size: int) -> bool:
        """Take that `size` bytes are to come in all; tell whether the peer is to hear of it."""
        if size > self._size_max or size <= self.limit:
            return False
        self.size = self._expected = size
        return True

    def move(self, *, rtt_s: float, now_s: float) -> int:
        """Return the new limit."""
        if self._moved_s is not None and now_s - self._moved_s < ROUND_TRIPS * rtt_s:
            self.size = min(2 * self.size, self._size_max)
        self._moved_s = now_s
        self.limit = max(self.limit, self.consumed + self.size)
        return self.limit
