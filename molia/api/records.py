"""Mutable records: sign and publish, publish what is signed already, read, list our own."""

import re
from email.utils import formatdate
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from molia.api.bodies import Body
from molia.api.heads import Head, head_of
from molia.api.negotiation import JSON, TEXT, content_disposition, is_not_modified, preferred
from molia.api.openapi import binary, problems, record_parameter
from molia.api.schemas import Record, RecordReceipt, Records
from molia.base import limits
from molia.base.errors import BadInput, BodyTooLarge, RecordTooLarge
from molia.base.record_ref import RecordRef, own_name
from molia.base.views import RecordView
from molia.node.service import NodeService

BYTES: Final = "application/octet-stream"
SIGNED: Final = "application/vnd.molia.record"
_SEQ: Final = re.compile(rb'"([0-9]{1,20})"')
_SEQ_STOP: Final = 1 << 64

Accept = Annotated[str, Header(include_in_schema=False)]
AddressPath = Annotated[
    str,
    Path(
        description="`<peer key>`, `<peer key>/<name>`, or the name of a record of this node.",
        json_schema_extra=record_parameter(with_key=True),
    ),
]
NamePath = Annotated[
    str,
    Path(
        description="Name of the record; it is put under this node's key.",
        json_schema_extra=record_parameter(with_key=False),
    ),
]


def add_record_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""
    _add_puts(app, service)

    @app.get("/record", tags=["records"], response_model=Records, responses=_LISTING)
    async def list_records(accept: Accept = "") -> Response:
        """List the records that this node signed and keeps alive; as text one address a line."""
        views = await service.own_records()
        headers = {"vary": "accept", "cache-control": "no-store"}
        if preferred(accept, JSON, TEXT) == TEXT:
            lines = "".join(f"{view.address}\n" for view in views)
            return PlainTextResponse(lines, headers=headers)
        body = Records(records=[Record.of(view) for view in views]).model_dump_json()
        return Response(body, media_type=JSON, headers=headers)

    @app.get("/record/{address:path}", tags=["records"], response_class=Response, responses=_GET)
    async def get_record(
        request: Request,
        address: AddressPath,
        *,
        consistent: Annotated[
            bool, Query(description="Ask a quorum of the holders; the highest seq wins.")
        ] = False,
    ) -> Response:
        """Give a record's value, whoever signed it; JSON when asked, with the value in base64."""
        del address
        head = head_of(request.scope)
        view = await service.get_record(RecordRef.parse(_address(head)), consistent=consistent)
        headers = _record_headers(view)
        if is_not_modified(head, str(view.seq)):
            return Response(status_code=304, headers=headers)
        if preferred(head.text(b"accept"), BYTES, JSON) == JSON:
            body = Record.of(view, with_value=True).model_dump_json()
            return Response(body, media_type=JSON, headers=headers)
        return Response(view.value, media_type=BYTES, headers=headers)


def _add_puts(app: FastAPI, service: NodeService) -> None:
    @app.put(
        "/record",
        tags=["records"],
        status_code=201,
        responses=problems(409, 413, 504),
        openapi_extra={"requestBody": {"required": True, "content": binary(SIGNED)}},
    )
    async def publish_record(request: Request) -> RecordReceipt:
        """Publish a record that somebody else signed; whoever has the key keeps it alive."""
        body = await _whole_body(request, limits.SIGNED_RECORD_MAX)
        return RecordReceipt.of(await service.publish_record(body))

    @app.put(
        "/record/{address:path}",
        tags=["records"],
        response_model=RecordReceipt,
        responses=_PUT,
        openapi_extra=_PUT_EXTRA,
    )
    async def put_record(request: Request, address: NamePath) -> Response:
        """Sign the body under this node's key, publish it, and keep it alive from now on."""
        del address  # as the framework decoded it, which forgives what is not UTF-8
        head = head_of(request.scope)
        name, if_seq = own_name(_address(head)), _asked_seq(head)
        value = await _whole_body(request, limits.RECORD_VALUE_MAX)
        result = await service.put_record(name, value, if_seq=if_seq)
        headers = {"etag": f'"{result.seq}"', "location": _path(RecordRef.parse(result.address))}
        body = RecordReceipt.of(result).model_dump()
        return JSONResponse(body, status_code=201 if result.created else 200, headers=headers)


async def _whole_body(request: Request, size_max: int) -> bytes:
    """Return the body of a request. Raises RecordTooLarge, before it is read where it says so."""
    if (head_of(request.scope).declared_size or 0) > size_max:
        raise RecordTooLarge(size_max)
    try:
        return b"".join(
            [chunk async for chunk in Body(request.receive, size_max=size_max).chunks()]
        )
    except BodyTooLarge:
        raise RecordTooLarge(size_max) from None


def _address(head: Head) -> str:
    """Return what follows `/record/` in the path. Raises BadInput."""
    return head.after_first_segment()


def _asked_seq(head: Head) -> int | None:
    """Return the seq that a put is bound to: 0 for none at all, None for any."""
    if_match, if_none_match = (head.headers.get(name) for name in (b"if-match", b"if-none-match"))
    if if_match is None and if_none_match is None:
        return None
    if if_match is None and if_none_match == b"*":
        return 0
    match = _SEQ.fullmatch(if_match or b"")
    if if_none_match is not None or match is None or int(match.group(1)) >= _SEQ_STOP:
        raise BadInput(
            'a put takes If-Match: "SEQ", or If-None-Match: * where there must be no record'
        )
    return int(match.group(1))


def _record_headers(view: RecordView) -> dict[str, str]:
    """Return the headers of an answer with a value. The bytes are a stranger's."""
    ref = RecordRef.parse(view.address)
    return {
        "etag": f'"{view.seq}"',
        "expires": formatdate(min(view.expires_unix_s, limits.UNIX_S_MAX), usegmt=True),
        "cache-control": "no-cache",  # else a cache would not ask again before it expires
        "content-location": _path(ref),
        "content-disposition": content_disposition(ref.name, "record"),
        "vary": "accept",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
        "cross-origin-resource-policy": "same-origin",
    }


def _path(ref: RecordRef) -> str:
    return "/record/" + ref.quoted


_LISTING: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Records, "content": {TEXT: {"schema": {"type": "string"}}}}
}
_ETAG: Final = {"ETag": {"description": "The seq, quoted.", "schema": {"type": "string"}}}
_PUT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "An earlier record was replaced.", "headers": _ETAG},
    201: {"description": "Published.", "model": RecordReceipt, "headers": _ETAG},
    **problems(409, 412, 413, 504),
}
_PUT_EXTRA: Final = {
    "parameters": [
        {
            "in": "header",
            "name": "If-Match",
            "required": False,
            "description": "The seq in quotes: put only when the network's record has it.",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {
        "description": "The value, at most 1,000 bytes.",
        "content": binary(BYTES),
    },
}
_GET: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The value.",
        "content": {
            **binary(BYTES),
            JSON: {"schema": {"$ref": "#/components/schemas/Record"}},
        },
        "headers": {
            **_ETAG,
            "Expires": {
                "description": "When the record ends unless it is put again.",
                "schema": {"type": "string"},
            },
        },
    },
    304: {"description": "The client has this version."},
    **problems(404, 504),
}
