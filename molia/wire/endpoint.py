"""The packet machine of one worker: datagrams in, answers and effects out. A core.

`datagram` and `burst` take what came from the socket and return what goes back to its sender at
once; everything else is an effect. Each authenticated plaintext goes to the `Handler`, whose
answer is sealed without a detour. It knows nothing of what the plaintexts mean, but for the two
frames that prove an address (molia profile).
Source: docs/reference/packets.md.
"""

from collections.abc import Sequence
from typing import ClassVar, Final, Protocol

from molia.base.crypto import ExchangeKey, exchange_public
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.limits import PROOF_SIZE_MAX
from molia.base.now import Now
from molia.wire.cookies import Address, CookieSecret
from molia.wire.effects import EarlyReply, Effect, Outbox, Restarted, Send
from molia.wire.frames import PATH_ANSWER, PATH_ASK, PATH_SIZE
from molia.wire.gate import Admission, Counters, OpenAdmission
from molia.wire.handshake import EarlyHandler, EndpointConfig, Handshaker
from molia.wire.hello import REQUEST_SIZE_MAX
from molia.wire.noise import NO_PSK, Profile
from molia.wire.packet import (
    COOKIE,
    DATA,
    DATA_SIZE_MIN,
    INITIATION,
    RESPONSE,
    size_fits,
)
from molia.wire.paths import Paths
from molia.wire.peer import NEVER, SILENCE_S, Peer
from molia.wire.peers import PeerTable
from molia.wire.puzzle import PuzzleTrailer
from molia.wire.session import Session
from molia.wire.upkeep import Upkeep
from molia.wire.wakes import Wakes

HURRY_GAP_S: Final = 1.0
"""A cookie makes us try again at once, but not more often than this."""
_PATHS: Final = (PATH_ASK, PATH_ANSWER)


class Handler(EarlyHandler, Protocol):
    """Who takes what peers say. Called inside `datagram` and `burst`; it must not block."""

    def on_plaintext(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Take one packet's plaintext; return one to be sealed and sent back at once."""
        ...

    def on_plaintexts(self, peer: Peer, plaintexts: list[bytes], now: Now) -> Sequence[bytes]:
        """Take those of a burst; return any number to be sent back at once."""
        ...

    def is_wanted(self, peer: Peer) -> bool:
        """Tell whether anyone waits for a session with a peer that does not answer."""
        ...


class Endpoint:
    """One worker's sessions with everyone.

    identity: our Ed25519 key, of which `static` is the X25519 form; None in the wireguard profile.
    secret: of cookies; give all workers one that is made from the same root.
    """

    handshaker: ClassVar[type[Handshaker]] = Handshaker

    def __init__(
        self, profile: Profile, *, static: ExchangeKey, identity: PeerKey | None, entropy: Entropy,
        handler: Handler, admission: Admission | None = None, secret: CookieSecret | None = None,
        config: EndpointConfig | None = None,
    ) -> None:  # fmt: skip
        config = config or EndpointConfig()
        self.counters = Counters()
        self._handler, self._config = handler, config
        self._is_molia = profile.is_molia
        self._table = PeerTable(entropy, worker=config.worker)
        self._sessions = self._table.sessions
        self._handshaker = self.handshaker(
            profile, static=static, identity=identity, entropy=entropy, early=handler,
            admission=admission or OpenAdmission(), table=self._table, counters=self.counters,
            secret=secret or CookieSecret.fresh(entropy), config=config,
        )  # fmt: skip
        self._profile = profile
        self._wakes, self._outbox = Wakes(), Outbox(self.counters)
        self._paths = Paths(self.counters, entropy, self._outbox, is_molia=profile.is_molia)
        self._upkeep = Upkeep(
            handshaker=self._handshaker, table=self._table, wakes=self._wakes, paths=self._paths,
            outbox=self._outbox, counters=self.counters, is_wanted=handler.is_wanted,
        )  # fmt: skip

    # ------------------------------------------------------------------------ packets in

    def datagram(self, data: bytes, address: Address, now: Now) -> bytes | None:
        """Take one datagram; return what goes back to its address at once."""
        self.counters.packets_in += 1
        if data[:4] != DATA:
            return self._handshake(data, address, now)
        session = self._sessions.get(data[4:8])
        if session is None or len(data) < DATA_SIZE_MIN:
            self._count_unknown(data)
            return None
        plaintext = session.open(data, now.mono_s)
        if plaintext is None:
            self._count_refused(session)
            return None
        peer = session.peer
        if (
            session is peer.current
            and address == peer.address
            and peer.proved
            and plaintext
            and (plaintext[0] not in _PATHS or not self._is_molia)
            and now.mono_s < peer.rekey_heard_s
        ):
            return self._exchange(peer, session, plaintext, now)
        self._on_authentic(session, peer, address, len(data), now, has_data=plaintext != b"")
        if not plaintext:
            return None
        if len(plaintext) == PATH_SIZE and self._is_molia and plaintext[0] in _PATHS:
            return self._on_path(peer, plaintext, now)
        answer = self._handler.on_plaintext(peer, plaintext, now)
        return None if answer is None else self.seal(peer, answer, now)

    def _exchange(self, peer: Peer, session: Session, plaintext: bytes, now: Now) -> bytes | None:
        """Hand a plaintext over and seal its answer: the common case, with nothing else due.

        Does what `on_heard` and then `seal` would do, without the detours of a packet that comes
        alone.
        """
        answer = self._handler.on_plaintext(peer, plaintext, now)
        now_s = now.mono_s
        if answer is None or now_s >= peer.rekey_sent_s or peer.persistent_s:
            peer.on_heard(now_s, data=not self._is_molia)
            if peer.keepalive_due_s < peer.wake_s:
                self._wakes.set(peer)
            return None if answer is None else self.seal(peer, answer, now)
        if not session.is_alive(now_s):
            return None
        peer.heard_s = now_s
        if self._is_molia:
            peer.silence_due_s = NEVER
            return session.seal(answer)
        peer.keepalive_due_s, peer.silence_due_s = NEVER, now_s + SILENCE_S
        if peer.silence_due_s < peer.wake_s:
            self._wakes.set(peer)
        return session.seal(_padded(answer))

    def burst(self, packets: Sequence[bytes], address: Address, now: Now) -> list[bytes]:
        """Take datagrams of one sender, as GRO gives them; return what goes back at once."""
        head = packets[0][:8] if packets else b""
        session = self._sessions.get(head[4:]) if head[:4] == DATA else None
        if session is None or any(len(p) < DATA_SIZE_MIN or p[:8] != head for p in packets):
            answers = [self.datagram(packet, address, now) for packet in packets]
            return [answer for answer in answers if answer is not None]
        self.counters.packets_in += len(packets)
        plaintexts = session.open_many(packets, now.mono_s)
        if len(plaintexts) < len(packets):
            self._count_refused(session, len(packets) - len(plaintexts))
            if not plaintexts:
                return []
        peer, size = session.peer, sum(map(len, packets))
        has_data = any(plaintexts)
        self._on_authentic(session, peer, address, size, now, has_data=has_data)
        if not has_data:
            return []
        answers_out: list[bytes] = []
        kept = self._without_paths(peer, plaintexts, now, answers_out)
        back = self._handler.on_plaintexts(peer, kept, now) if kept else ()
        return answers_out + self.seal_many(peer, back, now) if back else answers_out

    def _without_paths(
        self, peer: Peer, plaintexts: list[bytes], now: Now, answers: list[bytes]
    ) -> list[bytes]:
        """Return the plaintexts for the handler; answers to path frames go into `answers`."""
        if not self._is_molia:
            return [plaintext for plaintext in plaintexts if plaintext]
        kept = []
        for plaintext in plaintexts:
            if len(plaintext) == PATH_SIZE and plaintext[0] in _PATHS:
                answer = self._on_path(peer, plaintext, now)
                if answer is not None:
                    answers.append(answer)
            elif plaintext:
                kept.append(plaintext)
        return kept

    def _count_unknown(self, data: bytes) -> None:
        if len(data) < DATA_SIZE_MIN:
            self.counters.bad_size += 1
        else:
            self.counters.unknown_index += 1

    def _count_refused(self, session: Session, count: int = 1) -> None:
        counters = self.counters
        known = session.forged + session.replayed
        counters.forged += session.forged
        counters.replayed += session.replayed
        counters.expired += count - known
        session.forged = session.replayed = 0

    def _on_authentic(
        self, session: Session, peer: Peer, address: Address, size: int, now: Now, *, has_data: bool
    ) -> None:
        """Follow a peer whose packet was sound: its keys, its address, its timers."""
        if session is peer.next:
            self._on_first(session, peer, address, now)
        if address != peer.address:
            self._paths.move(peer, address)
        if not peer.proved:
            self._paths.ask(peer, size, now)
        peer.on_heard(now.mono_s, data=has_data and not self._is_molia)
        if now.mono_s >= peer.rekey_heard_s:
            peer.rekey_heard_s = NEVER
            self._upkeep.initiate(peer, now)
        if peer.keepalive_due_s < peer.wake_s:
            self._wakes.set(peer)

    def _on_first(self, session: Session, peer: Peer, address: Address, now: Now) -> None:
        """Use new keys, now that the initiator has shown that it has them."""
        self._table.drop_sessions(peer.confirm(session))
        self._note_life(peer, peer.next_life, peer.first_s if peer.pending else NEVER)
        if address == peer.answered_at:
            if address != peer.address:
                self._paths.move(peer, address)
            peer.proved = True
        self._upkeep.on_evicted(self._table.on_confirmed(peer))
        self._upkeep.rise(peer)
        self._wakes.set(peer)
        self._flush(peer, now)

    def _note_life(self, peer: Peer, life: bytes, since_s: float) -> None:
        """Notice when a peer began anew: its old keys and all that was under way are void.

        since_s: since when we want a new session, if we do.
        """
        if life and peer.their_life and life != peer.their_life:
            if peer.previous is not None:
                self._table.drop_sessions([peer.previous])
                peer.previous = None
            self._outbox.put(Restarted(peer, since_s))
        peer.their_life = life

    # ------------------------------------------------------------------------ addresses

    def _on_path(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Take a frame about an address; what waited for proof of it goes out."""
        answer = self._paths.take(peer, plaintext, now)
        if peer.proved:
            self._flush(peer, now)
        return answer

    # ------------------------------------------------------------------------ handshakes

    def _handshake(self, data: bytes, address: Address, now: Now) -> bytes | None:
        kind = data[:4]
        if kind not in (INITIATION, RESPONSE, COOKIE):
            self.counters.bad_type += 1
            return None
        if not size_fits(data, self._profile):
            self.counters.bad_size += 1
            return None
        if kind == INITIATION:
            return self._on_initiation(data, address, now)
        if kind == RESPONSE:
            return self._on_response(data, address, now)
        peer = self._handshaker.on_cookie(data, now)
        if peer is not None and self._is_molia and now.mono_s - peer.hurried_s >= HURRY_GAP_S:
            peer.hurried_s, peer.started_s = now.mono_s, -NEVER
            self._upkeep.initiate(peer, now)  # WireGuard waits for its 5 s timer
        return None

    def _on_initiation(self, data: bytes, address: Address, now: Now) -> bytes | None:
        done = self._handshaker.on_initiation(data, address, now)
        if done is None:
            return None
        answer, peer, evicted = done
        self._upkeep.on_evicted(evicted)
        if peer is not None and peer.key in self._table.confirmed:
            peer.on_sent(now.mono_s, data=False)
            self._wakes.set(peer)
        return answer

    def _on_response(self, data: bytes, address: Address, now: Now) -> bytes | None:
        done = self._handshaker.on_response(data, address, now)
        if done is None or isinstance(done, bytes):
            return done
        session, welcome = done
        peer = session.peer
        if address != peer.address:
            self._paths.move(peer, address)
            peer.credit = len(data)
        peer.on_heard(now.mono_s, data=False)
        peer.handshake_due_s = NEVER
        peer.features, peer.effort = welcome.features, welcome.effort
        self._note_life(peer, welcome.life, peer.first_s)
        self._table.primary[peer.static] = peer
        self._upkeep.rise(peer)
        self._upkeep.on_early_reply(peer, welcome.reply)
        if not self._flush(peer, now):
            self._upkeep.keepalive(peer, now)  # the responder waits for our first packet
        self._wakes.set(peer)
        return None

    # ------------------------------------------------------------------------ packets out

    def connect(
        self, key: PeerKey, address: Address, now: Now, *, request: bytes | None = None
    ) -> Peer | None:
        """Return the peer of this key, a handshake with it begun if there is no session.

        request: early data, of at most REQUEST_SIZE_MAX bytes, that may reach the peer twice; its
        answer comes as `EarlyReply`. If there is a session, or an initiation is under way already,
        it is not sent: an EarlyReply without a reply comes at once.
        None: the key is our own or nobody's. Molia profile.
        """
        assert request is None or len(request) <= REQUEST_SIZE_MAX, "early data has a size"
        static = self.static_of(key)
        if static is None or self._handshaker.is_own(static):
            return None
        peer = self._table.primary.get(static) or self._table.find(static + b"\0")
        if peer is None:
            peer = Peer(static, identity=key, address=address, timing=self._config.timing)
            caller = self._table.caller(static)
            if caller is not None:
                peer.life = caller.life  # both may turn out to be the same worker
        if peer.usable(now.mono_s) is None:
            peer.address, peer.proved = address, True
            self._table.unconfirmed.pop(peer.key, None)
            self._upkeep.on_evicted(self._table.add(peer))
            if peer.request is None and peer.may_initiate(now.mono_s):
                peer.request, request = request, None
            self._upkeep.initiate(peer, now)
        if request is not None:
            self._outbox.put(EarlyReply(peer, request, None))
        return peer

    def configure(
        self, static: bytes, now: Now, *, psk: bytes = NO_PSK, address: Address | None = None,
        persistent_s: float = 0.0,
    ) -> Peer:  # fmt: skip
        """Return the configured peer of an X25519 key, which is never evicted. Wireguard profile.

        persistent_s: send at least this often, for a peer behind NAT; 0 for never.
        """
        peer = Peer(static, identity=None, address=address, timing=self._config.timing, psk=psk)
        peer.is_configured, peer.persistent_s = True, persistent_s
        if persistent_s:
            peer.persistent_due_s = now.mono_s
        self._table.add(peer)
        self._wakes.set(peer)
        return peer

    def keep_alive(self, peer: Peer, every_s: float, now: Now) -> None:
        """Send to `peer` at least this often, because one of us is behind NAT; 0 stops it."""
        peer.persistent_s = every_s
        peer.persistent_due_s = now.mono_s + every_s if every_s else NEVER
        self._wakes.set(peer)

    def send(self, peer: Peer, plaintext: bytes, now: Now) -> bool:
        """Send one plaintext as an effect; without a session it waits for one. False: dropped."""
        packet = self.seal(peer, plaintext, now)
        if packet is not None and peer.address is not None:
            self._outbox.put(Send(peer.address, (packet,)))
            return True
        if not peer.queue(plaintext):
            self.counters.waiting_full += 1
            return False
        return True

    def knock(self, peer: Peer, now: Now) -> None:
        """Begin a handshake with a peer that has no session, or may have lost it."""
        self._upkeep.initiate(peer, now)

    def seal(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Return one data packet to `peer`; None when there is no session or no right to send.

        Without a session a handshake is begun, here and in `seal_many`.
        """
        size = len(plaintext) + DATA_SIZE_MIN
        session = self._ready(peer, size, now, awaited=not self._is_molia)
        if session is None:
            return None
        return session.seal(plaintext if self._is_molia else _padded(plaintext))

    def seal_many(self, peer: Peer, plaintexts: Sequence[bytes], now: Now) -> list[bytes]:
        """Return data packets to `peer` for GSO; none where `seal` would return None."""
        size = sum(map(len, plaintexts)) + DATA_SIZE_MIN * len(plaintexts)
        session = self._ready(peer, size, now, awaited=True)
        if session is None:
            return []
        if not self._is_molia:
            plaintexts = [_padded(plaintext) for plaintext in plaintexts]
        return session.seal_many(plaintexts)

    def _ready(self, peer: Peer, size: int, now: Now, *, awaited: bool) -> Session | None:
        """Return the session that `size` bytes of data go out in; they count as sent.

        awaited: silence after them means that the session is lost. A small request notices that
        itself, and nobody answers a reply.
        """
        session, now_s = peer.current, now.mono_s
        if session is None or not session.is_alive(now_s):
            self._upkeep.initiate(peer, now)
            return None
        if not peer.proved and not self._paths.spend(peer, size):
            return None
        peer.on_sent(now_s, data=awaited)
        if now_s >= peer.rekey_sent_s:
            self._upkeep.initiate(peer, now)
        if peer.silence_due_s < peer.wake_s:
            self._wakes.set(peer)
        return session

    def _flush(self, peer: Peer, now: Now) -> bool:
        """Send what waited for this session; tell whether anything did."""
        if not peer.waiting or peer.address is None:
            return False
        packets = self.seal_many(peer, peer.waiting, now)
        if packets:
            peer.waiting.clear()
            self._outbox.put(Send(peer.address, packets))
        return bool(packets)

    # ------------------------------------------------------------------------ effects and time

    def take_effects(self) -> list[Effect]:
        """Return what is to be done since the last call."""
        return self._outbox.take()

    @property
    def has_effects(self) -> bool:
        """Tell whether `take_effects` has something."""
        return len(self._outbox) > 0

    def set_proof(self, proof: bytes) -> None:
        """Let our initiations carry this admission proof from now on."""
        assert len(proof) <= PROOF_SIZE_MAX, "a proof has a bound"
        self._handshaker.proof = proof

    def find(self, key: PeerKey) -> Peer | None:
        """Return the peer to send to for this identity, if there is one."""
        static = self.static_of(key)
        return self._table.primary.get(static) if static else None

    def static_of(self, key: PeerKey) -> bytes | None:
        """Return the key that a peer is known by in handshakes; None when it is nobody's."""
        return exchange_public(key)

    @property
    def peer_count(self) -> int:
        """How many peers are kept."""
        return len(self._table.confirmed) + len(self._table.unconfirmed)

    @property
    def session_count(self) -> int:
        """How many sessions are kept, those that wait for their first packet included."""
        return len(self._sessions)

    def close(self, peer: Peer) -> None:
        """Forget a peer and its keys. Say so to the peer before, if it should know."""
        self._table.forget(peer)
        self._upkeep.fall(peer, "closed")

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline`; None while there is nothing to wait for."""
        due_s = self._wakes.next_s()
        if self._table.unconfirmed:
            due_s = min(due_s, self._table.unconfirmed_due_s())
        return None if due_s == NEVER else due_s

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        while self._table.unconfirmed_due_s() <= now.mono_s:
            self._table.forget(next(iter(self._table.unconfirmed.values())))
        while (peer := self._wakes.take_due(now.mono_s)) is not None:
            self._upkeep.wake(peer, now)

    def on_solved(
        self, peer: Peer, ephemeral: ExchangeKey, trailer: PuzzleTrailer, now: Now
    ) -> None:
        """Take the answer to a `SolvePuzzle`; it must be for that effect's ephemeral key."""
        self._upkeep.on_solved(peer, ephemeral, trailer, now)


def _padded(plaintext: bytes) -> bytes:
    """Return an inner packet padded to 16 bytes, as WireGuard does; it knows its own length."""
    return plaintext + bytes(-len(plaintext) % 16)
