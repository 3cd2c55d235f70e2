"""Blocks that are kept here, each with the proof that it is one; checked before they leave.

Everything here is for threads. A block that does not have its leaf is as good as absent.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Final, NamedTuple

from molia.base.cid import Cid
from molia.base.errors import BadManifest, ShardUnavailable
from molia.base.ids import ObjectId
from molia.base.limits import MANIFESTS_READ_MAX, SHARES_MAX, TREE_CACHE_BYTES, WHOLE_SHARE
from molia.blobs.download import fetch_sound
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import path_in, tree_of
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.stored import fetcher, leaf_lists, parts_here, read_whole

_Key = tuple[ObjectId, int]
NO_PATH: Final[tuple[bytes, ...]] = ()


class Piece(NamedTuple):
    """A block, and its Merkle path; of a small blob its bytes, without one."""

    path: tuple[bytes, ...]
    block: bytes


class Pieces:
    """What a node keeps, as others are given it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trees: OrderedDict[_Key, tuple[bytes, ...]] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def find(self, cid: Cid) -> tuple[Bound, ...]:
        """Return what is here of a blob."""
        return parts_here(self._context, cid)

    def leaves(self, here: Sequence[Bound], share: int) -> bytes | None:
        """Return a share's leaf list, checked; None when it is not here."""
        return next(filter(None, (self._leaves(bound, share) for bound in here)), None)

    def open(
        self, cid: Cid, share: int, stripe_index: int
    ) -> tuple[tuple[Bound, ...], Piece | None]:
        """Return what is here of a blob, and a block of it as `read` does: one way to a thread."""
        here = self.find(cid)
        return here, self.read(here, share, stripe_index)

    def read(self, here: Sequence[Bound], share: int, stripe_index: int) -> Piece | None:
        """Return a block, checked; None when it is not here as it was."""
        for bound in here:
            try:
                piece = self._piece(bound, share, stripe_index)
            except ShardUnavailable:
                continue
            if piece is not None:
                return piece
        return None

    def read_some(
        self, here: Sequence[Bound], share: int, first_stripe: int, count: int
    ) -> list[Piece]:
        """Return that many blocks of a share as `read` does, up to the first that is not here."""
        found: list[Piece] = []
        while len(found) < count:
            piece = self.read(here, share, first_stripe + len(found))
            if piece is None:
                break
            found.append(piece)
        return found

    def _leaves(self, bound: Bound, share: int) -> bytes | None:
        manifest = manifest_of(bound)
        if manifest is None or not share < SHARES_MAX:
            return None
        try:
            return leaf_lists(self._context, bound, manifest)(share)
        except ShardUnavailable:
            return None

    def _piece(self, bound: Bound, share: int, stripe_index: int) -> Piece | None:
        if not bound.is_raw:
            return self._block(bound, share, stripe_index)
        data = read_whole(self._context, bound) if share == WHOLE_SHARE else None
        return None if data is None else Piece(NO_PATH, data)

    def _block(self, bound: Bound, share: int, stripe_index: int) -> Piece | None:
        manifest, leaves = manifest_of(bound), self._leaves(bound, share)
        if manifest is None or leaves is None or stripe_index >= manifest.geometry.stripe_count:
            return None
        shape = manifest.geometry.stripe(stripe_index)
        block: bytes | None = b""
        if shape.size_of(share):
            fetch = fetcher(self._context, bound)
            block = fetch_sound(fetch, lambda _: leaves, shape, share)
        if block is None:
            return None
        tree = self._tree((bound.row.object_id, share), leaves)
        return Piece(tuple(path_in(tree, stripe_index)), block)

    def _tree(self, key: _Key, leaves: bytes) -> tuple[bytes, ...]:
        with self._lock:
            tree = self._trees.get(key)
            if tree is not None:
                self._trees.move_to_end(key)
                return tree
        tree = tree_of(leaves)
        with self._lock:
            if key not in self._trees:
                self._trees[key] = tree
                self._size += _size_of(tree)
            while self._size > TREE_CACHE_BYTES:
                _, dropped = self._trees.popitem(last=False)
                self._size -= _size_of(dropped)
        return tree


def manifest_of(bound: Bound) -> Manifest | None:
    """Return a blob's manifest; None for a small one."""
    return None if bound.is_raw else _decoded(bound.row.manifest)


@lru_cache(maxsize=MANIFESTS_READ_MAX)
def _decoded(encoded: bytes) -> Manifest | None:
    """Remembered: each block of a blob is read with it."""
    try:
        return Manifest.decode(encoded)
    except BadManifest:
        return None


def _size_of(tree: tuple[bytes, ...]) -> int:
    return sum(map(len, tree))
