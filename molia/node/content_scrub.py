"""Reads every blob against its BLAKE3 once a month, at a bounded rate, and heals what is not right.

The shards' own scrubbing compares checksums, which say that bytes are as they were written; only
leaf lists say that they were right. Each blob's rows tell when it was last looked at, so a restart
loses at most the blob that it was at, and what `molia verify` has looked at is not read again.
"""

from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.errors import MoliaError
from molia.base.hashing import purpose_digest
from molia.base.now import Now
from molia.blobs.geometry import StripeShape
from molia.blobs.verify import VerifyReport
from molia.node.catalog import Bound
from molia.node.check import check_blob, note_report, note_whole
from molia.node.context import Context
from molia.node.stored import read_whole

log = structlog.get_logger(__name__)

LOOK_S: Final = 3_600.0
"""From the end of one look for blobs whose time has come to the next."""
PAGE: Final = 256
"""Blobs that are chosen at once."""
JITTER: Final = 0.1
"""The part of a month over which blobs that were put together are spread."""


class ContentScrub:
    """The background task that looks at the blobs whose rows this worker writes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._bytes_per_s = limits.SCRUB_BYTES_PER_S / context.team.seat.count

    async def run(self) -> None:
        """Look at what is due, hour by hour, for as long as the node lives."""
        while True:
            await anyio.sleep(LOOK_S)
            try:
                while await self.look():
                    pass
            except MoliaError as error:
                log.warning("content_scrub_failed", reason=str(error))

    async def look(self) -> int:
        """Read some of the blobs whose time has come; return how many those were."""
        done = 0
        for bound in await self._context.offload.run(self._due):
            try:
                sound = await self._check(bound)
            except MoliaError as error:
                log.warning("content_scrub_failed", blob=bound.cid.short, reason=str(error))
                continue
            done += 1
            self._context.metrics.blobs_scrubbed.inc()
            if not sound:
                log.warning("blob_rot_found", blob=bound.cid.short)
        return done

    def _due(self) -> list[Bound]:
        """Return blobs that nobody has read whole for a month, a page at most."""
        now, due = self._context.now(), []
        for bound in self._context.catalog.all_bound(now, own_only=True):
            if self._is_due(bound, now):
                due.append(bound)
                if len(due) == PAGE:
                    break
        return due

    def _is_due(self, bound: Bound, now: Now) -> bool:
        rows = self._context.catalog.share_rows(bound, now).values()
        looked_s = min((row.verified_unix_s for row in rows), default=0)
        since_s = now.unix_s - max(looked_s, bound.row.created_unix_ms / 1000)
        draw = purpose_digest("schedule", bytes(bound.cid))[0] / 255
        return since_s >= limits.SCRUB_EVERY_S * (1 - JITTER * draw)

    async def _check(self, bound: Bound) -> bool:
        """Read a blob whole and note how it was; tell whether it was sound."""
        context = self._context
        if bound.is_raw:
            sound = await context.offload.run(read_whole, context, bound) is not None
            if await self._is_there(bound):
                await note_whole(context, bound, sound=sound)
                context.metrics.blocks_damaged.inc(int(not sound))
            await self._pace(bound.row.size)
            return sound
        report = await check_blob(context, bound, VerifyReport(), self._on_stripe)
        if not await self._is_there(bound):
            return True
        await note_report(context, bound, report)
        return not sum(report.damaged) and not report.damaged_lists

    async def _is_there(self, bound: Bound) -> bool:
        """Tell whether the blob is still the one that was read."""
        context = self._context
        current = await context.offload.run(context.catalog.bound, bound.cid, context.now())
        return current is not None and current.row.object_id == bound.row.object_id

    async def _on_stripe(self, shape: StripeShape, _: VerifyReport) -> None:
        await self._pace(shape.size * limits.TOTAL_SHARES // limits.DATA_SHARES)

    async def _pace(self, size_bytes: int) -> None:
        await anyio.sleep(size_bytes / self._bytes_per_s)
