"""Takes what the shards' monthly scrubbing has found, and has it healed.

A wrong entry of the index is mended from the log, a damaged row from what else is known, a damaged
block from the other shares of its stripe: which block it should be, only leaf lists tell.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.errors import Damaged, MoliaError
from molia.base.ids import ObjectId
from molia.blobs.verify import VerifyReport
from molia.node.catalog import Bound
from molia.node.check import check_blob, note_report
from molia.node.context import Context
from molia.node.heal import Healer
from molia.node.rows import check_rows
from molia.node.shards import ShardWriter
from molia.store.keys import STRIPE_STOP, BlockKey, Kind, split_block_key
from molia.store.scrub import Finding
from molia.store.shard import Shard

log = structlog.get_logger(__name__)

LOOK_S: Final = 60.0


class ScrubWatch:
    """The background task that empties the shards' lists of findings."""

    def __init__(self, context: Context, healer: Healer) -> None:
        self._context, self._healer = context, healer
        self._left: dict[int, list[Finding]] = {}
        """By shard, what could not be healed at the last look: the next one tries again."""

    async def run(self) -> None:
        """Look once a minute, for as long as the node lives."""
        while True:
            await anyio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> int:
        """Have healed what was found since the last look; return how much that was."""
        count = 0
        for writer in self._context.shards.own:
            found = [*self._left.pop(writer.index, []), *writer.shard.take_findings()]
            if found:
                count += len(found)
                log.warning(
                    "scrub_found_damage", shard_index=writer.index, damaged_count=len(found)
                )
                try:
                    await self._heal(writer, found)
                except MoliaError as error:
                    log.warning("scrub_healing_failed", reason=str(error))
                    self._left[writer.index] = found[-limits.DAMAGE_QUEUE_MAX :]
        return count

    async def _heal(self, writer: ShardWriter, found: list[Finding]) -> None:
        wrong = [(Kind(item.kind), item.key) for item in found if item.is_index]
        if wrong:
            await writer.call(partial(self._reindex, keys=wrong))
        frames = [item for item in found if not item.is_index]
        if any(item.kind == Kind.META for item in frames):
            async for _ in check_rows(self._context, writer.index):
                pass
        blocks = [item.key for item in frames if item.kind == Kind.BLOCK]
        if blocks:
            await self._report(_parsed(blocks))

    def _reindex(self, shard: Shard, *, keys: list[tuple[Kind, bytes]]) -> int:
        return shard.reindex(keys, self._context.now())

    async def _report(self, blocks: list[BlockKey]) -> None:
        """Tell the healer which stripes of which blobs are damaged."""
        wanted = {block.object_id for block in blocks}
        bound = await self._context.offload.run(self._owners, wanted)
        for block in blocks:
            blob = bound.get(block.object_id)
            if blob is None:
                continue  # nobody owns it any more
            if blob.is_raw:
                self._healer.report_whole(blob)
            elif block.stripe < STRIPE_STOP:
                self._healer.report(blob, block.stripe, [block.share])
            else:  # a leaf list: only the whole blob tells its content
                report = await check_blob(self._context, blob, VerifyReport())
                await note_report(self._context, blob, report)

    def _owners(self, wanted: set[ObjectId]) -> dict[ObjectId, Bound]:
        found = {}
        for bound in self._context.catalog.all_bound(self._context.now()):
            if bound.row.object_id in wanted:
                found[bound.row.object_id] = bound
                if len(found) == len(wanted):
                    break
        return found


def _parsed(block_keys: Iterable[bytes]) -> list[BlockKey]:
    found = []
    for key in block_keys:
        try:
            found.append(split_block_key(key))
        except Damaged:
            continue
    return found
