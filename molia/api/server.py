"""The server: what the node's composition root needs to make the API answer on its sockets."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator
from typing import Final, cast

import structlog
import uvicorn
from fastapi import FastAPI

from molia.api.listeners import BACKLOG, Listeners
from molia.api.protocol import BoundedProtocol
from molia.base import limits

log = structlog.get_logger(__name__)

_LINGER_STEP_S: Final = 0.05
_TURN_COUNT: Final = 2
_TURN_PAUSE_S: Final = 0.001
_CLOSED_EARLY: Final = "ASGI callable returned without completing response."


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop, the standard one where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


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
        backlog=BACKLOG,
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
