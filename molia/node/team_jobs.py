"""The jobs of all workers, as any of them shows, follows and cancels them."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Final

import cbor2

from molia.base import limits
from molia.base.errors import Busy, JobNotFound, MoliaError, ShardUnavailable
from molia.base.ids import JobId, new_job_id
from molia.base.views import JobEvent, JobState, JobView
from molia.node.context import Context
from molia.node.jobs import Jobs
from molia.store import keys
from molia.store.keys import Kind

VERBS: Final = ("jobs", "job", "job_start", "job_cancel", "job_events")
EVENTS_WAIT_S: Final = 20.0
AGAIN_S: Final = 1.0
JOBS_PAGE_BYTES: Final = limits.BUS_HEAD_MAX // 4
_ID: Final = re.compile(r"[a-z2-7]{26}")
_DRAWS_MAX: Final = 10_000
_NO_EVENT: Final = 2**62
"""Comes after every event of a job."""


class TeamJobs:
    """Asks the worker that runs a job; its id tells which, as its row lies on a shard of that."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._context, self._jobs = context, jobs
        self._team = context.team

    async def start(self, kind: str, arguments: dict[str, Any]) -> JobView:
        """See `Jobs.start`; here when this worker writes any shard."""
        entropy, own = self._context.entropy, self._context.shards.own
        job_id = new_job_id(entropy)
        for _ in range(_DRAWS_MAX):
            if not own or self._owner(job_id) == self._team.seat.index:
                break
            job_id = new_job_id(entropy)
        if self._is_own(job_id):
            return await self._jobs.start(job_id, kind, arguments)
        packed = await self._team.ask(self._owner(job_id), "job_start", [job_id, kind, arguments])
        return _view(packed)

    async def views(self) -> tuple[JobView, ...]:
        """Return all jobs, newest first; those of a worker that is starting anew are missing."""
        ready = [index for index in self._team.links if self._team.answers(index)]
        theirs = await asyncio.gather(*(self._views_of(index) for index in ready))
        views = [*self._jobs.views(), *(view for some in theirs for view in some)]
        return tuple(sorted(views, key=lambda view: -view.created_unix_ms))

    async def _views_of(self, index: int) -> list[JobView]:
        """Return the jobs of another worker, asked for page by page: each names what it looks at.

        None of one that ends meanwhile.
        """
        found: list[JobView] = []
        after: tuple[int, str] = (0, "")
        try:
            while True:
                page = await self._team.ask(index, "jobs", after, wait_s=limits.BUS_ASK_S)
                if not page:
                    return found
                found += [_view(fields) for fields in page]
                after = found[-1].created_unix_ms, found[-1].id
        except MoliaError:
            return []

    def _page(self, after: tuple[int, str]) -> list[dict[str, Any]]:
        """Return the oldest jobs behind one, as many as fit into a message; one at least."""
        size, page = 0, []
        views = sorted(self._jobs.views(), key=_age)
        for view in views:
            if _age(view) <= after:
                continue
            page.append(asdict(view))
            size += len(cbor2.dumps(page[-1]))
            if size >= JOBS_PAGE_BYTES:
                break
        return page

    async def view(self, job_id: JobId) -> JobView:
        """Return one job. Raises JobNotFound."""
        if self._is_own(job_id):
            return self._jobs.find(job_id).view
        return _view(await self._team.ask(self._owner(job_id), "job", job_id))

    async def cancel(self, job_id: JobId) -> JobView:
        """See `Jobs.cancel`."""
        if self._is_own(job_id):
            return await self._jobs.cancel(job_id)
        return _view(await self._team.ask(self._owner(job_id), "job_cancel", job_id))

    async def ended(self, job_id: JobId) -> JobView:
        """Return a job once it has ended, whichever worker runs it. Raises JobNotFound."""
        if self._is_own(job_id):
            return await self._jobs.ended(job_id)
        while True:
            try:
                _, is_over = await self._team.ask(
                    self._owner(job_id), "job_events", [job_id, _NO_EVENT]
                )
                if is_over:
                    return await self.view(job_id)
            except (Busy, ShardUnavailable):  # it has much to do, or starts anew
                await asyncio.sleep(AGAIN_S)

    async def events(self, job_id: JobId, *, after: int) -> AsyncIterator[JobEvent]:
        """See `Jobs.events`."""
        if self._is_own(job_id):
            async for event in self._jobs.events(job_id, after=after):
                yield event
            return
        owner, ended = self._owner(job_id), False
        while not ended:
            found, ended = await self._team.ask(owner, "job_events", [job_id, after])
            for number, unix_ms, kind, data in found:
                after = number
                yield JobEvent(id=number, unix_ms=unix_ms, kind=kind, data=data)

    async def answer(self, verb: str, arguments: Any) -> object:  # noqa: ANN401 - by the verb
        """Return as CBOR values what another worker asks of the jobs of this one."""
        match verb:
            case "jobs":
                created_unix_ms, job_id = arguments
                return self._page((created_unix_ms, job_id))
            case "job":
                return asdict(self._jobs.find(JobId(arguments)).view)
            case "job_start":
                job_id, kind, given = arguments
                return asdict(await self._jobs.start(JobId(job_id), kind, given))
            case "job_cancel":
                return asdict(await self._jobs.cancel(JobId(arguments)))
        assert verb == "job_events", "workers of one node know the same words"
        return await self._events(*arguments)

    async def _events(self, job_id: str, after: int) -> object:
        found, ended = await self._jobs.next_events(
            JobId(job_id), after=after, wait_s=EVENTS_WAIT_S
        )
        return [[[event.id, event.unix_ms, event.kind, event.data] for event in found], ended]

    def _is_own(self, job_id: JobId) -> bool:
        """Tell whether this worker has a job, if anybody has. Raises JobNotFound for no id."""
        if _ID.fullmatch(job_id) is None:
            raise JobNotFound(job_id)
        return self._owner(job_id) == self._team.seat.index

    def _owner(self, job_id: JobId) -> int:
        shard = keys.shard_of(Kind.META, keys.job_key(job_id), self._context.shards.count)
        return self._team.owner(shard)


def _age(view: JobView) -> tuple[int, str]:
    return view.created_unix_ms, view.id


def _view(fields: dict[str, Any]) -> JobView:
    return JobView(**{**fields, "id": JobId(fields["id"]), "state": JobState(fields["state"])})
