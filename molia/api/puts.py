"""`PUT /blob`, `POST /blob`, `PUT /blob/{segment}`: a body becomes a blob as it streams in.

Plain ASGI: a small put costs no framework. What can be refused is refused before the first
`receive`, so that a client which sent `Expect: 100-continue` uploads nothing.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from molia.api.bodies import Body
from molia.api.digests import parse_content_digest
from molia.api.heads import Head, head_of
from molia.api.multipart import Form, is_multipart
from molia.api.negotiation import JSON, TEXT, preferred
from molia.api.options import FIELDS, put_options
from molia.api.problems import send_problem
from molia.api.schemas import Put
from molia.base import limits
from molia.base.config import ApiConfig
from molia.base.errors import BadInput, BodyTooLarge, MoliaError
from molia.base.views import PutOptions, PutResult
from molia.node.service import NodeService

_FORM_OVERHEAD_MAX = limits.PARTS_MAX * limits.FIELD_SIZE_MAX


class PutBlob:
    """The ASGI endpoint that stores a body."""

    def __init__(self, service: NodeService, config: ApiConfig, *, named: bool) -> None:
        self._service, self._config, self._named = service, config, named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store one body and answer with its CID."""
        head = head_of(scope)
        body: Body | None = None
        try:
            query = head.query(FIELDS)
            options = put_options(query, segment=self._segment(head), size=head.declared_size)
            body = self._body(head, receive, options)
            await self._service.admit_put(options)
            if is_multipart(head.text(b"content-type")):
                result = await self._put_form(head, body, query)
            else:
                result = await self._service.put_blob(body.chunks(), options)
        except MoliaError as error:
            unread = head.has_body and (body is None or not body.ended)
            await send_problem(error, scope, receive, send, unread=unread)
            return
        await _send_result(head, result, send)

    def _segment(self, head: Head) -> str:
        return head.last_segment() if self._named else ""

    def _body(self, head: Head, receive: Receive, options: PutOptions) -> Body:
        size_max = self._config.max_blob_bytes
        if is_multipart(head.text(b"content-type")):
            size_max += _FORM_OVERHEAD_MAX
        if options.size is not None and options.size > size_max:
            raise BodyTooLarge(f"a blob has at most {self._config.max_blob_bytes} bytes here")
        digest = parse_content_digest(text) if (text := head.text(b"content-digest")) else None
        if digest is not None and options.size == 0:
            digest.check()
        return Body(receive, size_max=size_max, digest=digest)

    async def _put_form(self, head: Head, body: Body, query: Mapping[str, str]) -> PutResult:
        form = Form(body, head.text(b"content-type"))
        await form.open()
        if twice := query.keys() & form.fields.keys():
            raise BadInput(f"{min(twice)} is in the query and in the form")
        fields = {**query, **form.fields}
        options = put_options(fields, segment=self._segment(head), file_name=form.file_name)
        chunks = _bounded_file(form.file_chunks(), self._config.max_blob_bytes)
        return await self._service.put_blob(chunks, replace(options, size=None))


async def _bounded_file(chunks: AsyncIterator[bytes], size_max: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > size_max:
            raise BodyTooLarge(f"a blob has at most {size_max} bytes here")
        yield chunk


async def _send_result(head: Head, result: PutResult, send: Send) -> None:
    cid = str(result.cid)
    media = preferred(head.text(b"accept"), TEXT, JSON)
    if media == JSON:
        body = Put.of(result).model_dump_json().encode()
        content_type = JSON
    else:
        body, content_type = f"{cid}\n".encode(), "text/plain; charset=utf-8"
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"location", f"/blob/{cid}".encode()),
        (b"etag", f'"{cid}"'.encode()),
        (b"x-molia-survives", str(result.survives).encode()),
        (b"cache-control", b"no-store"),
        (b"vary", b"accept"),
    ]
    if result.job is not None:
        headers.append((b"x-molia-job", result.job.encode()))
    status = 201 if result.created else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
