"""One read of a blob's bytes [start, stop): which blocks to get, and the bytes in order.

`Download` is a core: it asks for stripes (Fetch), keeps their order, reads a little ahead, and
says what it found damaged. The work on one stripe is one plain function, `read_stripe`, for a
thread: it gets the blocks, checks each against its leaf, and only when one is missing or wrong
gets others and decodes. Nothing that was not checked leaves this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from molia.base.errors import BlobDamaged, BlobError, BlockCorrupt, GeometryError, TooFewShares
from molia.base.hashing import DIGEST_SIZE, blake3_digest
from molia.blobs.erasure import decode_stripe
from molia.blobs.geometry import StripeShape
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import share_root

FetchBlock = Callable[[int, int], bytes | None]
"""(stripe index, share) -> the block as it is stored; None when it is missing or unreadable."""
LeafLists = Callable[[int], bytes | None]
"""share -> its leaf list, checked by `verified_leaves`; None when it is missing or damaged."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get these shares' blocks of the stripe (`read_stripe`) and give them to `on_fetched`."""

    stripe: StripeShape
    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next bytes for the reader. To be handed on before the next `on_fetched`."""

    stripe_index: int
    chunks: tuple[bytes, ...]
    """At most 256 KiB each."""


@dataclass(frozen=True, slots=True)
class Damage:
    """These shares' blocks are missing or wrong: rebuild them (`verify.check_stripe`)."""

    stripe_index: int
    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """All bytes were delivered."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No more bytes can be delivered: TooFewShares or BlobDamaged."""

    error: BlobError


Effect = Fetch | Deliver | Damage | Done | Failed


@dataclass(frozen=True, slots=True)
class StripeRead:
    """What `read_stripe` found."""

    stripe_index: int
    blocks: Mapping[int, bytes]
    """The wanted blocks, unpadded and checked; none at all when the stripe is lost."""
    bad_shares: tuple[int, ...]
    """Shares that were asked for and are missing, wrong, or without a leaf list."""
    sound_count: int
    """Sound blocks that were seen; enough of them give the stripe back."""
    lost: bool


def verified_leaves(manifest: Manifest, share: int, leaves: bytes | None) -> bytes | None:
    """Return a leaf list as it was read, or None unless it has the share's root in the manifest.

    Of a share from 14 on there is none to compare with: it was checked when it came.
    """
    expected_size = manifest.geometry.stripe_count * DIGEST_SIZE
    if leaves is None or len(leaves) != expected_size:
        return None
    if share >= len(manifest.roots):
        return leaves
    return leaves if share_root(leaves) == manifest.roots[share] else None


def block_is_sound(shape: StripeShape, share: int, block: bytes, leaves: bytes) -> bool:
    """Tell whether a block has its size and the digest that the share's leaf list names."""
    at = shape.index * DIGEST_SIZE
    if len(block) != shape.size_of(share):
        return False
    return blake3_digest(block) == leaves[at : at + DIGEST_SIZE]


def fetch_sound(
    fetch: FetchBlock, leaves: LeafLists, shape: StripeShape, share: int
) -> bytes | None:
    """Return a share's block of the stripe, or None when there is none that has its leaf."""
    column = leaves(share)
    block = None if column is None else fetch(shape.index, share)
    if block is None or column is None or not block_is_sound(shape, share, block, column):
        return None
    return block


def read_stripe(
    fetch: FetchBlock, leaves: LeafLists, shape: StripeShape, wanted: Sequence[int]
) -> StripeRead:
    """Return the wanted shares' blocks of one stripe, each checked; decode only what must be.

    For a thread. A share without a leaf list counts as lost: its block is decoded from others that
    were checked. Raises what `fetch` and `leaves` raise, nothing of its own. An empty block is
    not to be wanted.
    """
    sound: dict[int, bytes] = {}
    bad: list[int] = []
    others = (share for share in shape.stored_shares if share not in wanted)
    for share in (*wanted, *others):
        if len(sound) >= (shape.needed if bad else len(wanted)):
            break
        block = fetch_sound(fetch, leaves, shape, share)
        if block is None:
            bad.append(share)
        else:
            sound[share] = block
    missing = [share for share in wanted if share not in sound]
    if not bad:
        return StripeRead(shape.index, sound, (), len(sound), lost=False)
    try:
        rebuilt = rebuild_blocks(shape, sound, missing, leaves)
    except (GeometryError, BlockCorrupt):
        return StripeRead(shape.index, {}, tuple(sorted(bad)), len(sound), lost=True)
    blocks = {share: rebuilt[share] if share in rebuilt else sound[share] for share in wanted}
    return StripeRead(shape.index, blocks, tuple(sorted(bad)), len(sound), lost=False)


def rebuild_blocks(
    shape: StripeShape, sound: Mapping[int, bytes], missing: Sequence[int], leaves: LeafLists
) -> dict[int, bytes]:
    """Return the missing shares' blocks, decoded from sound ones and checked against their leaves.

    A share without a leaf list is not checked: the blocks it follows from were. Raises
    GeometryError when too few are given, BlockCorrupt when a rebuilt block is not what its leaf
    names, which means that the blob was wrongly coded from the start.
    """
    rebuilt = decode_stripe(sound, shape, missing)
    for share, block in rebuilt.items():
        column = leaves(share)
        if column is not None and not block_is_sound(shape, share, block, column):
            raise BlockCorrupt(f"share {share} of stripe {shape.index} is not in its own code")
    return rebuilt


class Download:
    """One read of [start, stop), 0 <= start <= stop <= size, of a blob that has a manifest.

    ahead: how many stripes may be asked for and not yet delivered, at least 1.
    """

    def __init__(self, manifest: Manifest, start: int, stop: int, *, ahead: int = 2) -> None:
        assert 0 <= start <= stop <= manifest.size, "the range lies within the blob"
        assert ahead >= 1, "a stripe is asked for before it comes"
        self._cid, self._geometry = manifest.cid, manifest.geometry
        self._start, self._stop, self._ahead = start, stop, ahead
        stripes = self._geometry.stripes_of(start, stop)
        self._ask_next = self._give_next = stripes.start
        self._last = stripes.stop
        self._arrived: dict[int, StripeRead] = {}  # at most `ahead` of them
        self._effects: list[Effect] = []
        self._over = False
        self._step()

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def on_fetched(self, read: StripeRead) -> None:
        """Take the answer to a Fetch; answers may come in any order."""
        if self._over:
            return
        assert self._give_next <= read.stripe_index < self._ask_next, "the stripe was asked for"
        if read.bad_shares:
            self._effects.append(Damage(read.stripe_index, read.bad_shares))
        self._arrived[read.stripe_index] = read
        self._step()

    def _step(self) -> None:
        while not self._over and self._give_next in self._arrived:
            self._give(self._arrived.pop(self._give_next))
        while not self._over and self._ask_next < min(self._last, self._give_next + self._ahead):
            shape = self._geometry.stripe(self._ask_next)
            self._effects.append(Fetch(shape, shape.shares_of(self._start, self._stop)))
            self._ask_next += 1
        if not self._over and self._give_next == self._last:
            self._effects.append(Done())
            self._over = True

    def _give(self, read: StripeRead) -> None:
        shape = self._geometry.stripe(read.stripe_index)
        if read.lost:
            self._effects.append(Failed(self._loss(shape, read)))
            self._over = True
            self._arrived.clear()
            return
        shares = shape.shares_of(self._start, self._stop)
        chunks = tuple(self._cut(shape, share, read.blocks[share]) for share in shares)
        self._effects.append(Deliver(shape.index, chunks))
        self._give_next += 1

    def _cut(self, shape: StripeShape, share: int, block: bytes) -> bytes:
        """Return the block's part of the range; the block itself when it lies inside."""
        offset = shape.offset + share * shape.block_size
        return block[max(0, self._start - offset) : self._stop - offset]

    def _loss(self, shape: StripeShape, read: StripeRead) -> BlobError:
        if read.sound_count < shape.needed:
            seen, needed = read.sound_count, shape.needed
            return TooFewShares(
                self._cid, stripe_index=shape.index, sound_count=seen, needed=needed
            )
        return BlobDamaged(f"stripe {shape.index} of {self._cid} was wrongly coded when it was put")
