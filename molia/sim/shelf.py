"""A node's records in memory: read at once, written after the time that a sync takes.

It outlives the node's lives, as a disk does. Source: docs/reference/simulator.md, "The disk".
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from molia.base.now import Now


class MemoryShelf:
    """Implements `dht.ports.Shelf`."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, bytes], tuple[bytes, int]] = {}
        self._orders: dict[int, list[bytes]] = {}
        self.unix_s = 0.0
        """The time by which rows expire."""

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, kind: int, loc: bytes) -> bytes | None:
        """Return the row, or None."""
        found = self._rows.get((kind, loc))
        return None if found is None or found[1] <= self.unix_s else found[0]

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        """Return up to `limit` locations with a row, in order, from `start` on."""
        order = self._orders.get(kind, [])
        first = bisect_left(order, start)
        found: list[bytes] = []
        for loc in order[first:]:
            if len(found) == limit:
                break
            if self.read(kind, loc) is not None:
                found.append(loc)
        return found

    def swap(
        self, kind: int, loc: bytes, row: bytes | None, *, expected: bytes | None,
        expires_unix_s: int, now: Now,
    ) -> bool:  # fmt: skip
        """Write a row if the one that is there is the expected one; tell whether it was."""
        self.unix_s = now.unix_s
        if self.read(kind, loc) != expected:
            return False
        if row is not None:
            if (kind, loc) not in self._rows:
                insort(self._orders.setdefault(kind, []), loc)
            self._rows[kind, loc] = (row, expires_unix_s)
        elif self._rows.pop((kind, loc), None) is not None:
            order = self._orders[kind]
            del order[bisect_left(order, loc)]
        return True
