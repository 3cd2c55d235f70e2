"""The limit of HTTP: the same server as Molia's, with nothing behind it.

`GET /stream/{size}` streams that many bytes from memory in chunks of 256 KiB; `PUT` reads the body
and answers as a put does. Run as `python -m tests.bench.bare_app PORT`.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

CHUNK_SIZE = 256 * 1024
_CHUNK = bytes(range(256)) * (CHUNK_SIZE // 256)
_ANSWER = b"b" + b"a" * 58 + b"\n"

Message = MutableMapping[str, Any]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await _stream(int(scope["path"].rpartition("/")[2]), send)
        return
    while (await receive()).get("more_body", False):
        pass
    head = [(b"content-length", b"%d" % len(_ANSWER))]
    await send({"type": "http.response.start", "status": 201, "headers": head})
    await send({"type": "http.response.body", "body": _ANSWER})


async def _stream(size: int, send: Callable[[Message], Awaitable[None]]) -> None:
    head = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    while size > CHUNK_SIZE:
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
        size -= CHUNK_SIZE
    await send({"type": "http.response.body", "body": _CHUNK[:size]})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools",
        access_log=False, log_level="warning", lifespan="off", server_header=False,
    )  # fmt: skip
