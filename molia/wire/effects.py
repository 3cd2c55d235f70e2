"""What an endpoint wants done: packets sent, puzzles solved, and what its owner should know."""

from collections.abc import Sequence
from dataclasses import dataclass

from molia.base.crypto import ExchangeKey
from molia.base.limits import EFFECTS_MAX
from molia.wire.cookies import Address
from molia.wire.gate import Counters
from molia.wire.peer import Peer
from molia.wire.puzzle import Effort


@dataclass(frozen=True, slots=True)
class Send:
    """Send these packets to this address, in this order."""

    address: Address
    packets: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class PeerUp:
    """There is a session with this peer, and both sides know it."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """There are new keys with a peer that is up; the ones before may have died meanwhile."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerDown:
    """There is none any more. reason: "idle", "unreachable", "evicted" or "closed"."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer says that it stops; `PeerDown` follows."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Restarted:
    """The peer remembers nothing of before: what belonged to its streams and requests is void."""

    peer: Peer
    since_s: float
    """What was asked from then on waits for the new session, and is not."""


@dataclass(frozen=True, slots=True)
class Roamed:
    """The peer now sends from another address than `old`."""

    peer: Peer
    old: Address | None


@dataclass(frozen=True, slots=True)
class EarlyReply:
    """The answer to a request that `connect` took along; None: ask again in the session."""

    peer: Peer
    request: bytes
    reply: bytes | None


@dataclass(frozen=True, slots=True)
class SolvePuzzle:
    """The peer asks for a puzzle: solve it elsewhere and say `on_solved` with this ephemeral."""

    peer: Peer
    ephemeral: ExchangeKey
    effort: Effort


Effect = Send | PeerUp | Rekeyed | PeerDown | Restarted | Roamed | EarlyReply | SolvePuzzle


class Outbox:
    """The effects that nobody took yet; bounded, for a shell may have died."""

    __slots__ = ("_counters", "_effects")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._effects: list[Effect] = []

    def __len__(self) -> int:
        return len(self._effects)

    def put(self, effect: Effect) -> None:
        """Add one; dropped and counted when there are too many."""
        if len(self._effects) < EFFECTS_MAX:
            self._effects.append(effect)
        else:
            self._counters.effects_full += 1

    def take(self) -> list[Effect]:
        """Return all and begin anew."""
        effects, self._effects = self._effects, []
        return effects
