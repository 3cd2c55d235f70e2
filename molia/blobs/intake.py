"""A share, or a small blob, that another node sends for keeping: checked as it comes. A core.

First the manifest against the CID, then the leaf list against the share's root, then each block
against its leaf: nothing goes to the disk that was not checked. The shell stops reading while
`wants_bytes` is false. What was stored when a stream broke counts; the sender goes on from there.
Source: docs/reference/blob-messages.md, "Streams".
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from molia.base.cid import Cid, Codec
from molia.base.errors import BadManifest
from molia.base.hashing import DIGEST_SIZE, blake3_digest
from molia.base.limits import INTAKE_BLOCKS_MAX, RAW_SIZE_STOP, WHOLE_SHARE
from molia.blobs.download import block_is_sound
from molia.blobs.geometry import StripeShape
from molia.blobs.manifest import Manifest, cid_of_manifest
from molia.blobs.merkle import share_root


class Fault(Enum):
    """Why a share is not kept."""

    MANIFEST = "manifest"
    """It is not the CID's, or of no version that is known here."""
    BLOCK = "block"
    """The leaf list has not the share's root, a block not its leaf, or more came than there is."""
    CUT_OFF = "cut off"
    """The stream ended early."""


@dataclass(frozen=True, slots=True)
class StoreLeaves:
    """Make the manifest and the share's leaf list durable, then say `on_leaves_stored`."""

    leaves: bytes


@dataclass(frozen=True, slots=True)
class StoreBlock:
    """Make this block durable, then say `on_stored`; they may be stored in any order."""

    stripe_index: int
    block: bytes


@dataclass(frozen=True, slots=True)
class StoreWhole:
    """Make a small blob durable, then say `on_leaves_stored`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """All is durable: acknowledge it."""

    stripes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Say why, and how many stripes from the first on are kept; take nothing more."""

    fault: Fault
    stripes: int


Effect = StoreLeaves | StoreBlock | StoreWhole | Kept | Refused


class Intake:
    """One share that comes in.

    first_stripe: the first one whose block is sent; those before are durable here. root: of a
    share from 14 on, which the manifest does not list. size: of a small blob.
    """

    def __init__(
        self, cid: Cid, share: int, *, manifest: bytes = b"", first_stripe: int = 0,
        root: bytes = b"", size: int = 0,
    ) -> None:  # fmt: skip
        self.cid, self.share = cid, share
        self._is_small = cid.codec is Codec.RAW
        assert self._is_small == (share == WHOLE_SHARE), "a small blob is kept whole"
        assert not self._is_small or size < RAW_SIZE_STOP, "a small blob has a bound"
        self.manifest = None if self._is_small else _manifest(cid, manifest)
        self._root, self._size, self._next = root, size, first_stripe
        self._stop = 1
        self._effects: list[Effect] = []
        self._chunks: deque[bytes] = deque()
        self._buffered = self._needed = 0
        """Bytes that wait, and how many there have to be before anything can be taken of them."""
        self._leaves = b""
        self._unstored: dict[int, None] = {}
        self._leaves_stored = self._ended = self.is_over = False
        if not self._is_small:
            self._open()

    # ------------------------------------------------------------------ doors

    @property
    def wants_bytes(self) -> bool:
        """Whether more may be read; false while the disk is behind."""
        return not self.is_over and len(self._unstored) < INTAKE_BLOCKS_MAX

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def on_bytes(self, data: bytes) -> None:
        """Take the next bytes after the head."""
        if self.is_over or not data:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        if self._is_small:
            if self._buffered > self._size:
                self._refuse(Fault.BLOCK)
        elif self._buffered >= self._needed:
            self._take()

    def on_end(self) -> None:
        """Take that the stream has ended, or broke off."""
        if self.is_over:
            return
        self._ended = True
        if self._is_small:
            self._take_whole()
        elif self._next < self._stop or not self._leaves:
            self._refuse(Fault.CUT_OFF)
        self._finish()

    def on_leaves_stored(self) -> None:
        """Take that manifest and leaf list, or the small blob, are durable."""
        self._leaves_stored = True
        self._finish()

    def on_stored(self, stripe_index: int) -> None:
        """Take that a block is durable."""
        self._unstored.pop(stripe_index, None)
        self._finish()

    # ------------------------------------------------------------------ steps

    def _open(self) -> None:
        if self.manifest is None:
            self._refuse(Fault.MANIFEST)
            return
        listed = self.manifest.roots[self.share : self.share + 1]
        self._root = listed[0] if listed else self._root
        self._stop = self.manifest.geometry.stripe_count
        self._needed = self._stop * DIGEST_SIZE
        if self._next > self._stop:
            self._refuse(Fault.BLOCK)

    def _take(self) -> None:
        """Take leaf list and blocks off the buffer as far as they are complete."""
        assert self.manifest is not None, "without one the share was refused"
        if not self._leaves:
            if self._buffered < self._needed:
                return
            leaves = self._cut(self._needed)
            if share_root(leaves) != self._root:
                self._refuse(Fault.BLOCK)
                return
            self._leaves = leaves
            self._effects.append(StoreLeaves(leaves))
        while not self.is_over:
            self._skip_empty()
            if self._next >= self._stop:
                break
            shape = self.manifest.geometry.stripe(self._next)
            self._needed = shape.size_of(self.share)
            if self._buffered < self._needed:
                return
            self._take_block(shape)
        self._needed = 0
        if self._buffered and not self.is_over:
            self._refuse(Fault.BLOCK)

    def _skip_empty(self) -> None:
        assert self.manifest is not None, "there are stripes"
        while (
            self._next < self._stop
            and self.manifest.geometry.stripe(self._next).size_of(self.share) == 0
        ):
            self._next += 1

    def _take_block(self, shape: StripeShape) -> None:
        block = self._cut(shape.size_of(self.share))
        if not block_is_sound(shape, self.share, block, self._leaves):
            self._refuse(Fault.BLOCK)
            return
        self._unstored[shape.index] = None
        self._effects.append(StoreBlock(shape.index, block))
        self._next += 1

    def _take_whole(self) -> None:
        data = self._cut(self._buffered)
        if len(data) < self._size:
            self._refuse(Fault.CUT_OFF)
        elif blake3_digest(data) != self.cid.digest:
            self._refuse(Fault.BLOCK)
        else:
            self._next = 1
            self._effects.append(StoreWhole(data))

    def _cut(self, size: int) -> bytes:
        """Take the next bytes off the buffer; they are copied once."""
        self._buffered -= size
        taken = []
        while size:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            taken.append(chunk)
            size -= len(chunk)
        return b"".join(taken)

    def _finish(self) -> None:
        if self._ended and self._leaves_stored and not self._unstored and not self.is_over:
            self.is_over = True
            self._effects.append(Kept(self._next))

    def _refuse(self, fault: Fault) -> None:
        """End it; what comes before the first block that is not durable is kept."""
        stripes = min(self._unstored, default=self._next)
        self._effects.append(Refused(fault, 0 if not self._leaves_stored else stripes))
        self._chunks.clear()
        self._buffered = 0
        self.is_over = True


def _manifest(cid: Cid, encoded: bytes) -> Manifest | None:
    if cid_of_manifest(encoded) != cid:
        return None
    try:
        return Manifest.decode(encoded)
    except BadManifest:
        return None
