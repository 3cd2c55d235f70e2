"""Server-sent events as an ASGI answer. Source: the HTML standard, 9.2."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from molia.api.bodies import wait_gone
from molia.api.heads import head_of
from molia.base import limits
from molia.base.errors import Busy

MEDIA_TYPE: Final = "text/event-stream"


def frame(event_id: int, kind: str, data: Mapping[str, object]) -> bytes:
    """Return one event as it goes out."""
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n".encode()


def event_schema(kinds: list[str] | None = None) -> dict[str, Any]:
    """Return the schema of an event. kinds: all that it may have; None: any text."""
    return {
        "type": "object",
        "description": "One server-sent event; `data` is JSON.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"enum": kinds} if kinds else {"type": "string"},
            "data": {"type": "string"},
        },
    }


class EventStreams:
    """The streams of one kind that are open; there is a bound to them."""

    def __init__(self, closing: asyncio.Event, *, open_max: int) -> None:
        """closing: set when the server stops; all streams then end."""
        self.closing, self._open_max = closing, open_max
        self.open_count = 0

    def admit(self) -> None:
        """Return when one more may be opened. Raises Busy."""
        if self.open_count >= self._open_max:
            raise Busy("too many event streams are open")


class EventStream(Response):
    """The answer that sends frames until there are no more, the client leaves or the node stops."""

    media_type = MEDIA_TYPE

    def __init__(self, streams: EventStreams, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._streams, self._frames = streams, frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Source: the ASGI specification, 3.0."""
        self._streams.open_count += 1
        try:
            async with aclosing(self._frames):
                start: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
                await send({**start, "headers": self.raw_headers})
                if head_of(scope).method != "HEAD":
                    await self._send_frames(receive, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.open_count -= 1

    async def _send_frames(self, receive: Receive, send: Send) -> None:
        async with aclosing(self._with_heartbeats(receive)) as frames:
            async for part in frames:
                await send({"type": "http.response.body", "body": part, "more_body": True})

    async def _with_heartbeats(self, receive: Receive) -> AsyncGenerator[bytes, None]:
        """Yield the frames, and a comment when none comes for a while."""
        ends = [
            asyncio.ensure_future(wait_gone(receive)),
            asyncio.ensure_future(self._streams.closing.wait()),
        ]
        step = asyncio.ensure_future(_next(self._frames))
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
                if step not in done or (part := step.result()) is None:
                    return
                yield part
                step = asyncio.ensure_future(_next(self._frames))
        finally:
            for task in (step, *ends):
                task.cancel()
            await asyncio.wait([step, *ends], timeout=1)


async def _next(frames: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(frames)
    except StopAsyncIteration:
        return None
