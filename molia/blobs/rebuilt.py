"""Shares that a repair makes anew, checked against the manifest before anybody gets them.

`Gather` with `shares` reads them, decoded from ten others where nobody has them. That each input
was sound does not make the output sound: who put the blob may have coded it wrongly, and then no
share made from it has the root that the manifest lists.
Source: docs/reference/audit-and-repair.md, "A repair".
"""

from collections.abc import Sequence

from molia.base.errors import BlobDamaged
from molia.base.hashing import EMPTY_DIGEST, blake3_digest
from molia.base.limits import SHARES_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import Frontier


class Rebuilt:
    """The leaf lists and roots of shares whose blocks come stripe by stripe.

    32 bytes for each block; the blocks themselves are the caller's, to keep until `leaves` has
    said that they are right. Shares from 14 on have no root in the manifest: their leaf lists are
    returned, and `root` is what a supplement lists.
    """

    def __init__(self, manifest: Manifest, shares: Sequence[int]) -> None:
        assert 0 < len(shares) <= SHARES_MAX, "some shares are made"
        self._manifest, self.shares = manifest, tuple(shares)
        self._geometry = manifest.geometry
        self._lists = {share: bytearray() for share in self.shares}
        self._frontiers = {share: Frontier() for share in self.shares}
        self._next = 0

    def on_stripe(self, stripe_index: int, blocks: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Take what `Gather` delivered for the next stripe; return it by share."""
        assert stripe_index == self._next, "stripes come in order"
        shape = self._geometry.stripe(stripe_index)
        stored = [share for share in self.shares if shape.size_of(share) > 0]
        found = list(zip(stored, blocks, strict=True))
        leaves = {share: blake3_digest(block) for share, block in found}
        for share in self.shares:
            leaf = leaves.get(share, EMPTY_DIGEST)
            self._lists[share] += leaf
            self._frontiers[share].append(leaf)
        self._next += 1
        return found

    def root(self, share: int) -> bytes:
        """Return a share's root, once all stripes have come."""
        assert self._next == self._geometry.stripe_count, "a share has all stripes"
        return self._frontiers[share].root()

    def leaves(self) -> dict[int, bytes]:
        """Return the leaf lists, once all stripes have come.

        Raises BlobDamaged when a share is not what the manifest says: the blob was wrongly coded
        when it was put, and nothing made from it may be placed.
        """
        for share in self.shares:
            listed = self._manifest.roots[share : share + 1]
            if listed and self.root(share) != listed[0]:
                raise BlobDamaged(f"share {share} of {self._manifest.cid} is not in its own code")
        return {share: bytes(column) for share, column in self._lists.items()}
