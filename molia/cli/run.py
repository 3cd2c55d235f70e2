"""`molia run`: the composition root, which joins the node, its API and the server.

The daemon's packages are imported inside the functions: the help of the other verbs, and the
completion of their names, look at this module too.
"""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from molia import __version__
from molia.base.config import Config
from molia.base.hashing import blake3_digest
from molia.base.limits import SOCKET_PATH_MAX, WORKERS_MAX
from molia.cli.environment import environment, home_path
from molia.cli.output import Output, printable, say
from molia.cli.settings import load, toml_text
from molia.cli.verb import Session, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from molia.api.listeners import Listeners
    from molia.node.local import LocalNode

    OnReady = Callable[[LocalNode, Listeners, tuple[str, ...]], None]
    """Told the node, where its API listens, and its UDP addresses."""

SOCKET_NAME: Final = "api.sock"


@click.command(cls=Verb, help="Run the node; what is missing of its home is made.")
@click.option("--api", metavar="ADDR", multiple=True, help="Address of the API. [127.0.0.1:7070]")
@click.option("--listen", metavar="UDP", multiple=True, help="UDP address. [127.0.0.1:7071]")
@click.option(
    "--bootstrap", metavar="ADDR", multiple=True, help="A node to begin with; repeatable."
)
@click.option("--workers", type=int, help="Processes of the node. [0: the physical cores]")
@click.option("--network", help="Name of the network. [molia]")
@click.option("--offer", metavar="SIZE", help="Space for shares of other nodes: 50GiB. [0]")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, as the node always does.")
@click.pass_obj
def run(
    session: Session,
    *,
    api: tuple[str, ...],
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    workers: int | None,
    network: str | None,
    offer: str | None,
    foreground: bool,  # noqa: ARG001 - service files say it; there is no other way to run
) -> None:
    """Run the node until SIGTERM or SIGINT, then drain and end with 0."""
    flags: dict[str, tuple[str, object]] = {
        "api.listen": ("--api", api or None),
        "udp.listen": ("--listen", listen or None),
        "dht.bootstrap": ("--bootstrap", bootstrap or None),
        "workers": ("--workers", workers),
        "network": ("--network", network),
        "store.offer_bytes": ("--offer", offer),
    }
    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    config = load(home, flags=flags).config
    serve_node(home, config, session.output)


def serve_node(home: Path, config: Config, output: Output) -> None:
    """Make what is missing of the home, then run the node in it until a signal ends it.

    Raises BadConfig, HomeLocked, HomeUnsafe, CannotListen and whatever an unsound store raises.
    """
    from molia.cli.logs import set_up_logging
    from molia.node.home import init_home
    from molia.node.system import calm_collector, physical_cores

    init_home(home, config, toml_text())
    set_up_logging(config.log)
    calm_collector()
    count = config.workers or min(physical_cores(), WORKERS_MAX)
    if count > 1:
        # uvloop cannot give a child a process group of its own, and the parent needs no speed
        asyncio.run(_supervise(home, config, output, count))
        return
    from molia.api.server import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(home, config, output))


async def serve_alone(
    home: Path, config: Config, *, stop: asyncio.Event, on_ready: "OnReady"
) -> None:
    """Run a node of one process in a home that is there, until `stop` is set.

    on_ready: called once, when the node answers. Raises as `serve_node` does.
    """
    from molia.api.app import create_app
    from molia.api.listeners import bind
    from molia.api.server import serve
    from molia.node.app import on_network, open_node
    from molia.node.home import remove_node_file
    from molia.node.identity import read_token
    from molia.node.steering import open_udp

    async with open_node(home, config) as node:
        with closing(open_udp(config.udp.listen, 1)) as udp:
            listeners = bind(config.api, socket_path(home, config))
            node.api_urls = listeners.urls
            app = create_app(node, config.api, token=read_token(home), version=__version__)
            async with on_network(node, home, udp.by_worker[0]):
                try:
                    await serve(
                        app, listeners, stop=stop,
                        ready=lambda: on_ready(node, listeners, udp.addresses),
                    )  # fmt: skip
                finally:
                    remove_node_file(home)


async def _serve(home: Path, config: Config, output: Output) -> None:
    """Run a node of one process until a signal ends it."""

    def on_ready(_: object, listeners: "Listeners", udp: tuple[str, ...]) -> None:
        announce(home, output, listeners, udp)

    await serve_alone(home, config, stop=stop_signals(), on_ready=on_ready)


async def _supervise(home: Path, config: Config, output: Output, count: int) -> None:
    """Run a node of several workers: this process is their parent and answers nothing itself."""
    from molia.api.listeners import bind
    from molia.cli.worker import plan_of, worker_command
    from molia.node.bus import bus_paths
    from molia.node.home import home_lock, remove_node_file, store_path
    from molia.node.steering import open_udp
    from molia.node.workers import Handed, Supervisor, bus_directory, forget_past, listen_on_bus

    stop = stop_signals()
    with ExitStack() as held:
        lock = held.enter_context(home_lock(home))
        forget_past(store_path(home, config))
        udp = held.enter_context(closing(open_udp(config.udp.listen, count)))
        listeners = held.enter_context(closing(bind(config.api, socket_path(home, config))))
        paths = bus_paths(held.enter_context(bus_directory(home)), count)
        bus = listen_on_bus(paths)
        for sock in bus:
            held.callback(sock.close)
        handed = Handed(
            command=worker_command(),
            plan=plan_of(home, config, listeners.urls, bus_paths=paths),
            api=listeners.sockets, udp=udp, bus=bus, lock=lock,
        )  # fmt: skip
        supervisor = Supervisor(handed, count)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, supervisor.replace_all)
        held.callback(remove_node_file, home)

        def on_ready() -> None:
            announce(home, output, listeners, udp.addresses)

        await supervisor.run(stop=stop, ready=on_ready)


def stop_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def socket_path(home: Path, config: Config) -> Path | None:
    """Return where the API's Unix socket goes; None where no path is short enough.

    The kernel takes about 100 bytes. A longer path falls back to the user's runtime directory.
    """
    path = home / (config.api.socket or SOCKET_NAME)
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    runtime = environment().get("XDG_RUNTIME_DIR", "")
    short = blake3_digest(os.fsencode(path)).hex()[:16]
    fallback = Path(runtime) / f"molia-{short}" / SOCKET_NAME
    if not runtime.startswith("/") or len(os.fsencode(fallback)) > SOCKET_PATH_MAX:
        say(f"no Unix socket: {printable(str(path))} is too long for one")
        return None
    fallback.parent.mkdir(mode=0o700, exist_ok=True)
    return fallback


def announce(home: Path, output: Output, listeners: "Listeners", udp: tuple[str, ...]) -> str:
    """Tell the CLI and whoever watches that the node answers; return its peer key."""
    from molia.node.home import write_node_file
    from molia.node.identity import read_identity

    peer, path = str(read_identity(home).peer_key), str(listeners.socket_path or "")
    write_node_file(home, socket=path, urls=list(listeners.urls), peer=peer)
    unix = f"unix:{path}" if path else ""
    addresses = [*listeners.urls, *([unix] if unix else [])]
    if output.as_json:
        output.json("ready", peer=peer, urls=list(listeners.urls), socket=unix, udp=list(udp))
    elif not output.quiet:
        output.line(f"peer  {peer}")
        for address in addresses:
            output.line(f"api   {address}")
        for place in udp:
            output.line(f"node  molia://{peer}@{place}")
    sys.stdout.flush()
    return peer
