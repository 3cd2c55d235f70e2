"""A real server over real sockets, in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from molia.api.app import create_app
from molia.api.listeners import Listeners, bind
from molia.api.server import new_event_loop, serve
from molia.base.config import ApiConfig
from tests.api.asgi import TOKEN
from tests.api.fake_node import FakeNode

T = TypeVar("T")
WAIT_S = 60.0


class LiveServer:
    """Where a running server listens, and the node behind it."""

    def __init__(self, node: FakeNode, listeners: Listeners) -> None:
        self.node, self.listeners = node, listeners
        self.url = listeners.urls[0]
        self.port = urlsplit(self.url).port or 0
        self.socket_path = listeners.socket_path
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop
        self.stop: asyncio.Event

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run something in the server's thread."""

        async def run() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WAIT_S)


@contextmanager
def running(home: Path, config: ApiConfig | None = None, **more: Any) -> Iterator[LiveServer]:
    """Give a server that answers, and stop it."""
    config = config or ApiConfig(listen=("127.0.0.1:0",))
    live = LiveServer(FakeNode(), bind(config, home / "api.sock"))

    async def main() -> None:
        live.loop, live.stop = asyncio.get_running_loop(), asyncio.Event()
        app = create_app(live.node, config, token=TOKEN, version="1")
        await serve(app, live.listeners, stop=live.stop, ready=live.ready.set)

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert live.ready.wait(WAIT_S), "the server did not start"
    try:
        yield live
    finally:
        live.loop.call_soon_threadsafe(live.stop.set)
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the server did not stop"
