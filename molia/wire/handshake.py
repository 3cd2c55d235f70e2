"""Making and reading the handshake's messages, in the order of checks that floods leave cheap.

An initiation costs what it must to be refused: its size, then mac1 (0.6 us), then under load mac2,
then the door (rates, puzzle), and only then Diffie-Hellman (100 us). Until a message has shown
that its sender has the key that it names, nothing is kept of it.
Source: docs/reference/packets.md, "Order of checks".
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from molia.base.crypto import ExchangeKey, maps_to
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.limits import EARLY_DATA_SIZE_MIN
from molia.base.now import Now
from molia.wire.bodies import Number
from molia.wire.cookies import Address, CookieSecret, MacChecker, mac1_key, open_cookie, stamp
from molia.wire.features import VERSIONS, features_agree, negotiate_version
from molia.wire.gate import Admission, Counters, Verdict
from molia.wire.hello import (
    LIFE_SIZE,
    Hello,
    Welcome,
    decode_hello,
    decode_welcome,
    encode_hello,
    encode_welcome,
    tai64n,
)
from molia.wire.noise import Initiator, Profile, Responder, TransportKeys
from molia.wire.packet import (
    MAC,
    MACS,
    TIMESTAMP,
    Initiation,
    Response,
    encode_initiation,
    encode_response,
    parse_cookie,
    parse_initiation,
    parse_response,
    worker_of,
)
from molia.wire.peer import (
    RETRY_JITTER_S,
    WIREGUARD_TIMING,
    Peer,
    Pending,
    Timing,
)
from molia.wire.peers import PeerTable
from molia.wire.puzzle import PuzzleTrailer
from molia.wire.scores import Offence
from molia.wire.session import Session

_PING = bytes((Number.PING,))
"""The one early request whose answer fits without padding."""


class EarlyHandler(Protocol):
    """Who answers the request in an initiation."""

    def on_early(
        self, identity: PeerKey, address: Address, request: bytes, now: Now
    ) -> bytes | None:
        """Return the answer; it may be asked the same twice, and must do no harm then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What an endpoint is told once."""

    worker: int = 0
    """Our number, which all our indices carry; 0 to 15."""
    features: int = 0
    """Feature bits that we have; a peer that lacks an even one of them refuses us."""
    versions: tuple[int, int] = VERSIONS
    """The lowest and the highest version of the protocol that we speak."""
    timing: Timing = WIREGUARD_TIMING


class Handshaker:
    """The handshakes of one endpoint. It changes peers and tables; the endpoint sends.

    The parts that encrypt are named here, so that the simulator can do without.
    """

    initiator: ClassVar[type[Initiator]] = Initiator
    responder: ClassVar[type[Responder]] = Responder
    session: ClassVar[type[Session]] = Session

    def __init__(
        self, profile: Profile, *, static: ExchangeKey, identity: PeerKey | None,
        entropy: Entropy, early: EarlyHandler, admission: Admission, secret: CookieSecret,
        table: PeerTable, counters: Counters, config: EndpointConfig,
    ) -> None:  # fmt: skip
        assert identity is None or self.is_pair(identity, static.public), "one key, two forms"
        assert not profile.is_molia or identity is not None, "the molia profile shows an identity"
        self.profile, self._static, self._identity = profile, static, identity
        self._entropy, self._early, self._admission = entropy, early, admission
        self._table, self._counters, self._config = table, counters, config
        self._macs = MacChecker(profile, static.public, secret)
        self._timestamp = b""
        """The newest of the clock."""
        self.proof = b""
        """Our admission proof, which our initiations carry once there is one."""

    @staticmethod
    def is_pair(identity: PeerKey, static: bytes) -> bool:
        """Tell whether an identity and a static key are one key in two forms."""
        return maps_to(identity, static)

    # -- ours

    def fresh_key(self) -> ExchangeKey:
        """Return a new ephemeral key."""
        return ExchangeKey(self._entropy.token(32))

    def initiate(
        self, peer: Peer, now: Now, ephemeral: ExchangeKey, trailer: PuzzleTrailer
    ) -> bytes:
        """Return an initiation to `peer`; b"" when its key is nobody's."""
        noise = self.initiator(
            self.profile, static=self._static, responder=peer.static, ephemeral=ephemeral
        )
        sealed = noise.initiate(self._payload(peer, now))
        if sealed is None:
            return b""
        self._table.drop_pending(peer)
        index = self._table.new_index()
        parts = Initiation(
            index, ephemeral.public, *sealed, trailer if self.profile.is_molia else None
        )
        packet = self._stamped(peer, encode_initiation(parts), now.mono_s)
        peer.pending = Pending(noise, index)
        self._table.pendings[index] = peer
        self._counters.initiations_out += 1
        return packet

    def retry_s(self) -> float:
        """Return how long to wait for a response: 5 s and a bit, so that two fall out of step."""
        jitter = int.from_bytes(self._entropy.token(2), "little") / 0x10000
        return self._config.timing.retry_s + jitter * RETRY_JITTER_S

    def _payload(self, peer: Peer, now: Now) -> bytes:
        timestamp = self._next_timestamp(peer, now)
        if self._identity is None or not self.profile.is_molia:
            return timestamp
        hello = Hello(
            timestamp=timestamp, identity=self._identity,
            features=self._config.features, proof=self.proof, request=peer.request,
            life=self._life_of(peer), versions=self._config.versions,
        )  # fmt: skip
        is_large = peer.request is not None and peer.request[:1] != _PING
        size_min = EARLY_DATA_SIZE_MIN if is_large else 0
        return encode_hello(hello, packet_size_min=size_min)

    def _next_timestamp(self, peer: Peer, now: Now) -> bytes:
        """Return a timestamp after all that this peer was sent, also when the clock was set back.

        Not after all that others were sent: it would run ahead of the clock, and after a restart
        we would be taken for a replay until the clock is there.
        """
        stamp, last = tai64n(now.unix_s), self._timestamp
        self._timestamp = stamp if stamp >= last else tai64n(now.unix_s, last)
        is_later = self._timestamp > peer.stamped
        peer.stamped = self._timestamp if is_later else tai64n(now.unix_s, peer.stamped)
        return peer.stamped

    def _life_of(self, peer: Peer) -> bytes:
        """Return the name of our memory of a peer; the endpoint blanks it when that is lost."""
        peer.life = peer.life or self._entropy.token(LIFE_SIZE)
        return peer.life

    def _stamped(self, peer: Peer, body: bytes, now_s: float) -> bytes:
        key = mac1_key(self.profile, peer.static)
        packet = stamp(body, key=key, cookie=peer.fresh_cookie(now_s))
        peer.last_mac1 = packet[-MACS:-MAC]
        return packet

    def is_own(self, static: bytes) -> bool:
        """Tell whether this is our own key."""
        return static == self._static.public

    def on_response(
        self, packet: bytes, address: Address, now: Now
    ) -> tuple[Session, Welcome] | bytes | None:
        """Return the session that a response opens and what it says, or a cookie reply."""
        counters = self._counters
        if not self._macs.mac1_holds(packet):
            counters.bad_mac1 += 1
            return None
        parts = parse_response(packet)
        peer = self._table.pendings.get(parts.receiver)
        if peer is None or peer.pending is None:
            counters.unknown_index += 1
            return None
        if not self.profile.is_molia and self._must_prove(packet, address, now):
            return self._cookie(packet, address, now)
        psk = self.profile.psk if self.profile.is_molia else peer.psk
        finished = peer.pending.noise.finish(parts.ephemeral, parts.sealed_payload, psk=psk)
        if finished is None:
            counters.bad_response += 1
            return None
        welcome = self._read_welcome(finished[0])
        if welcome is None:
            return None
        return self._open_session(peer, parts, finished[1], now), welcome

    def _read_welcome(self, payload: bytes) -> Welcome | None:
        """Return what a response says; None, counted, when we cannot live with it."""
        if not self.profile.is_molia:
            welcome = None if payload else Welcome()
        else:
            welcome = decode_welcome(payload)
        if welcome is None:
            self._counters.bad_hello += 1
        elif not features_agree(welcome.features, self._config.features):
            self._counters.unknown_feature += 1
            return None
        elif negotiate_version(self._config.versions, welcome.versions) is None:
            self._counters.no_common_version += 1
            return None
        return welcome

    def _open_session(self, peer: Peer, parts: Response, keys: TransportKeys, now: Now) -> Session:
        assert peer.pending is not None, "a response answers an initiation"
        index = peer.pending.index
        self._table.drop_pending(peer)
        if self.profile.is_molia:
            self._table.move(peer, worker_of(parts.sender))
        session = self.session(
            keys, index=index, remote=parts.sender, is_initiator=True, peer=peer, now_s=now.mono_s
        )
        self._table.put_session(session, peer.install(session))
        self._counters.handshakes_out += 1
        return session

    def on_cookie(self, packet: bytes, now: Now) -> Peer | None:
        """Keep the cookie that a peer sent to our last message; return who should try again."""
        reply = parse_cookie(packet)
        peer = self._table.pendings.get(reply.receiver)
        session = self._table.sessions.get(reply.receiver)
        known = peer or (session.peer if session else None)
        if known is None:
            self._counters.unknown_index += 1
            return None
        opened = open_cookie(self.profile, known.static, reply, known.last_mac1)
        if opened is None:
            self._counters.bad_cookie += 1
            return None
        known.cookie, known.cookie_s = opened[0], now.mono_s
        known.effort = opened[1]
        self._counters.cookies_in += 1
        return peer

    # -- theirs

    def on_initiation(
        self, packet: bytes, address: Address, now: Now
    ) -> tuple[bytes, Peer | None, list[Peer]] | None:
        """Return (answer, the peer of a response, peers that made room); None for silence.

        The answer is never longer than the packet.
        """
        counters = self._counters
        if not self._macs.mac1_holds(packet):
            counters.bad_mac1 += 1
            return None
        if self._must_prove(packet, address, now):
            return self._cookie(packet, address, now), None, []
        parts = parse_initiation(packet, self.profile)
        verdict = self._admission.admit(
            address, parts.ephemeral, parts.trailer, self._static.public, now
        )
        if verdict is Verdict.RATE:
            counters.refused_rate += 1
            return None
        if verdict is Verdict.PUZZLE:
            counters.refused_puzzle += 1
            return self._cookie(packet, address, now), None, []
        self._admission.on_handshake(now)
        return self._answer(parts, len(packet), address, now)

    def _must_prove(self, packet: bytes, address: Address, now: Now) -> bool:
        """Tell whether the sender has to show a cookie first."""
        if not self._admission.under_load(now.mono_s):
            return False
        return not self._macs.mac2_holds(packet, address, now.unix_s)

    def _cookie(self, packet: bytes, address: Address, now: Now) -> bytes:
        self._counters.cookies_out += 1
        return self._macs.reply(
            packet, address, now.unix_s, effort=self._admission.effort(now, address),
            nonce=self._entropy.token(24),
        )  # fmt: skip

    def _answer(
        self, parts: Initiation, size: int, address: Address, now: Now
    ) -> tuple[bytes, Peer, list[Peer]] | None:
        """Return the response to an initiation that came through the door."""
        noise = self.responder(self.profile, static=self._static)
        static = noise.read_static(parts.ephemeral, parts.sealed_static)
        if static is None or static == self._static.public:
            self._count_static(static)
            return None
        worker = worker_of(parts.sender) if self.profile.is_molia else 0
        key = static + bytes((worker,))
        if not self.profile.is_molia and self._table.find(key) is None:
            self._counters.unknown_peer += 1
            return None
        payload = noise.read_payload(parts.sealed_payload)
        if payload is None:
            self._counters.bad_initiation += 1
            return None
        if not self._is_in_order(key, payload[:TIMESTAMP], now):
            return None
        hello = self._read_hello(payload, static, address, now) if self.profile.is_molia else None
        if hello is None and self.profile.is_molia:
            return None
        reply = self._early_reply(hello, address, now)
        peer = self._table.find(key)  # only now: who answers may have called back, and made it
        if peer is None:
            peer = Peer(static, identity=None, address=None, timing=self._config.timing,
                        worker=worker)  # fmt: skip
            guess = self._table.primary.get(static)
            if guess is not None and not guess.has_sessions:
                peer.life = self._life_of(guess)  # both may turn out to be the same worker
        answer = self._welcome(peer, hello, reply, size, address, now)
        return self._respond(noise, peer, parts.sender, answer, hello, address, now)

    def _count_static(self, static: bytes | None) -> None:
        if static is None:
            self._counters.bad_initiation += 1
        else:
            self._counters.reflected += 1

    def _is_in_order(self, key: bytes, timestamp: bytes, now: Now) -> bool:
        """Tell whether an initiation is new and not one of a stream of them; note it."""
        timestamps = self._table.timestamps
        if not timestamps.is_newer(key, timestamp):
            self._counters.stale_timestamp += 1
            return False
        if timestamps.is_too_soon(key, now.mono_s):
            self._counters.too_frequent += 1
            return False
        timestamps.note(key, timestamp, now.mono_s)
        return True

    def _read_hello(
        self, payload: bytes, static: bytes, address: Address, now: Now
    ) -> Hello | None:
        """Return what a stranger says of itself; None, counted, when it will not do."""
        counters, hello = self._counters, decode_hello(payload)
        if hello is None:
            counters.bad_hello += 1
        elif not self.is_pair(hello.identity, static):
            counters.wrong_identity += 1
            self._admission.penalise(None, address, Offence.WRONG_ID, now.mono_s)
        elif not features_agree(hello.features, self._config.features):
            counters.unknown_feature += 1
        elif negotiate_version(self._config.versions, hello.versions) is None:
            counters.no_common_version += 1
        elif not self._admission.allows(hello.identity, address, now):
            counters.refused_identity += 1
        else:
            return hello
        return None

    def _early_reply(self, hello: Hello | None, address: Address, now: Now) -> bytes | None:
        if hello is None or hello.request is None:
            return None
        return self._early.on_early(hello.identity, address, hello.request, now)

    def _welcome(
        self, peer: Peer, hello: Hello | None, reply: bytes | None, size: int, address: Address,
        now: Now,
    ) -> bytes:  # fmt: skip
        """Return the payload of the response to an initiation of `size` bytes."""
        if hello is None:
            return b""
        welcome = Welcome(
            features=self._config.features,
            reply=reply,
            effort=self._admission.effort(now, address),
            life=self._life_of(peer),
            versions=self._config.versions,
        )
        return encode_welcome(welcome, packet_size_max=size)

    def _respond(
        self, noise: Responder, peer: Peer, sender: bytes, payload: bytes, hello: Hello | None,
        address: Address, now: Now,
    ) -> tuple[bytes, Peer, list[Peer]] | None:  # fmt: skip
        """Return the response, its session in the peer's next slot."""
        psk = self.profile.psk if self.profile.is_molia else peer.psk
        ephemeral = self.fresh_key()
        done = noise.respond(payload, ephemeral=ephemeral, psk=psk)
        if done is None:
            self._counters.bad_initiation += 1
            return None
        sealed, keys = done
        index = self._table.new_index()
        parts = Response(index, sender, ephemeral.public, sealed)
        packet = self._stamped(peer, encode_response(parts), now.mono_s)
        if hello is not None:
            peer.identity, peer.features, peer.proof = hello.identity, hello.features, hello.proof
            peer.next_life = hello.life
        evicted = self._seat(peer, address)
        session = self.session(
            keys, index=index, remote=sender, is_initiator=False, peer=peer, now_s=now.mono_s
        )
        self._table.put_session(session, peer.install(session))
        self._counters.handshakes_in += 1
        return packet, peer, evicted

    def _seat(self, peer: Peer, address: Address) -> list[Peer]:
        """Give a peer that was answered its place; return those that made room for it.

        A new peer gets nothing but this answer until it shows that it is at its address. A known
        one stays where it was until it sends from elsewhere, but WireGuard moves it at once.
        """
        peer.answered_at = address
        if self._table.find(peer.key) is peer:
            if not self.profile.is_molia:
                peer.address = address
            return []
        peer.address, peer.proved, peer.credit = address, False, 0
        return self._table.add_unconfirmed(peer)
