"""`molia run`: the composition root, which joins the node, its API and the server.

The daemon's packages are imported inside the functions: the help of the other verbs, and the
completion of their names, look at this module too.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from molia import __version__
from molia.base.config import Config
from molia.base.hashing import blake3_digest
from molia.base.limits import SOCKET_PATH_MAX
from molia.cli.environment import environment, home_path
from molia.cli.output import Output, printable, say
from molia.cli.settings import load, toml_text
from molia.cli.verb import Session, Verb

if TYPE_CHECKING:
    from molia.api.server import Listeners

SOCKET_NAME: Final = "api.sock"


@click.command(cls=Verb, help="Run the node; what is missing of its home is made.")
@click.option("--api", metavar="ADDR", multiple=True, help="Address of the API. [127.0.0.1:7070]")
@click.option("--workers", type=int, help="Processes of the node. [1]")
@click.option("--network", help="Name of the network. [molia]")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, as the node always does.")
@click.pass_obj
def run(
    session: Session,
    *,
    api: tuple[str, ...],
    workers: int | None,
    network: str | None,
    foreground: bool,  # noqa: ARG001 - service files say it; there is no other way to run
) -> None:
    """Run the node until SIGTERM or SIGINT, then drain and end with 0."""
    flags: dict[str, tuple[str, object]] = {
        "api.listen": ("--api", api or None),
        "workers": ("--workers", workers),
        "network": ("--network", network),
    }
    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    config = load(home, flags=flags).config
    serve_node(home, config, session.output)


def serve_node(home: Path, config: Config, output: Output) -> None:
    """Make what is missing of the home, then run the node in it until a signal ends it.

    Raises BadConfig, HomeLocked, HomeUnsafe, CannotListen and whatever an unsound store raises.
    """
    from molia.api.server import new_event_loop
    from molia.cli.logs import set_up_logging
    from molia.node.home import init_home
    from molia.node.system import calm_collector

    init_home(home, config, toml_text())
    set_up_logging(config.log)
    calm_collector()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(home, config, output))


async def _serve(home: Path, config: Config, output: Output) -> None:
    from molia.api.app import create_app
    from molia.api.server import bind, serve
    from molia.node.app import open_node
    from molia.node.home import remove_node_file, write_node_file
    from molia.node.identity import read_token

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_node(home, config) as node:
        listeners = bind(config.api, socket_path(home, config))
        node.api_urls = tuple(listeners.urls)
        app = create_app(node, config.api, token=read_token(home), version=__version__)
        peer = (await node.node()).peer

        def ready() -> None:
            path = str(listeners.socket_path or "")
            write_node_file(home, socket=path, urls=list(listeners.urls), peer=peer)
            _announce(output, peer, listeners)

        try:
            await serve(app, listeners, stop=stop, ready=ready)
        finally:
            remove_node_file(home)


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


def _announce(output: Output, peer: str, listeners: "Listeners") -> None:
    unix = f"unix:{listeners.socket_path}" if listeners.socket_path else ""
    addresses = [*listeners.urls, *([unix] if unix else [])]
    if output.as_json:
        output.json("ready", peer=peer, urls=list(listeners.urls), socket=unix)
    elif not output.quiet:
        output.line(f"peer  {peer}")
        for address in addresses:
            output.line(f"api   {address}")
    sys.stdout.flush()
