"""What bodies of messages are made of: numbers, protobuf, packed addresses, contacts.

The one importer of protobuf. Nobody may hash, sign or compare an encoding: protobuf has several
for one value.
Source: docs/reference/messages.md; molia/wire/schema.
"""

from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from molia.base.limits import ADDRESS_CACHE_MAX, MESSAGE_SIZE_MAX, NODES_CONTACTS_MAX
from molia.wire._pb import messages_pb as pb
from molia.wire.addresses import IPV4_SIZE, IPV6_SIZE, Address, is_unicast, pack_host, unpack_host

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 8
_PORT_SIZE: Final = 2
_PACKED_SIZES: Final = (IPV4_SIZE + _PORT_SIZE, IPV6_SIZE + _PORT_SIZE)
_PART_SIZE: Final = 44
"""Of what `encode_contact` gives for IPv4."""
_PART: Final = bytes([_PART_SIZE - 2])
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
    FIND_REGION = 66
    GET = 67
    RECORD = 68
    MISS = 69
    PUT = 70
    PUT_REPLY = 71
    ADD_PROVIDER = 72
    ADDED = 73
    GET_PROVIDERS = 74
    PROVIDERS = 75
    DIGEST = 76
    DIGEST_REPLY = 77
    PULL = 78
    PULLED = 79
    REACH = 80
    REACHED = 81
    DIAL = 82
    DIALED = 83
    OFFER = 128
    OFFERED = 129
    PUT_SHARE = 130
    SHARE_KEPT = 131
    GET_MANIFEST = 132
    MANIFEST = 133
    GET_LEAVES = 134
    LEAVES = 135
    GET_BLOCKS = 136
    BLOCKS = 137
    AUDIT = 138
    AUDITED = 139
    LEASE = 140
    LEASED = 141
    HAVE = 142
    HAS = 143
    CLAIM = 144
    CLAIMED = 145


class Contact(NamedTuple):
    """One node and where it is."""

    key: bytes
    address: Address


def parsed(kind: Any, body: bytes) -> Any:  # noqa: ANN401 - generated classes have no stubs
    """Return the protobuf message in `body`, or None."""
    if len(body) > MESSAGE_SIZE_MAX:
        return None
    try:
        return kind.FromString(body)
    except DecodeError:
        return None


def serialized(kind: Any, **fields: object) -> bytes:  # noqa: ANN401 - see parsed
    """Return the body of a protobuf message with these fields."""
    body: bytes = kind(**fields).SerializeToString()
    return body


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


def encode_contact(key: bytes, address: Address) -> bytes:
    """Return a contact as a part of a NODES or MISS body: 44 bytes for IPv4, 56 for IPv6."""
    packed = pack_address(address)
    assert packed is not None, "a contact has a numeric address"
    assert len(key) == KEY_SIZE, "a peer key has 32 bytes"
    inner: bytes = pb.Contact(key=key, address=packed).SerializeToString()
    return _CONTACT_TAG + bytes([len(inner)]) + inner


def contacts_in(body: bytes) -> tuple[Contact, ...] | None:
    """Return the contacts of a NODES or MISS body, at most 20; None when one is impossible."""
    count, rest = divmod(len(body), _PART_SIZE)
    if rest or body[::_PART_SIZE] != _CONTACT_TAG * count or body[1::_PART_SIZE] != _PART * count:
        return _parsed_contacts(body)
    if count > NODES_CONTACTS_MAX:
        return None
    contacts: list[Contact] = []
    for at in range(0, len(body), _PART_SIZE):  # the usual body: parts of one size, mostly known
        contact = _contact_in(body[at : at + _PART_SIZE])
        if contact is None:
            return None
        contacts.append(contact)
    return tuple(contacts)


@lru_cache(maxsize=ADDRESS_CACHE_MAX)
def _contact_in(part: bytes) -> Contact | None:
    contacts = _parsed_contacts(part)
    return contacts[0] if contacts else None


def _parsed_contacts(body: bytes) -> tuple[Contact, ...] | None:
    it = parsed(pb.Nodes, body)
    if it is None or len(it.contacts) > NODES_CONTACTS_MAX:
        return None
    contacts = []
    for contact in it.contacts:
        key, address = contact.key, unpack_address(contact.address)
        if len(key) != KEY_SIZE or address is None:
            return None
        contacts.append(Contact(key, address))
    return tuple(contacts)
