"""The messages of the DHT, as frozen values and as protobuf; see `wire.messages`.

What a node that serves lookups does for every packet avoids protobuf objects: `find_node_target`
and `get_loc` cut the usual body, `encode_nodes` and `encode_record` join what was encoded before
(building 20 protobuf contacts costs 5 us).
Source: docs/reference/messages.md; molia/wire/schema.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, TypeAlias

from molia.base.limits import (
    DIGEST_ENTRIES_MAX,
    PROVIDER_PAGES_MAX,
    PROVIDER_RECORD_SIZE_MAX,
    PROVIDERS_PER_LOC_MAX,
    PROVIDERS_PER_MESSAGE_MAX,
    RECORD_SIZE_MAX,
    REGION_CURSOR_MAX,
)
from molia.wire._pb import messages_pb as pb
from molia.wire.addresses import Address
from molia.wire.bodies import (
    KEY_SIZE,
    NONCE_SIZE,
    Contact,
    Number,
    contacts_in,
    encode_contact,
    pack_address,
    parsed,
    serialized,
    unpack_address,
)

LOC_SIZE: Final = 32
SALT_SIZE: Final = 8
DIGEST_ENTRY_SIZE: Final = 13
_POINT_HEAD: Final = bytes([1 << 3 | 2, LOC_SIZE])
_POINT_BODY_SIZE: Final = len(_POINT_HEAD) + LOC_SIZE
_RECORD_TAG: Final = bytes([1 << 3 | 2])
_SPACE_BITS: Final = 256


class PutCode(IntEnum):
    """What became of a record that was put. Peers of later versions may know more."""

    OK = 0
    CAS_MISMATCH = 1
    STALE = 2
    CONFLICT = 3
    FULL = 4
    BAD = 5


class AddCode(IntEnum):
    """What became of a provider record. Peers of later versions may know more."""

    OK = 0
    STALE = 1
    FULL = 2
    CROWDED = 3
    BAD = 4


class DialCode(IntEnum):
    """What came of trying to reach a node. Peers of later versions may know more."""

    REACHED = 0
    SILENT = 1
    REFUSED = 2
    LATER = 3


@dataclass(frozen=True, slots=True)
class FindNode:
    """Who is close to the target?"""

    number: ClassVar = Number.FIND_NODE
    target: bytes


@dataclass(frozen=True, slots=True)
class Nodes:
    """The answer to FIND_NODE, the closest first, and to FIND_REGION."""

    number: ClassVar = Number.NODES
    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindRegion:
    """Who is in a region?"""

    number: ClassVar = Number.FIND_REGION
    center: bytes
    radius_bits: int
    """In the region: distance to the center below 2**radius_bits."""
    salt: bytes
    """8 bytes that order the answer."""
    cursor: int = 0
    """How many of the order to leave out."""


@dataclass(frozen=True, slots=True)
class Get:
    """What record lies at a location?"""

    number: ClassVar = Number.GET
    loc: bytes
    have_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """The answer to GET: a signed record; empty when it has the seq that the asker has."""

    number: ClassVar = Number.RECORD
    record: bytes


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing is held there; these are closer."""

    number: ClassVar = Number.MISS
    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """Keep a record, with `cas` only in place of the one with that seq; 0: of none."""

    number: ClassVar = Number.PUT
    record: bytes
    cas: int | None = None


@dataclass(frozen=True, slots=True)
class PutReply:
    """What became of a record."""

    number: ClassVar = Number.PUT_REPLY
    code: int
    """A `PutCode`, or one of a later version."""
    record: bytes = b""
    """The one that is held, where that helps."""


@dataclass(frozen=True, slots=True)
class AddProvider:
    """Keep 1 to 4 provider records."""

    number: ClassVar = Number.ADD_PROVIDER
    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What became of each of them."""

    number: ClassVar = Number.ADDED
    codes: tuple[int, ...]
    """Each an `AddCode`, or one of a later version."""


@dataclass(frozen=True, slots=True)
class GetProviders:
    """Who provides what lies at a location?"""

    number: ClassVar = Number.GET_PROVIDERS
    loc: bytes
    page: int = 0
    salt: bytes = b""
    """8 bytes from which the random part of the selection follows, the same for all pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """Up to 4 provider records of a selection of `total`."""

    number: ClassVar = Number.PROVIDERS
    records: tuple[bytes, ...]
    total: int
    page: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What is held of the asked node's region: entries as `dht.held` makes them, joined."""

    number: ClassVar = Number.DIGEST
    entries: bytes


@dataclass(frozen=True, slots=True)
class DigestReply:
    """Which of the entries shall be put: a bit each, the lowest of the first byte first."""

    number: ClassVar = Number.DIGEST_REPLY
    wanted: bytes


@dataclass(frozen=True, slots=True)
class Pull:
    """Tell me what you hold of my region."""

    number: ClassVar = Number.PULL
    radius_bits: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """Whether DIGESTs will come."""

    number: ClassVar = Number.PULLED
    accepted: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """Can I be reached?"""

    number: ClassVar = Number.REACH
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of it: a `DialCode`, or one of a later version."""

    number: ClassVar = Number.REACHED
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Try to reach a node: it asked."""

    number: ClassVar = Number.DIAL
    key: bytes
    address: Address
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Dialed:
    """What came of the try: a `DialCode`, or one of a later version."""

    number: ClassVar = Number.DIALED
    code: int


DhtMessage: TypeAlias = (
    FindNode | Nodes | FindRegion | Get | Record | Miss | Put | PutReply | AddProvider | Added
    | GetProviders | Providers | Digest | DigestReply | Pull | Pulled | Reach | Reached | Dial
    | Dialed
)  # fmt: skip


# ---------------------------------------------------------------------------- the hot path


def find_node_target(body: bytes) -> bytes | None:
    """Return the 32-byte target of a FIND_NODE body; None when it is none."""
    if len(body) == _POINT_BODY_SIZE and body.startswith(_POINT_HEAD):
        return body[2:]
    message = parsed(pb.FindNode, body)
    return message.target if message is not None and len(message.target) == LOC_SIZE else None


def get_loc(body: bytes) -> bytes | None:
    """Return the location of a GET body; None when it is none. See `get_have_seq`."""
    if len(body) == _POINT_BODY_SIZE and body.startswith(_POINT_HEAD):
        return body[2:]
    message = parsed(pb.Get, body)
    return message.loc if message is not None and len(message.loc) == LOC_SIZE else None


def get_have_seq(body: bytes) -> int | None:
    """Return the seq that the sender of a good GET body holds; None: it holds nothing."""
    if len(body) == _POINT_BODY_SIZE:
        return None
    it = parsed(pb.Get, body)
    return it.have_seq if it is not None and it.HasField("have_seq") else None


def encode_nodes(contacts: Iterable[bytes]) -> bytes:
    """Return the body of NODES or MISS made of what `encode_contact` gave, at most 20."""
    return b"".join(contacts)


def encode_record(record: bytes) -> bytes:
    """Return the body of RECORD, or of PUT without cas, with a signed record; b"" gives none."""
    size = len(record)
    if size < 0x80:
        return _RECORD_TAG + bytes((size,)) + record if size else b""
    return _RECORD_TAG + bytes((size & 0x7F | 0x80, size >> 7)) + record


# ---------------------------------------------------------------------------- signed records


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedParts:
    """The fields of a signed record; what they mean is `dht.records`' matter."""

    version: int
    blinded_key: bytes
    seq: int
    expires: int
    sealed: bytes
    signature: bytes


def encode_signed(parts: SignedParts) -> bytes:
    """Return a signed record as it is sent and kept."""
    return serialized(
        pb.SignedRecord, version=parts.version, blinded_key=parts.blinded_key, seq=parts.seq,
        expires=parts.expires, sealed=parts.sealed, signature=parts.signature,
    )  # fmt: skip


def decode_signed(body: bytes) -> SignedParts | None:
    """Return the fields of a signed record, unchecked; None when it is none."""
    it = parsed(pb.SignedRecord, body)
    if it is None:
        return None
    return SignedParts(
        version=it.version, blinded_key=it.blinded_key, seq=it.seq, expires=it.expires,
        sealed=it.sealed, signature=it.signature,
    )  # fmt: skip


# ---------------------------------------------------------------------------- each by its number


def _find_node(body: bytes) -> FindNode | None:
    target = find_node_target(body)
    return None if target is None else FindNode(target)


def _nodes(body: bytes) -> Nodes | None:
    contacts = contacts_in(body)
    return None if contacts is None else Nodes(contacts)


def _find_region(body: bytes) -> FindRegion | None:
    it = parsed(pb.FindRegion, body)
    if it is None or len(it.center) != LOC_SIZE or len(it.salt) != SALT_SIZE:
        return None
    if not 1 <= it.radius_bits <= _SPACE_BITS or it.cursor > REGION_CURSOR_MAX:
        return None
    return FindRegion(
        center=it.center, radius_bits=it.radius_bits, salt=it.salt, cursor=it.cursor
    )  # fmt: skip


def _get(body: bytes) -> Get | None:
    loc = get_loc(body)
    return None if loc is None else Get(loc, get_have_seq(body))


def _record(body: bytes) -> Record | None:
    it = parsed(pb.Record, body)
    return None if it is None or len(it.record) > RECORD_SIZE_MAX else Record(it.record)


def _miss(body: bytes) -> Miss | None:
    contacts = contacts_in(body)
    return None if contacts is None else Miss(contacts)


def _put(body: bytes) -> Put | None:
    it = parsed(pb.Put, body)
    if it is None or not 0 < len(it.record) <= RECORD_SIZE_MAX:
        return None
    return Put(it.record, it.cas if it.HasField("cas") else None)


def _put_reply(body: bytes) -> PutReply | None:
    it = parsed(pb.PutReply, body)
    return None if it is None or len(it.record) > RECORD_SIZE_MAX else PutReply(it.code, it.record)


def _provider_records(it: Any) -> tuple[bytes, ...] | None:  # noqa: ANN401 - see bodies.parsed
    if it is None or len(it.records) > PROVIDERS_PER_MESSAGE_MAX:
        return None
    records = tuple(it.records)
    fits = all(0 < len(record) <= PROVIDER_RECORD_SIZE_MAX for record in records)
    return records if fits else None


def _add_provider(body: bytes) -> AddProvider | None:
    records = _provider_records(parsed(pb.AddProvider, body))
    return AddProvider(records) if records else None


def _added(body: bytes) -> Added | None:
    it = parsed(pb.Added, body)
    if it is None or not 1 <= len(it.codes) <= PROVIDERS_PER_MESSAGE_MAX:
        return None
    return Added(tuple(it.codes))


def _get_providers(body: bytes) -> GetProviders | None:
    it = parsed(pb.GetProviders, body)
    if it is None or len(it.loc) != LOC_SIZE or len(it.salt) not in (0, SALT_SIZE):
        return None
    return None if it.page >= PROVIDER_PAGES_MAX else GetProviders(it.loc, it.page, it.salt)


def _providers(body: bytes) -> Providers | None:
    it = parsed(pb.Providers, body)
    records = _provider_records(it)
    if records is None or it.page >= PROVIDER_PAGES_MAX:
        return None
    if not len(records) <= it.total <= PROVIDERS_PER_LOC_MAX:
        return None
    return Providers(records=records, total=it.total, page=it.page)


def _digest(body: bytes) -> Digest | None:
    it = parsed(pb.Digest, body)
    count, rest = (0, 0) if it is None else divmod(len(it.entries), DIGEST_ENTRY_SIZE)
    return Digest(it.entries) if rest == 0 and 1 <= count <= DIGEST_ENTRIES_MAX else None


def _digest_reply(body: bytes) -> DigestReply | None:
    it = parsed(pb.DigestReply, body)
    if it is None or len(it.wanted) * 8 > DIGEST_ENTRIES_MAX:
        return None
    return DigestReply(it.wanted)


def _pull(body: bytes) -> Pull | None:
    it = parsed(pb.Pull, body)
    return None if it is None or not 1 <= it.radius_bits <= _SPACE_BITS else Pull(it.radius_bits)


def _pulled(body: bytes) -> Pulled | None:
    it = parsed(pb.Pulled, body)
    return None if it is None else Pulled(it.accepted)


def _reach(body: bytes) -> Reach | None:
    it = parsed(pb.Reach, body)
    return None if it is None or len(it.nonce) != NONCE_SIZE else Reach(it.nonce)


def _reached(body: bytes) -> Reached | None:
    it = parsed(pb.Reached, body)
    return None if it is None else Reached(it.code)


def _dial(body: bytes) -> Dial | None:
    it = parsed(pb.Dial, body)
    address = None if it is None else unpack_address(it.address)
    if address is None or len(it.key) != KEY_SIZE or len(it.nonce) != NONCE_SIZE:
        return None
    return Dial(key=it.key, address=address, nonce=it.nonce)


def _dialed(body: bytes) -> Dialed | None:
    it = parsed(pb.Dialed, body)
    return None if it is None else Dialed(it.code)


DECODERS: Final[dict[int, Callable[[bytes], DhtMessage | None]]] = {
    Number.FIND_NODE: _find_node,
    Number.NODES: _nodes,
    Number.FIND_REGION: _find_region,
    Number.GET: _get,
    Number.RECORD: _record,
    Number.MISS: _miss,
    Number.PUT: _put,
    Number.PUT_REPLY: _put_reply,
    Number.ADD_PROVIDER: _add_provider,
    Number.ADDED: _added,
    Number.GET_PROVIDERS: _get_providers,
    Number.PROVIDERS: _providers,
    Number.DIGEST: _digest,
    Number.DIGEST_REPLY: _digest_reply,
    Number.PULL: _pull,
    Number.PULLED: _pulled,
    Number.REACH: _reach,
    Number.REACHED: _reached,
    Number.DIAL: _dial,
    Number.DIALED: _dialed,
}
"""What reads a body, by number."""


def _contacts(message: Nodes | Miss) -> bytes:
    return encode_nodes(encode_contact(c.key, c.address) for c in message.contacts)


ENCODERS: Final[dict[Number, Callable[[Any], bytes]]] = {
    Number.FIND_NODE: lambda m: _POINT_HEAD + m.target,
    Number.NODES: _contacts,
    Number.FIND_REGION: lambda m: serialized(
        pb.FindRegion, center=m.center, radius_bits=m.radius_bits, salt=m.salt, cursor=m.cursor
    ),
    Number.GET: lambda m: serialized(pb.Get, loc=m.loc, have_seq=m.have_seq),
    Number.RECORD: lambda m: encode_record(m.record),
    Number.MISS: _contacts,
    Number.PUT: lambda m: serialized(pb.Put, record=m.record, cas=m.cas),
    Number.PUT_REPLY: lambda m: serialized(pb.PutReply, code=m.code, record=m.record),
    Number.ADD_PROVIDER: lambda m: serialized(pb.AddProvider, records=m.records),
    Number.ADDED: lambda m: serialized(pb.Added, codes=m.codes),
    Number.GET_PROVIDERS: lambda m: serialized(
        pb.GetProviders, loc=m.loc, page=m.page, salt=m.salt
    ),
    Number.PROVIDERS: lambda m: serialized(
        pb.Providers, records=m.records, total=m.total, page=m.page
    ),
    Number.DIGEST: lambda m: serialized(pb.Digest, entries=m.entries),
    Number.DIGEST_REPLY: lambda m: serialized(pb.DigestReply, wanted=m.wanted),
    Number.PULL: lambda m: serialized(pb.Pull, radius_bits=m.radius_bits),
    Number.PULLED: lambda m: serialized(pb.Pulled, accepted=m.accepted),
    Number.REACH: lambda m: serialized(pb.Reach, nonce=m.nonce),
    Number.REACHED: lambda m: serialized(pb.Reached, code=m.code),
    Number.DIAL: lambda m: serialized(
        pb.Dial, key=m.key, address=pack_address(m.address), nonce=m.nonce
    ),
    Number.DIALED: lambda m: serialized(pb.Dialed, code=m.code),
}  # fmt: skip
"""What writes a body, by number."""
