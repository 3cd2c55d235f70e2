"""The control side of blobs: listing, deleting, health, manifest and pins."""

from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import FastAPI, Header, Path, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from molia.api.negotiation import DAG_CBOR, JSON, TEXT, preferred
from molia.api.openapi import binary, problems
from molia.api.schemas import (
    CID_PATTERN,
    REF_PATTERN,
    Blob,
    Blobs,
    Health,
    Manifest,
    Trash,
    Trashed,
)
from molia.base import limits
from molia.base.cid import Cid, parse_ref
from molia.base.views import BlobPage, BlobState
from molia.node.service import NodeService

RefPath = Annotated[
    str,
    Path(
        description="A CID, or the hex BLAKE3 of the bytes.",
        json_schema_extra={"pattern": REF_PATTERN},
    ),
]
Cursor = Annotated[str | None, Query(max_length=limits.CURSOR_SIZE_MAX, min_length=1)]
Limit = Annotated[int, Query(ge=1, le=limits.LIST_LIMIT_MAX)]
Accept = Annotated[str, Header(include_in_schema=False)]
_LISTING: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Blobs, "content": {TEXT: {"schema": {"type": "string"}}}}
}

_PINNED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Blob, "description": "Others have it; `X-Molia-Job` names what fetches it."},
    **problems(404, 413, 502, 504, 507),
}


def add_blob_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""

    @app.get("/blob", tags=["blobs"], response_model=Blobs, responses=_LISTING)
    async def list_blobs(
        cursor: Cursor = None,
        limit: Limit = 100,
        state: Annotated[Literal["at-risk"] | None, Query()] = None,
        accept: Accept = "",
    ) -> Response:
        """List what is kept here, newest first; `text/plain` gives one CID a line."""
        at_risk = BlobState.DEGRADED if state is not None else None
        page = await service.list_blobs(cursor=cursor, limit=limit, state=at_risk, pinned=None)
        suffix = f"&limit={limit}" + (f"&state={state}" if state else "")
        return _page_answer(page, accept, path="/blob", suffix=suffix)

    @app.delete(
        "/blob/{cid}",
        tags=["blobs"],
        status_code=204,
        response_class=Response,
        responses=problems(404),
    )
    async def delete_blob(cid: RefPath) -> Response:
        """Unpin a blob, end its leases and free its space."""
        await service.delete_blob(parse_ref(cid))
        return Response(status_code=204)

    @app.get("/blob/{cid}/health", tags=["blobs"], responses=problems(404, 502, 504))
    async def blob_health(cid: RefPath) -> Health:
        """Say per share who holds it, and how many losses the blob would survive."""
        return Health.of(await service.blob_health(parse_ref(cid)))

    @app.get(
        "/blob/{cid}/manifest",
        tags=["blobs"],
        response_model=Manifest,
        responses={
            200: {"model": Manifest, "content": binary(DAG_CBOR)},
            **problems(404, 502, 504),
        },
    )
    async def blob_manifest(cid: RefPath, accept: Accept = "") -> Response:
        """Give a blob's manifest: its own bytes, or JSON when asked. Small blobs have none."""
        view = await service.blob_manifest(parse_ref(cid))
        if preferred(accept, DAG_CBOR, JSON) == JSON:
            return _json(Manifest.of(view).model_dump_json())
        return Response(view.encoded, media_type=DAG_CBOR, headers={"vary": "accept"})


def add_pin_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""

    @app.get("/pin", tags=["pins"], response_model=Blobs, responses=_LISTING)
    async def list_pins(cursor: Cursor = None, limit: Limit = 100, accept: Accept = "") -> Response:
        """List what is pinned, newest first."""
        page = await service.list_blobs(cursor=cursor, limit=limit, state=None, pinned=True)
        return _page_answer(page, accept, path="/pin", suffix=f"&limit={limit}")

    @app.get("/pin/{cid}", tags=["pins"], responses=problems(404))
    async def blob_info(cid: RefPath) -> Blob:
        """Give a blob's line of the index, which says whether it is pinned."""
        return Blob.of(await service.blob_info(parse_ref(cid)))

    @app.put("/pin/{cid}", tags=["pins"], response_model=Blob, responses=_PINNED)
    async def pin_blob(cid: RefPath, response: Response) -> Blob:
        """Keep a blob alive until it is unpinned or deleted; doing it twice is fine.

        One that others have is fetched: the answer is 202, and names the job that does it.
        """
        view = await service.pin_blob(parse_ref(cid), pinned=True)
        if view.job is not None:
            response.status_code = 202
            response.headers["location"] = f"/jobs/{view.job}"
            response.headers["x-molia-job"] = view.job
        return Blob.of(view.info)

    @app.delete("/pin/{cid}", tags=["pins"], responses=problems(404))
    async def unpin_blob(cid: RefPath) -> Blob:
        """Stop keeping a blob alive; it goes when its leases have ended."""
        return Blob.of((await service.pin_blob(parse_ref(cid), pinned=False)).info)


def add_trash_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""

    @app.get("/trash", tags=["trash"])
    async def list_trash() -> Trash:
        """List removed blobs that can be brought back, a thousand at most."""
        return Trash(blobs=[Trashed.of(view) for view in await service.trash()])

    @app.post("/trash/{cid}", tags=["trash"], responses=problems(404, 409))
    async def undelete_blob(
        cid: Annotated[str, Path(json_schema_extra={"pattern": CID_PATTERN})],
    ) -> Blob:
        """Bring a removed blob back as it was."""
        return Blob.of(await service.undelete_blob(Cid.parse(cid)))


def _page_answer(page: BlobPage, accept: str, *, path: str, suffix: str) -> Response:
    headers = {"vary": "accept", "cache-control": "no-store"}
    if page.next_cursor is not None:
        next_url = f"{path}?cursor={quote(page.next_cursor, safe='')}{suffix}"
        headers["link"] = f'<{next_url}>; rel="next"'
    if preferred(accept, JSON, TEXT) == TEXT:
        lines = "".join(f"{info.cid}\n" for info in page.blobs)
        return PlainTextResponse(lines, headers=headers)
    return _json(Blobs.of(page).model_dump_json(), headers)


def _json(body: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer whose body is JSON already."""
    return Response(body, media_type=JSONResponse.media_type, headers=headers)
