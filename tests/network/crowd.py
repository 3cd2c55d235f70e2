"""A network of node processes on this machine: started, killed, asked, and brought back.

Every node is `molia run` on a home of its own, at the same UDP port in all its lives.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.node.process import ROOT, Answer, Node, until
from tests.node.test_dht import address, knows, peer, stay

JOIN_S: Final = 120.0
PLACE_S: Final = 120.0
READ_S: Final = 120.0
"""A holder that finds no processor for 8 s is given up by a read: then it is read again."""
AT_ONCE: Final = 6
CONTACTS: Final = 12
"""Contacts with which a node finds the rest by itself."""
SETTINGS: Final = {
    "MOLIA_NETWORK": "crowd",
    "MOLIA_THREADS": "2",
    "MOLIA_STORE__SHARDS": "1",
    "MOLIA_STORE__QUOTA_BYTES": "1GiB",
    "MOLIA_STORE__OFFER_BYTES": "256MiB",
    "MOLIA_STORE__OFFER_OWNER_PERCENT": "100",
    "MOLIA_STORE__CACHE_PERCENT": "0",
    "MOLIA_LEASES__MIN_AGE_S": "0",
    "MOLIA_LEASES__SWEEP_S": "2",
    "MOLIA_DHT__REACHABLE": "yes",
}  # fmt: skip
QUICK_REPAIR: Final = {
    "MOLIA_REPAIR__LOOK_S": "1", "MOLIA_REPAIR__GRACE_13_S": "2", "MOLIA_REPAIR__GRACE_12_S": "2",
    "MOLIA_REPAIR__GRACE_URGENT_S": "1", "MOLIA_REPAIR__TAKEOVER_S": "6",
    "MOLIA_REPAIR__BUDGET_BYTES": "1000000000",
}  # fmt: skip
T = TypeVar("T")


class Nursery:
    """The process that nodes are forked from."""

    def __init__(self) -> None:
        bare = {n: v for n, v in os.environ.items() if not n.startswith(("MOLIA_", "XDG_"))}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.network.nursery"], cwd=ROOT, env=bare, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **order: object) -> int | None:
        """Return what is answered to an order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer: int | None = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it, and with it every node that still runs."""
        self._process.kill()
        self._process.communicate()


class Forked:
    """A process of the nursery; as much of `subprocess.Popen` as a `Node` asks for."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(ended=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Return how it ended."""
        until(lambda: self.poll() is not None, "it does not end", within_s=timeout)
        assert self.returncode is not None
        return self.returncode


@dataclass
class Member(Node):
    """A node of a network."""

    nursery: Nursery = field(kw_only=True)
    key: str = ""
    """Its peer key, once it has run."""

    def launch(self) -> None:
        """Start the process."""
        assert self.process is None, "one process at a time"
        (self.home / "node.json").unlink(missing_ok=True)
        pid = self.nursery.ask(
            environ=self.environment, log=str(self.log),
            arguments=["run", "--api", "127.0.0.1:0", "--quiet"],
        )  # fmt: skip
        assert pid is not None
        self.process = Forked(self.nursery, pid)  # type: ignore[assignment]

    @property
    def is_up(self) -> bool:
        """Whether it was started and not ended."""
        return self.process is not None

    def note(self) -> None:
        """Remember who and where it is."""
        self.key = peer(self)
        stay(self)

    def health(self, cid: str) -> dict[str, Any]:
        """Return what it says of a blob."""
        shown: dict[str, Any] = self.client()("GET", f"/blob/{cid}/health").json()
        return shown

    def survives(self, cid: str) -> int:
        """Return how many losses it says that a blob survives."""
        return int(self.health(cid)["survives"])

    def shares(self) -> int:
        """Return how many shares it keeps for others."""
        return int(self.client()("GET", "/node").json()["holding"]["shares"])


class Crowd:
    """The nodes of one network."""

    def __init__(self, nodes: Sequence[Member]) -> None:
        self.nodes = list(nodes)

    def up(self, *but: Member) -> list[Member]:
        """Return the nodes that run, but for some."""
        return [node for node in self.nodes if node.is_up and node not in but]

    def start(self) -> None:
        """Start all nodes; return once they know each other."""
        firsts: list[str] = []
        for node in self.nodes:
            node.settings["MOLIA_DHT__BOOTSTRAP"] = ",".join(firsts)
            node.launch()
            if len(firsts) < 3:
                node.wait_ready()
                firsts.append(address(node))
        for node in self.nodes:
            node.wait_ready()
            node.note()
        self.wait_joined(self.nodes)

    def wait_joined(self, nodes: Iterable[Member]) -> None:
        """Return when nodes know enough of the others."""
        count = min(len(self.up()) - 1, CONTACTS)
        for node in nodes:
            until(partial(knows, node, count), f"{node.home} does not join", within_s=JOIN_S)

    def holders(self, cid: str, asker: Member) -> list[Member]:
        """Return the nodes that have shares of a blob, by what one of them says."""
        shares = asker.health(cid)["shares"]
        keys = {key for share in shares for key in share["holders"]}
        return [node for node in self.nodes if node.key in keys]

    def kill(self, nodes: Iterable[Member]) -> None:
        """End nodes as a kill -9 does."""
        for node in nodes:
            node.kill()

    def revive(self) -> None:
        """Start what was killed; return once it knows the others again."""
        gone = [node for node in self.nodes if not node.is_up]
        for node in gone:
            node.launch()
        for node in gone:
            node.wait_ready()
        self.wait_joined(gone)

    def each(self, nodes: Sequence[Member], act: Callable[[Member], T]) -> list[T]:
        """Act on some nodes, a few at a time; return what each gave."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(act, nodes))


@contextmanager
def crowd_of(directory: Path, count: int, settings: Mapping[str, str] = {}) -> Iterator[Crowd]:
    """Give a network of so many nodes."""
    nursery = Nursery()
    nodes = [
        Member(directory / f"{number:02d}", {**SETTINGS, **settings}, nursery=nursery)
        for number in range(count)
    ]
    try:
        crowd = Crowd(nodes)
        crowd.start()
        yield crowd
        for node in nodes:
            node.close()
    finally:
        nursery.close()


def put_well(node: Member, body: bytes, query: str = "") -> str:
    """Put a blob so that it survives four losses; return its CID."""

    def put() -> str:
        told = node.client()("PUT", f"/blob{query}", body, accept="application/json").json()
        return str(told["cid"]) if told["survives"] >= 4 else ""

    # where processors are few, a holder may be too late to be chosen: then there are others
    return until(put, "it does not survive four losses", within_s=PLACE_S)


def got(cid: str, node: Member) -> bytes:
    """Return what a node gives for a CID; one that holders were too late for is asked again."""

    def look() -> Answer | None:
        answer = node.client()("GET", f"/blob/{cid}")
        assert answer.status in (200, 503, 504), answer
        return answer if answer.status == 200 and answer.whole else None

    found = until(look, f"{node.home} does not give {cid}", within_s=READ_S)
    assert found is not None
    return found.body
