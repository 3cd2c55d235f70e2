"""The small messages, as frozen values and as protobuf. The one importer of protobuf.

`decode` takes bytes of a peer: whatever they are, it returns a value that fits its bounds or None.
Fields that it does not know it ignores. Nobody may hash, sign or compare an encoding: protobuf has
several for one value.

The hot path of a node that serves lookups is `find_node_target` and `encode_nodes`: a contact is
encoded once, when it is learnt, and a reply is a join (building 20 protobuf contacts costs 5 us).
Source: docs/reference/messages.md; molia/wire/schema.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from molia.base.limits import (
    BUSY_WAIT_MS_MAX,
    ERROR_TEXT_MAX,
    MESSAGE_SIZE_MAX,
    NODES_CONTACTS_MAX,
    PUZZLE_BITS_MAX,
    SOFTWARE_LABEL_MAX,
    WORKERS_MAX,
)
from molia.wire._pb import messages_pb as pb
from molia.wire.addresses import IPV4_SIZE, IPV6_SIZE, Address, is_unicast, pack_host, unpack_host

TARGET_SIZE: Final = 32
KEY_SIZE: Final = 32
NETWORK_CHECK_SIZE: Final = 8
_PORT_SIZE: Final = 2
_PACKED_SIZES: Final = (IPV4_SIZE + _PORT_SIZE, IPV6_SIZE + _PORT_SIZE)
_TARGET_HEAD: Final = bytes([1 << 3 | 2, TARGET_SIZE])
_TARGET_BODY_SIZE: Final = len(_TARGET_HEAD) + TARGET_SIZE
_CONTACT_TAG: Final = bytes([1 << 3 | 2])


class Number(IntEnum):
    """Which message a body is: 0-63 transport, 64-127 dht, 128-191 blobs."""

    HELLO = 1
    PING = 2
    PONG = 3
    BUSY = 4
    CLOSE = 5
    ERROR = 6
    FIND_NODE = 64
    NODES = 65


EARLY: Final = frozenset({Number.PING, Number.FIND_NODE})
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


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    number: ClassVar = Number.PING


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to PING."""

    number: ClassVar = Number.PONG
    seen: Address
    """The address that the PING came from."""
    unix_ms: int
    """The answering node's clock."""


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


@dataclass(frozen=True, slots=True)
class FindNode:
    """Who is close to the target?"""

    number: ClassVar = Number.FIND_NODE
    target: bytes


class Contact(NamedTuple):
    """One node and where it is."""

    key: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Nodes:
    """The answer to FIND_NODE, the closest first."""

    number: ClassVar = Number.NODES
    contacts: tuple[Contact, ...]


Message: TypeAlias = Hello | Ping | Pong | Busy | Close | Error | FindNode | Nodes


# ---------------------------------------------------------------------------- the hot path


def find_node_target(body: bytes) -> bytes | None:
    """Return the 32-byte target of a FIND_NODE body; None when it is none."""
    if len(body) == _TARGET_BODY_SIZE and body.startswith(_TARGET_HEAD):
        return body[2:]
    message = _parsed(pb.FindNode, body)
    return message.target if message is not None and len(message.target) == TARGET_SIZE else None


def encode_contact(key: bytes, address: Address) -> bytes:
    """Return a contact as a part of a NODES body: 44 bytes for IPv4, 56 for IPv6."""
    packed = pack_address(address)
    assert packed is not None, "a contact has a numeric address"
    assert len(key) == KEY_SIZE, "a peer key has 32 bytes"
    inner: bytes = pb.Contact(key=key, address=packed).SerializeToString()
    return _CONTACT_TAG + bytes([len(inner)]) + inner


def encode_nodes(contacts: Iterable[bytes]) -> bytes:
    """Return the body of NODES made of what `encode_contact` gave, at most 20."""
    return b"".join(contacts)


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


def pack_address(address: Address) -> bytes | None:
    """Return host and port as 6 or 18 bytes; None when the host is no number."""
    packed = pack_host(address[0])
    return None if packed is None else packed + address[1].to_bytes(_PORT_SIZE, "big")


def unpack_address(data: bytes) -> Address | None:
    """Return the address in 6 or 18 bytes; None when no packet can be sent to one host there."""
    if len(data) not in _PACKED_SIZES:
        return None
    packed, port = data[:-_PORT_SIZE], data[-2] << 8 | data[-1]
    if port == 0 or not is_unicast(packed):
        return None
    host = unpack_host(packed)
    return None if host is None else (host, port)


def _parsed(kind: Any, body: bytes) -> Any:  # noqa: ANN401 - generated classes have no stubs
    """Return the protobuf message in `body`, or None."""
    if len(body) > MESSAGE_SIZE_MAX:
        return None
    try:
        return kind.FromString(body)
    except DecodeError:
        return None


def _hello(body: bytes) -> Hello | None:
    it = _parsed(pb.Hello, body)
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
    return None if _parsed(pb.Ping, body) is None else Ping()


def _pong(body: bytes) -> Pong | None:
    it = _parsed(pb.Pong, body)
    seen = None if it is None else unpack_address(it.seen)
    return None if seen is None else Pong(seen=seen, unix_ms=it.unix_ms)


def _busy(body: bytes) -> Busy | None:
    it = _parsed(pb.Busy, body)
    if it is None or it.retry_after_ms > BUSY_WAIT_MS_MAX or it.effort_bits > PUZZLE_BITS_MAX:
        return None
    return Busy(retry_after_ms=it.retry_after_ms, effort_bits=it.effort_bits)


def _close(body: bytes) -> Close | None:
    it = _parsed(pb.Close, body)
    return None if it is None else Close(reason=it.reason)


def _error(body: bytes) -> Error | None:
    it = _parsed(pb.Error, body)
    if it is None or len(it.text) > ERROR_TEXT_MAX or not it.text.isprintable():
        return None
    return Error(code=it.code, text=it.text)


def _find_node(body: bytes) -> FindNode | None:
    target = find_node_target(body)
    return None if target is None else FindNode(target)


def _nodes(body: bytes) -> Nodes | None:
    it = _parsed(pb.Nodes, body)
    if it is None or len(it.contacts) > NODES_CONTACTS_MAX:
        return None
    contacts = []
    for contact in it.contacts:
        key, address = contact.key, unpack_address(contact.address)
        if len(key) != KEY_SIZE or address is None:
            return None
        contacts.append(Contact(key, address))
    return Nodes(tuple(contacts))


_DECODERS: Final[dict[int, Callable[[bytes], Message | None]]] = {
    Number.HELLO: _hello,
    Number.PING: _ping,
    Number.PONG: _pong,
    Number.BUSY: _busy,
    Number.CLOSE: _close,
    Number.ERROR: _error,
    Number.FIND_NODE: _find_node,
    Number.NODES: _nodes,
}

_ENCODERS: Final[dict[Number, Callable[[Any], bytes]]] = {
    Number.HELLO: lambda m: _serialized(
        pb.Hello, version_min=m.version_min, version_max=m.version_max, features=m.features,
        software=m.software, workers=m.workers, network=m.network,
    ),
    Number.PING: lambda _: b"",
    Number.PONG: lambda m: _serialized(pb.Pong, seen=pack_address(m.seen), unix_ms=m.unix_ms),
    Number.BUSY: lambda m: _serialized(
        pb.Busy, retry_after_ms=m.retry_after_ms, effort_bits=m.effort_bits
    ),
    Number.CLOSE: lambda m: _serialized(pb.Close, reason=m.reason),
    Number.ERROR: lambda m: _serialized(pb.Error, code=m.code, text=m.text),
    Number.FIND_NODE: lambda m: _TARGET_HEAD + m.target,
    Number.NODES: lambda m: encode_nodes(encode_contact(c.key, c.address) for c in m.contacts),
}  # fmt: skip


def _serialized(kind: Any, **fields: object) -> bytes:  # noqa: ANN401 - see _parsed
    body: bytes = kind(**fields).SerializeToString()
    return body
