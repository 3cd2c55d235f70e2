"""The part of `NodeService` that reads blobs: from our own store where that suffices.

What the user put here, what is kept for others and what is cached are looked at in this order; the
network is asked for what they do not give.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from molia.base import limits
from molia.base.cid import Cid, Ref
from molia.base.errors import (
    BlobDamaged,
    BlobNotFound,
    LookupTimedOut,
    MoliaError,
    NoHolders,
    NotFound,
    NotJoined,
    TooFewShares,
)
from molia.base.views import BlobHealth, BlobInfo, ManifestView
from molia.blobs.manifest import Manifest
from molia.dht.blinding import content_cid
from molia.node.caching import Cache
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.fetching import Fetcher
from molia.node.heal import Healer
from molia.node.health import health_of
from molia.node.network_health import network_health
from molia.node.network_readers import WholeReader
from molia.node.reads import LocalReader
from molia.node.service import BlobReader
from molia.node.stored import parts_here, shares_here

if TYPE_CHECKING:
    from molia.node.member import Member


class ReadingFace(ABC):
    """What a node answers of blobs that it reads."""

    context: Context
    member: "Member | None"
    cache: Cache
    _healer: Healer

    @abstractmethod
    async def _find(self, ref: Ref) -> Bound:
        """Return a blob of our own. Raises BlobNotFound, Damaged."""

    @property
    def _fetcher(self) -> Fetcher | None:
        return None if self.member is None else self.member.fetcher

    async def open_blob(self, ref: Ref, *, local_only: bool = False) -> BlobReader:
        """See `NodeService.open_blob`."""
        fetcher = None if local_only else self._fetcher
        try:
            bound = await self._find(ref)
        except BlobNotFound as error:
            return await self._open_part(content_cid(ref), ref, fetcher, error)
        if fetcher is not None and not await self._is_enough(bound):
            here = await self.context.offload.run(parts_here, self.context, bound.cid)
            return await fetcher.open(bound.cid, here)
        return _mended(LocalReader(self.context, bound, self._healer), fetcher, bound)

    async def _is_enough(self, bound: Bound) -> bool:
        """Tell whether a blob can be read from what is here of it, unless that is damaged."""
        if bound.is_raw:
            return True
        shares = await self.context.offload.run(shares_here, self.context, bound)
        return sum(share < limits.TOTAL_SHARES for share in shares) >= limits.DATA_SHARES

    async def _open_part(
        self, cid: Cid, ref: Ref, fetcher: Fetcher | None, not_here: BlobNotFound
    ) -> BlobReader:
        """Open a blob of which there may be parts here, none of them the user's."""
        here = await self.context.offload.run(parts_here, self.context, cid)
        for bound in here:
            if await self._is_enough(bound):
                return _mended(
                    LocalReader(self.context, bound, None), fetcher, bound, cache=self.cache
                )
        if fetcher is None:
            raise not_here
        if here:
            return await fetcher.open(cid, here)
        return await fetcher.open_ref(ref, not_here)

    async def blob_manifest(self, ref: Ref) -> ManifestView:
        """See `NodeService.blob_manifest`."""
        try:
            bound = await self._find(ref)
        except BlobNotFound as error:
            return await self._their_manifest(ref, error)
        if bound.is_raw:
            raise _no_manifest(bound.cid)
        return _manifest_view(bound.cid, Manifest.decode(bound.row.manifest))

    async def _their_manifest(self, ref: Ref, not_here: BlobNotFound) -> ManifestView:
        if self._fetcher is None:
            raise not_here
        reader = await self._fetcher.open_ref(ref, not_here)
        if isinstance(reader, WholeReader):
            raise _no_manifest(reader.info.cid)
        return _manifest_view(reader.info.cid, reader.manifest)

    async def blob_health(self, ref: Ref) -> BlobHealth:
        """See `NodeService.blob_health`."""
        try:
            bound = await self._find(ref)
        except BlobNotFound as error:
            if self._fetcher is None:
                raise
            reader = await self._fetcher.open_ref(ref, error)
            own = await self.context.offload.run(self._own_shares, reader.info.cid)
            return await network_health(self._fetcher, reader.info, own)
        run = self.context.offload.run
        known = None if self.member is None else await run(self.member.keeper.others, bound.cid)
        return await run(health_of, self.context, bound, known)

    def _own_shares(self, cid: Cid) -> frozenset[int]:
        here = parts_here(self.context, cid)
        return frozenset(share for bound in here for share in shares_here(self.context, bound))


def _mended(
    local: LocalReader, fetcher: Fetcher | None, bound: Bound, *, cache: Cache | None = None
) -> BlobReader:
    return local if fetcher is None else _Mended(local, fetcher, bound, cache)


class _Mended:
    """A blob that is here; what is damaged beyond what is kept here comes from others."""

    def __init__(
        self, local: LocalReader, fetcher: Fetcher, bound: Bound, cache: Cache | None
    ) -> None:
        """cache: where the blob may lie, and is let go when it is damaged."""
        self._local, self._fetcher, self._bound = local, fetcher, bound
        self._cache = cache

    @property
    def info(self) -> BlobInfo:
        """The line of the local index."""
        return self._bound.info

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`."""
        at = start
        try:
            async for chunk in self._local.read(start, stop):
                at += len(chunk)
                yield chunk
            return
        except (BlobDamaged, TooFewShares) as error:
            damage: MoliaError = error
        if not self._fetcher.is_joined:
            raise damage
        if self._cache is not None:
            await self._cache.drop(self._bound.cid)
        try:
            theirs = await self._fetcher.open(self._bound.cid, (self._bound,))
            async for chunk in theirs.read(at, stop):
                yield chunk
        except (NoHolders, NotJoined, LookupTimedOut):
            raise damage from None


def _no_manifest(cid: Cid) -> NotFound:
    return NotFound(f"{cid} is small and kept whole: it has no manifest")


def _manifest_view(cid: Cid, manifest: Manifest) -> ManifestView:
    return ManifestView(
        cid=cid, encoded=manifest.encode(), size=manifest.size, block_size=manifest.block_size,
        k=limits.DATA_SHARES, n=limits.TOTAL_SHARES, content=manifest.content,
        roots=tuple(manifest.roots),
    )  # fmt: skip
