"""`molia testnet`: a network of many nodes on this machine, until Ctrl-C.

Each node is a process of its own with a home of its own; with `--in-process` all share this one.
What both ways have in common is here: where the homes are, what the nodes are told, when they count
as joined, and how they are shown.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from molia.base.limits import MIB, TESTNET_NODES_MAX
from molia.cli.output import Output, printable
from molia.cli.verb import Session, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from molia.base.config import Config

FIRST_COUNT: Final = 3
"""Nodes that the others are given to begin with."""
CONTACTS_WANTED: Final = 8
"""Contacts with which a node of a large network counts as joined."""
JOIN_WAIT_S: Final = 120.0
NETWORK: Final = "testnet"
_QUOTA_BYTES: Final = 256 * MIB
_OFFER_BYTES: Final = 128 * MIB
_THREADS: Final = 2


class Member(NamedTuple):
    """A node of the network that answers."""

    api: str
    address: str
    """`molia://` address."""
    home: str
    pid: int


@click.command(cls=Verb, help="Run a network of many nodes on this machine, until Ctrl-C.")
@click.option(
    "--nodes", type=click.IntRange(1, TESTNET_NODES_MAX), default=20, help="How many. [20]"
)
@click.option("--in-process", is_flag=True, help="All in this process, not one for each.")
@click.option(
    "--base",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory in which the homes are made, and removed. [the system's for such things]",
)
@click.pass_obj
def testnet(session: Session, *, nodes: int, in_process: bool, base: Path | None) -> None:
    """Start nodes on loopback, wait until all are joined, show them, stop them at the end."""
    wait_s = session.options.timeout_s or JOIN_WAIT_S
    with _ground(base) as directory:
        if in_process:
            from molia.cli.testnet_inside import run_inside

            run_inside(directory, nodes, session.output, wait_s=wait_s)
        else:
            from molia.cli.testnet_forked import run_forked

            run_forked(directory, nodes, session.output, wait_s=wait_s)


def home_of(directory: Path, index: int) -> Path:
    """Return where the home of a node is; short, so that its socket has room."""
    return directory / f"{index:02d}"


def config_of(home: Path, bootstrap: "Sequence[str]") -> "Config":
    """Return the settings of a node: small, on loopback, at ports that are free.

    What the environment says counts for the rest.
    """
    from molia.cli.settings import load

    told: dict[str, object] = {
        "network": NETWORK,
        "workers": 1,
        "threads": _THREADS,
        "api.listen": ("127.0.0.1:0",),
        "udp.listen": ("127.0.0.1:0",),
        "store.shards": 1,
        "store.quota_bytes": _QUOTA_BYTES,
        "store.offer_bytes": _OFFER_BYTES,
        "store.offer_owner_percent": 100,
        "dht.bootstrap": tuple(bootstrap),
        "dht.reachable": "yes",
    }
    flags = {name: ("molia testnet", value) for name, value in told.items()}
    return load(home, flags=flags).config


def member_of(home: Path, peer: str, urls: "Sequence[str]", udp: "Sequence[str]") -> Member:
    """Return how a node of this process is shown that listens there."""
    return Member(urls[0], f"molia://{peer}@{udp[0]}", str(home), os.getpid())


def is_joined(*, joined: bool, contacts: int, node_count: int) -> bool:
    """Return whether a node knows enough of the others to find all of them."""
    return node_count == 1 or (joined and contacts >= min(node_count - 1, CONTACTS_WANTED))


def show(output: Output, members: "Sequence[Member]", *, took_s: float) -> None:
    """Say where the nodes are: a table, a line each, or one object."""
    if output.as_json:
        output.json("testnet", nodes=[member._asdict() for member in members])
    elif output.quiet:
        for member in members:
            output.line(member.address)
    elif output.is_terminal:
        rows = [(m.api, str(m.pid), m.home, m.address) for m in members]
        output.table(["API", "PID", "HOME", "ADDRESS"], rows)
    else:
        for member in members:
            output.line(printable("\t".join(map(str, member))))
    output.note(f"{len(members)} nodes joined in {took_s:.1f} s; Ctrl-C stops them")


@contextmanager
def _ground(base: Path | None) -> Iterator[Path]:
    """Give a directory for the homes, and remove it."""
    directory = Path(tempfile.mkdtemp(prefix="molia-", dir=base))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
