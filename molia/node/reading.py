"""Opening a blob: from our own store where it can be read there, through the network otherwise."""

from collections.abc import AsyncIterator

from molia.base import limits
from molia.base.errors import (
    BlobDamaged,
    LookupTimedOut,
    MoliaError,
    NoHolders,
    NotJoined,
    TooFewShares,
)
from molia.base.views import BlobInfo
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.fetching import Fetcher
from molia.node.heal import Healer
from molia.node.reads import LocalReader
from molia.node.service import BlobReader
from molia.node.stored import lists_here


async def open_bound(
    context: Context, bound: Bound, healer: Healer, fetcher: Fetcher | None
) -> BlobReader:
    """Return a reader of a blob of which something is here. fetcher: None for what is here alone.

    Raises as `Fetcher.open`.
    """
    local = LocalReader(context, bound, healer)
    if fetcher is None:
        return local
    if not bound.is_raw:
        here = await context.offload.run(lists_here, context, bound)
        if len(here) < limits.DATA_SHARES:
            return await fetcher.open(bound.cid, bound)
    return _Mended(local, fetcher, bound)


class _Mended:
    """A blob of this node; what is damaged beyond what is kept here comes from others."""

    def __init__(self, local: LocalReader, fetcher: Fetcher, bound: Bound) -> None:
        self._local, self._fetcher, self._bound = local, fetcher, bound

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
        try:
            theirs = await self._fetcher.open(self._bound.cid, self._bound)
            async for chunk in theirs.read(at, stop):
                yield chunk
        except (NoHolders, NotJoined, LookupTimedOut):
            raise damage from None
