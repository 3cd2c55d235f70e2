"""The blobs that are on their way to other nodes: which run, which wait, who waits for them.

A large blob has a job, which can be watched; small ones wait in a queue here. What finds no room,
fails, or was cut off by the end of the process is found again by its PLACED row. The worker that
writes that row places the blob, whichever was given it: of two that did, each would choose holders,
and note its own alone.
Source: docs/reference/distribution.md, "Jobs".
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio
import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import Busy, Damaged, MoliaError, NotJoined, ShardUnavailable
from molia.base.ids import JobId
from molia.base.views import BlobState, JobState, PutOptions, PutResult
from molia.node.context import Context
from molia.node.courier import WAITING, Courier
from molia.node.held import cost_of
from molia.node.jobs import JobRun
from molia.node.mending import MayBegin
from molia.node.placing import Placed, holdings_of, shares_of
from molia.node.shards import keys_of
from molia.node.team_jobs import TeamJobs
from molia.node.whereabouts import Find
from molia.store import keys
from molia.store.keys import Kind, Space, home_shard
from molia.store.rows import PlacedRow

log = structlog.get_logger(__name__)

JOB_KIND: Final = "place"
PLACE_VERB, END_VERB = "place", "end_leases"
VERBS: Final = (PLACE_VERB, END_VERB)
END_S: Final = 5.0
PLACED_S: Final = 3_600.0
"""How long is waited for what another worker places."""
JOIN_S: Final = 120.0
"""How long a job waits for the node to find others."""
LOOK_S: Final = 0.5
AGAIN_S: Final = 60.0
"""How soon what is left over is looked for again."""
AGAIN_MAX_S: Final = 600.0
LEFT_OVER_S: Final = 3_600.0
"""How often it is looked for whatever is known of it."""
RENEW_S: Final = 600.0
"""How often leases that are due are looked for."""
ENOUGH: Final = 4
"""Losses survived with which nothing is to be gained by placing a blob again."""


class Placements:
    """The placing of one worker."""

    def __init__(self, context: Context, jobs: TeamJobs) -> None:
        self._context, self._jobs = context, jobs
        self._courier: Courier | None = None
        self._ends: dict[Cid, asyncio.Future[Placed | None]] = {}
        """Of each blob that runs or waits here, how it ends."""
        self._job_ids: dict[Cid, JobId] = {}
        self._spreading: set[Cid] = set()
        self._queue: deque[Cid] = deque()
        self._queued, self._has_room = asyncio.Event(), asyncio.Event()
        self._releasing: set[asyncio.Task[int]] = set()
        self._following: set[asyncio.Task[None]] = set()
        self._early: dict[Cid, None] = {}
        """What was put while nobody was known."""
        self._is_left_over = True
        """Whether the store may have blobs to place that are not here."""

    def join(self, courier: Courier) -> None:
        """Begin to place."""
        self._courier = courier

    @property
    def mark(self) -> PlacedRow | None:
        """What a new blob is marked with, so that it is placed, if need be once there are others.

        None where the node does not talk to any.
        """
        return None if self._courier is None else WAITING

    def mark_of(self, find: Find) -> PlacedRow:
        """Return the same of a blob that others hold: they are asked to go on before anybody."""
        if self._courier is None:
            return WAITING
        held = [[key.hex(), share, ""] for key, shares in find.shares.items() for share in shares]
        for key in find.shares:
            self._courier.note(find.holder(key))
        return replace(WAITING, cursor={"placed": held})

    async def again(self, cid: Cid) -> Placed | None:
        """Place a blob of ours once more, because holders are gone; None when that did not go."""
        courier = self._courier
        if courier is None or not courier.has_peers or await self._mark(courier, cid) is None:
            return None
        _, placed = await self._have_placed(cid, wait=True)
        return placed

    async def spread(self, cid: Cid, here: Collection[bytes], may_begin: MayBegin) -> Placed | None:
        """Place a blob of ours anew if that would move shares; None: not, or it may not begin.

        here: the holders that answer. may_begin: asked once there is something to move, with how
        many bytes.
        """
        courier, context = self._courier, self._context
        bound = await context.offload.run(context.catalog.bound, cid, context.now())
        row = await self._row_of(cid)
        if courier is None or not courier.has_peers or bound is None or row is None:
            return None
        moves = await courier.would_move(bound, row, only=shares_of(bound), here=here)
        if not moves or not await may_begin(moves * cost_of(bound.row.size, 0)):
            return None
        self._spreading.add(cid)  # duplicates for the floor are what spreading takes away
        try:
            return await self.again(cid)
        finally:
            self._spreading.discard(cid)

    # ------------------------------------------------------------------ a put's side

    async def settle(self, result: PutResult, options: PutOptions) -> PutResult:
        """Have a blob that was just put placed; return what is known of it when that is wanted."""
        courier = self._courier
        try:
            if courier is None or not courier.has_peers:
                if not result.created:  # else its row came with it
                    await self.see_to(result.cid)
                self._note_early(result.cid)
                return result
            return await self._settle(courier, result, options)
        except MoliaError as error:  # it is durable here: that is no failed put
            self._is_left_over = True
            log.warning("blob_not_placed", blob=result.cid.short, reason=str(error))
            return result

    async def see_to(self, cid: Cid) -> None:
        """Have a blob placed that nobody wanted placed before: it was cached, or this node alone.

        Without a PLACED row it is not watched either.
        """
        courier = self._courier
        if courier is None or await self._row_of(cid) is not None:
            return
        await self._mark(courier, cid)
        if courier.has_peers:
            await self._have_placed(cid, wait=False)
        else:
            self._note_early(cid)

    def _note_early(self, cid: Cid) -> None:
        """Remember what is to be placed once there is anybody; its row may be another worker's."""
        if len(self._early) < limits.PLACINGS_MAX:
            self._early[cid] = None
        else:
            self._is_left_over = True

    async def _settle(self, courier: Courier, result: PutResult, options: PutOptions) -> PutResult:
        cid = result.cid
        row = await self._row_of(cid)
        is_worth_it = row is not None and (row.survives < ENOUGH or courier.is_late(row))
        if row is None or (row.is_done and is_worth_it and not result.created):
            row = await self._mark(courier, cid)
        if row is None:
            return result
        if row.is_done:
            return self._told(result, Placed(row, len(holdings_of(row)) + 1))
        job, placed = await self._have_placed(cid, wait=options.wait_placed)
        return replace(self._told(result, placed), job=job)

    async def _mark(self, courier: Courier, cid: Cid) -> PlacedRow | None:
        context = self._context
        bound = await context.offload.run(context.catalog.bound, cid, context.now())
        if bound is None:
            return None
        before = await self._row_of(cid) or WAITING
        row = replace(before, is_done=False)
        await courier.save(bound, row)
        return row

    async def _row_of(self, cid: Cid) -> PlacedRow | None:
        context = self._context
        return await context.offload.run(context.catalog.placed, cid, context.now())

    def _told(self, result: PutResult, placed: Placed | None) -> PutResult:
        if placed is None:
            return result
        return replace(
            result, holders=placed.holders, survives=placed.row.survives,
            state=self._state(placed),
        )  # fmt: skip

    def _state(self, placed: Placed) -> BlobState:
        is_enough = placed.row.survives >= self._context.config.durability.floor
        return BlobState.HEALTHY if is_enough and not placed.reason else BlobState.DEGRADED

    async def _have_placed(self, cid: Cid, *, wait: bool) -> tuple[JobId | None, Placed | None]:
        """Begin to place a blob where its row is written; return the job, if it has one.

        wait: until it has ended, and return how; for room in the queue as well.
        """
        if not self._context.owns(cid):
            wait_s = PLACED_S if wait else limits.WRITE_WAIT_S
            job, told = await self._ask(cid, PLACE_VERB, wait, wait_s=wait_s)
            return job and JobId(job), told and Placed(PlacedRow.decode(told[0]), *told[1:])
        job_id = await self._start(cid, wait=wait)
        end = self._ends.get(cid) if wait else None
        return job_id, None if end is None else await asyncio.shield(end)

    async def _ask(self, cid: Cid, verb: str, argument: object, *, wait_s: float) -> Any:  # noqa: ANN401 - what the verb answers
        """Return what the worker that writes a blob's row answers."""
        team, count = self._context.team, self._context.shards.count
        return await team.ask(
            team.owner(home_shard(cid, count)), verb, [str(cid), argument], wait_s=wait_s
        )

    async def answer(self, verb: str, arguments: Sequence[Any]) -> object:
        """Return as CBOR values what another worker asks of a blob whose row is written here."""
        cid, argument = Cid.parse(arguments[0]), arguments[1]
        if verb == END_VERB:
            await self.end_leases(cid, PlacedRow.decode(argument))
            return None
        try:
            job, placed = await self._have_placed(cid, wait=argument)
        except MoliaError:
            self._is_left_over = True
            raise
        told = placed and [placed.row.encode(), placed.holders, placed.reason]
        return [job, told]

    async def _start(self, cid: Cid, *, wait: bool) -> JobId | None:
        """Begin to place a blob here; return the job, if any. wait: for room in the queue."""
        if cid in self._ends:
            return self._job_ids.get(cid)
        if cid.codec is Codec.MANIFEST:
            self._ends[cid] = asyncio.get_running_loop().create_future()
            try:
                job = await self._jobs.start(JOB_KIND, {"cid": str(cid)})
            except Busy:
                self._end(cid, None)  # it goes on in the queue, whoever waited by now
            except BaseException:
                self._end(cid, None)
                raise
            else:
                if cid in self._ends:
                    self._job_ids[cid] = job.id
                    self._follow(cid, job.id)
                return job.id
        while len(self._queue) >= limits.PLACINGS_MAX and wait:
            self._has_room.clear()
            await self._has_room.wait()
        if len(self._queue) >= limits.PLACINGS_MAX:
            self._is_left_over = True
        elif cid not in self._ends:
            self._ends[cid] = asyncio.get_running_loop().create_future()
            self._queue.append(cid)
            self._queued.set()
        return None

    def _follow(self, cid: Cid, job_id: JobId) -> None:
        """Let who waits for a blob be told when its job ends."""
        task = asyncio.ensure_future(self._until_ended(cid, job_id))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _until_ended(self, cid: Cid, job_id: JobId) -> None:
        """Tell who waits when the job has ended without `run_job`: it was cancelled before it ran,
        or could not be saved.
        """
        placed: Placed | None = None
        try:
            with contextlib.suppress(MoliaError):
                view = await self._jobs.ended(job_id)
                row = await self._row_of(cid) if view.state is JobState.DONE else None
                if row is not None:
                    reason = str(view.progress.get("reason", ""))
                    placed = Placed(row, len(holdings_of(row)) + 1, reason)
        finally:
            if self._job_ids.get(cid) == job_id:
                self._end(cid, placed)

    async def end_leases(self, cid: Cid, row: PlacedRow) -> None:
        """Have who has shares of a blob that was removed told that it is not wanted any more.

        Who does not hear it keeps them until the lease has run out. The worker that places tells
        them: what is put again must come to them with a lease that beats it.
        """
        if self._courier is None or len(self._releasing) >= limits.PLACINGS_MAX:
            return
        if not self._context.owns(cid):
            try:
                await self._ask(cid, END_VERB, row.encode(), wait_s=END_S)
            except MoliaError as error:
                log.warning("holders_not_released", blob=cid.short, reason=str(error))
            return
        telling = self._courier.end_leases(cid, row)
        if telling is not None:
            task = asyncio.ensure_future(telling)
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    # ------------------------------------------------------------------ the work

    async def run_job(self, run: JobRun) -> None:
        """Place the blob that a job names; see `node.jobs`."""
        cid = Cid.parse(str(run.arguments["cid"]))
        self._ends.setdefault(cid, asyncio.get_running_loop().create_future())
        self._job_ids[cid] = run.id
        placed: Placed | None = None

        def tell(progress: dict[str, Any]) -> None:
            run.progress.update(progress)
            run.tell()

        try:
            courier = await self._joined()
            floor = 0 if cid in self._spreading else None
            placed = await courier.place(cid, tell, floor=floor)
            run.progress.update(
                holders=placed.holders, survives=placed.row.survives,
                blob_state=self._state(placed).value, reason=placed.reason,
            )  # fmt: skip
        except MoliaError:
            self._is_left_over = True
            raise
        finally:
            self._end(cid, placed)

    async def _joined(self) -> Courier:
        """Return the courier, once there is anybody. Raises NotJoined."""
        with anyio.move_on_after(JOIN_S):
            while self._courier is None or not self._courier.has_peers:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)  # who joins tells nobody
        if self._courier is None:
            raise NotJoined
        return self._courier

    def _end(self, cid: Cid, placed: Placed | None) -> None:
        self._job_ids.pop(cid, None)
        end = self._ends.pop(cid, None)
        if end is not None and not end.done():
            end.set_result(placed)

    async def run(self) -> None:
        """Place what waits, and what was left over, for as long as the node lives."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_again())
                tasks.create_task(self._renew_now_and_then())
                for _ in range(limits.PLACINGS_SMALL):
                    tasks.create_task(self._work())
        finally:
            for task in list(self._following):
                task.cancel()
            for cid in list(self._ends):  # another worker may wait, and this one for its answer
                self._end(cid, None)

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            cid = self._queue.popleft()
            self._has_room.set()
            placed: Placed | None = None
            try:
                placed = await (await self._joined()).place(cid, _ignore)
            except MoliaError as error:
                self._is_left_over = True
                log.warning("blob_not_placed", blob=cid.short, reason=str(error))
            finally:
                self._end(cid, placed)

    async def _look_again(self) -> None:
        wait_s, looked_s = LOOK_S, float("-inf")
        while True:
            await asyncio.sleep(wait_s)
            courier, started_s = self._courier, self._context.now().mono_s
            if courier is None or not courier.has_peers:
                continue
            await self._take_early()
            if not self._is_left_over and started_s < looked_s + LEFT_OVER_S:
                continue
            self._is_left_over, looked_s = False, started_s
            try:
                await self._take_up()
            except MoliaError as error:
                self._is_left_over = True
                log.warning("placing_not_resumed", reason=str(error))
            took_s = self._context.now().mono_s - started_s
            wait_s = min(max(AGAIN_S, took_s * 100), AGAIN_MAX_S)

    async def _take_early(self) -> None:
        """Begin to place what was put while nobody was known."""
        early, self._early = self._early, {}
        for cid in early:
            try:
                await self._have_placed(cid, wait=False)
            except MoliaError as error:
                self._is_left_over = True
                log.warning("blob_not_placed", blob=cid.short, reason=str(error))

    async def _renew_now_and_then(self) -> None:
        """Renew our leases of pinned blobs, for as long as the node lives."""
        while True:
            await asyncio.sleep(RENEW_S)
            if self._courier is None or not self._courier.has_peers:
                continue
            try:
                await self.renew_due()
            except MoliaError as error:
                log.warning("leases_not_renewed", reason=str(error))

    async def renew_due(self) -> int:
        """Renew the leases that are due; return of how many blobs."""
        assert self._courier is not None, "only who has joined renews"
        courier, renewed = self._courier, 0
        for cid in await self._context.offload.run(self._rows_that, courier.is_due, set()):
            renewed += await courier.renew_lease(cid) > 0
        return renewed

    async def _take_up(self) -> None:
        """Begin to place what the store says is to be placed and nobody places."""
        known = await self._in_jobs() | set(self._ends)
        left = await self._context.offload.run(self._rows_that, self._is_unplaced, known)
        for cid in left:
            if cid not in self._ends:
                await self._start(cid, wait=False)
        self._is_left_over |= len(left) >= limits.PLACINGS_MAX

    def _is_unplaced(self, cid: Cid, row: PlacedRow) -> bool:
        """Tell whether a blob is to be placed; one in the trash has a row and is not here."""
        home, now = self._context.catalog.home(cid), self._context.now()
        is_here = home.size_of(Kind.META, keys.bind_key(cid), now=now) is not None
        return is_here and not row.is_done

    async def _in_jobs(self) -> set[Cid]:
        """Return the blobs with a job that did not fail: one that was cancelled stays so."""
        kept = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED)
        views = await self._jobs.views()
        return {
            Cid.parse(str(view.arguments.get("cid")))
            for view in views
            if view.kind == JOB_KIND and view.state in kept
        }

    def _rows_that(
        self, holds: Callable[[Cid, PlacedRow], bool], but: Collection[Cid]
    ) -> list[Cid]:
        """Return blobs of our shards of whose rows something holds, some thousand at most; in a
        thread.

        but: blobs that are not wanted: they must not take the place of others.
        """
        now, prefix, found = self._context.now(), bytes((Space.PLACED,)), list[Cid]()
        for shard in (writer.shard for writer in self._context.shards.own):
            for key in keys_of(shard, Kind.META, prefix, now):
                if len(found) >= limits.PLACINGS_MAX:
                    break
                try:
                    cid = keys.split_blob_key(key)
                    value = None if cid in but else shard.get(Kind.META, key, now=now)
                    if value is not None and holds(cid, PlacedRow.decode(value)):
                        found.append(cid)
                except (Damaged, ShardUnavailable, ValueError):
                    continue
        return found


def _ignore(_: dict[str, Any]) -> None:
    """Nobody watches a small blob."""
