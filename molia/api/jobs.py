"""Long work: start, list, watch and cancel."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from molia.api.bodies import wait_gone
from molia.api.heads import head_of
from molia.api.openapi import problems
from molia.api.schemas import Job, JobRequest, Jobs
from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import BadInput, Busy
from molia.base.ids import JobId
from molia.base.views import JobEvent, JobState
from molia.node.service import NodeService

_ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_EVENT_DIGITS_MAX = 18
_EVENT_SCHEMA = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON.",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"enum": ["progress", "item", "done", "error"]},
        "data": {"type": "string"},
    },
}


def add_job_routes(app: FastAPI, service: NodeService, closing: asyncio.Event) -> None:
    """Register the routes on `app`. closing: set when the server stops; event streams then end."""
    streams = _Streams(service, closing)

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
            200: {"content": {"text/event-stream": {"schema": _EVENT_SCHEMA}}},
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


class _Streams:
    """The event streams that are open; there is a bound to them."""

    def __init__(self, service: NodeService, closing: asyncio.Event) -> None:
        self._service, self._closing = service, closing
        self.open_count = 0

    async def open(self, job_id: JobId, *, after: int) -> Response:
        """Return the answer that streams a job's events. Raises JobNotFound, Busy."""
        view = await self._service.job(job_id)
        if view.state in _ENDED and not await self._has_events(job_id, after):
            return Response(status_code=204)
        if self.open_count >= limits.JOB_STREAMS_MAX:
            raise Busy("too many event streams are open")
        return _EventStream(self, self._service.job_events(job_id, after=after), self._closing)

    async def _has_events(self, job_id: JobId, after: int) -> bool:
        """Return whether a job that ended has events above `after`; its stream ends by itself."""
        return bool([event async for event in self._service.job_events(job_id, after=after)])


class _EventStream(Response):
    """Server-sent events as an ASGI answer. Source: the HTML standard, 9.2."""

    media_type = "text/event-stream"

    def __init__(
        self, streams: _Streams, events: AsyncIterator[JobEvent], closing: asyncio.Event
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._streams, self._events, self._closing = streams, events, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the job ends, the client leaves or the node stops."""
        self._streams.open_count += 1
        try:
            start: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            if head_of(scope).method == "HEAD":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            async with aclosing(self._frames(receive)) as frames:
                async for frame in frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.open_count -= 1

    async def _frames(self, receive: Receive) -> AsyncGenerator[bytes, None]:
        """Yield events as frames, and a comment when none comes for a while."""
        ends = [
            asyncio.ensure_future(wait_gone(receive)),
            asyncio.ensure_future(self._closing.wait()),
        ]
        step = asyncio.ensure_future(_next_event(self._events))
        try:
            while True:
                done, _ = await asyncio.wait(
                    [step, *ends],
                    timeout=limits.EVENTS_HEARTBEAT_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    yield b":\n\n"
                    continue
                if step not in done or (event := step.result()) is None:
                    return
                yield _frame(event)
                step = asyncio.ensure_future(_next_event(self._events))
        finally:
            for task in (step, *ends):
                task.cancel()
            await asyncio.wait([step, *ends], timeout=1)


async def _next_event(events: AsyncIterator[JobEvent]) -> JobEvent | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None


def _frame(event: JobEvent) -> bytes:
    data = json.dumps({"unix_ms": event.unix_ms, **event.data}, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()
