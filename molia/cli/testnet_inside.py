"""The nodes of a testnet in one process, on one event loop: less real, and lighter."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from molia.base.errors import TimedOut
from molia.cli.output import Output
from molia.cli.testnet import FIRST_COUNT, Member, config_of, home_of, is_joined, member_of, show

if TYPE_CHECKING:
    from molia.api.listeners import Listeners
    from molia.node.local import LocalNode

POLL_S: Final = 0.1
FILES_PER_NODE: Final = 64


def run_inside(directory: Path, count: int, output: Output, *, wait_s: float) -> None:
    """Run `count` nodes in this process until a signal comes.

    Raises whatever a node raises that does not start, TimedOut when one does not join.
    """
    from dataclasses import replace

    from molia.api.server import new_event_loop
    from molia.cli.logs import set_up_logging
    from molia.node.system import calm_collector

    config = config_of(directory, ())
    set_up_logging(replace(config.log, level="error"))  # stderr is the command's own
    calm_collector()
    _allow_files(FILES_PER_NODE * count)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(directory, count, output, wait_s))


async def _run(directory: Path, count: int, output: Output, wait_s: float) -> None:
    from molia.cli.run import stop_signals
    from molia.cli.settings import toml_text
    from molia.node.home import init_home

    began_s, stop, toml = time.monotonic(), stop_signals(), toml_text()
    nodes: list[tuple[Member, LocalNode]] = []
    runs: list[asyncio.Task[None]] = []
    try:
        for index in range(count):
            firsts = [member.address for member, _ in nodes[:FIRST_COUNT]]
            ready = asyncio.Event()
            home = home_of(directory, index)
            init_home(home, config_of(home, firsts), toml)
            run = _run_one(home, firsts, stop, nodes, ready)
            runs.append(asyncio.ensure_future(run))
            if not await _first_of(ready, stop, runs[-1]):
                return
        if await _all_joined(nodes, stop, until_s=began_s + wait_s):
            show(output, [member for member, _ in nodes], took_s=time.monotonic() - began_s)
            sys.stdout.flush()
            await _first_of(stop, stop, *runs)
    finally:
        stop.set()
        ends = await asyncio.gather(*runs, return_exceptions=True)
    for end in ends:
        if end is not None:
            raise end


async def _run_one(
    home: Path,
    firsts: list[str],
    stop: asyncio.Event,
    nodes: list[tuple[Member, "LocalNode"]],
    ready: asyncio.Event,
) -> None:
    """Run one node until `stop` is set; it is in `nodes` when it answers."""
    from molia.cli.run import announce, serve_alone

    silent = Output(as_json=False, quiet=True, progress=False)

    def on_ready(node: "LocalNode", listeners: "Listeners", udp: tuple[str, ...]) -> None:
        peer = announce(home, silent, listeners, udp)
        nodes.append((member_of(home, peer, listeners.urls, udp), node))
        ready.set()

    await serve_alone(home, config_of(home, firsts), stop=stop, on_ready=on_ready)


async def _all_joined(
    nodes: list[tuple[Member, "LocalNode"]], stop: asyncio.Event, *, until_s: float
) -> bool:
    """Return True when each node has joined, False when told to stop before. Raises TimedOut."""
    for member, node in nodes:
        while True:
            dht = (await node.node()).dht
            joined, contacts = (dht.is_joined, dht.contacts) if dht is not None else (False, 0)
            if is_joined(joined=joined, contacts=contacts, node_count=len(nodes)):
                break
            if time.monotonic() > until_s:
                raise TimedOut(
                    f"the node in {member.home} did not join in time",
                    hint="--timeout sets how long to wait",
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
            if stop.is_set():
                return False
    return not stop.is_set()


async def _first_of(ready: asyncio.Event, stop: asyncio.Event, *runs: asyncio.Task[None]) -> bool:
    """Wait for `ready`, `stop` or the end of a node; return whether it was `ready` alone."""
    waits = [asyncio.ensure_future(event.wait()) for event in (ready, stop)]
    try:
        await asyncio.wait([*waits, *runs], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return ready.is_set() and not stop.is_set() and not any(run.done() for run in runs)


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files as far as it goes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256 if hard == resource.RLIM_INFINITY else min(count + 256, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
