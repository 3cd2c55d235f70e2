"""A request's body as a stream of chunks that ends well, or raises."""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from molia.api.digests import BodyDigest
from molia.base import limits
from molia.base.errors import BodyTooLarge, UploadCutOff, UploadStalled


class Body:
    """The body of one request. Nothing is read before it is asked for."""

    __slots__ = ("_digest", "_receive", "_size_max", "ended", "size")

    def __init__(
        self, receive: Receive, *, size_max: int, digest: BodyDigest | None = None
    ) -> None:
        self._receive, self._size_max, self._digest = receive, size_max, digest
        self.size = 0
        """Bytes that came so far."""
        self.ended = False
        """Whether the last byte came: nothing is left unread on the connection."""

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises UploadCutOff when the client left, UploadStalled when it sends nothing, BodyTooLarge,
        and at the end DigestMismatch.
        """
        while not self.ended:
            message = await self._next_message()
            if message["type"] != "http.request":
                raise UploadCutOff(f"the client left after {self.size} bytes of the body")
            chunk: bytes = message.get("body", b"")
            self.ended = not message.get("more_body", False)
            self._take(chunk)
            if chunk:
                return chunk
        return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; raises as `read` does."""
        while chunk := await self.read():
            yield chunk

    def _take(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._size_max:
            raise BodyTooLarge(f"the body is larger than {self._size_max} bytes")
        if self._digest is not None:
            self._digest.update(chunk)
            if self.ended:
                self._digest.check()

    async def _next_message(self) -> Message:
        try:
            async with asyncio.timeout(limits.UPLOAD_IDLE_S):
                return await self._receive()
        except TimeoutError:
            raise UploadStalled(f"nothing came for {limits.UPLOAD_IDLE_S:.0f} s") from None


def bounded(receive: Receive, *, size_max: int) -> Receive:
    """Return a `receive` for frameworks that gather a body whole; it raises as `Body.read` does."""
    body = Body(receive, size_max=size_max)

    async def receive_bounded() -> Message:
        if body.ended:
            return await receive()  # waits for the client to leave
        chunk = await body.read()
        return {"type": "http.request", "body": chunk, "more_body": not body.ended}

    return receive_bounded


async def wait_gone(receive: Receive) -> None:
    """Return when the client has left. Whatever body a GET brings is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
