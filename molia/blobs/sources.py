"""The nodes that one read gets blocks from: what they have, how fast they are, what they did.

Source: docs/reference/gathering.md.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from molia.base.limits import SOURCES_MAX

_SMOOTHING: Final = 0.25
_FEW: Final = 3
_START_S: Final = 0.05
"""What a block takes beside the round trip, before there is a measurement."""


@dataclass(frozen=True, slots=True)
class Source:
    """A node that says it has shares of the blob, and its round trip as far as known."""

    key: bytes
    shares: tuple[int, ...]
    rtt_s: float = 0.15


@dataclass(slots=True)
class Peer:
    """A source and what came of it."""

    key: bytes
    shares: dict[int, None]
    block_s: float
    """What a block from it takes, smoothed."""
    under_way: int = 0
    answered: int = 0
    missed: int = 0
    is_measured: bool = False
    is_silent: bool = False
    """It did not answer, or not in time."""
    is_out: bool = False
    outcome: str = "was not asked"

    @property
    def rtt_s(self) -> float:
        """What to begin with when it is a source again."""
        return max(0.0, self.block_s - _START_S)

    @property
    def expected_s(self) -> float:
        """What the next block from it will take."""
        return self.block_s * (1 + self.under_way)

    def measure(self, took_s: float) -> None:
        """Take what a block took, or has taken so far; the first one tells more than a guess."""
        weight = _SMOOTHING if self.is_measured else 1.0
        self.block_s += weight * (took_s - self.block_s)
        self.is_measured = True

    def miss(self) -> None:
        """Take that it did not answer: once is enough if it never did, else twice."""
        self.missed += 1
        self.is_silent = True
        self.outcome = "does not answer"
        self.is_out |= self.missed >= (2 if self.answered else 1)

    def leave_out(self, outcome: str) -> None:
        """Ask it for nothing more in this read."""
        self.is_out, self.outcome = True, outcome


@dataclass(slots=True)
class Sources:
    """All of them, at most 128; the first ones count."""

    peers: dict[bytes, Peer] = field(default_factory=dict)
    dropped: int = 0
    """Sources beyond the bound."""

    def add(self, found: Iterable[Source]) -> None:
        """Take sources; of one that is known its new shares."""
        for source in found:
            peer = self.peers.get(source.key)
            if peer is not None:
                peer.shares |= dict.fromkeys(source.shares)
            elif len(self.peers) < SOURCES_MAX:
                shares = dict.fromkeys(source.shares)
                self.peers[source.key] = Peer(source.key, shares, source.rtt_s + _START_S)
            else:
                self.dropped += 1

    def live(self) -> list[Peer]:
        """Return those that may be asked, the fastest first."""
        return sorted((p for p in self.peers.values() if not p.is_out), key=lambda p: p.expected_s)

    def of(self, share: int) -> list[Peer]:
        """Return those that may be asked for a share, the fastest first."""
        return [peer for peer in self.live() if share in peer.shares]

    def fastest(
        self, shares: Iterable[int], *, without: Container[tuple[bytes, int]] = ()
    ) -> Iterator[tuple[int, Peer]]:
        """Yield shares that can be had, each with its fastest source, the fastest share first.

        without: nodes and shares that were asked already.
        """
        live = self.live()
        pairs = []
        for share in shares:
            able = (p for p in live if share in p.shares and (p.key, share) not in without)
            peer = next(able, None)
            if peer is not None:
                pairs.append((share, peer))
        yield from sorted(pairs, key=lambda pair: (pair[1].expected_s, pair[0]))

    def usual_s(self) -> float:
        """Return what a block takes from the middle one of them; on a fast path a little more."""
        return max(_START_S, median([peer.block_s for peer in self.live()] or [_START_S]))

    def expected_s(self, peer: Peer) -> float:
        """Return what the next block from a node will take.

        Of one that never answered it is what it takes from the others, as soon as a few did.
        """
        if peer.answered:
            return peer.expected_s
        measured = [other.block_s for other in self.peers.values() if other.answered]
        if len(measured) < _FEW:
            return peer.expected_s
        return min(peer.expected_s, median(measured) * (1 + peer.under_way))

    def asked(self) -> list[tuple[bytes, str]]:
        """Return who was asked, and what came of it."""
        tried = (p for p in self.peers.values() if p.outcome != "was not asked")
        return [(peer.key, peer.outcome) for peer in tried]
