"""What rides in a handshake: a timestamp, then in our profile fields of type, length and value.

A field of an unknown odd type is skipped; an unknown even one refuses the handshake, and so does
one that comes twice. Type 0 has no length: all that follows it is padding. Feature bits follow the
same rule by their position.
Source: docs/reference/packets.md, "Payload".
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from molia.base.ids import PeerKey
from molia.base.limits import HANDSHAKE_SIZE_MAX, PROOF_SIZE_MAX
from molia.wire.packet import INITIATION_OVERHEAD, RESPONSE_OVERHEAD, TIMESTAMP
from molia.wire.puzzle import NO_EFFORT, Effort

PADDING, PROOF, IDENTITY, REQUEST, FEATURES, REPLY, EFFORT, LIFE = 0, 1, 2, 3, 4, 5, 7, 9
VERSIONS: Final = 11
_HEAD: Final = Struct("<BH")
_FEATURES: Final = Struct("<Q")
_VERSIONS: Final = Struct("<BB")
_FIRST: Final = (1, 1)

_TAI64_EPOCH: Final = 2**62 + 10
_STAMP_STEP_NS: Final = 1 << 24
"""Timestamps are rounded to 17 ms, so that they tell little of the clock."""
LIFE_SIZE: Final = 8
_FIXED: Final = TIMESTAMP + 3 + 32 + 3 + 8 + 3 + LIFE_SIZE + 3 + _VERSIONS.size
REQUEST_SIZE_MAX: Final = (
    HANDSHAKE_SIZE_MAX - INITIATION_OVERHEAD - _FIXED - (3 + PROOF_SIZE_MAX) - 3
)
"""An early request with this many bytes fits whatever else rides along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Message 1's payload."""

    timestamp: bytes
    identity: PeerKey
    features: int = 0
    proof: bytes = b""
    """Of admission; what is in it is checked elsewhere."""
    request: bytes | None = None
    """Early data: one request that may come twice without harm."""
    life: bytes = b""
    """Names what the sender remembers of this peer; another one means that it began anew."""
    versions: tuple[int, int] = _FIRST
    """The lowest and the highest version of the protocol that the sender speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Message 2's payload."""

    features: int = 0
    reply: bytes | None = None
    effort: Effort = NO_EFFORT
    """The puzzle that the next initiation should answer."""
    life: bytes = b""
    """As in message 1."""
    versions: tuple[int, int] = _FIRST
    """As in message 1."""


def tai64n(unix_s: float, after: bytes = b"") -> bytes:
    """Return the TAI64N timestamp of an instant, or the next one after `after` if that is later."""
    whole = int(unix_s)
    nanos = int((unix_s - whole) * 1e9) // _STAMP_STEP_NS * _STAMP_STEP_NS
    stamp = _stamp(whole + _TAI64_EPOCH, nanos)
    if stamp > after:
        return stamp
    seconds, nanos = int.from_bytes(after[:8], "big"), int.from_bytes(after[8:], "big")
    nanos += _STAMP_STEP_NS
    return _stamp(seconds + 1, 0) if nanos >= 10**9 else _stamp(seconds, nanos)


def _stamp(seconds: int, nanos: int) -> bytes:
    return seconds.to_bytes(8, "big") + nanos.to_bytes(4, "big")


def encode_hello(hello: Hello, *, packet_size_min: int = 0) -> bytes:
    """Return message 1's payload, padded so that the packet has at least that size."""
    fields = [(IDENTITY, hello.identity.key), (FEATURES, _FEATURES.pack(hello.features))]
    if hello.proof:
        fields.append((PROOF, hello.proof))
    if hello.life:
        fields.append((LIFE, hello.life))
    if hello.versions != _FIRST:
        fields.append((VERSIONS, _VERSIONS.pack(*hello.versions)))
    if hello.request is not None:
        fields.append((REQUEST, hello.request))
    return _padded(hello.timestamp + _encode(fields), packet_size_min - INITIATION_OVERHEAD)


def decode_hello(payload: bytes) -> Hello | None:
    """Return what message 1 says; None when it is malformed or asks for what we do not know."""
    known = (PROOF, IDENTITY, REQUEST, FEATURES, LIFE, VERSIONS)
    fields = _decode(payload[TIMESTAMP:], known=known)
    if fields is None or len(payload) < TIMESTAMP:
        return None
    identity, proof = fields.get(IDENTITY, b""), fields.get(PROOF, b"")
    features, life, versions = _features(fields), _life(fields), _versions(fields)
    if len(identity) != 32 or len(proof) > PROOF_SIZE_MAX:
        return None
    if features is None or life is None or versions is None:
        return None
    return Hello(
        timestamp=payload[:TIMESTAMP], identity=PeerKey(identity), features=features,
        proof=proof, request=fields.get(REQUEST), life=life, versions=versions,
    )  # fmt: skip


def encode_welcome(welcome: Welcome, *, packet_size_max: int) -> bytes:
    """Return message 2's payload; a reply that would make the packet too large is left out."""
    fields = [(FEATURES, _FEATURES.pack(welcome.features))]
    if welcome.life:
        fields.append((LIFE, welcome.life))
    if welcome.versions != _FIRST:
        fields.append((VERSIONS, _VERSIONS.pack(*welcome.versions)))
    if welcome.effort.bits:
        fields.append((EFFORT, welcome.effort.encode()))
    room = packet_size_max - RESPONSE_OVERHEAD
    if welcome.reply is not None:
        full = _encode([*fields, (REPLY, welcome.reply)])
        if len(full) <= room:
            return full
    bare = _encode(fields)
    return bare if len(bare) <= room else b""


def decode_welcome(payload: bytes) -> Welcome | None:
    """Return what message 2 says; None when it is malformed or asks for what we do not know."""
    fields = _decode(payload, known=(FEATURES, REPLY, EFFORT, LIFE, VERSIONS))
    if fields is None:
        return None
    features, life, versions = _features(fields), _life(fields), _versions(fields)
    effort = Effort.parse(fields[EFFORT]) if EFFORT in fields else NO_EFFORT
    if features is None or life is None or effort is None or versions is None:
        return None
    return Welcome(
        features=features, reply=fields.get(REPLY), effort=effort, life=life, versions=versions
    )


def _features(fields: dict[int, bytes]) -> int | None:
    value = fields.get(FEATURES, bytes(8))
    if len(value) != 8:
        return None
    features: int = _FEATURES.unpack(value)[0]
    return features


def _versions(fields: dict[int, bytes]) -> tuple[int, int] | None:
    value = fields.get(VERSIONS)
    if value is None:
        return _FIRST
    if len(value) != _VERSIONS.size or not 1 <= value[0] <= value[1]:
        return None
    return value[0], value[1]


def _life(fields: dict[int, bytes]) -> bytes | None:
    life = fields.get(LIFE, b"")
    return life if len(life) in (0, LIFE_SIZE) else None


def _encode(fields: list[tuple[int, bytes]]) -> bytes:
    return b"".join(_HEAD.pack(kind, len(value)) + value for kind, value in fields)


def _padded(payload: bytes, size_min: int) -> bytes:
    assert PADDING == 0, "padding is zeros from its type on"
    return payload.ljust(size_min, b"\0")


def _decode(data: bytes, *, known: tuple[int, ...]) -> dict[int, bytes] | None:
    """Return the known fields by type."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != PADDING:
        if at + _HEAD.size > len(data):
            return None
        kind, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + size > len(data) or kind in fields or (kind not in known and kind % 2 == 0):
            return None
        if kind in known:
            fields[kind] = data[at : at + size]
        at += size
    return fields
