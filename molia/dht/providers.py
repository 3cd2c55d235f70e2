"""Provider records: who has what lies at a location, signed by who has it.

The outside is for storing nodes: they learn that this signer has something there, of which kind,
and from which address prefix it comes. The sealed part is for who knows the CID: which shares, at
which addresses, or which manifest a content hash stands for.
Source: docs/reference/provider-records.md.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from molia.base import curve
from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.entropy import Entropy
from molia.base.errors import BadCid
from molia.base.ids import PeerKey
from molia.base.limits import CLOCK_SKEW_S, PROVIDER_HINTS_MAX, PROVIDER_RECORD_SIZE_MAX
from molia.dht.blinding import content_loc
from molia.dht.records import EXPIRES_STOP, Fault, lifetime_fault
from molia.dht.sealing import NONCE_SIZE, PROVIDER_OVERHEAD, open_provider, provider_key
from molia.dht.sealing import seal_provider as seal
from molia.wire.addresses import IPV4_SIZE, IPV6_SIZE, Address, address_prefix, is_local
from molia.wire.bodies import pack_address, unpack_address

VERSION: Final = 1
BITMAP_SIZE_MAX: Final = 32
_LABEL: Final = b"molia/provider/1"
_HEAD: Final = Struct(">BB32s32sQQB")
"""Version, kind, location, signer, issued, expires, size of the prefix that follows."""
_LOCAL_SIZES: Final = (6, 18)
"""Sizes of a local address with its port, which stands for a prefix."""
_HOST_SIZES: Final = {4: IPV4_SIZE, 7: IPV6_SIZE}
"""Size of an address by that of its prefix."""
_CID_SIZE: Final = 36
_FIXED: Final = _HEAD.size + PROVIDER_OVERHEAD + curve.SIGNATURE_SIZE


class Kind(IntEnum):
    """What a provider has. Records of other kinds are of later versions, and refused."""

    SHARE = 1
    """Some shares of the blob, those in the bitmap."""
    WHOLE = 2
    CACHE = 3
    """All of it, but only as long as its cache keeps it."""
    BINDING = 4
    """What the content hash at this location stands for: a manifest. A hint until proved."""


class Provided(NamedTuple):
    """The sealed part."""

    shares: bytes = b""
    """A bit a share, the first in the lowest bit of the first byte; no zero byte at the end."""
    hints: tuple[Address, ...] = ()
    """Where the signer can be reached."""
    manifest: Cid | None = None
    """Of a binding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRecord:
    """A provider record as it is sent and kept."""

    kind: Kind
    loc: bytes
    signer: PeerKey
    issued: int
    expires: int
    """Unix seconds, both."""
    prefix: bytes
    """The signer's address prefix; a local address has itself and its port for one."""
    sealed: bytes
    signature: bytes
    encoded: bytes

    @property
    def is_local(self) -> bool:
        """Whether the signer says that its address is a local one."""
        return len(self.prefix) in _LOCAL_SIZES


class Outline(NamedTuple):
    """What storage rules look at, of a record that was checked before."""

    kind: int
    signer: bytes
    issued: int
    expires: int
    prefix: bytes
    encoded: bytes


# ---------------------------------------------------------------------------- storing, reading


def check(
    encoded: bytes, network: bytes, *, unix_s: float, allow_local: bool
) -> ProviderRecord | Fault:
    """Return the provider record in bytes of a stranger, or why it is none to keep; 60 us.

    allow_local: whether signers at local addresses are taken: only where we are at one ourselves.
    """
    record = parse(encoded)
    if isinstance(record, Fault):
        return record
    fault = lifetime_fault(record.expires, unix_s=unix_s)
    if fault is not None:
        return fault
    if record.issued > unix_s + CLOCK_SKEW_S:
        return Fault.FAR
    if record.is_local and not allow_local:
        return Fault.PREFIX
    if not curve.is_prime_order(record.signer.key):
        return Fault.KEY
    body = encoded[: -curve.SIGNATURE_SIZE]
    if not curve.point_verifies(record.signer.key, signed_bytes(network, body), record.signature):
        return Fault.SIGNATURE
    return record


def parse(encoded: bytes) -> ProviderRecord | Fault:
    """Return the provider record in its encoding, nothing of it verified, or why it is none."""
    if len(encoded) > PROVIDER_RECORD_SIZE_MAX:
        return Fault.OVERSIZED
    if len(encoded) < _FIXED or encoded[0] != VERSION:
        return Fault.VERSION if encoded and encoded[0] != VERSION else Fault.MALFORMED
    _, kind, loc, signer, issued, expires, size = _HEAD.unpack_from(encoded)
    if len(encoded) < _FIXED + size or not issued < expires < EXPIRES_STOP or kind not in _KINDS:
        return Fault.MALFORMED
    body_at = _HEAD.size + size
    prefix = encoded[_HEAD.size : body_at]
    if not _is_prefix(prefix):
        return Fault.PREFIX
    return ProviderRecord(
        kind=_KINDS[kind], loc=loc, signer=PeerKey(signer), issued=issued, expires=expires,
        prefix=prefix, sealed=encoded[body_at : -curve.SIGNATURE_SIZE],
        signature=encoded[-curve.SIGNATURE_SIZE :], encoded=encoded,
    )  # fmt: skip


def outline(encoded: bytes) -> Outline | None:
    """Return the outside of a record that `check` accepted; None for what is too short."""
    if len(encoded) < _FIXED:
        return None
    _, kind, _, signer, issued, expires, size = _HEAD.unpack_from(encoded)
    prefix = encoded[_HEAD.size : _HEAD.size + size]
    return Outline(kind, signer, issued, expires, prefix, encoded)


def read(record: ProviderRecord, network: bytes, cid: Cid) -> Provided | Fault:
    """Return what a checked record says to who knows its CID, or why that is nothing."""
    if record.loc != content_loc(network, cid):
        return Fault.PLACE
    key = provider_key(network, cid)
    plaintext = open_provider(key, record.sealed, loc=record.loc, expires=record.expires)
    if plaintext is None:
        return Fault.SEAL
    provided = _provided(plaintext)
    fits = provided is not None and (record.kind is Kind.BINDING) == (provided.manifest is not None)
    return provided if provided is not None and fits else Fault.MALFORMED


_KINDS: Final = {kind.value: kind for kind in Kind}


def _is_prefix(prefix: bytes) -> bool:
    """Tell whether bytes are what `dht.contact` groups an address by."""
    if len(prefix) in _LOCAL_SIZES:
        return unpack_address(prefix) is not None and is_local(prefix[:-2])
    host = prefix[1:].ljust(_HOST_SIZES.get(len(prefix), 0), b"\0")
    return len(prefix) in _HOST_SIZES and address_prefix(host) == prefix


# ---------------------------------------------------------------------------- publishing


def announce(
    identity: Identity, network: bytes, cid: Cid, kind: Kind, provided: Provided, *,
    prefix: bytes, issued: int, expires: int, entropy: Entropy,
) -> ProviderRecord:  # fmt: skip
    """Return our provider record of a CID. 45 us.

    prefix: the `group` of our own contact. expires: at most `RECORD_AHEAD_S` after now.
    """
    assert _is_prefix(prefix), "a provider has an address"
    assert (kind is Kind.BINDING) == (provided.manifest is not None), "a binding has a manifest"
    assert issued < expires < EXPIRES_STOP, "a record lives for a while"
    loc = content_loc(network, cid)
    sealed = seal(
        provider_key(network, cid), entropy.token(NONCE_SIZE), _plaintext(provided),
        loc=loc, expires=expires,
    )  # fmt: skip
    signer = identity.peer_key
    head = _HEAD.pack(VERSION, kind, loc, signer.key, issued, expires, len(prefix))
    body = head + prefix + sealed
    signature = identity.sign(signed_bytes(network, body))
    encoded = body + signature
    assert len(encoded) <= PROVIDER_RECORD_SIZE_MAX, "a provider record has a bound"
    return ProviderRecord(
        kind=kind, loc=loc, signer=signer, issued=issued, expires=expires, prefix=prefix,
        sealed=sealed, signature=signature, encoded=encoded,
    )  # fmt: skip


def signed_bytes(network: bytes, body: bytes) -> bytes:
    """Return what the signature covers: all that comes before it, and the network."""
    return _LABEL + network + body


def share_bitmap(shares: list[int]) -> bytes:
    """Return the bitmap of some share indexes, each below 256."""
    bits = sum(1 << share for share in dict.fromkeys(shares))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def shares_in(bitmap: bytes) -> list[int]:
    """Return the share indexes of a bitmap, in order."""
    bits = int.from_bytes(bitmap, "little")
    return [share for share in range(8 * len(bitmap)) if bits >> share & 1]


# ---------------------------------------------------------------------------- the sealed part


def _plaintext(provided: Provided) -> bytes:
    packed = [pack_address(address) for address in provided.hints]
    hints = [hint for hint in packed if hint is not None]
    assert _is_bitmap(provided.shares), "a bitmap has at most 32 bytes, the last one not zero"
    assert len(hints) == len(packed) <= PROVIDER_HINTS_MAX, "hints are few and numeric"
    parts = [_sized(provided.shares), bytes((len(hints),)), *map(_sized, hints)]
    return b"".join(parts) + (bytes(provided.manifest) if provided.manifest else b"")


def _is_bitmap(data: bytes) -> bool:
    return len(data) <= BITMAP_SIZE_MAX and data[-1:] != b"\0"


def _sized(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def _provided(plaintext: bytes) -> Provided | None:
    """Return the sealed part; None when it is none, or anything is left over."""
    shares, at = _take(plaintext, 0)
    if shares is None or not _is_bitmap(shares):
        return None
    count, at = plaintext[at : at + 1], at + 1
    if not count or count[0] > PROVIDER_HINTS_MAX:
        return None
    hints = []
    for _ in range(count[0]):
        packed, at = _take(plaintext, at)
        address = None if packed is None else unpack_address(packed)
        if address is None:
            return None
        hints.append(address)
    rest = plaintext[at:]
    manifest = _manifest(rest)
    return None if rest and manifest is None else Provided(shares, tuple(hints), manifest)


def _take(data: bytes, at: int) -> tuple[bytes | None, int]:
    """Return bytes with their size in front, and where they end; None when they are cut."""
    size = data[at] if at < len(data) else len(data)
    stop = at + 1 + size
    return (data[at + 1 : stop], stop) if stop <= len(data) else (None, stop)


def _manifest(data: bytes) -> Cid | None:
    try:
        cid = Cid.from_bytes(data) if len(data) == _CID_SIZE else None
    except BadCid:
        return None
    return cid if cid is not None and cid.codec is Codec.MANIFEST else None
