"""Errors as RFC 9457 problem documents, and the one way in which they leave the node."""

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from molia.api.heads import head_of
from molia.base import limits
from molia.base.errors import (
    Busy,
    MoliaError,
    RangeNotSatisfiable,
    Unauthorized,
    outcome_of,
)

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/docs/errors#"

Headers = list[tuple[bytes, bytes]]


def problem_document(error: MoliaError) -> dict[str, Any]:
    """Return the members of an error's problem document. Source: RFC 9457, 3.1."""
    outcome = outcome_of(error)
    return {
        "type": TYPE_PREFIX + outcome.code,
        "title": outcome.title,
        "status": outcome.status,
        "detail": error.message,
        "code": outcome.code,
        "hint": error.hint,
    }


def problem_answer(error: MoliaError) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer that reports `error`."""
    body = json.dumps(problem_document(error)).encode()
    headers: Headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="molia"'))
    if isinstance(error, Busy):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, RangeNotSatisfiable):
        headers.append((b"content-range", f"bytes */{error.size}".encode()))
    return outcome_of(error).status, headers, body


async def send_problem(
    error: MoliaError,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    unread: bool | None = None,
) -> None:
    """Answer a request with the problem document of `error`.

    unread: whether bytes of the request's body were not read; None: whether it has a body at all.
    Such an answer ends the connection, but only after the client had time to read it: closing at
    once would make the kernel reset the connection and throw the answer away.
    """
    status, headers, body = problem_answer(error)
    lingers = head_of(scope).has_body if unread is None else unread
    if lingers:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if lingers:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _read_and_drop(receive)
        body = b""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _read_and_drop(receive: Receive) -> None:
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(limits.LINGER_S):
            while size < limits.LINGER_BYTES_MAX:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
