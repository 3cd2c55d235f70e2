"""What an endpoint does of itself: begin, repeat and give up handshakes, keep peers alive, forget.

Every timer of a peer ends here. The endpoint's other half, in `endpoint.py`, follows packets.
Source: docs/reference/packets.md, "Timers".
"""

from collections.abc import Callable

from molia.base.crypto import ExchangeKey
from molia.base.now import Now
from molia.wire.effects import EarlyReply, Outbox, PeerDown, PeerUp, Rekeyed, Send, SolvePuzzle
from molia.wire.gate import Counters
from molia.wire.handshake import Handshaker
from molia.wire.packet import DATA_SIZE_MIN
from molia.wire.paths import Paths
from molia.wire.peer import GIVE_UP_S, NEVER, Peer
from molia.wire.peers import PeerTable
from molia.wire.puzzle import NO_PUZZLE, PuzzleTrailer
from molia.wire.wakes import Wakes


class Upkeep:
    """The upkeep of one endpoint's peers.

    is_wanted: whether anyone still waits for a session with a peer. Nobody is knocked at twice
    without: who named an address to us must not make us a nuisance there, and of the peers of a
    network that churns most are gone when they are silent.
    """

    def __init__(
        self, *, handshaker: Handshaker, table: PeerTable, wakes: Wakes, paths: Paths,
        outbox: Outbox, counters: Counters, is_wanted: Callable[[Peer], bool],
    ) -> None:  # fmt: skip
        self._is_wanted = is_wanted
        self._handshaker, self._table, self._wakes = handshaker, table, wakes
        self._paths, self._outbox, self._counters = paths, outbox, counters

    def initiate(self, peer: Peer, now: Now) -> None:
        """Begin or renew a handshake, unless one began a moment ago."""
        if not peer.may_initiate(now.mono_s) or not self._is_kept(peer):
            return
        if peer.handshake_due_s == NEVER:
            peer.first_s = now.mono_s
        peer.started_s = now.mono_s
        peer.handshake_due_s = now.mono_s + self._handshaker.retry_s()
        if not peer.effort.bits:
            self._send_initiation(peer, self._handshaker.fresh_key(), NO_PUZZLE, now)
        elif peer.solving is None:
            peer.solving = self._handshaker.fresh_key()
            self._outbox.put(SolvePuzzle(peer, peer.solving, peer.effort))
        self._wakes.set(peer)

    def _is_kept(self, peer: Peer) -> bool:
        """Tell whether the peer is in the table; one that had gone comes back unless replaced."""
        kept = self._table.find(peer.key)
        if kept is None:
            self.on_evicted(self._table.add(peer))
        return kept is None or kept is peer

    def on_solved(
        self, peer: Peer, ephemeral: ExchangeKey, trailer: PuzzleTrailer, now: Now
    ) -> None:
        """Take the answer to a `SolvePuzzle`; it must be for that effect's ephemeral key."""
        if peer.solving is ephemeral and self._table.find(peer.key) is peer:
            peer.solving = None
            self._send_initiation(peer, ephemeral, trailer, now)

    def _send_initiation(
        self, peer: Peer, ephemeral: ExchangeKey, trailer: PuzzleTrailer, now: Now
    ) -> None:
        packet = self._handshaker.initiate(peer, now, ephemeral, trailer)
        if packet and peer.address is not None:
            self._outbox.put(Send(peer.address, (packet,)))
            peer.on_sent(now.mono_s, data=False)

    def keepalive(self, peer: Peer, now: Now) -> bool:
        """Send an empty packet; False: there is no session, or no right to send."""
        session = peer.usable(now.mono_s)
        if session is None or peer.address is None:
            return False
        if not peer.proved and not self._paths.spend(peer, DATA_SIZE_MIN):
            return False
        self._outbox.put(Send(peer.address, (session.seal(b""),)))
        peer.on_sent(now.mono_s, data=False)
        return True

    def wake(self, peer: Peer, now: Now) -> None:
        """Do what a peer's timers ask for now."""
        now_s = now.mono_s
        if peer.forget_due_s <= now_s:
            self._table.drop_sessions(peer.drop_sessions())
            self.fall(peer, "idle")
        if peer.handshake_due_s <= now_s:
            self._retry(peer, now)
        if peer.silence_due_s <= now_s:
            peer.silence_due_s = NEVER
            self.initiate(peer, now)
        if peer.keepalive_due_s <= now_s:
            peer.keepalive_due_s = NEVER
            self.keepalive(peer, now)
        if peer.persistent_due_s <= now_s:
            peer.persistent_due_s = now_s + peer.persistent_s
            if not self.keepalive(peer, now):
                self.initiate(peer, now)
        if peer.due_s() == NEVER and peer.current is None and not peer.is_configured:
            self._table.forget(peer)
        self._wakes.set(peer)

    def on_early_reply(self, peer: Peer, reply: bytes | None) -> None:
        """Tell what became of the peer's early request, if it has one."""
        if peer.request is not None:
            request, peer.request = peer.request, None
            self._outbox.put(EarlyReply(peer, request, reply))

    def _retry(self, peer: Peer, now: Now) -> None:
        """Initiate again, or give up: after 90 s, or when nobody wants the session any more."""
        wanted = peer.is_configured or self._is_wanted(peer)
        if wanted and now.mono_s - peer.first_s < GIVE_UP_S:
            peer.started_s = -NEVER
            peer.handshake_due_s = now.mono_s + peer.timing.retry_s
            self.initiate(peer, now)
            return
        peer.handshake_due_s, peer.solving = NEVER, None
        self._counters.unanswered += len(peer.waiting)
        peer.waiting.clear()
        self._table.drop_pending(peer)
        self.on_early_reply(peer, None)
        if peer.usable(now.mono_s) is None:
            peer.is_up = True  # so that its owner hears of it
            self.fall(peer, "unreachable")

    def rise(self, peer: Peer) -> None:
        """Tell that there is a session with the peer, or new keys where that is no news."""
        if peer.is_up:
            self._outbox.put(Rekeyed(peer))
        else:
            peer.is_up = True
            self._outbox.put(PeerUp(peer))

    def fall(self, peer: Peer, reason: str) -> None:
        """Tell that there is none any more, if that is news."""
        if peer.is_up:
            peer.is_up, peer.life = False, b""
            self._outbox.put(PeerDown(peer, reason))

    def on_evicted(self, peers: list[Peer]) -> None:
        """Count and tell who had to make room."""
        for peer in peers:
            peer.wake_s = NEVER
            self._counters.evicted += 1
            self.fall(peer, "evicted")
