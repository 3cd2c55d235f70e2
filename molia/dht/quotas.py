"""Quotas: how much one peer may have us keep, how often one location may change, how much in all.

Only what changes a row is counted: a put that is told "stale" costs its sender nothing but its
share of requests. A quota is a bucket that refills, so nothing has to be given back when a record
expires: a peer's records of a day are at most its burst and what a day refills.
"""

from enum import StrEnum
from typing import Final

from molia.base.ids import PeerKey
from molia.base.limits import (
    LOC_WRITES_BURST,
    LOC_WRITES_PER_S,
    PEER_ROWS_BURST,
    PEER_ROWS_PER_S,
    QUOTA_LOCS_MAX,
    QUOTA_PEERS_MAX,
)

_ROUNDING_S: Final = 1e-6


class Refusal(StrEnum):
    """Which quota is used up; each is a counter's name."""

    PEER = "peer"
    LOC = "loc"
    TOTAL = "total"


class Quotas:
    """The quotas of one node (or worker). `rows` is kept by who writes: see `on_rows`."""

    __slots__ = ("_locs", "_peers", "rows", "rows_max")

    def __init__(self, *, rows_max: int, peer_burst: float = PEER_ROWS_BURST) -> None:
        self.rows, self.rows_max = 0, rows_max
        self._peers = Buckets(rate=PEER_ROWS_PER_S, burst=peer_burst, table_max=QUOTA_PEERS_MAX)
        self._locs = Buckets(
            rate=LOC_WRITES_PER_S, burst=LOC_WRITES_BURST, table_max=QUOTA_LOCS_MAX
        )

    def take(self, peer: PeerKey, loc: bytes, *, is_new: bool, now_s: float) -> Refusal | None:
        """Count one write of a peer at a location; return why it may not be, and count nothing.

        is_new: nothing of it is held yet, a record at a location or a signer among its providers.
        """
        if is_new and self.rows >= self.rows_max:
            return Refusal.TOTAL
        if not self._locs.has(loc, now_s):
            return Refusal.LOC
        if not self._peers.take(peer.key, now_s):
            return Refusal.PEER
        self._locs.take(loc, now_s)
        return None

    def on_rows(self, change: int) -> None:
        """Take how many records and provider records more are held, or fewer."""
        self.rows = max(0, self.rows + change)


class Buckets:
    """A token bucket per key; with too many keys the one used longest ago is forgotten.

    A bucket is the moment at which it will be full again, as in `wire.limiter`; these take hours
    to fill, so an idle one cannot be dropped for free.
    """

    __slots__ = ("_full_at_s", "_period_s", "_slack_s", "_table_max")

    def __init__(self, *, rate: float, burst: float, table_max: int) -> None:
        self._period_s, self._slack_s = 1.0 / rate, burst / rate + _ROUNDING_S
        self._table_max = table_max
        self._full_at_s: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._full_at_s)

    def has(self, key: bytes, now_s: float) -> bool:
        """Tell whether the key's bucket holds a token."""
        return self._taken_s(key, now_s) - now_s <= self._slack_s

    def take(self, key: bytes, now_s: float) -> bool:
        """Take a token out of the key's bucket; False when there is none."""
        taken_s = self._taken_s(key, now_s)
        if taken_s - now_s > self._slack_s:
            return False
        self._full_at_s.pop(key, None)
        if len(self._full_at_s) >= self._table_max:
            del self._full_at_s[next(iter(self._full_at_s))]
        self._full_at_s[key] = taken_s
        return True

    def _taken_s(self, key: bytes, now_s: float) -> float:
        return max(now_s, self._full_at_s.get(key, now_s)) + self._period_s
