"""The tables of an endpoint: peers, sessions, timestamps. All bounded; the idle make room first.

Peers that never confirmed their keys stand in a table of their own, so that strangers who only
knock cannot drive out peers that talk.
"""

from collections import OrderedDict
from typing import Final

from molia.base.entropy import Entropy
from molia.base.limits import PEER_SCANS_MAX, PEERS_MAX, TIMESTAMPS_MAX, UNCONFIRMED_MAX
from molia.wire.packet import INDEX, WORKER_MASK
from molia.wire.peer import FORGET_S, NEVER, Peer
from molia.wire.session import REJECT_AFTER_S, Session

INITIATION_GAP_S: Final = 0.02
"""At most one initiation per static key and worker in this time."""


class Timestamps:
    """The newest timestamp of each (static key, worker), least recently used first to go."""

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def is_newer(self, key: bytes, timestamp: bytes) -> bool:
        """Tell whether `timestamp` comes after all that `key` has shown; equal is a replay."""
        seen = self._newest.get(key)
        return seen is None or timestamp > seen[0]

    def is_too_soon(self, key: bytes, now_s: float) -> bool:
        """Tell whether `key`'s last initiation was a moment ago."""
        seen = self._newest.get(key)
        return seen is not None and now_s - seen[1] < INITIATION_GAP_S

    def note(self, key: bytes, timestamp: bytes, now_s: float) -> None:
        """Keep `key`'s newest timestamp."""
        self._newest[key] = (timestamp, now_s)
        self._newest.move_to_end(key)
        if len(self._newest) > TIMESTAMPS_MAX:
            self._newest.popitem(last=False)


class PeerTable:
    """All peers and sessions of one worker."""

    def __init__(self, entropy: Entropy, *, worker: int, peers_max: int = PEERS_MAX) -> None:
        assert 0 <= worker <= WORKER_MASK, "an index names one of 16 workers"
        self._entropy, self._worker, self._peers_max = entropy, worker, peers_max
        self.confirmed: dict[bytes, Peer] = {}
        """By static key and worker, least recently checked first."""
        self.unconfirmed: OrderedDict[bytes, Peer] = OrderedDict()
        self.sessions: dict[bytes, Session] = {}
        """By our index."""
        self.pendings: dict[bytes, Peer] = {}
        """By the index of an initiation of ours."""
        self.primary: dict[bytes, Peer] = {}
        """The peer to send to, by static key: of a node's workers the last that confirmed."""
        self.timestamps = Timestamps()

    def find(self, key: bytes) -> Peer | None:
        """Return the peer with this static key and worker."""
        return self.confirmed.get(key) or self.unconfirmed.get(key)

    def new_index(self) -> bytes:
        """Return a random index that names our worker and is in no use."""
        while True:
            token = self._entropy.token(INDEX)
            index = bytes((token[0] & ~WORKER_MASK | self._worker,)) + token[1:]
            if index not in self.sessions and index not in self.pendings:
                return index

    def add(self, peer: Peer) -> list[Peer]:
        """Take a peer of ours; return those that had to go."""
        self.confirmed[peer.key] = peer
        self.primary.setdefault(peer.static, peer)
        return self._make_room(peer)

    def add_unconfirmed(self, peer: Peer) -> list[Peer]:
        """Take a peer whose keys wait for its first packet; return those that had to go."""
        self.unconfirmed[peer.key] = peer
        if len(self.unconfirmed) <= UNCONFIRMED_MAX:
            return []
        _, oldest = self.unconfirmed.popitem(last=False)
        self.forget(oldest)
        return [oldest]

    def on_confirmed(self, peer: Peer) -> list[Peer]:
        """Note that a peer's keys work; return those that had to go."""
        self.primary[peer.static] = peer
        if self.unconfirmed.pop(peer.key, None) is None:
            return []
        self.confirmed[peer.key] = peer
        return self._make_room(peer)

    def caller(self, static: bytes) -> Peer | None:
        """Return a peer with this static key that has called and was not yet heard again."""
        keys = (static + bytes((worker,)) for worker in range(WORKER_MASK + 1))
        return next((self.unconfirmed[key] for key in keys if key in self.unconfirmed), None)

    def move(self, peer: Peer, worker: int) -> None:
        """Note which worker answered a peer of ours, unless that one is known already.

        A worker that called meanwhile and was not yet heard again is this peer: it has one of us
        too, and sends under the newest keys, whichever of us they are of.
        """
        key = peer.static + bytes((worker,))
        known = self.find(key)
        if known is not None:
            if peer.has_sessions or self.unconfirmed.pop(key, None) is None:
                return
            _join(peer, known)
        self.confirmed.pop(peer.key, None)
        peer.worker = worker
        self.confirmed[peer.key] = peer

    def put_session(self, session: Session, driven_out: list[Session]) -> None:
        """Index a session and forget those that it drove out."""
        self.sessions[session.index] = session
        self.drop_sessions(driven_out)

    def drop_sessions(self, sessions: list[Session]) -> None:
        """Wipe and forget sessions."""
        for session in sessions:
            self.sessions.pop(session.index, None)
            session.wipe()

    def drop_pending(self, peer: Peer) -> None:
        """Forget the initiation that a peer of ours was sent."""
        if peer.pending is not None:
            self.pendings.pop(peer.pending.index, None)
            peer.pending = None

    def unconfirmed_due_s(self) -> float:
        """Return when the oldest unconfirmed peer's keys die."""
        for peer in self.unconfirmed.values():
            return peer.forget_due_s - FORGET_S + REJECT_AFTER_S
        return NEVER

    def forget(self, peer: Peer) -> None:
        """Forget a peer, its keys wiped."""
        self.drop_sessions(peer.drop_sessions())
        self.drop_pending(peer)
        peer.quiet()
        peer.waiting.clear()
        peer.solving, peer.wake_s = None, NEVER
        for table in (self.confirmed, self.unconfirmed):
            if table.get(peer.key) is peer:
                del table[peer.key]
        if self.primary.get(peer.static) is peer:
            del self.primary[peer.static]

    def _make_room(self, new: Peer) -> list[Peer]:
        """Return the peer that made room for `new`, if one had to: the longest silent of a few."""
        if len(self.confirmed) <= self._peers_max:
            return []
        looked_at: list[Peer] = []
        for key in list(_first(self.confirmed, PEER_SCANS_MAX)):
            peer = self.confirmed.pop(key)
            self.confirmed[key] = peer  # the next search starts behind it
            if not peer.is_configured and peer is not new:
                looked_at.append(peer)
        if not looked_at:
            return []
        idle = min(looked_at, key=lambda peer: peer.heard_s)
        self.forget(idle)
        return [idle]


def _join(peer: Peer, caller: Peer) -> None:
    """Give a peer what was agreed with it when it called."""
    peer.next, caller.next = caller.next, None
    peer.next_life, peer.answered_at, peer.proof = (
        caller.next_life, caller.answered_at, caller.proof
    )  # fmt: skip
    if peer.next is not None:
        peer.next.peer = peer


def _first(table: dict[bytes, Peer], count: int) -> list[bytes]:
    return [key for _, key in zip(range(count), table, strict=False)]
