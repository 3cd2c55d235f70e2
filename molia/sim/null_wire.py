"""The real transport without its ciphers: the same packets at the same instants, in clear.

Everything that decides is `molia.wire`'s own: timers, sessions, requests, retries, proofs of
addresses. Only what encrypts is replaced by something of the same size, so that ten thousand nodes
fit in one process: keys are names, a sealed text is the text and sixteen bytes. There is no
forgery to notice here, and no cookie: floods are for the real transport.
Source: docs/reference/simulator.md, "The null wire".
"""

from struct import Struct
from typing import ClassVar, Final

from molia.base.crypto import ExchangeKey, Identity
from molia.base.ids import PeerKey
from molia.wire.cookies import MacChecker
from molia.wire.endpoint import Endpoint
from molia.wire.handshake import Handshaker
from molia.wire.noise import Initiator, Responder, TransportKeys
from molia.wire.packet import DATA, DATA_HEAD, MAC, MACS, TAG
from molia.wire.peer import Peer
from molia.wire.session import REJECT_AFTER_S, Session
from molia.wire.transport import Transport

_NO_TAG: Final = bytes(TAG)
_NO_MACS: Final = bytes(MACS)
_NO_MAC: Final = bytes(MAC)
_NO_KEYS: Final = TransportKeys(b"", b"", b"")
_NO_BUFFER: Final = bytearray()
_pack_head: Final = Struct("<4s4sQ").pack
_counter_at: Final = Struct("<8xQ").unpack_from


class _NullKey(ExchangeKey):
    """A key that is nothing but its public half."""

    __slots__ = ()

    def __init__(self, public: bytes) -> None:
        self.public = public


class NullIdentity(Identity):
    """A name that signs nothing: for nodes of which many must be made, to find a few."""

    __slots__ = ()

    def __init__(self, key: bytes) -> None:
        self.peer_key, self.exchange_key = PeerKey(key), _NullKey(key)


class _NullInitiator(Initiator):
    __slots__ = ()

    def initiate(self, payload: bytes) -> tuple[bytes, bytes] | None:
        """Return the static key and the payload, each with a tag; the first names the responder."""
        return self._static.public + self.responder[:TAG], payload + _NO_TAG

    def finish(
        self, ephemeral: bytes, sealed: bytes, *, psk: bytes
    ) -> tuple[bytes, TransportKeys] | None:
        """Return message 2's payload."""
        return sealed[:-TAG], _NO_KEYS


class _NullResponder(Responder):
    __slots__ = ()

    def __init__(self, _: object, *, static: ExchangeKey) -> None:
        self._static = static

    def read_static(self, ephemeral: bytes, sealed_static: bytes) -> bytes | None:
        """Return the initiator's key. None: the message was not made for us."""
        made_for_us = sealed_static[-TAG:] == self._static.public[:TAG]
        return sealed_static[:-TAG] if made_for_us else None

    def read_payload(self, sealed_payload: bytes) -> bytes | None:
        """Return message 1's payload."""
        return sealed_payload[:-TAG]

    def respond(
        self, payload: bytes, *, ephemeral: ExchangeKey, psk: bytes
    ) -> tuple[bytes, TransportKeys] | None:
        """Return message 2's payload, with a tag."""
        return payload + _NO_TAG, _NO_KEYS


class _NullSession(Session):
    """Counters and the replay window are the real ones."""

    __slots__ = ()

    def __init__(
        self, keys: TransportKeys, *, index: bytes, remote: bytes, is_initiator: bool,
        peer: Peer, now_s: float,
    ) -> None:  # fmt: skip
        self.index, self.remote, self.peer = index, remote, peer
        self.is_initiator, self.created_s = is_initiator, now_s
        self.dead_s = now_s + REJECT_AFTER_S
        self.sent = self.forged = self.replayed = 0
        self._keys, self._seal, self._open = _NO_BUFFER, None, None
        self._highest, self._missing = -1, 0

    def seal(self, plaintext: bytes) -> bytes:
        """Return the next data packet."""
        counter = self.sent
        self.sent = counter + 1
        return _pack_head(DATA, self.remote, counter) + plaintext + _NO_TAG

    def seal_many(self, plaintexts: "list[bytes]") -> list[bytes]:  # type: ignore[override]
        """Return the next data packets."""
        return [self.seal(plaintext) for plaintext in plaintexts]

    def open(self, packet: bytes, now_s: float) -> bytes | None:
        """Return what a data packet holds; None: it came before, or too late."""
        if now_s >= self.dead_s:
            return None
        (counter,) = _counter_at(packet)
        if counter == self._highest + 1 and not self._missing:
            self._highest = counter
        elif not self._accept(counter):
            return None
        return packet[DATA_HEAD:-TAG]

    def open_many(self, packets: "list[bytes]", now_s: float) -> list[bytes]:  # type: ignore[override]
        """Return what a burst holds."""
        opened = [self.open(packet, now_s) for packet in packets]
        return [plaintext for plaintext in opened if plaintext is not None]


class _NullMacs(MacChecker):
    __slots__ = ()

    def __init__(self) -> None:
        """Check nothing: no key is needed."""

    def mac1_holds(self, packet: bytes) -> bool:
        """Believe."""
        return True


_MACS: Final = _NullMacs()


class _NullHandshaker(Handshaker):
    initiator: ClassVar[type[Initiator]] = _NullInitiator
    responder: ClassVar[type[Responder]] = _NullResponder
    session: ClassVar[type[Session]] = _NullSession

    def be_null(self) -> None:
        """Go by the identity itself, and believe every MAC."""
        assert self._identity is not None, "the molia profile shows an identity"
        self._static, self._macs = _NullKey(self._identity.key), _MACS

    def fresh_key(self) -> ExchangeKey:
        """Return an ephemeral key; as many bytes are drawn as for a real one."""
        return _NullKey(self._entropy.token(32))

    def _stamped(self, peer: Peer, body: bytes, now_s: float) -> bytes:
        peer.last_mac1 = _NO_MAC
        return body + _NO_MACS

    @staticmethod
    def is_pair(identity: PeerKey, static: bytes) -> bool:
        """Tell whether they are the same; anything goes before `be_null`."""
        return len(identity.key) == len(static)


class _NullEndpoint(Endpoint):
    handshaker: ClassVar[type[Handshaker]] = _NullHandshaker

    def be_null(self) -> None:
        """See `_NullHandshaker.be_null`."""
        assert isinstance(self._handshaker, _NullHandshaker), "made by this class"
        self._handshaker.be_null()

    def static_of(self, key: PeerKey) -> bytes | None:
        """Return the key itself."""
        return key.key


class NullTransport(Transport):
    """One node's conversations, in clear. Its doors are `Transport`'s."""

    endpoint_type: ClassVar[type[Endpoint]] = _NullEndpoint

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        assert isinstance(self.endpoint, _NullEndpoint), "made by this class"
        self.endpoint.be_null()
