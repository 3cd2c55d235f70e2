"""One put: bytes in, stripes out, and at the end a CID. A core: it moves no byte by itself.

The shell feeds the body with `on_bytes` and `on_end`, carries out what `take_effects` returns and
answers. Encode and HashContent are work for threads (`encode`, `hash_content`). The shell stops
reading while `wants_bytes` is false, so what is held is bounded: four stripes in flight, one being
filled, and the leaf lists (448 bytes per stripe of 2.5 MiB; 188 MB for the largest blob, 1 TiB).

A body may turn out small, and a small blob is kept whole, so nothing is coded before the body has
ended or filled the largest stripe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from molia.base.cid import Cid, Codec
from molia.base.errors import BadInput, BodyTooLarge, DigestMismatch, MoliaError, UploadCutOff
from molia.base.hashing import EMPTY_DIGEST, ContentHasher, blake3_digest
from molia.base.limits import (
    BLOB_SIZE_MAX,
    BLOCK_SIZE_MAX,
    DATA_SHARES,
    KIB,
    RAW_SIZE_STOP,
    STRIPES_IN_FLIGHT,
    TOTAL_SHARES,
)
from molia.blobs.erasure import Buffer, encode_stripe
from molia.blobs.geometry import STRIPE_SIZE_MAX, Geometry, StripeShape
from molia.blobs.manifest import Manifest, cid_of_manifest
from molia.blobs.merkle import Frontier

_CRUMB_SIZE = 4 * KIB
"""Chunks below this are copied together, or a body of single bytes would cost 50 times its size."""
_CRUMBS_SIZE_MAX = 64 * KIB


@dataclass(frozen=True, slots=True)
class Encode:
    """Run `encode` on this in a thread and give the result to `on_encoded`, in any order."""

    stripe: StripeShape
    parts: tuple[Buffer, ...]
    """The stripe's bytes in pieces, as they came."""


@dataclass(frozen=True, slots=True)
class EncodedStripe:
    """A stripe's blocks and what they hash to."""

    stripe_index: int
    blocks: tuple[tuple[int, Buffer], ...]
    """(share, block), unpadded, without the empty ones."""
    leaves: tuple[bytes, ...]
    """The 14 blocks' digests."""


@dataclass(frozen=True, slots=True)
class HashContent:
    """Run `hash_content` on this in a thread, then say `on_hashed`. Never two at a time."""

    hasher: ContentHasher
    parts: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """Make these blocks durable, then say `on_stored`. Stripes may come out of order."""

    stripe_index: int
    blocks: tuple[tuple[int, Buffer], ...]


@dataclass(frozen=True, slots=True)
class StoreLeaves:
    """Make this share's leaf list durable; say `on_leaves_stored` once all 14 are."""

    share: int
    leaves: bytes


@dataclass(frozen=True, slots=True)
class StoreWhole:
    """The bytes of a small blob. Done comes with it: both may go into one transaction."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """All there is to say about the blob; what was stored before is durable."""

    cid: Cid
    size: int
    content: bytes
    manifest: bytes
    """b"" for a small blob, which has none."""
    k: int
    n: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The upload is over and nothing of it counts. Answers that come later are ignored."""

    error: MoliaError


Effect = Encode | HashContent | Store | StoreLeaves | StoreWhole | Done | Failed


def encode(effect: Encode) -> EncodedStripe:
    """Return the stripe's 14 blocks and digests. For a thread: zfec and BLAKE3 drop the GIL."""
    shape = effect.stripe
    body = memoryview(b"".join(effect.parts))
    assert len(body) == shape.size, "the parts are the stripe"
    step = shape.block_size
    data: list[Buffer] = [body[j * step : (j + 1) * step] for j in range(DATA_SHARES)]
    blocks = [*data, *encode_stripe(data, step)]
    leaves = tuple(blake3_digest(block) if len(block) else EMPTY_DIGEST for block in blocks)
    stored = tuple((share, block) for share, block in enumerate(blocks) if len(block))
    return EncodedStripe(shape.index, stored, leaves)


def hash_content(effect: HashContent) -> None:
    """Hash the next bytes of the blob. For a thread."""
    for part in effect.parts:
        effect.hasher.update(part)


class Upload:
    """One put.

    size: what the client said the body has; another length fails. size_max: a longer body fails
    with BodyTooLarge. assert_cid, assert_content: what the bytes must hash to (DigestMismatch);
    a raw CID stands for the content hash, whatever the size.
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        size_max: int = BLOB_SIZE_MAX,
        assert_cid: Cid | None = None,
        assert_content: bytes | None = None,
    ) -> None:
        self._size, self._size_max = size, min(size_max, BLOB_SIZE_MAX)
        self._assert_cid, self._assert_content = assert_cid, assert_content
        self._effects: list[Effect] = []
        self._filling = _Filling()
        self._received = 0
        self._ended = self._over = False
        self._stripe_count = 0
        self._answers_due: dict[int, int] = {}  # stripe -> 2: hash and store, 1: one of them
        self._hasher = ContentHasher()
        self._to_hash: list[tuple[int, tuple[Buffer, ...]]] = []
        self._hashing: tuple[int, ...] = ()
        self._columns = _Columns()
        self._manifest: Manifest | None = None
        self._leaves_stored = False
        if size is not None and size > self._size_max:
            self._fail(_too_large(self._size_max))

    @property
    def wants_bytes(self) -> bool:
        """Whether to go on reading the body."""
        return not self._ended and not self._over and self.in_flight < STRIPES_IN_FLIGHT

    @property
    def in_flight(self) -> int:
        """Stripes that were handed out and are not yet both hashed and stored."""
        return len(self._answers_due)

    @property
    def bytes_to_stripe_end(self) -> int:
        """How many bytes the stripe being filled still takes; fewer when the body ends before."""
        body_stop = self._size_max if self._size is None else self._size
        room = STRIPE_SIZE_MAX - self._filling.size
        return max(0, min(room, body_stop - self._received))

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def on_bytes(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the body, any number.

        `bytes`, and views of the whole of them, are kept by reference; other views are copied.
        """
        assert not self._ended, "the body has ended"
        if self._over:
            return
        chunk = _unwrapped(chunk)
        self._received += len(chunk)
        if self._received > self._size_max:
            self._fail(_too_large(self._size_max))
            return
        if self._size is not None and self._received > self._size:
            self._fail(BadInput(f"the body has more than the {self._size} bytes it announced"))
            return
        at = 0
        while at < len(chunk):
            taken = min(STRIPE_SIZE_MAX - self._filling.size, len(chunk) - at)
            self._filling.add(chunk if taken == len(chunk) else chunk[at : at + taken])
            at += taken
            if self._filling.size == STRIPE_SIZE_MAX:
                index = self._stripe_count
                offset = index * STRIPE_SIZE_MAX
                self._dispatch(StripeShape(index, offset, STRIPE_SIZE_MAX, BLOCK_SIZE_MAX))

    def on_end(self) -> None:
        """Take the end of the body."""
        assert not self._ended, "a body ends once"
        self._ended = True
        if self._over:
            return
        if self._size is not None and self._received < self._size:
            came = f"{self._received} of {self._size} bytes came"
            self._fail(UploadCutOff(f"the body ended early: {came}"))
        elif self._received < RAW_SIZE_STOP:
            self._finish_small()
        else:
            if self._filling.size:
                self._dispatch(Geometry.of(self._received).stripe(self._stripe_count))
            self._describe()

    def on_encoded(self, encoded: EncodedStripe) -> None:
        """Take what `encode` returned."""
        if self._over:
            return
        self._effects.append(Store(encoded.stripe_index, encoded.blocks))
        self._columns.add(encoded.stripe_index, encoded.leaves)
        self._describe()

    def on_hashed(self) -> None:
        """Take that the last HashContent was carried out."""
        if self._over:
            return
        hashed, self._hashing = self._hashing, ()
        for index in hashed:
            self._answered(index)
        self._hash_next()
        self._describe()

    def on_stored(self, stripe_index: int) -> None:
        """Take that a stripe's blocks are durable."""
        if self._over:
            return
        self._answered(stripe_index)
        self._finish()

    def on_leaves_stored(self) -> None:
        """Take that all 14 leaf lists are durable."""
        if self._over:
            return
        self._leaves_stored = True
        self._finish()

    def _dispatch(self, shape: StripeShape) -> None:
        parts, self._filling = tuple(self._filling.parts), _Filling()
        self._stripe_count += 1
        self._answers_due[shape.index] = 2
        self._effects.append(Encode(shape, parts))
        self._to_hash.append((shape.index, parts))
        self._hash_next()

    def _hash_next(self) -> None:
        """Hand out all that waits in one go: the order is kept and a thread is woken once."""
        if self._hashing or not self._to_hash:
            return
        self._hashing = tuple(index for index, _ in self._to_hash)
        parts = tuple(part for _, stripe_parts in self._to_hash for part in stripe_parts)
        self._to_hash.clear()
        self._effects.append(HashContent(self._hasher, parts))

    def _answered(self, stripe_index: int) -> None:
        self._answers_due[stripe_index] -= 1
        if self._answers_due[stripe_index] == 0:
            del self._answers_due[stripe_index]

    def _finish_small(self) -> None:
        data = b"".join(self._filling.parts)
        content = blake3_digest(data)
        cid = Cid(Codec.RAW, content)
        if self._matches(cid, content):
            done = Done(cid, len(data), content, b"", 1, 1)
            self._effects += [StoreWhole(data), done]
            self._close()

    def _describe(self) -> None:
        """Once all is coded and hashed, make the manifest and hand out the leaf lists.

        The last stripes may still be on their way to the disk, so that one sync serves both.
        """
        hashed = not self._hashing and not self._to_hash
        if not self._ended or not hashed or self._columns.count < self._stripe_count:
            return
        assert self._manifest is None, "the last answer comes once"
        manifest = Manifest(self._received, self._columns.roots(), self._hasher.digest())
        if self._matches(manifest.cid, manifest.content):
            self._manifest = manifest
            for share in range(TOTAL_SHARES):
                self._effects.append(StoreLeaves(share, self._columns.take(share)))

    def _finish(self) -> None:
        if self._manifest is None or not self._leaves_stored or self._answers_due:
            return
        encoded, content = self._manifest.encode(), self._manifest.content
        cid = cid_of_manifest(encoded)
        done = Done(cid, self._received, content, encoded, DATA_SHARES, TOTAL_SHARES)
        self._effects.append(done)
        self._close()

    def _matches(self, cid: Cid, content: bytes) -> bool:
        """Fail the upload unless its bytes are the asserted ones."""
        wanted, names = self._assert_cid, (cid, Cid(Codec.RAW, content))
        if self._assert_content is not None and self._assert_content != content:
            expected, found = self._assert_content.hex(), content.hex()
            self._fail(DigestMismatch(f"the body hashes to {found}, not to {expected}"))
        elif wanted is not None and wanted not in names:
            self._fail(DigestMismatch(f"the body is {cid}, not {wanted}"))
        return not self._over

    def _fail(self, error: MoliaError) -> None:
        self._effects = [Failed(error)]
        self._close()

    def _close(self) -> None:
        """Let go of all bytes."""
        self._over = True
        self._filling, self._columns = _Filling(), _Columns()
        self._answers_due.clear()
        self._to_hash.clear()


class _Filling:
    """The stripe that is being filled."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.size = 0

    def add(self, chunk: bytes | memoryview) -> None:
        self.size += len(chunk)
        last = self.parts[-1] if self.parts else None
        if len(chunk) >= _CRUMB_SIZE:
            self.parts.append(bytes(chunk))
        elif isinstance(last, bytearray) and len(last) < _CRUMBS_SIZE_MAX:
            last += bytes(chunk)
        elif chunk:
            self.parts.append(bytearray(chunk))


class _Columns:
    """The 14 shares' leaf lists, filled in stripe order."""

    __slots__ = ("_early", "_frontiers", "_lists", "count")

    def __init__(self) -> None:
        self.count = 0
        self._early: dict[int, Sequence[bytes]] = {}  # at most the stripes in flight
        self._lists: list[bytearray] = []
        self._frontiers: list[Frontier] = []

    def add(self, stripe_index: int, leaves: Sequence[bytes]) -> None:
        if not self._lists:  # not before there is something: most blobs are small
            self._lists = [bytearray() for _ in range(TOTAL_SHARES)]
            self._frontiers = [Frontier() for _ in range(TOTAL_SHARES)]
        self._early[stripe_index] = leaves
        while self.count in self._early:
            ready = self._early.pop(self.count)
            for share, leaf in enumerate(ready):
                self._lists[share] += leaf
                self._frontiers[share].append(leaf)
            self.count += 1

    def roots(self) -> tuple[bytes, ...]:
        return tuple(frontier.root() for frontier in self._frontiers)

    def take(self, share: int) -> bytes:
        """Return a share's list and forget it."""
        leaves, self._lists[share] = bytes(self._lists[share]), bytearray()
        return leaves


def _unwrapped(chunk: bytes | memoryview) -> bytes | memoryview:
    """Return the bytes behind a view of the whole of them: joining bytes drops the GIL."""
    if isinstance(chunk, bytes) or not isinstance(chunk.obj, bytes) or not chunk.c_contiguous:
        return chunk
    return chunk.obj if chunk.nbytes == len(chunk.obj) else chunk


def _too_large(size_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than the {size_max} bytes that are taken here")
