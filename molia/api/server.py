"""Sockets and the server: what the node's composition root needs to make the API answer.

We bind ourselves: uvicorn gives a Unix socket the mode 0666, ours has 0600. TCP addresses that
are not loopback are refused without `api.auth = "required"`.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import structlog
import uvicorn
from fastapi import FastAPI

from molia.api.protocol import BoundedProtocol
from molia.base import limits
from molia.base.config import ApiConfig
from molia.base.errors import BadConfig, CannotListen

log = structlog.get_logger(__name__)

_ADDRESS: Final = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+|localhost):([0-9]{1,5})$")
_BACKLOG: Final = 1024
_PROBE_S: Final = 1.0
_LINGER_STEP_S: Final = 0.05
_TURN_COUNT: Final = 2
_TURN_PAUSE_S: Final = 0.001
_NO_FAMILY: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_CLOSED_EARLY: Final = "ASGI callable returned without completing response."


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets, listening since they were bound."""

    sockets: tuple[socket.socket, ...]
    urls: tuple[str, ...]
    """`http://HOST:PORT` of each TCP socket, with the port that was really taken."""
    socket_path: Path | None
    shared: bool = False
    """Other processes accept from the same sockets."""

    def close(self) -> None:
        """Stop listening and remove the Unix socket's file."""
        for sock in self.sockets:
            sock.close()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop, the standard one where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def bind(config: ApiConfig, socket_path: Path | None) -> Listeners:
    """Return sockets for `config.listen` and the Unix socket (None: without one).

    Raises BadConfig for an address that may not be, or a socket path over SOCKET_PATH_MAX bytes;
    CannotListen for one that is taken.
    """
    addresses = [_checked_address(text, config) for text in config.listen]
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            sock = _bind_tcp(host, port, is_only=len(addresses) == 1)
            if sock is not None:
                sockets.append(sock)
        urls = tuple(_url(sock) for sock in sockets)
        if socket_path is not None:
            sockets.append(_bind_unix(socket_path))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return Listeners(tuple(sockets), urls, socket_path)


async def serve(
    app: FastAPI,
    listeners: Listeners,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
    linger_s: Callable[[], float] = lambda: 0.0,
) -> None:
    """Answer requests until `stop` is set, then let those under way end within SHUTDOWN_S.

    ready: called once when requests are answered. linger_s: asked at `stop`; for so long requests
    on open connections are still answered, each as its connection's last, while somebody else
    accepts new ones. Signals are the caller's.
    """
    server = _Server(_uvicorn_config(app), ready, listeners if listeners.shared else None)
    _quiet_uvicorn()
    ours = [] if listeners.shared else list(listeners.sockets)
    task = asyncio.ensure_future(server.serve(sockets=ours))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        app.state.closing.set()
        if not task.done():
            await server.linger(linger_s())
        server.should_exit = True
        try:
            await asyncio.wait_for(task, timeout=limits.SHUTDOWN_S + 5)
        finally:
            listeners.close()


class _Config(uvicorn.Config):
    lingering = False
    """Whether each answer is the last of its connection."""


class _TakingTurns:
    """Accepts from a socket that other processes accept from as well, two connections a turn.

    The event loop's own way takes all that wait, so that one process gets a whole burst. A
    millisecond between turns is enough for the others to wake up.
    """

    def __init__(self, sock: socket.socket, new_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._sock, self._new_protocol = sock, new_protocol
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._begin()

    def close(self) -> None:
        """Accept nothing more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)

    async def wait_closed(self) -> None:
        """Return at once: what was accepted is the server's to wait for."""

    def _begin(self) -> None:
        self._left, self._pause = _TURN_COUNT, None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        self._left -= 1
        if not self._left:
            self._loop.remove_reader(self._sock)
            self._pause = self._loop.call_later(_TURN_PAUSE_S, self._begin)
        try:
            connection, _ = self._sock.accept()
        except OSError:  # another process was faster, or the client has left
            return
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        task: asyncio.Task[object] = asyncio.ensure_future(
            self._loop.connect_accepted_socket(self._new_protocol, connection)
        )
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("connection_not_taken", reason=type(task.exception()).__name__)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None] | None,
        shared: Listeners | None,
    ) -> None:
        super().__init__(config)
        self._ready, self._shared = ready, shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting, and say so."""
        await super().startup(sockets)
        if self._shared is not None:
            for sock in self._shared.sockets:
                accepting = cast(asyncio.Server, _TakingTurns(sock, self._new_protocol))
                self.servers.append(accepting)
        if self._ready is not None:
            self._ready()

    def _new_protocol(self) -> asyncio.Protocol:
        return BoundedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def linger(self, wait_s: float) -> None:
        """Accept nothing more, and let clients go with their next answer, for a while."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        if wait_s:
            for accepting in self.servers:
                accepting.close()
            cast(_Config, self.config).lingering = True
            for connection in list(self.server_state.connections):
                cast(BoundedProtocol, connection).say_last()
        while loop.time() < until_s:
            await asyncio.sleep(_LINGER_STEP_S)
            if not self.server_state.connections:
                break

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the caller."""
        yield


def _uvicorn_config(app: FastAPI) -> _Config:
    return _Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(limits.SHUTDOWN_S),
    )


def _quiet_uvicorn() -> None:
    """Keep uvicorn's errors, without those that are our own way of ending a download."""
    logger = logging.getLogger("uvicorn.error")
    logger.setLevel(logging.ERROR)
    if _is_worth_a_line not in logger.filters:
        logger.addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    cause = record.exc_info[1] if record.exc_info else None
    return record.msg != _CLOSED_EARLY and not isinstance(cause, asyncio.CancelledError)


# ---------------------------------------------------------------------------- sockets


def _checked_address(text: str, config: ApiConfig) -> tuple[str, int]:
    match = _ADDRESS.match(text)
    host = match.group(1).strip("[]").replace("localhost", "127.0.0.1") if match else ""
    port = int(match.group(2)) if match else 0
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or port > 65_535:
        raise BadConfig("api.listen", f"{text!r} is no address like 127.0.0.1:7070 or [::1]:7070")
    if not address.is_loopback and config.auth != "required":
        raise BadConfig(
            "api.listen",
            f'{text} is reachable from other machines and needs api.auth = "required"',
        )
    return host, port


def _bind_tcp(host: str, port: int, *, is_only: bool) -> socket.socket | None:
    """Return a listening socket; None where the default ::1 does not exist on this machine."""
    is_v6 = ":" in host
    try:
        sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        _allow_absent(host, port, error, is_only=is_only)
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        _allow_absent(host, port, error, is_only=is_only)
        return None
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


def _allow_absent(host: str, port: int, error: OSError, *, is_only: bool) -> None:
    if host == "::1" and error.errno in _NO_FAMILY and not is_only:
        log.info("ipv6_loopback_absent")
        return
    raise CannotListen(
        f"cannot listen on {host} port {port}: {error.strerror}",
        hint="stop the other program or choose another address with --api",
    ) from None


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > limits.SOCKET_PATH_MAX:
        raise BadConfig("api.socket", f"a path of at most {limits.SOCKET_PATH_MAX} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(old_mask)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody answers. Raises CannotListen when somebody does."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotListen(f"{path} exists and is no socket", hint="move it away")
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise CannotListen(f"cannot tell who listens on {path}: {error.strerror}") from None
    raise CannotListen(f"another program listens on {path}", hint="stop it first")
