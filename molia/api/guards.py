"""Who may ask what: checks on the head of each request, before a byte of its body is read.

Three dangers, three guards. A web page whose name was rebound to 127.0.0.1 speaks under its own
Host. A web page of another origin can send simple writes. Any program of any user of this machine
can reach loopback, so what destroys or controls needs the token of the node's home. The Unix
socket, which the file system guards, has full rights.
Source: docs/explanation/api-safety.md; Fetch Metadata (W3C), RFC 6454, RFC 6750.
"""

import hmac
import ipaddress
import re
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from molia.api.bodies import bounded
from molia.api.heads import Head, head_of
from molia.api.problems import send_problem
from molia.base import limits
from molia.base.config import ApiConfig
from molia.base.errors import (
    BadInput,
    BodyTooLarge,
    Forbidden,
    Misdirected,
    MoliaError,
    Unauthorized,
)

_HOST: Final = re.compile(r"^(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._\-]{1,253})(?::[0-9]{1,5})?$")
_HOST_MAX: Final = 300
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_PROBES: Final = frozenset(("/healthz", "/readyz"))
_PUBLIC: Final = _PROBES | {"/docs", "/docs/errors", "/openapi.json"}
_BROWSER_HEADERS: Final = (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")
_ACCESS_HINT: Final = (
    "send `Authorization: Bearer TOKEN` with the token in the node's home (api.token), "
    "or use its Unix socket"
)


class Guard:
    """ASGI middleware that lets through what may pass and answers the rest with a problem."""

    def __init__(self, app: ASGIApp, *, config: ApiConfig, token: str | bytes | None) -> None:
        self._app = app
        self._token = token.encode() if isinstance(token, str) else token or b""
        self._needs_token = config.auth == "required"
        self._trusts_loopback = config.loopback == "trusted"
        bound = [address.rpartition(":")[0].lower() for address in config.listen]
        names = {name.lower() for name in (*_LOCAL_NAMES, *bound, *config.allowed_hosts)}
        self._names = frozenset(names)
        # A rebound page speaks under a name, never under an address.
        self._takes_addresses = any(_is_wildcard(name) for name in bound)
        self._is_ours = lru_cache(maxsize=256)(self._host_is_ours)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on. Source: the ASGI specification, 3.0."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = head_of(scope)
        try:
            self._check(head, scope)
        except MoliaError as error:
            await send_problem(error, scope, receive, send)
            return
        if not _is_data(head):
            receive = bounded(receive, size_max=limits.JSON_BODY_MAX)
        if head.method == "HEAD" and not _is_blob(head):
            # Every GET has its HEAD; only that of a blob's bytes is worth an answer of its own.
            scope = {**scope, "method": "GET"}
            send = _without_body(send)
        await self._app(scope, receive, send)

    def _check(self, head: Head, scope: Scope) -> None:
        if not _is_data(head) and (head.declared_size or 0) > limits.JSON_BODY_MAX:
            raise BodyTooLarge(f"a request here has at most {limits.JSON_BODY_MAX} bytes")
        if is_unix(scope):
            return
        self._check_host(head)
        _check_origin(head)
        if self._wants_token(head) and not self._has_token(head):
            raise Unauthorized("this request needs the node's token", hint=_ACCESS_HINT)

    def _check_host(self, head: Head) -> None:
        host = head.text(b"host")
        if not host:
            raise BadInput("the request has no Host header")
        if len(host) > _HOST_MAX or not self._is_ours(host):
            raise Misdirected(
                f"{host[:80]!r} is no name of this node",
                hint="add it to api.allowed_hosts if it is",
            )

    def _host_is_ours(self, host: str) -> bool:
        match = _HOST.match(host)
        if match is None:
            return False
        name = match.group(1).lower().removesuffix(".")
        return name in self._names or (self._takes_addresses and _is_address(name))

    def _wants_token(self, head: Head) -> bool:
        if self._needs_token:
            return head.path not in _PROBES
        if _is_browser(head):
            return head.is_write or head.path not in _PUBLIC
        if not head.is_write or self._trusts_loopback:
            return False
        return not (_is_data(head) and head.method in ("PUT", "POST"))

    def _has_token(self, head: Head) -> bool:
        scheme, _, given = head.headers.get(b"authorization", b"").partition(b" ")
        is_equal = hmac.compare_digest(given.strip(), self._token)
        return bool(self._token) and scheme.lower() == b"bearer" and is_equal


def is_unix(scope: Scope) -> bool:
    """Return whether a request came over the Unix socket.

    Both must hold: a TCP peer that is already gone has no address either.
    """
    server = scope.get("server")
    return scope.get("client") is None and server is not None and server[1] is None


def _is_data(head: Head) -> bool:
    return head.path == "/blob" or head.path.startswith("/blob/")


def _is_blob(head: Head) -> bool:
    return head.path.startswith("/blob/") and "/" not in head.path[6:]


def _is_browser(head: Head) -> bool:
    headers = head.headers
    return b"origin" in headers or any(name in headers for name in _BROWSER_HEADERS)


def _check_origin(head: Head) -> None:
    if not head.is_write:
        return
    origin = head.text(b"origin")
    host = head.text(b"host")
    if origin and origin not in (f"http://{host}", f"https://{host}"):
        raise Forbidden(f"a page of {origin[:80]!r} may not write here")
    if head.text(b"sec-fetch-site") == "cross-site":
        raise Forbidden("a page of another site may not write here")


def _is_wildcard(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name.strip("[]")).is_unspecified


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _without_body(send: Send) -> Send:
    async def send_head(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head  # type: ignore[return-value]
