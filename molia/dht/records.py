"""Mutable records: small signed values under a publisher's key and a name.

`check` is what a storing node does, `read` what a reader does: both take bytes of a stranger and
give a record or the reason why it is none, which callers count. `publish` makes one. Nothing
protobuf is ever signed: the signature covers a fixed layout, and bytes are kept as they came.
Source: docs/reference/records.md.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from molia.base import curve
from molia.base.crypto import Identity
from molia.base.errors import BadPeerKey
from molia.base.hashing import purpose_digest
from molia.base.ids import PeerKey
from molia.base.limits import (
    CLOCK_SKEW_S,
    RECORD_AHEAD_S,
    RECORD_SALT_MAX,
    RECORD_SIZE_MAX,
    RECORD_VALUE_MAX,
)
from molia.dht.blinding import Place, blinded_identity, record_loc
from molia.dht.sealing import VALUE_OVERHEAD, open_value, seal_value, value_key
from molia.wire.dht_messages import SignedParts, decode_signed, encode_signed

VERSION: Final = 1
SEQ_MAX: Final = 2**64 - 1
SEALED_MAX: Final = RECORD_VALUE_MAX + VALUE_OVERHEAD
EXPIRES_STOP: Final = 2**35
_LABEL: Final = b"molia/record/1"


class Fault(StrEnum):
    """Why bytes are no record, or no provider record, that we take; each is a counter's name."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    VERSION = "version"
    EXPIRED = "expired"
    FAR = "far"
    """It expires later than a day from now, or was issued in the future."""
    KEY = "key"
    """The signer's key is no point of the prime-order subgroup."""
    SIGNATURE = "signature"
    """Forged, damaged, or signed for another network."""
    PLACE = "place"
    """It belongs elsewhere: wrongly blinded, or of another location."""
    SEAL = "seal"
    """The reader cannot open it, though it is at the right place."""
    PREFIX = "prefix"
    """The address prefix is none, or is local where nothing local is meant to be."""


class RecordAddress(NamedTuple):
    """Which record: a publisher's key, and the bytes of the name; empty for the key alone."""

    publisher: PeerKey
    salt: bytes = b""

    def __str__(self) -> str:
        name = self.salt.decode("utf-8", "backslashreplace")
        return f"{self.publisher}/{name}" if name else str(self.publisher)

    @classmethod
    def parse(cls, text: str) -> "RecordAddress | None":
        """Return the address `<peer key>[/<name>]`; None for any other text."""
        key, slash, name = text.partition("/")
        try:
            salt, publisher = name.encode(), PeerKey.parse(key)
        except (BadPeerKey, UnicodeEncodeError):
            return None
        is_plain = name.isprintable() and len(salt) <= RECORD_SALT_MAX and bool(name) == bool(slash)
        return cls(publisher, salt) if is_plain else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRecord:
    """A record as it is sent and kept."""

    blinded_key: bytes
    seq: int
    expires: int
    """Unix seconds."""
    sealed: bytes
    signature: bytes
    encoded: bytes
    """The bytes that it came in."""

    @property
    def value_hash(self) -> bytes:
        """What the signature covers of the sealed value; of two at one seq the lower one stays."""
        return purpose_digest("record-value", self.sealed)


class Opened(NamedTuple):
    """What a reader gets of a record."""

    value: bytes
    seq: int
    expires: int
    record: SignedRecord


# ---------------------------------------------------------------------------- storing, reading


def check(encoded: bytes, network: bytes, *, unix_s: float) -> SignedRecord | Fault:
    """Return the record in bytes of a stranger, or why it is none to keep; 65 us, new keys 110."""
    record = parse(encoded)
    return record if isinstance(record, Fault) else verified(record, network, unix_s=unix_s)


def read(
    encoded: bytes, network: bytes, address: RecordAddress, place: Place, *, unix_s: float
) -> Opened | Fault:
    """Return what a record says that was found at a place of an address, or why it is none."""
    record = parse(encoded)
    if isinstance(record, SignedRecord) and record.blinded_key != place.blinded_key:
        return Fault.PLACE
    if isinstance(record, SignedRecord):
        record = verified(record, network, unix_s=unix_s)
    if isinstance(record, Fault):
        return record
    key = value_key(address.publisher, address.salt, period=place.period, seq=record.seq)
    value = open_value(key, record.sealed)
    return Fault.SEAL if value is None else Opened(value, record.seq, record.expires, record)


def parse(encoded: bytes) -> SignedRecord | Fault:
    """Return the record in its encoding, nothing of it verified, or why it is none."""
    if len(encoded) > RECORD_SIZE_MAX:
        return Fault.OVERSIZED
    parts = decode_signed(encoded)
    if parts is None:
        return Fault.MALFORMED
    if parts.version != VERSION:
        return Fault.VERSION
    if len(parts.sealed) > SEALED_MAX:
        return Fault.OVERSIZED
    if len(parts.sealed) < VALUE_OVERHEAD or parts.seq == 0 or parts.expires >= EXPIRES_STOP:
        return Fault.MALFORMED
    if len(parts.blinded_key) != curve.POINT_SIZE or len(parts.signature) != curve.SIGNATURE_SIZE:
        return Fault.MALFORMED
    return SignedRecord(
        blinded_key=parts.blinded_key, seq=parts.seq, expires=parts.expires,
        sealed=parts.sealed, signature=parts.signature, encoded=encoded,
    )  # fmt: skip


def verified(record: SignedRecord, network: bytes, *, unix_s: float) -> SignedRecord | Fault:
    """Return the record if it holds here and now, else why it does not."""
    fault = lifetime_fault(record.expires, unix_s=unix_s)
    if fault is not None:
        return fault
    if not curve.is_prime_order(record.blinded_key):
        return Fault.KEY
    message = signed_bytes(
        network, record.blinded_key, record.value_hash, seq=record.seq, expires=record.expires
    )
    if not curve.point_verifies(record.blinded_key, message, record.signature):
        return Fault.SIGNATURE
    return record


def lifetime_fault(expires: int, *, unix_s: float) -> Fault | None:
    """Return what is wrong with an expiry; other clocks may be an hour off ours."""
    if expires <= unix_s:
        return Fault.EXPIRED
    return Fault.FAR if expires > unix_s + RECORD_AHEAD_S + CLOCK_SKEW_S else None


def loc_of(record: SignedRecord, network: bytes) -> bytes:
    """Return where a record lies: it follows from the key that signed it."""
    return record_loc(network, record.blinded_key)


# ---------------------------------------------------------------------------- publishing


def publish(
    identity: Identity, network: bytes, salt: bytes, value: bytes, *,
    seq: int, expires: int, period: int,
) -> SignedRecord:  # fmt: skip
    """Return a record of ours for one period; equal arguments give equal bytes. 90 us.

    expires: unix seconds, at most `RECORD_AHEAD_S` from now.
    """
    assert len(value) <= RECORD_VALUE_MAX, "a larger value belongs into a blob"
    assert 0 < seq <= SEQ_MAX, "seq 0 stands for no record"
    assert expires < EXPIRES_STOP, "a record ends in this millennium"
    signer = blinded_identity(identity, salt, period)
    sealed = seal_value(value_key(identity.peer_key, salt, period=period, seq=seq), value)
    message = signed_bytes(
        network, signer.public, purpose_digest("record-value", sealed), seq=seq, expires=expires
    )
    signature = signer.sign(message)
    parts = SignedParts(
        version=VERSION, blinded_key=signer.public, seq=seq, expires=expires, sealed=sealed,
        signature=signature,
    )  # fmt: skip
    return SignedRecord(
        blinded_key=signer.public, seq=seq, expires=expires, sealed=sealed, signature=signature,
        encoded=encode_signed(parts),
    )  # fmt: skip


def signed_bytes(
    network: bytes, blinded_key: bytes, value_hash: bytes, *, seq: int, expires: int
) -> bytes:
    """Return what the signature of a record covers."""
    head = _LABEL + bytes((VERSION,)) + network + blinded_key
    return head + seq.to_bytes(8, "big") + expires.to_bytes(8, "big") + value_hash
