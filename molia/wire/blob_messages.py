"""The messages about blobs, as frozen values and as protobuf; see `wire.messages`.

OFFER, GET_MANIFEST, LEASE, HAVE, CLAIM and their replies are datagrams. PUT_SHARE, GET_LEAVES,
GET_BLOCKS and AUDIT go over streams, since they or their replies carry more: there the message is
a head, and bytes follow it to the stream's end (`wire.heads`).
What the bytes are worth is `molia.blobs`' matter: nothing here looks at them.
Source: docs/reference/blob-messages.md; molia/wire/schema.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, TypeAlias

from molia.base.cid import Cid, Codec
from molia.base.errors import BadCid
from molia.base.hashing import DIGEST_SIZE
from molia.base.limits import (
    BLOB_SIZE_MAX,
    BLOCKS_PER_REQUEST_MAX,
    BUSY_WAIT_MS_MAX,
    HAVE_CIDS_MAX,
    LEASE_SIZE,
    LEASES_PER_MESSAGE_MAX,
    MANIFEST_SIZE_MAX,
    PARTIAL_SHARES_MAX,
    PATH_HASHES_MAX,
    PROVIDER_RECORD_SIZE_MAX,
    RAW_SIZE_STOP,
    SHARES_MAX,
    STRIPES_MAX,
    SUPPLEMENT_SIZE_MAX,
    TOTAL_SHARES,
    WHOLE_SHARE,
)
from molia.wire._pb import messages_pb as pb
from molia.wire.bodies import KEY_SIZE, Number, parsed, serialized


class OfferCode(IntEnum):
    """What a node says to an offer. Peers of later versions may know more."""

    YES = 0
    NO_ROOM = 1
    QUOTA = 2
    NOT_OFFERING = 3
    LATER = 4
    REFUSED = 5


class KeptCode(IntEnum):
    """What became of a share. Peers of later versions may know more."""

    KEPT = 0
    NO_ROOM = 1
    QUOTA = 2
    BAD_MANIFEST = 3
    BAD_BLOCK = 4
    BAD_LEASE = 5
    CUT_OFF = 6
    REFUSED = 7


class AuditCode(IntEnum):
    """What a holder says to an audit. Peers of later versions may know more."""

    HERE = 0
    NOT_FOUND = 1
    DAMAGED = 2


class LeaseCode(IntEnum):
    """What became of a lease. Peers of later versions may know more."""

    TAKEN = 0
    OLDER = 1
    NOT_HERE = 2
    QUOTA = 3
    BAD = 4


class ClaimCode(IntEnum):
    """What became of a claim. Peers of later versions may know more."""

    HEEDED = 0
    OTHER = 1
    NOT_HERE = 2
    BAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Will you keep these shares?"""

    number: ClassVar = Number.OFFER
    cid: Cid
    size: int
    """Bytes of the blob."""
    shares: tuple[int, ...]
    owner: bytes
    """Whose lease will come with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Which of them may be sent."""

    number: ClassVar = Number.OFFERED
    code: int
    """An `OfferCode`, or one of a later version."""
    accepted: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    """Those that it has already."""
    room: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutShare:
    """A head: the leaf list and the blocks follow it; of a small blob its bytes."""

    number: ClassVar = Number.PUT_SHARE
    cid: Cid
    share: int
    manifest: bytes = b""
    lease: bytes
    first_stripe: int = 0
    root: bytes = b""
    """Of a share that the manifest does not list."""
    size: int = 0
    """Of a small blob."""
    supplement: bytes = b""
    """What lists the root of such a share, unchecked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareKept:
    """What became of a share."""

    number: ClassVar = Number.SHARE_KEPT
    code: int
    """A `KeptCode`, or one of a later version."""
    stripes: int = 0
    provider: bytes = b""
    """The holder's provider record."""


@dataclass(frozen=True, slots=True)
class GetManifest:
    """The manifest, or the supplement, of a blob?"""

    number: ClassVar = Number.GET_MANIFEST
    cid: Cid
    supplement: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or a supplement, unchecked."""

    number: ClassVar = Number.MANIFEST
    manifest: bytes


@dataclass(frozen=True, slots=True)
class GetLeaves:
    """A share's leaf list?"""

    number: ClassVar = Number.GET_LEAVES
    cid: Cid
    share: int


@dataclass(frozen=True, slots=True)
class Leaves:
    """A head: a leaf list of `size` bytes follows it."""

    number: ClassVar = Number.LEAVES
    share: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetBlocks:
    """A share's blocks of some stripes?"""

    number: ClassVar = Number.GET_BLOCKS
    cid: Cid
    share: int
    first_stripe: int = 0
    stripe_count: int = 1
    paths: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A head: the blocks follow it, each after its path where that was asked for."""

    number: ClassVar = Number.BLOCKS
    share: int
    first_stripe: int
    stripe_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Show this block."""

    number: ClassVar = Number.AUDIT
    cid: Cid
    share: int
    stripe: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A head: the block follows it."""

    number: ClassVar = Number.AUDITED
    code: int
    """An `AuditCode`, or one of a later version."""
    path: tuple[bytes, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Take these signed leases."""

    number: ClassVar = Number.LEASE
    leases: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Leased:
    """What became of each."""

    number: ClassVar = Number.LEASED
    codes: tuple[int, ...]
    """Each a `LeaseCode`, or one of a later version."""
    held: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Have:
    """What do you have of these blobs?"""

    number: ClassVar = Number.HAVE
    cids: tuple[Cid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a node has of one blob."""

    shares: bytes = b""
    """A bitmap, the first share in the lowest bit of the first byte."""
    whole: bool = False
    partial: tuple[tuple[int, int], ...] = ()
    """Shares that are coming in, each with its stripes that are kept."""


@dataclass(frozen=True, slots=True)
class Has:
    """What a node has, one for each CID that was asked for."""

    number: ClassVar = Number.HAS
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who repairs a blob: a signed claim."""

    number: ClassVar = Number.CLAIM
    claim: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whether it is heeded."""

    number: ClassVar = Number.CLAIMED
    code: int
    """A `ClaimCode`, or one of a later version."""
    claim: bytes = b""
    """The one that came before."""


BlobMessage: TypeAlias = (
    Offer | Offered | PutShare | ShareKept | GetManifest | Manifest | GetLeaves | Leaves
    | GetBlocks | Blocks | Audit | Audited | Lease | Leased | Have | Has | Claim | Claimed
)  # fmt: skip

STREAMED: Final = frozenset({Number.PUT_SHARE, Number.LEAVES, Number.BLOCKS, Number.AUDITED})
"""Heads that bytes follow on their stream."""


# ---------------------------------------------------------------------------- each by its number


def _cid(data: bytes) -> Cid | None:
    try:
        return Cid.from_bytes(data)
    except BadCid:
        return None


def _fits(cid: Cid, share: int) -> bool:
    """Tell whether a blob of this CID can have the share."""
    return share == WHOLE_SHARE if cid.codec is Codec.RAW else share < SHARES_MAX


def _stripe_fits(cid: Cid, stripe: int, count: int = 1) -> bool:
    return stripe + count <= (1 if cid.codec is Codec.RAW else STRIPES_MAX)


def _are_shares(shares: tuple[int, ...]) -> bool:
    if len(set(shares)) != len(shares):
        return False
    return shares == (WHOLE_SHARE,) or all(share < SHARES_MAX for share in shares)


def _offer(body: bytes) -> Offer | None:
    it = parsed(pb.Offer, body)
    cid = None if it is None else _cid(it.cid)
    if it is None or cid is None or len(it.owner) != KEY_SIZE:
        return None
    shares = tuple(it.shares)
    if not 1 <= len(shares) <= SHARES_MAX or not _are_shares(shares):
        return None
    if not all(_fits(cid, share) for share in shares) or not _size_fits(cid, it.size):
        return None
    return Offer(cid=cid, size=it.size, shares=shares, owner=it.owner)


def _size_fits(cid: Cid, size: int) -> bool:
    if cid.codec is Codec.RAW:
        return size < RAW_SIZE_STOP
    return RAW_SIZE_STOP <= size <= BLOB_SIZE_MAX


def _offered(body: bytes) -> Offered | None:
    it = parsed(pb.Offered, body)
    if it is None or it.retry_after_ms > BUSY_WAIT_MS_MAX:
        return None
    accepted, kept = tuple(it.accepted), tuple(it.kept)
    if len(accepted) + len(kept) > SHARES_MAX or not _are_shares(accepted + kept):
        return None
    return Offered(
        code=it.code, accepted=accepted, kept=kept, room=it.room, retry_after_ms=it.retry_after_ms
    )  # fmt: skip


def _put_share(body: bytes) -> PutShare | None:
    it = parsed(pb.PutShare, body)
    cid = None if it is None else _cid(it.cid)
    if it is None or cid is None or not _fits(cid, it.share) or len(it.lease) != LEASE_SIZE:
        return None
    is_large, is_added = cid.codec is Codec.MANIFEST, TOTAL_SHARES <= it.share < SHARES_MAX
    if not int(is_large) <= len(it.manifest) <= (MANIFEST_SIZE_MAX if is_large else 0):
        return None
    if len(it.root) != (DIGEST_SIZE if is_added else 0) or it.first_stripe >= STRIPES_MAX:
        return None
    if it.size >= RAW_SIZE_STOP or (is_large and it.size) or (not is_large and it.first_stripe):
        return None
    if len(it.supplement) > (SUPPLEMENT_SIZE_MAX if is_added else 0):
        return None
    return PutShare(
        cid=cid, share=it.share, manifest=it.manifest, lease=it.lease,
        first_stripe=it.first_stripe, root=it.root, size=it.size, supplement=it.supplement,
    )  # fmt: skip


def _share_kept(body: bytes) -> ShareKept | None:
    it = parsed(pb.ShareKept, body)
    if it is None or it.stripes > STRIPES_MAX or len(it.provider) > PROVIDER_RECORD_SIZE_MAX:
        return None
    return ShareKept(code=it.code, stripes=it.stripes, provider=it.provider)


def _get_manifest(body: bytes) -> GetManifest | None:
    it = parsed(pb.GetManifest, body)
    cid = None if it is None else _cid(it.cid)
    if cid is None or cid.codec is not Codec.MANIFEST:
        return None
    return GetManifest(cid, it.supplement)


def _manifest(body: bytes) -> Manifest | None:
    it = parsed(pb.Manifest, body)
    fits = it is not None and 0 < len(it.manifest) <= SUPPLEMENT_SIZE_MAX
    return Manifest(it.manifest) if fits else None


def _get_leaves(body: bytes) -> GetLeaves | None:
    it = parsed(pb.GetLeaves, body)
    cid = None if it is None else _cid(it.cid)
    if cid is None or cid.codec is not Codec.MANIFEST or not _fits(cid, it.share):
        return None
    return GetLeaves(cid, it.share)


def _leaves(body: bytes) -> Leaves | None:
    it = parsed(pb.Leaves, body)
    if it is None or it.share >= SHARES_MAX or it.size % DIGEST_SIZE:
        return None
    return Leaves(it.share, it.size) if 0 < it.size <= STRIPES_MAX * DIGEST_SIZE else None


def _get_blocks(body: bytes) -> GetBlocks | None:
    it = parsed(pb.GetBlocks, body)
    cid = None if it is None else _cid(it.cid)
    if cid is None or not _fits(cid, it.share):
        return None
    if not 1 <= it.stripe_count <= BLOCKS_PER_REQUEST_MAX:
        return None
    if not _stripe_fits(cid, it.first_stripe, it.stripe_count):
        return None
    return GetBlocks(
        cid=cid, share=it.share, first_stripe=it.first_stripe, stripe_count=it.stripe_count,
        paths=it.paths,
    )  # fmt: skip


def _blocks(body: bytes) -> Blocks | None:
    it = parsed(pb.Blocks, body)
    if it is None or not (it.share < SHARES_MAX or it.share == WHOLE_SHARE):
        return None
    if not 1 <= it.stripe_count <= BLOCKS_PER_REQUEST_MAX or it.first_stripe >= STRIPES_MAX:
        return None
    return Blocks(share=it.share, first_stripe=it.first_stripe, stripe_count=it.stripe_count)


def _audit(body: bytes) -> Audit | None:
    it = parsed(pb.Audit, body)
    cid = None if it is None else _cid(it.cid)
    if cid is None or not _fits(cid, it.share) or not _stripe_fits(cid, it.stripe):
        return None
    return Audit(cid=cid, share=it.share, stripe=it.stripe)


def _audited(body: bytes) -> Audited | None:
    it = parsed(pb.Audited, body)
    if it is None or len(it.path) > PATH_HASHES_MAX * DIGEST_SIZE or len(it.path) % DIGEST_SIZE:
        return None
    if it.size > RAW_SIZE_STOP:
        return None
    starts = range(0, len(it.path), DIGEST_SIZE)
    path = tuple(it.path[at : at + DIGEST_SIZE] for at in starts)
    return Audited(code=it.code, path=path, size=it.size)


def _lease(body: bytes) -> Lease | None:
    it = parsed(pb.Lease, body)
    if it is None or not 1 <= len(it.leases) <= LEASES_PER_MESSAGE_MAX:
        return None
    fits = all(len(lease) == LEASE_SIZE for lease in it.leases)
    return Lease(tuple(it.leases)) if fits else None


def _leased(body: bytes) -> Leased | None:
    it = parsed(pb.Leased, body)
    if it is None or not 1 <= len(it.codes) <= LEASES_PER_MESSAGE_MAX:
        return None
    fits = len(it.held) == list(it.codes).count(LeaseCode.OLDER)
    fits = fits and all(len(lease) == LEASE_SIZE for lease in it.held)
    return Leased(tuple(it.codes), tuple(it.held)) if fits else None


def _have(body: bytes) -> Have | None:
    it = parsed(pb.Have, body)
    if it is None or not 1 <= len(it.cids) <= HAVE_CIDS_MAX:
        return None
    cids = tuple(cid for cid in map(_cid, it.cids) if cid is not None)
    return Have(cids) if len(cids) == len(it.cids) else None


def _has(body: bytes) -> Has | None:
    it = parsed(pb.Has, body)
    if it is None or not 1 <= len(it.held) <= HAVE_CIDS_MAX:
        return None
    held = tuple(one for one in map(_held, it.held) if one is not None)
    return Has(held) if len(held) == len(it.held) else None


def _held(it: Any) -> Held | None:  # noqa: ANN401 - see bodies.parsed
    if len(it.shares) > SHARES_MAX // 8 or it.shares.endswith(b"\0"):
        return None
    partial, stripes = tuple(it.partial), tuple(it.stripes)
    if len(partial) > PARTIAL_SHARES_MAX or len(partial) != len(stripes):
        return None
    if not _are_shares(partial) or any(count > STRIPES_MAX for count in stripes):
        return None
    return Held(
        shares=it.shares, whole=it.whole, partial=tuple(zip(partial, stripes, strict=True))
    )  # fmt: skip


def _claim(body: bytes) -> Claim | None:
    it = parsed(pb.Claim, body)
    return None if it is None or len(it.claim) != LEASE_SIZE else Claim(it.claim)


def _claimed(body: bytes) -> Claimed | None:
    it = parsed(pb.Claimed, body)
    if it is None or len(it.claim) != (LEASE_SIZE if it.code == ClaimCode.OTHER else 0):
        return None
    return Claimed(it.code, it.claim)


DECODERS: Final[dict[int, Callable[[bytes], BlobMessage | None]]] = {
    Number.OFFER: _offer,
    Number.OFFERED: _offered,
    Number.PUT_SHARE: _put_share,
    Number.SHARE_KEPT: _share_kept,
    Number.GET_MANIFEST: _get_manifest,
    Number.MANIFEST: _manifest,
    Number.GET_LEAVES: _get_leaves,
    Number.LEAVES: _leaves,
    Number.GET_BLOCKS: _get_blocks,
    Number.BLOCKS: _blocks,
    Number.AUDIT: _audit,
    Number.AUDITED: _audited,
    Number.LEASE: _lease,
    Number.LEASED: _leased,
    Number.HAVE: _have,
    Number.HAS: _has,
    Number.CLAIM: _claim,
    Number.CLAIMED: _claimed,
}
"""What reads a body, by number."""


def _fields(kind: Any, *names: str) -> Callable[[Any], bytes]:  # noqa: ANN401 - see bodies.parsed
    """Return what writes a message whose fields are named as the schema's."""

    def encode(message: Any) -> bytes:  # noqa: ANN401
        fields = {name: getattr(message, name) for name in names}
        if "cid" in fields:
            fields["cid"] = bytes(fields["cid"])
        return serialized(kind, **fields)

    return encode


def _encode_has(message: Has) -> bytes:
    held = [
        pb.Held(
            shares=one.shares, whole=one.whole, partial=[share for share, _ in one.partial],
            stripes=[count for _, count in one.partial],
        )
        for one in message.held
    ]  # fmt: skip
    return serialized(pb.Has, held=held)


ENCODERS: Final[dict[Number, Callable[[Any], bytes]]] = {
    Number.OFFER: _fields(pb.Offer, "cid", "size", "shares", "owner"),
    Number.OFFERED: _fields(pb.Offered, "code", "accepted", "kept", "room", "retry_after_ms"),
    Number.PUT_SHARE: _fields(
        pb.PutShare,
        "cid",
        "share",
        "manifest",
        "lease",
        "first_stripe",
        "root",
        "size",
        "supplement",
    ),
    Number.SHARE_KEPT: _fields(pb.ShareKept, "code", "stripes", "provider"),
    Number.GET_MANIFEST: _fields(pb.GetManifest, "cid", "supplement"),
    Number.MANIFEST: _fields(pb.Manifest, "manifest"),
    Number.GET_LEAVES: _fields(pb.GetLeaves, "cid", "share"),
    Number.LEAVES: _fields(pb.Leaves, "share", "size"),
    Number.GET_BLOCKS: _fields(
        pb.GetBlocks, "cid", "share", "first_stripe", "stripe_count", "paths"
    ),
    Number.BLOCKS: _fields(pb.Blocks, "share", "first_stripe", "stripe_count"),
    Number.AUDIT: _fields(pb.Audit, "cid", "share", "stripe"),
    Number.AUDITED: lambda m: serialized(
        pb.Audited, code=m.code, path=b"".join(m.path), size=m.size
    ),
    Number.LEASE: _fields(pb.Lease, "leases"),
    Number.LEASED: _fields(pb.Leased, "codes", "held"),
    Number.HAVE: lambda m: serialized(pb.Have, cids=[bytes(cid) for cid in m.cids]),
    Number.HAS: _encode_has,
    Number.CLAIM: _fields(pb.Claim, "claim"),
    Number.CLAIMED: _fields(pb.Claimed, "code", "claim"),
}
"""What writes a body, by number."""
