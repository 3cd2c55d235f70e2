"""How often a source may ask: token buckets per address, network and operator.

A bucket is one number, the moment at which it will be full again (the generic cell rate
algorithm, ITU-T I.371, annex A): a source that has been quiet needs no entry at all, so dropping
an idle entry loses nothing.
Source: docs/reference/admission.md, "Rates"; WireGuard's whitepaper, section 5.3 (20 a second).
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from molia.base.limits import HOST_BUCKETS_MAX, NETWORK_BUCKETS_MAX, OPERATOR_BUCKETS_MAX
from molia.wire.addresses import host_key, network_key, operator_key, unpack_host

HOST_RATE, HOST_BURST = 20.0, 5.0
NETWORK_RATE, NETWORK_BURST = 60.0, 20.0
OPERATOR_SHARE: Final = 0.25
IDLE_S: Final = 60.0
"""Longer than any bucket takes to fill."""
_ROUNDING_S: Final = 1e-9

AsnOf: TypeAlias = Callable[[str], int | None]
"""Gives the number of the autonomous system that announces a host; None when it is unknown."""


class TokenBuckets:
    """One bucket per key, all alike, in a table of bounded size.

    The table is two generations: what is used moves to the young one; when that is half of all, or
    a minute old, the other is dropped. Entries drop in the order of last use, at no cost a packet.
    """

    __slots__ = ("_half", "_old", "_period_s", "_since_s", "_slack_s", "_young")

    def __init__(self, *, rate: float, burst: float, table_max: int) -> None:
        self._young: dict[bytes, float] = {}
        self._old: dict[bytes, float] = {}
        self._half = table_max // 2
        self._since_s = 0.0
        self.set_rate(rate, burst)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def set_rate(self, rate: float, burst: float) -> None:
        """Let keys take `rate` tokens a second from now on, and `burst` after a rest."""
        assert rate > 0, "a rate is positive"
        assert burst >= 1, "a bucket holds at least a token"
        self._period_s = 1.0 / rate
        self._slack_s = burst / rate + _ROUNDING_S

    def take(self, key: bytes, now_s: float, tokens: float = 1.0) -> bool:
        """Take tokens out of the key's bucket; False, and nothing taken, when it holds fewer."""
        full_at_s = self._young.get(key)
        if full_at_s is None:
            full_at_s = self._old.get(key, now_s)
            if len(self._young) >= self._half or now_s - self._since_s > IDLE_S:
                self._old, self._young, self._since_s = self._young, {}, now_s
        rested = full_at_s < now_s  # `max` would cost as much as all the rest
        taken_s = (now_s if rested else full_at_s) + tokens * self._period_s
        enough = taken_s - now_s <= self._slack_s
        self._young[key] = taken_s if enough else full_at_s
        return enough


class SourceLimiter:
    """The buckets of one node: by address, by network and, under load, by operator."""

    __slots__ = ("_asn_of", "_hosts", "_networks", "_operators")

    def __init__(self, *, asn_of: AsnOf | None = None) -> None:
        self._asn_of = asn_of
        self._hosts = TokenBuckets(rate=HOST_RATE, burst=HOST_BURST, table_max=HOST_BUCKETS_MAX)
        self._networks = TokenBuckets(
            rate=NETWORK_RATE, burst=NETWORK_BURST, table_max=NETWORK_BUCKETS_MAX
        )
        self._operators = TokenBuckets(rate=1.0, burst=1.0, table_max=OPERATOR_BUCKETS_MAX)

    @property
    def entries(self) -> int:
        """Sources that have an entry in a table."""
        return len(self._hosts) + len(self._networks) + len(self._operators)

    def take(self, packed: bytes, now_s: float, *, slowness: int = 1) -> bool:
        """Let one handshake of this address through, or not.

        slowness: how many tokens of the network's bucket it costs; more for a network with a bad
        score, which is slowed and never banned.
        """
        if not self._hosts.take(host_key(packed), now_s):
            return False
        return self._networks.take(network_key(packed), now_s, slowness)

    def take_operator(self, packed: bytes, now_s: float, *, capacity_per_s: float) -> bool:
        """Let one handshake through unless its operator has had its share of the capacity."""
        share = max(1.0, capacity_per_s * OPERATOR_SHARE)
        self._operators.set_rate(share, share)
        return self._operators.take(self._operator(packed), now_s)

    def _operator(self, packed: bytes) -> bytes:
        if self._asn_of is not None:
            host = unpack_host(packed)
            asn = None if host is None else self._asn_of(host)
            if asn is not None:
                return b"AS%d" % asn
        return operator_key(packed)
