"""A client that calls the application without a socket, as a server would."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI

from molia.api.app import create_app
from molia.base.config import ApiConfig
from tests.api.fake_node import FakeNode

TOKEN = "correct-horse"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Answer:
    """What came back. `complete` is False when the application broke off."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem code; checks that the document is whole."""
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json()
        assert set(document) == {"type", "title", "status", "detail", "code", "hint"}
        assert document["status"] == self.status
        assert document["type"] == "/docs/errors#" + document["code"]
        return str(document["code"])


class Client:
    """Calls one application. `pulled` counts the messages that it asked for."""

    def __init__(
        self,
        node: FakeNode | None = None,
        *,
        config: ApiConfig | None = None,
        unix: bool = False,
        token: str | None = TOKEN,
    ) -> None:
        self.node = node or FakeNode()
        self.app: FastAPI = create_app(self.node, config or ApiConfig(), token=token, version="1")
        self.unix = unix
        self.pulled = 0
        self.last = Answer()

    async def __call__(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | list[bytes] | None = None,
        leaves: bool = False,
    ) -> Answer:
        """Send one request. body: a list is sent chunked; leaves: the client goes after it."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
        if not any(name == b"host" for name, _ in raw):
            raw.append((b"host", b"localhost:7070"))
        if isinstance(body, list):
            raw.append((b"transfer-encoding", b"chunked"))
        elif body is not None and not any(name == b"content-length" for name, _ in raw):
            raw.append((b"content-length", str(len(body)).encode()))
        return await self._run(self._scope(method, target, raw), body or b"", leaves=leaves)

    def _scope(self, method: str, target: str, raw: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        path, _, query = target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": raw,
            "client": None if self.unix else ("127.0.0.1", 50_000),
            "server": ("/run/api.sock", None) if self.unix else ("127.0.0.1", 7070),
        }

    async def _run(
        self, scope: dict[str, Any], body: bytes | list[bytes], *, leaves: bool
    ) -> Answer:
        chunks = body if isinstance(body, list) else [body]
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": leaves or index + 1 < len(chunks)}
            for index, chunk in enumerate(chunks)
        ] or [{"type": "http.request", "body": b"", "more_body": False}]
        answer = self.last = Answer()

        async def receive() -> dict[str, Any]:
            self.pulled += 1
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert answer.status == 0
                answer.status = message["status"]
                for name, value in message["headers"]:
                    answer.headers[name.decode()] = value.decode("latin-1")
            else:
                answer.body += message.get("body", b"")
                answer.complete = not message.get("more_body", False)

        await self.app(scope, receive, send)
        return answer
