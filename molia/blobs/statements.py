"""Leases and claims to repair: what one key says of one blob for a while, signed.

Both have one layout of 145 bytes and differ in the label that is signed with it. They are about a
blob, not about who keeps them, so anybody hands them on.
Source: docs/reference/leases.md.
"""

from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final

from molia.base import curve
from molia.base.crypto import SIGNATURE_SIZE, Identity
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import PeerKey
from molia.base.limits import CLAIM_LIFE_MAX_S, CLOCK_SKEW_S, LEASE_LIFE_MAX_S, LEASE_SIZE

VERSION: Final = 1
_TIME_STOP: Final = 2**35
_BODY: Final = Struct(">B32s32sQQ")
"""Version, blob digest, signer, issued, expires."""

assert _BODY.size + SIGNATURE_SIZE == LEASE_SIZE


class Kind(Enum):
    """What is said; the value is the label that is signed."""

    LEASE = b"molia/lease/1"
    """The signer wants the blob kept."""
    CLAIM = b"molia/repair-claim/1"
    """The signer repairs the blob."""


_LIFE_MAX_S: Final = {Kind.LEASE: LEASE_LIFE_MAX_S, Kind.CLAIM: CLAIM_LIFE_MAX_S}


class Fault(Enum):
    """Why bytes are no statement to keep."""

    MALFORMED = "malformed"
    """Another size, or times that none has."""
    VERSION = "version"
    """Of a version that is not known here."""
    FAR = "far"
    """Issued in the future, or for longer than any may last."""
    KEY = "key"
    """The signer's key is no point of the prime-order subgroup."""
    SIGNATURE = "signature"
    """Forged, damaged, of the other kind, or signed for another network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A lease or a claim as it is sent and kept."""

    kind: Kind
    digest: bytes
    """Of the blob's CID."""
    signer: PeerKey
    issued: int
    expires: int
    """Unix seconds, both. Not after `issued`: it ends what was said before."""
    encoded: bytes

    @property
    def is_release(self) -> bool:
        """Whether it only ends an earlier one."""
        return self.expires <= self.issued

    def lives(self, unix_s: float) -> bool:
        """Tell whether it holds at wall time `unix_s`."""
        return self.expires > unix_s

    def beats(self, other: "Statement") -> bool:
        """Tell whether it stands in place of another of the same kind, blob and signer.

        The higher `issued` does; of equal ones the later `expires`.
        """
        assert (self.kind, self.digest) == (other.kind, other.digest), "both are about one blob"
        return (self.issued, self.expires) > (other.issued, other.expires)


def state(
    kind: Kind, identity: Identity, network: bytes, digest: bytes, *, issued: int, expires: int
) -> Statement:
    """Return our own statement about a blob; 30 us."""
    assert len(digest) == DIGEST_SIZE, "a blob is named by a digest"
    assert 0 <= issued < _TIME_STOP, "times are unix seconds"
    assert 0 <= expires <= issued + _LIFE_MAX_S[kind], "a statement has a bound"
    body = _BODY.pack(VERSION, digest, identity.peer_key.key, issued, expires)
    signature = identity.sign(signed_bytes(kind, network, body))
    return Statement(
        kind=kind, digest=digest, signer=identity.peer_key, issued=issued, expires=expires,
        encoded=body + signature,
    )  # fmt: skip


def check(kind: Kind, encoded: bytes, network: bytes, *, unix_s: float) -> Statement | Fault:
    """Return the statement in bytes of a stranger, or why it is none to keep; 60 us.

    One that has run out is returned as well: a release is one.
    """
    statement = parse(kind, encoded)
    if isinstance(statement, Fault):
        return statement
    if statement.issued > unix_s + CLOCK_SKEW_S:
        return Fault.FAR
    if not curve.is_prime_order(statement.signer.key):
        return Fault.KEY
    body, signature = encoded[: _BODY.size], encoded[_BODY.size :]
    if not curve.point_verifies(statement.signer.key, signed_bytes(kind, network, body), signature):
        return Fault.SIGNATURE
    return statement


def parse(kind: Kind, encoded: bytes) -> Statement | Fault:
    """Return the statement in its encoding, its signature not verified, or why it is none."""
    if len(encoded) != LEASE_SIZE:
        return Fault.MALFORMED
    version, digest, signer, issued, expires = _BODY.unpack_from(encoded)
    if version != VERSION:
        return Fault.VERSION
    if issued >= _TIME_STOP or expires >= _TIME_STOP:
        return Fault.MALFORMED
    if expires > issued + _LIFE_MAX_S[kind]:
        return Fault.FAR
    return Statement(
        kind=kind, digest=digest, signer=PeerKey(signer), issued=issued, expires=expires,
        encoded=encoded,
    )  # fmt: skip


def signed_bytes(kind: Kind, network: bytes, body: bytes) -> bytes:
    """Return what the signature covers: the version first, then the network, then the rest."""
    return kind.value + body[:1] + network + body[1:]
