"""`GET` and `HEAD /blob/{cid}`: a blob's bytes, whole or one range.

The first chunk is read before the head is sent, so that what is unreadable from the start becomes
a problem document. What breaks later ends the connection: the client sees fewer bytes than
Content-Length said, never an error inside the bytes. A client that leaves ends the read, however
long others are waited for.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

import structlog
from starlette.types import Receive, Scope, Send

from molia.api.bodies import wait_gone
from molia.api.heads import Head, head_of
from molia.api.negotiation import (
    asked_range,
    check_if_match,
    content_disposition,
    is_not_modified,
)
from molia.api.problems import Headers, send_problem
from molia.base import limits
from molia.base.cid import parse_ref
from molia.base.config import ApiConfig
from molia.base.errors import BlobNotFound, MoliaError, NotCached
from molia.base.ranges import ByteRange
from molia.base.views import BlobInfo
from molia.node.service import BlobReader, NodeService

log = structlog.get_logger(__name__)

_LONG_BYTES: Final = 2 * limits.MIB
_LOOK_S: Final = 0.1
"""From then on it is watched whether a client is still there, and from the start where more than
`_LONG_BYTES` are sent: most answers are out before."""


class GetBlob:
    """The ASGI endpoint that gives out a blob."""

    def __init__(self, service: NodeService, config: ApiConfig) -> None:
        self._service = service
        scope = b"private" if config.auth == "required" else b"public"
        self._cache_control = scope + b", max-age=31536000, immutable"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one GET or HEAD."""
        with _Client(receive) as client:
            await self._answer(client, scope, receive, send)

    async def _answer(self, client: "_Client", scope: Scope, receive: Receive, send: Send) -> None:
        head = head_of(scope)
        try:
            reader = await self._open(head)
            cid = str(reader.info.cid)  # spelled once: base32 costs as much as the rest
            check_if_match(head, cid)
            if is_not_modified(head, cid):
                await _send_empty(send, 304, self._headers(cid))
                return
            await self._send_blob(client, head, reader, cid, send)
        except MoliaError as error:
            # Nothing was sent yet: once the head is out, `_stream` keeps errors to itself.
            await send_problem(error, scope, receive, send)

    async def _open(self, head: Head) -> BlobReader:
        ref = parse_ref(head.last_segment())
        local_only = "only-if-cached" in head.text(b"cache-control").lower()
        try:
            return await self._service.open_blob(ref, local_only=local_only)
        except BlobNotFound as error:
            if local_only:
                raise NotCached(error.message, hint=error.hint) from None
            raise

    async def _send_blob(
        self, client: "_Client", head: Head, reader: BlobReader, cid: str, send: Send
    ) -> None:
        info = reader.info
        part = asked_range(head, etag=cid, size=info.size)
        span = part or ByteRange(0, info.size)
        headers = self._blob_headers(info, cid, span, is_part=part is not None)
        status = 206 if part is not None else 200
        if head.method == "HEAD" or span.size == 0:
            await _send_empty(send, status, headers)
            return
        async with aclosing(_closable(reader.read(span.start, span.stop))) as chunks:
            first = await anext(chunks)
            start = {"type": "http.response.start", "status": status, "headers": headers}
            await send(start)
            await _stream(client, info, first, chunks, span.size, send)

    def _headers(self, etag: str) -> Headers:
        return [
            (b"etag", f'"{etag}"'.encode()),
            (b"cache-control", self._cache_control),
            (b"accept-ranges", b"bytes"),
        ]

    def _blob_headers(self, info: BlobInfo, cid: str, span: ByteRange, *, is_part: bool) -> Headers:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(span.size).encode()),
            *self._headers(cid),
            (b"content-disposition", content_disposition(info.name, cid).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"sandbox"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        if is_part:
            bounds = f"bytes {span.start}-{span.stop - 1}/{info.size}"
            headers.append((b"content-range", bounds.encode()))
        return headers


class _Client:
    """Who asked. What is done in its `with` block is cancelled once it has left.

    A cancel scope would do the same, and cost a short answer three times as much.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._work: asyncio.Task[object] | None = None
        self._is_cut_off = False

    def __enter__(self) -> Self:
        self._work = asyncio.current_task()
        self._later = asyncio.get_running_loop().call_later(_LOOK_S, self.watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:  # fmt: skip
        work, self._work = self._work, None
        self._later.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._is_cut_off or work is None:
            return False
        others = work.uncancel()  # who ends the task itself, as the server does when it stops
        return not others and kind is asyncio.CancelledError

    @property
    def is_gone(self) -> bool:
        """Whether it was seen to leave; its end may come later than this."""
        return self._watch is not None and self._watch.done()

    def watch(self) -> None:
        """Watch it from now on."""
        if self._watch is None:
            self._watch = asyncio.ensure_future(wait_gone(self._receive))
            self._watch.add_done_callback(self._look)

    def _look(self, watch: asyncio.Task[None]) -> None:
        if self._work is not None and not watch.cancelled() and watch.exception() is None:
            self._is_cut_off = True
            self._work.cancel()


async def _stream(
    client: _Client,
    info: BlobInfo,
    first: bytes,
    chunks: AsyncIterator[bytes],
    size: int,
    send: Send,
) -> None:
    """Send `size` bytes. On a failure return early: the server then drops the connection."""
    left = size - len(first)
    if size > _LONG_BYTES:
        client.watch()
    try:
        await _send_chunk(send, first, more=left > 0)
        while left > 0:
            chunk = await anext(chunks)
            if client.is_gone:
                return
            left -= len(chunk)
            await _send_chunk(send, chunk, more=left > 0)
    except MoliaError as error:
        log.warning("download_cut_off", blob=info.cid.short, left_bytes=left, reason=error.message)
    except TimeoutError:
        log.info("download_stalled", blob=info.cid.short, left_bytes=left)


async def _send_chunk(send: Send, chunk: bytes, *, more: bool) -> None:
    async with asyncio.timeout(limits.DOWNLOAD_IDLE_S):
        await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def _closable(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what an iterator yields, in a generator that can be closed early."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


async def _send_empty(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
