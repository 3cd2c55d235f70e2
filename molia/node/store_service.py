"""The part of `NodeService` that an operator of the store asks: the trash, and the clock."""

from typing import Final

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.views import BlobInfo, TrashedBlob
from molia.node.context import Context
from molia.node.shards import ReadShard
from molia.node.sweep import Sweeper
from molia.node.trash import Trashed, list_trash, undelete

log = structlog.get_logger(__name__)

TRUST_VERB: Final = "trust_clock"
"""What one worker tells the others."""


class StoreFace:
    """What a node answers of its store beside blobs."""

    context: Context
    _sweeper: Sweeper

    async def trash(self) -> tuple[TrashedBlob, ...]:
        """See `NodeService.trash`."""
        context = self.context
        shards: list[ReadShard] = context.shards.shards
        found = await context.offload.run(list_trash, shards, context.now())
        found.sort(key=lambda trashed: -trashed.row.until_unix_s)
        return tuple(_view(trashed) for trashed in found[: limits.LIST_LIMIT_MAX])

    async def undelete_blob(self, cid: Cid) -> BlobInfo:
        """See `NodeService.undelete_blob`."""
        return (await undelete(self.context, cid)).info

    async def trust_clock(self) -> None:
        """See `NodeService.trust_clock`."""
        self.trust_own_clock()
        await self.context.team.ask_all(TRUST_VERB)

    def trust_own_clock(self) -> None:
        """Believe the clock in this worker."""
        now = self.context.now()
        self._sweeper.trust_clock(now)
        for writer in self.context.shards.own:
            writer.shard.trust_clock(now)
        log.info("clock_trusted")


def _view(trashed: Trashed) -> TrashedBlob:
    row = trashed.bind
    return TrashedBlob(
        cid=trashed.cid, size=row.size, name=row.name, pinned=trashed.row.pinned,
        until_unix_s=trashed.row.until_unix_s,
    )  # fmt: skip
