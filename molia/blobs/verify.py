"""Check every block of a blob, and rebuild what is damaged and can be.

`VerifyBlob` is a core: leaf lists first, since blocks are checked against them, then stripe by
stripe. A damaged leaf list is made again from the blocks and counts when it has the share's root:
first from the share's own blocks as they are, then from blocks decoded out of the other shares.
The plain functions are the work for threads.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from molia.base.cid import Cid, Codec
from molia.base.errors import BlockCorrupt, GeometryError
from molia.base.hashing import DIGEST_SIZE, EMPTY_DIGEST, blake3_digest
from molia.base.limits import TOTAL_SHARES
from molia.blobs.download import (
    FetchBlock,
    LeafLists,
    fetch_sound,
    read_stripe,
    rebuild_blocks,
    verified_leaves,
)
from molia.blobs.geometry import Geometry, StripeShape
from molia.blobs.manifest import Manifest

HASH_STRIPES_MAX: Final = 64
"""Blocks that one HashShare covers: at most 16 MiB, or 160 MiB when each must be decoded."""
_NO_DIGEST: Final = bytes(DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class StripeCheck:
    """What `check_stripe` found."""

    stripe_index: int
    damaged: tuple[int, ...]
    """Shares whose block is missing or wrong."""
    rebuilt: Mapping[int, bytes]
    """The damaged blocks as they should be; none when the stripe is lost."""
    lost: bool


def check_stripe(fetch: FetchBlock, leaves: LeafLists, shape: StripeShape) -> StripeCheck:
    """Check all stored blocks of one stripe and rebuild the damaged ones. For a thread.

    A share without a leaf list is compared with what the other shares say its block must be.
    """
    found = {share: fetch_sound(fetch, leaves, shape, share) for share in shape.stored_shares}
    sound = {share: block for share, block in found.items() if block is not None}
    suspect = [share for share in found if share not in sound]
    if not suspect:
        return StripeCheck(shape.index, (), {}, lost=False)
    try:
        rebuilt = rebuild_blocks(shape, sound, suspect, leaves)
    except (GeometryError, BlockCorrupt):
        return StripeCheck(shape.index, tuple(suspect), {}, lost=True)
    for share in suspect:
        if leaves(share) is None and fetch(shape.index, share) == rebuilt[share]:
            del rebuilt[share]
    return StripeCheck(shape.index, tuple(rebuilt), rebuilt, lost=False)


def hash_share(
    fetch: FetchBlock, leaves: LeafLists, manifest: Manifest, effect: "HashShare"
) -> bytes:
    """Return the digests that `effect` asks for, 32 bytes per stripe. For a thread.

    A block that cannot be had gives 32 zero bytes, which no root will match.
    """
    digests = bytearray()
    for index in effect.stripes:
        shape = manifest.geometry.stripe(index)
        if shape.size_of(effect.share) == 0:
            digests += EMPTY_DIGEST
            continue
        if effect.decode:
            read = read_stripe(fetch, leaves, shape, (effect.share,))
            block = read.blocks.get(effect.share)
        else:
            block = fetch(index, effect.share)
        digests += _NO_DIGEST if block is None else blake3_digest(block)
    return bytes(digests)


def whole_is_sound(cid: Cid, data: bytes | None) -> bool:
    """Tell whether `data` is the small blob that `cid` names."""
    assert cid.codec is Codec.RAW, "only small blobs are kept whole"
    return data is not None and blake3_digest(data) == cid.digest


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found so far. It is also where to go on: give it to a new VerifyBlob."""

    next_stripe: int = 0
    damaged: tuple[int, ...] = (0,) * TOTAL_SHARES
    """Damaged blocks per share, rebuilt ones included."""
    rebuilt_blocks: int = 0
    lost_stripes: int = 0
    damaged_lists: int = 0
    rebuilt_lists: int = 0

    @property
    def healthy(self) -> bool:
        """Whether all is well now: nothing was damaged, or all of it was rebuilt."""
        mended = sum(self.damaged) == self.rebuilt_blocks
        return mended and self.lost_stripes == 0 and self.damaged_lists == self.rebuilt_lists

    def to_cursor(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "damaged": list(self.damaged)}

    @classmethod
    def from_cursor(cls, cursor: Mapping[str, Any]) -> "VerifyReport":
        """Return the report that `to_cursor` gave; a fresh one for anything else."""
        fresh = cls()
        counts = {name: cursor.get(name) for name in asdict(fresh) if name != "damaged"}
        damaged = cursor.get("damaged")
        if not isinstance(damaged, list | tuple) or len(damaged) != TOTAL_SHARES:
            return fresh
        if not all(type(value) is int and value >= 0 for value in (*counts.values(), *damaged)):
            return fresh
        return cls(damaged=tuple(damaged), **counts)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class CheckLeaves:
    """Read this share's leaf list; tell `on_leaves_checked` whether `verified_leaves` took it."""

    share: int


@dataclass(frozen=True, slots=True)
class HashShare:
    """Run `hash_share` on this in a thread and give the digests to `on_share_hashed`."""

    share: int
    stripes: range
    decode: bool
    """False: of the blocks as they are. True: of the blocks as the other shares have them."""


@dataclass(frozen=True, slots=True)
class RepairLeaves:
    """Store this leaf list in place of the share's damaged one, then say `on_repaired`."""

    share: int
    leaves: bytes


@dataclass(frozen=True, slots=True)
class CheckStripe:
    """Run `check_stripe` on this in a thread and give the result to `on_stripe_checked`."""

    stripe: StripeShape


@dataclass(frozen=True, slots=True)
class Repair:
    """Store these blocks in place of the damaged ones, then say `on_repaired`."""

    stripe_index: int
    blocks: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Verified:
    """The blob was checked to its end."""

    report: VerifyReport


Effect = CheckLeaves | HashShare | RepairLeaves | CheckStripe | Repair | Verified


class VerifyBlob:
    """Verification of one blob that has a manifest; one effect is under way at a time.

    report: of an earlier run that was cut off; its stripes are not read again. The attribute of
    that name counts a repair only once it is durable, so it may be saved at any time.
    """

    def __init__(self, manifest: Manifest, report: VerifyReport | None = None) -> None:
        self._manifest, self._geometry = manifest, Geometry.of(manifest.size)
        before = report or VerifyReport()
        # a list that was not rebuilt is found damaged again now, and must not count twice
        self.report = replace(before, damaged_lists=before.rebuilt_lists)
        self._after_repair = self.report
        self._share = 0
        self._digests = bytearray()
        self._decode = False
        self._effect: Effect | None = CheckLeaves(0)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effect, self._effect = self._effect, None
        return [] if effect is None else [effect]

    def on_leaves_checked(self, share: int, *, sound: bool) -> None:
        """Take whether a share's leaf list is sound."""
        assert share == self._share, "lists are checked in order"
        if sound:
            self._next_share()
            return
        self.report = replace(self.report, damaged_lists=self.report.damaged_lists + 1)
        self._rehash(decode=False)

    def on_share_hashed(self, digests: bytes) -> None:
        """Take the next digests of the share whose list is made again."""
        self._digests += digests
        if len(self._digests) < self._geometry.stripe_count * DIGEST_SIZE:
            self._hash_more()
            return
        leaves = bytes(self._digests)
        if verified_leaves(self._manifest, self._share, leaves) is not None:
            rebuilt_lists = self.report.rebuilt_lists + 1
            self._after_repair = replace(self.report, rebuilt_lists=rebuilt_lists)
            self._effect = RepairLeaves(self._share, leaves)
        elif not self._decode:
            self._rehash(decode=True)
        else:
            self._next_share()

    def on_stripe_checked(self, check: StripeCheck) -> None:
        """Take what was found in a stripe."""
        damaged = list(self.report.damaged)
        for share in check.damaged:
            damaged[share] += 1
        after = replace(
            self.report,
            next_stripe=check.stripe_index + 1,
            damaged=tuple(damaged),
            rebuilt_blocks=self.report.rebuilt_blocks + len(check.rebuilt),
            lost_stripes=self.report.lost_stripes + int(check.lost),
        )
        if check.rebuilt:
            self._after_repair = after
            self._effect = Repair(check.stripe_index, check.rebuilt)
        else:
            self.report = after
            self._next_stripe()

    def on_repaired(self) -> None:
        """Take that the last Repair or RepairLeaves is durable."""
        self.report = self._after_repair
        if self._share < TOTAL_SHARES:
            self._next_share()
        else:
            self._next_stripe()

    def _rehash(self, *, decode: bool) -> None:
        self._decode = decode
        self._digests.clear()
        self._hash_more()

    def _hash_more(self) -> None:
        start = len(self._digests) // DIGEST_SIZE
        stop = min(start + HASH_STRIPES_MAX, self._geometry.stripe_count)
        self._effect = HashShare(self._share, range(start, stop), self._decode)

    def _next_share(self) -> None:
        self._share += 1
        if self._share < TOTAL_SHARES:
            self._effect = CheckLeaves(self._share)
        else:
            self._next_stripe()

    def _next_stripe(self) -> None:
        if self.report.next_stripe < self._geometry.stripe_count:
            self._effect = CheckStripe(self._geometry.stripe(self.report.next_stripe))
        else:
            self._effect = Verified(self.report)
