"""The network around the node: who has a blob, who is there, and lookups step by step."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Path, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from molia.api import events
from molia.api.blobs import RefPath
from molia.api.events import EventStream, EventStreams, event_schema, frame
from molia.api.negotiation import JSON, TEXT, preferred
from molia.api.openapi import problems
from molia.api.problems import problem_document
from molia.api.schemas import Announcement, LookupResult, Peer, Peers, Pong, Provider, Providers
from molia.base import limits
from molia.base.cid import parse_ref
from molia.base.errors import BadLookupKey, MoliaError
from molia.base.views import LookupEvent
from molia.node.service import NodeService

Accept = Annotated[str, Header(include_in_schema=False)]
PeerPath = Annotated[
    str,
    Path(
        description="A peer key, or a `molia://` address.",
        json_schema_extra={"minLength": 1, "maxLength": limits.ADDRESS_TEXT_MAX},
    ),
]
KeyPath = Annotated[
    str,
    Path(
        description="A peer key, a record's address, a CID, or 64 hex digits.",
        json_schema_extra={"minLength": 1, "maxLength": limits.ADDRESS_TEXT_MAX},
    ),
]
_DONE: Final = "done"
_PEERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Peers, "content": {TEXT: {"schema": {"type": "string"}}}}
}
_LOOKUP: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": LookupResult,
        "content": {events.MEDIA_TYPE: {"schema": event_schema()}},
    },
    **problems(504),
}


def add_network_routes(app: FastAPI, service: NodeService, closing: asyncio.Event) -> None:
    """Register the routes on `app`. closing: set when the server stops; traces then end."""
    streams = EventStreams(closing, open_max=limits.LOOKUP_STREAMS_MAX)

    @app.get("/provider/{cid}", tags=["network"], responses=problems(404, 504))
    async def find_providers(cid: RefPath) -> Providers:
        """Ask the network who has a blob. What is found is claimed, not checked."""
        found = await service.providers(parse_ref(cid))
        return Providers(cid=cid, providers=[Provider.of(view) for view in found])

    @app.post("/provider/{cid}", tags=["network"], status_code=202, responses=problems(404, 504))
    async def announce(cid: RefPath) -> Announcement:
        """Tell the network now that this node has a blob; it does so by itself every day."""
        return Announcement.of(await service.announce(parse_ref(cid)))

    @app.get("/peers", tags=["network"], response_model=Peers, responses=_PEERS)
    async def list_peers(accept: Accept = "") -> Response:
        """List the nodes that this one knows; `text/plain` gives one address a line."""
        views = await service.peers()
        headers = {"vary": "accept", "cache-control": "no-store"}
        if preferred(accept, JSON, TEXT) == TEXT:
            lines = "".join(f"{view.address}\n" for view in views)
            return PlainTextResponse(lines, headers=headers)
        body = Peers(peers=[Peer.of(view) for view in views]).model_dump_json()
        return Response(body, media_type=JSON, headers=headers)

    @app.post("/peers/{peer:path}/ping", tags=["network"], responses=problems(404, 504))
    async def ping(peer: PeerPath) -> Pong:
        """Ask a peer for a sign of life, and from where it sees this node."""
        return Pong.of(await service.ping(peer))

    @app.get("/lookup/{key:path}", tags=["network"], response_model=LookupResult, responses=_LOOKUP)
    async def lookup(
        key: KeyPath,
        *,
        trace: Annotated[
            bool, Query(description="Stream each step (SSE), as `Accept: text/event-stream` does.")
        ] = False,
        accept: Accept = "",
    ) -> Response:
        """Find the nodes closest to a key, and what they have there; the steps when asked."""
        if not 0 < len(key) <= limits.ADDRESS_TEXT_MAX:
            raise BadLookupKey(key)
        streams.admit()
        if not trace and preferred(accept, JSON, events.MEDIA_TYPE) == JSON:
            return JSONResponse(await _result(streams, service.lookup(key, trace=False)))
        steps = service.lookup(key, trace=True)
        first = await anext(steps)  # before the head: a key that is none becomes a problem
        return EventStream(streams, _frames(first, steps))


async def _result(streams: EventStreams, steps: AsyncIterator[LookupEvent]) -> dict[str, object]:
    """Return what a lookup ends with; it counts as a stream while it runs."""
    streams.open_count += 1
    try:
        result: dict[str, object] = {}
        async for step in steps:
            if step.kind == _DONE:
                result = step.data
        return result
    finally:
        streams.open_count -= 1


async def _frames(
    first: LookupEvent, steps: AsyncIterator[LookupEvent]
) -> AsyncGenerator[bytes, None]:
    """Yield the steps as frames; a failure on the way is the last, of the kind `error`."""
    yield frame(1, first.kind, first.data)
    event_id = 1
    try:
        async for step in steps:
            event_id += 1
            if event_id <= limits.LOOKUP_EVENTS_MAX or step.kind == _DONE:
                yield frame(event_id, step.kind, step.data)
    except MoliaError as error:
        yield frame(event_id + 1, "error", problem_document(error))
    finally:
        if (close := getattr(steps, "aclose", None)) is not None:
            await close()
