"""The nodes of a testnet as processes, forked from one that has everything imported.

A start then costs a fraction of what it costs from nothing, and the modules are in memory once. The
parent has opened no store when it forks: each child opens its own.
"""

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from molia.base.errors import Interrupted, MoliaError, NodeNotRunning, TimedOut, outcome_of
from molia.cli.children import Child, Children
from molia.cli.client import Node
from molia.cli.output import Output, from_os_error, say
from molia.cli.settings import toml_text
from molia.cli.target import Target
from molia.cli.testnet import (
    FIRST_COUNT,
    Member,
    config_of,
    home_of,
    is_joined,
    member_of,
    show,
)

if TYPE_CHECKING:
    from molia.api.listeners import Listeners
    from molia.base.config import Config
    from molia.node.local import LocalNode

LOG_NAME: Final = "node.log"
STARTING_MAX: Final = max(2, os.cpu_count() or 1)
"""Nodes that start at once: more would only wait for each other."""
ASKED_AT_ONCE: Final = 8
POLL_S: Final = 0.2
STOP_S: Final = 20.0
ASK_S: Final = 10.0
_MODULES: Final = ("molia.api.app", "molia.api.server", "molia.node.app", "molia.cli.logs")


def run_forked(directory: Path, count: int, output: Output, *, wait_s: float) -> None:
    """Run `count` nodes until a signal comes.

    Raises MoliaError when one does not start, TimedOut when one does not join, NodeNotRunning when
    none is left.
    """
    began_s = time.monotonic()
    _warm_up()
    try:
        with Children(stop_s=STOP_S) as children:
            crowd = _Crowd(directory, count, children)
            crowd.start(until_s=began_s + wait_s)
            show(output, crowd.members(), took_s=time.monotonic() - began_s)
            sys.stdout.flush()
            _watch(children, output)
    except Interrupted:
        return


def _warm_up() -> None:
    """Do once what every child would do."""
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a collection in a child would copy every page of the modules


def _watch(children: Children, output: Output) -> None:
    """Say once of each node that it has ended."""
    while children.alive:
        for child in children.wait(None):
            if not output.quiet:
                say(f"node {child.index} (pid {child.pid}) has ended, and stays so")
    raise NodeNotRunning("no node of the testnet is left")


class _Crowd:
    """The nodes while they start."""

    def __init__(self, directory: Path, count: int, children: Children) -> None:
        self._directory, self._count, self._children = directory, count, children
        self._members: dict[int, Member] = {}
        self._toml = toml_text()

    def members(self) -> list[Member]:
        """Return the nodes that answer, in the order of their homes."""
        return [self._members[index] for index in sorted(self._members)]

    def start(self, *, until_s: float) -> None:
        """Start all nodes, a few at a time, and return when each has joined."""
        waiting = deque(range(self._count))
        while len(self._members) < self._count:
            while waiting and self._may_start(waiting[0]):
                self._fork(waiting.popleft())
            self._wait(until_s, "started")
        apart = deque(self._members)
        while apart:
            for _ in range(min(len(apart), ASKED_AT_ONCE)):
                if not self._is_joined(index := apart.popleft()):
                    apart.append(index)
            if apart:
                self._wait(until_s, "started, but did not all join")

    def _may_start(self, index: int) -> bool:
        """Return whether there is room for one more, and whom it begins with is known."""
        starting_count = len(self._children.alive) - len(self._members)
        firsts = range(min(index, FIRST_COUNT))
        return starting_count < STARTING_MAX and all(first in self._members for first in firsts)

    def _fork(self, index: int) -> None:
        home = home_of(self._directory, index)
        firsts = [self._members[first].address for first in range(min(index, FIRST_COUNT))]
        self._children.fork(index, partial(_be_node, home, config_of(home, firsts), self._toml))

    def _wait(self, until_s: float, what: str) -> None:
        for child in self._children.wait(POLL_S):
            raise MoliaError(f"node {child.index} did not start: {_reason(child)}")
        for index, child in self._children.alive.items():
            if index not in self._members and child.told.endswith(b"\n"):
                told = json.loads(child.told)
                if "api" in told:
                    self._members[index] = Member(**told)
        if time.monotonic() > until_s:
            raise TimedOut(
                f"{len(self._members)} of {self._count} nodes {what} in time",
                hint="--timeout sets how long to wait",
            )

    def _is_joined(self, index: int) -> bool:
        parts = urlsplit(self._members[index].api)
        target = Target("", parts.hostname or "", parts.port or 0)
        try:
            view = Node([target], ASK_S).call("GET", "/node").object()
        except MoliaError:
            return False
        dht = view.get("dht")
        joined, contacts = False, 0
        if isinstance(dht, dict):
            joined, contacts = bool(dht.get("is_joined")), int(dht.get("contacts") or 0)
        return is_joined(joined=joined, contacts=contacts, node_count=self._count)


def _reason(child: Child) -> str:
    """Return why a node ended, if it said so."""
    try:
        return str(json.loads(child.told)["error"])
    except (ValueError, KeyError):
        return "it was ended from outside"


# ---------------------------------------------------------------------------- in the child


def _be_node(home: Path, config: "Config", toml: str, pipe: int) -> int:
    """Run a node, telling the parent where it answers or why it does not; return its exit code."""
    from molia.api.server import new_event_loop
    from molia.cli.logs import set_up_logging
    from molia.node.home import init_home
    from molia.node.system import calm_collector

    try:
        init_home(home, config, toml)
        _redirect(home / LOG_NAME)
        set_up_logging(config.log)
        calm_collector()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(home, config, pipe))
    except (MoliaError, OSError) as error:
        mine = error if isinstance(error, MoliaError) else from_os_error(error)
        _tell(pipe, {"error": mine.message})
        return outcome_of(mine).exit_code
    return 0


async def _serve(home: Path, config: "Config", pipe: int) -> None:
    from molia.cli.run import announce, serve_alone, stop_signals

    silent = Output(as_json=False, quiet=True, progress=False)

    def on_ready(_: "LocalNode", listeners: "Listeners", udp: tuple[str, ...]) -> None:
        peer = announce(home, silent, listeners, udp)
        _tell(pipe, member_of(home, peer, listeners.urls, udp)._asdict())

    await serve_alone(home, config, stop=stop_signals(), on_ready=on_ready)


def _tell(pipe: int, what: dict[str, object]) -> None:
    os.write(pipe, json.dumps(what).encode() + b"\n")


def _redirect(log: Path) -> None:
    """Leave the terminal to the parent."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(nothing)
    os.close(file)
