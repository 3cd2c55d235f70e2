"""Long work: start, list, watch and cancel."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Header
from fastapi.responses import Response

from molia.api.events import MEDIA_TYPE, EventStream, EventStreams, event_schema, frame
from molia.api.openapi import problems
from molia.api.schemas import Job, JobRequest, Jobs
from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import BadInput
from molia.base.ids import JobId
from molia.base.views import JobEvent, JobState
from molia.node.service import NodeService

_ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_EVENT_DIGITS_MAX = 18
_EVENT_SCHEMA = event_schema(["progress", "item", "done", "error"])


def add_job_routes(app: FastAPI, service: NodeService, closing: asyncio.Event) -> None:
    """Register the routes on `app`. closing: set when the server stops; event streams then end."""
    streams = _JobStreams(service, closing)

    @app.get("/jobs", tags=["jobs"])
    async def list_jobs() -> Jobs:
        """List all jobs, newest first; those that ended are kept for 7 days."""
        return Jobs(jobs=[Job.of(view) for view in await service.jobs()])

    @app.post("/jobs", tags=["jobs"], status_code=202, responses=problems(413))
    async def start_job(request: JobRequest, response: Response) -> Job:
        """Start a job. `verify` reads and checks the named blobs, or everything."""
        view = await service.start_verify([Cid.parse(text) for text in request.cids])
        response.headers["location"] = f"/jobs/{view.id}"
        return Job.of(view)

    @app.get("/jobs/{job_id}", tags=["jobs"], responses=problems(404))
    async def get_job(job_id: str) -> Job:
        """Say where a job stands."""
        return Job.of(await service.job(JobId(job_id)))

    @app.delete("/jobs/{job_id}", tags=["jobs"], responses=problems(404, 409))
    async def cancel_job(job_id: str) -> Job:
        """Stop a job, or forget one that ended."""
        return Job.of(await service.cancel_job(JobId(job_id)))

    @app.get(
        "/jobs/{job_id}/events",
        tags=["jobs"],
        response_class=Response,
        responses={
            200: {"content": {MEDIA_TYPE: {"schema": _EVENT_SCHEMA}}},
            204: {"description": "The job ended and has no more events: do not reconnect."},
            **problems(404),
        },
    )
    async def job_events(
        job_id: str, last_event_id: Annotated[str, Header(pattern="^[0-9]{0,18}$")] = ""
    ) -> Response:
        """Stream a job's events (SSE), from the first kept one or after `Last-Event-ID`."""
        return await streams.open(JobId(job_id), after=_event_id(last_event_id))


def _event_id(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= _EVENT_DIGITS_MAX):
        raise BadInput("Last-Event-ID is no event's id")
    return int(text or 0)


class _JobStreams(EventStreams):
    """The event streams of jobs."""

    def __init__(self, service: NodeService, closing: asyncio.Event) -> None:
        super().__init__(closing, open_max=limits.JOB_STREAMS_MAX)
        self._service = service

    async def open(self, job_id: JobId, *, after: int) -> Response:
        """Return the answer that streams a job's events. Raises JobNotFound, Busy."""
        view = await self._service.job(job_id)
        if view.state in _ENDED and not await self._has_events(job_id, after):
            return Response(status_code=204)
        self.admit()
        return EventStream(self, _frames(self._service.job_events(job_id, after=after)))

    async def _has_events(self, job_id: JobId, after: int) -> bool:
        """Return whether a job that ended has events above `after`; its stream ends by itself."""
        return bool([event async for event in self._service.job_events(job_id, after=after)])


async def _frames(events: AsyncIterator[JobEvent]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield frame(event.id, event.kind, {"unix_ms": event.unix_ms, **event.data})
