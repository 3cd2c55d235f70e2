"""Long work: kept in the store, resumed after a crash, watched through its events.

A job is a row {kind, arguments, state, cursor, progress, error, events}. Each kind is a coroutine
that takes a `JobRun`, works on from its cursor, and saves it now and then; what is done twice
after a crash must do no harm. A job runs in the worker that writes its row's shard, the oldest
first; some that place blobs run at once there, of the others one at a time.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import structlog

from molia.base import limits
from molia.base.errors import Busy, Conflict, Damaged, JobNotFound, MoliaError
from molia.base.ids import JobId
from molia.base.views import JobEvent, JobState, JobView
from molia.node.context import Context
from molia.store import keys
from molia.store.keys import Kind
from molia.store.rows import JobRow
from molia.store.shard import Delete, Put, Transaction

log = structlog.get_logger(__name__)

SAVE_INTERVAL_S: Final = 2.0
AT_ONCE: Final = {"place": limits.PLACINGS_LARGE, "pin": limits.PINS_AT_ONCE}
"""How many jobs of a kind run at once; of the others one of all kinds together."""
ENDED: Final = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(slots=True)
class Job:
    """One job in memory; the row in the store lags behind by at most SAVE_INTERVAL_S."""

    id: JobId
    kind: str
    arguments: dict[str, Any]
    state: JobState
    created_unix_ms: int
    updated_unix_ms: int
    cursor: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    events: list[JobEvent] = field(default_factory=list)
    last_event_id: int = 0
    ended: bool = False
    """Whether the job has ended and its row says so."""
    changed: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope | None = None

    @property
    def view(self) -> JobView:
        """What clients are shown."""
        return JobView(
            id=self.id,
            kind=self.kind,
            state=self.state,
            created_unix_ms=self.created_unix_ms,
            updated_unix_ms=self.updated_unix_ms,
            arguments=dict(self.arguments),
            progress=dict(self.progress),
            error=self.error,
        )

    def add_event(self, kind: str, data: dict[str, Any], unix_ms: int) -> None:
        """Append an event; the oldest beyond the bound goes. Watchers see it after `wake`."""
        self.last_event_id += 1
        self.updated_unix_ms = unix_ms
        self.events.append(JobEvent(id=self.last_event_id, unix_ms=unix_ms, kind=kind, data=data))
        del self.events[: -limits.JOB_EVENTS_MAX]

    def wake(self) -> None:
        """Let watchers look at the job."""
        self.changed.set()
        self.changed = anyio.Event()


class JobRun:
    """What a kind of job works with."""

    def __init__(self, jobs: "Jobs", job: Job) -> None:
        self._jobs, self._job = jobs, job
        self._saved_s = jobs.context.now().mono_s

    @property
    def context(self) -> Context:
        """The node's parts."""
        return self._jobs.context

    @property
    def id(self) -> JobId:
        """The job's id."""
        return self._job.id

    @property
    def arguments(self) -> dict[str, Any]:
        """What the job was started with."""
        return self._job.arguments

    @property
    def cursor(self) -> dict[str, Any]:
        """Where to go on; the kind's own words, JSON values."""
        return self._job.cursor

    @property
    def progress(self) -> dict[str, Any]:
        """What clients see of the work done; JSON values."""
        return self._job.progress

    def item(self, **data: object) -> None:
        """Tell watchers of one finding."""
        self._job.add_event("item", dict(data), self.context.now().unix_ms)
        self._job.wake()

    def tell(self) -> None:
        """Tell watchers of the progress as it is now."""
        self._job.add_event("progress", dict(self.progress), self.context.now().unix_ms)
        self._job.wake()

    async def checkpoint(self, cursor: dict[str, Any]) -> None:
        """Remember that everything before `cursor` is done; stored every few seconds."""
        self._job.cursor = cursor
        now = self.context.now()
        if now.mono_s - self._saved_s >= SAVE_INTERVAL_S:
            self._saved_s = now.mono_s
            self._job.add_event("progress", dict(self.progress), now.unix_ms)
            self._job.wake()
            await self._jobs.save(self._job)


JobKind = Callable[[JobRun], Awaitable[None]]


class Jobs:
    """All jobs of a node."""

    def __init__(self, context: Context, kinds: dict[str, JobKind]) -> None:
        self.context, self._kinds = context, kinds
        self._jobs: dict[JobId, Job] = {}
        self._wake = anyio.Event()
        self._streams = 0

    # ------------------------------------------------------------------ what clients ask

    async def start(self, job_id: JobId, kind: str, arguments: dict[str, Any]) -> JobView:
        """Queue a job; durable when this returns. Raises Busy at the bound."""
        await self._forget_old()
        await self._forget_placed()
        if len(self._jobs) >= limits.JOBS_MAX:
            raise Busy("too many jobs are kept; cancel some that ended")
        now = self.context.now()
        job = Job(
            id=job_id,
            kind=kind,
            arguments=arguments,
            state=JobState.QUEUED,
            created_unix_ms=now.unix_ms,
            updated_unix_ms=now.unix_ms,
        )
        await self.save(job)
        self._jobs[job.id] = job
        self._wake.set()
        return job.view

    def views(self) -> tuple[JobView, ...]:
        """Return all jobs, newest first."""
        newest_first = sorted(self._jobs.values(), key=lambda job: -job.created_unix_ms)
        return tuple(job.view for job in newest_first)

    def find(self, job_id: JobId) -> Job:
        """Return one job. Raises JobNotFound."""
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    async def cancel(self, job_id: JobId) -> JobView:
        """Stop a job that waits or runs; forget one that ended."""
        job = self.find(job_id)
        if job.state in ENDED:
            await self._forget(job)
            return job.view
        if job.state is JobState.RUNNING:
            if job.scope is None:
                raise Conflict("the job is about to end")
            job.scope.cancel()
        await self._end(job, JobState.CANCELLED, "")
        return job.view

    async def ended(self, job_id: JobId) -> JobView:
        """Return a job once it has ended."""
        job = self.find(job_id)
        while not job.ended:
            await job.changed.wait()
        return job.view

    async def events(self, job_id: JobId, *, after: int) -> AsyncIterator[JobEvent]:
        """Yield the kept events above `after`, then new ones until the job ends."""
        job = self.find(job_id)
        if self._streams >= limits.JOB_STREAMS_MAX:
            raise Busy("too many clients watch jobs")
        self._streams += 1
        try:
            while True:
                changed = job.changed
                for event in [event for event in job.events if event.id > after]:
                    after = event.id
                    yield event
                if job.ended and after >= job.last_event_id:
                    return
                if job.changed is changed:
                    await changed.wait()
        finally:
            self._streams -= 1

    async def next_events(
        self, job_id: JobId, *, after: int, wait_s: float
    ) -> tuple[list[JobEvent], bool]:
        """Return the kept events above `after`, waiting a while for one, and if that was all."""
        job = self.find(job_id)
        if self._streams >= limits.JOB_STREAMS_MAX:
            raise Busy("too many clients watch jobs")
        self._streams += 1
        try:
            with anyio.move_on_after(wait_s):
                while not job.ended and job.last_event_id <= after:
                    await job.changed.wait()
        finally:
            self._streams -= 1
        found = [event for event in job.events if event.id > after]
        return found, job.ended and (found[-1].id if found else after) >= job.last_event_id

    # ------------------------------------------------------------------ the node's side

    async def load(self) -> None:
        """Read the jobs of earlier runs; those that were cut off wait again."""
        for job in await self.context.offload.run(self._read_all):
            if job.state is JobState.RUNNING:
                job.state = JobState.QUEUED
            self._jobs[job.id] = job

    async def run(self) -> None:
        """Run queued jobs, some at a time, for as long as the node lives."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._forget_old()
                job = self._next_queued()
                if job is None:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                else:
                    job.state = JobState.RUNNING
                    tasks.start_soon(self._run_one, job)

    async def save(self, job: Job) -> None:
        """Write the job's row."""
        row = JobRow(
            kind=job.kind,
            arguments=job.arguments,
            state=job.state.value,
            created_unix_ms=job.created_unix_ms,
            updated_unix_ms=job.updated_unix_ms,
            cursor=job.cursor,
            progress=job.progress,
            error=job.error,
            events=[_pack_event(event) for event in job.events],
        )
        key = keys.job_key(job.id)
        put = Put(Kind.META, key, row.encode())
        await self.context.shards.writer_of(Kind.META, key).write(Transaction((put,)))

    async def _run_one(self, job: Job) -> None:
        log.info("job_started", job=job.id, kind=job.kind, resumed=bool(job.cursor))
        try:
            with anyio.CancelScope() as scope:
                job.scope = scope
                await self.save(job)
                await self._kinds[job.kind](JobRun(self, job))
                job.scope = None
                await self._end(job, JobState.DONE, "")
        except MoliaError as error:
            job.scope = None
            if job.state is JobState.RUNNING:
                await self._end(job, JobState.FAILED, str(error))
        finally:
            job.scope = None
            self._wake.set()

    async def _end(self, job: Job, state: JobState, error: str) -> None:
        job.state, job.error = state, error
        kind = "error" if state is JobState.FAILED else "done"
        data = {"state": state.value, "error": error, **job.progress}
        job.add_event(kind, data, self.context.now().unix_ms)
        self.context.metrics.jobs_ended.labels(state.value).inc()
        log.info("job_ended", job=job.id, kind=job.kind, state=state.value)
        # a watcher may stop the node as soon as it knows: first the row, then the news
        with anyio.CancelScope(shield=True):
            try:
                await self.save(job)
            except MoliaError as problem:  # the row says running: the next start runs it again
                log.warning("job_not_saved", job=job.id, reason=type(problem).__name__)
        job.ended = True
        job.wake()

    def _next_queued(self) -> Job | None:
        running = Counter(
            _lane(job) for job in self._jobs.values() if job.state is JobState.RUNNING
        )
        queued = [
            job
            for job in self._jobs.values()
            if job.state is JobState.QUEUED and running[_lane(job)] < AT_ONCE.get(job.kind, 1)
        ]
        return min(queued, key=lambda job: (job.created_unix_ms, job.id), default=None)

    async def _forget_old(self) -> None:
        """Forget ended jobs past their time; one whose row cannot go now is tried again later."""
        oldest_ms = self.context.now().unix_ms - limits.JOB_KEEP_S * 1000
        for job in list(self._jobs.values()):
            if job.state in ENDED and job.updated_unix_ms < oldest_ms:
                try:
                    await self._forget(job)
                except MoliaError as error:
                    log.warning("job_not_forgotten", job=job.id, reason=type(error).__name__)
                    return

    async def _forget_placed(self) -> None:
        """Forget the oldest jobs that the node starts by itself and that have ended."""
        for kind in AT_ONCE:
            ended = [job for job in self._jobs.values() if job.kind == kind and job.ended]
            ended.sort(key=lambda job: job.updated_unix_ms)
            for job in ended[: -limits.PLACE_JOBS_KEPT]:
                await self._forget(job)

    async def _forget(self, job: Job) -> None:
        key = keys.job_key(job.id)
        delete = Transaction((Delete(Kind.META, key),))
        await self.context.shards.writer_of(Kind.META, key).write(delete)
        self._jobs.pop(job.id, None)

    def _read_all(self) -> list[Job]:
        now, prefix = self.context.now(), bytes((keys.Space.JOB,))
        found = []
        for shard in (writer.shard for writer in self.context.shards.own):
            for row in shard.scan(Kind.META, prefix, now=now, limit=limits.JOBS_MAX):
                try:
                    value = shard.get(Kind.META, row.key, now=now)
                    if value is not None:
                        found.append(_unpack(row.key[len(prefix) :], JobRow.decode(value)))
                except (Damaged, ValueError, KeyError, TypeError):
                    log.warning("job_unreadable", shard_index=shard.index)
        return found[: limits.JOBS_MAX]


def _lane(job: Job) -> str:
    """Return what jobs wait for each other in."""
    return job.kind if job.kind in AT_ONCE else ""


def _pack_event(event: JobEvent) -> dict[str, Any]:
    return {"id": event.id, "ms": event.unix_ms, "kind": event.kind, "data": event.data}


def _unpack_event(event: dict[str, Any]) -> JobEvent:
    return JobEvent(
        id=int(event["id"]),
        unix_ms=int(event["ms"]),
        kind=str(event["kind"]),
        data=dict(event["data"]),
    )


def _unpack(key: bytes, row: JobRow) -> Job:
    events = [_unpack_event(event) for event in row.events]
    return Job(
        id=JobId(key.decode("ascii")),
        kind=row.kind,
        arguments=row.arguments,
        state=JobState(row.state),
        created_unix_ms=row.created_unix_ms,
        updated_unix_ms=row.updated_unix_ms,
        cursor=row.cursor,
        progress=row.progress,
        error=row.error,
        events=events,
        last_event_id=events[-1].id if events else 0,
        ended=JobState(row.state) in ENDED,
    )
