"""The node behind `NodeService`: hands each question to the part that answers it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from molia.base import limits
from molia.base.cid import Cid, Ref
from molia.base.errors import (
    BadInput,
    BlobNotFound,
    BodyTooLarge,
    MoliaError,
    NoSpace,
    ShardUnavailable,
    ShuttingDown,
)
from molia.base.ids import JobId
from molia.base.views import (
    BlobInfo,
    BlobPage,
    BlobState,
    JobEvent,
    JobView,
    NodeView,
    PinView,
    PutOptions,
    PutResult,
    Readiness,
)
from molia.dht.blinding import content_cid
from molia.node import placements, team_jobs
from molia.node.audits import answer_audit
from molia.node.bus import Caller
from molia.node.cache import evict
from molia.node.caching import Cache
from molia.node.catalog import Bound, blob_change, parse_cursor
from molia.node.content_scrub import ContentScrub
from molia.node.context import Context
from molia.node.dht_service import NetworkFace
from molia.node.heal import Healer
from molia.node.health import health_of
from molia.node.held import HeldShares
from molia.node.home import store_path
from molia.node.jobs import JobRun, Jobs
from molia.node.member import VERBS, Member
from molia.node.network_readers import info_of
from molia.node.overview import Overview
from molia.node.pinning import JOB_KIND as PIN_KIND
from molia.node.pinning import Pinning
from molia.node.placements import JOB_KIND, Placements
from molia.node.puts import put_blob, remove_bound
from molia.node.reading import ReadingFace
from molia.node.remote import unpack_transaction
from molia.node.scrubs import ScrubWatch
from molia.node.service import BlobReader
from molia.node.space import Space
from molia.node.store_service import COLLECT_VERB, TRUST_VERB, StoreFace
from molia.node.sweep import Sweeper
from molia.node.team_jobs import TeamJobs
from molia.node.trash import trash_bound
from molia.node.verify import run_verify
from molia.node.wire_counts import counts_of
from molia.store.ops import Reply
from molia.store.quota import QuotaMarks
from molia.store.recovery import RecoveryReport

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S: Final = 0.5


class LocalNode(NetworkFace, ReadingFace, StoreFace):
    """A node as one of its workers serves it."""

    def __init__(self, context: Context, *, home: Path, reports: dict[int, RecoveryReport]) -> None:
        """reports: what opening this worker's own shards found."""
        self.context = context
        self.cache = Cache(context, Space(store_path(home, context.config)))
        context.also_here.extend((HeldShares(context.shards).bound, self.cache.bound))
        self._stopping = False
        self._space = Space(store_path(home, context.config))
        self._healer = Healer(context)
        self._jobs = Jobs(
            context,
            {
                "verify": run_verify,
                JOB_KIND: self._run_placing,
                PIN_KIND: self._run_pinning,
            },
        )
        self._team_jobs = TeamJobs(context, self._jobs)
        self._placements = Placements(context, self._team_jobs)
        self._pinning = Pinning(context, self._team_jobs, _Hands(self))
        self._scrub_watch = ScrubWatch(context, self._healer)
        self._content_scrub = ContentScrub(context)
        self._sweeper = Sweeper(context, start=context.now())
        self._overview = Overview(context, home=home, reports=reports)
        self.api_urls: tuple[str, ...] = ()
        self.member: Member | None = None
        """This worker's part in the network; None until it joins."""
        self.gave_up = anyio.Event()
        """Set when only a new process helps: the composition root then ends this one."""

    async def count_blobs(self) -> None:
        """Count what is there, before anybody may change it."""
        context = self.context
        context.metrics.blob_count = await context.offload.run(
            context.catalog.count_own, context.now()
        )

    async def start(self, tasks: TaskGroup) -> None:
        """Sweep what a crash left, then start the background work."""
        context = self.context
        try:
            swept = await context.objects.sweep_unfinished()
        except MoliaError as error:
            log.warning("sweep_failed", reason=str(error))
        else:
            if swept:
                context.metrics.objects_swept.inc(swept)
                log.info("unfinished_objects_removed", count=swept)
        await self._jobs.load()
        tasks.start_soon(self._healer.run)
        tasks.start_soon(self._jobs.run)
        tasks.start_soon(self._placements.run)
        tasks.start_soon(self._pinning.run)
        tasks.start_soon(self._sweeper.run)
        tasks.start_soon(self.cache.run)
        tasks.start_soon(self._scrub_watch.run)
        tasks.start_soon(self._content_scrub.run)
        if context.team.links:
            tasks.start_soon(self._overview.run)
            tasks.start_soon(self._watch_shards)

    def join(self, member: Member) -> None:
        """Take part in a network, and show so."""
        self.member = self._overview.member = member
        member.fetcher.cache = self.cache
        self._placements.join(member.courier)
        member.repairs.again = self._placements.again
        member.spreader.own_blobs = self._placements
        self.context.metrics.watch_wire(partial(counts_of, member.network))
        self.context.metrics.watch_dht(member.counts)
        self.context.metrics.watch_holding(member.holder.report)

    def stop_taking_work(self) -> None:
        """Refuse new puts and jobs from now on."""
        self._stopping = True

    # ------------------------------------------------------------------ blobs

    async def admit_put(self, options: PutOptions) -> None:
        """See `NodeService.admit_put`."""
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        size = options.size or 0
        size_max = self.context.config.api.max_blob_bytes
        if size > size_max:
            raise BodyTooLarge(f"the body has {size} bytes; at most {size_max} are taken")
        if options.size is None or size >= limits.RAW_SIZE_STOP:
            self._require_writable()  # a small blob needs its home shard alone, and finds out there
        await self._require_space(size)

    async def put_blob(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        """See `NodeService.put_blob`."""
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        mark = None if options.cached else self._placements.mark
        result = await put_blob(self.context, chunks, options, placed=mark)
        return result if mark is None else await self._placements.settle(result, options)

    async def _run_placing(self, run: JobRun) -> None:
        await self._placements.run_job(run)

    async def _run_pinning(self, run: JobRun) -> None:
        await self._pinning.run_job(run)

    async def keep_fetched(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        """Put a blob that others hold; they are the first that are asked to keep its shares."""
        await self.admit_put(options)
        mark = self._placements.mark
        if mark is not None and self._fetcher is not None and options.assert_cid is not None:
            mark = self._placements.mark_of(self._fetcher.finds.get(options.assert_cid))
        result = await put_blob(self.context, chunks, options, placed=mark)
        return result if mark is None else await self._placements.settle(result, options)

    async def blob_info(self, ref: Ref) -> BlobInfo:
        """See `NodeService.blob_info`."""
        return (await self._find(ref)).info

    async def list_blobs(
        self, *, cursor: str | None, limit: int, state: BlobState | None, pinned: bool | None
    ) -> BlobPage:
        """See `NodeService.list_blobs`."""
        after = parse_cursor(cursor)
        limit = max(1, min(limit, limits.LIST_LIMIT_MAX))
        return await self.context.offload.run(self._page, after, limit, state, pinned=pinned)

    async def delete_blob(self, ref: Ref) -> None:
        """See `NodeService.delete_blob`."""
        bound, context = await self._find(ref), self.context
        placed = await context.offload.run(context.catalog.placed, bound.cid, context.now())
        with anyio.CancelScope(shield=True):  # a client that leaves does not stop it half-way
            remove = trash_bound if self.context.config.store.trash_s else remove_bound
            while not await remove(self.context, bound):
                bound = await self._find(ref)
        self.context.leaves.forget(bound.row.object_id)
        if placed is not None and not context.config.store.trash_s:
            await self._placements.end_leases(bound.cid, placed)
        log.info("blob_removed", blob=bound.cid.short, size_bytes=bound.row.size)

    async def pin_blob(self, ref: Ref, *, pinned: bool) -> PinView:
        """See `NodeService.pin_blob`."""
        context = self.context
        try:
            bound = await self._find(ref)
        except BlobNotFound as error:
            if self._fetcher is None:
                raise
            return await (self._pin_remote(ref, error) if pinned else self._unpin_remote(ref))
        while bound.pinned != pinned:  # it is refused when the blob changes in the same moment
            change = context.catalog.pin(
                bound, pinned=pinned, lease_s=context.config.leases.default_s, now=context.now()
            )
            await context.home_writer(bound.cid).write(change)
            context.note_blob(bound.cid)
            bound = await self._find(bound.cid)
        if pinned:
            await self._placements.see_to(bound.cid)
        return PinView(info=bound.info)

    async def _pin_remote(self, ref: Ref, not_here: BlobNotFound) -> PinView:
        """Wish for a blob that others have, if there is room for it."""
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        assert self._fetcher is not None, "only who has joined finds blobs elsewhere"
        info = (await self._fetcher.open_ref(ref, not_here)).info
        await self.admit_put(PutOptions(size=info.size))
        is_hint = not isinstance(ref, Cid) or ref.codec is not info.cid.codec
        content = content_cid(ref).digest if is_hint else None
        job = await self._pinning.begin(info, content=content)
        return PinView(info=replace(info, pinned=True), job=job.id)

    async def _unpin_remote(self, ref: Ref) -> PinView:
        cid = content_cid(ref)
        if not await self._pinning.end(cid):
            raise BlobNotFound(ref)
        context = self.context
        if await context.offload.run(context.catalog.bound, cid, context.now()) is not None:
            return await self.pin_blob(cid, pinned=False)  # it has come in this moment
        return PinView(info=info_of(cid, size=0, content=bytes(32)))

    # ------------------------------------------------------------------ the node

    async def node(self) -> NodeView:
        """See `NodeService.node`."""
        return await self._overview.node(self.api_urls)

    async def readiness(self) -> Readiness:
        """See `NodeService.readiness`."""
        reasons = ["the node is stopping"] if self._stopping else []
        reasons += self._overview.reasons()
        notes = self._sweeper.notes(self.context.now())
        return Readiness(ready=not reasons, reasons=(*reasons, *notes))

    async def start_verify(self, cids: Sequence[Cid]) -> JobView:
        """See `NodeService.start_verify`."""
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        return await self._team_jobs.start("verify", {"cids": [str(cid) for cid in cids]})

    async def jobs(self) -> tuple[JobView, ...]:
        """See `NodeService.jobs`."""
        return await self._team_jobs.views()

    async def job(self, job_id: JobId) -> JobView:
        """See `NodeService.job`."""
        return await self._team_jobs.view(job_id)

    def job_events(self, job_id: JobId, *, after: int) -> AsyncIterator[JobEvent]:
        """See `NodeService.job_events`."""
        return self._team_jobs.events(job_id, after=after)

    async def cancel_job(self, job_id: JobId) -> JobView:
        """See `NodeService.cancel_job`."""
        return await self._team_jobs.cancel(job_id)

    async def metrics(self) -> bytes:
        """See `NodeService.metrics`."""
        return await self._overview.metrics()

    # ------------------------------------------------------------------ other workers

    async def answer(
        self,
        caller: Caller,
        verb: str,
        arguments: Any,  # noqa: ANN401 - by the verb
        blob: memoryview,
    ) -> object:
        """Return as CBOR values what another worker asks of this one."""
        match verb:
            case "write":
                return await self._write(arguments, blob)
            case "settle":
                await self.context.shards.writers[arguments].settle()
            case "status":
                self._overview.take_status(caller.index, arguments)
            case "get_status":
                return self._overview.status()
            case "metrics":
                return self.context.metrics.export()
            case "audit":
                return await answer_audit(self.context, arguments)
            case "damage":
                await self._take_damage(*arguments)
            case verb if verb == TRUST_VERB:
                self.trust_own_clock()
            case verb if verb == COLLECT_VERB:
                return await self.answer_collect(arguments)
            case _ if verb in placements.VERBS:
                return await self._placements.answer(verb, arguments)
            case _ if verb in VERBS and self.member is not None:
                return await self.member.answer(verb, arguments)
            case _ if verb in team_jobs.VERBS:
                return await self._team_jobs.answer(verb, arguments)
            case _:
                raise BadInput(f"no worker knows the word {verb[:40]!r}")
        return None

    async def _write(self, arguments: Sequence[Any], blob: memoryview) -> str:
        shard_index, *fields = arguments
        transaction = unpack_transaction(fields, blob)
        reply = await self.context.shards.writers[shard_index].write(transaction)
        if reply is Reply.APPLIED:
            self.context.metrics.blob_count += blob_change(transaction)
        return str(reply.value)

    async def _take_damage(self, cid: str, damage: Sequence[Any] | None) -> None:
        """Heal what another worker came upon."""
        context = self.context
        bound = await context.offload.run(context.catalog.bound, Cid.parse(cid), context.now())
        if bound is None:
            return
        if damage is None:
            self._healer.report_whole(bound)
        else:
            self._healer.report(bound, damage[0], damage[1])

    async def _watch_shards(self) -> None:
        """Give up when a shard of ours has to be recovered: the parent starts this worker anew."""
        while True:
            await anyio.sleep(WATCH_INTERVAL_S)
            if any(writer.needs_restart for writer in self.context.shards.own):
                break
        log.error("worker_gave_up", reason="a shard has to be recovered")
        self.gave_up.set()

    # ------------------------------------------------------------------ helpers

    async def _find(self, ref: Ref) -> Bound:
        context = self.context
        bound = await context.offload.run(context.catalog.find, ref, context.now())
        try:
            if await context.mend(bound):
                log.warning("row_mended", blob=bound.cid.short)
        except (ShardUnavailable, NoSpace) as error:  # reading goes on without it
            log.warning("row_not_mended", blob=bound.cid.short, reason=str(error))
        return bound

    def _page(
        self, after: bytes, limit: int, state: BlobState | None, *, pinned: bool | None
    ) -> BlobPage:
        """Fill a page with the rows that are wanted; stop looking after a bounded walk."""
        now, catalog = self.context.now(), self.context.catalog
        found: list[BlobInfo] = []
        walked = 0
        while len(found) < limit and walked < limits.SCAN_ROWS_MAX:
            rows = catalog.listing(after, limits.LIST_LIMIT_MAX if state else limit, now)
            if not rows:
                return BlobPage(blobs=tuple(found), next_cursor=None)
            for key, bound in rows:
                walked, after = walked + 1, key
                if not bound.expired(now) and self._wanted(bound, state, pinned=pinned):
                    found.append(bound.info)
                    if len(found) == limit:
                        break
        return BlobPage(blobs=tuple(found), next_cursor=after.hex())

    def _wanted(self, bound: Bound, state: BlobState | None, *, pinned: bool | None) -> bool:
        if pinned is not None and bound.pinned != pinned:
            return False
        if state is None:
            return True
        order = list(BlobState)
        return order.index(health_of(self.context, bound).state) >= order.index(state)

    def _require_writable(self) -> None:
        for writer in self.context.shards.writers:
            if writer.failure:
                raise ShardUnavailable(
                    f"shard {writer.index} takes no writes: {writer.failure}",
                    hint="check the disk, then restart the node",
                )

    async def _require_space(self, size: int) -> None:
        """Refuse early what cannot fit; what slips through is found when it is written.

        Cached blobs give way first: their space is there before the next one needs it.
        """
        needed = size if size < limits.RAW_SIZE_STOP else size * limits.TOTAL_SHARES // 10
        space = self._space.look(self.context)
        if needed > space.free_bytes:
            raise NoSpace(
                f"the blob needs {needed} bytes; the disk has {space.free_bytes} to give",
                hint="delete something, or move store.path to a larger disk",
            )
        quota = QuotaMarks(self.context.quota_bytes)
        over = space.used_bytes + needed - quota.high
        if over > 0:
            over -= await self.cache.make_room(over)
        if over > 0 and await evict(self.context, over) < over:
            raise NoSpace(
                f"the store's quota of {self.context.quota_bytes} bytes is used up",
                hint="delete something, or raise store.quota_bytes",
            )


class _Hands:
    """What the node does for pins of blobs that are not here."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node

    @property
    def is_joined(self) -> bool:
        """Whether there is anybody to ask."""
        return self._node.member is not None and self._node.member.fetcher.is_joined

    async def open(self, cid: Cid) -> BlobReader:
        """Return a reader of a blob, wherever it is."""
        return await self._node.open_blob(cid)

    async def keep(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        """See `LocalNode.keep_fetched`."""
        return await self._node.keep_fetched(chunks, options)
