"""The small messages, as frozen values and as protobuf: those of the transport, and all by number.

`decode` takes bytes of a peer: whatever they are, it returns a value that fits its bounds or None.
Fields that it does not know it ignores. Nobody may hash, sign or compare an encoding: protobuf has
several for one value. The messages of the DHT are in `wire.dht_messages`, those about blobs in
`wire.blob_messages`; what is named here of them is for those who need a few.
Source: docs/reference/messages.md; molia/wire/schema.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, TypeAlias

from molia.base.limits import (
    BUSY_WAIT_MS_MAX,
    ERROR_TEXT_MAX,
    PROOF_SIZE_MAX,
    PUZZLE_BITS_MAX,
    SOFTWARE_LABEL_MAX,
    WORKERS_MAX,
)
from molia.wire import blob_messages, dht_messages
from molia.wire._pb import messages_pb as pb
from molia.wire.addresses import Address
from molia.wire.blob_messages import BlobMessage
from molia.wire.bodies import (
    NONCE_SIZE,
    Contact,
    Number,
    encode_contact,
    pack_address,
    parsed,
    serialized,
    unpack_address,
)
from molia.wire.dht_messages import DhtMessage, FindNode, Nodes, encode_nodes, find_node_target

__all__ = [
    "EARLY",
    "Busy",
    "Close",
    "CloseReason",
    "Contact",
    "Error",
    "ErrorCode",
    "FindNode",
    "Hello",
    "Message",
    "Nodes",
    "Number",
    "Ping",
    "Pong",
    "decode",
    "encode",
    "encode_contact",
    "encode_nodes",
    "find_node_target",
    "is_known",
    "pack_address",
    "unpack_address",
]

NETWORK_CHECK_SIZE: Final = 8
EARLY: Final = frozenset(
    {Number.PING, Number.FIND_NODE, Number.FIND_REGION, Number.GET, Number.GET_PROVIDERS}
)
"""What may ride in an initiation: it may come twice and does no harm."""


class CloseReason(IntEnum):
    """Why a session ends. Peers of later versions may know more."""

    DONE = 0
    SHUTTING_DOWN = 1
    NO_COMMON_VERSION = 2
    REFUSED_FEATURE = 3
    BROKEN_PROTOCOL = 4
    BLOCKED = 5
    REPLACED = 6
    OTHER_NETWORK = 7


class ErrorCode(IntEnum):
    """Why a request is not answered. Peers of later versions may know more."""

    FAILED = 0
    UNKNOWN_MESSAGE = 1
    BAD_MESSAGE = 2
    NOT_HERE = 3
    REFUSED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a node speaks; first on a session, from both sides."""

    number: ClassVar = Number.HELLO
    version_min: int
    version_max: int
    features: int
    software: str
    workers: int
    network: bytes
    """First 8 bytes of H[network-public](network id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Are you there?"""

    number: ClassVar = Number.PING
    serves: bool = False
    """Whether the sender knows that it can be reached."""
    nonce: bytes = b""
    """The 8 bytes of the REACH that this PING comes of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to PING."""

    number: ClassVar = Number.PONG
    seen: Address
    """The address that the PING came from."""
    unix_ms: int
    """The answering node's clock."""
    serves: bool = False
    """Whether the answering node can be reached; one that cannot belongs in no table."""
    proof: bytes = b""
    """The answering node's identity proof; what is in it is checked elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """In place of an answer: later, and at what price."""

    number: ClassVar = Number.BUSY
    retry_after_ms: int
    effort_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The session ends."""

    number: ClassVar = Number.CLOSE
    reason: int
    """A `CloseReason`, or one of a later version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """In place of an answer: it will not be given."""

    number: ClassVar = Number.ERROR
    code: int
    """An `ErrorCode`, or one of a later version."""
    text: str = ""
    """A peer's words: never logged, never shown as ours."""


Message: TypeAlias = Hello | Ping | Pong | Busy | Close | Error | DhtMessage | BlobMessage


# ---------------------------------------------------------------------------- all messages


def encode(message: Message) -> bytes:
    """Return the body of a message of ours; what does not fit its bounds is our mistake."""
    body = _ENCODERS[message.number](message)
    assert decode(message.number, body) is not None, f"{message.number.name} is out of its bounds"
    return body


def decode(number: int, body: bytes) -> Message | None:
    """Return what a peer's body says; None for an unknown number and for anything out of bounds."""
    decoder = _DECODERS.get(number)
    return None if decoder is None else decoder(body)


def is_known(number: int) -> bool:
    """Tell whether this version knows the message number."""
    return number in _DECODERS


def _hello(body: bytes) -> Hello | None:
    it = parsed(pb.Hello, body)
    if it is None or not 1 <= it.version_min <= it.version_max:
        return None
    if not 1 <= it.workers <= WORKERS_MAX or len(it.network) != NETWORK_CHECK_SIZE:
        return None
    if len(it.software) > SOFTWARE_LABEL_MAX or not _is_plain(it.software):
        return None
    return Hello(
        version_min=it.version_min, version_max=it.version_max, features=it.features,
        software=it.software, workers=it.workers, network=it.network,
    )  # fmt: skip


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _ping(body: bytes) -> Ping | None:
    it = parsed(pb.Ping, body)
    if it is None or len(it.nonce) not in (0, NONCE_SIZE):
        return None
    return Ping(serves=it.serves, nonce=it.nonce)


def _pong(body: bytes) -> Pong | None:
    it = parsed(pb.Pong, body)
    seen = None if it is None else unpack_address(it.seen)
    if seen is None or len(it.proof) > PROOF_SIZE_MAX:
        return None
    return Pong(seen=seen, unix_ms=it.unix_ms, serves=it.serves, proof=it.proof)


def _busy(body: bytes) -> Busy | None:
    it = parsed(pb.Busy, body)
    if it is None or it.retry_after_ms > BUSY_WAIT_MS_MAX or it.effort_bits > PUZZLE_BITS_MAX:
        return None
    return Busy(retry_after_ms=it.retry_after_ms, effort_bits=it.effort_bits)


def _close(body: bytes) -> Close | None:
    it = parsed(pb.Close, body)
    return None if it is None else Close(reason=it.reason)


def _error(body: bytes) -> Error | None:
    it = parsed(pb.Error, body)
    if it is None or len(it.text) > ERROR_TEXT_MAX or not it.text.isprintable():
        return None
    return Error(code=it.code, text=it.text)


_DECODERS: Final[dict[int, Callable[[bytes], Message | None]]] = {
    Number.HELLO: _hello,
    Number.PING: _ping,
    Number.PONG: _pong,
    Number.BUSY: _busy,
    Number.CLOSE: _close,
    Number.ERROR: _error,
    **dht_messages.DECODERS,
    **blob_messages.DECODERS,
}

_ENCODERS: Final[dict[Number, Callable[[Any], bytes]]] = {
    Number.HELLO: lambda m: serialized(
        pb.Hello, version_min=m.version_min, version_max=m.version_max, features=m.features,
        software=m.software, workers=m.workers, network=m.network,
    ),
    Number.PING: lambda m: serialized(pb.Ping, serves=m.serves, nonce=m.nonce),
    Number.PONG: lambda m: serialized(
        pb.Pong, seen=pack_address(m.seen), unix_ms=m.unix_ms, serves=m.serves, proof=m.proof
    ),
    Number.BUSY: lambda m: serialized(
        pb.Busy, retry_after_ms=m.retry_after_ms, effort_bits=m.effort_bits
    ),
    Number.CLOSE: lambda m: serialized(pb.Close, reason=m.reason),
    Number.ERROR: lambda m: serialized(pb.Error, code=m.code, text=m.text),
    **dht_messages.ENCODERS,
    **blob_messages.ENCODERS,
}  # fmt: skip
