"""One worker of a node: the process that the parent starts and tells what to do.

They talk over a socket, a line at a time; see `node/workers.py`. When the parent is gone a worker
ends at once: nothing acknowledged is lost by that.
"""

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import anyio

from molia import __version__
from molia.base.config import Config
from molia.base.errors import MoliaError, outcome_of
from molia.cli import fields

ORPHANED: Final = 70
GAVE_UP: Final = 75
"""Exit code of a worker that wants to be started anew. Source: sysexits.h, EX_TEMPFAIL."""
CLOSE_WAIT_S: Final = 120.0
_START: Final = (
    "import sys; root = {root!r}; root in sys.path or sys.path.insert(0, root); "
    "from molia.cli.worker import main; sys.exit(main())"
)
_PLAN_MAX: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1


def worker_command() -> tuple[str, ...]:
    """Return how a worker is started, of the same package as this process."""
    root = str(Path(__file__).resolve().parents[2])
    # -P: the current directory must not stand in for any module
    return sys.executable, "-P", "-c", _START.format(root=root)


def plan_of(
    home: Path, config: Config, urls: tuple[str, ...], *, bus_paths: list[str]
) -> dict[str, Any]:
    """Return what all workers are told."""
    from molia.node.system import SystemClock

    return {
        "home": str(home),
        "settings": fields.flatten(config),
        "urls": urls,
        "count": len(bus_paths),
        "node_unix_ms": SystemClock().now().unix_ms,
        "bus_paths": bus_paths,
    }


class Orders:
    """What the parent says, and what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.go, self.drain, self.close = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.linger_s = 0.0

    async def listen(self) -> None:
        """Take orders; without a parent there is nobody to work for."""
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                match word:
                    case "go":
                        self.go.set()
                    case "drain":
                        self.linger_s = float(rest)
                        self.drain.set()
                    case "close":
                        self.end()
        os._exit(ORPHANED)

    def end(self) -> None:
        """Drain and close, in one."""
        for event in (self.close, self.drain, self.go):
            event.set()

    def say(self, line: str) -> None:
        """Tell the parent."""
        self._writer.write(line.encode() + b"\n")


def main() -> int:
    """Be a worker; return its exit code."""
    control = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent()
    plan = json.loads(_read_line(control))
    from molia.api.server import new_event_loop
    from molia.cli.logs import set_up_logging
    from molia.node.system import calm_collector

    for name in ("molia.api.app", "molia.node.app"):  # before the parent lets us go
        importlib.import_module(name)
    table = fields.all_fields()
    settings = {name: fields.convert(table[name], v) for name, v in plan["settings"].items()}
    config = fields.build_config(settings)
    set_up_logging(config.log, worker=plan["index"])
    calm_collector()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(plan, config, control))


async def _run(plan: dict[str, Any], config: Config, control: socket.socket) -> int:
    from molia.node.bus import encode_error

    control.setblocking(False)  # noqa: FBT003 - the standard library's signature
    orders = Orders(*await asyncio.open_connection(sock=control))
    listening = asyncio.ensure_future(orders.listen())
    loop = asyncio.get_running_loop()
    # a service manager tells all processes at once: the shards stay open until all have drained
    loop.add_signal_handler(signal.SIGTERM, orders.drain.set)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)  # the parent's to hear
    orders.say("loaded")
    await orders.go.wait()
    try:
        return 0 if orders.close.is_set() else await _serve(plan, config, orders)
    except MoliaError as error:
        orders.say(f"failed {json.dumps(encode_error(error))}")
        return outcome_of(error).exit_code
    finally:
        listening.cancel()


async def _serve(plan: dict[str, Any], config: Config, orders: Orders) -> int:
    """Answer requests until told to drain, and the other workers until told to close."""
    from molia.api.app import create_app
    from molia.api.listeners import Listeners
    from molia.api.server import serve
    from molia.node.app import on_network, open_node
    from molia.node.identity import read_token
    from molia.node.team import Seat

    home, fds = Path(plan["home"]), plan["fds"]
    seat = Seat(
        index=plan["index"], count=plan["count"], node_unix_ms=plan["node_unix_ms"],
        start=plan["start"], bus_paths=tuple(plan["bus_paths"]),
    )  # fmt: skip
    (bus,) = _sockets(fds["bus"])
    async with open_node(home, config, seat=seat, bus=bus) as node:
        listeners = Listeners(_sockets(fds["api"]), tuple(plan["urls"]), None, shared=True)
        node.api_urls = listeners.urls
        app = create_app(node, config.api, token=read_token(home), version=__version__)
        giving_up = asyncio.ensure_future(_end_when(node.gave_up, orders))
        async with on_network(node, home, _sockets(fds["udp"])):
            try:
                await serve(
                    app, listeners, stop=orders.drain, ready=lambda: orders.say("ready"),
                    linger_s=lambda: orders.linger_s,
                )  # fmt: skip
            finally:
                giving_up.cancel()
        orders.say("drained")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await orders.close.wait()
        return GAVE_UP if node.gave_up.is_set() else 0


async def _end_when(gave_up: anyio.Event, orders: Orders) -> None:
    await gave_up.wait()
    orders.end()


def _sockets(descriptors: list[int]) -> tuple[socket.socket, ...]:
    made = tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)
    for sock in made:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return made


def _read_line(control: socket.socket) -> bytes:
    """Return the first line; without one there is no parent."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _PLAN_MAX:
        data = control.recv(65_536)
        if not data:
            os._exit(ORPHANED)
        line += data
    return bytes(line)


def end_with_parent() -> None:
    """Let the kernel end this process with its parent, should it hang just then."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
