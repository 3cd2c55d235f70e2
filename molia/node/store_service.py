"""The part of `NodeService` that an operator of the store asks: trash, garbage, and the clock."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.views import BlobInfo, Garbage, TrashedBlob
from molia.node.context import Context
from molia.node.shards import ReadShard
from molia.node.sweep import Sweeper
from molia.node.trash import Trashed, list_trash, undelete

if TYPE_CHECKING:
    from molia.node.member import Member

log = structlog.get_logger(__name__)

TRUST_VERB: Final = "trust_clock"
"""What one worker tells the others."""
COLLECT_VERB: Final = "collect_garbage"
"""What one worker asks of the others."""


class StoreFace:
    """What a node answers of its store beside blobs."""

    context: Context
    member: "Member | None"
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

    async def collect_garbage(self, *, dry_run: bool) -> Garbage:
        """See `NodeService.collect_garbage`."""
        total = await self.collect_own(dry_run=dry_run)
        for told in (await self.context.team.ask_all(COLLECT_VERB, dry_run)).values():
            total += Garbage(**told)
        return total

    async def collect_own(self, *, dry_run: bool) -> Garbage:
        """Make a pass over this worker's shards."""
        found = await self._sweeper.collect(dry_run=dry_run)
        if self.member is not None and not found.doubt:
            found += await self.member.holder.life.collect(dry_run=dry_run)
        return found

    async def answer_collect(self, dry_run: object) -> dict[str, object]:
        """Return as CBOR values what another worker asks."""
        return asdict(await self.collect_own(dry_run=bool(dry_run)))

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
