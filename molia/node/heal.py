"""Rebuilds damaged blocks that reads came upon, one stripe after another, in the background.

The worker that writes a blob's rows heals it; what others come upon is reported to it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Busy, MoliaError, NoSpace, ShardUnavailable
from molia.blobs.download import LeafLists
from molia.blobs.manifest import Manifest
from molia.blobs.verify import VerifyReport, check_stripe
from molia.node.catalog import Bound
from molia.node.check import check_blob, note_report, note_whole, store_rebuilt
from molia.node.context import Context
from molia.node.stored import fetcher, leaf_lists
from molia.store.keys import home_shard

log = structlog.get_logger(__name__)

_Place = tuple[Cid, int]
RETRY_S: Final = 5.0


class Healer:
    """A bounded queue of damaged stripes; what does not fit is left for verify to find again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[_Place, Bound] = {}
        self._damaged_whole: dict[Cid, Bound] = {}
        self._reported: dict[_Place, asyncio.Future[object]] = {}
        """What another worker is being told."""
        self._wake = anyio.Event()

    def report(self, bound: Bound, stripe_index: int, shares: Sequence[int]) -> None:
        """Take note that blocks of a stripe are missing or corrupt."""
        metrics = self._context.metrics
        place = (bound.cid, stripe_index)
        if place in self._waiting or place in self._reported:
            return
        if not self._context.owns(bound.cid):
            self._tell(bound.cid, [stripe_index, list(shares)], place)
            return
        metrics.blocks_damaged.inc(len(shares))
        log.warning(
            "stripe_damaged", blob=bound.cid.short, stripe_index=stripe_index, shares=list(shares)
        )
        if len(self._waiting) >= limits.DAMAGE_QUEUE_MAX:
            metrics.damage_dropped.inc()
            return
        self._waiting[place] = bound
        self._wake.set()

    def report_whole(self, bound: Bound) -> None:
        """Take note that the one copy of a small blob is damaged; nothing here can mend it."""
        if not self._context.owns(bound.cid):
            self._tell(bound.cid, None, (bound.cid, -1))
        elif len(self._damaged_whole) < limits.DAMAGE_QUEUE_MAX:
            self._damaged_whole[bound.cid] = bound
            self._wake.set()

    def _tell(self, cid: Cid, damage: list[object] | None, place: _Place) -> None:
        """Report damage to the worker that writes the blob's rows; once at a time."""
        if place in self._reported or len(self._reported) >= limits.DAMAGE_QUEUE_MAX:
            return
        team = self._context.team
        owner = team.owner(home_shard(cid, self._context.shards.count))
        told = asyncio.ensure_future(team.ask(owner, "damage", [str(cid), damage]))
        self._reported[place] = told

        def forget(told: "asyncio.Future[object]") -> None:
            self._reported.pop(place, None)
            if not told.cancelled() and told.exception() is not None:
                self._context.metrics.damage_dropped.inc()

        told.add_done_callback(forget)

    async def run(self) -> None:
        """Heal what is reported, for as long as the node lives."""
        while True:
            try:
                await self._run_queue()
            except MoliaError as error:
                log.warning("heal_failed", reason=str(error))
                await anyio.sleep(RETRY_S)
            self._wake = anyio.Event()
            if not self._waiting and not self._damaged_whole:
                await self._wake.wait()

    async def _run_queue(self) -> None:
        while self._damaged_whole:
            cid, bound = next(iter(self._damaged_whole.items()))
            del self._damaged_whole[cid]
            self._context.metrics.blocks_damaged.inc()
            await note_whole(self._context, bound, sound=False)
        while self._waiting:
            place, bound = next(iter(self._waiting.items()))
            try:
                await self._heal(bound, place[1])
            except (Busy, NoSpace, ShardUnavailable):  # it may be healed later: the others first
                self._waiting.pop(place, None)
                self._waiting[place] = bound
                raise
            except MoliaError:
                self._waiting.pop(place, None)
                raise
            self._waiting.pop(place, None)

    async def _heal(self, bound: Bound, stripe_index: int) -> None:
        context = self._context
        manifest = Manifest.decode(bound.row.manifest)
        leaves = leaf_lists(context, bound, manifest)
        if not await context.offload.run(
            _all_lists, leaves
        ):  # a leaf list is damaged as well: only the whole blob tells its content
            report = await check_blob(context, bound, VerifyReport())
            await note_report(context, bound, report)
            return
        shape = manifest.geometry.stripe(stripe_index)
        check = await context.offload.run(check_stripe, fetcher(context, bound), leaves, shape)
        if check.damaged and not await context.objects.is_bound(bound.row.object_id):
            return  # it was deleted meanwhile
        if check.lost:
            log.error("stripe_lost", blob=bound.cid.short, stripe_index=stripe_index)
            damaged = tuple(int(share in check.damaged) for share in range(limits.TOTAL_SHARES))
            report = VerifyReport(damaged=damaged, lost_stripes=1)
            await note_report(context, bound, report)
        elif check.rebuilt:
            blocks = [(share, stripe_index, block) for share, block in check.rebuilt.items()]
            await store_rebuilt(context, bound, blocks)
            log.info(
                "stripe_healed",
                blob=bound.cid.short,
                stripe_index=stripe_index,
                shares=sorted(check.rebuilt),
            )


def _all_lists(leaves: LeafLists) -> bool:
    return all(leaves(share) is not None for share in range(limits.TOTAL_SHARES))
